"""What a CPU computes in, and tokenizers read once."""

import dataclasses
import shutil
from pathlib import Path

import click
import pytest
import torch

from kmlite import files, prompts
from kmlite.evaluation import generation, scoring
from kmlite.models import folders, loading
from kmlite.training import examples, loss, trainer
from recipes import stage2

TEXTS = ["환자의 혈압이 높고 맥박이 빠르다.", "비타민 C가 부족하면 괴혈병이 생긴다. 잇몸에서 피가 난다."]
PAIRS = [(prompts.dictionary_prompt("괴혈병"), "비타민 C가 부족하여 생기는 병"), (prompts.dictionary_prompt("맥박"), "심장이 뛰는 횟수")]
QUESTION = {"question": "비타민 C가 부족하면?", "A": "괴혈병", "B": "각기병", "C": "구루병", "D": "펠라그라", "E": "야맹증", "answer": "A"}


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
