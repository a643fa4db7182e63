"""Which pieces of which files make a shard. A shard is what one worker refines at a time, and what a killed run keeps."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kmlite.refine.encodings import Lost, cut_anywhere
from kmlite.refine.readers import ARROW, LINES, PARQUET, kind_of
from kmlite.refine.tables import arrow_batches


class Piece(NamedTuple):
    """A file, or a part of it: see `readers.read_raw` for what `start` and `stop` count."""

    file: str  # below the raw folder
    start: int
    stop: int | None
    size: int  # bytes, about


def plan(files: list[Path], root: Path, size: int) -> list[list[Piece]]:
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
