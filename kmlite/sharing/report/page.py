"""One page for a whole OUT: a loop over the results that its records hold, with the curves and answers behind them."""

import base64
import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from kmlite import paths, results
from kmlite.evaluation import published
from kmlite.files import read_record
from kmlite.models import folders
from kmlite.refine.judging import in_words as reason_in_words
from kmlite.sharing.report import answers, plots, words
from kmlite.training.callbacks import last_checkpoint

PAGE = Path(__file__).parent  # where the template, its style and its script are
EXAMPLES, SHOWN = 3, 400  # rejected records shown of each reason, and characters of one


def build(refined: Path, out: Path, language: str, defaults: dict[str, dict]) -> str:
    """The page as HTML; `language`: "en" or "ko", which shows first; `defaults`: of each setting by step, to mark what differs."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": "{:,}".format, "size": size, "duration": duration}
    given = gather(refined, out)
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2").render(
        **given,
        language=language,
        defaults=defaults,
        words=words,
        reason_in_words=reason_in_words,
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        questions=Markup(answers.as_json({**given["browser"], "subjects": results.SUBJECTS})),
        svg=Markup,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair in some model's answer is no character


def size(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def gather(refined: Path, out: Path) -> dict:
    """Everything that the template shows."""
    stages = [stage(out, number) for number in range(len(paths.STAGES))]
    evaluations = list(answers.evaluations(out))
    own = [e for e in evaluations if e["final"]]
    funnel = read_record(refined / paths.REFINE_RECORD)
    found = [one for s in stages for one in s["results"]]
    evaluated = [one for e in own for one in e["results"]]
    given, problems = answers.found(out)
    return {
        "out": str(out),
        "refined": str(refined),
        "steps": steps(refined, out, funnel, stages, own),
        "stages": stages,
        "stand_in": is_stand_in(stages, evaluations),
        "funnel": funnel,
        "examples": {kind: rejected(refined, kind) for kind in words.KINDS},
        "cards": list(cards(found, evaluated)),
        "vocabulary": stages[0]["record"].get("vocabulary"),
        "loops": plots.by_loop(stages[2]["results"], stages[2]["settings"].get("target")),
        "subjects": plots.by_subject([*found, *evaluated]),
        "evaluations": [{**e, "table": results.table(e["results"])} for e in evaluations],
        "published": beside_published(evaluations),
        "comparisons": answers.comparisons(given),
        "browser": answers.browser(given, refined),
        "problems": problems,
    }


# ---- stages, finished or not


def stage(out: Path, number: int) -> dict:
    """What is known of a stage: its record if it is done, else its plan and what it has measured and trained so far."""
    folder = out / paths.STAGES[number].folder
    record = read_record(folder / paths.RECORD) or {}
    plan = record.get("plan") or read_record(folder / paths.PLAN) or {}
    found = record or so_far(folder)
    measured, training = found.get("results", []), found.get("training", [])
    return {
        "key": f"stage{number}",
        "state": "done" if record else "unfinished" if plan else "missing",
        "record": record,
        "plan": plan,
        "settings": {**plan.get("settings", {}), **plan.get("cosmetic", {})},
        "results": measured,
        "training": training,
        "reached": found.get("reached"),
        "table": results.table(measured),
        "lost": [in_both(reason) for reason in record.get("worse", []) + record.get("also_worse", [])],
        "loss": plots.loss(f"loss{number}", training),
        "measured": plots.measured(f"measured{number}", measured, sum(part.get("steps", 0) for part in training)),
    }


def in_both(reason: str) -> results.Both:
    """What a record says got worse, in English, with the names of measures and data in Korean beside it."""
    korean = reason
    for english, told in sorted(
        [*(measure.name for measure in results.MEASURES.values()), *results.DATA.values()], key=lambda it: -len(it[0])
    ):
        korean = korean.replace(english, told)
    return reason, korean


def so_far(folder: Path) -> dict:
    """What a stage that has not finished has kept: {"results", "training", "reached": {"step", "of"} or None}."""
    kept = folder / paths.CHECKPOINTS
    journal = read_record(kept / "results.json") or {}
    found = [one for part in journal.values() for one in part["results"]]
    loops = {loop["loop"]: loop for loop in read_record(kept / "loops.json") or []}
    loops |= {loop["loop"]: loop for path in folder.glob(f"loop_*/{paths.RECORD}") if (loop := read_record(path))}
    found += [one for number in sorted(loops) for one in loops[number]["results"]]
    training = [loops[number]["training"] for number in sorted(loops)]
    checkpoints = [last_checkpoint(place) for place in (kept, *sorted(kept.glob("loop_*")))]
    state = next((json.loads((path / "trainer_state.json").read_text()) for path in reversed(checkpoints) if path), None)
    if state:
        training.append({"curve": state.get("log_history", []), "steps": state["global_step"]})
    return {"results": found, "training": training, "reached": state and {"step": state["global_step"], "of": state.get("max_steps")}}


def cards(found: list[dict], evaluated: list[dict]) -> Iterator[dict]:
    """The headlines, from before the first stage that measured it to after the last one: {"name", "value", "before", "interval",
    "change", "sign", "n"} of each that was measured."""
    for measure, data in words.HEADLINES:
        after = results.find([*found[::-1], *evaluated], measure, data) or results.find(found, measure, data, "extended")
        before = results.find(found, measure, data, "before")
        if after:
            value, _, interval = results.in_words(after).partition(" ")
            was = results.in_words(before).partition(" ")[0] if before else ""
            change, sign = results.change(before, after) if before else ("", 0)
            told = {"value": value, "before": was, "interval": interval.strip("()"), "change": change, "sign": sign}
            yield {"name": results.label(measure, data, ()), "n": after["n"], **told}


def is_stand_in(stages: list[dict], evaluations: list[dict]) -> bool:
    """Whether any model here descends from the embedded base: by its record, or by the folder it was made from."""
    if any(part["record"].get("stand_in") for part in [*stages, *evaluations]):
        return True
    named = [Path(s["plan"].get("base", {}).get("name", "")) for s in stages]
    return any((folder / "config.json").is_file() and folders.is_stand_in(folder) for folder in named)


def beside_published(evaluations: list[dict]) -> list[dict]:
    """The models of OUT that answered the whole of test (with "how" and "interval") and `published.PUBLISHED`, best first; none where
    no model did."""
    ours = []
    for e in evaluations:
        one = results.find(e["results"], "accuracy", "test")
        if one and one["n"] >= published.LEAST:
            ours.append({"name": e["name"], "accuracy": one["value"], "interval": f"{one['low']:.1f}–{one['high']:.1f}", "how": e["how"]})
    others = [{**row, "how": "", "name": row["model"]} for row in published.PUBLISHED]
    return sorted([*ours, *others], key=lambda row: -row["accuracy"]) if ours else []


def steps(refined: Path, out: Path, funnel: dict | None, stages: list[dict], own: list[dict]) -> list[dict]:
    """Each step of the pipeline with its state and, where it is not done, the command that goes on."""
    refining = {"seconds": sum(part.get("seconds", 0) for part in funnel["funnel"].values())} if funnel else {}
    first = {"key": "refine", "state": "done" if funnel else "missing", "record": refining, "reached": None}
    last = {"key": "eval", "state": "done" if own else "missing", "record": own[0]["record"] if own else {}, "reached": None}
    data, model = (f"{name}={shlex.quote(str(folder))}" for name, folder in (("REFINED", refined), ("OUT", out)))
    first["command"] = f"make refine {data}"
    return [first, *({**step, "command": f"make {step['key']} {data} {model}"} for step in (*stages, last))]


# ---- what refine set aside


def rejected(refined: Path, kind: str) -> dict[str, list[dict]]:
    """By reason, the first records that refine set aside: {"source", "line", "text"}."""
    path = refined / paths.REJECTED / f"{kind}.jsonl"
    shown: dict[str, list[dict]] = defaultdict(list)
    if not path.exists():
        return shown
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                reason, record = row["reason"], row["record"]
            except (ValueError, KeyError, TypeError):
                continue  # half a line of a folder that was copied while it was written
            if len(shown[reason]) < EXAMPLES:
                text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, indent=1) if record else ""
                cut = text[:SHOWN] + "…" if len(text) > SHOWN else text
                shown[reason].append({"source": row.get("source", ""), "line": row.get("line", 0), "text": cut})
    return shown
