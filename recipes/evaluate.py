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
from kmlite.scoring import SCORERS


@dataclass(frozen=True)
class Settings:
    base: str = setting("", "model to evaluate; empty: stage 2's final model in OUT")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models")
    split: str = setting("test", "test counts its openings; dev may be looked at freely", ("test", "dev"))
    precision: str = setting("auto", "weights; auto takes what the free GPU memory holds", PRECISIONS)
    scorer: str = setting(
        "generate", "generate writes and reads the answer; letter compares the likelihoods of A to E, far faster", SCORERS
    )
    permute: int = setting(1, "cyclic orders of the options to ask each question in, 1 to 5: shows a pull towards a letter")
    reasoned: bool = setting(False, "ask for a reasoning before the letter (then raise --max-new-tokens to 500)")
    max_new_tokens: int = setting(32, "tokens of an answer: a letter, or a short sentence around it")
    batch: int = setting(0, "questions answered at once; 0 chooses by device")
    length: int = setting(1024, "tokens of the longest question")
    restart: bool = setting(False, "evaluate again where nothing changed")


def main(settings: Settings) -> None:
    from kmlite import records

    console.print(f"[bold]eval[/]  {settings.split} split")
    if not 1 <= settings.permute <= 5:
        raise click.ClickException(f"--permute {settings.permute}: five options have 1 to 5 cyclic orders.")
    if settings.scorer == "letter" and settings.reasoned:
        raise click.ClickException(
            "--scorer letter looks at the first token, where a reasoned answer has no letter yet. Leave one of them out."
        )
    questions = records.read_exam(settings.refined, settings.split)
    if not questions:
        raise click.ClickException(f"{paths.exam_split(settings.refined, settings.split)} is empty.")

    from kmlite import bases, evaluation, model, prompts, runs, scoring

    if settings.base:
        base = bases.resolve(settings.base)
        folder = settings.out / "eval" / settings.base.strip("/").replace("/", "--")
    else:
        base = bases.final_folder(settings.out, 2, f"Run first: make stage2 OUT={settings.out}   (or name a model as BASE=…)")
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
    stand_in = bases.is_stand_in(base)
    console.print(f"  model        {base}{' (from the embedded base: its figures say nothing about MedGemma)' if stand_in else ''}")
    console.print(f"  device       {'GPU' if model.on_gpu() else 'CPU'}, {precision} weights")
    console.print(f"  questions    {len(questions):,}, {'reasoned' if settings.reasoned else 'short'} prompt, scorer {settings.scorer}")
    loaded, tokenizer = model.load(base, precision, settings.length + settings.max_new_tokens)
    started = time.time()
    how = {"scorer": settings.scorer, "reasoned": settings.reasoned, "max_new_tokens": settings.max_new_tokens}
    how["batch"] = settings.batch or evaluation.default_batch()
    if settings.permute > 1:
        predictions = scoring.answer_rotated(loaded, tokenizer, questions, settings.permute, **how)
    else:
        predictions = scoring.answer_exam(loaded, tokenizer, questions, **how)
    summary = scoring.summarise(predictions)
    openings = scoring.log_opening(folder, "eval", summary) if settings.split == "test" else None
    runs.write_lines(folder / paths.PREDICTIONS, predictions)
    record = {
        "plan": plan,
        "summary": summary,
        "prompt": {"name": "kmlite-reasoned" if settings.reasoned else "kmlite", "version": prompts.VERSION},
        "test_openings": openings,
        "stand_in": stand_in,
        "seconds": round(time.time() - started, 1),
        **runs.environment(),
    }
    runs.write_json(result_path, record)
    show(summary)
    console.print(f"  {len(predictions) / max(time.time() - started, 1e-9):.1f} questions/s; every answer: {folder / paths.PREDICTIONS}")
    if openings:
        console.print(f"  test has been scored {openings} {'time' if openings == 1 else 'times'} for this model")
    if stand_in:
        console.print(f"  {scoring.OF_THIS_SIZE}")


def show(summary: dict) -> None:
    from rich.table import Table

    from kmlite.scoring import in_words

    table = Table("subject", "right", "of", "accuracy", "95% interval")
    for name, part in [*summary["by_subject"].items(), ("all", summary)]:
        low, high = part["interval"]
        table.add_row(name, str(part["right"]), str(part["n"]), f"{part['accuracy']:.1f}%", f"{low:.1f}–{high:.1f}%")
    console.print(table)
    letters = ", ".join(f"{letter} {n}" for letter, n in summary["letters"].items())
    console.print(f"  [bold]accuracy {in_words(summary)}[/], mean of subjects {summary['macro']:.1f}%")
    console.print(f"  answered {letters}, unreadable {summary['unreadable']}")
    if "calibration_error" in summary:
        mass = summary["letter_mass"]
        console.print(
            f"  calibration error {summary['calibration_error']:.3f}; the five letters hold {mass:.1%} of the next token's probability"
        )
    if "pull" in summary:
        pull = ", ".join(f"{letter} {100 * share:+.1f}" for letter, share in summary["pull"].items())
        console.print(
            f"  over {summary['orders']} orders: the same option {summary['consistency']:.1%} of the time; pull in points: {pull}"
        )


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
