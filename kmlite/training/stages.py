"""The skeleton of a stage: resolve base and plan (skip, resume, refuse), measure, train, merge and check, measure, record.

stage = stages.open_stage(1, settings)      None where it is done
stage.measure("before", …)  stage.adapt(…)  stage.train(…)  stage.merge(…)  stage.measure("after", …)  stage.finish(…)
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from kmlite import files, paths, results, runs
from kmlite.cli import check_writable, console, split_settings
from kmlite.evaluation import suite
from kmlite.models import folders, memory
from kmlite.training.settings import TrainingSettings

WORSE = 3  # exit status of a stage that ended worse than it began
SIZES = ("heldout", "entries", "questions", "recalled")  # settings that say how much is measured
Own = Callable[..., list[dict]]  # (model, tokenizer) → results


@dataclasses.dataclass
class Stage:
    """A stage under way. `facts` and `training` (one part a training run) go into run.json beside the results."""

    name: str
    settings: TrainingSettings
    base: Path
    folder: Path
    plan: dict
    fitted: memory.Plan
    started: float
    results: list[dict] = dataclasses.field(default_factory=list)
    training: list[dict] = dataclasses.field(default_factory=list)
    facts: dict = dataclasses.field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        return self.folder / paths.CHECKPOINTS

    @property
    def on_card(self) -> TrainingSettings:
        """The settings with the batch and accumulation that fit this machine."""
        return dataclasses.replace(self.settings, batch=self.fitted.batch, accumulation=self.fitted.accumulation)

    def describe(self, what: str, resolved: dict[str, object]) -> None:
        """Print what the stage is about to do, before it spends time on it; `what` names its sequences."""
        from kmlite.models import loading

        settings, plan, gpu = self.settings, self.fitted, loading.on_gpu()
        lines: dict[str, object] = {"base": f"{self.base}{folders.stand_in_note(self.base)}"}
        lines["device"] = f"{'GPU' if gpu else 'CPU'}, {plan.precision} weights"
        if gpu:
            reduced = f"; reduced: {', '.join(plan.reduced)}" if plan.reduced else ""
            doubt = "" if plan.fits else "; more than is free, by this calculation: trying anyway"
            lines["memory"] = f"{plan.total / memory.GIB:.1f} GiB planned{reduced}{doubt}"
        lines["batch"] = f"{plan.batch} × {plan.accumulation} {what} of up to {settings.length} tokens"
        plain = equivalent_rate(settings.learning_rate, settings.rank, settings.alpha)
        rate = f"{settings.learning_rate:g} ({plain:.2g} in plain LoRA with alpha = rank)"
        lines["learning"] = f"LoRA rank {settings.rank}, learning rate {rate}, epochs {settings.epochs:g}"
        for name, value in (lines | resolved).items():
            console.print(f"  {name:<12} {value}")

    def load(self, folder: Path, *, train: bool = False):
        """(model, tokenizer) of a folder in the stage's precision; `train`: to be adapted."""
        from kmlite.models import loading

        recompute = train and loading.recomputes(self.settings.checkpointing)
        return loading.load(folder, self.fitted.precision, self.settings.length, recompute)

    def measure(self, when: str, model, measured_on: suite.Suite, own: Own | None = None) -> list[dict]:
        """The results of `own` and of the suite at a moment, kept so that a run that goes on does not measure it again.

        It does where another call asked for more or fewer texts or questions: two moments must have been measured on the same.
        `model`: (model, tokenizer), or the folder to load where something is left to measure.
        """
        journal = self.checkpoints / "results.json"
        sizes = [getattr(self.settings, name, None) for name in SIZES]
        # by "after", the other processes of a run of several have ended
        with contextlib.nullcontext() if when == "after" else runs.first_alone():
            kept = files.read_record(journal) or {}
            if kept.get(when, {}).get("sizes") != sizes:
                network, tokenizer = self.load(model) if isinstance(model, Path) else model
                found = own(network, tokenizer) if own else []
                found += suite.measure(network, tokenizer, measured_on, self.settings.max_new_tokens)
                kept[when] = {"sizes": sizes, "results": results.stamped(found, self.name, when, precision=self.fitted.precision)}
                files.write_json(journal, kept)
        self.results += kept[when]["results"]
        return kept[when]["results"]

    def adapt(self, model, **embeddings):
        """The model with a LoRA by the settings; `embeddings` as `loading.add_lora` takes them."""
        from kmlite.models import loading

        settings, recompute = self.settings, loading.recomputes(self.settings.checkpointing)
        how: dict = {"r": settings.rank, "alpha": settings.alpha, "dropout": settings.dropout, "seed": settings.seed}
        adapted = loading.add_lora(model, **how, recompute=recompute, **embeddings)
        self.facts["trainable"] = loading.trainable_summary(adapted)
        return adapted

    def adapter(self, loop: int = 0) -> Path:
        """Where the trained adapter lies until it is merged; that of a loop stays."""
        return self.folder / f"loop_{loop}" if loop else self.checkpoints / "adapter"

    def train(self, model, tokenizer, rows, *, loop: int = 0, settings: TrainingSettings | None = None, **how) -> dict:
        """Train an adapted model as `trainer.train` does and keep its adapter; what was measured on the way goes to the results."""
        from kmlite.models import loading
        from kmlite.training import trainer

        folder = self.checkpoints / f"loop_{loop}" if loop else self.checkpoints
        trained = trainer.train(model, tokenizer, rows, folder, settings or self.on_card, trainer.Task(**how))
        for step, found in trained.pop("measured").items():
            self.results += results.stamped(found, self.name, f"step {step}", precision=self.fitted.precision)
        self.training.append(trained)
        if not runs.rank():
            loading.save_adapter(model, self.adapter(loop))
        return trained

    def merge(self, source: Path, adapter: Path | None, texts: list[str]) -> Path:
        """Write the stage's final model, `source` with an adapter merged in (None: as it is), checked on `texts`; its folder."""
        from kmlite.models import merging

        final = self.folder / paths.FINAL
        self.facts["memory"] = memory_record(self.fitted, max((part["peak_bytes"] or 0 for part in self.training), default=0))
        self.facts["merge_difference"] = 0.0
        if adapter:
            self.facts["merge_difference"] = difference = merging.merge(source, adapter, final, texts)
            console.print(f"  merge        the logits differ from the adapter's by {difference:.4f} standard deviations at most")
        else:
            partial = final.with_name(final.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial)
            files.put_in_place(partial, final)
        return final

    def finish(self, trained_on: set[tuple[str, str]]) -> None:
        """Write run.json, show before and after, and say what got worse; `trained_on`: (measure, data) that the stage is there for."""
        worse, others = results.losses(self.results, trained_on)
        facts = {"precision": self.fitted.precision, "stand_in": folders.is_stand_in(self.base), **self.facts}
        found = {"results": self.results, "training": self.training, "worse": worse, "also_worse": others, **facts}
        runs.finish(self.folder, self.plan, self.started, found)
        results.show(self.results, f"{self.name}, before and after")
        for told in others:
            console.print(f"  [bold]also worse: {told}[/]")
        console.print(f"  written to {self.folder / paths.FINAL}, {time.time() - self.started:.0f} s")
        verdict(worse, self.name, self.settings)


def open_stage(
    number: int, settings: TrainingSettings, data: dict[str, list[Path]] | None = None, *, embeddings: str = "none", new_rows: int = 0
) -> Stage | None:
    """The stage ready to begin or to go on, or None where it is done and nothing that decides its result changed.

    `data`: files by name that its result depends on, beside those that every stage is measured on; `embeddings`, `new_rows`: of the
    embedding, to train. A click error where there is no base, no room, or a run of other deciding settings without `restart`.
    """
    name, folder, started = f"stage{number}", settings.out / paths.STAGES[number].folder, time.time()
    if settings.base:
        base = folders.resolve(settings.base)
    else:
        hint = f"Run first: make stage{number - 1} OUT={settings.out}   (or name another model as BASE=…)"
        base = folders.final_folder(settings.out, number - 1, hint)
    check_writable(folder)
    plan = plan_of(name, settings, base, settings.base or f"stage {number - 1}", data or {})
    runs.hold(folder, name)
    if not runs.rank():
        runs.tidy_after_kill(folder)
    if not settings.restart and runs.is_done(folder, plan):
        record = files.read_json(folder / paths.RECORD)
        report_done(folder, plan, record["plan"].get(runs.COSMETIC, {}))
        verdict(record["worse"], name, settings)
        return None
    if settings.report_to != "none" and not importlib.util.find_spec(settings.report_to):
        raise click.ClickException(
            f"{settings.report_to} is not installed. Run: .venv/bin/pip install {settings.report_to}   (or leave --report-to out)"
        )
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))  # the trainer's own place goes with the checkpoints
    if not runs.rank():
        runs.begin(folder, plan, settings.restart)
    runs.wait()
    fitted = fit(settings, base, folder / paths.CHECKPOINTS, embeddings=embeddings, new_rows=new_rows)
    return Stage(name, settings, base, folder, plan, fitted, started)


def report_done(folder: Path, plan: dict, stored: dict) -> None:
    """Say that a stage is done, and which settings differ from the `stored` ones of its run without a bearing on its weights."""
    console.print(f"  done before, nothing changed: {folder / paths.FINAL}   (ARGS=--restart runs it again)")
    ignored = ("accept_regression", "restart", "base", "refined", "out")
    unlike = {key: value for key, value in runs.as_stored(plan)[runs.COSMETIC].items() if key not in ignored}
    for line in runs.differences({key: stored.get(key) for key in unlike}, unlike):
        console.print(f"    {line}: does not change the model, so nothing runs again")


def plan_of(step: str, settings: TrainingSettings, base: Path, base_name: str, data: dict[str, list[Path]]) -> dict:
    """What decides a stage's result: settings, the model it starts from, its data (where it is there) and what it is measured on; and
    beside it the settings that do not."""
    refined, commit = settings.refined, folders.commit_of(base)
    data = {"heldout": [paths.heldout_text(refined)], "dev": [paths.exam_split(refined, "dev")], **data}
    data["dictionary"] = [refined / paths.DICTIONARY]
    there = {name: [path for path in listed if path.exists()] for name, listed in data.items()}
    deciding, cosmetic = split_settings(settings)
    return {
        "step": step,
        "settings": deciding,
        "base": {"name": base_name, "fingerprint": files.model_fingerprint(base), **({"commit": commit} if commit else {})},
        "data": {name: files.fingerprint(*listed) for name, listed in there.items() if listed},
        runs.COSMETIC: cosmetic,
    }


def fit(settings: TrainingSettings, base: Path, checkpoints: Path, *, embeddings: str = "none", new_rows: int = 0) -> memory.Plan:
    """The precision, batch, accumulation and trained rows for this machine, where the disk has room; a run that goes on keeps what it
    began with."""
    import torch

    from kmlite.models import loading

    note, names = checkpoints / "memory.json", [item.name for item in dataclasses.fields(memory.Plan)]
    with runs.first_alone():
        if stored := files.read_record(note, *names):
            return memory.Plan(**{name: stored[name] for name in names})
        shape, folder = memory.shape_of(base), checkpoints.parent
        need = sum(memory.disk(shape, settings.rank, new_rows=new_rows, extends=bool(new_rows)).values())
        free = files.free_bytes(folder)
        if free < need:
            raise click.ClickException(
                f"this stage writes up to {need / 1e9:.1f} GB below {folder}, and {free / 1e9:.1f} GB are free.\n"
                "  Free some space, or name another place: OUT=…"
            )
        rows: dict = {"embeddings": embeddings, "new_rows": new_rows}
        if loading.on_gpu():
            plan = memory.choose(shape, torch.cuda.mem_get_info()[0], settings, **rows)
        else:
            half = loading.cpu_dtype(base, settings.precision.replace("auto", "16bit")) == torch.bfloat16
            plan = memory.choose(shape, math.inf, settings, **rows, gpu=False, half=half)
        files.write_json(note, dataclasses.asdict(plan))
    return plan


def memory_record(plan: memory.Plan, measured: int) -> dict:
    """What was planned, and the bytes that tensors held at the most on the card (0: none was used), for the record and in one line.

    On a CPU the process's own peak stands beside the plan: of a model that was loaded before it too, and of shorter sequences.
    """
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    planned = f"  memory       {plan.total / memory.GIB:.2f} GiB planned"
    if measured:
        measured += round(memory.CONTEXT)
        off = plan.total / measured - 1
        console.print(f"{planned}, {measured / memory.GIB:.2f} GiB measured ({off:+.0%})")
        if abs(off) > memory.TOLERANCE:
            console.print("               more than 15% off is a defect of kmlite/models/memory.py: please report it with the run.json")
    else:
        console.print(f"{planned} for sequences of {plan.length} tokens; this process took {process / memory.GIB:.2f} GiB at its peak")
    own = {"planned_bytes": plan.total, "measured_bytes": measured or None, "process_peak_bytes": process}
    return {**dataclasses.asdict(plan), **own}


def equivalent_rate(rate: float, rank: int, alpha: int) -> float:
    """The rate at which plain LoRA with alpha = rank takes steps as large as this one, which is rank-stabilised.

    Adam's steps are as long as its rate whatever the gradient, and a LoRA changes a weight by scale · B A, the scale alpha / rank in plain
    LoRA and alpha / √rank in rank-stabilised (arXiv 2312.03732). So 2e-5 with rank 64 and alpha 128, scale 16, is 3.2e-4.
    """
    return rate * alpha / math.sqrt(rank)


def verdict(worse: list[str], step: str, settings: TrainingSettings) -> None:
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
