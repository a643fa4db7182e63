"""One page for a whole OUT: what there is of it is read from the records, and what there is not is named."""

import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from kmlite import answers, bases, figures, paths, published, words
from kmlite.runs import read_json, read_lines, read_record

PAGE = Path(__file__).with_name("page")
EXAMPLES = 3  # rejected records shown of each reason
SHOWN = 400  # characters of one
POINTS = 600  # of a loss curve: a longer one is drawn as the means of its neighbours
SENTENCE = re.compile(r"[^.!?\n]{20,70}[.!?](?=\s|$)")
COMMANDS = {"refine": "make refine", "stage0": "make stage0", "stage1": "make stage1", "stage2": "make stage2", "eval": "make eval"}


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
    return f"{value / 2**30:.2f} GiB" if value >= 2**28 else f"{value / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def gather(refined: Path, out: Path) -> dict:
    """Everything that the template shows."""
    stages = [stage(out, number) for number in range(3)]
    evaluations = list(evaluated(out))
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
        "examples": {kind: rejected(refined, kind) for kind in words.KINDS},
        "vocabulary": vocabulary(refined, out, stages[0]["metrics"]),
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
    folders = [*(out / name / paths.FINAL for name in paths.STAGES), *bases_named]
    return any((folder / "config.json").is_file() and bases.is_stand_in(folder) for folder in folders)


# ---- the stages and their curves


def stage(out: Path, number: int) -> dict:
    """What is known of a stage: its record if it is done, else its plan, its checkpoints and its finished loops."""
    folder = out / paths.STAGES[number]
    record = read_record(folder / paths.RECORD)
    plan = (record or {}).get("plan") or read_record(folder / paths.PLAN)
    metrics = (record or {}).get("metrics", {})
    if number == 2 and not record:
        metrics = so_far(folder)
    return {
        "key": f"stage{number}",
        "folder": str(folder),
        "state": "done" if record else "unfinished" if plan else "missing",
        "record": record or {},
        "plan": plan or {},
        "metrics": metrics,
        "reached": reached(folder),
        "curve": curve_of(number, plan or {}, metrics, folder),
        "measured": measured_curve(number, metrics),
    }


def so_far(folder: Path) -> dict:
    """Stage 2 before its end: {"before", "loops"} of what is done."""
    kept = folder / paths.CHECKPOINTS
    loops = {loop["loop"]: loop for loop in read_record(kept / "loops.json") or []}
    for path in folder.glob(f"loop_*/{paths.RECORD}"):
        if loop := read_record(path):
            loops[loop["loop"]] = loop
    found = {"loops": [loops[number] for number in sorted(loops)]} if loops else {}
    if before := read_record(kept / "before.json"):
        found["before"] = before
    return found


def trainer_state(folder: Path) -> dict:
    """The trainer's state in the newest whole checkpoint of a stage that has not finished; empty where there is none."""
    from kmlite.training import last_checkpoint

    places = [folder / paths.CHECKPOINTS, *(folder / paths.CHECKPOINTS).glob("loop_*")]
    checkpoint = next((found for place in reversed(places) if (found := last_checkpoint(place))), None)
    return read_json(checkpoint / "trainer_state.json") if checkpoint else {}


def reached(folder: Path) -> dict | None:
    state = trainer_state(folder)
    return {"step": state["global_step"], "of": state.get("max_steps")} if state else None


def curve_of(number: int, plan: dict, metrics: dict, folder: Path) -> dict | None:
    """The loss of a stage's training as a figure, with what its caption needs; None where there is no log yet."""
    parts = [loop["training"] for loop in metrics.get("loops", []) if "training" in loop]
    if "training" in metrics:
        parts = [metrics["training"]]
    elif state := trainer_state(folder):
        parts = [*parts, {"curve": state.get("log_history", []), "steps": state["global_step"]}]
    training, watched, breaks, saved, start = [], [], [], [], 0
    for part in parts:
        training += [(start + row["step"], row["loss"]) for row in part.get("curve", []) if is_number(row.get("loss"))]
        watched += [(start + row["step"], row["eval_loss"]) for row in part.get("curve", []) if is_number(row.get("eval_loss"))]
        saved += [start + step for step in checkpoints(number, plan.get("settings", {}), part)]
        start += part.get("steps", 0)
        breaks.append(start)
    if not training:
        return None
    thinned = len(training) > POINTS
    svg = figures.curve(
        f"loss{number}",
        [thin(training), thin(watched)],
        y=("loss, nats a token", "손실, 토큰당 내트"),
        checkpoints=saved if len(saved) <= 60 else [],
        breaks=breaks[:-1],
    )
    return {
        "svg": svg,
        "watched": bool(watched),
        "loops": len(breaks) if number == 2 else 0,
        "saved": 0 < len(saved) <= 60,
        "thinned": thinned,
        "steps": start,
        "parts": parts,
        "first": training[0],
        "last": training[-1],
        "last_watched": watched[-1] if watched else None,
    }


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and value == value and abs(value) != float("inf")


def checkpoints(number: int, settings: dict, part: dict) -> list[int]:
    """The steps at which the settings have a checkpoint written: each --save-every steps (stage 1: each epoch), and the last."""
    steps = part.get("steps", 0)
    every = settings.get("save_every", 0)
    if number == 1 and part.get("rows"):
        batches = -(-part["rows"] // settings.get("batch", 1))
        every = -(-batches // settings.get("accumulation", 1))
    return sorted({*range(every, steps + 1, every), steps}) if every and steps else []


def thin(points: figures.Points) -> figures.Points:
    """At most POINTS points: means of neighbours."""
    width = -(-len(points) // POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width or 1)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups] if width > 1 else points


def measured_curve(number: int, metrics: dict) -> dict | None:
    """Bits per character while training, from the extended model to the finished one, where the stage looked in between."""
    looks = metrics.get("training", {}).get("measured") or {}
    points = metrics.get("gauge") or {}
    if not looks or "after" not in points:
        return None
    first = points.get("extended") or points.get("base") or points.get("before")
    found = [(0, first["bits"]), *((int(step), bits) for step, bits in looks.items())]
    found.append((metrics["training"].get("steps", 0), points["after"]["bits"]))
    kinds = [kind for kind in words.GAUGED if kind in first["bits"]]
    lines = [sorted((step, bits[kind]) for step, bits in found if kind in bits) for kind in kinds]
    return {"svg": figures.curve(f"gauge{number}", lines, y=("bits per character", "글자당 비트"), marked=True), "kinds": kinds}


# ---- refine and the vocabulary


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
                text = in_lines(record)
                cut = text[:SHOWN] + "…" if len(text) > SHOWN else text
                shown[reason].append({"source": row.get("source", ""), "line": row.get("line", 0), "text": cut})
    return shown


def in_lines(record: object) -> str:
    """A record as a person reads it: a text as it stands, fields one a line."""
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        return "\n".join(
            f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}" for key, value in record.items()
        )
    return "" if record is None else json.dumps(record, ensure_ascii=False)


def vocabulary(refined: Path, out: Path, metrics: dict) -> dict | None:
    """The gain as measured by stage 0, and sentences as tokens before and after; None before stage 0 is done."""
    if "gain" not in metrics:
        return None
    path = out / paths.STAGES[0] / paths.FINAL / "tokenizer.json"
    new, held = metrics.get("new_tokens", 0), paths.heldout_text(refined)
    examples = split_both_ways(path, new, sentences(held)) if new and path.exists() and held.exists() else []
    return {"new_tokens": new, **metrics["gain"], "examples": examples}


def sentences(path: Path, most: int = 5000) -> Iterator[str]:
    """The first sentences of 20 to 70 characters in a file of texts."""
    from kmlite.records import read_texts

    for text in read_texts([path]):
        for match in SENTENCE.finditer(text):
            yield match[0].strip()
            most -= 1
            if not most:
                return


def split_both_ways(path: Path, new: int, texts: Iterator[str], most: int = 4) -> list[dict]:
    """The first sentences that the new tokens make shorter: {"before", "after": [(piece, how many tokens, is new)]}.

    The tokenizer before is the one after without its last `new` merges: that is how vocabulary.extend_tokenizer made it.
    """
    from tokenizers import Tokenizer

    data = read_json(path)
    after = Tokenizer.from_str(json.dumps(data))
    last = {"".join(merge if isinstance(merge, list) else merge.split(" ")) for merge in data["model"]["merges"][-new:]}
    data["model"]["merges"] = data["model"]["merges"][:-new]
    before = Tokenizer.from_str(json.dumps(data))
    found = []
    for text in texts:
        old, now = (tokenizer.encode(text, add_special_tokens=False) for tokenizer in (before, after))
        if len(now.ids) < len(old.ids):
            found.append({"before": pieces(text, old, set()), "after": pieces(text, now, last), "tokens": (len(old.ids), len(now.ids))})
        if len(found) == most:
            break
    return found


def pieces(text: str, encoded, new: set[str]) -> list[tuple[str, int, bool]]:
    """(the characters, how many tokens they are, whether a new token) along a text; a character may be several byte tokens."""
    out: list[list] = []
    for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True):
        if out and out[-1][3] == (start, end):
            out[-1][1] += 1
        else:
            out.append([text[start:end], 1, token in new, (start, end)])
    return [(piece, tokens, is_new) for piece, tokens, is_new, _ in out]


# ---- accuracy


def evaluated(out: Path) -> Iterator[dict]:
    """Each eval.json below OUT: stage 2's own first."""
    own = out / paths.STAGES[2] / paths.EVALUATION
    for path in [own, *sorted((out / "eval").rglob(paths.EVALUATION))]:
        record = read_record(path)
        if not record:
            continue
        settings = record["plan"]["settings"]
        name = ("after stage 2", "2단계 뒤") if path == own else (str(path.parent.relative_to(out / "eval")).replace("--", "/"),) * 2
        yield {
            "name": name,
            "final": path == own,
            "record": record,
            "summary": record["summary"],
            "split": settings.get("split", "test"),
            "scorer": settings.get("scorer", "generate"),
            "prompt": (record.get("prompt") or {}).get("name", "kmlite"),
            "openings": openings(path.with_name(paths.TEST_LOG)),
        }


def openings(path: Path) -> int:
    return len(read_lines(path)) if path.exists() else 0


def exam(stage2: dict, final: dict | None) -> dict | None:
    """Accuracy by loop and by subject, as numbers and figures; None where nothing was asked yet."""
    metrics = stage2["metrics"]
    before, after, loops = metrics.get("before") or {}, metrics.get("after") or {}, metrics.get("loops") or []
    points = [(("before", "학습 전"), before.get("dev")), *(((str(loop["loop"]),) * 2, loop.get("dev")) for loop in loops)]
    if "dev" in after:
        points.append((("final", "최종"), after["dev"]))
    series = [(("dev before", "dev 학습 전"), before.get("dev")), (("dev after", "dev 학습 뒤"), after.get("dev"))]
    series.append((("test", "test"), final["summary"] if final else after.get("test")))
    series = [(name, part) for name, part in series if part]
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
        {
            "name": e["name"],
            "accuracy": e["summary"]["accuracy"],
            "interval": e["summary"]["interval"],
            "how": e["scorer"],
            "prompt": e["prompt"],
        }
        for e in evaluations
        if e["split"] == "test"
    ]
    if not ours and "test" in (metrics.get("after") or {}):
        test = metrics["after"]["test"]
        name = ("after stage 2", "2단계 뒤")
        ours = [{"name": name, "accuracy": test["accuracy"], "interval": test["interval"], "how": "generate", "prompt": "kmlite"}]
    if not ours:
        return None
    others = [{**row, "name": words.both(words.PUBLISHED, row["model"])} for row in published.PUBLISHED]
    rows = sorted([*ours, *others], key=lambda row: -row["accuracy"])
    return {"rows": rows, "svg": figures.by_name("published", [(row["name"], [row]) for row in rows])}


# ---- where things stand


def steps(refined: Path, out: Path, funnel: dict | None, stages: list[dict], evaluations: list[dict]) -> list[dict]:
    """Each step of the pipeline with its state and, where it is not done, the command that goes on."""
    own = next((e for e in evaluations if e["final"]), None)
    states = {"refine": "done" if funnel else "missing", **{s["key"]: s["state"] for s in stages}, "eval": "done" if own else "missing"}
    refining = {"seconds": sum(part.get("seconds", 0) for part in funnel["funnel"].values())} if funnel else {}
    records = {s["key"]: s["record"] for s in stages} | {"eval": own["record"] if own else {}, "refine": refining}
    places = {"refine": f"REFINED={refined}", "eval": f"REFINED={refined} OUT={out}"}
    return [
        {
            "key": key,
            "state": state,
            "record": records[key],
            "reached": next((s["reached"] for s in stages if s["key"] == key), None),
            "command": f"{COMMANDS[key]} {places.get(key, f'REFINED={refined} OUT={out}')}",
        }
        for key, state in states.items()
    ]
