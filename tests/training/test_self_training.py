"""The filter of self-written reasonings: a case for each reason to drop one, and what is kept goes where it belongs."""

import random

import pytest
from conftest import QUESTION

from kmlite import files, prompts, records
from kmlite.training import examples, self_training

EXAMPLE = {**QUESTION, "question": "다른 물음?", "answer": "B"}
EXAMPLE["cot"] = "티아민은 당을 태우는 데 쓰이는 보조효소입니다. 따라서, 정답은 (B) 입니다."
FIRST = "비타민 C는 콜라겐을 엮는 데 쓰이므로 모자라면 잇몸에서 피가 나고 상처가 더디게 낫습니다."
SECOND = "각기병은 티아민이 모자랄 때, 구루병은 비타민 D가 모자랄 때, 야맹증은 비타민 A가 모자랄 때 생깁니다."
GOOD = f"<reasoning>\n첫째: {FIRST}\n둘째: {SECOND}\n</reasoning>A<end_of_turn>"


def judged(turn: str, others: int = 2) -> str:
    """The verdict on a turn where the right letter came out in `others` of the two other orders."""
    rest = [GOOD] * others + [GOOD.replace(">A", ">B")] * (2 - others)
    return self_training.judge([(QUESTION, turn), *((QUESTION, other) for other in rest)], [EXAMPLE])[0]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (GOOD, ""),
        ("A", "unreadable"),
        (GOOD.split("</reasoning>")[0], "unreadable"),  # cut off
        (f"<reasoning>{FIRST}", "unreadable"),
        ("<reasoning>\n</reasoning>A", "unreadable"),
        (f"<reasoning>{FIRST}<reasoning>{SECOND}</reasoning>A", "unreadable"),
        (GOOD.replace(">A", ">가"), "unreadable"),  # no letter
        (GOOD.replace(">A", ">D"), "wrong letter"),
        (f"<reasoning>Vitamin C builds collagen, so bleeding gums point to scurvy. {FIRST[:20]}</reasoning>A", "not Korean"),
        ("<reasoning>콜라겐 때문입니다.</reasoning>A", "not Korean"),  # too little of it
        (GOOD.replace("둘째: ", "둘째: 정답은 B입니다. "), "names another answer"),
        (GOOD.replace("둘째: ", "둘째: 그러므로 C가 정답입니다. "), "names another answer"),
        (GOOD.replace("둘째: ", "둘째: 정답은 각기병입니다. "), "names another answer"),
        (GOOD.replace("둘째: ", "둘째: 정답은 괴혈병입니다. "), ""),
        (GOOD.replace("둘째: ", "둘째: 따라서, 정답은 (A) 입니다. "), ""),
        (GOOD.replace(SECOND, FIRST), "repetition"),
        (GOOD.replace(SECOND, "잇몸에서 피가 납니다 " * 8), "repetition"),
        (GOOD.replace(SECOND, "티아민은 당을 태우는 데 쓰이는 보조효소입니다."), "copied"),
    ],
)
def test_why_a_reasoning_is_dropped(turn, reason):
    assert judged(turn) == reason


@pytest.mark.parametrize(("others", "reason"), [(2, ""), (1, ""), (0, "inconsistent")])
def test_the_letter_must_be_right_in_two_of_three_orders(others, reason):
    assert judged(GOOD, others) == reason


def test_every_reason_is_counted_and_named():
    dropped = [*self_training.REASONS, "", "", "copied"]
    found = self_training.counts([{"question": i // 3, "dropped": reason} for i, reason in enumerate(dropped)])
    assert found["texts"] == sum(found["dropped"].values()) + found["kept"] == len(dropped)
    assert (found["kept"], found["dropped"]["copied"], found["questions"]) == (2, 2, 4)
    assert all(reason in self_training.in_words(found) for reason in self_training.REASONS)


def test_real_reasonings_pass(refined):
    """All five of the sample's few-shot rows, as the model's turn: the filter is not so strict that nothing gets through."""
    examples = [q for q in records.read_exam(refined, "fewshot") if q.get("cot")]
    assert len(examples) == 5
    for example in examples:
        turn = prompts.exam_answer(example, reasoned=True) + "<end_of_turn>"
        assert self_training.judge([(example, turn)] * 3, [EXAMPLE]) == [""] * 3
        assert self_training.judge([(example, turn)] * 3, [example]) == ["copied"] * 3


def test_one_reasoning_a_question_is_kept_with_the_letters_of_the_question_as_it_stands():
    """Written in another order of the options, where B) and E) are other ones."""
    orders = ["CDEAB", "BACDE", "EDCBA"]
    asked = [examples.reordered(QUESTION, order) for order in orders]
    letters = [{q[x]: x for x in prompts.LETTERS} for q in asked]
    second = "는 비타민 A 결핍에서 생기므로 여기에 맞지 않습니다."
    turns = [
        f"<reasoning>\n첫째: {FIRST}\n둘째: {of['각기병']}는 티아민, {of['야맹증']}{second}\n</reasoning>{q['answer']}"
        for q, of in zip(asked, letters, strict=True)
    ]
    found = self_training.verdicts([(0, order) for order in orders], asked, turns, [])
    assert [record["dropped"] for record in found] == ["", "spare", "spare"]
    assert found[0]["cot"].split("\n")[1] == "B는 티아민, E는 비타민 A 결핍에서 생기므로 여기에 맞지 않습니다."
    given = self_training.with_reasonings([QUESTION, EXAMPLE], found)
    assert given[0]["cot"] == found[0]["cot"]
    assert given[0]["self_written"] is True
    assert given[1] == EXAMPLE
    moved = examples.reordered(given[0], "EDCBA")
    assert "D는 티아민, A는 비타민 A 결핍" in moved["cot"]
    assert prompts.exam_answer(moved, reasoned=True).endswith("</reasoning>E")


def test_reasonings_of_the_data_come_first_and_the_models_own_fill_up():
    plain = [{**QUESTION, "question": f"{n}번 물음?"} for n in range(90)]
    given = [{**EXAMPLE, "question": f"{n}번 사례?"} for n in range(5)]
    own = [{**EXAMPLE, "question": f"{n}번 스스로?", "self_written": True} for n in range(5)]
    for share, of_data, of_model in ((0.03, 3, 0), (0.05, 5, 0), (0.07, 5, 3), (0.5, 5, 5)):
        pairs, reasoned = examples.turns([*own, *given, *plain], share, seed=0)
        long = [prompt for prompt, _ in pairs if prompts.REASONED in prompt]
        assert (reasoned, len(pairs)) == (of_data + of_model, 100 + of_data + of_model)
        assert (sum("사례" in p for p in long), sum("스스로" in p for p in long)) == (of_data, of_model)


def test_only_questions_whose_options_may_move_and_that_lack_a_reasoning_are_asked():
    places = {**QUESTION, "E": "위 모두"}
    assert self_training.chosen([EXAMPLE, places, QUESTION], 10, "0") == [2]
    many = [QUESTION] * 50
    assert len(set(self_training.chosen(many, 20, "0 1"))) == 20
    assert self_training.chosen(many, 20, "0 1") == self_training.chosen(many, 20, "0 1") != self_training.chosen(many, 20, "0 2")


def test_examples_of_the_subject_come_first_and_the_prompt_ends_where_the_model_begins(tokenizer, monkeypatch):
    examples = [{**EXAMPLE, "question": f"{subject} 사례?", "subject": subject} for subject in ("doctor", "nurse", "pharm")]
    monkeypatch.setattr(self_training, "SHOTS", 2)
    shown = self_training.guides({**QUESTION, "subject": "nurse"}, examples)
    assert [prompt.split("\n")[2] for prompt, _ in shown] == ["nurse 사례?", "doctor 사례?"]
    text = tokenizer.decode(prompts.guided_ids(tokenizer, prompts.exam_prompt(QUESTION, reasoned=True), shown))
    assert text.count("<bos>") == 1
    assert text.count("<start_of_turn>user") == 3
    assert text.count("</reasoning>B<end_of_turn>") == 2
    assert text.endswith("<start_of_turn>model\n")


def test_asking_is_seeded_and_goes_on_from_what_was_written(loaded, tmp_path, monkeypatch):
    questions = [{**QUESTION, "question": f"{n}번 물음?"} for n in range(5)]
    monkeypatch.setattr(self_training, "GROUP", 2)
    how = {"count": 4, "max_new_tokens": 5}

    def ask(name, seed="0 1"):
        return self_training.ask(*loaded, questions, [EXAMPLE], tmp_path / name, seed=seed, **how)

    whole = ask("a")
    assert len(whole) == 4 * self_training.ORDERS
    assert {record["dropped"] for record in whole} == {"unreadable"}  # random weights
    assert len({record["output"] for record in whole}) > 6  # sampled, not greedy
    assert files.read_lines(tmp_path / "a") == whole == ask("b")
    assert ask("c", seed="0 2") != whole
    files.write_lines(tmp_path / "d", whole[: 2 * self_training.ORDERS])  # two questions are a group: as a kill would leave it
    assert ask("d") == whole
    for record in whole:
        assert sorted(record["order"]) == list(prompts.LETTERS)
    assert all(len(set(self_training.orders(str(seed)))) == 3 for seed in range(200))


def test_asking_leaves_the_random_numbers_of_training_alone(loaded, tmp_path):
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate()
    self_training.ask(*loaded, [QUESTION], [], tmp_path / "a", count=1, max_new_tokens=2, seed="0")
    assert (torch.get_rng_state().equal(before[0]), random.getstate()) == (True, before[1])
