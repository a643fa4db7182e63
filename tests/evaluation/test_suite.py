"""What a stage is measured by, what counts as worse, and that a worse stage does not pass unnoticed."""

import dataclasses
import random

import pytest
from click.testing import CliRunner

from kmlite import files, paths
from kmlite.evaluation import suite
from kmlite.models import loading, memory
from kmlite.training import stages
from kmlite.training.settings import TrainingSettings
from recipes import stage1


def learn(refined, out, base, *more):
    """Stage 1 in four steps of a minimal model."""
    arguments = ["--refined", refined, "--out", out, "--base", base, "--rank", 4, "--max-steps", 4, "--recalled", 1, *more]
    return CliRunner().invoke(stage1.command, [str(a) for a in arguments])


@pytest.mark.parametrize(("sizes", "there", "bare"), [((3, 4, 5), [3, 4, 16, 5], [0, 0, 16, 0]), ((0, 0, 0), [0, 0, 16, 0], [0, 0, 16, 0])])
def test_the_suite_measures_what_the_refined_data_has(refined, tmp_path, sizes, there, bare):
    texts, entries, questions = sizes
    for folder, wanted in ((refined, there), (tmp_path, bare)):
        assert [len(part) for part in suite.prepare(folder, texts=texts, entries=entries, questions=questions)[:4]] == wanted


@pytest.mark.parametrize("n", [3, 10, 40, 99, 100, 200])
def test_a_sample_is_spread_over_the_subjects_and_the_same_in_any_order_of_the_file(n):
    questions = [{"question": f"{i}번 물음", "subject": "doctor" if i < 60 else "nurse" if i < 90 else "pharm"} for i in range(100)]
    chosen = suite.sample_questions(questions, n)
    assert len(chosen) == min(n, 100)
    shuffled = questions[:]
    random.Random(n).shuffle(shuffled)
    assert suite.sample_questions(shuffled, n) == chosen
    for subject, size in (("doctor", 60), ("nurse", 30), ("pharm", 10)):
        assert abs(sum(q["subject"] == subject for q in chosen) - min(n, 100) * size / 100) <= 1
    if n == 10:
        assert chosen != questions[:10]  # the head of a file is one year of one subject
        larger = suite.sample_questions(questions, 20)
        assert all(q in larger for q in chosen)


def test_measuring_changes_nothing(base, refined, monkeypatch):
    """Twice the same figures; weights and random state as before: a run that is measured is the run that is not."""
    import torch

    network, tokenizer = loading.load(base, "16bit", 64)
    measured_on = suite.prepare(refined, texts=2, entries=2, questions=2)
    state, weights = torch.get_rng_state(), [weight.clone() for weight in network.parameters()]
    first = suite.measure(network, tokenizer, measured_on, 4)
    assert suite.measure(network, tokenizer, measured_on, 4) == first
    assert torch.get_rng_state().equal(state)
    assert all(now.equal(then) for now, then in zip(network.parameters(), weights, strict=True))
    counts = {(one["measure"], one["data"]): one["n"] for one in first}
    bits = {("bits_per_character", "korean"): 2, ("bits_per_character", "english"): 16, ("bits_per_character", "dictionary"): 2}
    assert counts.items() >= (bits | {("accuracy", "dev"): 2, ("unreadable", "dev"): 2}).items()
    monkeypatch.setattr(suite, "LENGTH", 8)
    short = suite.bits(network, tokenizer, measured_on)
    assert [one["data"] for one in short] == ["korean", "english"]  # no definition is that short


def test_a_stage_that_made_it_worse_leaves_with_status_3_until_accepted(refined, base, tmp_path):
    folder = tmp_path / "refined"
    files.write_json(folder / paths.DICTIONARY, files.read_json(refined / paths.DICTIONARY)[:20])
    # a rate at which nothing can be learned
    wrong = ["--learning-rate", 0.5, "--warmup", 0, "--entries", 5, "--batch", 2, "--accumulation", 1]
    first = learn(folder, tmp_path / "out", base, *wrong)
    assert "right definition of five (chance 20%): definitions, held out" not in first.output  # of 20 terms hardly one is held out
    assert first.exit_code == stages.WORSE, first.output
    assert "warning: stage1-worse" in first.output
    assert (tmp_path / "out" / paths.STAGES[1].folder / paths.FINAL / "model.safetensors").exists()  # kept, to be looked at
    again = learn(folder, tmp_path / "out", base, *wrong)
    assert again.exit_code == stages.WORSE  # a second call does not slip past
    assert "nothing changed" in again.output
    assert learn(folder, tmp_path / "out", base, *wrong, "--accept-regression").exit_code == 0


def test_a_loss_that_is_no_number_stops_the_run(base, refined, tmp_path, monkeypatch):
    add_lora = loading.add_lora

    def broken(*args, **kwargs):
        adapted = add_lora(*args, **kwargs)
        next(w for n, w in adapted.named_parameters() if "lora_B" in n).data[0, 0] = float("nan")
        return adapted

    monkeypatch.setattr(loading, "add_lora", broken)
    result = learn(refined, tmp_path, base, "--entries", 2)
    assert result.exit_code == 1
    assert "the loss is nan at step 1" in result.output


def test_auto_precision_follows_the_free_memory_and_the_model_size(monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(loading, "on_gpu", lambda: True)
    four, large = memory.MEDGEMMA, dataclasses.replace(memory.MEDGEMMA, layers=5 * memory.MEDGEMMA.layers)  # 4.3 and 17 billion parameters
    for shape, free, fresh in ((four, 8, "4bit"), (four, 11, "4bit"), (four, 13, "16bit"), (large, 24, "4bit"), (large, 80, "16bit")):
        monkeypatch.setattr(loading, "shape_of", lambda folder, shape=shape: shape)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free * 2**30, 0))
        assert loading.pick_precision("auto", tmp_path) == fresh
        assert loading.pick_precision("8bit", tmp_path) == "8bit"


def test_a_run_that_goes_on_keeps_its_plan(base, tmp_path, monkeypatch):
    import torch

    settings = TrainingSettings(rank=8, batch=2, accumulation=4, length=64, dropout=0.0)
    monkeypatch.setattr(loading, "on_gpu", lambda: True)
    free = [0.6, 80]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free.pop(0) * 2**30, 0))
    first = stages.fit(settings, base, tmp_path / "checkpoints", embeddings="auto", new_rows=10)
    assert stages.fit(settings, base, tmp_path / "checkpoints", embeddings="auto", new_rows=10) == first
    assert (first.precision, first.embeddings, first.fits) == ("4bit", "none", False)  # CUDA's own share is more than that
    assert stages.fit(settings, base, tmp_path / "other", embeddings="auto", new_rows=10).precision == "16bit"
