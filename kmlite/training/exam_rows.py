"""Exam questions to training rows: leaks left out, short and reasoned turns, options in a new order each epoch."""

import random

from kmlite import prompts
from kmlite.refine.leakage import exact_key
from kmlite.training import shuffling


def without_leaks(questions: list[dict], *others: list[dict]) -> tuple[list[dict], int]:
    """(the questions that stand in none of the other splits, how many did); refine has set them aside where it made the data."""
    held = {exact_key(question) for split in others for question in split}
    kept = [question for question in questions if exact_key(question) not in held]
    return kept, len(questions) - len(kept)


def reasoned_rows(questions: list[dict], share: float) -> int:
    """How many reasoned rows beside the short rows of all questions make `share` of the whole."""
    return round(len(questions) * share / (1 - share)) if share < 1 else len(questions)


def turns(questions: list[dict], share: float, seed: int) -> tuple[list[tuple[str, str]], int]:
    """(prompt, answer) of every question in the short form and, as `share` of all rows, some with their reasoning.

    Reasonings are real or absent: they come from the data's `cot`; where there are too few of these from the model's own
    (`self_written`); and where these are too few as well the share is smaller.
    """
    short = [(prompts.exam_prompt(q), prompts.exam_answer(q)) for q in questions]
    given, written = ([q for q in questions if q.get("cot") and bool(q.get("self_written")) == own] for own in (False, True))
    chance = random.Random(seed)
    for able in (given, written):
        chance.shuffle(able)
    chosen = (given + written)[: reasoned_rows(questions, share)]
    return short + [(prompts.exam_prompt(q, reasoned=True), prompts.exam_answer(q, reasoned=True)) for q in chosen], len(chosen)


def rows_of_loop(tokenizer, questions: list[dict], loop: int, settings) -> tuple[list[dict], dict[str, float]]:
    """(the rows of all epochs of a loop in order, the share of right answers by letter), by stage 2's settings."""
    from kmlite.training import trainer

    epochs, asked = [], []
    for epoch in range(settings.epochs):
        chance = random.Random(f"{settings.seed} {loop} {epoch}")
        now = [shuffling.shuffled(question, chance) for question in questions] if settings.shuffle else questions
        asked += now
        rows, _ = trainer.conversation_rows(tokenizer, turns(now, settings.reasoned_share, settings.seed)[0], settings.length)
        epochs.append(rows)
    return shuffling.in_order(epochs, settings.batch, settings.seed + loop), shuffling.letter_balance(asked)
