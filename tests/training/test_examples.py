"""Packed text: full rows, no token lost, texts that don't see each other, a cache that knows its data."""

import pytest
import torch

from kmlite import files, prompts
from kmlite.models import loading
from kmlite.training import examples

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
