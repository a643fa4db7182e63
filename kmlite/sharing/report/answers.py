"""The predictions that a folder of models holds: found, compared in pairs, and made small enough to stand in a page."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kmlite import paths, prompts, records
from kmlite.evaluation import statistics
from kmlite.files import read_lines, read_record
from kmlite.results import Both

WRITTEN, LEAST, MOST = 2_000_000, 50, 1000  # characters of all written answers in a page, which stays under 15 MB, and of each
SPECIAL = re.compile(r"<(?:end_of_turn|eos|pad)>")


class Answers(NamedTuple):
    """One model's answers to one split, in the order of `found`: from the earliest model to the last."""

    name: Both
    split: str
    how: str
    predictions: list[dict]


def found(out: Path) -> tuple[list[Answers], list[str]]:
    """(all predictions below `out`, what could not be read and why). A list that repeats an earlier one is left out."""
    stage2, usual = out / paths.STAGES[2].folder, "generate, kmlite"
    listed = list(evaluations(out))
    sources: list[tuple[Both, str, str, Path]] = [(e["name"], e["split"], e["how"], e["predictions"]) for e in listed if not e["final"]]
    sources.append((("before stage 2", "2단계 전"), "dev", usual, stage2 / paths.DEV_BEFORE))
    for folder in sorted(stage2.glob("loop_*"), key=lambda path: (len(path.name), path.name)):
        number = folder.name.removeprefix("loop_")
        sources.append(((f"loop {number}", f"루프 {number}"), "dev", usual, folder / "dev_predictions.jsonl"))
    sources.append((after(2), "dev", usual, stage2 / paths.DEV_AFTER))
    sources += [(e["name"], e["split"], e["how"], e["predictions"]) for e in listed if e["final"]]

    kept: list[Answers] = []
    problems = []
    for name, split, how, path in sources:
        try:
            predictions = read_lines(path)
            given = outcome(predictions)
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{path}: {type(error).__name__}: {error}")
            continue
        if predictions and not any(a.split == split and outcome(a.predictions) == given for a in kept):
            kept.append(Answers(name, split, how, predictions))
    return kept, problems


def after(stage: int) -> Both:
    return f"after stage {stage}", f"{stage}단계 뒤"


def outcome(predictions: list[dict]) -> list[tuple]:
    return [(one["question"], one["answer"], one["right"]) for one in predictions]


def evaluations(out: Path) -> Iterator[dict]:
    """Each evaluation below `out`, first those of the final model: of the last finished stage, or where none is, the last begun.

    {"name" of the model, "final" (it is that one), "record", "results", "split", "how" it was asked in words, the file of "predictions",
    "openings" of the model's test split}.
    """
    stages = [out / stage.folder for stage in reversed(paths.STAGES)]
    begun = [stage for stage in stages if stage.is_dir()]
    final = next((stage for stage in begun if (stage / paths.RECORD).exists()), next(iter(begun), None))
    for folder in [
        *(place for stage in stages for place in (stage, stage / paths.ON_DEV)),
        *sorted(path for path in (out / "eval").rglob("*") if path.is_dir()),
    ]:
        for file, predictions in ((paths.EVALUATION, paths.PREDICTIONS), (paths.HARNESS, paths.HARNESS_PREDICTIONS)):
            record = read_record(folder / file)
            if not record or not record.get("results"):
                continue
            asked = next(one for one in record["results"] if one["measure"] == "accuracy")
            model = folder.parent if folder.name == paths.ON_DEV else folder
            number = paths.stage_number(model) if model.parent == out else None
            named = str(model.relative_to(out)).removeprefix("eval/").replace("--", "/")
            log = model / paths.TEST_LOG
            yield {
                "name": (named, named) if number is None else after(number),
                "final": model == final,
                "record": record,
                "results": record["results"],
                "split": asked["data"],
                "how": in_words(asked["how"]),
                "predictions": folder / predictions,
                "openings": len(read_lines(log)) if log.exists() else 0,
            }


def in_words(how: dict) -> str:
    """What a figure was asked by: `generate, kmlite`, `generate, lm-eval, 5-shot`."""
    parts = [how.get("scorer", "generate"), how.get("prompt", "kmlite")]
    parts += [f"{how['shots']}-shot"] if "shots" in how else []
    parts += ["chat template"] if how.get("chat_template") else []
    parts += [f"{how['orders']} orders"] if how.get("orders", 1) != 1 else []
    return ", ".join(parts)


def keyed(predictions: list[dict]) -> dict[tuple[str, int], dict]:
    """By question text and how often it stood before: predictions of two models meet even where one has more questions."""
    seen: Counter = Counter()
    out = {}
    for prediction in predictions:
        out[prediction["question"], seen[prediction["question"]]] = prediction
        seen[prediction["question"]] += 1
    return out


def comparisons(answers: list[Answers]) -> list[dict]:
    """Each earlier model against the last one that was asked the same split in the same way, over the questions of both."""
    out = []
    for i, first in enumerate(answers):
        later = [a for a in answers[i + 1 :] if a.split == first.split and a.how == first.how]
        if not later:
            continue
        a, b = keyed(first.predictions), keyed(later[-1].predictions)
        shared = [key for key in a if key in b]
        if shared:
            same = [[{**side[key], "number": number} for number, key in enumerate(shared, 1)] for side in (a, b)]
            out.append({"split": first.split, "from": first.name, "to": later[-1].name, **statistics.paired(*same)})
    return out


def browser(answers: list[Answers], refined: Path) -> dict:
    """What the page's browser of questions reads: {"splits": {name: [[question, subject, right letter, options or null], …]}, "sets":
    [{"split", "name", "answers": [`one`, or null where it was not asked, …]}]}."""
    splits: dict[str, dict[tuple[str, int], list]] = {}
    options = {split: options_of(refined, split) for split in {a.split for a in answers}}
    for given in answers:
        listed = splits.setdefault(given.split, {})
        for key, prediction in keyed(given.predictions).items():
            known = options[given.split].get(key[0])
            listed.setdefault(key, [key[0], str(prediction.get("subject", "unknown")), prediction.get("expected"), known])
    cut = max(LEAST, min(MOST, WRITTEN // max(1, sum(len(given.predictions) for given in answers))))
    sets: list[dict] = []
    for given in answers:
        by_key = keyed(given.predictions)
        shown = [one(by_key[key], cut) if key in by_key else None for key in splits[given.split]]
        sets.append({"split": given.split, "name": list(given.name), "answers": shown})
    return {"splits": {split: list(listed.values()) for split, listed in splits.items()}, "sets": sets}


def options_of(refined: Path, split: str) -> dict[str, list[str]]:
    if not paths.exam_split(refined, split).exists():
        return {}
    return {question["question"]: [question[letter] for letter in prompts.LETTERS] for question in records.read_exam(refined, split)}


def one(prediction: dict, cut: int) -> list:
    """[letter or null, 1 if right, five probabilities or null, what it wrote or null, letters in all orders or null]."""
    letter = prediction["answer"]
    wrote = SPECIAL.sub("", str(prediction.get("output", ""))).strip()
    wrote = wrote[:cut] + "…" if len(wrote) > cut else wrote
    shares = prediction.get("probabilities") or []
    return [
        letter,
        int(bool(prediction["right"])),
        [round(share, 3) for share in shares] if shares and all(map(math.isfinite, shares)) else None,
        wrote if wrote and wrote != letter else None,
        prediction.get("chosen_in"),
    ]


def as_json(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element, opens a comment or breaks a line; half a surrogate
    pair, which a model may write and UTF-8 can't hold, becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace").decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
