"""A run ends where the loss on held-out rows falls no more, and hands over the weights of its lowest; killed, it goes on to the same."""

import dataclasses
import os
import signal

import click
import pytest

from kmlite import prompts
from kmlite.evaluation import generation
from kmlite.models import loading
from kmlite.training import callbacks, examples, trainer
from recipes import stage2

QUESTION = {"question": "비타민 C가 부족하면?", "A": "괴혈병", "B": "각기병", "C": "구루병", "D": "펠라그라", "E": "야맹증", "answer": "A"}


def rows_of(tokenizer, letter: str) -> list[dict]:
    """Sixteen times the question, of whose answer the letter alone counts."""
    rows = examples.conversation_rows(tokenizer, [(prompts.exam_prompt(QUESTION), letter)] * 16, 512)[0]
    [token] = tokenizer(letter, add_special_tokens=False)["input_ids"]
    return [{**row, "labels": [label if label == token else prompts.IGNORED for label in row["labels"]]} for row in rows]


def run(base, folder, patience: int):
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
    return run(base, tmp_path_factory.mktemp("stopped"), patience=2)


def held_out(found: dict) -> list[float]:
    return [entry["eval_loss"] for entry in found["curve"] if "eval_loss" in entry]


def test_it_stops_and_keeps_the_weights_of_the_lowest_loss(base, tmp_path, stopped):
    whole = run(base, tmp_path, patience=0)
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
        run(base, tmp_path, patience=2)
    found, loss = run(base, tmp_path, patience=2)
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
