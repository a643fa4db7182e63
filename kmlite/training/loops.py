"""The loops of stage 2: which are done, which is best, when to stop, what is kept on the disk."""

import shutil
from pathlib import Path

from kmlite import files, paths


def finished(folder: Path) -> list[dict]:
    """The records of the loops that are done, in order."""
    journal = folder / paths.CHECKPOINTS / "loops.json"
    loops = files.read_json(journal) if journal.exists() else []
    while (path := folder / f"loop_{len(loops) + 1}" / paths.RECORD).exists():
        loops.append(files.read_json(path))
    return loops


def best(loops: list[dict], start: float) -> int:
    """The number of the first loop with the highest dev accuracy; 0 where none is above what the model came with."""
    found, highest = 0, start
    for loop in loops:
        if loop["dev"]["accuracy"] > highest:
            found, highest = loop["loop"], loop["dev"]["accuracy"]
    return found


def why_stop(loops: list[dict], start: float, settings) -> str | None:
    """The reason to end the loops by stage 2's settings, or None to go on; `start` is the dev accuracy before them."""
    if max([start, *(loop["dev"]["accuracy"] for loop in loops)]) >= settings.target:
        return f"dev reached {settings.target:g}%"
    if len(loops) >= settings.loops:
        return f"{settings.loops} loops done"
    if loops and len(loops) - best(loops, start) >= settings.patience:
        return f"{settings.patience} loops without a better dev accuracy"
    return None


def prune(folder: Path, loops: list[dict], start: float) -> None:
    """Drop the adapters of all loops but the best and the last; their records stay in the journal."""
    files.write_json(folder / paths.CHECKPOINTS / "loops.json", loops)
    for loop in loops:
        if loop["loop"] not in (best(loops, start), len(loops)):
            shutil.rmtree(folder / f"loop_{loop['loop']}", ignore_errors=True)
