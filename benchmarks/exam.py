"""What three choices of stage 2 are worth on the embedded base: options in a new order, reasonings among the rows, where the loss counts.

    .venv/bin/python -m benchmarks.exam study      four ways, three seeds each, a minute a run; goes on where it was stopped
    .venv/bin/python -m benchmarks.exam table      means and paired differences, with 95% intervals over seeds
    .venv/bin/python -m benchmarks.exam plot       docs/exam.svg from the study

Needs `make demo` before: its refined sample and its stage 1. Results go to model/benchmarks/exam.
"""

import dataclasses
import math
import statistics
import sys
import time
from pathlib import Path

from kmlite import files, paths, prompts
from recipes.stage2 import Settings

REFINED, BASE, OUT = Path("data/demo/02_refined"), Path("model/demo/01_trained/final"), Path("model/benchmarks/exam")
SEEDS = (0, 1, 2)
PLAIN = "plain"  # options as given, short answers, loss on the answer alone
WAYS = {PLAIN: {}, "shuffled": {"shuffle": True}, "5% reasoned": {"reasoned_share": 0.05}, "full loss": {"full": True}}
MEASURES = {  # name: (what it is, whether it is a share)
    "taught": ("taught questions, options as taught", True),
    "moved": ("taught questions, options moved", True),
    "dev": ("new questions (dev)", True),
    "shape": ("whole reasonings when asked for one", True),
    "korean": ("bits per character, held-out Korean", False),
}
T = {3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided 95%, by number of seeds


def rows_of(tokenizer, questions: list[dict], settings: Settings, full: bool) -> list[dict]:
    """The rows of a run in the order to train on; with `full` the loss counts the question too."""
    from kmlite.training import exam_rows

    rows, _ = exam_rows.rows_of_loop(tokenizer, questions, 1, settings)
    return [{**row, "labels": [prompts.IGNORED, *row["input_ids"][1:]]} for row in rows] if full else rows


def measured(network, tokenizer, taught: list[dict], dev: list[dict], measured_on) -> dict[str, float]:
    from kmlite.evaluation import generation, scoring, suite
    from kmlite.training import self_training, shuffling

    def accuracy(asked: list[dict]) -> float:
        answers = scoring.answer_exam(network, tokenizer, asked, scorer="letter", batch=32)
        return sum(answer["right"] for answer in answers) / len(answers)

    free = [question for question in taught if not shuffling.names_places(question)]
    asked = [prompts.exam_prompt(question, reasoned=True) for question in dev]
    turns = generation.generate(network, tokenizer, asked, max_new_tokens=200, batch=32)
    whole = [self_training.plain(turn) and prompts.read_answer(turn) for turn in turns]
    return {
        "taught": accuracy(taught),
        "moved": statistics.mean(accuracy([scoring.rotated(question, by) for question in free]) for by in (1, 2, 3, 4)),
        "dev": accuracy(dev),
        "shape": sum(map(bool, whole)) / len(whole),
        "korean": suite.bits(network, tokenizer, measured_on)["korean"],
    }


def run(change: dict, seed: int, folder: Path) -> dict:
    """Train one way from the demo's stage 1 and measure what came out, without a merge."""
    import shutil

    from kmlite import records
    from kmlite.evaluation import suite
    from kmlite.models import loading
    from kmlite.training import exam_rows, stages, trainer

    change = dict(change)
    full = change.pop("full", False)
    settings = Settings(
        **{"batch": 4, "accumulation": 1, "epochs": 12, "learning_rate": 1e-4, "log_every": 1000, "shuffle": False, "reasoned_share": 0.0},
        seed=seed,
    )
    settings = dataclasses.replace(settings, **change)
    questions, dev = (records.read_exam(REFINED, split) for split in ("train", "dev"))
    questions, _ = exam_rows.without_leaks(questions, dev)
    measured_on = suite.prepare(REFINED, texts=200, entries=0, questions=0, length=128)
    network, tokenizer = loading.load(BASE, "16bit", settings.length)
    before = measured(network, tokenizer, questions, dev, measured_on)
    adapted = stages.adapt(network, settings, recompute=False)
    shutil.rmtree(folder, ignore_errors=True)
    started = time.time()
    rows = rows_of(tokenizer, questions, settings, full)
    result = trainer.train(adapted, tokenizer, rows, folder, settings, order="sequential", epochs=1)
    seconds = round(time.time() - started, 1)
    shutil.rmtree(folder, ignore_errors=True)
    after = measured(adapted, tokenizer, questions, dev, measured_on)
    return {
        "before": before,
        "after": after,
        "rows": len(rows),
        "loss": result["loss"],
        "seconds": seconds,
        "n": [len(questions), len(dev)],
    }


def study() -> None:
    for seed in SEEDS:
        for way, change in WAYS.items():
            result = OUT / "study" / f"{way}-{seed}.json"
            if not result.exists():
                files.write_json(result, {"way": way, "seed": seed, **run(change, seed, OUT / "work")})
    table()


def results() -> dict[str, dict[int, dict]]:
    """Way → seed → result, for the seeds that all ways have been run with."""
    found: dict[str, dict[int, dict]] = {way: {} for way in WAYS}
    for path in sorted((OUT / "study").glob("*.json")):
        result = files.read_json(path)
        found[result["way"]][result["seed"]] = result
    shared = set.intersection(*(set(by_seed) for by_seed in found.values()))
    if len(shared) not in T:
        sys.exit(f"{len(shared)} seeds are done for all ways; three to five are needed. Go on with: python -m benchmarks.exam study")
    return {way: {seed: by_seed[seed] for seed in sorted(shared)} for way, by_seed in found.items()}


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half of its 95% interval over seeds)."""
    return statistics.mean(values), T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def differences(found: dict[str, dict[int, dict]], way: str, measure: str) -> list[float]:
    """A way's figure less the plain one's of the same seed."""
    return [r["after"][measure] - found[PLAIN][seed]["after"][measure] for seed, r in found[way].items()]


def said(mean: float, half: float, share: bool, sign: str = "") -> str:
    return f"{100 * mean:{sign}.1f} ± {100 * half:.1f}" if share else f"{mean:{sign}.3f} ± {half:.3f}"


def table() -> None:
    """Each way's mean and 95% interval over seeds, then what it differs from plain by, seed by seed; * where 0 is outside."""
    found = results()
    print("| measure | before |", " | ".join(found), "|")
    print("| --- | --- |", " | ".join("---" for _ in found), "|")
    for measure, (name, share) in MEASURES.items():
        before = next(iter(found[PLAIN].values()))["before"][measure]
        cells = [said(*interval([r["after"][measure] for r in by_seed.values()]), share) for by_seed in found.values()]
        print(f"| {name} | {f'{100 * before:.1f}' if share else f'{before:.3f}'} |", " | ".join(cells), "|")
    print("\n| difference to plain |", " | ".join(way for way in found if way != PLAIN), "|")
    print("| --- |", " | ".join("---" for _ in list(found)[1:]), "|")
    for measure, (name, share) in MEASURES.items():
        cells = []
        for way in list(found)[1:]:
            mean, half = interval(differences(found, way, measure))
            cells.append(said(mean, half, share, "+") + (" *" if abs(mean) > half else ""))
        print(f"| {name} |", " | ".join(cells), "|")
    seconds = [r["seconds"] for by_seed in found.values() for r in by_seed.values()]
    print(f"\n{len(seconds)} runs, {min(seconds):.0f} to {max(seconds):.0f} s of training each")


def plot() -> None:
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "kmlite", "font.size": 9})
    found = results()
    shown = {measure: said for measure, said in MEASURES.items() if measure != "shape"}
    figure, axes = plt.subplots(1, len(shown), figsize=(12, 3.6))
    for axis, (measure, (name, share)) in zip(axes, shown.items(), strict=True):
        scale = 100 if share else 1
        for i, by_seed in enumerate(found.values()):
            values = [scale * r["after"][measure] for r in by_seed.values()]
            mean, half = interval(values)
            axis.errorbar(i, mean, half, fmt="_", color="black", capsize=4, zorder=2)
            axis.plot([i] * len(values), values, "o", markersize=3, alpha=0.6, zorder=3)
        axis.axhline(scale * next(iter(found[PLAIN].values()))["before"][measure], color="gray", linestyle=":", label="before training")
        if measure in ("taught", "moved", "dev"):
            axis.axhline(20, color="gray", linestyle="--", linewidth=0.8, label="by chance")
        axis.set_xticks(range(len(found)), list(found), rotation=30, ha="right")
        axis.set_title(name, fontsize=9)
        if share:
            axis.set(ylim=(-4, 104), ylabel="%")
    axes[0].legend(fontsize=7)
    figure.suptitle(f"Embedded base, {len(found[PLAIN])} seeds: dots are seeds, bars 95% intervals of their mean")
    figure.tight_layout()
    figure.savefig(paths.ROOT / "docs/exam.svg", metadata={"Date": None})


if __name__ == "__main__":
    names = {"study": study, "table": table, "plot": plot}
    if len(sys.argv) != 2 or sys.argv[1] not in names:
        sys.exit(__doc__)
    names[sys.argv[1]]()
