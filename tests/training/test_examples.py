"""Packed text: full rows, no token lost, texts that do not see each other. Questions: options in a new order, sources in their mix."""

import json
import random

import pytest
import torch
from click.testing import CliRunner
from conftest import QUESTION

from kmlite import files, paths, prompts
from kmlite.models import loading
from kmlite.training import examples, self_training
from recipes import refine

TEXTS = ["혈압은 높다.", "맥박이 빠르다. " * 30, "", "끝."]


def test_rows_are_full_lose_no_token_and_each_text_begins_with_bos_and_ends_with_eos(tokenizer):
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = list(examples.packed(tokenizer, TEXTS, 16))
    assert all(len(row) == 16 and row[0] == bos for row in rows)
    stream = [i for text in TEXTS for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], eos]]
    found = [i for row in rows for i in row if i != bos]
    assert found == stream[: len(found)]
    assert len(stream) - len(found) < 16
    row = next(examples.packed(tokenizer, ["가", "나", "다 라 마 바 사 아 자 차"], 12))
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("가", "나"))
    assert row[: len(first) + len(second) + 5] == [bos, *first, eos, bos, *second, eos, bos]


def test_positions_begin_anew_with_each_text():
    assert examples.positions([2, 5, 6, 1, 2, 7, 1], bos=2) == [0, 1, 2, 3, 0, 1, 2]
    assert examples.positions([5, 6, 2, 7], bos=2) == [0, 1, 0, 1]


@pytest.mark.parametrize("apart", [True, False])
def test_a_batch_of_packed_rows(tokenizer, apart):
    rows = [{"input_ids": [2, 5, 1, 2, 7]}, {"input_ids": [2, 8, 9, 1, 2]}]
    batch = examples.collate(rows, tokenizer, multiple=8, apart=apart)
    assert batch["input_ids"].tolist() == [row["input_ids"] for row in rows]  # no padding, whatever the multiple
    assert batch["labels"].tolist() == [[-100, 5, 1, -100, 7], [-100, 8, 9, 1, -100]]  # no text leads to the next one's <bos>
    if apart:
        assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
        assert "attention_mask" not in batch
    else:
        assert batch["attention_mask"].tolist() == [[1] * 5] * 2


def test_attention_stays_inside_a_text(base, text_base):
    """A text's loss in a packed row is its loss alone."""
    for folder in (base, text_base):
        network, tokenizer = loading.load(folder, "16bit", 64)
        assert examples.keeps_texts_apart(network, tokenizer)
        network.eval()
        texts = ["하늘이 맑다", "환자의 혈압이 높다"]
        alone = [[2, *tokenizer(text, add_special_tokens=False)["input_ids"], 1] for text in texts]
        batch = examples.collate([{"input_ids": alone[0] + alone[1]}], tokenizer, multiple=1, apart=True)
        with torch.no_grad():
            together = network(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).logits[0, len(alone[0]) :]
            single = network(input_ids=torch.tensor([alone[1]]), use_cache=False).logits[0]
        assert torch.allclose(together, single, atol=1e-4)


def test_a_backend_that_lets_texts_see_each_other_is_noticed(base):
    network, tokenizer = loading.load(base, "16bit", 64)
    original = network.forward

    def forward(position_ids=None, **kwargs):
        return original(**kwargs)  # drops what keeps texts apart

    network.forward = forward
    assert not examples.keeps_texts_apart(network, tokenizer)


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train.jsonl"
    files.write_lines(path, [{"text": text} for text in TEXTS])
    return path


def test_the_cache_is_used_again_and_knows_its_data(shard, tokenizer, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    rows = examples.tokenised([shard], tokenizer, 16, cache)
    assert rows[:]["input_ids"] == list(examples.packed(tokenizer, TEXTS, 16))
    with monkeypatch.context() as patch:
        patch.setattr(examples, "packed", lambda *args: pytest.fail("tokenised again"))
        assert examples.tokenised([shard], tokenizer, 16, cache)[:] == rows[:]
    files.write_lines(shard, [{"text": text} for text in [*TEXTS, "새 글이다. " * 9]])
    assert len(examples.tokenised([shard], tokenizer, 16, cache)) > len(rows)
    assert len(examples.tokenised([shard], tokenizer, 8, cache)) > len(rows)
    assert len(list(cache.iterdir())) == 1  # the older ones are dropped


@pytest.mark.parametrize(("share", "n"), [(0.05, 5), (0.5, 100), (0.75, 300)])
def test_replay_is_the_share_it_says(share, n):
    from datasets import Dataset

    data, replay = (Dataset.from_dict({"input_ids": [[kind, i] for i in range(size)]}) for kind, size in ((0, 100), (1, 40)))
    mixed = examples.with_replay(data, replay, share, seed=1)[:]["input_ids"]
    assert [row for row in mixed if row[0] == 0] == [[0, i] for i in range(100)]
    replayed = [row[1] for row in mixed if row[0] == 1]
    assert len(replayed) == n
    assert len(set(replayed)) == min(n, 40)  # repeated only where there are too few
    assert mixed == examples.with_replay(data, replay, share, seed=1)[:]["input_ids"]


def test_documents_end_in_eos_and_turns_at_both_whatever_the_tokenizer_calls_its_end(base):
    """gemma-3-*-it's tokenizers name <end_of_turn> as eos_token."""
    from transformers import AutoTokenizer

    named = AutoTokenizer.from_pretrained(base, eos_token="<end_of_turn>")
    assert named.eos_token_id == 106
    assert next(examples.packed(named, ["혈압"] * 20, 40)).count(1) > 1
    assert sorted(prompts.stop_ids(named)) == sorted(prompts.stop_ids(AutoTokenizer.from_pretrained(base))) == [1, 106]


# ---- options in a new order: the right one stays right, letters in a reasoning follow, questions that name places stay

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


# ---- the mix of sources, and reasonings that are worth learning from

OPTIONS = {"A": "아스피린", "B": "헤파린", "C": "와파린", "D": "디곡신", "E": "인슐린"}
REASON = "이 환자는 심방세동이 있어 뇌졸중의 위험이 높고, 오래 먹는 항응고제가 필요하다. 인공판막이 있으므로 새로운 항응고제는 쓸 수 없다."


def questions(native, translated, plain=0):
    kinds = ["native"] * native + ["translated"] * translated + [None] * plain
    return [{"question": f"{i}", "source": f"{kind}-set"} | ({"origin": kind} if kind else {}) for i, kind in enumerate(kinds)]


def counts(mix):
    return [sum(q.get("origin", "native") == kind for q in mix) for kind in ("native", "translated")]


@pytest.mark.parametrize(
    ("have", "shares", "expected"),
    [
        ((300, 50), "3:1", [150, 50]),
        ((30, 50), "3:1", [30, 10]),
        ((30, 50), "1:1", [30, 30]),
        ((30, 50), "1:0", [30, 0]),
        ((0, 50, 60), "3:1", [60, 20]),
    ],
)
def test_the_mix_has_the_shares_asked_for_and_as_many_as_there_are(have, shares, expected):
    all_of = questions(*have)
    mix = examples.mixed(all_of, "native:translated", shares, seed=3)
    assert counts(mix) == expected
    assert mix == sorted(mix, key=lambda q: int(q["question"]))
    assert mix == examples.mixed(all_of, "native:translated", shares, seed=3)
    if len(have) == 2:  # a source may be named itself
        assert mix == examples.mixed(all_of, "native-set:translated-set", shares, seed=3)
    assert sum(expected) in (80, 40, 30) or mix != examples.mixed(all_of, "native:translated", shares, seed=4)


@pytest.mark.parametrize(
    ("sources", "shares"), [("native:translated", "3"), ("native", "0"), ("native:other", "1:1"), ("native:translated", "1:-1")]
)
def test_a_mix_that_cannot_be_made_is_refused(sources, shares):
    with pytest.raises(ValueError):
        examples.mixed(questions(5, 5), sources, shares, 0)


@pytest.mark.parametrize(
    ("cot", "why"),
    [
        (f"{REASON} 따라서, 정답은 (C) 입니다.", ""),
        (REASON, ""),
        ("", "no reasoning"),
        ("차근차근 생각해봅시다. 따라서, 정답은 (C) 입니다.", "no reasoning"),
        (f"{REASON} 따라서, 정답은 (B) 입니다.", "wrong letter"),
        ("The patient has atrial fibrillation with a mechanical valve, so a vitamin K antagonist is needed for life.", "not Korean"),
        (f"정답은 헤파린이다. {REASON}", "names another answer"),
        (f"정답은 B입니다. {REASON} 그러므로 와파린이 맞다.", "names another answer"),
    ],
)
def test_a_reasoning_must_be_korean_reach_the_right_letter_and_name_no_other_option(cot, why):
    assert self_training.why_unverified({"question": "약물은?", **OPTIONS, "answer": "C", "cot": cot}) == why


def test_refine_gives_a_question_the_reasoning_that_another_set_has_of_it(tmp_path):
    question = {"question": "인공판막 환자의 심방세동에 쓰는 약물은?", **OPTIONS, "answer": 3, "year": 2019}
    for name, rows in (
        ("train.jsonl", [question]),
        ("reasoning/train.jsonl", [question | {"cot": f"{REASON} 정답은 (B) 입니다."}, question | {"cot": f"{REASON} 정답은 (C) 입니다."}]),
    ):
        path = tmp_path / "raw" / paths.RAW_EXAM / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner().invoke(refine.command, ["--raw", str(tmp_path / "raw"), "--refined", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    [kept] = files.read_lines(paths.exam_split(tmp_path / "out", "train"))
    assert (kept["year"], kept["cot"]) == (2019, f"{REASON} 정답은 (C) 입니다.")
    assert self_training.why_unverified(kept) == ""
