"""The record of a run. run.json is written last, by rename: where it stands, the step is done.

plan.json, written first, holds what the run was asked to do; a second run compares itself with both.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from kmlite import paths

VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "unsloth", "unsloth_zoo", "tokenizers")
WHOLE = 64 << 20  # bytes of a file that its fingerprint reads from either end: weights of 8 GB must not take a minute


def rank() -> int:
    """This process's number where several train together (torchrun's), else 0. Only 0 writes and speaks."""
    return int(os.environ.get("RANK", "0"))


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


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all: temporary name, fsync, rename. Of several processes, 0 alone writes."""
    if rank():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_record(path: Path) -> dict | None:
    """A record, or None where there is none or it is damaged: then its step is not done."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return None


def read_lines(path: Path) -> list[dict]:
    """The records of a JSONL file. Split at newlines alone: a model may write U+2028, which str.splitlines takes for one."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_lines(path: Path, records: list[dict]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def put_in_place(partial: Path, final: Path) -> None:
    """Rename a finished folder over an older one, after its files have reached the disk."""
    for path in [*partial.rglob("*"), partial]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.rename(final, old)
    os.rename(partial, final)
    shutil.rmtree(old, ignore_errors=True)


def fingerprint(*files: Path) -> str:
    """16 hex digits over the names and bytes of files; of a file over 128 MiB its size, head and tail count."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with open(path, "rb") as file:
            digest.update(file.read(WHOLE))
            if size > WHOLE:
                file.seek(max(WHOLE, size - WHOLE))
                digest.update(file.read())
    return digest.hexdigest()


def model_fingerprint(folder: Path) -> str:
    """A model folder's fingerprint: configuration, tokenizer and weights."""
    return fingerprint(*sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".jinja")))


def is_done(folder: Path, plan: dict) -> bool:
    """Whether `folder` holds the finished result of exactly this plan."""
    record = folder / paths.RECORD
    return record.exists() and (folder / paths.FINAL).is_dir() and read_json(record)["plan"] == as_stored(plan)


def begin(folder: Path, plan: dict, restart: bool) -> None:
    """Note the plan of a run that starts or goes on. A finished result stays until the new one takes its place.

    Raises:
        click.ClickException: an unfinished run of another plan is there and `restart` was not asked for.
    """
    stored = folder / paths.PLAN
    unfinished = read_record(stored)
    if unfinished == as_stored(plan) and not restart:
        return
    if unfinished and not restart:
        changed = "\n  ".join(differences(unfinished, as_stored(plan)))
        raise click.ClickException(
            f"{folder} holds an unfinished run of other settings or data:\n  {changed}\n"
            f"  Run it as before to go on, or add ARGS=--restart to drop what it has and start anew."
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


def finish(folder: Path, plan: dict, started: float, metrics: dict) -> dict:
    """Write run.json, the sign that the step is done, and drop what only an unfinished run needs."""
    record = {"plan": plan, "metrics": metrics, "seconds": round(time.time() - started, 1), **environment()}
    write_json(folder / paths.RECORD, record)
    tidy(folder)
    return record


def tidy_after_kill(folder: Path) -> None:
    """Finish `finish` where it was killed behind the record: else the plan would say that a finished run is unfinished."""
    record, plan = read_record(folder / paths.RECORD), read_record(folder / paths.PLAN)
    if record and record["plan"] == plan and (folder / paths.FINAL).is_dir():
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
