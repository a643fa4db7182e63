"""What watches a run: full memory, a request to stop, a loss that jumps, a disk without room, a held-out loss that falls no more."""

import dataclasses
import importlib.util
import os
import shutil
import signal
from collections import deque
from types import SimpleNamespace

import click
import pytest
import torch
from conftest import QUESTION, SMALL, run, weights

from kmlite import files, paths, prompts
from kmlite.evaluation import generation
from kmlite.models import loading
from kmlite.training import callbacks, examples, stages, trainer
from recipes import stage1, stage2

SETTINGS = [*SMALL, "--max-steps", "8", "--eval-every", "100", "--entries", "4", "--recalled", "1", "--heldout", "2", "--questions", "0"]


def stage(base, refined, out, *more, status: int = 0) -> str:
    return run(stage1, "--base", base, "--refined", refined, "--out", out, *SETTINGS, "--dropout", "0", *more, status=status)


@pytest.fixture(scope="module")
def few(refined, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    files.write_json(folder / paths.DICTIONARY, files.read_json(refined / paths.DICTIONARY)[:40])
    return folder


@pytest.fixture(scope="module")
def undisturbed(base, few, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    stage(base, few, out)
    return out / paths.STAGES[1].folder


def trained(folder) -> dict:
    return files.read_json(folder / paths.RECORD)["training"][0]


def full_above(rows_at_once: int, from_batch: int = 0):
    def fill(number, rows):
        if len(rows) > rows_at_once and number > from_batch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    return fill


def test_out_of_memory_halves_the_batch_and_goes_on_with_the_same_rows(base, few, undisturbed, tmp_path, at_batch):
    at_batch(full_above(1, from_batch=7))  # the fourth step
    said = stage(base, few, tmp_path)
    assert "out of GPU memory: batch 2 → 1, accumulation 2 → 4, going on from step 3" in said
    found, expected = trained(tmp_path / paths.STAGES[1].folder), trained(undisturbed)
    assert (found["batch"], found["accumulation"], found["out_of_memory"]) == (1, 4, 1)
    assert found["steps"] == expected["steps"]
    for now, then in zip(found["curve"], expected["curve"], strict=True):
        assert now.keys() == then.keys()
        assert now.get("loss", 0) == pytest.approx(then.get("loss", 0), abs=2e-3)  # the same rows in each step, summed in another order


@pytest.mark.parametrize(("batch", "times", "last"), [(2, 1, 1), (16, 3, 2)])
def test_the_batch_is_halved_three_times_at_the_most(base, few, tmp_path, at_batch, batch, times, last):
    at_batch(full_above(0))
    said = stage(base, few, tmp_path, "--batch", str(batch), status=1)
    assert said.count("out of GPU memory: batch") == times
    assert f"out of GPU memory at batch {last}, sequences of 512 tokens" in said
    assert "make doctor" in said


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
    expected = weights(undisturbed / paths.FINAL)
    assert all(weight.equal(expected[name]) for name, weight in weights(tmp_path / paths.STAGES[1].folder / paths.FINAL).items())


def test_a_second_signal_ends_at_once(base, few, tmp_path, at_batch):
    at_batch(lambda count, rows: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)] if count == 6 else None)
    said = stage(base, few, tmp_path, status=1)
    assert "stopped at once; there is no checkpoint yet" in said


def test_no_room_for_a_checkpoint_stops_before_it_is_begun(base, few, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000 if path.name == paths.CHECKPOINTS else 10**12))
    said = stage(base, few, tmp_path, status=1)
    assert "a checkpoint needs 0.0" in said
    assert "run the same command to go on" in said
    assert not list((tmp_path / paths.STAGES[1].folder / paths.CHECKPOINTS).glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("place", "name", "found", "said"),
    [
        (shutil, "disk_usage", SimpleNamespace(free=1000), "this stage writes up to 0.0 GB"),
        (importlib.util, "find_spec", None, "trackio is not installed. Run: .venv/bin/pip install trackio"),
    ],
)
def test_what_is_missing_is_said_before_a_model_is_loaded(base, few, tmp_path, monkeypatch, place, name, found, said):
    monkeypatch.setattr(place, name, lambda _: found)
    printed = stage(base, few, tmp_path, "--report-to", "trackio" if place is importlib.util else "none", status=1)
    assert said in printed
    assert "before" not in printed


def test_padding_and_useful_tokens_are_counted(undisturbed, tokenizer):
    found = trained(undisturbed)
    assert 0 < found["padding"] < 0.5
    assert found["tokens_per_second"] > 0
    rows, _ = examples.conversation_rows(tokenizer, [("가", "나다라"), ("가나다", "라마바사아자차")], 64)
    meter, batch = callbacks.Meter(1), trainer.collate(rows, tokenizer, 1, False)
    for noted in (rows, [{"input_ids": row["input_ids"]} for row in rows]):  # the second rows only measure
        meter.note(noted, batch)
        assert (meter.useful, meter.tokens) == (int(batch["attention_mask"].sum()), batch["input_ids"].numel())


def test_the_log_is_thinned_to_means():
    history = [{"step": n, "loss": float(n), "learning_rate": 0.1, "epoch": 1} for n in range(1, 8)]
    history.insert(4, {"step": 4, "eval_loss": 9.0})
    expected = [(1, 1.0, None), (3, 2.5, None), (4, None, 9.0), (6, 5.0, None), (7, 7.0, None)]
    assert [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in callbacks.thinned(history, 3)] == expected


@pytest.mark.parametrize(
    ("name", "said"), [("frozen", "1 frozen weights moved: .*'frozen'"), ("trained", "1 trainable weights did not move")]
)
def test_what_trains_must_move_and_nothing_else(name, said):
    model = torch.nn.ParameterDict({"trained": torch.zeros(100_000), "frozen": torch.nn.Parameter(torch.zeros(3), requires_grad=False)})
    before = callbacks.samples(model)
    model["trained"].data += 1
    callbacks.check_movement(model, before)
    model[name].data += 1 if name == "frozen" else -1
    with pytest.raises(AssertionError, match=said):
        callbacks.check_movement(model, before)


# ---- the rate of plain LoRA that a stage's own comes to


@pytest.mark.parametrize(("rate", "rank", "alpha", "same"), [(2e-5, 64, 128, 3.2e-4), (1e-5, 64, 128, 1.6e-4), (1e-4, 4, 4, 2e-4)])
def test_steps_are_as_large_as_plain_lora_at_the_equivalent_rate(rate, rank, alpha, same):
    assert stages.equivalent_rate(rate, rank, alpha) == pytest.approx(same)

    def change(rate, scale):
        """Of a weight, after Adam's first step on B (which starts at zero)."""
        torch.manual_seed(0)
        a, b = torch.randn(rank, 5), torch.zeros(5, rank, requires_grad=True)
        ((scale * b @ a) * torch.randn(5, 5)).sum().backward()
        torch.optim.Adam([b], lr=rate).step()
        return (scale * b @ a).detach()

    rank_stabilised, plain = alpha / rank**0.5, 1.0
    assert torch.allclose(change(rate, rank_stabilised), change(same, plain), rtol=1e-3)


# ---- checkpoints


@pytest.mark.parametrize("name", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_a_damaged_newest_checkpoint_is_passed_over(make_checkpoint, tmp_path, name, damage):
    """Without its optimizer, schedule or random state a run would go on to other weights and say nothing."""
    older, newest = (make_checkpoint(tmp_path / f"checkpoint-{step}", {"global_step": step}) for step in (90, 100))
    (tmp_path / "checkpoint-old").mkdir()  # a user's own
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

USUAL = [2.0 + step % 3 / 10 for step in range(30)]  # their median is 2.1: three times that and three more are 9.3


@pytest.mark.parametrize(
    ("logged", "last", "name", "said"),
    [
        ([*USUAL, 8.9], 9.6, "loss", r"jumped to 9.60 at step 32; 2.10 was usual"),
        ([0.1] * (callbacks.JUMP_LEAST - 1), 50.0, "loss", None),  # nothing is usual yet
        ([], float("nan"), "eval_loss", "the loss is nan"),
        ([], float("nan"), "loss", "(?s)that is not the learning rate((?!--learning-rate).)*$"),
        ([2.0], float("inf"), "loss", "(?s)the loss is inf.*--learning-rate"),
        (USUAL, float("-inf"), "loss", "the loss is -inf"),
    ],
)
def test_a_loss_that_jumps_or_is_no_number_stops_and_names_its_records(tokenizer, tmp_path, logged, last, name, said):
    meter = callbacks.Meter(1)
    meter.note([{"record": 17, "input_ids": tokenizer("혈압이 높다")["input_ids"]}], {"input_ids": torch.zeros(1, 3)})
    found, at = deque(), [0]

    def log(loss: float, name: str = "loss") -> None:
        at[0] += name == "loss"
        callbacks.check_loss({name: loss}, found, at[0], tmp_path, lambda: meter.suspects(tokenizer))

    for loss in logged:
        log(loss)
    if not said:
        return log(last, name)
    with pytest.raises(click.ClickException, match=said):
        log(last, name)
    assert files.read_json(tmp_path / "suspects.json")["records"] == [{"record": 17, "text": "<bos>혈압이 높다"}]
    if "jumped" in said:  # the second time at the same step it goes on
        at[0] -= 1
        log(last)
        log(2.1)


# ---- early stop: the weights of the lowest loss are handed over; killed, it goes on to the same


def rows_of(tokenizer, letter: str) -> list[dict]:
    """Sixteen times the question, of whose answer the letter alone counts."""
    rows = examples.conversation_rows(tokenizer, [(prompts.exam_prompt(QUESTION), letter)] * 16, 512)[0]
    [token] = tokenizer(letter, add_special_tokens=False)["input_ids"]
    return [{**row, "labels": [label if label == token else prompts.IGNORED for label in row["labels"]]} for row in rows]


def taught(base, folder, patience: int):
    """(what training found, the held-out loss of the model that it leaves): it teaches A, and is measured on B."""
    model, tokenizer = loading.load(base, "16bit", 512)
    adapted = loading.add_lora(model, r=8, alpha=8, dropout=0, seed=0)
    how = {"batch": 2, "accumulation": 1, "learning_rate": 0.01, "warmup": 0, "epochs": 1, "eval_every": 1, "log_every": 1}
    settings, held_out = dataclasses.replace(stage2.Settings(), **how), rows_of(tokenizer, "B")
    task = trainer.Task(eval_rows=held_out, patience=patience, order="sequential")
    found = trainer.train(adapted, tokenizer, rows_of(tokenizer, "A"), folder, settings, task)
    pairs = [(row["input_ids"], row["labels"]) for row in held_out]
    return found, generation.total_loss(adapted, tokenizer, pairs)


@pytest.fixture(scope="module")
def stopped(base, tmp_path_factory):
    return taught(base, tmp_path_factory.mktemp("stopped"), patience=2)


def held_out(found: dict) -> list[float]:
    return [entry["eval_loss"] for entry in found["curve"] if "eval_loss" in entry]


def test_it_stops_and_keeps_the_weights_of_the_lowest_loss(base, tmp_path, stopped):
    whole = taught(base, tmp_path, patience=0)
    losses = held_out(whole[0])
    assert (len(losses), whole[0]["steps"], whole[0]["kept_step"]) == (8, 8, 8)
    assert whole[1] / 16 == pytest.approx(losses[-1], rel=1e-4)
    last = next(step for step in range(3, 8) if min(losses[:step]) == losses[step - 3])  # two in a row were no lower
    assert (stopped[0]["steps"], stopped[0]["kept_step"]) == (last, last - 2)
    assert held_out(stopped[0]) == pytest.approx(losses[:last], rel=1e-6)
    assert stopped[1] / 16 == pytest.approx(min(losses[:last]), rel=1e-4)


@pytest.mark.parametrize("batch", [2, 5])
def test_killed_it_goes_on_to_the_same(base, tmp_path, at_batch, stopped, batch):
    at_batch(lambda number, rows: os.kill(os.getpid(), signal.SIGTERM) if number == batch else None)
    with pytest.raises(click.ClickException, match="is saved"):
        taught(base, tmp_path, patience=2)
    found, loss = taught(base, tmp_path, patience=2)
    assert [found[key] for key in ("steps", "kept_step")] == [stopped[0][key] for key in ("steps", "kept_step")]
    assert loss == pytest.approx(stopped[1], rel=1e-6)


@pytest.mark.parametrize(
    ("losses", "patience", "best", "stops"),
    [
        ([], 2, None, False),
        ([3.0], 1, 10, False),
        ([3.0, 2.0], 1, 20, False),
        ([2.0, 3.0], 1, 10, True),
        ([2.0, 2.0], 1, 10, True),
        ([3.0, 2.0, 2.5, 2.4], 3, 20, False),
        ([3.0, 2.0, 2.5, 2.4, 2.1], 3, 20, True),
        ([2.0, 3.0, 4.0], 0, 10, False),
    ],
)
def test_when_it_stops(losses, patience, best, stops):
    history = [{"step": 5, "loss": 9.0}] + [{"step": 10 * (i + 1), "eval_loss": loss} for i, loss in enumerate(losses)]
    assert callbacks.best_step(history) == best
    assert callbacks.stops_early(history, patience) is stops
