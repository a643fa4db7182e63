"""Evaluate a model on exam questions: greedy answers in batches, accuracy with its 95% interval, every prediction kept.

\b
    make eval OUT=model                        stage 2's final model on the test split
    make eval OUT=model BASE=some/model        any other model, for comparison
    make eval OUT=model ARGS="--prompt lm-eval --shots 5"    asked and read as lm-eval's kormedmcqa does it
    make eval OUT=model HARNESS=1              lm-eval itself (recipes/harness.py)
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting
from kmlite.evaluation.scoring import SCORERS
from kmlite.models.loading import PRECISIONS
from kmlite.prompts import PROMPTS

TEMPLATE_TOKENS = 32  # what a chat template adds to a prompt, generously


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
    prompt: str = setting(
        "kmlite",
        "kmlite asks for a letter; kmlite-reasoned for a reasoning before it; lm-eval is its kormedmcqa task, word for word",
        PROMPTS,
    )
    shots: int = setting(0, "few-shot examples before the question, with the lm-eval prompt; 0 or 5 in published figures")
    chat: bool = setting(False, "put the lm-eval prompt into the chat template, which lm-eval does only with --apply_chat_template")
    max_new_tokens: int = setting(0, "tokens of an answer at the most; 0 takes 32, 500 reasoned, 1024 with the lm-eval prompt as it does")
    batch: int = setting(0, "questions answered at once; 0 chooses by device and free memory")
    restart: bool = setting(False, "evaluate again where nothing changed")


def main(settings: Settings) -> None:
    from kmlite import records

    console.print(f"[bold]eval[/]  {settings.split} split")
    if not 1 <= settings.permute <= 5:
        raise click.ClickException(f"--permute {settings.permute}: five options have 1 to 5 cyclic orders.")
    if settings.scorer == "letter" and settings.prompt != "kmlite":
        why = (
            "where a reasoned answer has no letter yet" if settings.prompt == "kmlite-reasoned" else "while lm-eval reads a written answer"
        )
        raise click.ClickException(f"--scorer letter looks at the first token, {why}. Leave it out, or take --prompt kmlite.")
    if (settings.shots or settings.chat) and settings.prompt != "lm-eval":
        raise click.ClickException("--shots and --chat belong to lm-eval's prompt; add --prompt lm-eval.")
    if settings.shots < 0:
        raise click.ClickException(f"--shots {settings.shots}: 0 or more examples.")
    questions = records.read_exam(settings.refined, settings.split)
    if not questions:
        raise click.ClickException(f"{paths.exam_split(settings.refined, settings.split)} is empty.")
    fewshot = records.read_exam(settings.refined, "fewshot") if settings.shots else []

    from kmlite import files, prompts, results, runs
    from kmlite.evaluation import generation, scoring
    from kmlite.models import folders, loading

    questions, examples, among = without_examples(questions, fewshot, settings.shots)
    max_new_tokens = settings.max_new_tokens or prompts.TOKENS[settings.prompt]

    base, folder = model_and_folder(settings.base, settings.out, settings.split)
    check_writable(folder)
    plan: dict = {
        "settings": {
            **{k: v for k, v in asdict(settings).items() if k not in ("refined", "out", "restart", "batch")},
            "max_new_tokens": max_new_tokens,
        },
        "prompt": prompt_record(settings),
        "model": {"folder": str(base), "fingerprint": files.model_fingerprint(base)},
        "data": files.fingerprint(paths.exam_split(settings.refined, settings.split)),
        **({"fewshot": files.fingerprint(paths.exam_split(settings.refined, "fewshot"))} if settings.shots else {}),
    }
    result_path = folder / paths.EVALUATION
    if not settings.restart and (files.read_record(result_path, "plan") or {}).get("plan") == runs.as_stored(plan):
        result = files.read_json(result_path)
        console.print("  done before, nothing changed (ARGS=--restart evaluates again)")
        show(result["summary"])
        show_published(result)
        return
    precision = loading.pick_precision(settings.precision, base)
    stand_in = folders.is_stand_in(base)
    console.print(f"  model        {base}{folders.said_of(base)}")
    console.print(f"  device       {'GPU' if loading.on_gpu() else 'CPU'}, {precision} weights")
    console.print(f"  questions    {len(questions):,}, {in_words(plan['prompt'])}, scorer {settings.scorer}")
    if among:
        console.print(f"  left out     {among} questions that are few-shot examples themselves")
    loading.fast_model()  # before transformers, which it changes
    tokenizer = loading.load_tokenizer(base)
    asked = scoring.exam_prompts(questions, settings.prompt, examples)
    tokens = max(len(tokenizer(text)["input_ids"]) for text in asked) + TEMPLATE_TOKENS + max_new_tokens
    loaded, tokenizer = loading.load(base, precision, tokens)
    batch = settings.batch or generation.default_batch(loaded, tokens)
    console.print(f"  batch        {batch} questions at once, the longest {tokens:,} tokens with its answer")
    started = time.time()
    how: dict = {"scorer": settings.scorer, "max_new_tokens": max_new_tokens, "batch": batch}
    how |= {"prompt": settings.prompt, "examples": examples, "chat": settings.chat}
    if settings.permute > 1:
        predictions = scoring.answer_rotated(loaded, tokenizer, questions, settings.permute, **how)
    else:
        predictions = scoring.answer_exam(loaded, tokenizer, questions, **how)
    summary = scoring.summarise(predictions)
    openings = scoring.log_opening(folder, "eval", summary) if settings.split == "test" else None
    files.write_lines(folder / paths.PREDICTIONS, predictions)
    record = {
        "plan": plan,
        "summary": summary,
        "results": results.stamped(results.of_answers(summary, settings.split, **how_asked(settings, precision)), "eval", "after"),
        "prompt": plan["prompt"],
        "precision": f"{precision}, {str(loaded.dtype).removeprefix('torch.')}",  # of the weights, and what they compute in
        "test_openings": openings,
        "stand_in": stand_in,
        "seconds": round(time.time() - started, 1),
        **runs.environment(),
    }
    files.write_json(result_path, record)
    show(summary)
    console.print(f"  {len(predictions) / max(time.time() - started, 1e-9):.1f} questions/s; every answer: {folder / paths.PREDICTIONS}")
    if openings:
        console.print(f"  test has been scored {openings} {'time' if openings == 1 else 'times'} for this model")
    show_published(record)
    if stand_in:
        console.print(f"  {scoring.OF_THIS_SIZE}")


def model_and_folder(base: str, out: Path, split: str) -> tuple[Path, Path]:
    """(the folder of the model to evaluate, the folder for its results): `base`, or where it is empty stage 2's final model."""
    from kmlite.models import folders

    if base:
        found, folder = folders.resolve(base), out / "eval" / base.strip("/").replace("/", "--")
    else:
        hint = f"Run first: make stage2 OUT={out}   (or name a model as BASE=…)"
        found, folder = folders.final_folder(out, 2, hint), out / paths.STAGES[2]
    return found, folder / paths.ON_DEV if split == "dev" else folder


def without_examples(questions: list[dict], fewshot: list[dict], shots: int) -> tuple[list[dict], dict[str, list[dict]], int]:
    """(questions, the examples of each subject, how many questions were left out because they are examples themselves).

    KorMedMCQA's few-shot rows stand in its dev split; in test there are none, and nothing is left out.
    """
    from kmlite.evaluation import scoring
    from kmlite.refine.leakage import exact_key

    examples = scoring.examples_of(fewshot, questions, shots)
    shown = {exact_key(row) for rows in examples.values() for row in rows}
    kept = [question for question in questions if exact_key(question) not in shown]
    return kept, examples, len(questions) - len(kept)


def how_asked(settings: Settings, precision: str) -> dict:
    """What decides the figure besides the model and the questions, for the results."""
    how = {"scorer": settings.scorer, "prompt": settings.prompt, "orders": settings.permute, "precision": precision}
    return {**how, "shots": settings.shots, "chat_template": settings.chat} if settings.prompt == "lm-eval" else how


def prompt_record(settings: Settings) -> dict:
    """What stands beside every figure: the name and version of its prompt."""
    from kmlite import prompts

    if settings.prompt == "lm-eval":
        return {"name": "lm-eval", **prompts.HARNESS, "shots": settings.shots, "chat_template": settings.chat}
    return {"name": settings.prompt, "version": prompts.VERSION}


def in_words(prompt: dict) -> str:
    """`kmlite prompt, version 1`, or `lm-eval prompt, version 3.0, 5 shots, no chat template`."""
    said = f"{prompt['name']} prompt, version {prompt['version']}"
    if "shots" in prompt:
        said += f", {prompt['shots']} shots, {'in the' if prompt['chat_template'] else 'no'} chat template"
    return said


def show_published(record: dict) -> None:
    """The published figure nearest to this one, and why the two may not be compared."""
    from kmlite.evaluation import published

    settings = record["plan"]["settings"]
    if settings["split"] != "test":
        return
    row = published.nearest(record["summary"]["accuracy"])
    console.print(f"  nearest published on KorMedMCQA test: {row['model']} {row['accuracy']:.1f}% ({row['how']}; {row['source']})")
    console.print(f"  this one: {in_words(record['prompt'])}, scorer {settings['scorer']}; unlike prompts and scorers don't compare")


def show(summary: dict) -> None:
    from rich.table import Table

    from kmlite.evaluation import scoring

    years = summary.get("by_year", {})
    years = [(f"year {name}", part) for name, part in years.items()] if len(years) > 1 else []
    table = Table("", "right", "of", "accuracy", "95% interval")
    for name, part in [*summary["by_subject"].items(), *years, ("all", summary)]:
        low, high = part["interval"]
        table.add_row(name, str(part["right"]), str(part["n"]), f"{part['accuracy']:.1f}%", f"{low:.1f}–{high:.1f}%")
    console.print(table)
    letters = ", ".join(f"{letter} {n}" for letter, n in summary["letters"].items())
    console.print(f"  [bold]accuracy {scoring.in_words(summary)}[/], mean of subjects {summary['macro']:.1f}%")
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
