"""The embedded base has MedGemma's shape, and says what it is; what a CPU computes in, and tokenizers read once."""

import dataclasses
import json
import shutil
from pathlib import Path

import click
import pytest
import torch
from conftest import QUESTION, weights

from kmlite import files, prompts
from kmlite.evaluation import generation, scoring
from kmlite.models import folders, loading, tiny
from kmlite.training import examples, loss, trainer
from recipes import stage2


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


# ---- loading

TEXTS = ["환자의 혈압이 높고 맥박이 빠르다.", "비타민 C가 부족하면 괴혈병이 생긴다. 잇몸에서 피가 난다."]
PAIRS = [(prompts.dictionary_prompt("괴혈병"), "비타민 C가 부족하여 생기는 병"), (prompts.dictionary_prompt("맥박"), "심장이 뛰는 횟수")]


def trained(base, folder) -> dict:
    """Losses before, during and after three steps, the letter's probabilities, and the dtypes."""
    model, tokenizer = loading.load(base, "16bit", 128)
    before = generation.bits_per_character(model, tokenizer, TEXTS, 128)
    adapted = loading.add_lora(model, r=8, alpha=3, dropout=0, seed=0)
    apart = examples.keeps_texts_apart(adapted, tokenizer)
    rows = examples.conversation_rows(tokenizer, PAIRS, 128)[0]
    settings = dataclasses.replace(stage2.Settings(), batch=2, accumulation=1, max_steps=3, epochs=3, learning_rate=1e-3, eval_every=1)
    settings = dataclasses.replace(settings, save_every=100)
    result = trainer.train(adapted, tokenizer, rows, folder, settings, trainer.Task(eval_rows=rows, order="sequential"))
    after = generation.bits_per_character(adapted, tokenizer, TEXTS, 128)
    five = scoring.answer_exam(adapted, tokenizer, [QUESTION], scorer="letter", batch=1)[0]["probabilities"]
    curve = [entry.get("loss") or entry["eval_loss"] for entry in result["curve"]]
    trainable = {weight.dtype for weight in adapted.parameters() if weight.requires_grad}
    return {"losses": [before, *curve, after], "five": five, "compute": result["compute"], "trainable": trainable, "apart": apart}


def test_bfloat16_is_taken_where_it_is_faster_and_loses_nothing(base, tmp_path, monkeypatch):
    whole = trained(base, tmp_path / "float32")
    assert whole["compute"] == "float32"
    for name, value in {"LARGE": 0, "cpu_bf16_gain": lambda: 3.0}.items():
        monkeypatch.setattr(loading, name, value)
    monkeypatch.setattr(loss, "MANY", 0)  # and the loss in tiles
    half = trained(base, tmp_path / "bfloat16")
    assert half["compute"] == "bfloat16"
    assert half["trainable"] == whole["trainable"] == {torch.float32}
    assert half["losses"] == pytest.approx(whole["losses"], rel=0.01)
    assert half["losses"] != whole["losses"]
    assert half["five"] == pytest.approx(whole["five"], abs=0.02)
    assert half["apart"] == whole["apart"]


@pytest.mark.parametrize(
    ("gain", "size", "precision", "taken"),
    [(3, 0, "16bit", True), (0.9, 0, "16bit", False), (3, 1 << 40, "16bit", False), (3, 0, "4bit", False)],
)
def test_bfloat16_takes_a_gain_a_large_model_and_whole_weights(base, monkeypatch, gain, size, precision, taken):
    monkeypatch.setattr(loading, "cpu_bf16_gain", lambda: gain)
    monkeypatch.setattr(loading, "LARGE", size)
    assert (loading.cpu_dtype(base, precision) == torch.bfloat16) == taken


def test_a_tokenizer_is_read_once_until_its_files_change(base, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        shutil.copytree(base, folder)
    first = loading.load_tokenizer(one)
    assert loading.load_tokenizer(other) is first
    assert loading.load(other, "16bit", 64)[1] is first
    path = one / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    assert loading.load_tokenizer(one) is not first


@pytest.mark.parametrize(("name", "values"), [("config.json", {"dtype": "x"}), ("tokenizer_config.json", {"extra_special_tokens": 5})])
def test_what_transformers_refuses_in_a_foreign_folder_is_a_sentence(base, tmp_path, name, values):
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    files.write_json(folder / name, files.read_json(folder / name) | values)
    folders.check(folder)
    with pytest.raises(click.ClickException, match=rf"{name} can't be used: "):
        loading.load(folder, "16bit", 64)
