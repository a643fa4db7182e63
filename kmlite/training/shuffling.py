"""The options of exam questions in a new order each epoch, with the letters remapped, and rows in an order of their own."""

import random
import re
from collections import Counter

from kmlite import prompts

# A question whose words name letters, numbers or places would be wrong in another order.
NAMES_PLACES = re.compile(
    r"위\s*(?:의\s*)?(?:모두|보기|항목|사항)|모두\s*(?:해당|정답|맞|옳|아니)|정답\s*없음|해당\s*(?:사항\s*)?없음|[①-⑳㉠-㉭ㄱ-ㅎ]|<\s*보기\s*>|"
    r"(?<![A-Za-z가-힣])[가-마]\s*[,·]\s*[가-마](?![가-힣])|" + prompts.OPTION + prompts.JOINED + r"[A-E](?![A-Za-z])"
)


def names_places(question: dict) -> bool:
    """Whether the stem or an option names letters or positions (`위 모두`, `①`, `A와 B`)."""
    return any(NAMES_PLACES.search(question[key]) for key in ("question", *prompts.LETTERS))


def shuffled(question: dict, chance: random.Random) -> dict:
    """The question with its options in a new order; one that names letters or positions as it is."""
    if names_places(question):
        return question
    order = list(prompts.LETTERS)
    chance.shuffle(order)
    return reordered(question, "".join(order))


def reordered(question: dict, order: str) -> dict:
    """The question with the option that stood at order[i] at the i-th letter; the answer's letter and those in its reasoning go
    with the options."""
    now = dict(zip(order, prompts.LETTERS, strict=True))
    moved = {now[letter]: question[letter] for letter in prompts.LETTERS}
    out = {**question, **moved, "answer": now[question["answer"]]}
    if question.get("cot"):
        out["cot"] = relettered(question["cot"], now)
    return out


def relettered(text: str, now: dict[str, str]) -> str:
    """A reasoning with the letters that stand for options renamed."""
    return prompts.LETTER.sub(lambda found: now[found.group(1)], text)


def letter_balance(questions: list[dict]) -> dict[str, float]:
    """Share of right answers by letter."""
    counts = Counter(question["answer"] for question in questions)
    return {letter: counts[letter] / max(1, len(questions)) for letter in prompts.LETTERS}


def in_order(epochs: list[list[dict]], batch: int, seed: int) -> list[dict]:
    """The rows of all epochs in the order to train on: at random within an epoch, and rows of similar length side by side,
    so that a batch holds little padding."""
    chance = random.Random(seed)
    out: list[dict] = []
    for rows in epochs:
        rows = rows[:]
        chance.shuffle(rows)
        group = 50 * batch
        groups = [sorted(rows[i : i + group], key=lambda row: -len(row["input_ids"])) for i in range(0, len(rows), group)]
        batches = [part[i : i + batch] for part in groups for i in range(0, len(part), batch)]
        chance.shuffle(batches)
        out += [row for rows_of_batch in batches for row in rows_of_batch]
    return out
