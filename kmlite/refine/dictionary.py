"""Rules for dictionary entries: raw {"term", "definition"} to the refined shape, or the reason why not."""

import re

from kmlite.refine.cleaning import clean_field

DETAIL = re.compile(r"\s*세부설명\s*:\s*")
NUMBER = re.compile(r"(?:^|\s)\d{1,2}\.(?!\d)\s*|[①-⑳]\s*")
SEPARATOR = re.compile(r"\s*[;/]\s*|(?<!\d)\s*,\s*|\s*,\s*(?!\d)")
WHOLE_BRACKET = re.compile(r"^\(([^()]*)\)$")
OPTIONAL = re.compile(r"^\(([가-힣]+)\)([가-힣]+)$|^([가-힣]+)\(([가-힣]+)\)([가-힣]+)$")
TERM_LEAST, DEFINITION_LEAST = 2, 10


def clean_term(raw: str) -> str:
    """All names of an entry, joined by `/`.

    `1. 조 치조 2. 폐포` → `조/치조/폐포`; `허파, 폐` → `허파/폐`; `(골)수강` → `골수강/수강`; `(Lactic dehydrogenase LDH)` loses
    its brackets; `고혈압(高血壓)` stays.
    """
    term = clean_field(raw).replace("\n", " ")
    names = NUMBER.sub(" ", term).split() if NUMBER.match(term) else SEPARATOR.split(term)
    out: list[str] = []
    for name in names:
        name = WHOLE_BRACKET.sub(r"\1", name.strip())
        optional = OPTIONAL.match(name)
        if optional and optional[1]:
            out += [optional[1] + optional[2], optional[2]]
        elif optional:
            out += [optional[3] + optional[4] + optional[5], optional[3] + optional[5]]
        elif name:
            out.append(name)
    return "/".join(dict.fromkeys(out))


def clean_definition(raw: str) -> str:
    """One line: `Hypertension\\n 세부설명 : 혈압이 …` → `Hypertension - 혈압이 …`."""
    text = clean_field(raw)
    parts = [" ".join(part.split()) for part in DETAIL.split(text)]
    return " - ".join(part for part in parts if part)


def check(record: dict) -> tuple[dict | None, str]:
    """(refined entry, "") or (None, reason)."""
    if not all(isinstance(record.get(key), str) for key in ("term", "definition")):
        return None, "missing_field"
    term, definition = clean_term(record["term"]), clean_definition(record["definition"])
    if len(term) < TERM_LEAST:
        return None, "short_term"
    if len(definition) < DEFINITION_LEAST:
        return None, "short_definition"
    if not set(re.findall(r"\w+", definition.lower())) - set(re.findall(r"\w+", term.lower())):
        return None, "repeats_term"
    return {"term": term, "definition": definition}, ""


def join_senses(entries: list[dict]) -> list[dict]:
    """One entry a term; several definitions are numbered in one.

    Kept together, because the prompt names the term alone: apart, they would be different answers to the same question.
    """
    senses: dict[str, list[str]] = {}
    for entry in entries:
        senses.setdefault(entry["term"], []).append(entry["definition"])
    return [
        {"term": term, "definition": found[0] if len(found) == 1 else " ".join(f"{i}. {d}" for i, d in enumerate(found, 1))}
        for term, found in senses.items()
    ]
