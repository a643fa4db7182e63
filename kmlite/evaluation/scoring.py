"""Exam questions to answers to figures: two scorers, intervals, position bias, calibration, and two models compared."""

import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import click

from kmlite import paths, prompts
from kmlite.evaluation import statistics
from kmlite.evaluation.generation import generate, generate_plain, left_padded
from kmlite.models.loading import computing, for_inference

SCORERS = ("generate", "letter")
OF_THIS_SIZE = (  # said wherever the embedded base is scored
    "A model of this size can learn questions by heart; it has no medicine to answer new ones with, so those are guesses: right one\n"
    "  time in five on average, more or less often by luck."
)


def answer_exam(
    model,
    tokenizer,
    questions: list[dict],
    *,
    scorer: str = "generate",
    reasoned: bool = False,
    max_new_tokens: int = 32,
    batch: int,
    prompt: str = "",
    examples: dict[str, list[dict]] | None = None,
    chat: bool = False,
) -> list[dict]:
    """One prediction a question: {"number", "question", "subject", "expected", "answer" (None where unreadable), "right", …}.

    Args:
        scorer: "generate" writes greedily and reads the answer ("output"); "letter" compares the next-token probabilities of
            A to E in one forward pass ("probabilities" of the five, and the "mass" of the whole vocabulary that they hold).
        prompt: one of prompts.PROMPTS; empty: "kmlite-reasoned" where `reasoned`, else "kmlite". "lm-eval" is asked, cut and
            read as by lm-eval's task.
        examples: answered questions by subject that stand before the question, with the lm-eval prompt.
        chat: put the lm-eval prompt into the chat template, which lm-eval itself does only when told to.
    """
    asked = exam_prompts(questions, prompt or ("kmlite-reasoned" if reasoned else "kmlite"), examples)
    if scorer == "letter":
        found = letter_answers(model, tokenizer, asked, batch)
    elif prompt == "lm-eval":
        turns = generate_plain(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch=batch, chat=chat)
        found = [{"answer": prompts.harness_answer(turn), "output": turn} for turn in turns]
    else:
        turns = generate(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch=batch)
        found = [{"answer": prompts.read_answer(turn), "output": turn} for turn in turns]
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


def exam_prompts(questions: list[dict], prompt: str, examples: dict[str, list[dict]] | None = None) -> list[str]:
    if prompt == "lm-eval":
        return [prompts.harness_prompt(question, (examples or {}).get(subject_of(question), ())) for question in questions]
    return [prompts.exam_prompt(question, prompt == "kmlite-reasoned") for question in questions]


def subject_of(question: dict) -> str:
    return question.get("subject", "unknown")


def examples_of(fewshot: list[dict], questions: list[dict], shots: int) -> dict[str, list[dict]]:
    """The first `shots` few-shot rows of each subject that is asked, as lm-eval takes them.

    Raises:
        click.ClickException: a subject has fewer.
    """
    found = {}
    for subject in sorted({subject_of(question) for question in questions}):
        found[subject] = [row for row in fewshot if subject_of(row) == subject][:shots]
        if len(found[subject]) < shots:
            raise click.ClickException(
                f"--shots {shots}: {subject} has {len(found[subject])} few-shot rows. KorMedMCQA has five a subject: put its\n"
                f"  fewshot.jsonl under RAW/02_kor_med_test and run make refine again, or leave --shots out."
            )
    return found


def letter_answers(model, tokenizer, asked: list[str], batch: int) -> list[dict]:
    """The likeliest of A to E as the next token of each prompt."""
    import torch

    for_inference(model, tokenizer)
    heads = [prompts.conversation_ids(tokenizer, prompt)[0] for prompt in asked]
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in prompts.LETTERS]
    assert all(len(ids) == 1 for ids in letters), "a letter is more than one token here"
    out: list[dict] = [{}] * len(heads)

    def work(chosen: list[int], ids, mask) -> None:
        with torch.no_grad(), computing(model):
            logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        whole = logits.softmax(-1)[:, [ids[0] for ids in letters]]
        share = whole / whole.sum(-1, keepdim=True)
        if not torch.isfinite(share).all():  # the largest of five NaNs would be A
            raise click.ClickException(
                "the model's probabilities are not numbers (NaN): its weights are damaged, or overflow in this precision."
            )
        for i, five, mass in zip(chosen, share.tolist(), whole.sum(-1).tolist(), strict=True):
            best = max(range(5), key=lambda k: five[k])
            out[i] = {"answer": prompts.LETTERS[best], "probabilities": [round(p, 6) for p in five], "mass": round(mass, 6)}

    left_padded(heads, tokenizer.pad_token_id, batch, model.device, work, "scoring")
    return out


def rotated(question: dict, by: int) -> dict:
    """The question with its options moved up by `by` places, cyclically, and the answer's letter with them."""
    letters = prompts.LETTERS
    moved = {letters[i]: question[letters[(i + by) % 5]] for i in range(5)}
    return {**question, **moved, "answer": letters[(letters.index(question["answer"]) - by) % 5]}


def answer_rotated(model, tokenizer, questions: list[dict], orders: int, **how) -> list[dict]:
    """Predictions over `orders` cyclic orders of the options; each also says its "order" and the "chosen" option's own letter."""
    out = []
    for by in range(orders):
        for prediction in answer_exam(model, tokenizer, [rotated(question, by) for question in questions], **how):
            letter = prediction["answer"]
            chosen = letter and prompts.LETTERS[(prompts.LETTERS.index(letter) + by) % 5]
            out.append({**prediction, "order": by, "chosen": chosen})
    return out


def score(right: int, n: int) -> dict:
    """{"n", "right", "accuracy" and "interval" in percent}."""
    return {"n": n, "right": right, **in_percent(right / max(1, n), statistics.wilson(right, n))}


def score_of(predictions: list[dict]) -> dict:
    """The same of predictions, of which several may be of one question: "n" counts answers, "questions" what they are of."""
    questions = list(statistics.by_question(predictions).values())
    right = sum(map(sum, questions))
    several = {"questions": len(questions)} if len(questions) < len(predictions) else {}
    n = len(predictions)
    return {"n": n, **several, "right": right, **in_percent(right / max(1, n), statistics.interval(questions))}


def in_percent(share: float, interval: tuple[float, float]) -> dict:
    return {"accuracy": round(100 * share, 2), "interval": [round(100 * bound, 2) for bound in interval]}


def summarise(predictions: list[dict]) -> dict:
    """Accuracy over all (micro), the mean of the subjects' (macro), by subject and, where it is known, by year, with 95% intervals.

    An unreadable answer is wrong. With probabilities also the calibration error; with several orders of the options also
    consistency and pull. Intervals count each question once, in however many orders it was asked.
    """
    by_subject = scores_by(predictions, "subject")
    letters = Counter(prediction["answer"] or "unreadable" for prediction in predictions)
    summary = {
        **score_of(predictions),
        "macro": round(sum(part["accuracy"] for part in by_subject.values()) / max(1, len(by_subject)), 2),
        "by_subject": by_subject,
        **({"by_year": scores_by(predictions, "year")} if any("year" in p for p in predictions) else {}),
        "unreadable": letters["unreadable"],
        "letters": {letter: letters[letter] for letter in prompts.LETTERS},
    }
    if predictions and "probabilities" in predictions[0]:
        summary["calibration_error"] = round(calibration_error(predictions), 4)
        summary["letter_mass"] = round(sum(p["mass"] for p in predictions) / len(predictions), 4)
    if predictions and "order" in predictions[0]:
        summary |= position_bias(predictions)
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


def position_bias(predictions: list[dict]) -> dict:
    """{"consistency": share of questions with the same option chosen in every order, "pull": by letter, how much more often it
    was answered than it was right, as a share of all answers}."""
    chosen = defaultdict(set)
    for prediction in predictions:
        chosen[prediction["number"]].add(prediction["chosen"])
    same = sum(len(options) == 1 and None not in options for options in chosen.values())
    answered, right = (Counter(p[key] for p in predictions) for key in ("answer", "expected"))
    pull = {letter: round((answered[letter] - right[letter]) / len(predictions), 4) for letter in prompts.LETTERS}
    return {"orders": len(predictions) // len(chosen), "consistency": round(same / len(chosen), 4), "pull": pull}


def in_words(part: dict) -> str:
    return f"{part['accuracy']:.1f}% ({part['right']}/{part['n']}, 95% interval {part['interval'][0]:.1f}–{part['interval'][1]:.1f})"


def log_opening(folder: Path, by: str, result: dict) -> int:
    """Add a line to a model's log of test openings; returns how often test has been scored."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": by, **{k: result[k] for k in ("n", "right", "accuracy", "interval")}}
    path = folder / paths.TEST_LOG
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(path.read_text(encoding="utf-8").splitlines())
