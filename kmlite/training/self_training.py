"""Reasonings that the model writes itself, and the filter that few of them pass.

STaR (arXiv 2203.14465) keeps what led to the right letter. One letter in five is right by luck, so here each question is asked
in three orders of its options, and a reasoning counts only where the right option was found in at least two of them; then it
must be Korean, name no other answer, say things once and not be copied from the examples.
"""

import random
import re
from collections import Counter
from pathlib import Path

from kmlite import files, prompts
from kmlite.refine import text
from kmlite.training.examples import names_places, relettered, reordered

ORDERS, AGREEING = 3, 2
SHOTS = 3  # examples with a reasoning that show the model how: each costs some 500 tokens of prompt
TEMPERATURE = 0.7  # above 0, so that the three orders are three tries; at 1 small models lose the thread
GROUP = 8  # questions that are asked, judged and kept together
HANGUL_LEAST, HANGUL_SHARE = 40, 0.5  # syllables, and share of letters: KorMedMCQA's own 20 reasonings have 170 and 0.63 at the least
DISTINCT = 0.7  # of the runs of eight characters; KorMedMCQA's own have 0.83 at the least

REASONS = ("unreadable", "wrong letter", "inconsistent", "not Korean", "names another answer", "repetition", "copied", "spare")
OF_THIS_SIZE = "A model of this size can't reason, so next to nothing passes; that asking, filtering and counting work is all this shows."

SHAPE = re.compile(r"\s*<reasoning>((?:(?!</?reasoning>).)*)</reasoning>(?!.*</?reasoning>)", re.DOTALL)
STEP = re.compile(rf"^\s*(?:{'|'.join(prompts.STEPS)})\s*[:：,.]\s*", re.MULTILINE)
ANSWER_IS = re.compile(r"(?:정답|답)\s*(?:은|는|이)?\s*[:：]?\s*[\"'“‘(\[]*")


def plain(turn: str) -> str | None:
    """The reasoning of a model's turn without its tags and the names of its steps; None where it is not there whole. A thought before
    it (`prompts.THINKS`) is never trained on."""
    found = SHAPE.match(prompts.without_thought(turn) or "")
    return STEP.sub("", found.group(1)).strip() if found else None


def is_korean(written: str) -> bool:
    hangul = len(text.HANGUL.findall(written))
    return hangul >= HANGUL_LEAST and hangul >= HANGUL_SHARE * len(text.LETTERS.findall(written))


def names_another_answer(written: str, question: dict) -> bool:
    """Whether a text says of another letter or of another option's words that it is the answer."""
    stated = [found.group(1).upper() for found in prompts.STATED.finditer(written)] + prompts.CONFIRMED.findall(written)
    if set(stated) - {question["answer"]}:
        return True
    for found in ANSWER_IS.finditer(written):
        named = [letter for letter in prompts.LETTERS if question[letter] and written.startswith(question[letter], found.end())]
        if named and max(named, key=lambda letter: len(question[letter])) != question["answer"]:
            return True
    return False


def why_unverified(question: dict) -> str:
    """Why the reasoning of a question is not one to learn from, or "": it must be Korean, end in the right letter if it ends in
    one, and name no other option as the answer."""
    cot = question.get("cot", "")
    if not cot or not prompts.reasoning_sentences(cot):
        return "no reasoning"
    if prompts.conclusion_letter(cot) not in (None, question["answer"]):
        return "wrong letter"
    if not is_korean(cot):
        return "not Korean"
    return "names another answer" if names_another_answer(cot, question) else ""


def repeats_itself(written: str) -> bool:
    """A sentence stands in it twice, or its runs of eight characters are too few different ones."""
    sentences = [" ".join(sentence.split()) for sentence in prompts.SENTENCE_END.split(written) if len(sentence.strip()) > 9]
    runs_of_eight = [written[i : i + 8] for i in range(len(written) - 7)]
    return len(set(sentences)) < len(sentences) or len(set(runs_of_eight)) < DISTINCT * len(runs_of_eight)


def why_dropped(question: dict, turn: str, right: int, examples: list[dict]) -> str:
    """Why a turn is not kept, or ""; `right`: in how many orders of the options the question was answered right."""
    written, answer = plain(turn), prompts.read_answer(turn)
    if written is None or answer is None or not prompts.reasoning_sentences(written):
        return "unreadable"
    if answer != question["answer"]:
        return "wrong letter"
    if right < AGREEING:
        return "inconsistent"
    if not is_korean(written):
        return "not Korean"
    if names_another_answer(written, question):
        return "names another answer"
    if repeats_itself(written):
        return "repetition"
    said = (sentence for example in examples for sentence in prompts.reasoning_sentences(example["cot"]) if len(sentence) > 9)
    return "copied" if any(sentence in written for sentence in said) else ""


def judge(asked: list[tuple[dict, str]], examples: list[dict]) -> list[str]:
    """Why each of some turns is dropped ("" where it is kept); each is one question in an order of its options, with the turn."""
    right = sum(prompts.read_answer(turn) == question["answer"] for question, turn in asked)
    return [why_dropped(question, turn, right, examples) for question, turn in asked]


def guides(question: dict, examples: list[dict]) -> list[tuple[str, str]]:
    """Up to SHOTS examples as (prompt, answer) turns, those of the question's subject first."""
    near = sorted(examples, key=lambda example: example.get("subject") != question.get("subject"))[:SHOTS]
    return [(prompts.exam_prompt(example, reasoned=True), prompts.exam_answer(example, reasoned=True)) for example in near]


def chosen(questions: list[dict], count: int, seed: str) -> list[int]:
    """The places of up to `count` questions to ask: without a reasoning, and with options whose order is free."""
    able = [i for i, question in enumerate(questions) if not question.get("cot") and not names_places(question)]
    return random.Random(seed).sample(able, min(count, len(able)))


def ask(
    model, tokenizer, questions: list[dict], examples: list[dict], journal: Path, *, count: int, max_new_tokens: int, seed: str
) -> list[dict]:
    """Let the model write a reasoning in ORDERS orders of the options for each of up to `count` questions; every one with its verdict.

    Each group of questions is seeded by itself and kept in `journal` as soon as it is done, so that a run that was killed goes
    on with the same texts as one that was not. One record a text: {"question": its place, "order" (of the options, as `reordered` takes
    it), "output", "dropped": the reason or ""}, and where it is kept "cot", with the letters of the question as it stands.
    """
    import torch

    from kmlite.evaluation import generation
    from kmlite.progress import progress

    done = files.read_lines(journal) if journal.exists() else []
    places = chosen(questions, count, seed)[len({record["question"] for record in done}) :]
    how: dict = {"max_new_tokens": max_new_tokens, "batch": generation.default_batch(), "temperature": TEMPERATURE}
    with progress("reasoning", len(places), "questions") as reached:
        for start in range(0, len(places), GROUP):
            tasks = [(place, order) for place in places[start : start + GROUP] for order in orders(f"{seed} {place}")]
            asked = [reordered(questions[place], order) for place, order in tasks]
            heads = [prompts.guided_ids(tokenizer, prompts.exam_prompt(q, reasoned=True), guides(q, examples)) for q in asked]
            with torch.random.fork_rng():  # training's own random numbers go on as without this
                torch.manual_seed(random.Random(f"{seed} {places[start]}").getrandbits(63))
                turns = generation.continued(model, tokenizer, heads, **how)
            done += verdicts(tasks, asked, turns, examples)
            files.write_lines(journal, done)
            reached(min(start + GROUP, len(places)))
    return done


def orders(seed: str) -> list[str]:
    """ORDERS different orders of the options."""
    chance, found = random.Random(seed), dict[str, None]()
    while len(found) < ORDERS:
        found["".join(chance.sample(prompts.LETTERS, len(prompts.LETTERS)))] = None
    return list(found)


def verdicts(tasks: list[tuple[int, str]], asked: list[dict], turns: list[str], examples: list[dict]) -> list[dict]:
    """The records of `ask` for the turns of some tasks, ORDERS of which follow on one another for a question.

    One reasoning a question is kept; what else would pass is "spare".
    """
    out: list[dict] = []
    for start in range(0, len(tasks), ORDERS):
        part = slice(start, start + ORDERS)
        reasons = judge(list(zip(asked[part], turns[part], strict=True)), examples)
        for i, ((place, order), turn, reason) in enumerate(zip(tasks[part], turns[part], reasons, strict=True)):
            dropped = reason or ("spare" if "" in reasons[:i] else "")
            record: dict = {"question": place, "order": order, "output": turn, "dropped": dropped}
            if not dropped:
                record["cot"] = relettered(plain(turn) or "", dict(zip(prompts.LETTERS, order, strict=True)))
            out.append(record)
    return out


def counts(records: list[dict]) -> dict:
    """{"questions", "texts", "kept", "dropped": number by reason}."""
    reasons = Counter(record["dropped"] for record in records)
    return {
        "questions": len({record["question"] for record in records}),
        "texts": len(records),
        "kept": reasons[""],
        "dropped": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
    }


def in_words(found: dict) -> str:
    dropped = ", ".join(f"{reason} {n}" for reason, n in found["dropped"].items()) or "none"
    return f"{found['texts']} reasonings for {found['questions']} questions, {found['kept']} kept; dropped: {dropped}"


def with_reasonings(questions: list[dict], records: list[dict]) -> list[dict]:
    """The questions, those that a kept reasoning belongs to with it as their `cot`."""
    kept = {record["question"]: record["cot"] for record in records if not record["dropped"]}
    return [{**q, "cot": kept[i], "self_written": True} if i in kept else q for i, q in enumerate(questions)]
