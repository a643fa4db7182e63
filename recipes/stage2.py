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

    stage = stages.open_stage(2, settings, {name: [path] for name, path in splits.items()})
    if not stage:
        return
    questions, leaked = examples.without_leaks(exam["train"], *(listed for name, listed in exam.items() if name != "train"))
    exam["train"] = chosen(settings, questions)
    measured_on = suite.prepare(settings.refined, texts=settings.heldout, entries=settings.entries, questions=0)
    stage.describe("questions", resolved(settings, exam, leaked, suite.in_words(measured_on)))
    before, after = (partial(ask, settings=settings, exam=exam, file=stage.folder / name) for name in (paths.DEV_BEFORE, paths.DEV_AFTER))

    # ---- measure, then loop: train, ask dev, keep the best
    model, tokenizer = stage.load(stage.base, train=True)
    start = accuracy(stage.measure("before", (model, tokenizer), measured_on, before))
    console.print(f"  before       dev {start:.1f}%")
    adapted = stage.adapt(model)
    done, reason = loops(stage, settings, start, adapted, tokenizer, exam)
    best = best_loop(done, start)
    console.print(f"  stopped: {reason}; the best is {f'loop {best}' if best else 'the initial model, no loop was better on dev'}")
    stage.training = [loop["training"] for loop in done]
    stage.results += [one for loop in done for one in loop["results"]]
    del model, adapted
    loading.free()

    # ---- merge the best loop, measure what is handed over
    final = stage.merge(stage.base, stage.adapter(best) if best else None, [question["question"] for question in exam["dev"][:3]])
    ended = accuracy(stage.measure("after", final, measured_on, after))
    reached = ended >= settings.target
    stage.facts |= {"best_loop": best, "stopped": reason, "target_reached": reached}
    console.print(f"  target of {settings.target:g}% on dev reached: {'yes' if reached else 'no'}")
    console.print(f"  {scoring.OF_THIS_SIZE if folders.is_stand_in(stage.base) else published.beside(ended)}")
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


def resolved(settings: Settings, exam: dict[str, list[dict]], leaked: int, measured_on: str) -> dict[str, object]:
    """What the stage trains on, how and until when, in words."""
    from kmlite.training import examples

    pairs, reasoned = examples.turns(exam["train"], settings.reasoned_share, settings.seed)
    fixed = sum(map(examples.names_places, exam["train"]))
    order = f"in a new order each epoch, but for {fixed} questions that name letters or places"
    asked = f"of its own for {settings.reason_questions} questions before each loop, {len(guides(exam))} examples to choose from"
    return {
        "questions": f"{len(exam['train']):,} to teach ({reasoned} of {len(pairs):,} sequences reasoned), {len(exam['dev']):,} in dev",
        "leakage": f"{leaked} train questions found in dev, test or few-shot" + (", left out" if leaked else ""),
        "options": order if settings.shuffle else "in the given order",
        "reasonings": asked if settings.self_reason else "from the data only",
        "suite": measured_on,
        "until": f"dev accuracy {settings.target:g}%; at most {counted(settings.loops, 'loop')}, patience {settings.patience}",
    }


def guides(exam: dict[str, list[dict]]) -> list[dict]:
    """The few-shot questions that show how a reasoning is written."""
    return [question for question in exam.get("fewshot", []) if question.get("cot")]


def ask(model, tokenizer, *, settings: Settings, exam: dict[str, list[dict]], file: Path) -> list[dict]:
    """The results on dev, whose predictions go to `file`, and on some train questions: were they learned by heart?"""
    from kmlite.evaluation import suite

    found, predictions = suite.accuracy(model, tokenizer, exam["dev"], "dev", settings.max_new_tokens)
    files.write_lines(file, predictions)
    seen = suite.sample_questions(exam["train"], settings.questions)
    return found + (suite.accuracy(model, tokenizer, seen, "seen", settings.max_new_tokens)[0] if seen else [])


# ---- loops


def loops(stage, settings: Settings, start: float, model, tokenizer, exam: dict[str, list[dict]]) -> tuple[list[dict], str]:
    """(the records of all loops, those of earlier runs among them, and why they ended); `start` is the dev accuracy before them.

    Of the adapters the best and the last are kept, and all records in a journal.
    """
    from kmlite.models import loading

    journal = stage.checkpoints / "loops.json"
    done: list[dict] = files.read_json(journal) if journal.exists() else []
    while found := files.read_record(stage.adapter(len(done) + 1) / paths.RECORD):
        done.append(found)
    if done:
        loading.load_adapter(model, stage.adapter(len(done)))
        console.print(f"  going on after loop {len(done)}")
    while not (reason := why_stop(done, start, settings)):
        done.append(one_loop(stage, settings, len(done) + 1, model, tokenizer, exam))
        files.write_json(journal, done)
        for number in set(range(1, len(done))) - {best_loop(done, start)}:
            shutil.rmtree(stage.adapter(number), ignore_errors=True)
    return done, reason


def one_loop(stage, settings: Settings, number: int, model, tokenizer, exam: dict[str, list[dict]]) -> dict:
    """Train on all questions and ask dev; the record of the loop, which is written last."""
    from kmlite.evaluation import suite
    from kmlite.training import examples, self_training

    folder, checkpoints, questions = stage.adapter(number), stage.checkpoints / f"loop_{number}", exam["train"]
    asked: list[dict] = []
    if settings.self_reason:
        asked = own_reasonings(stage, settings, number, model, tokenizer, exam)
        questions = self_training.with_reasonings(questions, asked)
    # dropout's seed is the loop's own: the same masks in each loop would drop the same weights for the same batches
    on_card = replace(stage.on_card, epochs=1, seed=settings.seed + number)
    how = {"shuffle": settings.shuffle, "reasoned_share": settings.reasoned_share, "length": settings.length, "batch": on_card.batch}
    rows, found = examples.rows_of_loop(tokenizer, questions, epochs=settings.epochs, **how, seed=f"{settings.seed} {number}")
    if number == 1 and found["left_out"]:
        console.print(f"  left out     {found['left_out']} sequences of all epochs, longer than {settings.length} tokens")
    asked_often = examples.turns(suite.sample_questions(exam["dev"], WATCHED), 0, 0)[0]
    watched, _ = examples.conversation_rows(tokenizer, asked_often, settings.length)
    task: dict = {"patience": settings.early_stop, "order": "sequential", "answer_weight": settings.answer_weight}
    trained = stage.train(model, tokenizer, rows, loop=number, settings=on_card, eval_rows=watched, **task)
    measured = ask(model, tokenizer, settings=settings, exam=exam, file=folder / "dev_predictions.jsonl")
    training = {"loop": number, **found, **trained}
    if settings.self_reason:
        training["self_reasons"] = self_training.counts(asked)
        files.write_lines(folder / paths.SELF_REASONS, asked)
    stamped = results.stamped(measured, stage.name, f"loop {number}", precision=stage.fitted.precision)
    record = {"loop": number, "results": stamped, "training": training}
    files.write_json(folder / paths.RECORD, record)
    shutil.rmtree(checkpoints, ignore_errors=True)
    told = ((name, results.find(stamped, "accuracy", data, None)) for data, name in (("dev", "dev"), ("seen", "seen questions")))
    figures = "".join(f"{name} {results.in_words(one)}; " for name, one in told if one)
    console.print(f"  loop {number}       {figures}loss {trained['loss']:.4f}")
    return record


def own_reasonings(stage, settings: Settings, number: int, model, tokenizer, exam: dict[str, list[dict]]) -> list[dict]:
    """What `self_training.ask` makes of the questions before a loop."""
    from kmlite.models import folders
    from kmlite.training import self_training

    journal = stage.checkpoints / f"loop_{number}" / paths.SELF_REASONS
    how: dict = {"count": settings.reason_questions, "max_new_tokens": settings.reason_tokens, "seed": f"{settings.seed} {number}"}
    asked = self_training.ask(model, tokenizer, exam["train"], guides(exam), journal, **how)
    console.print(f"  loop {number}       {self_training.in_words(self_training.counts(asked))}")
    if number == 1 and folders.is_stand_in(stage.base):
        console.print(f"  {self_training.OF_THIS_SIZE}")
    return asked


def accuracy(found: list[dict]) -> float:
    """The dev accuracy among the results of one moment, in percent."""
    one = results.find(found, "accuracy", "dev", None)
    assert one, "dev was not measured"
    return one["value"]


def best_loop(done: list[dict], start: float) -> int:
    """The number of the first loop with the highest dev accuracy; 0 where none is above `start`, what the model came with."""
    found = [start, *(accuracy(loop["results"]) for loop in done)]
    return found.index(max(found))


def why_stop(done: list[dict], start: float, settings: Settings) -> str | None:
    """The reason to end the loops, or None to go on."""
    if max([start, *(accuracy(loop["results"]) for loop in done)]) >= settings.target:
        return f"dev reached {settings.target:g}%"
    if len(done) >= settings.loops:
        return f"{counted(settings.loops, 'loop')} done"
    if done and len(done) - best_loop(done, start) >= settings.patience:
        return f"{settings.patience} loops without a better dev accuracy"
    return None


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
