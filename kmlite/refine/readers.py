"""Read the raw formats people have. Nothing here judges a text."""

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

READABLE = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet", ".arrow", ".csv", ".txt", ".txt.gz", ".txt.zst")
REJECTED_CHARACTERS = 2000  # of a record that is set aside: enough to see why
BOM = b"\xef\xbb\xbf"  # Windows editors put it first
TXT_PIECE = 1 << 20  # characters: a .txt is one document, a larger one is cut at blank lines
JSON_MOST = 64 << 20  # bytes of a .json, which is read whole and takes three times as much memory: refine refuses a larger one
LINE_MOST = 16 << 20  # bytes of a line that is read: what is longer is a broken file, and would break the memory of a worker


class Raw(NamedTuple):
    """A record as it was found: `value` is a dict, or `problem` says why it is not and `value` holds what was there."""

    source: str
    line: int  # counted from 1; the row in a table, the piece in a .txt
    value: Any
    problem: str | None


def raw_files(folder: Path) -> list[Path]:
    """All readable files at any depth, in a fixed order; what `datasets` writes beside its data is left out."""
    if not folder.is_dir():
        return []
    skipped = {"dataset_info.json", "state.json", "dataset_dict.json"}
    found = [p for p in folder.rglob("*") if p.is_file() and p.name.endswith(READABLE) and p.name not in skipped]
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def read_raw(path: Path, root: Path, start: int = 0, stop: int | None = None) -> Iterator[Raw]:
    """Every record of a file, good or bad. A file that breaks off yields what came before and one `unreadable`.

    `start` and `stop` bound a piece of a large file, in bytes of a .jsonl (a line belongs to the piece that its first byte is
    in), record batches of an .arrow and row groups of a .parquet; lines are then counted from the piece's first.
    """
    source = str(path.relative_to(root))
    line = 0
    if path.stat().st_size == 0:
        yield Raw(source, 0, None, "empty_file")
        return
    try:
        for line, (value, problem) in enumerate(values(path, start, stop), 1):
            if problem is None and not isinstance(value, dict):
                problem = "not_an_object"
            if problem != "empty_line":
                yield Raw(source, line, value, problem)
    except (OSError, EOFError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors and OSErrors
        yield Raw(source, line + 1, str(error)[:200], "unreadable")


def values(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[object, str | None]]:
    name = path.name
    if name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        yield from json_lines(path, start, stop)
    elif name.endswith(".json"):
        whole = orjson.loads(path.read_bytes().removeprefix(BOM))
        yield from ((value, None) for value in (whole if isinstance(whole, list) else [whole]))
    elif name.endswith(".csv"):
        with open(path, encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(sys.maxsize)  # a document is longer than the default 131,072 characters
            yield from ((row, None) for row in csv.DictReader(file))
    elif name.endswith((".txt", ".txt.gz", ".txt.zst")):
        with io.TextIOWrapper(binary_stream(path), encoding="utf-8-sig", errors="replace") as file:
            yield from (({"text": piece}, None) for piece in pieces(file))
    else:
        yield from ((row, None) for row in table_rows(path, start, stop))


def json_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[object, str | None]]:
    with binary_stream(path) as file:
        if start:
            file.seek(start - 1)
        for number, (line, whole) in enumerate(lines(file, start, stop)):
            if number == 0 and start == 0:
                line = line.removeprefix(BOM)
            if not whole:
                yield line[:500].decode("utf-8", "replace"), "too_long"
            elif not line.strip():
                yield None, "empty_line"
            else:
                try:
                    yield orjson.loads(line), None
                except orjson.JSONDecodeError:
                    yield line[:500].decode("utf-8", "replace"), "not_json"


def binary_stream(path: Path):
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        import pyarrow as pa

        return pa.input_stream(str(path), compression="zstd")
    return open(path, "rb")


def lines(file, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, bool]]:
    """(line, whole) of a binary stream from byte `start` (the stream stands one before it) to the line that `stop` is in.

    Of a line over LINE_MOST only the beginning comes, and `whole` is False. read1, where there is one, hands over what stands
    before the break of a broken file.
    """
    read = getattr(file, "read1", file.read)
    at = start - 1 if start else 0  # where the line begins that is being read
    skip = start > 0  # a line that began before `start` is the earlier piece's
    parts: list[bytes] = []
    size = 0
    while block := read(1 << 18):
        *ended, rest = block.split(b"\n")
        for i, tail in enumerate(ended):
            if i == 0:
                size += len(tail)
                tail = b"".join([*parts, tail]) if size <= LINE_MOST else parts[0]
            else:
                size = len(tail)
            if skip:
                skip = False
            else:
                yield tail, size <= LINE_MOST
            at += size + 1
            if stop is not None and at >= stop:
                return
            parts, size = [], 0
        size += len(rest)
        if size <= LINE_MOST or not parts:
            parts.append(rest)
    if size and not skip:
        yield (b"".join(parts), True) if size <= LINE_MOST else (parts[0], False)


def table_rows(path: Path, start: int = 0, stop: int | None = None) -> Iterator[dict]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for group in range(start, file.num_row_groups if stop is None else stop):
                for batch in file.iter_batches(batch_size=256, row_groups=[group], use_threads=False):
                    yield from batch.to_pylist()
        return
    for number, batch in enumerate(arrow_batches(path)):
        if stop is not None and number >= stop:
            return
        if number >= start:
            for row in range(0, batch.num_rows, 256):
                yield from batch.slice(row, 256).to_pylist()


def arrow_batches(path: Path) -> Iterator:
    """The record batches of an .arrow file; nothing but their headers is read until a value is asked for."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            batches = pa.ipc.open_stream(source)  # what `datasets` writes
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        yield from batches


def pieces(file: io.TextIOBase) -> Iterator[str]:
    """A text as one document, or as several of about TXT_PIECE characters cut at blank lines, or where there is none, anywhere."""
    piece: list[str] = []
    size = 0
    while line := file.readline(TXT_PIECE):
        if size > TXT_PIECE and (line == "\n" or size > 4 * TXT_PIECE):
            yield "".join(piece).removesuffix("\n")
            piece, size = [], 0
            if line == "\n":
                continue
        piece.append(line)
        size += len(line)
    if "".join(piece).strip():
        yield "".join(piece)


def shown(record: object) -> object:
    """A rejected record as far as one needs to see it."""
    if isinstance(record, str):
        return record[:REJECTED_CHARACTERS]
    told = json.dumps(record, ensure_ascii=False, default=str)
    return record if len(told) <= REJECTED_CHARACTERS else told[:REJECTED_CHARACTERS]
