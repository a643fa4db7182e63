"""Examples for the report: records that refine set aside, and sentences as tokens before and after."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from kmlite import paths
from kmlite.files import read_json

EXAMPLES = 3  # rejected records shown of each reason
SHOWN = 400  # characters of one
SENTENCE = re.compile(r"[^.!?\n]{20,70}[.!?](?=\s|$)")


def rejected(refined: Path, kind: str) -> dict[str, list[dict]]:
    """By reason, the first records that refine set aside: {"source", "line", "text"}."""
    path = refined / paths.REJECTED / f"{kind}.jsonl"
    shown: dict[str, list[dict]] = defaultdict(list)
    if not path.exists():
        return shown
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                reason, record = row["reason"], row["record"]
            except (ValueError, KeyError, TypeError):
                continue  # half a line of a folder that was copied while it was written
            if len(shown[reason]) < EXAMPLES:
                text = in_lines(record)
                cut = text[:SHOWN] + "…" if len(text) > SHOWN else text
                shown[reason].append({"source": row.get("source", ""), "line": row.get("line", 0), "text": cut})
    return shown


def in_lines(record: object) -> str:
    """A record as a person reads it: a text as it stands, fields one a line."""
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        return "\n".join(
            f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}" for key, value in record.items()
        )
    return "" if record is None else json.dumps(record, ensure_ascii=False)


def vocabulary(refined: Path, out: Path, metrics: dict) -> dict | None:
    """The gain as measured by stage 0, and sentences as tokens before and after; None before stage 0 is done."""
    if "gain" not in metrics:
        return None
    path = out / paths.STAGES[0] / paths.FINAL / "tokenizer.json"
    new, held = metrics.get("new_tokens", 0), paths.heldout_text(refined)
    examples = split_both_ways(path, new, sentences(held)) if new and path.exists() and held.exists() else []
    return {"new_tokens": new, **metrics["gain"], "examples": examples}


def sentences(path: Path, most: int = 5000) -> Iterator[str]:
    """The first sentences of 20 to 70 characters in a file of texts."""
    from kmlite.records import read_texts

    for text in read_texts([path]):
        for match in SENTENCE.finditer(text):
            yield match[0].strip()
            most -= 1
            if not most:
                return


def split_both_ways(path: Path, new: int, texts: Iterator[str], most: int = 4) -> list[dict]:
    """The first sentences that the new tokens make shorter: {"before", "after": [(piece, how many tokens, is new)]}.

    The tokenizer before is the one after without its last `new` merges: that is how vocabulary.extend_tokenizer made it.
    """
    from tokenizers import Tokenizer

    data = read_json(path)
    after = Tokenizer.from_str(json.dumps(data))
    last = {"".join(merge if isinstance(merge, list) else merge.split(" ")) for merge in data["model"]["merges"][-new:]}
    data["model"]["merges"] = data["model"]["merges"][:-new]
    before = Tokenizer.from_str(json.dumps(data))
    found = []
    for text in texts:
        old, now = (tokenizer.encode(text, add_special_tokens=False) for tokenizer in (before, after))
        if len(now.ids) < len(old.ids):
            found.append({"before": pieces(text, old, set()), "after": pieces(text, now, last), "tokens": (len(old.ids), len(now.ids))})
        if len(found) == most:
            break
    return found


def pieces(text: str, encoded, new: set[str]) -> list[tuple[str, int, bool]]:
    """(the characters, how many tokens they are, whether a new token) along a text; a character may be several byte tokens."""
    out: list[list] = []
    for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True):
        if out and out[-1][3] == (start, end):
            out[-1][1] += 1
        else:
            out.append([text[start:end], 1, token in new, (start, end)])
    return [(piece, tokens, is_new) for piece, tokens, is_new, _ in out]
