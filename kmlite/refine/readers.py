"""Read the raw formats people have. Nothing here judges a text, and what can't be read is counted and named."""

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from kmlite.refine.encodings import LINE_MOST, PACKED, Lost, blocks, decode, lines
from kmlite.refine.tables import arrow_rows, parquet_rows, table_lines

VERSION = 2  # goes into refine's record: raise it when files are read in another way
LINES, JSON, TABLES, TEXTS = (
    (".jsonl", ".ndjson", ".jsonlines"),
    (".json",),
    (".csv", ".tsv", ".tab"),
    (".txt", ".md", ".text", ".markdown"),
)
PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".feather", ".ipc")
DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")  # `datasets` writes them beside its data
REJECTED_CHARACTERS = 2000  # of a record that is set aside: enough to see why
NESTED_MOST = 200  # brackets of a record that is stored as it is: json refuses what is nested 1,000 deep
TXT_PIECE = 1 << 20  # bytes: a .txt is one document, a larger one is cut at blank lines, half as much later at any line
BETWEEN = re.compile(r"[ \t\r\n,]*")
NEXT_RECORD = re.compile(r"\}\s*,?\s*(?=\{)|\n\s*(?=\{)")
NUMBERS = re.compile(rb"NaN|Infinity|\\u[dD][89a-fA-F]")  # what Python's json reads and orjson does not


class Raw(NamedTuple):
    """A record as it was found: `value` is a dict, or `problem` says why it is not and `value` holds what was there."""

    source: str
    line: int  # counted from 1; the row in a table, the piece in a .txt
    value: Any
    problem: str | None
    lost: Lost | None = None  # a stretch of the file that could not be read


class Unread(NamedTuple):
    path: str
    bytes: int
    why: str


# ---- which files


def kind_of(name: str) -> str | None:
    """The format of a file by its name, in any case: an ending of those above without what it is compressed by; None for others."""
    name = name.lower()
    stem, packed = os.path.splitext(name)
    if packed in PACKED:
        ending = os.path.splitext(stem)[1]
        return ending if ending in (*LINES, *JSON, *TABLES, *TEXTS) else None
    return packed if packed in (*LINES, *JSON, *TABLES, *TEXTS, *PARQUET, *ARROW) else None


def raw_files(folder: Path) -> list[Path]:
    """All readable files at any depth, in a fixed order."""
    return survey(folder)[0]


def survey(folder: Path) -> tuple[list[Path], list[Unread]]:
    """(the files that are read, in a fixed order; those that are not, with their sizes and why). Links are followed, once each."""
    found: list[Path] = []
    unread: list[Unread] = []
    seen: dict[tuple[int, int], str] = {}

    def walk(place: Path) -> None:
        try:
            status = place.stat()
            entries = sorted(place.iterdir())
        except OSError as error:
            unread.append(Unread(path_name(place), 0, f"folder: {error.strerror}"))
            return
        if first := seen.get((status.st_dev, status.st_ino)):
            unread.append(Unread(path_name(place), 0, f"the same folder as {first}"))
            return
        seen[status.st_dev, status.st_ino] = path_name(place)
        for path in entries:
            if path.is_dir() and not path.name.startswith("."):
                walk(path)
            elif why := why_not(path):
                unread.append(Unread(path_name(path), size_of(path), why))
            else:
                found.append(path)

    if folder.is_dir():
        walk(folder)
    return sorted(found), unread


def why_not(path: Path) -> str:
    """Why a file is not read; empty for one that is."""
    if path.is_symlink() and not path.exists():
        return "a link that leads nowhere"
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file():
        return "no plain file"
    if path.name in DESCRIPTIONS or path.stem.upper() in ("README", "LICENSE", "CHANGELOG"):
        return "describes data, holds none"
    if kind_of(path.name) is None:
        packed = path.suffix.lower() in (*PACKED, ".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z", ".rar")
        return "unpack it: compressed, only text and JSON in .gz and .zst are read" if packed else "a format that refine does not read"
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return str(error.strerror)
    return ""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all below a folder."""
    try:
        return path.stat().st_size if not path.is_dir() else sum(p.lstat().st_size for p in path.rglob("*"))
    except OSError:
        return 0  # a link that leads nowhere, a folder that may not be looked into: named all the same


def path_name(path: Path | str) -> str:
    """A path's name as text: names in CP949, as archives from Windows have them, are read as that."""
    name = os.fsencode(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        text, encoding = decode(name)
        return text if encoding == "cp949" else name.decode("utf-8", "backslashreplace")


# ---- their records


def read_raw(path: Path, root: Path, start: int = 0, stop: int | None = None) -> Iterator[Raw]:
    """Every record of a file, good or bad. Of a damaged file what stands before and after the damage, and an `unreadable` between.

    `start` and `stop` bound a piece of a large file, in bytes of a .jsonl (a line belongs to the piece that its first byte is
    in), record batches of an .arrow and row groups of a .parquet; lines are then counted from the piece's first.
    """
    source = path_name(path.relative_to(root))
    line = 0
    try:
        if path.stat().st_size == 0:
            yield Raw(source, 0, None, "empty_file")
            return
        for line, (value, problem) in enumerate(values(path, start, stop), 1):
            if isinstance(value, Lost):
                yield Raw(source, line, f"{value.why} ({value.bytes:,} bytes)", "unreadable", value)
                continue
            if problem is None and not isinstance(value, dict):
                problem = "not_an_object"
            if problem != "empty_line":
                yield Raw(source, line, value, problem)
    except (OSError, EOFError, ValueError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        lost = Lost(size_of(path) if line == 0 else 0, str(error)[:200])
        yield Raw(source, line + 1, lost.why, "unreadable", lost)


def values(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[Any, str | None]]:
    kind = kind_of(path.name)
    if kind in LINES:
        yield from json_lines(path, start, stop)
    elif kind in JSON:
        yield from json_values(blocks(path))
    elif kind in TABLES:
        yield from table_lines(blocks(path), "\t" if kind in (".tsv", ".tab") else ",")
    elif kind in TEXTS:
        yield from pieces(blocks(path))
    else:
        rows = parquet_rows(path, start, stop) if kind in PARQUET else arrow_rows(path, start, stop)
        yield from ((row, "unreadable" if isinstance(row, Lost) else None) for row in rows)


def json_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[Any, str | None]]:
    for line, whole in lines(blocks(path, max(0, start - 1)), start, stop):
        if isinstance(line, Lost):
            yield line, "unreadable"
        elif not whole:
            yield shown_bytes(line), "too_long"
        elif not line.strip():
            yield None, "empty_line"
        else:
            try:
                yield orjson.loads(line), None
            except orjson.JSONDecodeError:
                yield json_anyhow(line)


def json_anyhow(line: bytes) -> tuple[Any, str | None]:
    """A line that orjson refuses: in another encoding, or with NaN or half a surrogate pair in it."""
    text, encoding = decode(line)
    if encoding not in ("utf-8", "cp949"):
        return shown_bytes(line), f"encoding_{encoding}"
    try:
        if encoding == "utf-8" and not NUMBERS.search(line) and "\ufffd" not in text:
            return text[:500], "not_json"
        value = json.loads(text)
        return (without_halves(value) if "\\u" in text else value), None
    except RecursionError:
        return text[:500], "nested_too_deep"
    except ValueError:
        return text[:500], "not_json"


def without_halves(value: Any) -> Any:
    """The same without halves of surrogate pairs, which no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_halves(key): without_halves(one) for key, one in value.items()}
    return [without_halves(one) for one in value] if isinstance(value, list) else value


def shown_bytes(line: bytes) -> str:
    return line[:500].decode("utf-8", "replace")


def json_values(source: Iterator[bytes | Lost]) -> Iterator[tuple[Any, str | None]]:
    """The records of a .json of any size: an array's values, one object, or one after the other. A broken one is set aside."""
    decoder, rest, need, opened = json.JSONDecoder(), "", 1, False
    for part in itertools.chain(as_text(source), [None]):
        if isinstance(part, Lost):
            yield part, "unreadable"
            continue
        rest += part or ""
        at, problem = 0, ""
        while part is None or len(rest) >= need:
            at = BETWEEN.match(rest, at).end()  # type: ignore[union-attr]  # it matches anything
            if at == len(rest):
                rest, need = "", 1
                break
            if (rest[at] == "[" and not opened) or (rest[at] == "]" and opened):
                at, opened = at + 1, True
                continue
            broken = True
            try:
                value, end = decoder.raw_decode(rest, at)
                if part is None or end < len(rest) - 1:
                    yield (without_halves(value) if "\\u" in rest[at:end] else value), None
                    at = end
                    continue
                broken = False  # a number may go on
            except RecursionError:
                problem = "nested_too_deep"
            except json.JSONDecodeError as error:
                problem, broken = "not_json", part is None or (error.pos < len(rest) - 12 and not error.msg.startswith("Unterminated"))
            except ValueError:  # a number of more than 4,300 digits
                problem = "not_json"
            if not broken and len(rest) - at <= LINE_MOST:
                rest = rest[at:]
                need = 2 * len(rest) + 1
                break
            yield rest[at : at + 500], problem
            after = NEXT_RECORD.search(rest, at + 1)
            at = after.end() if after else len(rest)


def as_text(source: Iterator[bytes | Lost]) -> Iterator[str | Lost]:
    """Whole lines, or as much of a long one as has been read, as text."""
    for line, whole in lines(source, split=True):
        yield line if isinstance(line, Lost) else decode(line)[0] + ("\n" if whole else "")


# ---- text


def pieces(source: Iterator[bytes | Lost]) -> Iterator[tuple[Any, str | None]]:
    """A text as one document, or as several of about TXT_PIECE bytes cut at blank lines, or where there is none, anywhere."""
    piece: list[bytes] = []
    size = 0
    for line, whole in lines(source, split=True):
        if isinstance(line, Lost):
            yield from as_document(piece)
            yield line, "unreadable"
            piece, size = [], 0
            continue
        blank = whole and not line.strip()
        if size > TXT_PIECE and (blank or size > 1.5 * TXT_PIECE):
            yield from as_document(piece)
            piece, size = [], 0
            if blank:
                continue
        piece.append(line + b"\n" if whole else line)
        size += len(line) + 1
    yield from as_document(piece)


def as_document(piece: list[bytes]) -> Iterator[tuple[Any, str | None]]:
    """A piece as a record. Lines in an encoding that is none of ours are set aside together, and named with it."""
    whole = b"".join(piece)
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        read = [decode(line) for line in piece]
        foreign = [(line, encoding) for line, (_, encoding) in zip(piece, read, strict=True) if encoding not in ("utf-8", "cp949")]
        if foreign:
            yield shown_bytes(b"".join(line for line, _ in foreign)), f"encoding_{foreign[0][1]}"
        text = "".join(text for text, encoding in read if encoding in ("utf-8", "cp949"))
    if text.strip():
        yield {"text": text.removesuffix("\n").replace("\r\n", "\n").replace("\r", "\n")}, None


def shown(record: object) -> object:
    """A rejected record as far as one needs to see it."""
    if isinstance(record, str):
        return record[:REJECTED_CHARACTERS]
    try:
        told = json.dumps(record, ensure_ascii=False, default=str, allow_nan=False)
        plain = told.count("[") + told.count("{") < NESTED_MOST
    except RecursionError:
        return f"nested too deep to be shown: {type(record).__name__}"
    except ValueError:  # NaN, which JSON has not
        told, plain = json.dumps(record, ensure_ascii=False, default=str), False
    return record if plain and len(told) <= REJECTED_CHARACTERS else told[:REJECTED_CHARACTERS]
