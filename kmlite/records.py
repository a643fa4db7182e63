"""Read what refine wrote: the texts, entries and questions that the stages train and measure on."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import orjson

from kmlite import paths, prompts
from kmlite.files import read_json

# How many tokens of Gemma 3's a text is, where no tokenizer is at hand: of Korean as published, and of refined text in its .jsonl as
# measured on 16.5 MB of reviews and technical pages. Stages print what the user's own tokenizer makes of the user's own text.
CHARACTERS_A_TOKEN, TOKENS_PER_BYTE = 1.86, 0.26


def read_texts(shards: Iterable[Path]) -> Iterator[str]:
    """The texts of refined shards, one by one: 34 GB don't fit into memory.

    Raises:
        click.ClickException: a line that is not {"text": …}; the file was not written by refine.
    """
    for path in shards:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = orjson.loads(line)["text"]
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    text = None
                if not isinstance(text, str):
                    raise click.ClickException(f'{path}, line {number}: not a {{"text": …}} record. Run make refine again.')
                yield text


def read_dictionary(refined: Path) -> list[dict]:
    path = paths.require(refined / paths.DICTIONARY, "Put a dictionary under RAW/01_medical_dict and run: make refine")
    try:
        entries = read_json(path)
    except ValueError as error:
        raise click.ClickException(f"{path} is not JSON ({error}). Run make refine again.") from error
    if not isinstance(entries, list):
        raise click.ClickException(f"{path} is not a list of entries. Run make refine again.")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("term", "definition")):
            raise click.ClickException(f"{path}, entry {number}: term or definition is missing. Run make refine again.")
    return entries


def read_exam(refined: Path, split: str) -> list[dict]:
    path = paths.require(
        paths.exam_split(refined, split), "Put exam questions under RAW/02_kor_med_test (make data fetches KorMedMCQA) and run: make refine"
    )
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
        if not line and number == 1:
            break
        try:
            question = json.loads(line)
            ok = question["answer"] in tuple(prompts.LETTERS) and all(isinstance(question[k], str) for k in ("question", *prompts.LETTERS))
        except (ValueError, KeyError, TypeError):
            ok = False
        if not ok:
            raise click.ClickException(f"{path}, line {number}: not a refined exam question. Run make refine again.")
        questions.append(question)
    return questions
