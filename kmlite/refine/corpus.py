"""From refined shards to the corpus: duplicates found over all of them, held-out texts chosen, train files and rejected/ written."""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import xxhash

from kmlite import paths
from kmlite.files import write_lines
from kmlite.refine.cleaning import clean
from kmlite.refine.duplicates import KEPT, REASONS, find_duplicates
from kmlite.refine.outputs import Tally, ranked
from kmlite.refine.readers import REJECTED_CHARACTERS, path_name
from kmlite.refine.worker import Task, joined_columns, put

TRAIN, HELDOUT = 0, 255  # besides the reasons of dedup, what becomes of a text


class Part(NamedTuple):
    """A file of kept texts and what is to become of each."""

    stem: str
    fates: np.ndarray  # (n,) uint8: TRAIN, HELDOUT, or why it is dropped
    shown: np.ndarray  # rows of dropped texts to be shown in rejected/
    train: str  # the file to write


def assemble(tasks: list[Task], summaries: list[dict], out: Path, heldout_most: int, run: Callable) -> dict:
    """Write `out`/00_plain_text and `out`/rejected/text.jsonl from finished shards; the funnel's counts.

    Args:
        tasks, summaries: of `worker.refine_shard`, in input order.
        run: `engine.run` with its workers chosen: (function, tasks) → (number, result) pairs.
    """
    stems = [f"{task.out}.{number}" for task, summary in zip(tasks, summaries, strict=True) for number in range(len(summary["parts"]))]
    verdicts = find_duplicates([np.load(f"{stem}.keys.npy", mmap_mode="r") for stem in stems], out / "dedup")
    bounds = np.cumsum([0, *(n for summary in summaries for n in summary["parts"])]).tolist()
    heldout = choose_heldout(stems, bounds, verdicts, heldout_most)
    most = tasks[0].rejected_most
    shown = np.sort(np.concatenate([np.flatnonzero(verdicts == code)[:most] for code in REASONS]))
    fates = verdicts
    fates[heldout] = HELDOUT
    folder = out / paths.TEXT
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():  # of a run that was killed here
        old.unlink()
    parts = []
    for number, (stem, low, high) in enumerate(zip(stems, bounds[:-1], bounds[1:], strict=True)):
        rows = shown[np.searchsorted(shown, low) : np.searchsorted(shown, high)] - low
        name = "train.jsonl" if len(stems) == 1 else f"train-{number:05d}.jsonl"
        parts.append(Part(stem, fates[low:high], rows, str(folder / name)))
    written = dict(run(write_part, parts))
    held: dict[int, bytes] = {}
    for number, result in written.items():
        places = np.flatnonzero(parts[number].fates == HELDOUT) + bounds[number]
        held.update(zip(places.tolist(), result["heldout"], strict=True))
    with open(folder / "heldout.jsonl.partial", "wb") as file:
        file.writelines(held[place] for place in heldout.tolist())
        put(file, str(folder / "heldout.jsonl"))
    write_rejected(tasks, summaries, [written[number]["shown"] for number in range(len(parts))], out / paths.REJECTED, most)
    tally = Tally(most)
    for summary in summaries:
        tally.add(summary)
    tally.kept = int(np.count_nonzero((fates == TRAIN) | (fates == HELDOUT)))
    tally.characters -= sum(result["dropped"] for result in written.values())
    tally.reasons.update({reason: n for code, reason in REASONS.items() if (n := int(np.count_nonzero(verdicts == code)))})
    removed = sum((Counter(summary["removed"]) for summary in summaries), Counter())
    return tally.counts(5) | {"removed": ranked(removed), "heldout": len(heldout)}


def choose_heldout(stems: list[str], bounds: list[int], verdicts: np.ndarray, most: int) -> np.ndarray:
    """Places of the kept texts with the lowest hashes, lowest first.

    As data grows, an old text may move from held-out to train, never the other way: no model has seen one.
    """
    lowest: list[tuple[int, int]] = []  # (-hash, -place)
    for stem, start in zip(stems, bounds, strict=False):
        chosen = np.load(f"{stem}.chosen.npy")
        chosen = chosen[verdicts[start + chosen[:, 0].astype(np.int64)] == KEPT]
        for row, hashed in chosen.tolist():
            heapq.heappush(lowest, (-hashed, -(start + row)))
            if len(lowest) > most:
                heapq.heappop(lowest)
    return np.array([-place for _, place in sorted(lowest, reverse=True)], dtype=np.int64)


def write_part(part: Part) -> dict:
    """Write a part's train file. Returns the characters that are dropped, held-out lines, and the texts to be shown."""
    heldout: list[bytes] = []
    shown: list[tuple[int, int, str, int]] = []
    wanted = set(part.shown.tolist())
    places = np.load(f"{part.stem}.places.npy")
    dropped = 0
    with open(f"{part.stem}.jsonl", "rb", 1 << 20) as source, open(f"{part.train}.partial", "wb", 1 << 20) as train:
        for row, (line, fate) in enumerate(zip(source, part.fates.tolist(), strict=True)):
            if fate == TRAIN:
                train.write(line)
                continue
            if fate == HELDOUT:
                heldout.append(line)
                continue
            text = orjson.loads(line)["text"]
            dropped += len(text)
            if row in wanted:
                piece, number = places[row].tolist()
                shown.append((piece, number, REASONS[fate], text[:REJECTED_CHARACTERS]))
        put(train, part.train)
    return {"dropped": dropped, "heldout": heldout, "shown": shown}


def write_rejected(tasks: list[Task], summaries: list[dict], duplicates: list[list[tuple]], folder: Path, most: int) -> None:
    """Write rejected/text.jsonl: of each reason the first `most` records in input order."""
    written: Counter = Counter()
    lines_before: dict[str, int] = {}  # of the file that the last shard ended in
    of_parts = iter(duplicates)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "text.jsonl.partial", "w", encoding="utf-8") as file:
        for task, summary in zip(tasks, summaries, strict=True):
            rows = [
                {"reason": reason, "source": path_name(task.pieces[piece].file), "line": line, "record": record, "piece": piece}
                for _ in summary["parts"]
                for piece, line, reason, record in next(of_parts)
            ]
            rows += rejected_rows(task, summary, written, most)
            before = [lines_before.get(piece.file, 0) if piece.start else 0 for piece in task.pieces]
            for row in sorted(rows, key=lambda row: (row["piece"], row["line"])):
                row["line"] += before[row.pop("piece")]
                if written[row["reason"]] < most:
                    written[row["reason"]] += 1
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            last = task.pieces[-1]
            lines_before = {last.file: before[-1] + summary["lines"][-1]}
        put(file, str(folder / "text.jsonl"))


def rejected_rows(task: Task, summary: dict, written: Counter, most: int) -> Iterator[dict]:
    """What the worker set aside of a shard, unless there is enough of all its reasons already."""
    if any(written[reason] < most for reason in summary["rejected"]):
        with open(f"{task.out}.rejected.jsonl", encoding="utf-8") as file:
            yield from map(json.loads, file)


def refine_replay(files: list[Path], raw_folder: Path, out: Path, columns: list[str], min_length: int, most: int) -> dict:
    """Text of the base's own language, which stage 0 mixes in against forgetting: cleaned, without short ones and copies, not judged.

    Returns: the counts of refine's record.
    """
    tally = Tally(most)
    texts: dict[int, str] = {}  # by their hashes
    for raw in tally.records(files, raw_folder):
        found = joined_columns(raw.value, columns)
        text = clean(found or "")
        key = xxhash.xxh3_64_intdigest(text.encode())
        if found is None or len(text) < min_length or key in texts:
            tally.reject("missing_field" if found is None else "duplicate" if key in texts else "too_short", raw)
            continue
        texts[key] = text
        tally.keep(len(text))
    if texts:
        write_lines(out / paths.REPLAY / "train.jsonl", [{"text": text} for text in texts.values()])
    return tally.finish(out / paths.REJECTED / "replay.jsonl")
