"""Each question asked in several orders of its options, and what a letter draws by its place averaged out, or divided out.

Three ways to a letter: "single", the options as they stand; "prior", the same with the letters' own pull, estimated on other
questions, divided out (PriDe, arXiv 2309.03882); "voted", averaged over cyclic orders of the options. A vote over all five
chooses the same option whichever of the five orders the question comes in, and undoes exactly what depends on the place alone.
"""

import itertools
import math
from collections import Counter

from kmlite import prompts
from kmlite.evaluation import scoring, statistics
from kmlite.training.examples import names_places

LETTERS = prompts.LETTERS
ORDERS = len(LETTERS)


def answer(model, tokenizer, questions: list[dict], *, orders: int = 1, prior: list[float] | None = None, **how) -> list[dict]:
    """Predictions as of `scoring.answer_exam`, which takes `how`; one a question in however many cyclic `orders` (1 to 5) it is asked.

    Of several orders "answer" is the vote's, "single" that of the options as they stand, "chosen_in" the option chosen in each
    order (named by its letter as the question stands), and "outputs" the other orders' texts where they were written. A question whose
    options name letters or places ("A와 B", "위의 모두") is asked as it stands alone: moved, it would be another question. `prior`: of the
    five letters, divided out of a single order's probabilities (scorer "letter").
    """
    asked = [[scoring.rotated(question, by) for by in range(1 if names_places(question) else orders)] for question in questions]
    found = iter(scoring.answer_exam(model, tokenizer, [one for group in asked for one in group], **how))
    out = []
    for number, (question, group) in enumerate(zip(questions, asked, strict=True), 1):
        first, *others = itertools.islice(found, len(group))
        if orders > 1:
            out.append(voted(question, [first, *others], number))
        else:
            out.append({**first, "single": first["answer"], **without(first["logs"], prior, question)} if prior else first)
    return out


def voted(question: dict, found: list[dict], number: int = 1) -> dict:
    """One prediction of those in the question's cyclic orders 0, 1 …"""
    chosen_in = [one["answer"] and LETTERS[(LETTERS.index(one["answer"]) + by) % ORDERS] for by, one in enumerate(found)]
    out = {k: v for k, v in found[0].items() if k != "unreadable"}
    out |= {"number": number, "single": found[0]["answer"], "chosen_in": chosen_in}
    if "logs" in found[0]:
        sums = [math.fsum(one["logs"][(place - by) % ORDERS] for by, one in enumerate(found)) for place in range(ORDERS)]
        out["logs"] = [total / len(found) for total in sums]
        out |= decided(out["logs"], question)
        out["mass"] = round(sum(one["mass"] for one in found) / len(found), 6)
    else:
        votes = Counter(letter for letter in chosen_in if letter)
        out["answer"] = best([votes[letter] for letter in LETTERS], question) if votes else None
        out["outputs"] = [one["output"] for one in found[1:]]
        if not votes:
            out["unreadable"] = prompts.why_unreadable(found[0]["output"])
    return {**out, "right": out["answer"] == question["answer"]}


def decided(logs: list[float], question: dict) -> dict:
    """{"answer", "probabilities" of the five, "right"} of log-probabilities up to a constant."""
    letter = best(logs, question)
    return {"answer": letter, "probabilities": [round(share, 6) for share in softmax(logs)], "right": letter == question["answer"]}


def best(values: list[float], question: dict) -> str:
    """The letter of the largest value; of several as large that of the option whose text comes first, which no order changes."""
    most = max(values)
    return min((letter for letter, value in zip(LETTERS, values, strict=True) if value == most), key=lambda letter: question[letter])


def softmax(logs: list[float]) -> list[float]:
    most = max(logs)
    shares = [math.exp(value - most) for value in logs]
    return [share / math.fsum(shares) for share in shares]


def without(logs: list[float], prior: list[float], question: dict) -> dict:
    """`decided` with the letters' prior divided out of the probabilities of one order."""
    return decided([value - math.log(share) for value, share in zip(logs, prior, strict=True)], question)


def estimated_prior(model, tokenizer, questions: list[dict], *, batch: int, **how) -> list[float]:
    """The probability that each letter has by its place alone, over questions asked in all five orders; no right answer is looked at.

    Each option stands behind each letter once, so that in the mean of a letter's log-probabilities the options cancel out.
    """
    asked = [scoring.rotated(question, by) for question in questions if not names_places(question) for by in range(ORDERS)]
    found = scoring.answer_exam(model, tokenizer, asked, scorer="letter", batch=batch, **how)
    logs = [one["logs"] for one in found]
    return prior_of([logs[start : start + ORDERS] for start in range(0, len(logs), ORDERS)])


def prior_of(logs: list[list[list[float]]]) -> list[float]:
    """The same from log-probabilities by question, order and letter."""
    each = [softmax([math.fsum(column) / len(orders) for column in zip(*orders, strict=True)]) for orders in logs]
    return [math.fsum(column) / len(each) for column in zip(*each, strict=True)]


def side_by_side(ways: dict[str, list[dict]], passes: dict[str, float]) -> list[dict]:
    """Each way of answering the same questions (predictions by its name): its score, the pull of each letter, the `passes` of a question
    through the model, and the paired difference to the first way."""
    first = next(iter(ways.values()))
    return [
        {
            "way": name,
            "passes": round(passes[name], 2),
            **scoring.score_of(predictions),
            "unreadable": sum(p["answer"] is None for p in predictions),
            "pull": scoring.pull(predictions),
            **({} if predictions is first else {"difference": statistics.paired(first, predictions)}),
        }
        for name, predictions in ways.items()
    ]


def single(predictions: list[dict]) -> list[dict]:
    """What the options as they stand were answered, of predictions in several orders."""
    return [{**p, "answer": p["single"], "right": p["single"] == p["expected"]} if "single" in p else p for p in predictions]


def in_words(orders: int, prior: bool = False) -> str:
    """The way in a few words, for whoever shows an answer or a figure: `the options as they stand`, `voted over 5 orders` …"""
    if orders > 1:
        return f"voted over {orders} orders of the options"
    return "options as they stand, the letters' prior divided out" if prior else "options as they stand"
