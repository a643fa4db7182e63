"""Compare two evaluations of the same questions: the paired difference, its interval, and the questions that flipped.

\b
    make compare A=model/eval/google--medgemma-4b-it B=model/02_trained
    make compare A=… B=… HARNESS=1                  the evaluations by lm-eval
"""

from dataclasses import dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import console, recipe, setting
from kmlite.messages import localized


@dataclass(frozen=True)
class Settings:
    a: Path = setting(Path("model/eval/google--medgemma-4b-it"), "folder with the evaluation of the first model (the one before)")
    b: Path = setting(Path("model/02_trained"), "folder with the evaluation of the second")
    harness: bool = setting(False, "compare lm-eval's evaluations in place of kmlite's own")
    show: int = setting(5, "flipped questions to print in each direction")


def main(settings: Settings) -> None:
    from kmlite import results, runs
    from kmlite.evaluation import scoring, statistics

    (first, a), (second, b) = read(settings.a, settings.b, settings.harness)
    unlike = runs.differences(asked_how(first), asked_how(second))
    if not unlike and asked_what(a) != asked_what(b):
        unlike = ["the questions themselves, or their right answers"]
    if unlike:
        listed = "\n  ".join(unlike)
        raise click.ClickException(
            f"not comparable. Besides the model, these differ between A and B:\n  {listed}\n"
            "  Evaluate one of them again as the other was (ARGS=--restart where make eval says that nothing changed)."
        )
    result = statistics.paired(a, b)
    low, high = result["interval"]
    console.print(f"[bold]compare[/]  {result['n']:,} questions")
    for name, folder, answers in (("A", settings.a, a), ("B", settings.b, b)):
        console.print(f"  {name}  {scoring.in_words(scoring.score_of(answers))}  {folder}", markup=False)
    measured = [{**one, "when": name} for name, record in (("A", first), ("B", second)) for one in record["results"]]
    results.show([one for one in measured if "way" not in one["how"]], "")
    if first["plan"]["model"]["fingerprint"] == second["plan"]["model"]["fingerprint"]:
        console.print("  A and B are the same model")
    console.print(f"  both: {how_in_words(first)}", markup=False)
    difference, p = result["difference"], result["p"]
    console.print(f"  [bold]B − A: {difference:+.1f} percentage points, 95% interval {low:+.1f} to {high:+.1f}; exact test p = {p:.3g}[/]")
    console.print("  a significant difference (p < 0.05)" if p < 0.05 else "  no significant difference (p ≥ 0.05)")
    before, after = ({p["number"]: p for p in answers} for answers in (a, b))
    for name, numbers in (("gained (wrong in A, right in B)", result["gained"]), ("lost (right in A, wrong in B)", result["lost"])):
        console.print(f"  {localized(name)}: {len(numbers)}")
        for number in numbers[: settings.show]:
            text = " ".join(before[number]["question"].split())[:70]
            letters = f"{before[number]['answer'] or '–'} → {after[number]['answer'] or '–'} (right: {before[number]['expected']})"
            console.print(f"    {number:>5}  {letters}  {text}", markup=False)


def read(a: Path, b: Path, harness: bool) -> list[tuple[dict, list[dict]]]:
    """The record of an evaluation and its predictions in each folder: kmlite's, or lm-eval's."""
    from kmlite import files

    names = (paths.HARNESS, paths.HARNESS_PREDICTIONS) if harness else (paths.EVALUATION, paths.PREDICTIONS)
    hint = (
        f"It is written by: make eval{' HARNESS=1' if harness else ''} (B), and with BASE=google/medgemma-4b-it (A).\n"
        "  Other folders: make compare A=… B=…   Evaluations by lm-eval: HARNESS=1"
    )
    found = [[paths.require(folder / name, hint) for name in names] for folder in (a, b)]
    return [(files.read_json(record), files.read_lines(answers)) for record, answers in found]


def asked_how(record: dict) -> dict:
    """All that a figure depends on besides the model: a difference in any of it would be taken for one of the models."""
    plan = record["plan"]
    settings = {key: value for key, value in plan["settings"].items() if key not in ("base", "precision")}
    precision = record.get("precision") or f"{plan['settings'].get('precision')}, as chosen on {record.get('device')}"
    return {**settings, "precision": precision, **{key: plan.get(key) for key in ("prompt", "data", "fewshot")}}


def how_in_words(record: dict) -> str:
    """What an evaluation has to be published with: split, prompt, scorer, precision."""
    from recipes.evaluate import in_words

    settings = record["plan"]["settings"]
    precision = record.get("precision") or settings.get("precision")
    orders = f", {settings['vote']} orders" if settings.get("vote", 1) > 1 else ""
    scorer = "" if record["plan"]["prompt"]["name"] == "lm-eval" else f", scorer {settings['scorer']}{orders}"
    return f"{settings['split']} split, {in_words(record['plan']['prompt'])}{scorer}, {precision}"


def asked_what(predictions: list[dict]) -> list[tuple]:
    return [(p["number"], p["question"], p["expected"]) for p in predictions]


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
