"""What a model knows of a dictionary: definitions written from memory, and the right one chosen out of five."""

import random
from collections import Counter

from kmlite import prompts, results
from kmlite.evaluation import generation, scoring, suite

CHOICES = 5


def pairs(entries: list[dict]) -> list[tuple[str, str]]:
    return [(prompts.dictionary_prompt(entry["term"]), entry["definition"]) for entry in entries]


def split(entries: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    """(seen, held-out) entries, by a hash of the term: stable as the dictionary grows."""
    import xxhash

    parts: tuple[list[dict], list[dict]] = ([], [])
    for entry in entries:
        parts[xxhash.xxh3_64_intdigest(entry["term"].encode()) < share * 2**64].append(entry)
    return parts


def character_f1(found: str, expected: str) -> float:
    """Overlap of the characters of two strings as F1, order disregarded: 0 to 1."""
    a, b = Counter("".join(found.split())), Counter("".join(expected.split()))
    shared = sum((a & b).values())
    return 2 * shared / max(1, sum(a.values()) + sum(b.values()))


def recall(model, tokenizer, entries: list[dict], *, batch: int, max_new_tokens: int = 128) -> dict | None:
    """How near the definitions that the model writes for the terms of `entries` come to theirs; None where there are none.

    {"n", "f1": mean character F1, 0 to 1, "chrf": of all together (Popović, WMT 2015; sacrebleu's, character n-grams up to 6, beta 2),
    0 to 100}. The first disregards order, the second does not: words in disorder are high in one alone.
    """
    from sacrebleu.metrics import CHRF

    if not entries:
        return None
    asked = [prompts.dictionary_prompt(entry["term"]) for entry in entries]
    turns = generation.generate(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch=batch)
    written = [prompts.ENDS.split(prompts.without_thought(turn) or "")[0].strip() for turn in turns]
    wanted = [entry["definition"] for entry in entries]
    f1 = sum(character_f1(a, b) for a, b in zip(written, wanted, strict=True)) / len(entries)
    return {"n": len(entries), "f1": f1, "chrf": CHRF().corpus_score(written, [wanted]).score}


def candidates(entry: dict, entries: list[dict]) -> list[str] | None:
    """The definition of `entry` and, behind it, those of four other terms, drawn by its own term; None where there are too few.

    `entries` should all be seen or all be held out: a seen definition is likelier behind any term.
    """
    own = {entry["definition"]}
    others = list(dict.fromkeys(e["definition"] for e in entries if e["term"] != entry["term"] and e["definition"] not in own))
    if len(others) < CHOICES - 1:
        return None
    return [entry["definition"], *random.Random(entry["term"]).sample(others, CHOICES - 1)]


def choice(model, tokenizer, asked: list[dict], entries: list[dict], length: int) -> dict | None:
    """How often the right definition is the likeliest of five behind its term: {"n", "right", "accuracy", "interval", "chance"}.

    Compared in nats a character. The sum would choose the shortest; a mean over tokens depends on how a tokenizer happens to cut a
    definition, and so would shift with new tokens though the model knew the same. None where there are not five definitions.
    """
    rows, characters = [], []
    for entry in asked:
        found = candidates(entry, entries)
        if not found:
            return None
        encoded = [prompts.conversation_ids(tokenizer, prompts.dictionary_prompt(entry["term"]), definition) for definition in found]
        if max(len(ids) for ids, _ in encoded) <= length:
            rows += encoded
            characters += [len(definition) for definition in found]
    if not rows:
        return None
    costs = [loss / n for loss, n in zip(generation.row_losses(model, tokenizer, rows), characters, strict=True)]
    groups = [costs[i : i + CHOICES] for i in range(0, len(costs), CHOICES)]
    right = sum(group[0] < min(group[1:]) for group in groups)
    return {**scoring.score(right, len(groups)), "chance": 100 / CHOICES}


def measure(model, tokenizer, seen: list[dict], heldout: list[dict], *, entries: int, recalled: int, length: int) -> list[dict]:
    """The results of stage 1's own measures, on up to `entries` seen and held-out entries each; what cannot be measured is left out."""
    found = []
    for data, listed in (("seen definitions", seen), ("held-out definitions", heldout)):
        asked = suite.sample_entries(listed, entries)
        if not asked:
            continue
        if (cost := generation.answer_bits(model, tokenizer, pairs(asked), length)) is not None:
            found.append(results.result("bits_per_character", data, cost, len(asked)))
        if chosen := choice(model, tokenizer, asked, listed, length):
            found.append(results.of_score(chosen, "definition_choice", data))
    if written := recall(model, tokenizer, suite.sample_entries(seen, recalled), batch=generation.default_batch()):
        found.append(results.result("character_f1", "seen definitions", 100 * written["f1"], written["n"]))
        found.append(results.result("chrf", "seen definitions", written["chrf"], written["n"]))
    return found
