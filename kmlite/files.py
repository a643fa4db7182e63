"""Files that are there whole or not at all, read back without surprises, and known again by their bytes."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

WHOLE = 64 << 20  # bytes of a file that its fingerprint reads from either end: weights of 8 GB must not take a minute
# and between them this much of every so much: a stage changes neither the embedding at the start of a file nor the tower at its end
SAMPLE, STRIDE = 64 << 10, 4 << 20
LOCK = ".lock"


def rank() -> int:
    """This process's number where several train together (torchrun's), else 0. Only 0 writes and speaks."""
    return int(os.environ.get("RANK", "0"))


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all: temporary name, fsync, rename. Of several processes, 0 alone writes."""
    if rank():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with named(partial), open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Give an error in reading or writing an open file the file's name, which the kernel does not tell."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_record(path: Path, *needs: str) -> Any:
    """A record, or None where there is none, or it is damaged or was edited so that a key that it needs is gone: its step is not done."""
    try:
        record = read_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    if needs and not (isinstance(record, dict) and record.keys() >= set(needs)):
        return None
    return record


def read_lines(path: Path) -> list[dict]:
    """The records of a JSONL file. Split at newlines alone: a model may write U+2028, which str.splitlines takes for one."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_lines(path: Path, records: list[dict]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


@contextlib.contextmanager
def lock(folder: Path, what: str) -> Iterator[None]:
    """Keep other runs out of a folder while the block writes in it. The kernel drops the lock with the process, however that ends.

    Args:
        what: the step that writes, for the sentence that a second run prints: "stage1".

    Raises:
        click.ClickException: another process holds the folder; names its step and process id.
    """
    if rank():
        yield  # of several processes that train together, 0 holds it
        return
    folder.mkdir(parents=True, exist_ok=True)
    # lockf, not flock: a forked worker that outlives a killed run does not hold it
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                click.echo(f"  {folder}: its file system has no locks; do not start a second run on it", err=True)
                yield
                return
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            raise click.ClickException(
                f"another run writes in {folder}: {file.read().strip() or 'it has just begun'}.\n"
                "  Wait for it to end, stop it, or name another folder."
            ) from error
        file.truncate(0)
        file.write(f"{what}, process {os.getpid()} on {os.uname().nodename}, since {time.strftime('%Y-%m-%d %H:%M')}\n")
        file.flush()
        yield


def free_bytes(folder: Path) -> int:
    """Bytes free where a folder is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


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
    """16 hex digits over the names and bytes of files; of a file over 128 MiB its size, head, tail and samples between count."""
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        size = path.stat().st_size
        digest.update(os.fsencode(path.name) + f":{size}:".encode())
        with named(path), open(path, "rb") as file:
            digest.update(file.read(WHOLE))
            for at in range(WHOLE, size - WHOLE, STRIDE):
                file.seek(at)
                digest.update(file.read(SAMPLE))
            if size > WHOLE:
                file.seek(max(WHOLE, size - WHOLE))
                digest.update(file.read())
    return digest.hexdigest()


def model_fingerprint(folder: Path) -> str:
    """A model folder's fingerprint: configuration, tokenizer and weights."""
    return fingerprint(*sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".jinja")))
