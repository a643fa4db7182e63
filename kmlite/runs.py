"""The record of a run. run.json is written last, by rename: where it stands, the step is done.

plan.json, written first, holds what the run was asked to do; a second run compares itself with both.
"""

import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from kmlite import paths
from kmlite.files import lock, model_fingerprint, rank, read_record, write_json

VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "unsloth", "unsloth_zoo", "tokenizers")


COSMETIC = "cosmetic"  # part of a plan: settings that have no bearing on the result


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait() -> None:
    """Wait for the other processes of a run of several."""
    if processes() > 1:
        import torch
        from accelerate import PartialState

        cpu = not torch.cuda.is_available() or os.environ.get("UNSLOTH_FORCE_CPU") == "1"
        PartialState(cpu=cpu, timeout=timedelta(hours=12)).wait_for_everyone()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The block runs in process 0, and then in the others, which find what it wrote."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def end_with_parent() -> None:
    """Called in each worker: whoever kills the command alone must not leave its workers behind."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def deciding(plan: dict) -> dict:
    """A plan as JSON gives it back, without the settings that have no bearing on the result."""
    return {key: value for key, value in as_stored(plan).items() if key != COSMETIC}


def is_done(folder: Path, plan: dict) -> bool:
    """Whether `folder` holds the finished result of this plan, with the weights that the run wrote."""
    record = read_record(folder / paths.RECORD, "plan", "results", "worse", "final")
    return bool(record and deciding(record["plan"]) == deciding(plan) and is_untouched(folder, record))


def is_untouched(folder: Path, record: dict) -> bool:
    """Whether a finished model is there as its run left it: weights that were deleted or replaced are no result of the plan."""
    final = folder / paths.FINAL
    return final.is_dir() and record.get("final") == model_fingerprint(final)


held: dict[Path, contextlib.ExitStack] = {}  # folders that this process writes in, until it ends


def hold(folder: Path, step: str) -> None:
    """Keep other runs out of a step's folder until this process ends. Raises click.ClickException where one is at work there."""
    if folder.absolute() not in held:
        stack = contextlib.ExitStack()
        stack.enter_context(lock(folder, step))
        held[folder.absolute()] = stack


def begin(folder: Path, plan: dict, restart: bool) -> None:
    """Note the plan of a run that starts or goes on. A finished result stays until the new one takes its place.

    Raises:
        click.ClickException: without `restart`, an unfinished or finished run of another plan is there, or a finished model that is not
            as its run left it: hours of work are never dropped unasked.
    """
    stored, record = folder / paths.PLAN, read_record(folder / paths.RECORD, "plan")
    unfinished = read_record(stored)
    if not restart:
        if stored.exists() and not isinstance(unfinished, dict):
            raise click.ClickException(
                f"{stored} is damaged, so nobody knows what the unfinished run beside it was asked to do.\n  Start anew: ARGS=--restart"
            )
        if unfinished and deciding(unfinished) == deciding(plan):
            return
        was = unfinished or (record or {}).get("plan")
        if was and deciding(was) != deciding(plan):
            changed = "\n  ".join(differences(deciding(was), deciding(plan)))
            if unfinished:
                raise click.ClickException(
                    f"{folder} holds an unfinished run of other settings or data:\n  {changed}\n"
                    f"  Run it as before to go on, or add ARGS=--restart to drop what it has and start anew."
                )
            raise click.ClickException(
                f"{folder} holds a finished run of other settings or data:\n  {changed}\n"
                f"  Run it as before to keep it, name another OUT=…, or add ARGS=--restart to drop what it has and start anew."
            )
        if (folder / paths.RECORD).exists() and (folder / paths.FINAL).is_dir():
            raise click.ClickException(
                f"{folder / paths.FINAL} is not as its run left it: weights, tokenizer or {paths.RECORD} were changed or are gone.\n"
                f"  Put them back, or add ARGS=--restart to train it again."
            )
    stored.unlink(missing_ok=True)
    for path in [folder / paths.CHECKPOINTS, folder / paths.EXTENDED, *folder.glob("loop_*")]:
        shutil.rmtree(path, ignore_errors=True)
    write_json(stored, plan)


def as_stored(plan: dict) -> dict:
    """The plan as JSON gives it back (tuples become lists, paths become strings)."""
    return json.loads(json.dumps(plan, default=str))


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """`name: old → new` for each value that differs between two nested dicts."""
    lines = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} → {after}")
    return lines


def finish(folder: Path, plan: dict, started: float, found: dict) -> dict:
    """Write run.json, the sign that the step is done, and drop what only an unfinished run needs."""
    final = model_fingerprint(folder / paths.FINAL)
    record = {"plan": plan, **found, "final": final, "seconds": round(time.time() - started, 1), **environment()}
    write_json(folder / paths.RECORD, record)
    tidy(folder)
    return record


def tidy_after_kill(folder: Path) -> None:
    """Finish `finish` where it was killed behind the record: else the plan would say that a finished run is unfinished."""
    record, plan = read_record(folder / paths.RECORD, "plan"), read_record(folder / paths.PLAN)
    if record and isinstance(plan, dict) and deciding(record["plan"]) == deciding(plan) and is_untouched(folder, record):
        tidy(folder)


def tidy(folder: Path) -> None:
    """Drop what only an unfinished run needs; the plan last: while it is there, there may be more to drop."""
    for name in (paths.CHECKPOINTS, paths.EXTENDED, f"{paths.FINAL}.old"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / paths.PLAN).unlink(missing_ok=True)


def environment() -> dict:
    """Versions, commit and hardware of this run."""
    import torch

    found: dict[str, str | None] = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    device, card = f"CPU {platform.machine()}", None
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        card = {"memory": torch.cuda.get_device_properties(0).total_memory, "count": torch.cuda.device_count(), "cuda": torch.version.cuda}
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": found,
        "python": platform.python_version(),
        "commit": git.stdout.strip() or None,
        "device": device,
        "card": card,
        "main_memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "processes": processes(),
        "threads": torch.get_num_threads(),
    }
