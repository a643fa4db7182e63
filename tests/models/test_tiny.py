"""The embedded base has MedGemma's shape, and says what it is."""

import json

import pytest
from conftest import weights

from kmlite.models import folders, loading, tiny


def test_class_tie_and_rows(base):
    loaded, tokenizer = loading.load(base, "16bit", 128)
    assert type(loaded).__name__ == "Gemma3ForConditionalGeneration"
    assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
    rows = loaded.get_input_embeddings().num_embeddings
    assert rows > len(tokenizer)
    assert rows % 64 == 0
    assert any("vision_tower" in name for name, _ in loaded.named_parameters())
    assert folders.is_stand_in(base)  # never mistaken for the real thing


def test_special_tokens_have_gemmas_ids(tokenizer):
    ids = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<start_of_turn>": 105, "<end_of_turn>": 106, "\n": 107}
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in ids} == ids


def test_image_token_is_the_last_id_and_outside_the_bpe(base, tokenizer):
    data = json.loads((base / "tokenizer.json").read_text())
    assert tokenizer.image_token_id == len(tokenizer) - 1
    assert "<image_soft_token>" not in data["model"]["vocab"]
    assert json.loads((base / "config.json").read_text())["image_token_index"] == tokenizer.image_token_id


@pytest.mark.parametrize("text", ["혈압이 높다", "  두 칸", "줄\n바꿈\n\n둘", "Hb < 13 g/dL", "뷁쀍 ☃ 漢字", "tab\there"])
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_no_merge_crosses_a_word(tokenizer):
    assert not [token for token in tokenizer.get_vocab() if "▁" in token.lstrip("▁")]


def test_the_same_seed_gives_the_same_bytes_and_the_warm_up_leaves_the_tower_alone(tmp_path, texts):
    for name, steps in (("cold", 0), ("warm", 2), ("again", 2)):
        tiny.build(tmp_path / name, texts[:40], [("가", "나")], pieces=600, hidden=64, layers=1, steps=steps, seed=3)
    for file in ("tokenizer.json", "config.json", "model.safetensors"):
        assert (tmp_path / "warm" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    cold, warm = weights(tmp_path / "cold"), weights(tmp_path / "warm")
    changed = {name for name in cold if not cold[name].equal(warm[name])}
    assert any("self_attn" in name for name in changed)
    assert not [name for name in changed if "vision" in name or "multi_modal" in name]
