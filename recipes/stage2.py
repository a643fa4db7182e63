"""Stage 2: teach exam questions in loops until the dev accuracy reaches a target; then open the test split once.

\b
    make stage2 REFINED=data/02_refined OUT=model
"""

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import click

from kmlite import paths, prompts
from kmlite.cli import check_writable, console, recipe, setting
from kmlite.model import CHECKPOINTING, PRECISIONS


@dataclass(frozen=True)
class Settings:
    base: str = setting("", "model to start from; empty: stage 1's final model in OUT")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models; this stage writes 02_trained below it")
    precision: str = setting("auto", "weights while training; auto takes what the free GPU memory holds", PRECISIONS)
    target: float = setting(90, "dev accuracy in percent that ends the loops")
    loops: int = setting(10, "loops at the most")
    patience: int = setting(2, "loops without a better dev accuracy that end it")
    shuffle: bool = setting(True, "a new order of the options in each epoch, so that the option is learned and not its letter")
    reasoned_share: float = setting(0.05, "share of rows that teach a written-out reasoning, where questions have one")
    checkpointing: str = setting(
        "auto", "recompute activations in the backward pass: less memory, a third slower; auto on a GPU", CHECKPOINTING
    )
    rank: int = setting(64, "LoRA rank")
    alpha: int = setting(128, "LoRA alpha; with rsLoRA the scale is alpha / sqrt(rank) = 16")
    dropout: float = setting(0.05, "LoRA dropout; 0 is Unsloth's fast path on a GPU")
    rslora: bool = setting(True, "rank-stabilised scale (arXiv 2312.03732)")
    length: int = setting(1024, "tokens of the longest question with its answer; longer ones are left out and counted")
    batch: int = setting(2, "questions at once on the card")
    accumulation: int = setting(16, "batches an optimizer step: 32 questions")
    learning_rate: float = setting(1e-5, "half of stage 1's: a few thousand questions are soon learned by heart")
    schedule: str = setting("cosine", "of the learning rate, anew in each loop")
    warmup: float = setting(0.1, "share of the steps (or, from 1 on, a number of steps)")
    epochs: int = setting(5, "over the questions, in each loop")
    max_steps: int = setting(-1, "stop each loop after so many optimizer steps; -1 for all epochs")
    save_every: int = setting(100, "steps between checkpoints")
    log_every: int = setting(10, "steps between lines of the log")
    eval_every: int = setting(50, "steps between looks at the loss on dev")
    max_new_tokens: int = setting(32, "tokens of an answer: a letter, or a short sentence around it")
    measured: int = setting(500, "taught questions to ask before and after at the most: to see that they were learned")
    eval_batch: int = setting(0, "questions answered at once; 0 chooses by device")
    seed: int = setting(0, "of LoRA, order of data and dropout")
    accept_regression: bool = setting(False, "go on where the stage made the model worse, instead of leaving with status 3")
    restart: bool = setting(False, "drop an unfinished run, or redo a finished one")


def main(settings: Settings) -> None:
    from kmlite import records

    console.print(f"[bold]stage 2[/]  exam questions → {settings.out / paths.STAGES[2]}")
    started = time.time()

    # ---- what there is to learn; dev steers, test stays closed until the end
    questions, dev = (records.read_exam(settings.refined, split) for split in ("train", "dev"))
    test_path = paths.exam_split(settings.refined, "test")
    if not questions or not dev:
        raise click.ClickException(f"{settings.refined / paths.EXAM} needs questions in both train.jsonl and dev.jsonl.")

    from kmlite import bases, evaluation, model, runs, scoring, shuffling, stages, training

    if settings.base:
        base = bases.resolve(settings.base)
    else:
        base = bases.final_folder(settings.out, 1, f"Run first: make stage1 OUT={settings.out}   (or name another model as BASE=…)")
    folder = settings.out / paths.STAGES[2]
    check_writable(folder)
    data = {split: [paths.exam_split(settings.refined, split)] for split in ("train", "dev")}
    if test_path.exists():
        data["test"] = [test_path]
    plan = stages.plan_of("stage2", settings, base, settings.base or "stage 1", data)
    if stages.skip_or_begin(folder, plan, settings):
        return
    precision = model.pick_precision(settings.precision, folder / paths.CHECKPOINTS / "precision")
    questions, leaked = without_leaks(questions, dev, records.read_exam(settings.refined, "test") if test_path.exists() else [])
    pairs, reasoned = turns(questions, settings.reasoned_share, settings.seed)
    places = sum(shuffling.names_places(question) for question in questions)
    stages.describe(
        {
            "base": f"{base}{' (from the embedded base: its figures say nothing about MedGemma)' if bases.is_stand_in(base) else ''}",
            "device": f"{'GPU' if model.on_gpu() else 'CPU'}, {precision} weights",
            "questions": f"{len(questions):,} to teach ({reasoned} of {len(pairs):,} rows reasoned), {len(dev):,} in dev",
            "leakage": f"{leaked} train questions stand in dev or test" + (" and are left out" if leaked else ""),
            "options": f"in a new order each epoch, but for {places} questions that name letters or places"
            if settings.shuffle
            else "as given",
            "batch": f"{settings.batch} × {settings.accumulation} questions of up to {settings.length} tokens",
            "learning": f"LoRA rank {settings.rank}, rate {settings.learning_rate:g}, {settings.epochs:g} epochs a loop",
            "until": f"dev accuracy {settings.target:g}%, {settings.patience} loops without gain, or {settings.loops} loops",
        },
    )
    batch = settings.eval_batch or evaluation.default_batch()

    def accuracy(measured, asked: list[dict]) -> dict:
        answers = scoring.answer_exam(measured, tokenizer, asked, max_new_tokens=settings.max_new_tokens, batch=batch)
        return {**scoring.summarise(answers), "predictions": answers}

    # ---- before, then loop: train, ask dev, keep the best
    recompute = model.recomputes(settings.checkpointing)
    trained, tokenizer = model.load(base, precision, settings.length, recompute)
    before_path = folder / paths.CHECKPOINTS / "before.json"
    if not before_path.exists():
        measured = {"dev": accuracy(trained, dev), "taught": accuracy(trained, questions[: settings.measured])}
        runs.write_json(before_path, measured)
    asked_before = runs.read_json(before_path)
    before = {name: without_predictions(part) for name, part in asked_before.items()}
    console.print(f"  before       dev {scoring.in_words(before['dev'])}; taught {scoring.in_words(before['taught'])}")
    _, left_out = training.conversation_rows(tokenizer, pairs, settings.length)
    if left_out:
        console.print(f"  {left_out:,} rows are longer than {settings.length} tokens and are left out")
    dev_rows, _ = training.conversation_rows(tokenizer, turns(dev, 0, settings.seed)[0], settings.length)
    adapted = model.add_lora(
        trained,
        r=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        rslora=settings.rslora,
        seed=settings.seed,
        recompute=recompute,
    )
    count = model.trainable_summary(adapted)
    loops = finished_loops(folder)
    if loops:
        model.load_adapter(adapted, folder / f"loop_{len(loops)}")
        console.print(f"  going on after loop {len(loops)}")
    while not (reason := why_stop(loops, before["dev"]["accuracy"], settings)):
        number = len(loops) + 1
        checkpoints = folder / paths.CHECKPOINTS / f"loop_{number}"
        rows, balance = rows_of_loop(tokenizer, questions, number, settings)
        if settings.shuffle and number == 1:
            shares = ", ".join(f"{letter} {share:.1%}" for letter, share in balance.items())
            console.print(f"  letters      right answers after shuffling: {shares}")
        result = training.train(adapted, tokenizer, rows, checkpoints, settings, eval_rows=dev_rows, order="sequential", epochs=1)
        dev_score = accuracy(adapted, dev)
        record = {"loop": number, "dev": without_predictions(dev_score), "letters": balance, "training": result}
        target = folder / f"loop_{number}"
        model.save_adapter(adapted, target)
        runs.write_lines(target / "dev_predictions.jsonl", dev_score["predictions"])
        runs.write_json(target / paths.RECORD, record)  # last: the loop is done
        loops.append(record)
        shutil.rmtree(checkpoints, ignore_errors=True)
        prune(folder, loops, before["dev"]["accuracy"])
        console.print(f"  loop {number}       dev {scoring.in_words(record['dev'])}; loss {result['loss']:.4f}")
    best = best_loop(loops, before["dev"]["accuracy"])
    console.print(f"  stopped: {reason}; the best is {f'loop {best}' if best else 'the model as it came, no loop was better on dev'}")
    del trained, adapted
    model.free()

    # ---- hand over the best loop; measure it; only now open test
    if best:
        difference = model.merge(base, folder / f"loop_{best}", folder / paths.FINAL, [q["question"] for q in dev[:3]])
    else:
        copy_model(base, folder / paths.FINAL)
        difference = 0.0
    final, tokenizer = model.load(folder / paths.FINAL, precision, settings.length)
    measured = {"dev": accuracy(final, dev), "taught": accuracy(final, questions[: settings.measured])}
    if test_path.exists():
        test = records.read_exam(settings.refined, "test")
        measured["test"] = accuracy(final, test)
        runs.write_lines(folder / "test_predictions.jsonl", measured["test"]["predictions"])
        scoring.log_opening(folder, "stage2", measured["test"])
    runs.write_lines(folder / paths.DEV_BEFORE, asked_before["dev"].get("predictions", []))
    runs.write_lines(folder / paths.DEV_AFTER, measured["dev"]["predictions"])
    after = {name: without_predictions(part) for name, part in measured.items()}
    reached = after["dev"]["accuracy"] >= settings.target
    stand_in = bases.is_stand_in(base)
    worse = []
    if after["dev"]["accuracy"] < before["dev"]["interval"][0]:  # the merge of a model trained in 4-bit may lose what it had
        worse.append(f"dev accuracy is {scoring.in_words(after['dev'])}; it was {scoring.in_words(before['dev'])}")
    metrics = {
        "before": before,
        "after": after,
        "loops": loops,
        "best_loop": best,
        "stopped": reason,
        "target_reached": reached,
        "worse": worse,
        "merge_difference": difference,
        "reasoned_rows": reasoned,
        "left_out": left_out,
        "trainable": count,
        "precision": precision,
        "stand_in": stand_in,
    }
    runs.finish(folder, plan, started, metrics)
    console.print(f"  [bold]taught questions: {scoring.in_words(before['taught'])} → {scoring.in_words(after['taught'])}[/]")
    console.print(f"  [bold]dev: {scoring.in_words(before['dev'])} → {scoring.in_words(after['dev'])}[/]")
    console.print(f"  target of {settings.target:g}% on dev reached: {'yes' if reached else 'no'}")
    if "test" in after:
        console.print(f"  [bold]test, opened only now: {scoring.in_words(after['test'])}[/]")
    if stand_in:
        console.print(f"  {scoring.OF_THIS_SIZE}")
    console.print(f"  written to {folder / paths.FINAL}, {time.time() - started:.0f} s")
    stages.verdict(worse, "stage2", settings)


def turns(questions: list[dict], share: float, seed: int) -> tuple[list[tuple[str, str]], int]:
    """(prompt, answer) of every question in the short form and, as `share` of all rows, some with their reasoning.

    Reasonings are real or absent: they come from `cot`, and where there are too few the share is smaller.
    """
    short = [(prompts.exam_prompt(q), prompts.exam_answer(q)) for q in questions]
    able = [q for q in questions if q.get("cot")]
    random.Random(seed).shuffle(able)
    wanted = round(len(short) * share / (1 - share)) if share < 1 else len(able)
    chosen = able[:wanted]
    return short + [(prompts.exam_prompt(q, reasoned=True), prompts.exam_answer(q, reasoned=True)) for q in chosen], len(chosen)


def rows_of_loop(tokenizer, questions: list[dict], loop: int, settings: Settings) -> tuple[list[dict], dict[str, float]]:
    """(the rows of all epochs of a loop in order, the share of right answers by letter)."""
    from kmlite import shuffling, training

    epochs, asked = [], []
    for epoch in range(settings.epochs):
        chance = random.Random(f"{settings.seed} {loop} {epoch}")
        now = [shuffling.shuffled(question, chance) for question in questions] if settings.shuffle else questions
        asked += now
        rows, _ = training.conversation_rows(tokenizer, turns(now, settings.reasoned_share, settings.seed)[0], settings.length)
        epochs.append(rows)
    return shuffling.in_order(epochs, settings.batch, settings.seed + loop), shuffling.letter_balance(asked)


def without_leaks(questions: list[dict], *others: list[dict]) -> tuple[list[dict], int]:
    """(the questions that stand in none of the other splits, how many did); refine has set them aside where it made the data."""
    from kmlite.refine.mcq import stem_key

    held = {stem_key(question) for split in others for question in split}
    kept = [question for question in questions if stem_key(question) not in held]
    return kept, len(questions) - len(kept)


def without_predictions(part: dict) -> dict:
    return {key: value for key, value in part.items() if key != "predictions"}


def finished_loops(folder: Path) -> list[dict]:
    """The records of the loops that are done, in order."""
    from kmlite import runs

    journal = folder / paths.CHECKPOINTS / "loops.json"
    loops = runs.read_json(journal) if journal.exists() else []
    while (path := folder / f"loop_{len(loops) + 1}" / paths.RECORD).exists():
        loops.append(runs.read_json(path))
    return loops


def best_loop(loops: list[dict], start: float) -> int:
    """The number of the first loop with the highest dev accuracy; 0 where none is above what the model came with."""
    best, highest = 0, start
    for loop in loops:
        if loop["dev"]["accuracy"] > highest:
            best, highest = loop["loop"], loop["dev"]["accuracy"]
    return best


def why_stop(loops: list[dict], start: float, settings: Settings) -> str | None:
    best = best_loop(loops, start)
    if max([start, *(loop["dev"]["accuracy"] for loop in loops)]) >= settings.target:
        return f"dev reached {settings.target:g}%"
    if len(loops) >= settings.loops:
        return f"{settings.loops} loops done"
    if loops and len(loops) - best >= settings.patience:
        return f"{settings.patience} loops without a better dev accuracy"
    return None


def prune(folder: Path, loops: list[dict], start: float) -> None:
    """Drop the adapters of all loops but the best and the last; their records stay in the journal."""
    from kmlite import runs

    runs.write_json(folder / paths.CHECKPOINTS / "loops.json", loops)
    for loop in loops:
        if loop["loop"] not in (best_loop(loops, start), len(loops)):
            shutil.rmtree(folder / f"loop_{loop['loop']}", ignore_errors=True)


def copy_model(base: Path, final: Path) -> None:
    from kmlite.runs import put_in_place

    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(base, partial)
    put_in_place(partial, final)


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
