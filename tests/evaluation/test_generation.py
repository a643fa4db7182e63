"""Scores: independent of batches and order, intervals as published, sums that agree."""

import math

import pytest
import torch

from kmlite import prompts, records
from kmlite.evaluation import generation, scoring

ASKED = [
    "혈압은?",
    "맥박이 빠르고 숨이 차며 식은땀이 나는 환자에게 가장 먼저 할 일은 무엇인가?",
    "열",
    "기침과 가래가 두 주 넘게 이어질 때는?",
]


HEADS = [[1] * n for n in (3, 9, 1, 5, 7, 2, 4)]


def test_a_padded_batch_answers_as_single_prompts_do(loaded):
    one = generation.generate(*loaded, ASKED, max_new_tokens=6, batch=1)
    assert generation.generate(*loaded, ASKED, max_new_tokens=6, batch=4) == one
    assert generation.generate(*loaded, ASKED[::-1], max_new_tokens=6, batch=3)[::-1] == one
    assert len(set(one)) > 1


def test_generation_stops_at_the_end_of_turn(loaded, monkeypatch):
    whole = generation.generate(*loaded, ASKED[:1], max_new_tokens=6, batch=1)[0]
    tokenizer = loaded[1]
    third = tokenizer(whole, add_special_tokens=False)["input_ids"][2]
    monkeypatch.setattr(prompts, "stop_ids", lambda tokenizer: [third])
    cut = generation.generate(*loaded, ASKED[:1], max_new_tokens=6, batch=1)[0]
    assert whole.startswith(cut)
    assert len(cut) < len(whole)


def test_a_settled_row_ends_by_itself(loaded):
    """The others go on to their ends; what stands before it is the same."""
    network, tokenizer = loaded
    heads = [tokenizer(text)["input_ids"] for text in ASKED]
    free = generation.continued_ids(network, tokenizer, heads, max_new_tokens=12, batch=4, ends=[1])
    stop = tokenizer.decode(free[0][1:2])
    stopped = generation.continued_ids(network, tokenizer, heads, max_new_tokens=12, batch=4, ends=[1], settled=lambda text: stop in text)
    assert len(stopped[0]) <= 2
    assert len({len(turn) for turn in stopped}) > 1
    for long, short in zip(free, stopped, strict=True):
        assert long[: len(short)] == short
        assert len(short) == 12 or stop in tokenizer.decode(short)


def test_thoughts_do_not_count_against_the_limit(tokenizer):
    """Rows are fed token by token: 94 opens a thought and 95 ends it."""
    rows = {
        "says nothing of a thought": ([7] * 3, 3),
        "thinks first": ([94, 7, 7, 7, 7, 95, 7, 7, 7], 9),
        "thinks in the middle": ([7, 94, 7, 95, 7, 7], 6),
        "thinks twice": ([94, 7, 95, 94, 7, 95, 7, 7, 7], 9),
        "never ends its thought": ([94, *[7] * 30], None),
    }
    for name, (tokens, ends) in rows.items():
        ended = generation.until(tokenizer, (1, 2), 3, [94, 95], None)
        so_far, when = [5, 5], None
        for place, token in enumerate(tokens, 1):
            so_far.append(token)
            if bool(ended(torch.tensor([so_far]), None)):
                when = place
                break
        assert when == ends, name


@pytest.mark.parametrize("prompt", prompts.PROMPTS)
def test_stopping_early_changes_no_answer(loaded, refined, prompt, monkeypatch):
    questions = records.read_exam(refined, "dev")[:6]
    early = scoring.answer_exam(*loaded, questions, max_new_tokens=16, batch=6, prompt=prompt)
    monkeypatch.setattr(prompts, "settled", lambda text: False)
    assert [p["answer"] for p in scoring.answer_exam(*loaded, questions, max_new_tokens=16, batch=6, prompt=prompt)] == [
        p["answer"] for p in early
    ]


def test_a_batch_that_does_not_fit_is_halved():
    tried, done = [], []

    def work(chosen, ids, mask):
        tried.append(len(chosen))
        if len(chosen) > 2:
            raise torch.OutOfMemoryError
        assert mask.sum(1).tolist() == [len(HEADS[i]) for i in chosen]
        done.extend(chosen)

    generation.left_padded(HEADS, 0, 5, "cpu", work)
    assert tried == [5, 2, 2, 2, 1]
    assert done == sorted(range(len(HEADS)), key=lambda i: -len(HEADS[i]))
    with pytest.raises(torch.OutOfMemoryError):
        generation.left_padded(HEADS, 0, 5, "cpu", lambda *_: exec("raise torch.OutOfMemoryError", {"torch": torch}))


def test_a_batch_holds_no_prompt_shorter_than_a_share_of_its_longest():
    heads = [[7] * length for length in (100, 76, 74, 56, 50, 10)]
    shapes, done = [], []

    def work(chosen, ids, mask):
        shapes.append(tuple(ids.shape))
        done.extend(chosen)

    generation.left_padded(heads, 0, 2, "cpu", work, least=0.75)
    assert shapes == [(2, 100), (2, 74), (1, 50), (1, 10)]
    assert done == [0, 1, 2, 3, 4, 5]


def test_the_batch_is_what_the_free_memory_holds(loaded, monkeypatch):
    assert 2**20 < generation.free_memory() < 2**50
    network = loaded[0]
    row = generation.row_bytes(network, 100)
    assert 2 * row < generation.row_bytes(network, 300)
    for memory, batch in ((0, 1), (6 * row, 4), (10**15, generation.MOST_AT_ONCE["cpu"])):
        monkeypatch.setattr(generation, "free_memory", lambda memory=memory: memory)
        assert generation.default_batch(network, 100) == batch


def test_loss_does_not_depend_on_the_batches(loaded, monkeypatch):
    texts = ["혈압이 높다.", "맥박이 빠르다. " * 9, "끝"]
    together = generation.bits_per_character(*loaded, texts, 64)
    monkeypatch.setattr(generation, "TOKENS_A_PASS", 1)
    assert generation.bits_per_character(*loaded, texts, 64) == pytest.approx(together, rel=1e-5)


def test_bits_per_character_is_the_mean_over_characters(loaded):
    network, tokenizer = loaded
    text = "혈압이 높으면 머리가 아프다."
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = network(input_ids=ids).logits.double().log_softmax(-1)
    nats = -sum(logits[0, i, ids[0, i + 1]].item() for i in range(ids.shape[1] - 1))
    assert generation.bits_per_character(network, tokenizer, [text], 64) == pytest.approx(nats / math.log(2) / len(text), rel=1e-4)


def test_the_loss_of_each_row_is_what_it_is_by_itself(loaded, monkeypatch):
    network, tokenizer = loaded
    rows = [
        prompts.conversation_ids(tokenizer, f"Meaning of word {term}:", answer)
        for term, answer in (("열", "체온이 오른 것"), ("맥박", "심장이 뛰는 것" * 5))
    ]
    together = generation.row_losses(network, tokenizer, rows)
    assert together == pytest.approx([generation.total_loss(network, tokenizer, [row]) for row in rows], rel=1e-4)
    assert together == pytest.approx(generation.row_losses(network, tokenizer, rows[::-1])[::-1], rel=1e-5)
    assert sum(together) == pytest.approx(generation.total_loss(network, tokenizer, rows), rel=1e-4)
    assert generation.row_losses(network, tokenizer, []) == []


def test_a_long_text_is_measured_in_windows_that_lose_no_token(loaded, monkeypatch):
    seen = []
    monkeypatch.setattr(generation, "total_loss", lambda model, tokenizer, rows: seen.extend(rows) or 1.0)
    text = "맥박이 빠르다. " * 20
    generation.bits_per_character(*loaded, [text], 16)
    tokenizer = loaded[1]
    assert [i for ids, _ in seen for i in ids[1:]] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(ids[0] == tokenizer.bos_token_id and len(ids) <= 16 for ids, _ in seen)


def test_answer_bits_counts_answers_alone_and_what_is_not_there_is_not_measured(loaded):
    """None, not 0.0000 bits: the best figure there is."""
    one = generation.answer_bits(*loaded, [("가", "혈압")], 64)
    other = generation.answer_bits(*loaded, [("나는 다른 물음", "혈압")], 64)
    assert 0 < one != other
    # an answer's bits are those of its tokens and <end_of_turn>, not of the prompt: twice as many prompts, the same mean
    assert generation.answer_bits(*loaded, [("가", "혈압"), ("가", "혈압")], 64) == pytest.approx(one, rel=1e-5)
    assert generation.answer_bits(*loaded, [("가", "혈압")], 3) is None
    assert generation.answer_bits(*loaded, [], 64) is None
    assert generation.bits_per_character(*loaded, [], 64) is None
    assert generation.bits_per_character(*loaded, [""], 64) is None


def test_summary_adds_up():
    predictions = [
        {"subject": "doctor", "answer": "A", "right": True},
        {"subject": "doctor", "answer": None, "right": False},
        {"subject": "nurse", "answer": "C", "right": False},
    ]
    summary = scoring.summarise(predictions)
    assert (summary["n"], summary["right"], summary["accuracy"], summary["macro"], summary["unreadable"]) == (3, 1, 33.33, 25.0, 1)
    assert summary["letters"] == {"A": 1, "B": 0, "C": 1, "D": 0, "E": 0}
    assert summary["by_subject"]["doctor"]["accuracy"] == 50.0
    assert summary["by_subject"]["nurse"]["right"] == 0


def test_an_answer_is_right_only_where_it_reads_as_the_letter(loaded, monkeypatch):
    question = {"question": "옳은 것은?", **{letter: f"보기 {letter}" for letter in "ABCDE"}, "answer": "B", "subject": "nurse"}
    monkeypatch.setattr(scoring, "generate", lambda *a, **k: ["B<end_of_turn>", "Because", "정답은 C입니다"])
    answers = scoring.answer_exam(*loaded, [question] * 3, max_new_tokens=2, batch=3)
    assert [a["right"] for a in answers] == [True, False, False]
    assert [a["answer"] for a in answers] == ["B", None, "C"]
