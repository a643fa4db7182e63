"""A shard: the pieces of files that it has, and its way from raw records to cleaned, judged and hashed texts.

A shard is what one worker refines at a time, here or in a cluster, and what a killed run keeps.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

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
KEYS = 2 + batch.BANDS
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


def refine_shard(task: Task) -> dict:
    """Refine one shard and return its summary, or the one that an earlier run left.

    Writes `{out}.jsonl` (kept texts), `.keys` (n × KEYS uint64: exact hash, signature, piece and line), `.chosen` (m × 2 uint64: row
    and hash of texts that may be held out), `.rejected.jsonl`, and last `.json`, the summary: where it stands, the shard is done.
    """
    if summary := files.read_record(Path(f"{task.out}.json")):
        return summary
    tally, removed, exam = Tally(task.rejected_most), Counter[str](), stems_of(task.stems)
    lines: list[int] = []  # of each piece, so that later pieces of its file know their first line
    chosen: list[tuple[int, int]] = []
    with writing(f"{task.out}.jsonl") as texts, writing(f"{task.out}.keys") as keys:
        for rows in batches(texts_of(task, tally, lines)):
            cleaned = clean_all([raw.value for _, raw in rows], removed)
            measured = batch.measure(cleaned)
            suspects, kept = exam.suspects(measured), []
            for i, ((piece, raw), found, counts) in enumerate(zip(rows, cleaned, batch.counts(measured), strict=True)):
                reason = judging.judge(found, task.min_length, counts)
                if not reason and suspects[i] and exam.stands_in(found):
                    reason = "exam_leak"
                if reason:
                    tally.reject(reason, raw, piece=piece)
                    continue
                hashed = xxhash.xxh3_64_intdigest(found.encode())
                if hashed < task.heldout_share * 2**64:
                    chosen.append((tally.kept, hashed))
                texts.writelines((b'{"text": ', orjson.dumps(found), b"}\n"))
                tally.keep(len(found))
                kept.append(i)
            places = np.array([rows[i][0] << 32 | rows[i][1].line for i in kept], dtype=np.uint64)
            keys.write(np.column_stack([batch.keys(measured)[kept], places]).tobytes())
    with writing(f"{task.out}.chosen") as file:
        file.write(np.array(chosen, dtype=np.uint64).tobytes())
    with writing(f"{task.out}.rejected.jsonl") as file:
        file.write(tally.set_aside())
    summary = tally.counts() | {"lines": lines, "removed": dict(removed)}
    files.write_json(Path(f"{task.out}.json"), summary)
    return summary


def texts_of(task: Task, tally: Tally, lines: list[int]) -> Iterator[tuple[int, Raw]]:
    """(number of the piece, record with its text for a value) of a shard; a record without one is set aside on the way."""
    root = Path(task.raw)
    for number, piece in enumerate(task.pieces):
        raw: Raw | None = None
        columns = ["text"] if kind_of(piece.file) in TEXTS else task.columns
        for raw in read_raw(root / piece.file, root, piece.start, piece.stop):
            tally.read += 1
            found = None if raw.problem else joined_columns(raw.value, columns)
            if found is None:
                tally.reject(raw.problem or "missing_field", raw, piece=number)
            elif len(found) > TEXT_MOST:
                tally.reject("too_long", raw._replace(value=found), piece=number)
            else:
                yield number, raw._replace(value=found)
        lines.append(raw.line if raw else 0)


def batches(rows: Iterable[tuple[int, Raw]]) -> Iterator[list[tuple[int, Raw]]]:
    some: list[tuple[int, Raw]] = []
    size = 0
    for row in rows:
        some.append(row)
        size += len(row[1].value)
        if size > BATCH:
            yield some
            some, size = [], 0
    if some:
        yield some


def joined_columns(record: dict, columns: list[str]) -> str | None:
    """The texts of a record's columns, apart by an empty line; None where it has none of them."""
    found = [record[name] for name in columns if isinstance(record.get(name), str)]
    return "\n\n".join(found) if found else None


@functools.lru_cache(maxsize=1)
def stems_of(path: str) -> ExamStems:
    return ExamStems(files.read_json(Path(path)))


@contextlib.contextmanager
def writing(final: str) -> Iterator[IO[bytes]]:
    """A file that gets its name once it is whole and its bytes have reached the disk."""
    with open(f"{final}.partial", "wb", 1 << 20) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{final}.partial", final)
