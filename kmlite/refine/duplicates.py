"""Duplicates: exact by hash, near ones by MinHash.

The first text in input order is kept, and a later one is dropped only for a text that was kept. All is a function of the
hashes in their order, so neither the number of workers nor the bounds of shards can change it.

On disk for each text, whatever it shares: 120 bytes of hashes and 8 of its place from the worker, 4 + 56 for the texts that it
may repeat, 188 in all; at most 8 million are sorted in memory at once.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kmlite.refine import batch

ALIKE = 0.8
KEPT, DUPLICATE, NEAR_DUPLICATE = 0, 1, 2
REASONS = {DUPLICATE: "duplicate", NEAR_DUPLICATE: "near_duplicate"}
AT_ONCE = 4 << 20  # texts sorted at once: 60 MB of hashes, places and their order
BLOCK = 1 << 14
NONE = np.uint32(2**32 - 1)


def find_duplicates(parts: list[np.ndarray], work: Path) -> np.ndarray:
    """(n,) uint8 for the n texts of all parts in order: KEPT, DUPLICATE or NEAR_DUPLICATE.

    Args:
        parts: of each part (texts, 1 + BANDS or more) uint64, as `worker.refine_shard` writes them; memory maps will do.
        work: a folder for files as large as the hashes themselves.
    """
    n = sum(map(len, parts))
    if n == 0:
        return np.zeros(0, dtype=np.uint8)
    work.mkdir(parents=True, exist_ok=True)
    first = np.lib.format.open_memmap(work / "first.npy", "w+", np.uint32, (n,))
    first[:] = np.arange(n, dtype=np.uint32)
    for places, starts, sizes in shared(parts, 0, n):
        first[places] = np.repeat(places[starts], sizes)
    leaders = np.lib.format.open_memmap(work / "leaders.npy", "w+", np.uint32, (batch.BANDS, n))
    for band in range(batch.BANDS):
        leaders[band] = NONE
        for places, starts, sizes in shared(parts, 1 + band, n, first):
            leaders[band, places] = np.repeat(places[starts], sizes)
    verdicts = np.zeros(n, dtype=np.uint8)
    near_duplicates(parts, leaders, verdicts)
    for lo in range(0, n, AT_ONCE):  # a repetition of a text that was dropped as near to another is near to that one too
        mine = first[lo : lo + AT_ONCE]
        again = np.flatnonzero(mine != np.arange(lo, lo + len(mine), dtype=np.uint32))
        kept = verdicts[mine[again]] == KEPT
        verdicts[lo + again] = np.where(kept, DUPLICATE, NEAR_DUPLICATE)
    for name in ("first", "leaders"):
        (work / f"{name}.npy").unlink()
    return verdicts


def shared(
    parts: list[np.ndarray], column: int, n: int, first: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(places, starts, sizes) of all hashes in `column` that several texts share: each run of `places` is one hash, in order.

    With `first`, texts that repeat an earlier one exactly take no part. Hashes are sorted in slices of their range, so that a
    slice fits into memory.
    """
    slices = -(-n // AT_ONCE)
    for number in range(slices):
        low, high = number * 2**64 // slices, (number + 1) * 2**64 // slices - 1
        found_keys, found_places = [], []
        start = 0
        for part in parts:
            keys = part[:, column]
            chosen = np.flatnonzero((keys >= np.uint64(low)) & (keys <= np.uint64(high))) if slices > 1 else np.arange(len(keys))
            if first is not None:
                chosen = chosen[first[start + chosen] == start + chosen]
            found_keys.append(keys[chosen])
            found_places.append((start + chosen).astype(np.uint32))
            start += len(keys)
        keys, places = np.concatenate(found_keys), np.concatenate(found_places)
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, dtype=np.int64)
        sizes = np.diff(starts, append=len(keys))
        many = np.repeat(sizes > 1, sizes)
        sizes = sizes[sizes > 1]
        yield places[many], np.cumsum(sizes) - sizes, sizes


def near_duplicates(parts: list[np.ndarray], leaders: np.ndarray, verdicts: np.ndarray) -> None:
    """Fill `verdicts`: each text is compared with the first kept text of each bucket it is in, as if it came after all of them.

    Args:
        leaders: (BANDS, n) uint32: of each text the first of those that share its hash in that band, itself perhaps; NONE where
            nobody does. The first one's own entry, once its turn is over, holds the bucket's first kept text, or NONE so far.
    """
    bounds = np.cumsum([0, *map(len, parts)])

    def signature(place: int) -> np.ndarray:
        part = int(np.searchsorted(bounds, place, side="right")) - 1
        return parts[part][place - bounds[part], 1 : 1 + batch.BANDS].view(np.uint8)

    for lo in range(0, len(verdicts), BLOCK):
        mine = np.array(leaders[:, lo : lo + BLOCK])
        for column in np.flatnonzero((mine != NONE).any(axis=0)).tolist():
            place = lo + column
            bands = np.flatnonzero(mine[:, column] != NONE)
            firsts = mine[bands, column]
            others = np.where(firsts == place, NONE, leaders[bands, firsts])
            own = signature(place)
            for other in dict.fromkeys(others[others != NONE].tolist()):
                if (signature(other) == own).mean() >= ALIKE:
                    verdicts[place] = NEAR_DUPLICATE
                    leaders[bands[firsts == place], place] = NONE
                    break
            else:
                free = others == NONE
                leaders[bands[free], firsts[free]] = place
