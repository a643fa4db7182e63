"""What only a card can show: three steps of each stage in each precision, against the CPU; memory against the plan.

Skipped without CUDA. KMLITE_REHEARSE=1 runs on a CPU what makes sense there, to try the tests themselves; 8-bit is 16-bit there.
"""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SMALL, run, weights

from kmlite import files, paths, prompts, records
from kmlite.evaluation import generation, scoring
from kmlite.models import loading, memory, merging, tiny
from kmlite.training import callbacks, trainer
from recipes import stage0, stage1, stage2

CUDA = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    not CUDA and os.environ.get("KMLITE_REHEARSE") != "1", reason="needs a CUDA card (KMLITE_REHEARSE=1 tries on a CPU what it can)"
)
on_a_card = pytest.mark.skipif(not CUDA, reason="measures a card's memory: nothing to rehearse")
PRECISIONS = ["4bit", "8bit", "16bit"]

SUITE = [*SMALL, "--max-steps", "3", "--heldout", "2", "--entries", "2", "--questions", "2"]
STAGES = {
    0: (stage0, [*SUITE, "--new-tokens", "40", "--length", "64", "--eval-every", "0"]),
    1: (stage1, [*SUITE, "--entries", "4", "--recalled", "1"]),
    2: (stage2, [*SUITE, "--loops", "1", "--target", "100", "--max-new-tokens", "2", "--questions", "4"]),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory, texts, refined) -> Path:
    """MedGemma's class with random weights and sizes that bitsandbytes' kernels take: hidden size 256, two layers."""
    loading.fast_model()
    turns = [(prompts.dictionary_prompt(e["term"]), e["definition"]) for e in records.read_dictionary(refined)[:20]]
    folder = tmp_path_factory.mktemp("small") / "base"
    tiny.build(folder, texts, turns, pieces=1500, hidden=256, layers=2, steps=0)
    return folder


def ran(stage: int, base: Path, refined: Path, out: Path, *more, status: int = 0) -> dict:
    """A stage's run.json."""
    recipe, settings = STAGES[stage]
    said = run(recipe, "--base", base, "--refined", refined, "--out", out, *settings, *more, status=status)
    return files.read_json(out / paths.STAGES[stage].folder / paths.RECORD) if not status else {"said": said}


def losses(record: dict) -> list[float]:
    found = record["training"][0]
    return [entry["loss"] for entry in found["curve"] if "loss" in entry]


# ---- three steps of each stage in each precision


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_three_steps_and_what_they_changed(small, tiny_refined, tmp_path, stage, precision):
    record = ran(stage, small, tiny_refined, tmp_path, "--precision", precision)
    assert record["precision"] == precision
    assert len(losses(record)) == 3
    assert all(3 < loss < 12 for loss in losses(record))  # random weights: about ln of the number of rows, 7.6
    assert record["trainable"]["lora"] == memory.lora_parameters(memory.shape_of(small), 8)
    assert record["trainable"]["embeddings"] == (40 * 256 if stage == 0 else 0)
    assert record["merge_difference"] <= merging.ROUNDING
    if CUDA:
        assert record["memory"]["measured_bytes"] > memory.CONTEXT
    final = tmp_path / paths.STAGES[stage].folder / paths.FINAL
    if stage == 2 and not record["best_loop"]:
        return  # no loop was better on dev: the initial model is handed over
    before, after = weights(small), weights(final)  # merged, written, and read again
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name].shape != after[name].shape or not before[name].equal(after[name])}
    assert {name for name in changed if "_proj." not in name} == {name for name in before if stage == 0 and "embed_tokens" in name}
    assert not [name for name in changed if "vision" in name or "multi_modal" in name]
    assert len(changed) - (stage == 0) == 7 * 2
    if stage == 0:
        name = next(n for n in before if n.endswith("embed_tokens.weight"))
        start = len(files.read_json(small / "tokenizer.json")["model"]["vocab"]) + 1  # behind the image token
        assert after[name][:start].equal(before[name][:start])
        old, new = loading.load_tokenizer(small), loading.load_tokenizer(final)
        for i in range(start, start + 40):
            pieces = old(new.decode([i]), add_special_tokens=False)["input_ids"]
            assert not after[name][i].equal(before[name][pieces].float().mean(0).to(torch.bfloat16))  # no longer where it began


# ---- save and resume


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_that_was_stopped_and_goes_on_ends_where_an_undisturbed_one_does(
    small, tiny_refined, tmp_path, monkeypatch, stage, precision
):
    more = ["--precision", precision, "--max-steps", "6"]
    whole = ran(stage, small, tiny_refined, tmp_path / "whole", *more)
    asked = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Stop, "wanted", lambda self: next(asked) and not setattr(self, "asked", "SIGTERM"))
        assert "after step 3 of 6, which is saved" in ran(stage, small, tiny_refined, tmp_path / "stopped", *more, status=1)["said"]
    stopped = ran(stage, small, tiny_refined, tmp_path / "stopped", *more)
    assert losses(stopped) == pytest.approx(losses(whole), abs=2e-3 if CUDA else 0)  # kernels on a card may add in another order
    found, expected = (weights(tmp_path / name / paths.STAGES[stage].folder / paths.FINAL) for name in ("stopped", "whole"))
    for name, weight in expected.items():
        moved = (weight.float() - found[name].float()).abs().max()
        assert moved <= (0.01 * weight.float().abs().max() if CUDA else 0), name


# ---- the same as on a CPU


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_is_that_of_the_cpu(small, tiny_refined, tmp_path, stage):
    recipe, settings = STAGES[stage]
    more = ["--precision", "16bit", "--dropout", "0"]
    here = ran(stage, small, tiny_refined, tmp_path / "here", *more)
    arguments = ["--base", small, "--refined", tiny_refined, "--out", tmp_path / "cpu", *settings, *more]
    command = [sys.executable, "-m", recipe.__name__, *(str(a) for a in arguments)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "UNSLOTH_FORCE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=paths.ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    there = files.read_json(tmp_path / "cpu" / paths.STAGES[stage].folder / paths.RECORD)
    # the first step trains nothing yet: bfloat16 against float32 alone; then both took the same steps
    assert losses(here) == pytest.approx(losses(there), abs=0.05 if CUDA else 1e-3)


# ---- evaluation


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_padded_batch_answers_as_single_prompts_do(small, tiny_refined, precision):
    loaded, tokenizer = loading.load(small, precision, 512)
    questions = records.read_exam(tiny_refined, "train")[:8]
    asked = [prompts.exam_prompt(question) for question in questions]
    assert len({len(prompt) for prompt in asked}) > 4  # else nothing is padded
    together, alone = (scoring.letter_answers(loaded, tokenizer, asked, batch) for batch in (8, 1))
    exact = not CUDA and precision != "8bit"  # bfloat16 rounds a sum by its order; 8-bit scales a row as a whole
    near = 1e-4 if exact else 0.02
    for a, b in zip(together, alone, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=near)
    turns = [generation.generate(loaded, tokenizer, asked, max_new_tokens=4, batch=batch) for batch in (8, 1)]
    same = sum(a == b for a, b in zip(*turns, strict=True))
    assert same == 8 if exact else same >= 6  # random weights: a near tie may fall the other way


# ---- memory


@pytest.fixture(scope="module")
def middle(tmp_path_factory, refined) -> Path:
    """Large enough that tensors outweigh what a plan can't know: twelve layers of hidden size 1,024, 65,536 rows."""
    from benchmarks import random_model

    folder = tmp_path_factory.mktemp("middle") / "base"
    random_model.build(folder, "middle", refined)
    return folder


def settings_of(batch: int, **more) -> stage1.Settings:
    small = {"accumulation": 2, "length": 256, "learning_rate": 1e-4, "epochs": 1, "max_steps": 3, "log_every": 1, "rank": 16}
    return dataclasses.replace(stage1.Settings(), batch=batch, save_every=100, **(small | more))


def trained(folder: Path, out: Path, precision: str, embeddings: str, settings: stage1.Settings) -> dict:
    """A few steps on full rows: the result of kmlite.training.train."""
    recompute = loading.recomputes(settings.checkpointing)
    loaded, tokenizer = loading.load(folder, precision, settings.length, recompute)
    new = list(range(60_000, 62_000)) if embeddings == "new" else None
    how = {"r": settings.rank, "alpha": 16, "dropout": 0.05, "seed": 0}
    adapted = loading.add_lora(loaded, **how, recompute=recompute, embeddings=embeddings, new_ids=new)
    chance = torch.Generator().manual_seed(0)
    rows = torch.randint(200, 2000, (64, settings.length), generator=chance).tolist()
    rows = [{"input_ids": row, "labels": row, "record": number} for number, row in enumerate(rows)]
    return trainer.train(adapted, tokenizer, rows, out, settings, trainer.Task(embeddings=embeddings, embedding_learning_rate=2e-4))


@pytest.mark.parametrize("embeddings", ["none", "new", "all"])
@pytest.mark.parametrize("precision", PRECISIONS)
@on_a_card
def test_peak_memory_is_the_planned_one(middle, tmp_path, capsys, precision, embeddings):
    loading.free()
    settings = settings_of(4)
    result = trained(middle, tmp_path, precision, embeddings, settings)
    size = {"precision": precision, "rank": settings.rank, "batch": settings.batch, "length": settings.length}
    size |= {"embeddings": embeddings, "new_rows": 2000 if embeddings == "new" else 0}
    planned = sum(memory.parts(memory.shape_of(middle), **size).values())
    found = result["peak_bytes"] + memory.CONTEXT
    with capsys.disabled():
        print(f"\n{precision}, rows {embeddings}: {planned / memory.GIB:.2f} GiB planned, {found / memory.GIB:.2f} measured")
    assert math.isclose(planned, found, rel_tol=memory.TOLERANCE)


@on_a_card
def test_out_of_memory_halves_the_batch_and_goes_on(middle, tmp_path):
    loading.free()
    least, most = (trained(middle, tmp_path / str(batch), "4bit", "none", settings_of(batch))["peak_bytes"] for batch in (2, 16))
    assert most > 1.2 * least
    loading.free()
    torch.cuda.set_per_process_memory_fraction((least + most) / 2 / torch.cuda.get_device_properties(0).total_memory)
    try:
        result = trained(middle, tmp_path / "tight", "4bit", "none", settings_of(16))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result["out_of_memory"] >= 1
    assert result["batch"] * result["accumulation"] == 32
    assert result["steps"] == 3


def test_the_model_for_the_memory_tests_loads_and_trains(tmp_path, refined):
    """Its small sister, also on a CPU: every weight is found, and the id of the image token is the last."""
    from transformers import AutoModelForImageTextToText

    from benchmarks import random_model

    random_model.build(tmp_path / "base", "tiny", refined)
    plain, said = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    rows = plain.get_input_embeddings().num_embeddings
    assert len(loading.load_tokenizer(tmp_path / "base")) == rows - 63
    assert plain.config.image_token_id == rows - 64
    result = trained(tmp_path / "base", tmp_path / "out", "16bit", "none", settings_of(2, length=64))
    assert result["steps"] == 3
    assert abs(result["curve"][0]["loss"] - math.log(rows)) < 1.5
