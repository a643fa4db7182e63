"""Evaluate a model on exam questions: greedy answers in batches, accuracy with its 95% interval, every prediction kept.

\b
    make eval OUT=model                        stage 2's final model on the test split
    make eval OUT=model BASE=some/model        any other model, for comparison
    make eval OUT=model ARGS="--vote 5"        each question in five orders of its options
    make eval OUT=model HARNESS=1              lm-eval itself (recipes/harness.py)
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting, table
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
    vote: int = setting(
        1, "orders of the options to ask each question in, 1 to 5, and average: what a letter draws by its place cancels out"
    )
    prior: int = setting(
        0, "dev questions on which to estimate the pull of each letter, to divide it out: cheaper than a vote; letter scorer"
    )
    prompt: str = setting("kmlite", "kmlite asks for a letter; kmlite-reasoned for a reasoning before it", PROMPTS)
    max_new_tokens: int = setting(0, "tokens of an answer at the most; 0 takes 32, or 500 reasoned")
    batch: int = setting(0, "questions answered at once; 0 chooses by device and free memory")
    restart: bool = setting(False, "evaluate again where nothing changed")


def main(settings: Settings) -> None:
    from kmlite import records

    console.print(f"[bold]eval[/]  {settings.split} split")
    check(settings)
    questions = records.read_exam(settings.refined, settings.split)
    if not questions:
        raise click.ClickException(f"{paths.exam_split(settings.refined, settings.split)} is empty.")
    among = prior_questions(settings)

    from kmlite import files, prompts, results, runs
    from kmlite.evaluation import generation, scoring, voting
    from kmlite.models import folders, loading

    max_new_tokens = settings.max_new_tokens or prompts.TOKENS[settings.prompt]
    base, folder = model_and_folder(settings.base, settings.out, settings.split)
    check_writable(folder)
    plan = plan_of(settings, base, max_new_tokens)
    result_path = folder / paths.EVALUATION
    if not settings.restart and done_before(result_path, plan):
        return
    precision = loading.pick_precision(settings.precision, base)
    stand_in = folders.is_stand_in(base)
    console.print(f"  model        {base}{folders.stand_in_note(base)}")
    console.print(f"  device       {'GPU' if loading.on_gpu() else 'CPU'}, {precision} weights")
    way = voting.in_words(settings.vote, bool(among))
    console.print(f"  questions    {len(questions):,}, {in_words(plan['prompt'])}, scorer {settings.scorer}, {way}")
    loading.fast_model()  # before transformers, which it changes
    tokenizer = loading.load_tokenizer(base)
    asked = [prompts.exam_prompt(question, prompt=settings.prompt) for question in questions]
    tokens = max(len(tokenizer(text)["input_ids"]) for text in asked) + TEMPLATE_TOKENS + max_new_tokens
    loaded, tokenizer = loading.load(base, precision, tokens)
    batch = settings.batch or generation.default_batch(loaded, tokens)
    console.print(f"  batch        {batch} questions at once, the longest {tokens:,} tokens with its answer")
    started = time.time()
    how: dict = {"max_new_tokens": max_new_tokens, "batch": batch, "prompt": settings.prompt}
    predictions, ways, prior = answers(loaded, tokenizer, questions, among, settings, how)
    summary = scoring.summarise(predictions)
    openings = scoring.log_opening(folder, "eval", summary) if settings.split == "test" else None
    files.write_lines(folder / paths.PREDICTIONS, [{k: v for k, v in p.items() if k != "logs"} for p in predictions])
    precise = f"{precision}, {str(loading.compute_dtype(loaded)).removeprefix('torch.')}"
    found = results.of_answers(summary, settings.split, **how_asked(settings, precise))
    found += [results.of_score(way, "accuracy", settings.split, way=way["way"], prompt=settings.prompt, precision=precise) for way in ways]
    seconds = time.time() - started
    record = {
        "plan": plan,
        "summary": summary,
        "results": results.stamped(found, "eval", "after"),
        "ways": ways,
        "prior": prior,
        "prompt": plan["prompt"],
        "precision": precise,
        "test_openings": openings,
        "stand_in": stand_in,
        "seconds": round(seconds, 1),
        **runs.environment(),
    }
    files.write_json(result_path, record)
    show_record(record, f"{len(predictions) / max(seconds, 1e-9):.1f} questions/s; every answer: {folder / paths.PREDICTIONS}")


def plan_of(settings: Settings, base: Path, max_new_tokens: int) -> dict:
    """What decides the result."""
    from kmlite import files, prompts

    asked = {name: value for name, value in asdict(settings).items() if name not in ("refined", "out", "restart", "batch")}
    return {
        "settings": {**asked, "max_new_tokens": max_new_tokens},
        "prompt": {"name": settings.prompt, "version": prompts.VERSION},
        "model": {"folder": str(base), "fingerprint": files.model_fingerprint(base)},
        "data": files.fingerprint(paths.exam_split(settings.refined, settings.split)),
    }


def done_before(path: Path, plan: dict) -> bool:
    """Whether an evaluation of the same plan stands at `path`; it is shown."""
    from kmlite import files, runs

    if (files.read_record(path, "plan") or {}).get("plan") != runs.as_stored(plan):
        return False
    console.print("  done before, nothing changed (ARGS=--restart evaluates again)")
    result = files.read_json(path)
    show(result["summary"])
    show_ways(result.get("ways", []))
    show_published(result)
    return True


def show_record(record: dict, where: str) -> None:
    from kmlite.evaluation import scoring

    show(record["summary"])
    show_ways(record.get("ways", []))
    console.print(f"  {where}")
    if openings := record["test_openings"]:
        console.print(f"  test has been scored {openings} {'time' if openings == 1 else 'times'} for this model")
    show_published(record)
    if record["stand_in"]:
        console.print(f"  {scoring.OF_THIS_SIZE}")


def check(settings: Settings) -> None:
    """Refuse settings that make no sense together."""
    if not 1 <= settings.vote <= 5:
        raise click.ClickException(f"--vote {settings.vote}: five options have 1 to 5 cyclic orders.")
    if settings.scorer == "letter" and settings.prompt == "kmlite-reasoned":
        raise click.ClickException(
            "--scorer letter looks at the first token, where a reasoned answer has no letter yet. Leave it out, or take --prompt kmlite."
        )
    if settings.prior < 0 or (settings.prior and (settings.vote > 1 or settings.scorer != "letter")):
        raise click.ClickException(
            f"--prior {settings.prior}: a number of dev questions, with --scorer letter and without --vote, which needs no prior."
        )


def prior_questions(settings: Settings) -> list[dict]:
    """The dev questions that the prior is estimated on, chosen by a hash of their text: the same ones whatever else dev holds."""
    from kmlite import records

    if not settings.prior:
        return []
    dev = records.read_exam(settings.refined, "dev")
    if len(dev) < settings.prior:
        raise click.ClickException(f"--prior {settings.prior}: dev has {len(dev)} questions.")
    return sorted(dev, key=lambda question: hashlib.blake2b(question["question"].encode()).digest())[: settings.prior]


def answers(
    model, tokenizer, questions: list[dict], among: list[dict], settings: Settings, how: dict
) -> tuple[list[dict], list[dict], list]:
    """(predictions in the way that was asked for, all ways side by side where there are several, the prior).

    A vote on written answers asks for the letters' probabilities too, in the same orders: a small part of the time.
    """
    from kmlite.evaluation import voting

    prior = voting.estimated_prior(model, tokenizer, among, batch=how["batch"]) if among else []
    predictions = voting.answer(model, tokenizer, questions, orders=settings.vote, scorer=settings.scorer, prior=prior, **how)
    if settings.vote == 1 and not prior:
        return predictions, [], prior
    found, passes = {}, {}
    scorers = {"letter": predictions} if settings.scorer == "letter" else {"written": predictions}
    if settings.scorer == "generate" and settings.prompt != "kmlite-reasoned":
        scorers = {"letter": voting.answer(model, tokenizer, questions, orders=settings.vote, scorer="letter", **how), **scorers}
    for scorer, given in scorers.items():
        found[f"{scorer}, single"], passes[f"{scorer}, single"] = voting.single(given), 1.0
        if prior:
            found["letter, prior"], passes["letter, prior"] = given, 1 + voting.ORDERS * len(among) / len(questions)
        else:
            found[f"{scorer}, voted"], passes[f"{scorer}, voted"] = given, sum(len(p["chosen_in"]) for p in given) / len(given)
    return predictions, voting.side_by_side(found, passes), prior


def model_and_folder(base: str, out: Path, split: str) -> tuple[Path, Path]:
    """(the folder of the model to evaluate, the folder for its results): `base`, or where it is empty stage 2's final model."""
    from kmlite.models import folders

    if base:
        found, folder = folders.resolve(base), out / "eval" / base.strip("/").replace("/", "--")
    else:
        hint = f"Run first: make stage2 OUT={out}   (or name a model as BASE=…)"
        found, folder = folders.final_folder(out, 2, hint), out / paths.STAGES[2]
    return found, folder / paths.ON_DEV if split == "dev" else folder


def how_asked(settings: Settings, precision: str) -> dict:
    """What decides the figure besides the model and the questions, for the results."""
    how = {"scorer": settings.scorer, "prompt": settings.prompt, "orders": settings.vote, "precision": precision}
    return {**how, "prior": settings.prior} if settings.prior else how


def in_words(prompt: dict) -> str:
    """`kmlite prompt, version 1`, or `lm-eval 0.4.13, kormedmcqa version 3.0, 5 shots, no chat template`."""
    said = f"{prompt['package']}, {prompt['task']}" if "package" in prompt else f"{prompt['name']} prompt,"
    said += f" version {prompt['version']}"
    if "shots" in prompt:
        said += f", {prompt['shots']} shots, {'in the' if prompt['chat_template'] else 'no'} chat template"
    return said


def show_published(record: dict) -> None:
    """The published figure nearest to this one, and why the two may not be compared."""
    from kmlite.evaluation import published

    settings, summary = record["plan"]["settings"], record["summary"]
    if settings["split"] != "test" or summary["n"] < published.LEAST:
        return
    row = published.nearest(summary["accuracy"])
    console.print(f"  nearest published on KorMedMCQA test: {row['model']} {row['accuracy']:.1f}% ({published.in_words(row)})")
    console.print(
        f"  this one: {in_words(record['prompt'])}, scorer {settings['scorer']}; figures with another prompt or scorer are not comparable"
    )


def show_ways(ways: list[dict]) -> None:
    """The ways of answering side by side, each with its difference to the first, question by question."""
    if not ways:
        return
    rows = table("way", "passes", "accuracy", "95% interval", "difference to the first, points", "p", "bias to A–E, points")
    for way in ways:
        difference = way.get("difference")
        paired = (
            f"{difference['difference']:+.1f} ({difference['interval'][0]:+.1f} to {difference['interval'][1]:+.1f})" if difference else ""
        )
        pull = " ".join(f"{100 * share:+.1f}" for share in way["pull"].values())
        low, high = way["interval"]
        p = f"{difference['p']:.3g}" if difference else ""
        rows.add_row(way["way"], f"{way['passes']:g}", f"{way['accuracy']:.1f}%", f"{low:.1f}–{high:.1f}%", paired, p, pull)
    console.print(rows)


def show(summary: dict) -> None:
    from kmlite.evaluation import scoring

    years = summary.get("by_year", {})
    years = [(f"year {name}", part) for name, part in years.items()] if len(years) > 1 else []
    rows = table("", "right", "of", "accuracy", "95% interval")
    for name, part in [*summary["by_subject"].items(), *years, ("all", summary)]:
        low, high = part["interval"]
        rows.add_row(name, str(part["right"]), str(part["n"]), f"{part['accuracy']:.1f}%", f"{low:.1f}–{high:.1f}%")
    console.print(rows)
    letters = ", ".join(f"{letter} {n}" for letter, n in summary["letters"].items())
    console.print(f"  [bold]accuracy {scoring.in_words(summary)}[/], mean of subjects {summary['macro']:.1f}%")
    why = ", ".join(f"{reason} {n}" for reason, n in summary["unreadable_because"].items())
    console.print(f"  answered {letters}, unreadable {summary['unreadable']}" + (f" ({why})" if why else ""))
    if "calibration_error" in summary:
        mass = summary["letter_mass"]
        console.print(
            f"  calibration error {summary['calibration_error']:.3f}; the five letters hold {mass:.1%} of the next token's probability"
        )
    pull = ", ".join(f"{letter} {100 * share:+.1f}" for letter, share in summary["pull"].items())
    console.print(f"  letter bias (answered minus correct, percentage points): {pull}")
    letter, most = max(summary["letters"].items(), key=lambda item: item[1])
    if most > 0.9 * summary["n"]:
        console.print(
            f"  [bold]{most} of {summary['n']} answers are {letter}[/]: a position bias. ARGS='--vote 5' averages over the orders."
        )
    if "consistency" in summary:
        console.print(f"  over {summary['orders']} orders: the same option {summary['consistency']:.1%} of the time")


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
