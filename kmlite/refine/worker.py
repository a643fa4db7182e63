"""One shard from raw records to cleaned, judged and hashed texts: the function that every worker runs, here or in a cluster."""

import functools
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
from kmlite.refine import batch, text
from kmlite.refine.cleaning import clean_all
from kmlite.refine.leakage import ExamStems
from kmlite.refine.readers import TEXTS, Raw, kind_of, printable, read_raw, shown
from kmlite.refine.shards import Piece

BATCH = 150_000  # characters cleaned and measured at once: their arrays stay in the cache of a core
PART = 64 << 20  # bytes of kept text in one file: a shard that can't be cut (a .gz of 30 GB) is written in several
TEXT_MOST = 2_000_000  # characters: a longer one is no document, and the counts of a batch have 21 bits


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
    exam = stems_of(task.stems)
    work = Work(task)
    waiting: list[Row] = []
    size = 0
    for row in work.rows():
        waiting.append(row)
        size += len(row.text)
        if size > BATCH:
            refine_batch(waiting, task, work, exam)
            waiting, size = [], 0
    refine_batch(waiting, task, work, exam)
    summary = work.finish()
    files.write_json(done, summary)
    return summary


class Work:
    """The open files and counts of a shard that is being refined."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.read: list[int] = []  # lines of each piece, so that later pieces of its file know their first line
        self.records = self.characters = self.bytes = 0
        self.reasons: Counter = Counter()
        self.fields: Counter = Counter()  # of records without a text
        self.lost = [0, 0]  # records, as far as a format tells, and bytes
        self.removed: Counter = Counter()
        self.parts: list[int] = []
        self.rejected: list[bytes] = []
        self.open_part()

    def open_part(self) -> None:
        self.kept: list[bytes] = []
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
                self.records += 1
                found = None if raw.problem else text_of(raw.value, columns)
                problem = raw.problem or ("missing_field" if found is None else "too_long" if len(found) > TEXT_MOST else "")
                if raw.lost:
                    self.lost = [self.lost[0] + raw.lost.records, self.lost[1] + raw.lost.bytes]
                if problem == "missing_field":
                    self.fields[", ".join(list(raw.value)[:20])] += 1
                if problem or found is None:
                    self.reject(problem, number, raw.line, raw.value if found is None else found)
                    continue
                yield Row(number, raw.line, found)
            self.read.append(raw.line if raw else 0)

    def reject(self, reason: str, piece: int, line: int, record: object) -> None:
        self.reasons[reason] += 1
        if self.reasons[reason] <= self.task.rejected_most:
            row = {
                "reason": reason,
                "source": printable(self.task.pieces[piece].file),
                "line": line,
                "record": shown(record),
                "piece": piece,
            }
            self.rejected.append(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")

    def keep(self, row: Row, cleaned: str, keys: np.ndarray) -> None:
        encoded = orjson.dumps(cleaned)
        hashed = xxhash.xxh3_64_intdigest(cleaned.encode())
        if hashed < self.task.heldout_share * 2**64:
            self.chosen.append((len(self.places), hashed))
        self.file.writelines((b'{"text": ', encoded, b"}\n"))
        self.places.append((row.piece, row.line))
        self.keys.append(keys)
        self.characters += len(cleaned)
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
            file.writelines(self.rejected)
            put(file, f"{self.task.out}.rejected.jsonl")
        return {
            "lines": self.read,
            "read": self.records,
            "parts": self.parts,
            "characters": self.characters,
            "rejected": dict(self.reasons),
            "fields": dict(self.fields.most_common(20)),
            "lost": self.lost,
            "removed": dict(self.removed),
        }


def refine_batch(rows: list[Row], task: Task, work: Work, exam: ExamStems) -> None:
    """Clean and measure texts together, judge each, and keep or set it aside."""
    if not rows:
        return
    cleaned = clean_all([row.text for row in rows], work.removed)
    measured = batch.measure(cleaned)
    repeated, suspects = batch.repeated_words(measured), exam.suspects(measured)
    columns = (measured.hangul, measured.letters, measured.kana, measured.tokens, repeated, measured.sales)
    counts = zip(*(values.tolist() for values in columns), strict=True)
    kept = []
    for i, (row, cleaned_text, count) in enumerate(zip(rows, cleaned, counts, strict=True)):
        keep, reason = text.judge(cleaned_text, task.min_length, text.Counts(*count))
        if keep and suspects[i] and exam.stands_in(cleaned_text):
            keep, reason = False, "exam_leak"
        if keep:
            kept.append(i)
        else:
            work.reject(reason, row.piece, row.line, row.text)
    keys = np.concatenate([measured.exact[None], batch.signatures(measured)])
    for i in kept:
        work.keep(rows[i], cleaned[i], keys[:, i])
    if work.part_bytes > PART:
        work.close_part()
        work.open_part()


def text_of(record: dict, columns: list[str]) -> str | None:
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
