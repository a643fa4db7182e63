"""What was measured: one flat list, run.json["results"] and eval.json["results"]. Every reader loops over it and knows no stage.

A result is {"stage", "when": "before" | "extended" | "step 500" | "loop 2" | "after", "measure", "data", "value", "low", "high" (95%
interval, None where there is none), "n", "unit", "how": what else decides the figure (scorer, prompt, precision, orders, subject)}.
A new measure is one `result(…)` where it is measured and one line in MEASURES: all readers take it from there.
"""

from typing import Any, NamedTuple

Both = tuple[str, str]  # (English, Korean)

PARTS = ("subject", "year")  # of the questions, by which a measure is taken besides over all of them

RISE = 0.02  # bits per character of held-out text from which a loss is reported: less is within what a few hundred texts can tell


class Measure(NamedTuple):
    name: Both
    unit: str
    digits: int
    better: int = 1  # 1: more is better; -1: less; 0: neither, a change is no gain and no loss
    key: bool = False  # a summary shows it
    guarded: bool = False  # a stage that makes it worse says so


MEASURES = {
    "bits_per_character": Measure(("bits per character", "글자당 비트"), "bits", 4, better=-1, key=True, guarded=True),
    "accuracy": Measure(("accuracy", "정확도"), "%", 1, key=True, guarded=True),
    "definition_choice": Measure(("right definition of five (chance 20%)", "다섯 가운데 맞는 뜻풀이 (찍으면 20%)"), "%", 1, key=True),
    "character_f1": Measure(("definitions from memory, character F1", "외워 쓴 뜻풀이, 글자 F1"), "%", 1, key=True),
    "chrf": Measure(("definitions from memory, chrF (0–100)", "외워 쓴 뜻풀이, chrF (0–100)"), "", 1),
    "tokens_per_character": Measure(("tokens per character", "글자당 토큰"), "tokens", 3, better=-1),
    "mean_of_subjects": Measure(("mean of subjects", "과목 평균"), "%", 1),
    "unreadable": Measure(("unreadable answers", "읽지 못한 답"), "%", 1, better=-1),
    "calibration_error": Measure(("calibration error", "보정 오차"), "", 3, better=-1),
    "letter_mass": Measure(("probability of the five letters", "다섯 글자의 확률 합"), "%", 1, better=0),
    "consistency": Measure(("same option in every order", "순서를 바꾸어도 같은 선택"), "%", 1),
}

DATA: dict[str, Both] = {
    "korean": ("Korean, held out", "떼어 둔 한국어 텍스트"),
    "english": ("English medicine", "영어 의학 텍스트"),
    "dictionary": ("dictionary", "사전"),
    "seen definitions": ("definitions, seen", "뜻풀이, 학습한 것"),
    "held-out definitions": ("definitions, held out", "뜻풀이, 떼어 둔 것"),
    "exam": ("exam questions", "시험 문제"),
    "seen": ("train questions, seen", "train 문제, 학습한 것"),
    "dev": ("dev", "dev"),
    "test": ("test", "test"),
}


SUBJECTS: dict[str, Both] = {  # of KorMedMCQA
    "doctor": ("doctor", "의사"),
    "nurse": ("nurse", "간호사"),
    "pharm": ("pharm", "약사"),
    "dentist": ("dentist", "치과의사"),
}


def result(measure: str, data: str, value: float, n: int, low: float | None = None, high: float | None = None, **how: Any) -> dict:
    """One result, still without the stage and the moment, which `stamped` adds."""
    return {"measure": measure, "data": data, "value": value, "low": low, "high": high, "n": n, "unit": MEASURES[measure].unit, "how": how}


def of_score(score: dict, measure: str, data: str, **how: Any) -> dict:
    """The result of a score with its interval, {"accuracy", "interval", "n"}."""
    low, high = score["interval"]
    return result(measure, data, score["accuracy"], score["n"], low, high, **how)


def of_answers(summary: dict, data: str, **how: Any) -> list[dict]:
    """The results of a summary of predictions: over all, by subject, and what else it holds."""
    n = summary["n"]
    found = [of_score(summary, "accuracy", data, **how)]
    if len(summary["by_subject"]) > 1:
        found.append(result("mean_of_subjects", data, summary["macro"], n, **how))
        found += [of_score(part, "accuracy", data, **how, subject=subject) for subject, part in summary["by_subject"].items()]
    if len(years := summary["by_year"]) > 1:
        found += [of_score(part, "accuracy", data, **how, year=year) for year, part in years.items()]
    found.append(result("unreadable", data, round(100 * summary["unreadable"] / max(1, n), 2), n, **how))
    for name, value in summary.items():  # a share, or a number in the measure's own unit
        if name in MEASURES and name not in ("accuracy", "unreadable"):
            found.append(result(name, data, round(value * (100 if MEASURES[name].unit == "%" else 1), 4), n, **how))
    return found


def stamped(found: list[dict], stage: str, when: str, **how: Any) -> list[dict]:
    return [{"stage": stage, "when": when, **one, "how": {**one["how"], **how}} for one in found]


# ---- read


def part_of(how: dict) -> str:
    """The subject or year that a result is of; empty over all questions."""
    return next((str(how[part]) for part in PARTS if part in how), "")


def find(results: list[dict], measure: str, data: str, when: str | None = "after") -> dict | None:
    """The result over all subjects of a measure at a moment, or at any by None; the first where there are several."""
    wanted = {"measure": measure, "data": data, **({"when": when} if when else {})}
    return next((one for one in results if not part_of(one["how"]) and wanted.items() <= one.items()), None)


def rows(results: list[dict]) -> dict[tuple, dict[str, dict]]:
    """{what was measured: {when: result}}, in the order in which they were measured."""
    out: dict[tuple, dict[str, dict]] = {}
    for one in results:
        how = tuple(sorted((key, str(value)) for key, value in one["how"].items() if key != "precision"))
        out.setdefault((one["stage"], one["measure"], one["data"], how), {})[one["when"]] = one
    return out


def moments(results: list[dict]) -> list[str]:
    """The moments of a table, in order: steps and loops, which plots show, left out."""
    found = dict.fromkeys(one["when"] for one in results)
    return [when for when in found if not when.startswith(("step ", "loop "))]


def in_words(one: dict | None) -> str:
    """`3.1234`, or `24.0% (12.3–40.1)` with its 95% interval."""
    if one is None:
        return "–"
    digits, percent = MEASURES[one["measure"]].digits, "%" if one["unit"] == "%" else ""
    value = f"{one['value']:.{digits}f}{percent}"
    return value if one["low"] is None else f"{value} ({one['low']:.{digits}f}–{one['high']:.{digits}f})"


def label(measure: str, data: str, how: tuple) -> Both:
    """What a row of a table is called, in both languages: the measure, what it was taken on, and of several ways which."""
    told = dict(how)
    named = [MEASURES[measure].name, both(DATA, data)]
    named += [(told["way"],) * 2] if "way" in told else []
    named += [both(SUBJECTS, told["subject"])] if "subject" in told else []
    named += [(f"year {told['year']}", f"{told['year']}년")] if "year" in told else []
    english, korean = zip(*named, strict=True)
    return ": ".join(english), ": ".join(korean)


def both(table: dict[str, Both], key: str) -> Both:
    """The words for `key`, or the key itself in both languages where the table has none."""
    return table.get(key, (key, key))


def change(before: dict, after: dict) -> tuple[str, int]:
    """(the difference in words, 1 where it is for the better, -1 for the worse, else 0): relative for bits and tokens, else in points."""
    measure = MEASURES[after["measure"]]
    difference = after["value"] - before["value"]
    relative = measure.unit in ("bits", "tokens") and before["value"]
    told = f"{100 * difference / before['value']:+.1f}%" if relative else f"{difference:+.{measure.digits}f}"
    return told.replace("-", "−"), measure.better * ((difference > 0) - (difference < 0))


def table(results: list[dict]) -> tuple[list[str], list[dict]]:
    """(the moments, a row for each measure: {"stage", "name" in both languages, "better", "part" (subject or year, or empty), "cells" by
    moment, "change" in words and its "sign", "n"}): what the terminal, the report and the card show."""
    columns, out = moments(results), []
    for (stage, measure, data, how), at in rows(results).items():
        shown = [at[when] for when in columns if when in at]
        if shown:
            told, sign = change(shown[0], shown[-1]) if len(shown) > 1 else ("", 0)
            row = {"stage": stage, "name": label(measure, data, how), "better": MEASURES[measure].better, "part": part_of(dict(how))}
            cells = [in_words(at.get(when)) for when in columns]
            out.append({**row, "cells": cells, "change": told, "sign": sign, "n": shown[-1]["n"]})
    return columns, out


def show(results: list[dict], title: str, parts: bool = False) -> None:
    """The table in the terminal; of several stages their names in front; `parts`: with the rows of each subject and year."""
    from kmlite import cli
    from kmlite.messages import language

    (columns, found), several = table(results), len({one["stage"] for one in results}) > 1
    compared = len(columns) > 1
    lines = cli.table(*["stage"] * several, "", *(columns if compared else ["value"]), *["change"] * compared, "n", title=title)
    last = ""
    for row in found:
        if parts or not row["part"]:
            named = [row["stage"] if row["stage"] != last else ""] * several
            lines.add_row(*named, row["name"][language() == "ko"], *row["cells"], *[row["change"]] * compared, f"{row['n']:,}")
            last = row["stage"]
    cli.console.print(lines)


def losses(results: list[dict], trained_on: set[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """What a stage made worse between "before" and "after": (of what it teaches, of what it does not).

    Worse is a guarded measure beyond the interval it began with; of one without, as bits per character, any change for the worse of what
    the stage trains on, else one over RISE. What depends on how one is asked (unreadable answers, calibration) is not guarded.
    """
    worse: list[str] = []
    others: list[str] = []
    for (_, measure, data, how), found in rows(results).items():
        before, after = found.get("before"), found.get("after")
        if not before or not after or part_of(dict(how)) or not MEASURES[measure].guarded:
            continue
        trained, (told, sign) = (measure, data) in trained_on, change(before, after)
        if before["low"] is None:
            fell, told = sign < 0 and (trained or abs(after["value"] - before["value"]) > RISE * before["value"]), f" ({told})"
        else:
            fell, told = sign < 0 and not before["low"] <= after["value"] <= before["high"], ""
        if fell:
            named = f"{MEASURES[measure].name[0]}, {both(DATA, data)[0]}"
            (worse if trained else others).append(f"{named}: {in_words(before)} → {in_words(after)}{told}")
    return worse, others
