"""Stage 2: teach exam questions in loops until the dev accuracy reaches a target. Test stays closed: make eval opens it.

\b
    make stage2 REFINED=data/02_refined OUT=model
"""

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from kmlite import files, paths, results
from kmlite.cli import console, counted, recipe, setting
from kmlite.training.settings import TrainingSettings

WATCHED = 200  # dev questions whose loss is taken while training; all of KorMedMCQA's 1,059 would take a fifth of the time of 50 steps


@dataclass(frozen=True)
class Settings(TrainingSettings):
    target: float = setting(90, "dev accuracy in percent that ends the loops")
    loops: int = setting(10, "loops at the most")
    patience: int = setting(2, "loops without a better dev accuracy that end it")
    early_stop: int = setting(
        3, "measurements of the loss on dev without a lower one that end a loop; its best weights are kept; 0: all steps, the last weights"
    )
    sources: str = setting("", "mix of the train questions by origin or source, as native:translated=3:1; empty: all of them")
    shuffle: bool = setting(True, "a new order of the options in each epoch, so that the option is learned and not its letter")
    reasoned_share: float = setting(0.05, "share of the sequences that teach a written-out reasoning, where questions have one")
    self_reason: bool = setting(False, "before each loop the model writes reasonings for questions that have none; few are kept")
    reason_questions: int = setting(200, "questions to ask for a reasoning before each loop, each in three orders of its options")
    reason_tokens: int = setting(400, "tokens of a reasoning: KorMedMCQA's own have 250 to 700 characters")
    answer_weight: float = setting(
        1.0, "of the answer's letter in the loss, against 1 for each other token; above 1 the letter counts more"
    )
    length: int = setting(1024, "tokens of the longest question with its answer; longer ones are left out and counted")
    batch: int = setting(2, "questions at once on the card")
    accumulation: int = setting(16, "batches an optimizer step: 32 questions")
    learning_rate: float = setting(1e-5, "half of stage 1's: a few thousand questions are soon learned by heart")
    schedule: str = setting("cosine", "of the learning rate, anew in each loop")
    epochs: int = setting(5, "over the questions, in each loop")
    max_steps: int = setting(-1, "stop each loop after so many optimizer steps; -1 for all epochs")
    save_every: int = setting(100, "steps between checkpoints where nothing stops a loop early; 0 for one a loop", decides=False)
    eval_every: int = setting(50, "steps between measurements of the loss on 200 questions of dev, each with a checkpoint; 0 for none")
    questions: int = setting(
        200, "train questions asked before and after, to see that they were learned; dev is asked whole", decides=False
    )


def main(settings: Settings) -> None:
    from kmlite import records

    console.print(f"[bold]stage 2[/]  exam questions → {settings.out / paths.STAGES[2].folder}")

    # ---- what there is to learn; dev steers, test is read for its stems alone, so that no train question stands in it
    check(settings)
    splits = {name: paths.exam_split(settings.refined, name) for name in ("train", "dev", "test", "fewshot")}
    exam = {name: records.read_exam(settings.refined, name) for name, path in splits.items() if path.exists() or name in ("train", "dev")}
    if not exam["train"] or not exam["dev"]:
        raise click.ClickException(f"{settings.refined / paths.EXAM} needs questions in both train.jsonl and dev.jsonl.")

    from kmlite.evaluation import published, scoring, suite
    from kmlite.models import folders, loading
    from kmlite.training import examples, stages

    data = {**{name: [path] for name, path in splits.items()}, "dictionary": [settings.refined / paths.DICTIONARY]}
    stage = stages.open_stage(2, settings, stages.measured_data(settings.refined) | data)
    if not stage:
        return
    questions, leaked = examples.without_leaks(exam["train"], *(listed for name, listed in exam.items() if name != "train"))
    questions = chosen(settings, questions)
    measured_on = suite.prepare(settings.refined, texts=settings.heldout, entries=settings.entries, questions=0)
    seen = suite.sample_questions(questions, settings.questions)
    describe(stage, settings, questions, exam, leaked, suite.in_words(measured_on))

    def measure(model, tokenizer, answers: str) -> list[dict]:
        found, predictions = suite.accuracy(model, tokenizer, exam["dev"], "dev", settings.max_new_tokens)
        files.write_lines(stage.folder / answers, predictions)
        found += suite.accuracy(model, tokenizer, seen, "seen", settings.max_new_tokens)[0] if seen else []
        return found + suite.bits(model, tokenizer, measured_on)

    # ---- measure, then loop: train, ask dev, keep the best
    model, tokenizer = stage.load(stage.base, train=True)
    before = stage.measure("before", partial(measure, model, tokenizer, paths.DEV_BEFORE))
    start = dev_accuracy(before, "before")
    console.print(f"  before       dev {start:.1f}%")
    adapted = stage.adapt(model)
    done, reason = loops(stage, settings, start, adapted, tokenizer, questions, seen, exam)
    best = best_loop(done, start)
    console.print(f"  stopped: {reason}; the best is {f'loop {best}' if best else 'the initial model, no loop was better on dev'}")
    stage.training = [loop["training"] for loop in done]
    stage.results += [one for loop in done for one in loop["results"]]
    del model, adapted
    loading.free()

    # ---- merge the best loop, measure what is handed over
    adapter = stage.folder / f"loop_{best}" if best else None
    final, tokenizer = stage.hand_over(stage.base, adapter, [question["question"] for question in exam["dev"][:3]])
    after = stage.measure("after", partial(measure, final, tokenizer, paths.DEV_AFTER))
    reached = dev_accuracy(after, "after") >= settings.target
    stage.facts |= {"best_loop": best, "stopped": reason, "target_reached": reached}
    console.print(f"  target of {settings.target:g}% on dev reached: {'yes' if reached else 'no'}")
    if folders.is_stand_in(stage.base):
        console.print(f"  {scoring.OF_THIS_SIZE}")
    else:
        console.print(f"  {published.beside(dev_accuracy(after, 'after'))}")
    stage.finish(trained_on={("accuracy", "dev")})


def check(settings: Settings) -> None:
    """Refuse settings that could teach nothing."""
    if settings.answer_weight <= 0:
        raise click.ClickException(f"--answer-weight {settings.answer_weight:g}: a number above 0; 1 is the plain loss.")
    if settings.self_reason and settings.reasoned_share <= 0:
        raise click.ClickException("--self-reason writes reasonings that --reasoned-share 0 never teaches. Leave one of them out.")
    if settings.self_reason and min(settings.reason_questions, settings.reason_tokens) < 1:
        raise click.ClickException("--reason-questions and --reason-tokens must be above 0.")


def chosen(settings: Settings, questions: list[dict]) -> list[dict]:
    """The questions in the mix that was asked for, without reasonings that are not to be learned from."""
    from kmlite.training import examples, self_training

    if settings.sources:
        names, _, shares = settings.sources.partition("=")
        try:
            questions = examples.mixed(questions, names, shares, settings.seed)
        except ValueError as error:
            raise click.ClickException(f"--sources {settings.sources}: {error}. As in: --sources native:translated=3:1") from error
        console.print(f"  sources      {settings.sources}: {len(questions):,} questions")
    reasons = [self_training.why_unverified(question) if question.get("cot") else "" for question in questions]
    if any(reasons):
        listed = ", ".join(f"{reason} {n}" for reason, n in Counter(filter(None, reasons)).most_common())
        console.print(f"  reasonings   left out: {listed}")
    return [{**question, "cot": ""} if reason else question for question, reason in zip(questions, reasons, strict=True)]


def describe(stage, settings: Settings, questions: list[dict], exam: dict[str, list[dict]], leaked: int, measured_on: str) -> None:
    from kmlite.training import examples

    pairs, reasoned = examples.turns(questions, settings.reasoned_share, settings.seed)
    fixed = sum(examples.names_places(question) for question in questions)
    guides = sum(bool(question.get("cot")) for question in exam.get("fewshot", []))
    stage.describe(
        "questions",
        {
            "questions": f"{len(questions):,} to teach ({reasoned} of {len(pairs):,} sequences reasoned), {len(exam['dev']):,} in dev",
            "leakage": f"{leaked} train questions found in dev, test or few-shot" + (", left out" if leaked else ""),
            "options": f"in a new order each epoch, but for {fixed} questions that name letters or places"
            if settings.shuffle
            else "in the given order",
            "reasonings": f"of its own for {settings.reason_questions} questions before each loop, {guides} examples to choose from"
            if settings.self_reason
            else "from the data only",
            "suite": measured_on,
            "until": f"dev accuracy {settings.target:g}%; at most {counted(settings.loops, 'loop')}, patience {settings.patience}",
        },
    )


def loops(
    stage, settings: Settings, start: float, model, tokenizer, questions: list[dict], seen: list[dict], exam: dict[str, list[dict]]
) -> tuple[list[dict], str]:
    """(the records of all loops, those of earlier runs among them, and why they ended); `start` is the dev accuracy before them."""
    from kmlite.models import loading

    if done := finished(stage.folder):
        loading.load_adapter(model, stage.folder / f"loop_{len(done)}")
        console.print(f"  going on after loop {len(done)}")
    while not (reason := why_stop(done, start, settings)):
        done.append(one_loop(stage, settings, len(done) + 1, model, tokenizer, questions, seen, exam))
        prune(stage.folder, done, start)
    return done, reason


def one_loop(
    stage, settings: Settings, number: int, model, tokenizer, questions: list[dict], seen: list[dict], exam: dict[str, list[dict]]
) -> dict:
    """Train on all questions, ask dev and `seen` (learned by heart?), keep the adapter and the record of the loop, written last."""
    from kmlite.evaluation import suite
    from kmlite.models import loading
    from kmlite.training import examples, self_training

    folder, checkpoints = stage.folder / f"loop_{number}", stage.checkpoints / f"loop_{number}"
    asked: list[dict] = []
    if settings.self_reason:
        asked = own_reasonings(stage, settings, number, model, tokenizer, questions, exam, checkpoints / paths.SELF_REASONS)
        questions = self_training.with_reasonings(questions, asked)
    # dropout's seed is the loop's own: the same masks in each loop would drop the same weights for the same batches
    on_card = replace(stage.on_card, epochs=1, seed=settings.seed + number)
    rows, found = examples.rows_of_loop(
        tokenizer,
        questions,
        epochs=settings.epochs,
        shuffle=settings.shuffle,
        reasoned_share=settings.reasoned_share,
        length=settings.length,
        batch=on_card.batch,
        seed=f"{settings.seed} {number}",
    )
    if number == 1 and found["left_out"]:
        console.print(f"  left out     {found['left_out']} sequences of all epochs, longer than {settings.length} tokens")
    asked_often = examples.turns(suite.sample_questions(exam["dev"], WATCHED), 0, 0)[0]
    watched, _ = examples.conversation_rows(tokenizer, asked_often, settings.length)
    trained = stage.train(
        model,
        tokenizer,
        rows,
        checkpoints,
        on_card,
        eval_rows=watched,
        patience=settings.early_stop,
        order="sequential",
        answer_weight=settings.answer_weight,
    )
    measured, predictions = suite.accuracy(model, tokenizer, exam["dev"], "dev", settings.max_new_tokens)
    learned = suite.accuracy(model, tokenizer, seen, "seen", settings.max_new_tokens)[0] if seen else []
    loading.save_adapter(model, folder)
    files.write_lines(folder / "dev_predictions.jsonl", predictions)
    training = {"loop": number, **found, **trained}
    if settings.self_reason:
        training["self_reasons"] = self_training.counts(asked)
        files.write_lines(folder / paths.SELF_REASONS, asked)
    stamped = results.stamped(measured + learned, stage.name, f"loop {number}", precision=stage.fitted.precision)
    record = {"loop": number, "results": stamped, "training": training}
    files.write_json(folder / paths.RECORD, record)
    shutil.rmtree(checkpoints, ignore_errors=True)
    told = ((name, results.find(stamped, "accuracy", data, None)) for data, name in (("dev", "dev"), ("seen", "seen questions")))
    figures = "".join(f"{name} {results.in_words(one)}; " for name, one in told if one)
    console.print(f"  loop {number}       {figures}loss {trained['loss']:.4f}")
    return record


def own_reasonings(
    stage, settings: Settings, number: int, model, tokenizer, questions: list[dict], exam: dict[str, list[dict]], journal: Path
) -> list[dict]:
    """What `self_training.ask` makes of the questions before a loop."""
    from kmlite.models import folders
    from kmlite.training import self_training

    guides = [question for question in exam.get("fewshot", []) if question.get("cot")]
    how: dict = {"count": settings.reason_questions, "max_new_tokens": settings.reason_tokens, "seed": f"{settings.seed} {number}"}
    asked = self_training.ask(model, tokenizer, questions, guides, journal, **how)
    console.print(f"  loop {number}       {self_training.in_words(self_training.counts(asked))}")
    if number == 1 and folders.is_stand_in(stage.base):
        console.print(f"  {self_training.OF_THIS_SIZE}")
    return asked


# ---- loops: which are done, which is best, when to stop, what is kept on the disk


def dev_accuracy(found: list[dict], when: str) -> float:
    one = results.find(found, "accuracy", "dev", when)
    assert one, f"dev was not measured {when}"
    return one["value"]


def finished(folder: Path) -> list[dict]:
    """The records of the loops that are done, in order."""
    journal = folder / paths.CHECKPOINTS / "loops.json"
    loops: list[dict] = files.read_json(journal) if journal.exists() else []
    while found := files.read_record(folder / f"loop_{len(loops) + 1}" / paths.RECORD):
        loops.append(found)
    return loops


def best_loop(loops: list[dict], start: float) -> int:
    """The number of the first loop with the highest dev accuracy; 0 where none is above `start`, what the model came with."""
    found, highest = 0, start
    for loop in loops:
        accuracy = dev_accuracy(loop["results"], f"loop {loop['loop']}")
        if accuracy > highest:
            found, highest = loop["loop"], accuracy
    return found


def why_stop(loops: list[dict], start: float, settings: Settings) -> str | None:
    """The reason to end the loops, or None to go on; `start` is the dev accuracy before them."""
    if max([start, *(dev_accuracy(loop["results"], f"loop {loop['loop']}") for loop in loops)]) >= settings.target:
        return f"dev reached {settings.target:g}%"
    if len(loops) >= settings.loops:
        return f"{counted(settings.loops, 'loop')} done"
    if loops and len(loops) - best_loop(loops, start) >= settings.patience:
        return f"{settings.patience} loops without a better dev accuracy"
    return None


def prune(folder: Path, loops: list[dict], start: float) -> None:
    """Drop the adapters of all loops but the best and the last; their records stay in the journal."""
    files.write_json(folder / paths.CHECKPOINTS / "loops.json", loops)
    for loop in loops:
        if loop["loop"] not in (best_loop(loops, start), len(loops)):
            shutil.rmtree(folder / f"loop_{loop['loop']}", ignore_errors=True)


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
