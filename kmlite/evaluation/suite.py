"""The evaluation suite of a stage: bits per character of three kinds of text and answers to dev, the same at every moment."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from kmlite import paths, prompts, records, results
from kmlite.evaluation import generation, scoring

T = TypeVar("T")
LENGTH = 512  # tokens of context at the most, whatever the stage trains with: else two stages would differ on the same model


class Suite(NamedTuple):
    """What is measured. Lists are empty where the refined data lacks that kind."""

    korean: list[str]
    dictionary: list[tuple[str, str]]
    english: list[str]
    dev: list[dict]


def sample(items: Iterable[T], n: int, text: Callable[[T], str], stratum: Callable[[T], str] = lambda item: "") -> list[T]:
    """`n` of the items by a hash of their text, each stratum with its share; the same whatever the order of the file.

    Within a stratum the hash gives each item a place; those with the lowest places of all strata together are taken.
    """
    import xxhash

    listed = sorted(items, key=lambda item: (xxhash.xxh3_64_intdigest(text(item).encode("utf-8", "replace")), text(item)))
    sizes, seen = Counter(map(stratum, listed)), Counter[str]()
    placed = []
    for item in listed:
        name = stratum(item)
        seen[name] += 1
        placed.append(((seen[name] - 0.5) / sizes[name], item))
    placed.sort(key=lambda pair: pair[0])
    return [item for _, item in placed[:n]]


def sample_questions(questions: list[dict], n: int) -> list[dict]:
    return sample(questions, n, lambda question: question["question"], scoring.subject_of)


def sample_entries(entries: list[dict], n: int) -> list[dict]:
    return sample(entries, n, lambda entry: entry["term"])


def prepare(refined: Path, *, texts: int, entries: int, questions: int) -> Suite:
    """Up to `texts` held-out texts, `entries` dictionary entries and `questions` dev questions of the refined data, by hash."""
    held = paths.heldout_text(refined)
    korean = sample(records.read_texts([held]), texts, str) if texts and held.exists() else []
    terms = records.read_dictionary(refined) if entries and (refined / paths.DICTIONARY).exists() else []
    dev = records.read_exam(refined, "dev") if questions and paths.exam_split(refined, "dev").exists() else []
    english = [json.loads(line)["text"] for line in paths.ENGLISH.read_text(encoding="utf-8").splitlines()]
    pairs = [(prompts.dictionary_prompt(t["term"]), t["definition"]) for t in sample_entries(terms, entries)]
    return Suite(korean, pairs, english, sample_questions(dev, questions))


def in_words(suite: Suite) -> str:
    kinds: dict[str, list] = {"held-out texts": suite.korean, "dictionary entries": suite.dictionary}
    kinds |= {"English texts": suite.english, "dev questions": suite.dev}
    return ", ".join(f"{len(part)} {name}" for name, part in kinds.items() if part)


def bits(model, tokenizer, suite: Suite) -> list[dict]:
    """Bits per character by kind of text."""
    found = []
    for data, texts in (("korean", suite.korean), ("english", suite.english)):
        if (cost := generation.bits_per_character(model, tokenizer, texts, LENGTH)) is not None:
            found.append(results.result("bits_per_character", data, cost, len(texts)))
    if (cost := generation.answer_bits(model, tokenizer, suite.dictionary, LENGTH)) is not None:
        found.append(results.result("bits_per_character", "dictionary", cost, len(suite.dictionary)))
    return found


def measure(model, tokenizer, suite: Suite, max_new_tokens: int) -> list[dict]:
    """Bits per character, and what the answers to dev questions come to over all subjects, where there are any."""
    found = bits(model, tokenizer, suite)
    if suite.dev:
        answered, _ = accuracy(model, tokenizer, suite.dev, "dev", max_new_tokens)
        found += [one for one in answered if not results.part_of(one["how"])]
    return found


def accuracy(model, tokenizer, questions: list[dict], data: str, max_new_tokens: int) -> tuple[list[dict], list[dict]]:
    """(the results, the predictions) of exam questions asked by kmlite's short prompt and answered by writing."""
    batch = generation.default_batch()
    predictions = scoring.answer_exam(model, tokenizer, questions, max_new_tokens=max_new_tokens, batch=batch)
    how = {"scorer": "generate", "prompt": "kmlite", "orders": 1}
    return results.of_answers(scoring.summarise(predictions), data, **how), predictions
