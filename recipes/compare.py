"""Compare two evaluations of the same questions: the paired difference, its interval, and the questions that flipped.

\b
    make compare A=model/eval/google--medgemma-4b-it B=model/02_trained
"""

from dataclasses import dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import console, recipe, setting


@dataclass(frozen=True)
class Settings:
    a: Path = setting(Path("model/eval"), "folder with the eval.json of the first model (the one before)")
    b: Path = setting(Path("model/02_trained"), "folder with the eval.json of the second")
    show: int = setting(5, "flipped questions to print in each direction")


def main(settings: Settings) -> None:
    from kmlite import files, runs
    from kmlite.evaluation import scoring

    found = []
    for folder in (settings.a, settings.b):
        hint = "make eval writes it; name the folder that holds it: make compare A=… B=…"
        record = files.read_json(paths.require(folder / paths.EVALUATION, hint))
        found.append((record, files.read_lines(paths.require(folder / paths.PREDICTIONS, hint))))
    (first, a), (second, b) = found
    unlike = runs.differences(asked_how(first), asked_how(second))
    if unlike or [p["question"] for p in a] != [p["question"] for p in b]:
        raise click.ClickException(
            "the two were not asked the same questions in the same way:\n  " + "\n  ".join(unlike or ["the questions differ"])
        )
    result = scoring.compare(a, b)
    low, high = result["interval"]
    console.print(f"[bold]compare[/]  {result['n']:,} questions")
    console.print(f"  A  {scoring.in_words(result['first'])}  {settings.a}")
    console.print(f"  B  {scoring.in_words(result['second'])}  {settings.b}")
    console.print(
        f"  [bold]B − A: {result['difference']:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}; exact McNemar p = {result['p']:.3g}[/]"
    )
    console.print("  a difference" if result["p"] < 0.05 else "  no difference that these questions can show (p ≥ 0.05)")
    for name, numbers in (("gained", result["gained"]), ("lost", result["lost"])):
        console.print(f"  {name}: {len(numbers)}")
        for number in numbers[: settings.show]:
            before, after = a[number - 1], b[number - 1]
            text = " ".join(before["question"].split())[:70]
            console.print(
                f"    {number:>5}  {before['answer'] or '–'} → {after['answer'] or '–'} (right: {before['expected']})  {text}", markup=False
            )


def asked_how(record: dict) -> dict:
    """What must be the same for a comparison: data, scorer, prompt."""
    settings = record["plan"]["settings"]
    return {
        **{k: settings[k] for k in ("split", "scorer", "permute")},
        "prompt": record["prompt"],
        "data": record["plan"]["data"],
    }


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
