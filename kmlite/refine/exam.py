"""Exam questions: raw KorMedMCQA records to the refined shape, or the reason why not; what stands in dev or test is no train question."""

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from kmlite import paths, prompts
from kmlite.files import write_lines
from kmlite.refine.cleaning import clean_field
from kmlite.refine.leakage import ExamGuard
from kmlite.refine.outputs import Tally
from kmlite.refine.readers import Raw, path_name, read_raw

SPLITS = {
    "train": ("train", "training", "학습", "훈련"),
    "dev": ("dev", "valid", "validation", "val", "development", "검증"),
    "test": ("test", "testing", "eval", "평가", "시험", "테스트"),
    "fewshot": ("fewshot", "shot", "shots", "예시"),
}
SUBJECTS = {  # as the splits of KorMedMCQA name them
    "doctor": ("doctor", "doctors", "physician", "medicine", "의사"),
    "nurse": ("nurse", "nurses", "nursing", "간호사", "간호"),
    "pharm": ("pharm", "pharma", "pharmacy", "pharmacist", "pharmacists", "약사", "약학"),
    "dentist": ("dentist", "dentists", "dental", "dentistry", "치과의사", "치과"),
}
WORDS = re.compile("[a-z]+|[가-힣]+")
ORDER = ("test", "dev", "fewshot", "train")  # what must stay clean is read first
NUMBER_MOST = 10**9  # of a year, period or question: a longer one is a broken record
ANSWER = re.compile(r"(?:(?:정답|답|ANSWER|보기)(?:은|는|:|\s)*)?[(\[<]?\s*([A-E]|[0-9])\s*(?:번|[)\]>]|[.:])?\s*(.*)", re.DOTALL)
BROKEN = "\ufffd"


def subject_of(name: str) -> str:
    """One name a subject: 약사, Pharmacy and `pharm_2024` are pharm; others stay as they are."""
    return named(Path(name.replace("/", " ")), SUBJECTS) or name


def named(path: Path, names: dict[str, tuple[str, ...]]) -> str | None:
    """Which of `names` a path names: in its file's name, else in the folder nearest to it. None where none does, or two at once."""
    for part in reversed(path.parts):
        words = WORDS.findall(unicodedata.normalize("NFC", part).lower())
        if found := {name for name, aliases in names.items() if any(word in aliases for word in words)}:
            return found.pop() if len(found) == 1 else None
    return None


def read_letter(answer: object, options: Iterable[str] = (), first: int = 1) -> str | None:
    """A to E from a number, a letter or a circled or full-width one (③, Ｃ, "3번", "정답: C", "C) 간"), or an option's own text.

    Args:
        options: the five, to read an answer that is the text of one; where text behind a letter is another option's it is none.
        first: the number of A.
    """
    if not isinstance(answer, str):
        number = None if isinstance(answer, bool) else whole_number(answer)
        return None if number is None else by_number(number, first)
    if any(unicodedata.decomposition(sign).startswith(("<super>", "<sub>")) for sign in answer):
        return None
    options = [option.casefold() for option in options]
    answer = unicodedata.normalize("NFKC", answer).strip()
    letter, rest = None, ""
    if found := ANSWER.fullmatch(answer.upper()):
        letter = found[1] if found[1] in prompts.LETTERS else by_number(int(found[1]), first)
        rest = found[2].casefold().strip(" .")
        if rest in ("", "입니다", "이다", "번", "번입니다"):
            return letter
    if options.count(answer.casefold()) == 1:
        return prompts.LETTERS[options.index(answer.casefold())]
    return letter if letter and options and options[prompts.LETTERS.index(letter)].strip(" .") == rest else None


def by_number(number: int, first: int) -> str | None:
    return prompts.LETTERS[number - first] if 0 <= number - first < 5 else None


def check_counting(answers: Iterable[object], file: str, zero_based: bool) -> int:
    """The number that a file's answers give to A: 1, or 0 where that was asked for and the file holds a 0 and no 5.

    Raises:
        click.ClickException: the file holds a 0 and no 5, and nobody said how it counts.
    """
    found = {read_number(answer) for answer in answers}
    if 0 not in found or 5 in found:
        return 1
    if zero_based:
        return 0
    raise click.ClickException(
        f"{file} holds answers from 0 to 4 and no 5. Counted from 0 they are A to E; counted from 1, a 0 is no answer, and every\n"
        "  other one means the letter before. If 0 is A: make refine ARGS=--zero-based. If not, take the questions with a 0 out."
    )


def read_number(answer: object) -> int | None:
    """The number of an answer; None for a letter or a text."""
    if isinstance(answer, str):
        found = ANSWER.fullmatch(unicodedata.normalize("NFKC", answer).strip().upper())
        return int(found[1]) if found and found[1].isdecimal() and not found[2] else None
    return whole_number(answer) if not isinstance(answer, bool) else None


def field_text(value: object) -> str:
    """A field's text; a table may hold an option that is a number."""
    if isinstance(value, str):
        return clean_field(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value else ""


def whole_number(value: Any) -> int | None:
    """2012 from 2012, 2012.0 (a column with gaps), Decimal("2012") or "2012"; None for anything else.

    Raises:
        ValueError: a number that is none of anything counted.
    """
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value) if len(value.strip()) < 10 else NUMBER_MOST
    number = float(value) if isinstance(value, Decimal) else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if type(number) is not int:
        return None
    if abs(number) >= NUMBER_MOST:
        raise ValueError("a number too large")
    return number


def check(record: dict, first: int = 1, path: Path = Path()) -> tuple[dict | None, str]:
    """(refined question, "") or (None, reason).

    Args:
        first: the number that an answer of A has. path: of the file below the raw exam folder; it may name the subject.
    """
    if any(key not in record for key in ("question", "answer", *prompts.LETTERS)):
        return None, "missing_field"
    question: dict = {"question": field_text(record["question"]), **{letter: field_text(record[letter]) for letter in prompts.LETTERS}}
    if not question["question"]:
        return None, "empty_question"
    if not all(question[letter] for letter in prompts.LETTERS):
        return None, "empty_option"
    options = [question[letter] for letter in prompts.LETTERS]
    try:
        letter = read_letter(record["answer"], options, first)
        numbers = {key: whole_number(record.get(key)) for key in prompts.WHERE_FROM}
    except ValueError:
        return None, "bad_number"
    if letter is None:
        return None, "bad_answer"
    if BROKEN in question["question"] + "".join(options):
        return None, "broken_character"
    if len({option if len(option) < 4 else option.casefold() for option in options}) < 5:  # AA and Aa are two genotypes
        return None, "duplicate_options"
    question["answer"] = letter
    subject = next((text for key in ("subject", "exam_type") if (text := field_text(record.get(key)))), "")
    if subject := subject_of(subject) if subject else named(path, SUBJECTS) or "":
        question["subject"] = subject
    for key in ("source", "origin"):  # of questions that `make data` fetched
        if text := field_text(record.get(key)):
            question[key] = text
    question |= {key: number for key, number in numbers.items() if number is not None}
    cot = field_text(record.get("cot"))
    # A reasoning that ends in another letter than the answer teaches the wrong thing: the question stays without it.
    if cot and prompts.conclusion_letter(cot) in (None, letter) and prompts.reasoning_sentences(cot):
        question["cot"] = cot
    return question, ""


def take_reasoning(kept: dict[str, dict], again: dict) -> None:
    """Give the reasoning of a repeated question to the one that was kept, if that has none: some sets are reasonings of another.

    Args:
        kept: questions by their text.
    """
    question = kept.get(again["question"])
    if question and "cot" in again and "cot" not in question and all(question[key] == again[key] for key in (*prompts.LETTERS, "answer")):
        question["cot"] = again["cot"]


def refine_exam(files: list[Path], raw_folder: Path, out: Path, most: int, zero_based: bool) -> tuple[dict[str, list[dict]], dict]:
    """Check questions, drop duplicates, set aside what stands in dev or test, as a copy or translated; write a file for each split.

    Returns: (the questions of each split, the counts of refine's record).
    """
    splits: dict[str, list[dict]] = {"train": [], "dev": [], "test": [], "fewshot": []}
    folder = raw_folder / paths.RAW_EXAM
    tally, guard = Tally(most), ExamGuard()
    sources: list[dict] = []  # what each file adds to train
    known = {file: named(file.relative_to(folder), SPLITS) or "" for file in files}
    for file in [file for file, split in known.items() if not split]:
        source = path_name(file.relative_to(raw_folder))
        tally.reject("unknown_split", Raw(source, 0, "name it, or a folder above it, after one split: train, dev, test or fewshot", None))
    for file in sorted(filter(known.get, files), key=lambda file: (ORDER.index(known[file]), len(file.parts))):
        split = known[file]
        by_text = {question["question"]: question for question in splits[split]}
        answers = (raw.value.get("answer") for raw in read_raw(file, raw_folder) if raw.problem is None)
        first = check_counting(answers, path_name(file), zero_based)
        before, leaks = (tally.read, tally.kept), 0
        for raw in tally.records([file], raw_folder):
            question, reason = check(raw.value, first, file.relative_to(folder))
            found = guard.find(question, split) if question else None
            if question is None:
                tally.reject(reason, raw)
            elif found:
                if found.reason == "duplicate":
                    take_reasoning(by_text, question)
                else:
                    leaks += 1
                tally.reject(found.reason, raw, **({"near": found.where} if found.where else {}))
            else:
                guard.add(question, split, f"{raw.source}, line {raw.line}")
                tally.keep(sum(len(question[key]) for key in ("question", *prompts.LETTERS)))
                splits[split].append(question)
                by_text.setdefault(question["question"], question)
        if split == "train":
            name = path_name(file.relative_to(folder))
            sources.append({"file": name, "read": tally.read - before[0], "kept": tally.kept - before[1], "leaks": leaks})
    for split, questions in splits.items():
        if questions:
            write_lines(out / paths.EXAM / f"{split}.jsonl", questions)
    counts = tally.finish(out / paths.REJECTED / "exam.jsonl")
    return splits, counts | {"splits": {split: len(questions) for split, questions in splits.items()}, "sources": sources}
