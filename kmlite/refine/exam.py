"""Rules for exam questions: raw KorMedMCQA records to the refined shape, or the reason why not."""

from kmlite import prompts
from kmlite.refine.cleaning import clean_field
from kmlite.refine.duplicates import normal_words

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test", "fewshot": "fewshot"}


def read_letter(answer: object) -> str | None:
    """A to E from 1–5, "3", 3.0 or a letter; None for anything else."""
    if isinstance(answer, str):
        answer = answer.strip().upper()
        if answer in prompts.LETTERS and len(answer) == 1:
            return answer
        answer = int(answer) if answer in ("1", "2", "3", "4", "5") else None
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if type(answer) is int and 1 <= answer <= 5:
        return prompts.LETTERS[answer - 1]
    return None


def text_of(value: object) -> str:
    """A field's text; a table may hold an option that is a number."""
    if isinstance(value, str):
        return clean_field(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value else ""


def whole_number(value: object) -> int | None:
    """2012 from 2012, 2012.0 (a column with gaps) or "2012"; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def check(record: dict) -> tuple[dict | None, str]:
    """(refined question, "") or (None, reason)."""
    if any(key not in record for key in ("question", "answer", *prompts.LETTERS)):
        return None, "missing_field"
    question: dict = {"question": text_of(record["question"]), **{letter: text_of(record[letter]) for letter in prompts.LETTERS}}
    if not question["question"]:
        return None, "empty_question"
    if not all(question[letter] for letter in prompts.LETTERS):
        return None, "empty_option"
    letter = read_letter(record["answer"])
    if letter is None:
        return None, "bad_answer"
    options = [question[letter] for letter in prompts.LETTERS]
    if len({option if len(option) < 4 else option.casefold() for option in options}) < 5:  # AA and Aa are two genotypes
        return None, "duplicate_options"
    question["answer"] = letter
    if subject := text_of(record.get("subject") or record.get("exam_type")):
        question["subject"] = subject
    for key in prompts.WHERE_FROM:
        if (number := whole_number(record.get(key))) is not None:
            question[key] = number
    cot = text_of(record.get("cot"))
    # A reasoning that ends in another letter than the answer teaches the wrong thing: the question stays without it.
    if cot and prompts.conclusion_letter(cot) in (None, letter) and prompts.reasoning_sentences(cot):
        question["cot"] = cot
    return question, ""


def stem_key(question: dict) -> tuple:
    """Equal for the same question, whatever its spacing, punctuation and order of options."""
    options = sorted("".join(normal_words(question[letter])) for letter in prompts.LETTERS)
    return "".join(normal_words(question["question"])), *options
