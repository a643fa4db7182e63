"""Evaluate a model on exam questions: greedy answers in batches, accuracy with its 95% interval, every prediction kept.

\b
    make eval OUT=model                        stage 2's final model on the test split
    make eval OUT=model BASE=some/model        any other model, for comparison
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting
from kmlite.model import PRECISIONS


@dataclass(frozen=True)
class Settings:
    base: str = setting("", "model to evaluate; empty: stage 2's final model in OUT")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models")
    split: str = setting("test", "test counts its openings; dev may be looked at freely", ("test", "dev"))
    precision: str = setting("auto", "weights; auto takes what the free GPU memory holds", PRECISIONS)
    reasoned: bool = setting(False, "ask for a reasoning before the letter (then raise --max-new-tokens to 500)")
    max_new_tokens: int = setting(32, "tokens of an answer: a letter, or a short sentence around it")
    batch: int = setting(0, "questions answered at once; 0 chooses by device")
    length: int = setting(1024, "tokens of the longest question")
    restart: bool = setting(False, "evaluate again where nothing changed")


def main(settings: Settings) -> None:
    from kmlite import records

    console.print(f"[bold]eval[/]  {settings.split} split")
    questions = records.read_exam(settings.refined, settings.split)
    if not questions:
        raise click.ClickException(f"{paths.exam_split(settings.refined, settings.split)} is empty.")

    from kmlite import evaluation, model, runs

    if settings.base:
        base = model.resolve(settings.base)
        folder = settings.out / "eval" / settings.base.strip("/").replace("/", "--")
    else:
        base = model.final_folder(settings.out, 2, f"Run first: make stage2 OUT={settings.out}   (or name a model as BASE=…)")
        folder = settings.out / paths.STAGES[2]
    check_writable(folder)
    plan = {
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("refined", "out", "restart", "batch")},
        "model": {"folder": str(base), "fingerprint": runs.model_fingerprint(base)},
        "data": runs.fingerprint(paths.exam_split(settings.refined, settings.split)),
    }
    result_path = folder / paths.EVALUATION
    if result_path.exists() and not settings.restart and runs.read_json(result_path)["plan"] == runs.as_stored(plan):
        result = runs.read_json(result_path)
        console.print("  done before, nothing changed (ARGS=--restart evaluates again)")
        show(result["summary"])
        return
    precision = model.pick_precision(settings.precision)
    stand_in = model.is_stand_in(base)
    console.print(f"  model        {base}{' (from the embedded base: its figures say nothing about MedGemma)' if stand_in else ''}")
    console.print(f"  device       {'GPU' if model.on_gpu() else 'CPU'}, {precision} weights")
    console.print(f"  questions    {len(questions):,}, {'reasoned' if settings.reasoned else 'short'} prompt, greedy")
    loaded, tokenizer = model.load(base, precision, settings.length + settings.max_new_tokens)
    started = time.time()
    predictions = evaluation.answer_exam(
        loaded,
        tokenizer,
        questions,
        reasoned=settings.reasoned,
        max_new_tokens=settings.max_new_tokens,
        batch=settings.batch or evaluation.default_batch(),
    )
    summary = evaluation.summarise(predictions)
    openings = evaluation.log_opening(folder, "eval", summary) if settings.split == "test" else None
    runs.write_lines(folder / paths.PREDICTIONS, predictions)
    record = {
        "plan": plan,
        "summary": summary,
        "test_openings": openings,
        "stand_in": stand_in,
        "seconds": round(time.time() - started, 1),
        **runs.environment(),
    }
    runs.write_json(result_path, record)
    show(summary)
    console.print(f"  {len(questions) / max(time.time() - started, 1e-9):.1f} questions/s; every answer: {folder / paths.PREDICTIONS}")
    if openings:
        console.print(f"  test has been scored {openings} {'time' if openings == 1 else 'times'} for this model")
    if stand_in:
        console.print(f"  {evaluation.OF_THIS_SIZE}")


def show(summary: dict) -> None:
    from rich.table import Table

    from kmlite.evaluation import in_words

    table = Table("subject", "right", "of", "accuracy", "95% interval")
    for name, part in [*summary["by_subject"].items(), ("all", summary)]:
        low, high = part["interval"]
        table.add_row(name, str(part["right"]), str(part["n"]), f"{part['accuracy']:.1f}%", f"{low:.1f}–{high:.1f}%")
    console.print(table)
    letters = ", ".join(f"{letter} {n}" for letter, n in summary["letters"].items())
    console.print(f"  [bold]accuracy {in_words(summary)}[/]; answered {letters}, unreadable {summary['unreadable']}")


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
