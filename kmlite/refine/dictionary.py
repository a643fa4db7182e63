"""Dictionary entries: raw {"term", "definition"} to the refined shape, or the reason why not."""

import re
from pathlib import Path

from kmlite import paths
from kmlite.files import write_json
from kmlite.refine.cleaning import clean_field
from kmlite.refine.leakage import ExamStems
from kmlite.refine.outputs import Tally

DETAIL = re.compile(r"\s*세부설명\s*:\s*")
NUMBER = re.compile(r"(?:^|(?<=\s))(?:\(?(\d{1,2})(?:\.(?!\d)|\))|([①-⑳]))\s*|([①-⑳])\s*")
SEPARATOR = re.compile(r"\s*;\s*|(?<=[가-힣)])\s*/\s*(?=[가-힣(])|^/|/$")
WORD = re.compile(r"[가-힣()]+")
# what stands behind a comma and is no name of its own: 당뇨병, 제2형; 빈혈, 재생불량성; 골절, 상세불명
MODIFIER = re.compile(
    r"제\d*.*|급성|만성|개방|폐쇄|기타|상세불명|재발|좌측?|우측?|양측|양쪽|왼쪽|오른쪽|.+[성형기측적]|(?:선천|후천|원발|속발|일차|이차|초기|말기).*"
)
BROKEN = "\ufffd"
WHOLE_BRACKET = re.compile(r"^\(([^()]*)\)$")
OPTIONAL = re.compile(r"^\(([가-힣]+)\)([가-힣]+)$|^([가-힣]+)\(([가-힣]+)\)([가-힣]+)$")
TERM_LEAST, DEFINITION_LEAST = 2, 10


def clean_term(raw: str) -> str:
    """All names of an entry, joined by `/`.

    `1. 조 치조 2. 폐포` → `조/치조/폐포`; `1. 심방 세동 2. 조동` → `심방 세동/조동`; `허파, 폐` → `허파/폐`, and `당뇨병, 제2형`,
    `척수, 뇌신경 및 중추신경계통의 악성 신생물` and `N,N-디메틸트립타민` stay; `(골)수강` → `골수강/수강`; `(Lactic dehydrogenase LDH)`
    loses its brackets; `고혈압(高血壓)` stays.
    """
    term = clean_field(raw).replace("\n", " ")
    out: list[str] = []
    for name in [name for sense in senses_of(term) for name in names_of(sense)]:
        name = WHOLE_BRACKET.sub(r"\1", name.strip())
        optional = OPTIONAL.match(name)
        if optional and optional[1]:
            out += [optional[1] + optional[2], optional[2]]
        elif optional:
            out += [optional[3] + optional[4] + optional[5], optional[3] + optional[5]]
        elif name:
            out.append(name)
    return "/".join(dict.fromkeys(out))


def senses_of(term: str) -> list[str]:
    """The numbered parts of a term, several names of one part apart: `1. 가 나가 2. 다` → 가, 나가, 다. Numbers that do not count up
    from 1 are part of the name."""
    found = list(NUMBER.finditer(term))
    numbers = [int(m[1]) if m[1] else ord(m[2] or m[3]) - ord("①") + 1 for m in found]
    if numbers != list(range(1, len(found) + 1)) or not found or found[0].start():
        return [term]
    ends = [*(m.start() for m in found[1:]), len(term)]
    out: list[str] = []
    for match, end in zip(found, ends, strict=True):
        part = term[match.end() : end].strip(" ,;")
        words = part.split()
        # short and long forms of one name stand beside each other (조 치조); other words are one name together (심방 세동)
        forms = len(words) > 1 and all(any(a != b and (a in b or b in a) for b in words) for a in words)
        out += words if forms else [part]
    return out


def names_of(sense: str) -> list[str]:
    """Synonyms: split at `;`, at `/` between Hangul, and at commas where each part is one Hangul word that can stand alone."""
    out = []
    for part in SEPARATOR.split(sense):
        words = [word.strip() for word in part.split(",")]
        alone = all(WORD.fullmatch(word) for word in words) and not any(MODIFIER.fullmatch(word) for word in words[1:])
        out += words if alone else [part]
    return out


def clean_definition(raw: str) -> str:
    """One line: `Hypertension\\n 세부설명 : 혈압이 …` → `Hypertension - 혈압이 …`."""
    text = clean_field(raw)
    parts = [" ".join(part.split()) for part in DETAIL.split(text)]
    return " - ".join(part for part in parts if part)


def check(record: dict, term_least: int = TERM_LEAST, definition_least: int = DEFINITION_LEAST) -> tuple[dict | None, str]:
    """(refined entry, "") or (None, reason)."""
    if not all(isinstance(record.get(key), str) for key in ("term", "definition")):
        return None, "missing_field"
    term, definition = clean_term(record["term"]), clean_definition(record["definition"])
    if BROKEN in term + definition:
        return None, "broken_character"
    if len(term) < term_least:
        return None, "short_term"
    if len(definition) < definition_least:
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


def refine_dictionary(files: list[Path], raw_folder: Path, out: Path, stems: list[str], most: int, least: tuple[int, int]) -> dict:
    """Check entries, drop duplicates and those that hold a question of dev or test (`stems`), join the senses of a term and write all.

    Args:
        least: characters of a term and of a definition.

    Returns: the counts of refine's record.
    """
    tally, exam = Tally(most), ExamStems(stems)
    entries: dict[tuple, dict] = {}
    for raw in tally.records(files, raw_folder):
        entry, reason = check(raw.value, *least)
        key = (entry["term"], entry["definition"]) if entry else ()
        if entry is None or key in entries or exam.stands_in(entry["definition"]):
            tally.reject(reason or ("duplicate" if key in entries else "exam_leak"), raw)
            continue
        entries[key] = entry
        tally.keep(sum(map(len, key)))
    if joined := join_senses(list(entries.values())):
        write_json(out / paths.DICTIONARY, joined)
    return tally.finish(out / paths.REJECTED / "dictionary.jsonl") | {"terms": len(joined)}
