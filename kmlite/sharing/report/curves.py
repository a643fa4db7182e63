"""What a stage has left behind, finished or not: its record, its loops, its checkpoints, and the curves to draw from them."""

from pathlib import Path

from kmlite import paths
from kmlite.files import read_json, read_record
from kmlite.sharing.report import figures, words

POINTS = 600  # of a loss curve: a longer one is drawn as the means of its neighbours


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
        found["before"] = before.get("exam", {})
    return found


def trainer_state(folder: Path) -> dict:
    """The trainer's state in the newest whole checkpoint of a stage that has not finished; empty where there is none."""
    from kmlite.training.trainer import last_checkpoint

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
    fitted = {key: metrics["memory"][key] for key in ("batch", "accumulation") if key in metrics.get("memory", {})}
    training, watched, breaks, saved, start = [], [], [], [], 0
    for part in parts:
        training += [(start + row["step"], row["loss"]) for row in part.get("curve", []) if is_number(row.get("loss"))]
        watched += [(start + row["step"], row["eval_loss"]) for row in part.get("curve", []) if is_number(row.get("eval_loss"))]
        saved += [start + step for step in checkpoints(number, {**plan.get("settings", {}), **fitted}, part)]
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
    first = next(points[name] for name in ("extended", "base", "before") if name in points)
    found = [(0, first["bits"]), *((int(step), bits) for step, bits in looks.items())]
    found.append((metrics["training"].get("steps", 0), points["after"]["bits"]))
    kinds = [kind for kind in words.GAUGED if kind in first["bits"]]
    lines = [sorted((step, bits[kind]) for step, bits in found if kind in bits) for kind in kinds]
    return {"svg": figures.curve(f"gauge{number}", lines, y=("bits per character", "글자당 비트"), marked=True), "kinds": kinds}
