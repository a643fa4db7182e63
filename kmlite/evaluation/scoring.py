"""Exam questions to answers to figures: two scorers, intervals, position bias, calibration, and two models compared."""

import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import click

from kmlite import paths, prompts
from kmlite.evaluation import statistics
from kmlite.evaluation.generation import generate, left_padded
from kmlite.models.loading import computing, for_inference

SCORERS = ("generate", "letter")
OF_THIS_SIZE = (  # said wherever the embedded base is scored
    "A model of this size memorises questions and knows no medicine: its answers to new ones are guesses, one in five right on average."
)


def answer_exam(
    model, tokenizer, questions: list[dict], *, scorer: str = "generate", max_new_tokens: int = 32, batch: int, prompt: str = "kmlite"
) -> list[dict]:
    """One prediction a question: {"number", "question", "subject", "expected", "answer" (None where unreadable), "right", …}.

    `scorer`: "generate" writes greedily and reads the answer ("output"); "letter" compares the next-token probabilities of A to E in one
    forward pass ("probabilities" of the five, "logs" unrounded, and the "mass" of the whole vocabulary that they hold).
    """
    asked = [prompts.exam_prompt(question, prompt=prompt) for question in questions]
    if scorer == "letter":
        found = letter_answers(model, tokenizer, asked, batch)
    else:
        turns = generate(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch=batch, settled=prompts.settled)
        found = [read(turn) for turn in turns]
    return [
        {
            "number": number,
            **{key: question[key] for key in prompts.WHERE_FROM if key in question},
            "question": question["question"],
            "subject": subject_of(question),
            "expected": question["answer"],
            "right": answer["answer"] == question["answer"],
            **answer,
        }
        for number, (question, answer) in enumerate(zip(questions, found, strict=True), 1)
    ]


def read(turn: str) -> dict:
    """{"answer", "output"} of a written turn, and "unreadable" with the reason where no option is chosen.

    The output is the turn as it was written, `<end_of_turn>` and all (`prompts.ENDS`); an answer by letter has none.
    """
    found = {"answer": prompts.read_answer(turn), "output": turn}
    return found if found["answer"] else {**found, "unreadable": prompts.why_unreadable(turn)}


def subject_of(question: dict) -> str:
    return question.get("subject", "unknown")


def letter_answers(model, tokenizer, asked: list[str], batch: int) -> list[dict]:
    """The likeliest of A to E as the next token of each prompt; under "logs" their unrounded log-probabilities.

    Prompts that follow one another and begin alike, as the orders of one question do, go through the model once as far as they are alike.
    """
    import torch

    for_inference(model, tokenizer)
    heads = [prompts.conversation_ids(tokenizer, prompt)[0] for prompt in asked]
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in prompts.LETTERS]
    assert all(len(ids) == 1 for ids in letters), "a letter is more than one token here"
    places = [ids[0] for ids in letters]
    out: list[dict] = [{}] * len(heads)

    def note(chosen: list[int], logits) -> None:
        logits = logits.float()
        whole, logs = logits.softmax(-1)[:, places], logits.log_softmax(-1)[:, places]
        share = whole / whole.sum(-1, keepdim=True)
        if not torch.isfinite(logs).all():  # the largest of five NaNs would be A
            raise click.ClickException(
                "the model's probabilities are not numbers (NaN): its weights are damaged, or overflow in this precision.\n"
                "  Fetch the model again, or try another precision: ARGS='--precision 16bit'"
            )
        for i, five, mass, exact in zip(chosen, share.tolist(), whole.sum(-1).tolist(), logs.tolist(), strict=True):
            best, shares = max(range(5), key=lambda k: five[k]), [round(share, 6) for share in five]
            out[i] = {"answer": prompts.LETTERS[best], "probabilities": shares, "mass": round(mass, 6), "logs": exact}

    for size, groups in alike(heads, batch).items():
        begun = [heads[group[0]][: alike_to([heads[i] for i in group]) if size > 1 else None] for group in groups]

        def work(chosen: list[int], ids, mask, groups=groups, begun=begun, size=size) -> None:
            with torch.no_grad(), computing(model):
                first = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=size > 1)
                if size == 1:
                    note([groups[i][0] for i in chosen], first.logits[:, -1])
                    return
                rows = [i for number in chosen for i in groups[number]]
                rests = [heads[i][len(begun[number]) :] for number in chosen for i in groups[number]]
                note(rows, behind(model, first.past_key_values, mask.repeat_interleave(size, 0), rests, size))

        left_padded(begun, tokenizer.pad_token_id, max(1, batch // size), model.device, work, "scoring", least=0.75)
    return out


def alike(heads: list[list[int]], most: int) -> dict[int, list[list[int]]]:
    """Indices of prompts in groups of at most `most` by their size: such as follow one another and are alike in half of their tokens."""
    groups: list[list[int]] = []
    for i, head in enumerate(heads):
        first = heads[groups[-1][0]] if groups else []
        if groups and len(groups[-1]) < most and alike_to([first, head]) * 2 >= min(len(first), len(head)):
            groups[-1].append(i)
        else:
            groups.append([i])
    return {size: [group for group in groups if len(group) == size] for size in {len(group) for group in groups}}


def alike_to(heads: list[list[int]]) -> int:
    """How many tokens all of `heads` begin with, fewer than the shortest has: behind them one is left of each."""
    columns = enumerate(zip(*(head[:-1] for head in heads), strict=False))
    return next((place for place, column in columns if len(set(column)) > 1), min(map(len, heads)) - 1)


def behind(model, cache, mask, rests: list[list[int]], copies: int):
    """The logits of the last token of each of `rests`, (rows, vocabulary), behind what `cache` holds, each row of it `copies` times;
    `mask`: of the cached tokens, by row of `rests`, which are padded on the right, where no token sees the padding."""
    import torch

    cache.batch_repeat_interleave(copies)
    longest = max(map(len, rests))
    ids = torch.tensor([rest + [0] * (longest - len(rest)) for rest in rests], device=mask.device)
    full = torch.cat([mask, torch.ones_like(ids)], 1)
    last = torch.tensor([len(rest) - 1 for rest in rests], device=mask.device)
    kept = last.unique()
    # positions count the padding, as in the first pass: only their distances matter
    logits = model(input_ids=ids, attention_mask=full, past_key_values=cache, logits_to_keep=kept, use_cache=True).logits
    return logits[torch.arange(len(rests)), torch.searchsorted(kept, last)]


def rotated(question: dict, by: int) -> dict:
    """The question with its options moved up by `by` places, cyclically, and the answer's letter with them."""
    letters = prompts.LETTERS
    moved = {letters[i]: question[letters[(i + by) % 5]] for i in range(5)}
    return {**question, **moved, "answer": letters[(letters.index(question["answer"]) - by) % 5]}


def score(right: int, n: int) -> dict:
    """{"n", "right", "accuracy" and its 95% "interval" in percent}."""
    interval = [round(100 * bound, 2) for bound in statistics.wilson(right, n)]
    return {"n": n, "right": right, "accuracy": round(100 * right / max(1, n), 2), "interval": interval}


def score_of(predictions: list[dict]) -> dict:
    return score(sum(bool(one["right"]) for one in predictions), len(predictions))


def summarise(predictions: list[dict]) -> dict:
    """Accuracy over all (micro), the mean of the subjects' (macro), by subject and, where it is known, by year, with 95% intervals.

    What stands under the name of one of `results.MEASURES`, a share or a number, is a result by itself: a new measure of answers is one
    line here. An unreadable answer is wrong. With probabilities also the calibration error; where each question was asked in several orders
    of its options also the share of questions with the same option chosen in all of them ("consistency").
    """
    by_subject = scores_by(predictions, "subject")
    letters = Counter(prediction["answer"] or "unreadable" for prediction in predictions)
    summary = {
        **score_of(predictions),
        "macro": round(sum(part["accuracy"] for part in by_subject.values()) / max(1, len(by_subject)), 2),
        "by_subject": by_subject,
        "by_year": scores_by(predictions, "year") if any("year" in p for p in predictions) else {},
        "unreadable": letters["unreadable"],
        "unreadable_because": dict(Counter(p["unreadable"] for p in predictions if "unreadable" in p).most_common()),
        "letters": {letter: letters[letter] for letter in prompts.LETTERS},
        "pull": pull(predictions),
    }
    if predictions and "probabilities" in predictions[0]:
        summary["calibration_error"] = round(calibration_error(predictions), 4)
        summary["letter_mass"] = round(sum(p["mass"] for p in predictions) / len(predictions), 4)
    if predictions and "chosen_in" in predictions[0]:
        same = sum(len(set(p["chosen_in"])) == 1 and None not in p["chosen_in"] for p in predictions)
        summary["consistency"] = round(same / len(predictions), 4)
    return summary


def scores_by(predictions: list[dict], key: str) -> dict[str, dict]:
    groups = defaultdict(list)
    for prediction in predictions:
        groups[str(prediction.get(key, "unknown"))].append(prediction)
    return {name: score_of(group) for name, group in sorted(groups.items())}


def calibration_error(predictions: list[dict], bins: int = 10) -> float:
    """Expected calibration error (arXiv 1706.04599): the mean gap between the likeliest letter's probability and its accuracy."""
    groups = defaultdict(list)
    for prediction in predictions:
        sure = max(prediction["probabilities"])
        groups[min(bins - 1, int(sure * bins))].append((sure, prediction["right"]))
    gaps = [abs(sum(sure for sure, _ in group) - sum(right for _, right in group)) for group in groups.values()]
    return sum(gaps) / len(predictions)


def pull(predictions: list[dict]) -> dict[str, float]:
    """By letter, how much more often it was answered than it was right, as a share of all answers."""
    answered, right = (Counter(p.get(key) for p in predictions) for key in ("answer", "expected"))
    return {letter: round((answered[letter] - right[letter]) / max(1, len(predictions)), 4) for letter in prompts.LETTERS}


def in_words(part: dict) -> str:
    return f"{part['accuracy']:.1f}% ({part['right']}/{part['n']}, 95% interval {part['interval'][0]:.1f}–{part['interval'][1]:.1f})"


def log_opening(folder: Path, by: str, result: dict) -> int:
    """Add a line to a model's log of test openings; returns how often test has been scored."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": by, **{k: result[k] for k in ("n", "right", "accuracy", "interval")}}
    path = folder / paths.TEST_LOG
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(path.read_text(encoding="utf-8").splitlines())
