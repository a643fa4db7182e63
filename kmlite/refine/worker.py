"""A shard: the pieces of files that it has, and its way from raw records to cleaned, judged and hashed texts.

A shard is what one worker refines at a time, here or in a cluster, and what a killed run keeps.
"""

import functools
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import xxhash

from kmlite import files
from kmlite.refine import batch, judging
from kmlite.refine.cleaning import clean_all
from kmlite.refine.encodings import Lost, cut_anywhere
from kmlite.refine.leakage import ExamStems
from kmlite.refine.outputs import Tally
from kmlite.refine.readers import ARROW, LINES, PARQUET, TEXTS, Raw, kind_of, read_raw
from kmlite.refine.tables import arrow_batches

BATCH = 150_000  # characters cleaned and measured at once: their arrays stay in the cache of a core
PART = 64 << 20  # bytes of kept text in one file: a shard that can't be cut (a .gz of 30 GB) is written in several
TEXT_MOST = 2_000_000  # characters: a longer one is no document, and the counts of a batch have 21 bits

# ---- which pieces of which files


class Piece(NamedTuple):
    """A file, or a part of it: see `readers.read_raw` for what `start` and `stop` count."""

    file: str  # below the raw folder
    start: int
    stop: int | None
    size: int  # bytes, about


def plan_shards(files: list[Path], root: Path, size: int) -> list[list[Piece]]:
    """All of `files` in order as shards of about `size` bytes: large files are cut, small ones put together."""
    shards: list[list[Piece]] = []
    filled = size
    for file in files:
        for piece in cut(file, root, size):
            if filled + piece.size > size:
                shards.append([])
                filled = 0
            shards[-1].append(piece)
            filled += piece.size
    return shards


def cut(file: Path, root: Path, size: int) -> list[Piece]:
    name, total = str(file.relative_to(root)), file.stat().st_size
    plain = file.suffix.lower() in (*LINES, *ARROW, *PARQUET)
    if total <= size or not plain or (kind_of(name) in LINES and not cut_anywhere(file)):
        return [Piece(name, 0, None, total)]  # what is compressed can be read from the beginning alone
    if kind_of(name) in LINES:
        bounds = [*range(0, total, size), total]
    else:
        bounds, filled, number = [0], 0, 0
        try:
            for number, bytes_here in enumerate(units(file)):
                if filled and filled + bytes_here > size:
                    bounds.append(number)
                    filled = 0
                filled += bytes_here
        except (OSError, ValueError):  # broken from here on: whoever reads the last piece sets that aside
            pass
        bounds.append(number + 1)
    share = total // (len(bounds) - 1)
    pieces = [Piece(name, start, stop, share) for start, stop in itertools.pairwise(bounds)]
    return [*pieces[:-1], pieces[-1]._replace(stop=None)]


def units(file: Path) -> Iterator[int]:
    """Bytes of each record batch or row group."""
    if kind_of(file.name) in ARROW:
        yield from (batch.bytes if isinstance(batch, Lost) else batch.nbytes for batch in arrow_batches(file))
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        yield from (table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))


def key(shard: list[Piece], fingerprints: dict[str, str], rules: dict) -> str:
    """The name of a shard's result: another input or another rule gives another name, and the old result is not found."""
    told = [[*piece[:3], fingerprints[piece.file]] for piece in shard]
    return hashlib.blake2b(json.dumps([told, rules], sort_keys=True, default=str).encode(), digest_size=10).hexdigest()


# ---- what is done with them


class Task(NamedTuple):
    """A shard and all that its result depends on."""

    pieces: list[Piece]
    raw: str
    out: str  # the result's path without its ending
    columns: list[str]
    min_length: int
    heldout_share: float
    rejected_most: int
    stems: str  # a JSON file: the exam questions that no text may hold


class Row(NamedTuple):
    piece: int
    source: str
    line: int
    text: str


def refine_shard(task: Task) -> dict:
    """Refine one shard and return its summary, or the one that an earlier run left.

    Writes `{out}.PART.jsonl` (kept texts), `.keys.npy` ((1 + BANDS, n) uint64: exact hash and signature), `.places.npy`
    ((n, 2) uint32: piece and line), `.chosen.npy` ((m, 2) uint64: row and hash of texts that may be held out), then
    `{out}.rejected.jsonl`, and last `{out}.json`, the summary: where it stands, the shard is done.
    """
    done = Path(f"{task.out}.json")
    if summary := files.read_record(done):
        return summary
    work = Work(task)
    waiting: list[Row] = []
    size = 0
    for row in work.rows():
        waiting.append(row)
        size += len(row.text)
        if size > BATCH:
            work.refine(waiting)
            waiting, size = [], 0
    if waiting:
        work.refine(waiting)
    summary = work.finish()
    files.write_json(done, summary)
    return summary


class Work:
    """The open files and counts of a shard that is being refined."""

    def __init__(self, task: Task) -> None:
        self.task, self.tally = task, Tally(task.rejected_most)
        self.lines: list[int] = []  # of each piece, so that later pieces of its file know their first line
        self.removed: Counter = Counter()
        self.parts: list[int] = []
        self.open_part()

    def open_part(self) -> None:
        self.keys: list[np.ndarray] = []
        self.places: list[tuple[int, int]] = []
        self.chosen: list[tuple[int, int]] = []
        self.part_bytes = 0
        self.file = open(f"{self.task.out}.{len(self.parts)}.jsonl.partial", "wb", 1 << 20)  # noqa: SIM115 -- closed by `close_part`

    def rows(self) -> Iterator[Row]:
        """The texts of a shard; a record without one is set aside on the way."""
        root = Path(self.task.raw)
        for number, piece in enumerate(self.task.pieces):
            raw: Raw | None = None
            columns = ["text"] if kind_of(piece.file) in TEXTS else self.task.columns
            for raw in read_raw(root / piece.file, root, piece.start, piece.stop):
                self.tally.read += 1
                found = None if raw.problem else joined_columns(raw.value, columns)
                if found is None:
                    self.tally.reject(raw.problem or "missing_field", raw, piece=number)
                elif len(found) > TEXT_MOST:
                    self.tally.reject("too_long", raw._replace(value=found), piece=number)
                else:
                    yield Row(number, raw.source, raw.line, found)
            self.lines.append(raw.line if raw else 0)

    def refine(self, rows: list[Row]) -> None:
        """Clean and measure texts together, judge each, and keep or set it aside."""
        cleaned = clean_all([row.text for row in rows], self.removed)
        measured = batch.measure(cleaned)
        exam = stems_of(self.task.stems)
        suspects = exam.suspects(measured)
        keys = np.concatenate([measured.exact[None], batch.signatures(measured)])
        for i, (row, found, counts) in enumerate(zip(rows, cleaned, batch.counts(measured), strict=True)):
            reason = judging.judge(found, self.task.min_length, counts)
            if not reason and suspects[i] and exam.stands_in(found):
                reason = "exam_leak"
            if reason:
                self.tally.reject(reason, Raw(row.source, row.line, row.text, None), piece=row.piece)
            else:
                self.keep(row, found, keys[:, i])
        if self.part_bytes > PART:
            self.close_part()
            self.open_part()

    def keep(self, row: Row, cleaned: str, keys: np.ndarray) -> None:
        encoded = orjson.dumps(cleaned)
        hashed = xxhash.xxh3_64_intdigest(cleaned.encode())
        if hashed < self.task.heldout_share * 2**64:
            self.chosen.append((len(self.places), hashed))
        self.file.writelines((b'{"text": ', encoded, b"}\n"))
        self.places.append((row.piece, row.line))
        self.keys.append(keys)
        self.tally.keep(len(cleaned))
        self.part_bytes += len(encoded) + 11

    def close_part(self) -> None:
        stem = f"{self.task.out}.{len(self.parts)}"
        keys = np.stack(self.keys, axis=1) if self.keys else np.empty((1 + batch.BANDS, 0), dtype=np.uint64)
        for name, values in (
            ("keys", keys),
            ("places", np.array(self.places, dtype=np.uint32).reshape(-1, 2)),
            ("chosen", np.array(self.chosen, dtype=np.uint64).reshape(-1, 2)),
        ):
            with open(f"{stem}.{name}.npy.partial", "wb") as file:
                np.save(file, values)
                put(file, f"{stem}.{name}.npy")
        with self.file as file:
            put(file, f"{stem}.jsonl")
        self.parts.append(len(self.places))

    def finish(self) -> dict:
        if self.places or not self.parts:
            self.close_part()
        else:
            self.file.close()
            os.unlink(self.file.name)
        with open(f"{self.task.out}.rejected.jsonl.partial", "wb") as file:
            file.write(self.tally.set_aside())
            put(file, f"{self.task.out}.rejected.jsonl")
        return self.tally.counts() | {"lines": self.lines, "parts": self.parts, "removed": dict(self.removed)}


def joined_columns(record: dict, columns: list[str]) -> str | None:
    """The texts of a record's columns, apart by an empty line; None where it has none of them."""
    found = [record[name] for name in columns if isinstance(record.get(name), str)]
    return "\n\n".join(found) if found else None


@functools.lru_cache(maxsize=1)
def stems_of(path: str) -> ExamStems:
    return ExamStems(files.read_json(Path(path)))


def put(file, final: str) -> None:
    """Give a written file its final name once its bytes have reached the disk."""
    file.flush()
    os.fsync(file.fileno())
    os.replace(file.name, final)
