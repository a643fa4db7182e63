"""One page for a whole OUT: what there is of it is read from the records, and what there is not is named."""

import base64
import hashlib
import shlex
from pathlib import Path

from kmlite import paths
from kmlite.evaluation import published
from kmlite.files import read_record
from kmlite.models import folders
from kmlite.sharing.report import answers, curves, examples, figures, words

PAGE = Path(__file__).parent  # where the template, its style and its script are


def build(refined: Path, out: Path, language: str, defaults: dict[str, dict]) -> str:
    """The page as HTML.

    Args:
        language: "en" or "ko", which of the two shows first.
        defaults: by step ("stage0" …) the default of each setting, to mark what differs.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": count, "signed": signed, "size": size, "duration": duration}
    given = gather(refined, out)
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html.j2").render(
        **given,
        language=language,
        defaults=defaults,
        words=words,
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
        questions=Markup(answers.as_json({**given["browser"], "subjects": words.SUBJECTS})),
        svg=Markup,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair in some model's answer is no character


def count(value: float) -> str:
    return f"{value:,}"


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def size(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def gather(refined: Path, out: Path) -> dict:
    """Everything that the template shows."""
    stages = [curves.stage(out, number) for number in range(3)]
    evaluations = list(answers.evaluations(out))
    found, problems = answers.found(out)
    funnel = read_record(refined / paths.REFINE_RECORD)
    final = next((e for e in evaluations if e["final"] and e["split"] == "test"), None)
    return {
        "out": str(out),
        "refined": str(refined),
        "steps": steps(refined, out, funnel, stages, evaluations),
        "stages": stages,
        "stand_in": is_stand_in(out, stages, evaluations),
        "funnel": funnel,
        "examples": {kind: examples.rejected(refined, kind) for kind in words.KINDS},
        "vocabulary": examples.vocabulary(refined, out, stages[0]["metrics"]),
        "learned": learned(stages[1]["metrics"]),
        "evaluations": evaluations,
        "exam": exam(stages[2], final),
        "published": beside_published(evaluations, stages[2]["metrics"]),
        "comparisons": answers.comparisons(found),
        "browser": answers.browser(found, refined),
        "problems": problems,
    }


def is_stand_in(out: Path, stages: list[dict], evaluations: list[dict]) -> bool:
    """Whether any model here descends from the embedded base: by its record, or by the folder it was made in or from."""
    if any(s["metrics"].get("stand_in") for s in stages) or any(e["record"].get("stand_in") for e in evaluations):
        return True
    bases_named = [Path(s["plan"].get("base", {}).get("name", "")) for s in stages]
    named = [*(out / name / paths.FINAL for name in paths.STAGES), *bases_named]
    return any((folder / "config.json").is_file() and folders.is_stand_in(folder) for folder in named)


# ---- the dictionary


def learned(metrics: dict) -> list[tuple[str, dict | float, dict | float]]:
    """(measure, before, after) of stage 1, for what was measured at both ends; a score where it has an interval, else a number."""
    rows = []
    flat = [flattened(metrics.get(when) or {}) for when in ("before", "after")]
    for name in words.LEARNED:
        before, after = (part.get(name) for part in flat)
        if before is not None and after is not None:
            rows.append((name, before, after))
    return rows


def flattened(measured: dict) -> dict:
    """Stage 1's measures by the names of words.LEARNED; recall was one number before it had two."""
    recall, choice = measured.get("recall"), measured.get("choice") or {}
    both = {"recall": recall["f1"], "chrf": recall["chrf"]} if isinstance(recall, dict) else {"recall": recall}
    return {**measured, **both, "choice taught": choice.get("taught"), "choice heldout": choice.get("heldout")}


# ---- accuracy


def exam(stage2: dict, final: dict | None) -> dict | None:
    """Accuracy by loop and by subject, as numbers and figures; None where nothing was asked yet."""
    metrics = stage2["metrics"]
    before, after, loops = metrics.get("before") or {}, metrics.get("after") or {}, metrics.get("loops") or []
    points = [(("before", "학습 전"), before.get("dev")), *(((str(loop["loop"]),) * 2, loop.get("dev")) for loop in loops)]
    if "dev" in after:
        points.append((("final", "최종"), after["dev"]))
    test = final["summary"] if final else after.get("test")
    asked = ((("dev before", "dev 학습 전"), before.get("dev")), (("dev after", "dev 학습 뒤"), after.get("dev")), (("test", "test"), test))
    series = [(name, part) for name, part in asked if part]
    if not series:
        return None
    names = sorted({subject for _, part in series for subject in part.get("by_subject", {})})
    rows = [(("all", "전체"), [part for _, part in series])]
    rows += [(words.both(words.SUBJECTS, name), [part.get("by_subject", {}).get(name) for _, part in series]) for name in names]
    target = (stage2["plan"].get("settings") or {}).get("target")
    return {
        "before": before,
        "after": after,
        "points": points,
        "target": target,
        "series": [name for name, _ in series],
        "rows": rows,
        "loops_svg": figures.by_loop("loops", [name for name, _ in points], [part for _, part in points], target),
        "subjects_svg": figures.by_name("subjects", rows, len(series), left=0.2),
    }


def beside_published(evaluations: list[dict], metrics: dict) -> dict | None:
    """The models of OUT that answered test among the published figures, best first; None where none did."""
    ours = [
        {"name": told_apart(e), "accuracy": e["summary"]["accuracy"], "interval": e["summary"]["interval"], **e["how"]}
        for e in evaluations
        if e["split"] == "test"
    ]
    if not ours and "test" in (metrics.get("after") or {}):
        test = metrics["after"]["test"]
        name = ("after stage 2", "2단계 뒤")
        ours = [{"name": name, "accuracy": test["accuracy"], "interval": test["interval"], "scorer": "generate", "prompt": "kmlite"}]
    if not ours:
        return None
    others = [{**row, "name": words.both(words.PUBLISHED, row["model"])} for row in published.PUBLISHED]
    rows = sorted([*ours, *others], key=lambda row: -row["accuracy"])
    return {"rows": rows, "svg": figures.by_name("published", [(row["name"], [row]) for row in rows])}


def told_apart(evaluation: dict) -> words.Both:
    """The model's name, with how it was asked where that is not the usual way."""
    how = ", ".join(value for value in (evaluation["how"]["scorer"], evaluation["how"]["prompt"]) if value not in ("generate", "kmlite"))
    english, korean = evaluation["name"]
    return (f"{english} ({how})", f"{korean} ({how})") if how else (english, korean)


# ---- where things stand


def steps(refined: Path, out: Path, funnel: dict | None, stages: list[dict], evaluations: list[dict]) -> list[dict]:
    """Each step of the pipeline with its state and, where it is not done, the command that goes on."""
    own = next((e for e in evaluations if e["final"]), None)
    states = {"refine": "done" if funnel else "missing", **{s["key"]: s["state"] for s in stages}, "eval": "done" if own else "missing"}
    refining = {"seconds": sum(part.get("seconds", 0) for part in funnel["funnel"].values())} if funnel else {}
    records = {s["key"]: s["record"] for s in stages} | {"eval": own["record"] if own else {}, "refine": refining}
    data, folders = f"REFINED={shlex.quote(str(refined))}", f"REFINED={shlex.quote(str(refined))} OUT={shlex.quote(str(out))}"
    return [
        {
            "key": key,
            "state": state,
            "record": records[key],
            "reached": next((s["reached"] for s in stages if s["key"] == key), None),
            "command": f"make {key} {data if key == 'refine' else folders}",
        }
        for key, state in states.items()
    ]
