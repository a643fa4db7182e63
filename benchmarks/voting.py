"""Ways to an answer on real weights: single, the prior divided out, voted over five orders; by letter and written; points and seconds.

    .venv/bin/python -m benchmarks.voting MODEL REFINED [QUESTIONS [WRITTEN]]

Asks QUESTIONS (200) dev questions, chosen by a hash within each subject in the subjects' shares, by letter in five orders, and the first
WRITTEN (60) of them in writing too. No right answer enters the prior: it is estimated on the first PRIOR questions in five orders. Killed
and run again it goes on: answers are kept in model/benchmarks/voting/. Appends its table to benchmarks/results/voting.jsonl.
"""

import hashlib
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

from kmlite import files, prompts, records, runs
from kmlite.evaluation import scoring, voting
from kmlite.models import loading

KEPT, RESULTS = Path("model/benchmarks/voting"), Path("benchmarks/results/voting.jsonl")
GROUP, PRIOR, ORDERS = 4, 20, 5


def sample(questions: list[dict], count: int) -> list[dict]:
    """`count` questions in the subjects' shares, by a hash of their text; any first part of them is in those shares too."""
    by_subject = defaultdict(list)
    for question in sorted(questions, key=lambda q: hashlib.blake2b(q["question"].encode()).digest()):
        by_subject[scoring.subject_of(question)].append(question)
    spread = [(place + 0.5) / len(group) for group in by_subject.values() for place in range(len(group))]
    ordered = [question for group in by_subject.values() for question in group]
    return [question for _, _, question in sorted(zip(spread, range(len(spread)), ordered, strict=True), key=lambda one: one[:2])][:count]


def asked(network, tokenizer, questions: list[dict], scorer: str, kept: Path) -> tuple[list[list[dict]], float]:
    """(each question's predictions in five orders, seconds), group by group; what an earlier run has asked is not asked again."""
    done = files.read_lines(kept)[: len(questions)] if kept.exists() else []  # the sample of fewer questions begins that of more
    for start in range(len(done), len(questions), GROUP):
        group = questions[start : start + GROUP]
        orders = [[scoring.rotated(q, by) for by in range(1 if voting.names_places(q) else ORDERS)] for q in group]
        started = time.perf_counter()
        every = [q for one in orders for q in one]
        found = iter(
            scoring.answer_exam(network, tokenizer, every, scorer=scorer, batch=ORDERS)
        )  # a question's orders are as long: no padding
        answers = [[next(found) for _ in one] for one in orders]
        seconds = (time.perf_counter() - started) / len(group)
        done += [{"answers": one, "seconds": seconds} for one in answers]
        files.write_lines(kept, done)
        print(f"{scorer} {len(done)}/{len(questions)}, {seconds:.1f} s a question", file=sys.stderr, flush=True)
    return [one["answers"] for one in done], sum(one["seconds"] for one in done)


def ways_of(questions: list[dict], answers: list[list[dict]], scorer: str) -> tuple[dict[str, list[dict]], dict[str, float], dict]:
    """({way: predictions}, {way: passes a question}, the prior by letter)."""
    voted = [voting.voted(q, found, number) for number, (q, found) in enumerate(zip(questions, answers, strict=True), 1)]
    ways = {f"{scorer}, single": voting.single(voted)}
    passes = {f"{scorer}, single": 1.0, f"{scorer}, voted": sum(map(len, answers)) / len(answers)}
    prior: list[float] = []
    if scorer == "letter":
        full = [[one["logs"] for one in found] for found in answers if len(found) == ORDERS]
        prior = voting.prior_of(full[:PRIOR])
        name = f"letter, prior of {min(PRIOR, len(full))}"
        singles = zip(ways["letter, single"], answers, questions, strict=True)
        ways[name] = [{**one, **voting.without(found[0]["logs"], prior, q)} for one, found, q in singles]
        passes[name] = 1 + (ORDERS - 1) * min(PRIOR, len(full)) / len(questions)
    ways[f"{scorer}, voted"] = voted
    return ways, passes, dict(zip(prompts.LETTERS, prior, strict=False))


def main(model: Path, refined: Path, count: int, written: int) -> None:
    from recipes.evaluate import show_ways

    questions = sample(records.read_exam(refined, "dev"), count)
    network, tokenizer = loading.load(model, "16bit", 2048)
    result: dict = {
        "model": model.name,
        "fingerprint": files.model_fingerprint(model),
        "prompt": prompts.VERSION,
        "precision": str(network.dtype),
    }
    letters: dict[str, list[dict]] = {}
    costs: dict[str, float] = {}
    for scorer, number in (("letter", count), ("generate", min(written, count))):
        kept = KEPT / f"{result['fingerprint']}-{prompts.VERSION}-{scorer}.jsonl"
        found, seconds = asked(network, tokenizer, questions[:number], scorer, kept)
        ways, passes, prior = ways_of(questions[:number], found, scorer)
        # beside what was written the letters of the same questions
        letters, costs = {**{name: given[:number] for name, given in letters.items()}, **ways}, {**costs, **passes}
        table = voting.side_by_side(letters, costs)
        show_ways(table)
        print(f"{scorer}: {number} questions in {ORDERS} orders, {seconds:.0f} s", prior)
        result[scorer] = {"questions": number, "seconds_for_all_orders": seconds, "ways": table, "prior": prior}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps({**result, **runs.environment()}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(a) for a in [*sys.argv[3:], *("200", "60")[len(sys.argv) - 3 :]]))
