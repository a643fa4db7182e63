"""Evaluate a model on exam questions: every prediction kept, accuracy with its 95% interval, by kmlite's prompt or by lm-eval itself.

\b
    make eval OUT=model                        the last finished stage's model on the test split
    make eval OUT=model BASE=some/model        any other model, for comparison
    make eval OUT=model ARGS="--vote 5"        each question in five orders of its options
    make eval OUT=model HARNESS=1              lm-eval's kormedmcqa task: the figure that others can compare with theirs
    make eval OUT=model HARNESS=1 ARGS="--shots 5 --hub"

lm-eval (extra `eval`) asks the refined test questions, or, where there are none or with --hub, the data set from the hub. Refine changes
white space and sets faulty questions aside: the figure to publish beside others' is the one with --hub.
"""

import tempfile
import time
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting, table
from kmlite.evaluation.scoring import SCORERS
from kmlite.models.loading import PRECISIONS
from kmlite.prompts import PROMPTS

TEMPLATE_TOKENS = 32  # what a chat template adds to a prompt, generously
LM_EVAL = "lm-eval"
OWN = ("split", "precision", "vote", "prior", "prompt", "max_new_tokens")  # settings that lm-eval does not have
THEIRS = ("shots", "chat", "hub")  # and those that it alone has


@dataclass(frozen=True)
class Settings:
    base: str = setting("", "model to evaluate; empty: that of the last finished stage in OUT")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models")
    split: str = setting("test", "test counts its openings; dev may be looked at freely", ("test", "dev"))
    precision: str = setting("auto", "weights; auto takes what the free GPU memory holds", PRECISIONS)
    scorer: str = setting(
        "generate",
        "generate writes and reads the answer; letter compares the likelihoods of A to E, far faster; lm-eval is HARNESS=1",
        (*SCORERS, LM_EVAL),
    )
    vote: int = setting(
        1, "orders of the options to ask each question in, 1 to 5, and average: what a letter draws by its place cancels out"
    )
    prior: int = setting(
        0, "dev questions on which to estimate the pull of each letter, to divide it out: cheaper than a vote; letter scorer"
    )
    prompt: str = setting("kmlite", "; ".join(f"{name}: {one.what}" for name, one in PROMPTS.items()), tuple(PROMPTS))
    max_new_tokens: int = setting(0, "tokens of an answer at the most; 0 takes the prompt's own, 32 or 500")
    shots: int = setting(0, "lm-eval: few-shot examples before the question; 0 or 5 in published figures")
    chat: bool = setting(False, "lm-eval: its --apply_chat_template; a plain run of it has none")
    hub: bool = setting(False, "lm-eval: ask sean0042/KorMedMCQA from the hub, untouched, although there are refined questions")
    batch: int = setting(0, "questions answered at once; 0 chooses by device and free memory")
    restart: bool = setting(False, "evaluate again where nothing changed")


def main(settings: Settings) -> None:
    from kmlite import records

    by_lm_eval = settings.scorer == LM_EVAL
    console.print(f"[bold]{LM_EVAL if by_lm_eval else 'eval'}[/]  {settings.split} split")
    check(settings)
    split, fewshot = (paths.exam_split(settings.refined, name) for name in (settings.split, "fewshot"))
    questions = None if by_lm_eval and (settings.hub or not split.exists()) else records.read_exam(settings.refined, settings.split)
    if questions == []:
        raise click.ClickException(f"{split} is empty.")
    # beside the questions: the examples to show (lm-eval), or those to estimate the letters' pull on
    beside = examples(settings, questions, fewshot) if by_lm_eval else prior_questions(settings)

    from kmlite import files, results, runs
    from kmlite.evaluation import scoring
    from kmlite.models import folders

    base, folder = model_and_folder(settings.base, settings.out, settings.split)
    check_writable(folder)
    plan = plan_of(settings, base, [path for path in (split, fewshot)[: 1 + by_lm_eval] if path.exists()] if questions else [])
    record_path, answers_path = (
        folder / name for name in ((paths.HARNESS, paths.HARNESS_PREDICTIONS) if by_lm_eval else (paths.EVALUATION, paths.PREDICTIONS))
    )
    if not settings.restart and (files.read_record(record_path, "plan") or {}).get("plan") == runs.as_stored(plan):
        console.print("  done before, nothing changed (ARGS=--restart evaluates again)")
        show(files.read_json(record_path))
        return
    console.print(f"  model        {base}{folders.stand_in_note(base)}")
    predictions, how, facts = (lm_eval if by_lm_eval else own)(settings, base, questions or [], beside, plan["prompt"])
    summary = scoring.summarise(predictions)
    found = results.of_answers(summary, settings.split, **how)
    for way in facts.get("ways", []):
        asked = {"way": way["way"], "prompt": settings.prompt, "precision": how["precision"]}
        found.append(results.of_score(way, "accuracy", settings.split, **asked))
    stage = LM_EVAL if by_lm_eval else "eval"
    record = {
        "plan": plan,
        "summary": summary,
        "results": results.stamped(found, stage, "after"),
        "prompt": plan["prompt"],
        "precision": how["precision"],
        "test_openings": scoring.log_opening(folder, stage, summary) if settings.split == "test" else None,
        "stand_in": folders.is_stand_in(base),
        **facts,
        **runs.environment(),
    }
    files.write_lines(answers_path, [{k: v for k, v in p.items() if k != "logs"} for p in predictions])
    files.write_json(record_path, record)
    show(record)
    console.print(f"  {len(predictions) / max(facts['seconds'], 0.1):.1f} questions/s; every answer: {answers_path}")


def check(settings: Settings) -> None:
    """Refuse settings that make no sense together."""
    for item in fields(settings):
        if item.name in (OWN if settings.scorer == LM_EVAL else THEIRS) and getattr(settings, item.name) != item.default:
            name = item.name.replace("_", "-")
            raise click.ClickException(f"--{name} does not go with --scorer {settings.scorer}: leave it out.")
    if settings.shots < 0:
        raise click.ClickException(f"--shots {settings.shots}: 0 or more examples.")
    if not 1 <= settings.vote <= 5:
        raise click.ClickException(f"--vote {settings.vote}: five options have 1 to 5 cyclic orders.")
    if settings.scorer == "letter" and PROMPTS[settings.prompt].reasoned:
        raise click.ClickException(
            "--scorer letter looks at the first token, where a reasoned answer has no letter yet. Leave it out, or take --prompt kmlite."
        )
    if settings.prior < 0 or (settings.prior and (settings.vote > 1 or settings.scorer != "letter")):
        raise click.ClickException(
            f"--prior {settings.prior}: a number of dev questions, with --scorer letter and without --vote, which needs no prior."
        )


def plan_of(settings: Settings, base: Path, data: list[Path]) -> dict:
    """What decides the result; `data`: the refined files, none where the hub's are asked."""
    from kmlite import files, prompts
    from kmlite.evaluation import harness

    by_lm_eval = settings.scorer == LM_EVAL
    others = ("refined", "out", "restart", "batch", *((name for name in OWN if name != "split") if by_lm_eval else THEIRS))
    asked = {name: value for name, value in asdict(settings).items() if name not in others}
    if by_lm_eval:
        prompt = harness.prompt(settings.shots, settings.chat)
    else:
        asked["max_new_tokens"] = settings.max_new_tokens or prompts.PROMPTS[settings.prompt].tokens
        prompt = {"name": settings.prompt, "version": prompts.VERSION}
    return {
        "settings": asked,
        "prompt": prompt,
        "model": {"folder": str(base), "fingerprint": files.model_fingerprint(base)},
        "data": files.fingerprint(*data) if data else "sean0042/KorMedMCQA",
    }


def model_and_folder(base: str, out: Path, split: str) -> tuple[Path, Path]:
    """(the folder of the model to evaluate, the folder for its results): `base`, or where it is empty the last finished stage."""
    from kmlite.models import folders

    if base:
        found, folder = folders.resolve(base), out / "eval" / base.strip("/").replace("/", "--")
    else:
        last = folders.last_stage(out)
        hint = f"Run first: make stage{last} OUT={out}   (or name a model as BASE=…)"
        found, folder = folders.final_folder(out, last, hint), out / paths.STAGES[last].folder
        begun = [stage.name for stage in paths.STAGES[last + 1 :] if (out / stage.folder / paths.PLAN).exists()]
        if begun and split == "test":
            raise click.ClickException(
                f"{begun[-1]} has begun and is not finished; test would be opened for the model before it.\n"
                f"  Finish it: make {begun[-1]} OUT={out}   or name the model: BASE={found}"
            )
    return found, folder / paths.ON_DEV if split == "dev" else folder


# ---- asked


def prior_questions(settings: Settings) -> list[dict]:
    """The dev questions that the prior is estimated on, chosen by a hash of their text."""
    from kmlite import records
    from kmlite.evaluation import suite

    if not settings.prior:
        return []
    dev = records.read_exam(settings.refined, "dev")
    if len(dev) < settings.prior:
        raise click.ClickException(f"--prior {settings.prior}: dev has {len(dev)} questions.")
    return suite.sample_questions(dev, settings.prior)


def own(settings: Settings, base: Path, questions: list[dict], among: list[dict], prompt: dict) -> tuple[list[dict], dict, dict]:
    """Ask by kmlite's prompt: (predictions, how they were asked, for the results, what the record has besides)."""
    from kmlite import prompts
    from kmlite.evaluation import generation, voting
    from kmlite.models import loading

    precision = loading.pick_precision(settings.precision, base)
    console.print(f"  device       {'GPU' if loading.on_gpu() else 'CPU'}, {precision} weights")
    way = voting.in_words(settings.vote, bool(among))
    console.print(f"  questions    {len(questions):,}, {in_words(prompt)}, scorer {settings.scorer}, {way}")
    loading.fast_model()  # before transformers, which it changes
    tokenizer = loading.load_tokenizer(base)
    max_new_tokens = settings.max_new_tokens or prompts.PROMPTS[settings.prompt].tokens
    longest = max(len(tokenizer(prompts.exam_prompt(question, prompt=settings.prompt))["input_ids"]) for question in questions)
    tokens = longest + TEMPLATE_TOKENS + max_new_tokens
    loaded, tokenizer = loading.load(base, precision, tokens)
    batch = settings.batch or generation.default_batch(loaded, tokens)
    console.print(f"  batch        {batch} questions at once, the longest {tokens:,} tokens with its answer")
    started = time.time()
    how: dict = {"max_new_tokens": max_new_tokens, "batch": batch, "prompt": settings.prompt}
    predictions, ways, prior = answers(loaded, tokenizer, questions, among, settings, how)
    precise = f"{precision}, {str(loading.compute_dtype(loaded)).removeprefix('torch.')}"
    asked = {"scorer": settings.scorer, "prompt": settings.prompt, "orders": settings.vote, "precision": precise}
    asked |= {"prior": settings.prior} if settings.prior else {}
    return predictions, asked, {"ways": ways, "prior": prior, "seconds": round(time.time() - started, 1)}


def answers(
    model, tokenizer, questions: list[dict], among: list[dict], settings: Settings, how: dict
) -> tuple[list[dict], list[dict], list]:
    """(predictions in the way that was asked for, all ways side by side where there are several, the prior).

    A vote on written answers asks for the letters' probabilities too, in the same orders: a small part of the time.
    """
    from kmlite.evaluation import voting

    prior = voting.estimated_prior(model, tokenizer, among, batch=how["batch"]) if among else []
    ask = partial(voting.answer, model, tokenizer, questions, orders=settings.vote, **how)
    predictions = ask(scorer=settings.scorer, prior=prior)
    if settings.vote == 1 and not prior:
        return predictions, [], prior
    given = {"letter" if settings.scorer == "letter" else "written": predictions}
    if settings.scorer == "generate" and not PROMPTS[settings.prompt].reasoned:
        given = {"letter": ask(scorer="letter"), **given}
    found, passes = {}, {}
    for scorer, answered in given.items():
        found[f"{scorer}, single"], passes[f"{scorer}, single"] = voting.single(answered), 1.0
        name = "letter, prior" if prior else f"{scorer}, voted"
        asked = voting.ORDERS * len(among) if prior else sum(len(p["chosen_in"]) for p in answered) - len(answered)
        found[name], passes[name] = answered, 1 + asked / len(answered)
    return predictions, voting.side_by_side(found, passes), prior


def examples(settings: Settings, questions: list[dict] | None, path: Path) -> list[dict]:
    """The few-shot rows for lm-eval, each subject's; none where it takes the hub's."""
    from kmlite import records
    from kmlite.evaluation import harness

    harness.require()
    rows = records.read_exam(settings.refined, "fewshot") if questions and (settings.shots or path.exists()) else []
    if questions:
        harness.require_examples(rows, questions, settings.shots)
    return rows


def lm_eval(settings: Settings, base: Path, questions: list[dict], fewshot: list[dict], prompt: dict) -> tuple[list[dict], dict, dict]:
    """Have lm-eval ask, the hub's questions where there are none: as `own`."""
    from kmlite.evaluation import harness
    from kmlite.models import loading

    where = f"{len(questions):,} refined questions" if questions else "sean0042/KorMedMCQA from the hub"
    console.print(f"  questions    {where}, {in_words(prompt)}")
    started = time.time()
    with tempfile.TemporaryDirectory() as work:
        how: dict = {"shots": settings.shots, "chat": settings.chat, "batch": settings.batch}
        predictions, told = harness.run(base, Path(work), questions or None, fewshot, **how)
    precision = f"16bit, {'bfloat16' if loading.on_gpu() else 'float32'}"  # as `harness.run` loads it
    asked = {"scorer": LM_EVAL, "prompt": LM_EVAL, "shots": settings.shots, "chat_template": settings.chat, "precision": precision}
    return predictions, asked, {"lm_eval": told, "seconds": round(time.time() - started, 1)}


# ---- shown


def show(record: dict) -> None:
    from kmlite import results
    from kmlite.evaluation import scoring

    summary = record["summary"]
    results.show([one for one in record["results"] if "way" not in one["how"]], "", parts=True)
    console.print(f"  [bold]accuracy {scoring.in_words(summary)}[/]")
    letters = ", ".join(f"{letter} {n}" for letter, n in summary["letters"].items())
    why = ", ".join(f"{reason} {n}" for reason, n in summary["unreadable_because"].items())
    console.print(f"  answered {letters}, unreadable {summary['unreadable']}" + (f" ({why})" if why else ""))
    pull = ", ".join(f"{letter} {100 * share:+.1f}" for letter, share in summary["pull"].items())
    console.print(f"  letter bias (answered minus correct, percentage points): {pull}")
    letter, most = max(summary["letters"].items(), key=lambda item: item[1])
    if most > 0.9 * summary["n"]:
        console.print(
            f"  [bold]{most} of {summary['n']} answers are {letter}[/]: a position bias. ARGS='--vote 5' averages over the orders."
        )
    show_ways(record.get("ways", []))
    if openings := record["test_openings"]:
        console.print(f"  test has been scored {openings} {'time' if openings == 1 else 'times'} for this model")
    show_published(record)
    if record["stand_in"]:
        console.print(f"  {scoring.OF_THIS_SIZE}")


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
    console.print(f"  nearest published on KorMedMCQA test: {row['model'][0]} {row['accuracy']:.1f}% ({published.in_words(row)})")
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


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
