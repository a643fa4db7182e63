"""Rows of tables: .csv and .tsv line by line, .parquet a row group at a time, .arrow a record batch at a time.

What is damaged is passed on as `Lost`, with what stands before and after it kept.
"""

import csv
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmlite.refine.encodings import Lost, decode, lines

ROW_MOST = 8 << 20  # bytes of a .csv row: a quote that stays open longer was never closed


# ---- tables of text


def table_lines(source: Iterator[bytes | Lost], separator: str) -> Iterator[tuple[Any, str | None]]:
    """The rows of a .csv or .tsv. A row that has more cells than there are columns, or whose quotes do not close, is set aside as
    the line that it was; reading goes on in the next line."""
    csv.field_size_limit(sys.maxsize)
    feed, back = text_lines(source), deque[str | Lost]()  # lines that an open quote had swallowed
    header: list[str] = []
    while (text := back.popleft() if back else next(feed, None)) is not None:
        if isinstance(text, Lost):
            yield text, "unreadable"
            continue
        bare = text.rstrip("\r\n")
        row, problem = bare.split(separator) if bare else [], ""
        if '"' in text:  # not in most rows; the csv module takes longer
            row, text, problem = quoted_row(text, feed, back, separator)
        if problem:
            yield bare, problem
        elif not header:
            if separator == "," and len(row) == 1 and (other := next((s for s in "\t;" if s in text), "")):
                separator, row = other, next(csv.reader([text], delimiter=other))
            header = [name.strip() for name in row]
        elif len(header) == 1 and not text.lstrip().startswith('"'):
            yield {header[0]: text.rstrip("\r\n")}, None  # a comma in the only column is part of its text
        elif len(row) == len(header):
            yield dict(zip(header, row, strict=True)), None
        elif len(row) > len(header) and any(row[len(header) :]):
            yield text.rstrip("\r\n"), "too_many_cells"
        elif row:
            yield dict(zip(header, [*row, *[None] * (len(header) - len(row))], strict=False)), None


def text_lines(source: Iterator[bytes | Lost]) -> Iterator[str | Lost]:
    for line, whole in lines(source):
        if isinstance(line, Lost):
            yield line
        elif not whole:
            yield Lost(len(line), "a line of more than 16 MB")
        else:
            text, encoding = decode(line)
            yield text if encoding in ("utf-8", "cp949") else Lost(len(line), f"seems to be {encoding}")


def quoted_row(first: str, feed: Iterator[str | Lost], back: deque[str | Lost], separator: str) -> tuple[list[str], str, str]:
    """(cells, the text that they were, problem) of the row that begins with a line; where its quotes are wrong, all lines but this one
    go back."""
    taken: list[str] = []

    def more() -> Iterator[str]:
        line: str | Lost | None = first
        size = 0
        while isinstance(line, str):
            taken.append(line)
            size += len(line)
            if size > ROW_MOST and len(taken) > 1:
                return
            yield line + "\n"
            line = back.popleft() if back else next(feed, None)
        if line is not None:
            back.appendleft(line)

    try:
        return next(csv.reader(more(), delimiter=separator, strict=True), []), "\n".join(taken), ""
    except csv.Error as error:
        back.extendleft(reversed(taken[1:]))
        return [], first, "open_quote" if "end of data" in str(error) else "bad_quotes"


# ---- tables of columns


def parquet_rows(path: Path, start: int = 0, stop: int | None = None) -> Iterator[dict | Lost]:
    """The rows of a .parquet, a row group at a time; of one that is damaged the rows before, and how many were lost."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(start, file.num_row_groups if stop is None else stop):
            about, done = file.metadata.row_group(group), 0
            try:
                for batch in file.iter_batches(batch_size=256, row_groups=[group], use_threads=False):
                    yield from rows_of(batch)
                    done += batch.num_rows
            except (OSError, ValueError) as error:
                left = about.num_rows - done
                yield Lost(about.total_byte_size * left // max(1, about.num_rows), f"row group {group}: {left:,} rows: {error}"[:200], left)


def arrow_rows(path: Path, start: int = 0, stop: int | None = None) -> Iterator[dict | Lost]:
    for number, batch in enumerate(arrow_batches(path)):
        if stop is not None and number >= stop:
            return
        if number < start:
            continue
        if isinstance(batch, Lost):
            yield batch
            continue
        try:
            batch.validate(full=True)  # offsets that point out of their buffer end the process
        except (OSError, ValueError) as error:
            if "UTF8" not in str(error):
                yield Lost(batch.nbytes, f"record batch {number}: {batch.num_rows:,} rows: {error}"[:200], batch.num_rows)
                continue
        for row in range(0, batch.num_rows, 256):
            yield from rows_of(batch.slice(row, 256))


def rows_of(batch: Any) -> Iterator[dict | Lost]:
    """The rows of a batch; a text in it that is no UTF-8 is read as a line of a file is."""
    try:
        yield from batch.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError):
        for i in range(batch.num_rows):
            yield {name: cell(column[i]) for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return decode(scalar.as_buffer().to_pybytes())[0] if hasattr(scalar, "as_buffer") else None
    except (ValueError, OverflowError):
        return None  # a date before the year 1


def arrow_batches(path: Path) -> Iterator[Any]:
    """The record batches of an .arrow file, and a Lost for each that is damaged: by the file's index, and where there is none (a stream,
    as `datasets` writes it, or a file without its end) the next place is sought where one can be read. Nothing but their headers is read
    until a value is asked for."""
    import pyarrow as pa

    marker = b"\xff\xff\xff\xff"
    with pa.memory_map(str(path)) as source:
        begin = source.read(128)
        if begin.startswith(b"ARROW1"):  # the file format: the same stream behind its name and zeros (2; of arrow-rs 58), and an index
            try:
                indexed = pa.ipc.open_file(source)
            except (OSError, ValueError):
                source.seek((len(begin) - len(begin[6:].lstrip(b"\0"))) // 8 * 8)
            else:
                for i in range(indexed.num_record_batches):
                    try:
                        yield indexed.get_batch(i)
                    except (OSError, ValueError) as error:
                        yield Lost(0, f"record batch {i}: {error}"[:200])
                return
        else:
            source.seek(0)
        stream = pa.ipc.open_stream(source)
        if any(pa.types.is_dictionary(kind) for kind in stream.schema.types):  # a batch is read with the dictionaries before it
            yield from stream
            return
        at, size = source.tell(), source.size()
        lost_from, why = -1, ""
        while at < size:
            source.seek(at)
            try:
                if source.read_at(8, at) == marker + bytes(4):
                    break  # the end of the stream
                batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), stream.schema)
                batch.validate()
            except (OSError, ValueError, EOFError) as error:
                if lost_from < 0:
                    lost_from, why = at, str(error)[:150]
                at = next_marker(source, at + 8, size, marker)
                continue
            if lost_from >= 0:
                yield Lost(at - lost_from, why)
                lost_from = -1
            yield batch
            at = source.tell()
        if lost_from >= 0:
            yield Lost(min(at, size) - lost_from, why)


def next_marker(source: Any, at: int, size: int, marker: bytes) -> int:
    """Where the next message may begin: eight bytes aligned."""
    while at < size:
        block = source.read_at(1 << 20, at)
        found = block.find(marker)
        while found >= 0 and (at + found) % 8:
            found = block.find(marker, found + 1)
        if found >= 0:
            return at + found
        at += max(8, len(block) - 8)
    return size
