"""Precision and recall of refine by rule, on the labelled texts of tests/quality.

\b
    python -m benchmarks.quality

Four sets, printed apart. The author's was written, and added to, with the rules in view, and they were fixed by it. The
independent one was labelled by another hand from the meaning of the reasons alone, before any rule was run on it. The second is by
that other hand, too: advertisements and what resembles them, written once the first had shown that the rule misses most of them.
The third has kinds that the others lack (laws, exams, questions, code, mathematics, tables, lyrics, charts, notices), labelled
before any rule was run on it.
"""

import json
import math
import tempfile
from pathlib import Path

import click

from kmlite import paths

FOLDER = paths.ROOT / "tests/quality"
SETS = {  # texts, and the exam questions that they may hold
    "author": ("texts.jsonl", "stems.json"),
    "independent": ("independent.jsonl", "independent_stems.json"),
    "second": ("second.jsonl", "independent_stems.json"),
    "third": ("third.jsonl", "independent_stems.json"),
}


def labelled(name: str) -> list[dict]:
    """{"text", "verdict": keep or the reason, "about": the rule it tries, "gone" and "stays": what cleaning must take and leave}."""
    return [json.loads(line) for line in (FOLDER / SETS[name][0]).read_text(encoding="utf-8").splitlines()]


def verdicts(rows: list[dict], name: str) -> list[tuple[str, str]]:
    """(keep or the reason, the cleaned text or "") of each row, by the whole refine: one shard after the other, then duplicates."""
    import numpy as np

    from kmlite.refine.duplicates import REASONS, find_duplicates
    from kmlite.refine.worker import KEYS, Piece, Task, refine_shard

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "a.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows), encoding="utf-8")
        task = Task([Piece("a.jsonl", 0, None, 0)], folder, str(out / "s"), ["text"], 100, 0.0, len(rows), str(FOLDER / SETS[name][1]))
        refine_shard(task)
        found = [("", "")] * len(rows)
        for line in (out / "s.rejected.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["line"] - 1] = (row["reason"], "")
        keys = np.fromfile(out / "s.keys", np.uint64).reshape(-1, KEYS)
        kept = (out / "s.jsonl").read_text(encoding="utf-8").split("\n")
        for number, line, drop in zip(keys[:, -1].tolist(), kept, find_duplicates([keys], out / "work").tolist(), strict=False):
            found[number - 1] = (REASONS.get(drop, "keep"), json.loads(line)["text"])
    return found


def table(rows: list[dict], found: list[tuple[str, str]]) -> dict[str, tuple[float, float, int, list[int]]]:
    """rule: (precision, recall, texts it was measured on, numbers of the rows that went wrong).

    Of a cleaning rule (html, wiki, personal …) the rows about it that say what must go or stay count: recall is the share of those
    whose text lost all that should go, precision of those that kept all that should stay. NaN where no row asks, or the rule never spoke.
    """
    out = {}
    for name in dict.fromkeys(row["verdict"] for row in rows):
        mine = {i for i, row in enumerate(rows) if row["verdict"] == name}
        said = {i for i, (verdict, _) in enumerate(found) if verdict == name}
        right = len(mine & said)
        out[name] = (right / len(said) if said else math.nan, right / len(mine), len(mine), sorted(mine ^ said))
    for name in dict.fromkeys(row["about"] for row in rows if row.get("gone") or row.get("stays")):
        must = [i for i, row in enumerate(rows) if row["about"] == name and row.get("gone")]
        may = [i for i, row in enumerate(rows) if row["about"] == name and row.get("stays")]
        left = [i for i in must if any(part in found[i][1] for part in rows[i]["gone"])]
        lost = [i for i in may if any(part not in found[i][1] for part in rows[i]["stays"])]
        shares = [1 - len(wrong) / len(asked) if asked else math.nan for wrong, asked in ((lost, may), (left, must))]
        out[f"cleaning: {name}"] = (*shares, len({*must, *may}), sorted({*left, *lost}))
    return out


@click.command(help=__doc__)
def main() -> None:
    for name in SETS:
        rows = labelled(name)
        found = verdicts(rows, name)
        click.echo(f"{name} set: {len(rows)} labelled texts\n{'rule':24} precision  recall  texts")
        for rule, (precision, recall, n, wrong) in table(rows, found).items():
            click.echo(f"{rule:24} {precision:9.3f} {recall:7.3f} {n:6}")
            for i in wrong:
                click.echo(f"    {i + 1}: {rows[i]['verdict']} → {found[i][0]}: {rows[i]['text'][:70]!r} {found[i][1][-60:]!r}")


if __name__ == "__main__":
    main()
