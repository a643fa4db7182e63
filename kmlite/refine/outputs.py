"""The refined folder: what refine counts and sets aside, and which files there are its own."""

import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from kmlite import paths
from kmlite.files import free_bytes, read_record, write_json
from kmlite.refine.encodings import PACKED
from kmlite.refine.judging import in_words
from kmlite.refine.readers import PARQUET, Raw, read_raw, shown, size_of

MADE = (paths.TEXT, paths.DICTIONARY, paths.EXAM, paths.REPLAY, paths.REJECTED)
WORK = ("shards", "dedup", paths.PLAN)  # beside these, in the folder of an unfinished run
UNPACKED = 3  # bytes of text in one of a compressed file or a .parquet, about
TAKEN = ("train*.jsonl", "heldout.jsonl", "dev.jsonl", "test.jsonl", "fewshot.jsonl", "text.jsonl", "dictionary.jsonl", "exam.jsonl")


class Tally:
    """What was read of one kind of data and what became of it; of each reason the first `most` records that were set aside."""

    def __init__(self, most: int) -> None:
        self.most, self.started = most, time.monotonic()
        self.read = self.kept = self.characters = 0
        self.reasons: Counter = Counter()
        self.fields: Counter = Counter()  # of records that lack one
        self.lost = [0, 0]  # records, as far as a format tells, and bytes
        self.rows: list[dict] = []

    def records(self, files: list[Path], root: Path) -> Iterator[Raw]:
        """The records of files; what could not be read is set aside on the way."""
        for raw in (raw for file in files for raw in read_raw(file, root)):
            self.read += 1
            if raw.problem:
                self.reject(raw.problem, raw)
            else:
                yield raw

    def reject(self, reason: str, raw: Raw, **more: object) -> None:
        assert in_words(reason)[0] != reason, reason
        self.reasons[reason] += 1
        if raw.lost:
            self.lost = [self.lost[0] + raw.lost.records, self.lost[1] + raw.lost.bytes]
        if reason == "missing_field":
            self.fields[", ".join(list(raw.value)[:20])] += 1
        if self.reasons[reason] <= self.most:
            self.rows.append({"reason": reason, "source": raw.source, "line": raw.line, "record": shown(raw.value), **more})

    def keep(self, characters: int) -> None:
        self.kept += 1
        self.characters += characters

    def add(self, counts: dict) -> None:
        """Args: counts: of another, as `counts` gives them."""
        self.read += counts["read"]
        self.kept += counts["kept"]
        self.characters += counts["characters"]
        self.reasons.update(counts["rejected"])
        self.fields.update(counts["fields"])
        self.lost = [mine + other for mine, other in zip(self.lost, counts["lost"], strict=True)]

    def counts(self, fields: int = 20) -> dict:
        return {
            "read": self.read,
            "kept": self.kept,
            "rejected": ranked(self.reasons),
            "fields": dict(self.fields.most_common(fields)),
            "lost": self.lost,
            "characters": self.characters,
        }

    def set_aside(self) -> bytes:
        """The records that were set aside as lines of JSON."""
        return b"".join(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n" for row in self.rows)

    def finish(self, file: Path) -> dict:
        """Write what was set aside; the counts of refine's record."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.set_aside())
        return self.counts(5) | {"seconds": round(time.monotonic() - self.started, 2)}


def ranked(counts: Counter) -> dict[str, int]:
    """The most frequent first, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


# ---- whose a file is


def check_apart(raw: Path, refined: Path, files: list[Path]) -> None:
    """Refuse a refined folder that is the raw one, lies in it or around it, by whatever name or link.

    Args:
        files: the raw ones.

    Raises:
        click.ClickException: refine would delete what it reads.
    """
    one, other = raw.resolve(), refined.resolve()
    same = one == other or (refined.exists() and raw.samefile(refined))
    if same or one in other.parents or other in one.parents:
        how = "are one folder" if same else "lie one in the other"
        raise click.ClickException(f"RAW {raw} and REFINED {refined} {how}; nothing was touched.\n  Name another: make refine REFINED=…")
    if inside := next((file for file in files if other in file.resolve().parents), None):
        raise click.ClickException(f"{inside} is a link into REFINED {refined}; nothing was touched.\n  Take the link out of RAW.")


def check_room(refined: Path, partial: Path, files: list[Path]) -> None:
    """Refuse a disk too small for what refine writes: of each raw byte, unpacked, one in a finished shard and one in the result.

    Args:
        partial: what an unfinished run has written already is counted.
        files: the raw ones.

    Raises:
        click.ClickException: names the folder, the bytes needed and free, and what to do.
    """
    unpacked = sum(file.stat().st_size * (UNPACKED if file.suffix.lower() in (*PACKED, *PARQUET) else 1) for file in files)
    need, free = 2 * unpacked - size_of(partial), free_bytes(refined)
    if free < need:
        raise click.ClickException(
            f"{refined} has room for {free:,} bytes, and refine needs up to {need:,} there: twice the raw data, unpacked.\n"
            "  Free some space, or name another place: make refine REFINED=…"
        )


def files_in(folder: Path) -> set[str]:
    """The files that stand where refine writes, by their names below `folder`."""
    found = [path for name in MADE for path in ((folder / name).rglob("*") if (folder / name).is_dir() else [folder / name])]
    return {str(path.relative_to(folder)) for path in found if path.is_symlink() or path.is_file()}


def own_files(refined: Path) -> set[str]:
    """The files that refine's record says it wrote; where it is damaged or has no list, those with refine's names."""
    if not (refined / paths.REFINE_RECORD).exists():
        return set()
    record = read_record(refined / paths.REFINE_RECORD)
    if isinstance(record, dict) and "files" in record:
        return set(record["files"])
    return {name for name in files_in(refined) if is_taken(name)}


def is_taken(name: str) -> bool:
    return name == paths.DICTIONARY or any(Path(name).match(pattern) for pattern in TAKEN)


def check_own(refined: Path, partial: Path) -> None:
    """Refuse a folder where files that refine did not write bear the names of those that it will.

    Raises:
        click.ClickException: they would be overwritten, or be read as refine's.
    """
    if other := sorted(name for name in files_in(refined) - own_files(refined) if is_taken(name)):
        raise click.ClickException(
            f"{refined} holds files that are not in refine's record ({paths.REFINE_RECORD}), under the names of those that it writes:\n"
            f"  {', '.join(other[:5])}{' …' if len(other) > 5 else ''}. Move them, or name another folder: make refine REFINED=…"
        )
    own = (*MADE, *WORK)
    if partial.exists() and (not partial.is_dir() or any(p.name.removesuffix(".partial") not in own for p in partial.iterdir())):
        raise click.ClickException(f"{partial} holds what is not refine's. Move it, or name another folder: make refine REFINED=…")


def move_in(partial: Path, refined: Path, record: dict) -> None:
    """Replace what refine wrote before by what stands in `partial`, and write the record last.

    Killed in between, the record names the files of both runs as refine's, and no plan: the next run does it again.
    """
    new, old = files_in(partial), own_files(refined)
    write_json(refined / paths.REFINE_RECORD, {"plan": None, "funnel": {}, "wrote": [], "files": sorted(new | old)})
    for name in sorted(old - new):
        (refined / name).unlink(missing_ok=True)
    for name in sorted(new):
        (refined / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / name, refined / name)
    for name in (paths.TEXT, paths.EXAM, paths.REJECTED):
        with contextlib.suppress(OSError):  # it is not there, or holds files of others
            (refined / name).rmdir()
    wrote = sorted({name.split("/")[0] for name in new})
    write_json(refined / paths.REFINE_RECORD, record | {"wrote": wrote, "files": sorted(new)})


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
