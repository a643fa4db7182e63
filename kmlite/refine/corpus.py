"""From refined shards to the corpus: duplicates found over all of them, held-out texts chosen, train files and rejected/ written."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import xxhash

from kmlite import paths
from kmlite.files import read_lines, write_lines
from kmlite.refine.cleaning import clean
from kmlite.refine.duplicates import KEPT, REASONS, find_duplicates
from kmlite.refine.outputs import Tally, ranked
from kmlite.refine.readers import REJECTED_CHARACTERS, path_name
from kmlite.refine.worker import KEYS, Task, joined_columns, writing

TRAIN, HELDOUT = 0, 255  # besides the reasons of dedup, what becomes of a text


class Part(NamedTuple):
    """A finished shard and what is to become of each of its texts."""

    task: Task
    fates: np.ndarray  # (n,) uint8: TRAIN, HELDOUT, or why it is dropped
    shown: np.ndarray  # rows of dropped texts to be shown in rejected/
    train: str  # the file to write


def assemble(tasks: list[Task], summaries: list[dict], out: Path, heldout_most: int, run: Callable) -> dict:
    """Write `out`/00_plain_text and `out`/rejected/text.jsonl from finished shards; the funnel's counts.

    Args:
        tasks, summaries: of `worker.refine_shard`, in input order.
        run: `engine.run` with its workers chosen: (function, tasks) → (number, result) pairs.
    """
    most, tally, removed = tasks[0].rejected_most, Tally(tasks[0].rejected_most), Counter[str]()
    for summary in summaries:
        tally.add(summary)
        removed.update(summary["removed"])
    bounds = np.cumsum([0, *(summary["kept"] for summary in summaries)])
    verdicts = find_duplicates([keys_of(task) for task in tasks], out / "dedup")
    tally.kept = int(np.count_nonzero(verdicts == KEPT))
    tally.reasons.update({reason: n for code, reason in REASONS.items() if (n := int(np.count_nonzero(verdicts == code)))})
    shown = np.sort(np.concatenate([np.flatnonzero(verdicts == code)[:most] for code in REASONS]))
    heldout = choose_heldout(tasks, bounds, verdicts, heldout_most)
    verdicts[heldout] = HELDOUT
    folder = out / paths.TEXT
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():  # of a run that was killed here
        old.unlink()
    parts = []
    for number, (task, low, high) in enumerate(zip(tasks, bounds[:-1], bounds[1:], strict=True)):
        name = "train.jsonl" if len(tasks) == 1 else f"train-{number:05d}.jsonl"
        parts.append(Part(task, verdicts[low:high], shown[(low <= shown) & (shown < high)] - low, str(folder / name)))
    written = dict(run(write_part, parts))
    lines = [line for number in range(len(parts)) for line in written[number]["heldout"]]
    with writing(str(folder / "heldout.jsonl")) as file:
        file.writelines(lines[i] for i in np.argsort(np.argsort(heldout)).tolist())
    (out / paths.REJECTED).mkdir(exist_ok=True)
    with writing(str(out / paths.REJECTED / "text.jsonl")) as file:
        for row in rejected_rows(tasks, summaries, [written[number]["shown"] for number in range(len(parts))], most):
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    tally.characters -= sum(result["dropped"] for result in written.values())
    return tally.counts(5) | {"removed": ranked(removed), "heldout": len(heldout)}


def keys_of(task: Task) -> np.ndarray:
    file = Path(f"{task.out}.keys")
    return (np.memmap(file, np.uint64, "r") if file.stat().st_size else np.empty(0, np.uint64)).reshape(-1, KEYS)


def choose_heldout(tasks: list[Task], bounds: np.ndarray, verdicts: np.ndarray, most: int) -> np.ndarray:
    """Places of the kept texts with the lowest hashes, lowest first.

    As data grows, an old text may move from held-out to train, never the other way: no model has seen one.
    """
    chosen = [np.fromfile(f"{task.out}.chosen", np.uint64).reshape(-1, 2) for task in tasks]
    places = np.concatenate([start + rows[:, 0].astype(np.int64) for start, rows in zip(bounds, chosen, strict=False)])
    hashes = np.concatenate(chosen)[:, 1]
    kept = verdicts[places] == KEPT
    return places[kept][np.argsort(hashes[kept], kind="stable")[:most]]


def write_part(part: Part) -> dict:
    """Write a part's train file. Returns the characters that are dropped, held-out lines, and the texts to be shown."""
    heldout: list[bytes] = []
    shown: list[dict] = []
    wanted = set(part.shown.tolist())
    places = keys_of(part.task)[:, -1]
    dropped = 0
    with open(f"{part.task.out}.jsonl", "rb", 1 << 20) as source, writing(part.train) as train:
        for row, (line, fate) in enumerate(zip(source, part.fates.tolist(), strict=True)):
            if fate == TRAIN:
                train.write(line)
            elif fate == HELDOUT:
                heldout.append(line)
            else:
                text = orjson.loads(line)["text"]
                dropped += len(text)
                if row in wanted:
                    piece, number = divmod(int(places[row]), 1 << 32)
                    source_name = path_name(part.task.pieces[piece].file)
                    record = text[:REJECTED_CHARACTERS]
                    shown.append({"reason": REASONS[fate], "source": source_name, "line": number, "record": record, "piece": piece})
    return {"dropped": dropped, "heldout": heldout, "shown": shown}


def rejected_rows(tasks: list[Task], summaries: list[dict], duplicates: list[list[dict]], most: int) -> Iterator[dict]:
    """Of each reason the first `most` records that were set aside, in input order."""
    written: Counter = Counter()
    lines_before: dict[str, int] = {}  # of the file that the last shard ended in
    for task, summary, rows in zip(tasks, summaries, duplicates, strict=True):
        if any(written[reason] < most for reason in summary["rejected"]):
            rows += read_lines(Path(f"{task.out}.rejected.jsonl"))
        before = [lines_before.get(piece.file, 0) if piece.start else 0 for piece in task.pieces]
        for row in sorted(rows, key=lambda row: (row["piece"], row["line"])):
            row["line"] += before[row.pop("piece")]
            if written[row["reason"]] < most:
                written[row["reason"]] += 1
                yield row
        lines_before = {task.pieces[-1].file: before[-1] + summary["lines"][-1]}


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
