"""Stage 2: teach exam questions in loops until the dev accuracy reaches a target; then open the test split once.

\b
    make stage2 REFINED=data/02_refined OUT=model
"""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting
from kmlite.models.loading import CHECKPOINTING, PRECISIONS
from kmlite.training.stages import TRACKERS


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
    self_reason: bool = setting(False, "before each loop the model writes reasonings for questions that have none; few are kept")
    reason_questions: int = setting(
        200, "questions to ask for a reasoning before each loop at the most, each in three orders of its options"
    )
    reason_samples: int = setting(1, "reasonings to write in each of the three orders")
    reason_shots: int = setting(3, "few-shot examples with a reasoning to show it, those of the question's subject first")
    reason_temperature: float = setting(0.7, "of the sampling: above 0, so that the three orders are three tries")
    reason_tokens: int = setting(400, "tokens of a reasoning: KorMedMCQA's own have 250 to 700 characters")
    answer_weight: float = setting(
        1.0, "of the answer's letter in the loss, against 1 for each other token; above 1 the letter counts more"
    )
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
    heldout: int = setting(200, "held-out texts in the gauge at the most")
    entries: int = setting(200, "dictionary entries in the gauge at the most")
    eval_batch: int = setting(0, "questions answered at once; 0 chooses by device")
    seed: int = setting(0, "of LoRA, order of data and dropout")
    report_to: str = setting("none", "a tracker that gets each step's loss; to be installed beside kmlite", TRACKERS)
    accept_regression: bool = setting(False, "go on where the stage made the model worse, instead of leaving with status 3")
    restart: bool = setting(False, "drop an unfinished run, or redo a finished one")


def main(settings: Settings) -> None:
    from kmlite import records

    console.print(f"[bold]stage 2[/]  exam questions → {settings.out / paths.STAGES[2]}")
    started = time.time()

    # ---- what there is to learn; dev steers, test stays closed until the end
    questions, dev = (records.read_exam(settings.refined, split) for split in ("train", "dev"))
    test_path, fewshot_path = (paths.exam_split(settings.refined, split) for split in ("test", "fewshot"))
    fewshot = records.read_exam(settings.refined, "fewshot") if fewshot_path.exists() else []
    examples = [question for question in fewshot if question.get("cot")]
    if not questions or not dev:
        raise click.ClickException(f"{settings.refined / paths.EXAM} needs questions in both train.jsonl and dev.jsonl.")
    check_reasoning(settings)
    if settings.answer_weight <= 0:
        raise click.ClickException(f"--answer-weight {settings.answer_weight:g}: a number above 0; 1 is the plain loss.")

    from kmlite import files, runs
    from kmlite.evaluation import generation, scoring, suite
    from kmlite.models import folders, loading
    from kmlite.training import exam_rows, loops, self_training, shuffling, stages, trainer

    if settings.base:
        base = folders.resolve(settings.base)
    else:
        base = folders.final_folder(settings.out, 1, f"Run first: make stage1 OUT={settings.out}   (or name another model as BASE=…)")
    folder = settings.out / paths.STAGES[2]
    check_writable(folder)
    data = {split: [paths.exam_split(settings.refined, split)] for split in ("train", "dev")}
    if test_path.exists():
        data["test"] = [test_path]
    if fewshot_path.exists():
        data["fewshot"] = [fewshot_path]
    for name, path in (("heldout", paths.heldout_text(settings.refined)), ("dictionary", settings.refined / paths.DICTIONARY)):
        if path.exists():
            data[name] = [path]
    plan = stages.plan_of("stage2", settings, base, settings.base or "stage 1", data)
    if stages.skip_or_begin(folder, plan, settings):
        return
    stand_in = folders.is_stand_in(base)
    fitted = stages.fit(settings, base, folder / paths.CHECKPOINTS)
    precision = fitted.precision
    on_card = replace(settings, batch=fitted.batch, accumulation=fitted.accumulation)
    test = records.read_exam(settings.refined, "test") if test_path.exists() else []  # here for its stems alone
    questions, leaked = exam_rows.without_leaks(questions, dev, test, fewshot)
    pairs, reasoned = exam_rows.turns(questions, settings.reasoned_share, settings.seed)
    measured_on = suite.prepare(settings.refined, texts=settings.heldout, entries=settings.entries, questions=0, length=settings.length)
    places = sum(shuffling.names_places(question) for question in questions)
    stages.describe(
        {
            "base": f"{base}{folders.said_of(base)}",
            **stages.fitted_in_words(fitted, settings, "questions"),
            "questions": f"{len(questions):,} to teach ({reasoned} of {len(pairs):,} rows reasoned), {len(dev):,} in dev",
            "leakage": f"{leaked} train questions stand in dev, test or few-shot" + (" and are left out" if leaked else ""),
            "options": f"in a new order each epoch, but for {places} questions that name letters or places"
            if settings.shuffle
            else "as given",
            "reasonings": f"of its own for {settings.reason_questions} questions before each loop, {len(examples)} examples to choose from"
            if settings.self_reason
            else "those of the data alone",
            "gauge": f"{len(measured_on.korean)} held-out texts, {len(measured_on.dictionary)} dictionary entries, "
            f"{len(measured_on.english)} English texts",
            "learning": f"LoRA rank {settings.rank}, rate {settings.learning_rate:g}, {settings.epochs:g} epochs a loop",
            "until": f"dev accuracy {settings.target:g}%; at most {settings.loops} loops, patience {settings.patience}",
        },
    )
    batch = settings.eval_batch or generation.default_batch()

    def accuracy(measured, asked: list[dict]) -> dict:
        answers = scoring.answer_exam(measured, tokenizer, asked, max_new_tokens=settings.max_new_tokens, batch=batch)
        return {**scoring.summarise(answers), "predictions": answers}

    # ---- before, then loop: train, ask dev, keep the best
    recompute = loading.recomputes(settings.checkpointing)
    trained, tokenizer = loading.load(base, precision, settings.length, recompute)
    before_path = folder / paths.CHECKPOINTS / "before.json"
    if not before_path.exists():
        measured = {"dev": accuracy(trained, dev), "taught": accuracy(trained, questions[: settings.measured])}
        files.write_json(before_path, {"exam": measured, "gauge": {"bits": suite.bits(trained, tokenizer, measured_on)}})
    came_with = files.read_json(before_path)
    before, points = {name: without_predictions(part) for name, part in came_with["exam"].items()}, {"before": came_with["gauge"]}
    console.print(f"  before       dev {scoring.in_words(before['dev'])}; taught {scoring.in_words(before['taught'])}")
    _, left_out = trainer.conversation_rows(tokenizer, pairs, settings.length)
    if left_out:
        console.print(f"  {left_out:,} rows are longer than {settings.length} tokens and are left out")
    dev_rows, _ = trainer.conversation_rows(tokenizer, exam_rows.turns(dev, 0, settings.seed)[0], settings.length)
    adapted = stages.adapt(trained, settings, recompute)
    count = loading.trainable_summary(adapted)
    done = loops.finished(folder)
    if done:
        loading.load_adapter(adapted, folder / f"loop_{len(done)}")
        console.print(f"  going on after loop {len(done)}")
    start = before["dev"]["accuracy"]
    while not (reason := loops.why_stop(done, start, settings)):
        number = len(done) + 1
        checkpoints = folder / paths.CHECKPOINTS / f"loop_{number}"
        teaching, asked = questions, []
        if settings.self_reason:
            asked = self_training.ask(
                adapted,
                tokenizer,
                questions,
                examples,
                checkpoints / paths.SELF_REASONS,
                count=settings.reason_questions,
                samples=settings.reason_samples,
                shots=settings.reason_shots,
                temperature=settings.reason_temperature,
                max_new_tokens=settings.reason_tokens,
                batch=batch,
                seed=f"{settings.seed} {number}",
            )
            teaching = self_training.with_reasonings(questions, asked)
            console.print(f"  loop {number}       {self_training.in_words(self_training.counts(asked))}")
            if stand_in and number == 1:
                console.print(f"  {self_training.OF_THIS_SIZE}")
        rows, balance = exam_rows.rows_of_loop(tokenizer, teaching, number, on_card)
        if settings.shuffle and number == 1:
            shares = ", ".join(f"{letter} {share:.1%}" for letter, share in balance.items())
            console.print(f"  letters      right answers after shuffling: {shares}")
        result = trainer.train(
            adapted,
            tokenizer,
            rows,
            checkpoints,
            on_card,
            eval_rows=dev_rows,
            order="sequential",
            epochs=1,
            answer_weight=settings.answer_weight,
        )
        dev_score = accuracy(adapted, dev)
        record: dict = {"loop": number, "dev": without_predictions(dev_score), "letters": balance, "training": result}
        record["reasoned_rows"] = exam_rows.turns(teaching, settings.reasoned_share, settings.seed)[1]
        target = folder / f"loop_{number}"
        loading.save_adapter(adapted, target)
        files.write_lines(target / "dev_predictions.jsonl", dev_score["predictions"])
        if settings.self_reason:
            record["self_reasons"] = self_training.counts(asked)
            files.write_lines(target / paths.SELF_REASONS, asked)
        files.write_json(target / paths.RECORD, record)  # last: the loop is done
        done.append(record)
        shutil.rmtree(checkpoints, ignore_errors=True)
        loops.prune(folder, done, start)
        console.print(f"  loop {number}       dev {scoring.in_words(record['dev'])}; loss {result['loss']:.4f}")
    best = loops.best(done, start)
    console.print(f"  stopped: {reason}; the best is {f'loop {best}' if best else 'the model as it came, no loop was better on dev'}")
    peaks = [loop["training"]["peak_bytes"] for loop in done]
    used = stages.memory_record(fitted, max(filter(None, peaks), default=None))
    del trained, adapted
    loading.free()

    # ---- hand over the best loop; measure it; only now open test
    if best:
        difference = loading.merge(base, folder / f"loop_{best}", folder / paths.FINAL, [q["question"] for q in dev[:3]])
    else:
        copy_model(base, folder / paths.FINAL)
        difference = 0.0
    final, tokenizer = loading.load(folder / paths.FINAL, precision, settings.length)
    measured = {"dev": accuracy(final, dev), "taught": accuracy(final, questions[: settings.measured])}
    if test_path.exists():
        measured["test"] = accuracy(final, test)
        files.write_lines(folder / "test_predictions.jsonl", measured["test"]["predictions"])
        scoring.log_opening(folder, "stage2", measured["test"])
    files.write_lines(folder / paths.DEV_BEFORE, came_with["exam"]["dev"].get("predictions", []))
    files.write_lines(folder / paths.DEV_AFTER, measured["dev"]["predictions"])
    after = {name: without_predictions(part) for name, part in measured.items()}
    points["after"] = {"bits": suite.bits(final, tokenizer, measured_on)}
    price = suite.price(points["before"], points["after"], after["dev"]["accuracy"] > start)
    reached = after["dev"]["accuracy"] >= settings.target
    worse = []
    if after["dev"]["accuracy"] < before["dev"]["interval"][0]:  # the merge of a model trained in 4-bit may lose what it had
        worse.append(f"dev accuracy is {scoring.in_words(after['dev'])}; it was {scoring.in_words(before['dev'])}")
    metrics = {
        "before": before,
        "after": after,
        "gauge": points,
        "price": price,
        "loops": done,
        "best_loop": best,
        "stopped": reason,
        "target_reached": reached,
        "worse": worse,
        "merge_difference": difference,
        "reasoned_rows": reasoned,
        "left_out": left_out,
        "trainable": count,
        "precision": precision,
        "memory": used,
        "stand_in": stand_in,
    }
    runs.finish(folder, plan, started, metrics)
    console.print(f"  [bold]taught questions: {scoring.in_words(before['taught'])} → {scoring.in_words(after['taught'])}[/]")
    console.print(f"  [bold]dev: {scoring.in_words(before['dev'])} → {scoring.in_words(after['dev'])}[/]")
    console.print(f"  target of {settings.target:g}% on dev reached: {'yes' if reached else 'no'}")
    if "test" in after:
        console.print(f"  [bold]test, opened only now: {scoring.in_words(after['test'])}[/]")
    suite.show(points, "Stage 2, the language before and after")
    if price:
        console.print(f"  [bold]{price}[/]")
    if stand_in:
        console.print(f"  {scoring.OF_THIS_SIZE}")
    console.print(f"  written to {folder / paths.FINAL}, {time.time() - started:.0f} s")
    stages.verdict(worse, "stage2", settings)


def check_reasoning(settings: Settings) -> None:
    """Refuse settings of --self-reason that could teach nothing."""
    if not settings.self_reason:
        return
    if settings.reasoned_share <= 0:
        raise click.ClickException("--self-reason writes reasonings that --reasoned-share 0 never teaches. Leave one of them out.")
    if min(settings.reason_questions, settings.reason_samples, settings.reason_tokens) < 1 or settings.reason_temperature <= 0:
        raise click.ClickException("--reason-questions, --reason-samples, --reason-tokens and --reason-temperature must be above 0.")


def without_predictions(part: dict) -> dict:
    return {key: value for key, value in part.items() if key != "predictions"}


def copy_model(base: Path, final: Path) -> None:
    from kmlite.files import put_in_place

    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(base, partial)
    put_in_place(partial, final)


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
