"""What watches a run: memory that is full, a request to stop, a loss that jumps, a disk without room; and what it counts."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from kmlite import files, paths
from kmlite.training import callbacks, examples, trainer
from kmlite.training.settings import TrainingSettings
from recipes import stage1

SETTINGS = ["--batch", "2", "--accumulation", "2", "--rank", "8", "--alpha", "8", "--learning-rate", "1e-3", "--log-every", "1"]
SETTINGS += ["--max-steps", "8", "--eval-every", "100", "--entries", "4", "--recalled", "1", "--heldout", "2", "--questions", "0"]
SETTINGS += ["--dropout", "0"]


def stage(base, refined, out, *more, status: int = 0) -> str:
    arguments = ["--base", base, "--refined", refined, "--out", out, *SETTINGS, *more]
    result = CliRunner().invoke(stage1.command, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def few(refined, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    files.write_json(folder / paths.DICTIONARY, files.read_json(refined / paths.DICTIONARY)[:40])
    return folder


@pytest.fixture(scope="module")
def undisturbed(base, few, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    stage(base, few, out)
    return out / paths.STAGES[1]


def trained(folder) -> dict:
    return files.read_json(folder / paths.RECORD)["training"][0]


@pytest.fixture
def at_batch(monkeypatch):
    """Call `what(number of the batch, its rows)` before each batch of training."""
    whole, seen = trainer.collate, []

    def install(what):
        def collate(rows, *others):
            if "record" in rows[0]:
                seen.append(len(rows))
                what(len(seen), rows)
            return whole(rows, *others)

        monkeypatch.setattr(trainer, "collate", collate)
        return seen

    return install


def full_above(rows_at_once: int, from_batch: int = 0):
    def fill(number, rows):
        if len(rows) > rows_at_once and number > from_batch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    return fill


def test_out_of_memory_halves_the_batch_and_goes_on_with_the_same_rows(base, few, undisturbed, tmp_path, at_batch):
    at_batch(full_above(1, from_batch=7))  # the fourth step
    said = stage(base, few, tmp_path)
    assert "out of GPU memory: batch 2 → 1, accumulation 2 → 4, going on from step 3" in said
    found, expected = trained(tmp_path / paths.STAGES[1]), trained(undisturbed)
    assert (found["batch"], found["accumulation"], found["out_of_memory"]) == (1, 4, 1)
    assert found["steps"] == expected["steps"]
    for now, then in zip(found["curve"], expected["curve"], strict=True):
        assert now.keys() == then.keys()
        assert now.get("loss", 0) == pytest.approx(then.get("loss", 0), abs=2e-3)  # the same rows in each step, summed in another order


def test_out_of_memory_at_batch_1_is_said_plainly(base, few, tmp_path, at_batch):
    at_batch(full_above(0))
    said = stage(base, few, tmp_path, status=1)
    assert "batch 2 → 1" in said
    assert "out of GPU memory at batch 1, sequences of 512 tokens" in said
    assert "make doctor" in said


def test_the_batch_is_halved_three_times_at_the_most(base, few, tmp_path, at_batch):
    at_batch(full_above(0))
    said = stage(base, few, tmp_path, "--batch", "16", status=1)
    assert said.count("out of GPU memory: batch") == 3
    assert "out of GPU memory at batch 2" in said


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_saves_the_step_and_the_same_command_ends_with_the_same_bytes(base, few, undisturbed, tmp_path, at_batch, number, name):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    seen = at_batch(lambda count, rows: os.kill(os.getpid(), number) if count == 6 else None)
    said = stage(base, few, tmp_path, status=1)
    assert f"stopped by {name} after step 3 of 8, which is saved. Run the same command to go on." in said
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    before = len(seen)
    said = stage(base, few, tmp_path)
    assert "going on from" in said
    assert len(seen) - before <= 11  # five steps of two batches, and one that is drawn ahead
    final = paths.STAGES[1] + "/final/model.safetensors"
    expected = load_file(undisturbed / "final/model.safetensors")
    assert all(weight.equal(expected[name]) for name, weight in load_file(tmp_path / final).items())


def test_a_second_signal_ends_at_once(base, few, tmp_path, at_batch):
    at_batch(lambda count, rows: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)] if count == 6 else None)
    said = stage(base, few, tmp_path, status=1)
    assert "stopped at once; there is no checkpoint yet" in said


def test_no_room_for_a_checkpoint_stops_before_it_is_begun(base, few, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000 if path.name == paths.CHECKPOINTS else 10**12))
    said = stage(base, few, tmp_path, status=1)
    assert "a checkpoint needs 0.0" in said
    assert "run the same command to go on" in said
    assert not list((tmp_path / paths.STAGES[1] / paths.CHECKPOINTS).glob("checkpoint-*"))


def test_a_disk_too_small_for_the_stage_refuses_it_before_it_loads_a_model(base, few, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    said = stage(base, few, tmp_path, status=1)
    assert "this stage writes up to 0.0 GB" in said
    assert "before" not in said


def test_a_tracker_that_is_not_installed_is_said_before_a_model_is_loaded(base, few, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = stage(base, few, tmp_path, "--report-to", "trackio", status=1)
    assert "trackio is not installed. Run: .venv/bin/pip install trackio" in said
    assert "before" not in said


def test_padding_and_useful_tokens_are_counted(undisturbed, base, few):
    from transformers import AutoTokenizer

    found = trained(undisturbed)
    assert 0 < found["padding"] < 0.5
    assert found["tokens_per_second"] > 0
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows, _ = examples.conversation_rows(tokenizer, [("가", "나다라"), ("가나다", "라마바사아자차")], 64)
    meter = callbacks.Meter(1)
    batch = trainer.collate(rows, tokenizer, 1, False)
    meter.note(rows, batch)
    assert meter.useful == int(batch["attention_mask"].sum())
    assert meter.tokens == batch["input_ids"].numel()
    meter.note([{k: v for k, v in row.items() if k != "record"} for row in rows], batch)  # rows that only measure
    assert meter.tokens == batch["input_ids"].numel()


def test_the_log_is_thinned_to_means():
    history = [{"step": n, "loss": float(n), "learning_rate": 0.1, "epoch": 1} for n in range(1, 8)]
    history.insert(4, {"step": 4, "eval_loss": 9.0})
    found = callbacks.thinned(history, 3)
    assert [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in found] == [
        (1, 1.0, None),
        (3, 2.5, None),
        (4, None, 9.0),
        (6, 5.0, None),
        (7, 7.0, None),
    ]


# ---- checkpoints


@pytest.mark.parametrize("name", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_a_damaged_newest_checkpoint_is_passed_over(make_checkpoint, tmp_path, name, damage):
    """Without its optimizer, schedule or random state a run would go on to other weights and say nothing."""
    older, newest = (make_checkpoint(tmp_path / f"checkpoint-{step}", {"global_step": step}) for step in (90, 100))
    assert callbacks.last_checkpoint(tmp_path) == newest
    path = newest / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3] if damage == "cut" else b"")
    if damage == "gone":
        path.unlink()
    assert callbacks.last_checkpoint(tmp_path) == older
    path.write_bytes(whole)
    assert callbacks.last_checkpoint(tmp_path) == newest


# ---- losses


@pytest.fixture
def losses(tokenizer, tmp_path):
    """(a function that logs one loss, the folder it writes to)."""
    meter = callbacks.Meter(1)
    meter.note([{"record": 17, "input_ids": tokenizer("혈압이 높다")["input_ids"]}], {"input_ids": torch.zeros(1, 3)})
    settings = TrainingSettings(log_every=1)
    watching = callbacks.callbacks(None, tokenizer, tmp_path, "none", settings, meter, callbacks.Stop(), None, None, 0)
    found = next(c for c in watching if type(c).__name__ == "Losses")
    state = SimpleNamespace(global_step=0, log_history=[])
    found.on_train_begin(None, state, None)

    def log(loss: float, name: str = "loss") -> None:
        state.global_step += name == "loss"
        found.on_log(None, state, None, logs={name: loss})

    return log, tmp_path


def test_a_loss_that_jumps_stops_and_names_its_records(losses):
    log, folder = losses
    for step in range(30):
        log(2.0 + step % 3 / 10)
    log(8.9)  # three times the median of 2.1 and three more are 9.3
    with pytest.raises(click.ClickException, match=r"jumped to 9.60 at step 32; 2.10 was usual"):
        log(9.6)
    suspects = json.loads((folder / "suspects.json").read_text())
    assert suspects["records"] == [{"record": 17, "text": "<bos>혈압이 높다"}]
    log(2.1)


def test_a_jump_seen_before_is_passed(losses):
    log, folder = losses
    files.write_json(folder / "suspects.json", {"step": 31, "loss": 20.0})
    for _ in range(30):
        log(2.0)
    log(20.0)


def test_no_jump_is_seen_before_there_is_a_usual_loss(losses):
    log, _ = losses
    for _ in range(callbacks.JUMP_LEAST - 1):
        log(0.1)
    log(50.0)


@pytest.mark.parametrize("name", ["loss", "eval_loss"])
def test_a_loss_that_is_no_number_stops(losses, name):
    log, folder = losses
    with pytest.raises(click.ClickException, match="the loss is nan"):
        log(float("nan"), name)
    assert (folder / "suspects.json").exists()


def test_a_loss_that_never_was_a_number_is_not_the_learning_rates_fault(losses):
    log, _ = losses
    with pytest.raises(click.ClickException, match="that is not the learning rate") as at_once:
        log(float("nan"))
    assert "--learning-rate" not in at_once.value.message
    log(2.0)
    with pytest.raises(click.ClickException, match="--learning-rate"):
        log(float("inf"))
