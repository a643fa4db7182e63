"""Options in a new order: the right option stays right, letters in a reasoning follow, questions that name places stay."""

import random

import pytest

from kmlite import prompts
from kmlite.training import examples

QUESTION = {"question": "비타민 C가 부족하면?", "A": "괴혈병", "B": "각기병", "C": "구루병", "D": "펠라그라", "E": "야맹증", "answer": "A"}
COT = "비타민 C는 콜라겐을 만듭니다. B는 티아민 결핍입니다. C는 비타민 D 결핍이고, E는 비타민 A 결핍입니다. 따라서, 정답은 (A) 입니다."


def test_the_right_option_stays_right_and_every_place_is_used():
    places = set()
    for seed in range(60):
        now = examples.shuffled(QUESTION, random.Random(seed))
        assert now[now["answer"]] == "괴혈병"
        assert sorted(now[x] for x in "ABCDE") == sorted(QUESTION[x] for x in "ABCDE")
        places.add(now["answer"])
    assert places == set("ABCDE")


def test_letters_in_a_reasoning_go_with_their_options_and_vitamins_stay():
    for seed in range(20):
        now = examples.shuffled({**QUESTION, "cot": COT}, random.Random(seed))
        letter = {QUESTION[x]: x for x in "ABCDE"}
        new = {letter[now[x]]: x for x in "ABCDE"}  # old letter to new one
        assert now["cot"] == (
            f"비타민 C는 콜라겐을 만듭니다. {new['B']}는 티아민 결핍입니다. "
            f"{new['C']}는 비타민 D 결핍이고, {new['E']}는 비타민 A 결핍입니다. "
            f"따라서, 정답은 ({new['A']}) 입니다."
        )
        assert prompts.conclusion_letter(now["cot"]) == now["answer"]


@pytest.mark.parametrize(
    "change",
    [
        {"E": "위 모두"},
        {"E": "A와 B"},
        {"E": "모두 해당된다"},
        {"E": "정답 없음"},
        {"question": "다음 ①~③ 중 옳은 것은?"},
        {"question": "<보기>에서 고르면?", "A": "ㄱ, ㄴ"},
        {"A": "가, 나", "B": "나, 다"},
        {"question": "B 또는 C가 아닌 것은?"},
    ],
)
def test_a_question_that_names_letters_or_places_keeps_its_order(change):
    question = {**QUESTION, **change}
    assert examples.names_places(question)
    assert all(examples.shuffled(question, random.Random(seed)) == question for seed in range(8))


@pytest.mark.parametrize("text", ["비타민 A와 비타민 D", "A형 간염", "위 점막", "모두 몇 개인가?", "가슴과 배", "IgA와 IgG", "위모세관"])
def test_words_that_only_look_like_places(text):
    assert not examples.names_places({**QUESTION, "question": text, "B": text})


def test_an_order_holds_every_row_of_each_epoch_and_like_lengths_together():
    epochs = [[{"input_ids": [epoch] * n} for n in range(1, 401)] for epoch in range(2)]
    rows = examples.in_order(epochs, batch=4, seed=3)
    assert [sorted(len(r["input_ids"]) for r in part) for part in (rows[:400], rows[400:])] == [list(range(1, 401))] * 2
    assert {r["input_ids"][0] for r in rows[:400]} == {0}
    gaps = [max(len(r["input_ids"]) for r in rows[i : i + 4]) - min(len(r["input_ids"]) for r in rows[i : i + 4]) for i in range(0, 800, 4)]
    assert sum(gaps) / len(gaps) < 12  # about 80 at random
    assert rows == examples.in_order(epochs, batch=4, seed=3) != examples.in_order(epochs, batch=4, seed=4)


def rows_of(tokenizer, questions, seed, **change):
    how = {"epochs": 3, "shuffle": True, "reasoned_share": 0.05, "length": 1024, "batch": 1, "seed": seed}
    rows, found = examples.rows_of_loop(tokenizer, questions, **{**how, **change})
    return [tokenizer.decode(row["input_ids"]) for row in rows], found["left_out"]


def test_a_loop_trains_on_new_orders_in_each_epoch_and_loop(tokenizer):
    questions = [{**QUESTION, "question": f"{n}번 물음?"} for n in range(30)]
    first, _ = rows_of(tokenizer, questions, "0 1")
    assert len(first) == 90
    assert len({t for t in first if "7번 물음?" in t and "17번" not in t and "27번" not in t}) == 3
    assert first == rows_of(tokenizer, questions, "0 1")[0] != rows_of(tokenizer, questions, "0 2")[0]
    for text in first:
        letter = text.removesuffix("<end_of_turn>")[-1]
        assert f"{letter}) 괴혈병" in text


def test_each_epoch_teaches_other_reasonings(tokenizer):
    """With more reasonings than the share has room for, each epoch draws its own; short rows are the same in all."""
    questions = [{**QUESTION, "question": f"{n}번 물음?", "cot": COT} for n in range(40)]
    texts, _ = rows_of(tokenizer, questions, "0 1", epochs=2, shuffle=False, reasoned_share=0.2)
    assert len(texts) == 100
    reasoned = [[text for text in part if "<reasoning>" in text] for part in (texts[:50], texts[50:])]
    assert [len(part) for part in reasoned] == [10, 10]
    assert set(reasoned[0]) != set(reasoned[1])
    assert rows_of(tokenizer, questions, "0 1", length=20)[1] == 3 * (40 + 2)


def test_leaked_questions_are_left_out():
    other = {**QUESTION, "question": "다른 물음?"}
    spaced = {**QUESTION, "question": "비타민  C가 부족하면 ?", "A": QUESTION["B"], "B": QUESTION["A"], "answer": "B"}
    assert examples.without_leaks([spaced, other], [], [QUESTION]) == ([other], 1)
