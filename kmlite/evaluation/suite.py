"""The fixed gauge of a stage: bits per character of three kinds of text and accuracy on dev questions, at every point the same."""

import json
from pathlib import Path
from typing import NamedTuple

from kmlite import paths, prompts, records
from kmlite.cli import console
from kmlite.evaluation import generation, scoring

PRICE = 0.02  # a rise of Korean bits per character from which a gain elsewhere counts as bought with language
NAMES = {"korean": "Korean, held out", "dictionary": "dictionary", "english": "English medicine"}


class Gauge(NamedTuple):
    """What is measured. Lists are empty where the refined data lacks that kind."""

    korean: list[str]
    dictionary: list[tuple[str, str]]
    english: list[str]
    dev: list[dict]
    length: int


def prepare(refined: Path, *, texts: int, entries: int, questions: int, length: int) -> Gauge:
    """The first `texts` held-out texts, `entries` dictionary entries and `questions` dev questions of the refined data."""
    held = paths.heldout_text(refined)
    korean = list(records.read_texts([held]))[:texts] if held.exists() else []
    terms = records.read_dictionary(refined)[:entries] if (refined / paths.DICTIONARY).exists() else []
    dev = records.read_exam(refined, "dev")[:questions] if paths.exam_split(refined, "dev").exists() else []
    english = [json.loads(line)["text"] for line in paths.ENGLISH_GAUGE.read_text(encoding="utf-8").splitlines()]
    return Gauge(korean, [(prompts.dictionary_prompt(t["term"]), t["definition"]) for t in terms], english, dev, length)


def bits(model, tokenizer, gauge: Gauge) -> dict[str, float]:
    """Bits per character by kind of text; what could not be measured (no text, or none that fits the length) is left out."""
    found: dict[str, float | None] = {}
    if gauge.korean:
        found["korean"] = generation.bits_per_character(model, tokenizer, gauge.korean, gauge.length)
    if gauge.dictionary:
        found["dictionary"] = generation.answer_bits(model, tokenizer, gauge.dictionary, gauge.length)
    found["english"] = generation.bits_per_character(model, tokenizer, gauge.english, gauge.length)
    return {kind: value for kind, value in found.items() if value is not None}


def measure(model, tokenizer, gauge: Gauge) -> dict:
    """Bits per character, and under "dev" the accuracy on dev questions where there are any."""
    found: dict = {"bits": bits(model, tokenizer, gauge)}
    if gauge.dev:
        answers = scoring.answer_exam(model, tokenizer, gauge.dev, max_new_tokens=32, batch=generation.default_batch())
        found["dev"] = scoring.summarise(answers)
    return found


def is_worse(before: dict, after: dict) -> list[str]:
    """What got worse: Korean costs more bits, or dev accuracy fell below the interval it began with."""
    reasons = []
    if "korean" in before["bits"].keys() & after["bits"].keys() and after["bits"]["korean"] > before["bits"]["korean"]:
        reasons.append(f"Korean text costs {after['bits']['korean']:.4f} bits per character, {before['bits']['korean']:.4f} before")
    if "dev" in before and after["dev"]["accuracy"] < before["dev"]["interval"][0]:
        low = before["dev"]["interval"][0]
        reasons.append(f"dev accuracy is {after['dev']['accuracy']:.1f}%, below the interval of the model before (from {low:.1f}%)")
    return reasons


def price(before: dict, after: dict, gained: bool) -> str | None:
    """What a gain on the exam, if there was one, cost in language; None where Korean bits rose by PRICE at the most, or are not known."""
    if "korean" not in before["bits"].keys() & after["bits"].keys():
        return None
    rise = after["bits"]["korean"] / before["bits"]["korean"] - 1
    if rise <= PRICE:
        return None
    what = "the gain on the exam was bought with language" if gained else "language was lost and nothing gained on the exam"
    return f"{what}: Korean text costs {rise:+.1%} bits per character (more than {PRICE:.0%} is said)"


def show(points: dict[str, dict], title: str) -> None:
    """One table: a column for each point of measurement, a row for each measure."""
    from rich.table import Table

    table = Table("", *points, title=title)
    for key, name in NAMES.items():
        values = [point["bits"].get(key) for point in points.values()]
        if any(value is not None for value in values):
            table.add_row(f"bits per character, {name}", *("not measured" if value is None else f"{value:.4f}" for value in values))
    if any("dev" in point for point in points.values()):
        cells = []
        for point in points.values():
            part = point.get("dev")
            cells.append(f"{part['accuracy']:.1f}% ({part['interval'][0]:.1f}–{part['interval'][1]:.1f})" if part else "")
        table.add_row("accuracy on dev (95% interval)", *cells)
    console.print(table)
