"""What the three stages share around their training: the plan, what is printed first, the verdict at the end."""

import dataclasses
import importlib.util
import os
import resource
import shutil
import sys
from pathlib import Path

import click

from kmlite import files, paths, runs
from kmlite.cli import console
from kmlite.models import folders, memory

TRACKERS = ("none", "trackio", "tensorboard", "wandb")
WORSE = 3  # exit status of a stage that ended worse than it began


def plan_of(step: str, settings, base: Path, base_name: str, data: dict[str, list[Path]]) -> dict:
    """What decides a stage's result: settings, the model it starts from, its data."""
    commit = {"commit": folders.commit_of(base)} if folders.commit_of(base) else {}
    aside = ("base", "refined", "out", "restart", "accept_regression", "report_to")
    return {
        "step": step,
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k not in aside},
        "base": {"name": base_name, "fingerprint": files.model_fingerprint(base), **commit},
        "data": {name: files.fingerprint(*shards) for name, shards in data.items()},
    }


def check_tracker(name: str) -> None:
    if name != "none" and not importlib.util.find_spec(name):
        raise click.ClickException(f"{name} is not installed. Run: .venv/bin/pip install {name}   (or leave --report-to out)")


def skip_or_begin(folder: Path, plan: dict, settings) -> bool:
    """True where the step's record says that it is done and nothing changed; else the run's plan is noted."""
    runs.hold(folder, plan["step"])
    if not runs.rank():
        runs.tidy_after_kill(folder)
    if not settings.restart and runs.is_done(folder, plan):
        console.print(f"  done before, nothing changed: {folder / paths.FINAL}   (ARGS=--restart runs it again)")
        verdict(files.read_json(folder / paths.RECORD)["metrics"]["worse"], plan["step"], settings)
        return True
    if (record := files.read_record(folder / paths.RECORD, "plan")) and record["plan"] == runs.as_stored(plan) and not settings.restart:
        console.print(f"  {folder / paths.FINAL} is not what the run wrote (deleted, damaged or changed since): it is made anew")
    check_tracker(settings.report_to)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))  # the trainer's own place goes with the checkpoints
    if not runs.rank():
        runs.begin(folder, plan, settings.restart)
    runs.wait()
    return False


def fit(settings, base: Path, checkpoints: Path, *, embeddings: str = "none", new_rows: int = 0) -> memory.Plan:
    """The precision, batch, accumulation and trained rows for this machine; a run that goes on keeps what it began with.

    A CPU takes what the recipe says, in 16-bit (computed in float32) where `auto` leaves it open.
    """
    note = checkpoints / "memory.json"
    with runs.first_alone():
        stored = files.read_record(note, *(item.name for item in dataclasses.fields(memory.Plan)))
        if not stored:
            stored = dataclasses.asdict(fresh_fit(settings, base, checkpoints, embeddings, new_rows))
            files.write_json(note, stored)
    return memory.Plan(**{item.name: stored[item.name] for item in dataclasses.fields(memory.Plan)})


def fresh_fit(settings, base: Path, checkpoints: Path, embeddings: str, new_rows: int) -> memory.Plan:
    import torch

    from kmlite.models import loading

    loading.fast_model()  # before transformers, which shape_of asks
    shape = memory.shape_of(base)
    need = sum(memory.disk(shape, settings.rank, new_rows=new_rows, extends=bool(new_rows)).values())
    free = shutil.disk_usage(checkpoints.parent).free
    if free < need:
        raise click.ClickException(
            f"this stage writes up to {need / 1e9:.1f} GB below {checkpoints.parent}, and {free / 1e9:.1f} GB are free.\n"
            "  Free some space, or name another place: OUT=…"
        )
    if loading.on_gpu():
        return memory.choose(shape, torch.cuda.mem_get_info()[0], settings, embeddings=embeddings, new_rows=new_rows)
    precision = "16bit" if settings.precision == "auto" else settings.precision
    mode = "new" if embeddings == "auto" else embeddings
    recompute = loading.recomputes(settings.checkpointing)
    size = {"rank": settings.rank, "batch": settings.batch, "length": settings.length, "dropout": settings.dropout}
    half = loading.cpu_dtype(base, precision) == torch.bfloat16
    how = {"embeddings": mode, "new_rows": new_rows, "recompute": recompute, "gpu": False, "half": half}
    parts = memory.parts(shape, precision=precision, **how, **size)
    return memory.Plan(precision, settings.batch, settings.accumulation, mode, settings.length, parts, [], True)


def fitted_in_words(plan: memory.Plan, settings, what: str) -> dict[str, str]:
    """The lines of `describe` that a plan decides."""
    from kmlite.models import loading

    lines = {"device": f"{'GPU' if loading.on_gpu() else 'CPU'}, {plan.precision} weights"}
    if loading.on_gpu():
        given = f"; gave up: {', '.join(plan.gave_up)}" if plan.gave_up else ""
        doubt = "" if plan.fits else "; by calculation that is more than is free, trying all the same"
        lines["memory"] = f"{plan.total / memory.GIB:.1f} GiB planned{given}{doubt}"
    return {**lines, "batch": f"{plan.batch} × {plan.accumulation} {what} of up to {settings.length} tokens"}


def memory_record(plan: memory.Plan, measured: int | None) -> dict:
    """What was planned, and the bytes that tensors held at the most on the card, for the record and said in one line.

    On a CPU the process's own peak stands beside the plan: of a model that was loaded before it too, and of shorter sequences.
    """
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record = {**dataclasses.asdict(plan), "planned_bytes": plan.total, "measured_bytes": None, "process_peak_bytes": process}
    if measured:
        measured += round(memory.CONTEXT)
        record["measured_bytes"] = measured
        off = plan.total / measured - 1
        console.print(f"  memory       {plan.total / memory.GIB:.2f} GiB planned, {measured / memory.GIB:.2f} measured ({off:+.0%})")
        if abs(off) > memory.TOLERANCE:
            console.print("               more than 15% off is a defect of kmlite/models/memory.py: please report it with the run.json")
    else:
        console.print(
            f"  memory       {plan.total / memory.GIB:.2f} GiB planned for sequences of {plan.length} tokens, "
            f"the process took {process / memory.GIB:.2f}"
        )
    return record


def adapt(loaded, settings, recompute: bool, **embeddings):
    """A loaded model with a LoRA by a recipe's settings; `embeddings` as `loading.add_lora` takes them."""
    from kmlite.models import loading

    return loading.add_lora(
        loaded,
        r=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        rslora=settings.rslora,
        seed=settings.seed,
        recompute=recompute,
        **embeddings,
    )


def describe(resolved: dict[str, object]) -> None:
    """Print what a stage is about to do, before it spends time on it."""
    for name, value in resolved.items():
        console.print(f"  {name:<12} {value}")


def verdict(worse: list[str], step: str, settings) -> None:
    """Say what a stage made worse, and leave with status 3 unless the user accepts it. The model and its record are kept."""
    if not worse:
        return
    console.print(f"  [bold red]warning: {step}-worse[/]")
    for reason in worse:
        console.print(f"    {reason}")
    if settings.accept_regression:
        console.print("    going on, as --accept-regression says")
        return
    console.print("    More text, more steps or a lower rate may help. To go on with it as it is: ARGS=--accept-regression")
    sys.exit(WORSE)
