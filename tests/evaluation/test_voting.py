"""Votes over orders of the options: one order changes nothing, five don't depend on how the options stand, a pull is undone."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmlite import prompts, records
from kmlite.evaluation import scoring, voting

LETTERS = prompts.LETTERS


@pytest.fixture(scope="module")
def questions(refined):
    return records.read_exam(refined, "dev")[:5]


def made(options, answer: str = "B") -> dict:
    return {"question": "옳은 것은?", **dict(zip(LETTERS, options, strict=True)), "answer": answer}


def answered_by(monkeypatch, scores):
    """`scores(question)` gives the five log-probabilities, or the letter that is written."""

    def answers(network, tokenizer, asked, scorer="generate", **how):
        out = []
        for number, question in enumerate(asked, 1):
            given = scores(question)
            if scorer == "letter":
                logs = [value - math.log(math.fsum(map(math.exp, given))) for value in given]
                letter = LETTERS[max(range(5), key=logs.__getitem__)]
                found = {"answer": letter, "probabilities": [round(math.exp(v), 6) for v in logs], "mass": 1.0, "logs": logs}
            else:
                letter, found = given, {"answer": given, "output": given or "?"}
            about = {"number": number, "question": question["question"], "subject": "nurse", "expected": question["answer"]}
            out.append({**about, "right": letter == question["answer"], **found})
        return out

    monkeypatch.setattr(scoring, "answer_exam", answers)


@pytest.mark.parametrize("scorer", scoring.SCORERS)
def test_one_order_is_the_plain_answer_to_the_last_bit(loaded, questions, scorer):
    how = {"scorer": scorer, "max_new_tokens": 3, "batch": 5}
    plain = scoring.answer_exam(*loaded, questions, **how)
    assert voting.answer(*loaded, questions, orders=1, **how) == plain
    assert [p["single"] for p in voting.answer(*loaded, questions, orders=2, **how)] == [p["answer"] for p in plain]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**9), st.integers(1, 4), st.booleans())
def test_with_all_orders_the_choice_does_not_depend_on_how_the_options_stand(seed, by, written):
    """For any scorer whatever, since it is asked the same five questions."""
    question = made(["가슴", "나비", "다리", "라면", "마늘"])

    def scores(one):
        chance = random.Random(f"{seed} {[one[letter] for letter in LETTERS]}")
        return chance.choice([*LETTERS, None]) if written else [chance.gauss(0, 3) for _ in LETTERS]

    with pytest.MonkeyPatch.context() as patch:
        answered_by(patch, scores)
        chosen = []
        for asked in (question, scoring.rotated(question, by)):
            [found] = voting.answer(None, None, [asked], orders=5, scorer="generate" if written else "letter", batch=1)
            chosen.append(found["answer"] and asked[found["answer"]])
            assert found["right"] == (found["answer"] == asked["answer"])
    assert chosen[0] == chosen[1]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-30, 30), min_size=5, max_size=5), st.permutations(range(5)))
def test_a_pull_by_place_alone_is_undone_exactly(pull, order):
    """What a model knows, under any pull of the letters and in any order of the options, one order in 120 as much as another."""
    knows = dict(zip(("가슴", "나비", "다리", "라면", "마늘"), (0.3, 0.9, 0.1, 0.5, 0.2), strict=True))
    words = list(knows)
    question = made([words[i] for i in order])

    def scores(one):
        return [knows[one[letter]] + pull[place] for place, letter in enumerate(LETTERS)]

    with pytest.MonkeyPatch.context() as patch:
        answered_by(patch, scores)
        [voted] = voting.answer(None, None, [question], orders=5, scorer="letter", batch=1)
        prior = voting.estimated_prior(None, None, [question, scoring.rotated(question, 2)], batch=1)
        [corrected] = voting.answer(None, None, [question], orders=1, prior=prior, scorer="letter", batch=1)
    expected = voting.softmax([knows[question[letter]] for letter in LETTERS])
    for found in (voted, corrected):
        assert question[found["answer"]] == "나비"
        assert found["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert prior == pytest.approx(voting.softmax(pull))


def test_always_a_is_averaged_into_a_guess_without_a_pull(monkeypatch):
    """A model that draws towards A and knows nothing answers A each time; the vote leaves a tie, which no letter wins."""
    answered_by(monkeypatch, lambda one: [9.0, 0, 0, 0, 0])
    chance = random.Random(1)
    asked = [made(chance.sample(["가슴", "나비", "다리", "라면", "마늘"], 5), chance.choice(LETTERS)) for _ in range(400)]
    found = voting.answer(None, None, asked, orders=5, scorer="letter", batch=1)
    before, after = voting.side_by_side({"single": voting.single(found), "voted": found}, {"single": 1, "voted": 5})
    assert before["pull"]["A"] > 0.7
    assert all(abs(share) < 0.08 for share in after["pull"].values())
    assert {p["probabilities"][0] for p in found} == {0.2}
    assert after["difference"]["n"] == 400
    summary = scoring.summarise(found)
    assert (summary["consistency"], summary["n"]) == (0.0, 400)


@pytest.mark.parametrize(
    ("written", "chosen"),
    [
        (["B"] * 5, "가슴"),  # a letter, whatever stands there: a tie, and of those the first by its text
        (["C", "B", "A", "E", "D"], "다리"),  # the same option in every order
        (["C", "B", "A", None, None], "다리"),
        (["C", "B", "D", "D", None], "다리"),
        ([None] * 5, None),
    ],
)
def test_written_votes_are_counted_by_option(written, chosen, monkeypatch):
    texts = iter(written)
    answered_by(monkeypatch, lambda one: next(texts))
    question = made(["가슴", "나비", "다리", "라면", "마늘"])
    [found] = voting.answer(None, None, [question], orders=5, batch=1)
    assert (found["answer"] and question[found["answer"]]) == chosen
    assert found["single"] == written[0]
    assert len(found["outputs"]) == 4


def test_a_question_that_names_letters_is_asked_as_it_stands(monkeypatch):
    asked = []
    answered_by(monkeypatch, lambda one: asked.append(one["A"]) or [0.0, 1, 0, 0, 0])
    question = made(["가슴", "나비", "A와 B", "위의 모두", "마늘"])
    [found] = voting.answer(None, None, [question], orders=5, scorer="letter", batch=1)
    assert asked == ["가슴"]
    assert (found["answer"], found["chosen_in"]) == ("B", ["B"])


def test_the_estimate_of_the_prior_looks_at_no_right_answer(loaded, questions):
    other = [{**question, "answer": LETTERS[(LETTERS.index(question["answer"]) + 1) % 5]} for question in questions]
    first, second = (voting.estimated_prior(*loaded, asked, batch=25) for asked in (questions, other))
    assert first == second
    assert sum(first) == pytest.approx(1)


def test_ways_stand_side_by_side_with_paired_differences():
    def answers(text):
        return [{"number": i, "expected": "A", "answer": a, "right": a == "A"} for i, a in enumerate(text, 1)]

    first, second = voting.side_by_side({"one": answers("AAAB"), "two": answers("ABBB")}, {"one": 1, "two": 4.8})
    assert (first["accuracy"], second["accuracy"], second["passes"]) == (75.0, 25.0, 4.8)
    assert "difference" not in first
    assert second["difference"]["difference"] == -50.0
    assert second["difference"]["lost"] == [2, 3]


@pytest.mark.parametrize(("orders", "prior", "said"), [(1, False, "as they stand"), (1, True, "prior divided out"), (5, False, "5 orders")])
def test_the_way_is_said_in_words(orders, prior, said):
    assert said in voting.in_words(orders, prior)
