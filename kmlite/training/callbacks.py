"""What watches a run: progress, which weights move, losses that jump, a full disk, and a request to stop."""

import contextlib
import math
import signal
import statistics
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

import click

from kmlite import results
from kmlite.cli import console
from kmlite.files import free_bytes, read_json, read_record, write_json
from kmlite.models.loading import for_training, set_trainable
from kmlite.progress import progress
from kmlite.training.settings import TrainingSettings

MEASURED = "measured.json"  # beside the checkpoints
# A step's loss jumps when it is more than three times the median of the 50 steps before it and three nats above that:
# an ordinary hard batch is not, text of another kind or a broken optimizer state is.
JUMP_FACTOR, JUMP_NATS, JUMP_STEPS, JUMP_LEAST = 3.0, 3.0, 50, 20


Measure = Callable[[], list[dict]]  # results as of kmlite/results.py


class Meter:
    """Counts the tokens that go through the model (all `processes` take as many), and remembers which records the last batches held."""

    def __init__(self, batches_a_step: int, processes: int = 1) -> None:
        self.processes = processes
        self.tokens = self.useful = 0
        self.last: deque = deque(maxlen=batches_a_step + 1)  # one more: the loader draws a batch ahead

    def note(self, rows: list[dict], batch: dict) -> None:
        if "record" not in rows[0]:  # rows that only measure
            return
        self.tokens += batch["input_ids"].numel() * self.processes
        self.useful += sum(len(row["input_ids"]) for row in rows) * self.processes
        self.last.append([(row["record"], row["input_ids"]) for row in rows])

    def suspects(self, tokenizer) -> list[dict]:
        """The records of the step, with how each begins."""
        return [{"record": n, "text": tokenizer.decode(ids[:200])} for batch in self.last for n, ids in batch]


def watch(model, tokenizer, folder: Path, settings: TrainingSettings, task, meter: Meter, stop: "Stop", measured: dict):
    """The trainer's one callback: progress, which weights train and move, losses, measures, a request to stop, and room for what is
    saved. It draws no random numbers. `measured`, results by step, is kept in a file so that a run that goes on still has them."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            set_trainable(model, task.embeddings)  # also of a run that goes on
            self.first, self.before, self.started = state.global_step, samples(model), time.time()
            logged = [entry["loss"] for entry in state.log_history if "loss" in entry]
            self.losses, self.last = [], deque(logged[-JUMP_STEPS:], maxlen=JUMP_STEPS)
            self.shown = contextlib.ExitStack()
            self.done = self.shown.enter_context(progress("training", state.max_steps - self.first, "steps"))

        def on_step_end(self, args, state, control, **kwargs):
            step = state.global_step
            self.done(step - self.first)
            if step == self.first + 10:
                check_movement(model, self.before)
                self.before = {}
            if task.every and settings.eval_every and step % settings.eval_every == 0 and step < state.max_steps:
                measured[str(step)] = found = task.every()
                for_training(model, tokenizer)
                write_json(folder / MEASURED, measured)
                told = ", ".join(f"{one['measure'].replace('_', ' ')} {one['data']} {results.in_words(one)}" for one in found)
                console.print(f"  step {step}: {told}")
            if stop.wanted():
                control.should_save = control.should_training_stop = True
            self.on_epoch_end(args, state, control)

        def on_evaluate(self, args, state, control, **kwargs):
            if stops_early(state.log_history, task.patience):
                control.should_training_stop = True

        def on_epoch_end(self, args, state, control, **kwargs):
            if control.should_save:
                check_room(folder, model)

        def on_log(self, args, state, control, logs=None, **kwargs):
            step, logs = state.global_step, logs or {}
            if "eval_loss" in logs:
                self.say(state, f"eval_loss {logs['eval_loss']:.3f}")
            if "loss" in logs:
                self.losses.append(logs["loss"])
                if step % settings.log_every == 0 or step in (1, state.max_steps):
                    self.say(state, f"loss {statistics.fmean(self.losses):.3f}")
                    self.losses = []
            check_loss(logs, self.last, step, folder, lambda: meter.suspects(tokenizer))

        def say(self, state, what: str) -> None:
            seconds = max(time.time() - self.started, 1e-9)
            left = seconds / max(state.global_step - self.first, 1) * (state.max_steps - state.global_step)
            rate = f"{meter.useful / seconds:,.0f} tokens/s"
            console.print(f"  step {state.global_step}/{state.max_steps}  {what}  {rate}  {left:.0f} s left")

        def close(self) -> None:
            if hasattr(self, "shown"):
                self.shown.close()

    return Watch()


def samples(model) -> dict:
    """Some 4,000 numbers of every weight, spread over it."""
    return {name: weight.detach().flatten()[:: (weight.numel() >> 12) or 1].clone() for name, weight in model.named_parameters()}


def check_movement(model, before: dict) -> None:
    """Assert that since `before`, its `samples` of then, every trained weight has moved and no frozen one."""
    moved = {name for name, sample in samples(model).items() if not sample.equal(before[name])}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert not (stuck := sorted(trained - moved)), f"{len(stuck)} trainable weights did not move in ten steps: {stuck[:3]}"
    assert not (strayed := sorted(moved - trained)), f"{len(strayed)} frozen weights moved: {strayed[:3]}"


def check_loss(logs: dict, last: deque, step: int, folder: Path, suspects: Callable[[], list[dict]]) -> None:
    """Stop at a loss that is no number or that jumps, the step's records written down; the second time that it jumps at the same step
    say so and go on. `last`: the losses of the JUMP_STEPS steps before, to which this one is added.

    The learning rate is blamed only where the loss has been a number before.
    """
    loss = logs.get("loss", logs.get("eval_loss"))
    if loss is None:
        return
    usual = statistics.median(last) if len(last) >= JUMP_LEAST else math.inf
    path = folder / "suspects.json"
    wrong = not math.isfinite(loss) or loss > JUMP_FACTOR * usual + JUMP_NATS
    if wrong and math.isfinite(loss) and (read_record(path) or {}).get("step") == step:
        console.print(f"  the loss jumps to {loss:.2f} again at step {step}; going on, as this was seen before")
    elif wrong:
        found, what = suspects(), f"is {loss}"
        write_json(path, {"step": step, "loss": loss if math.isfinite(loss) else what, "records": found})
        if math.isfinite(loss):
            raise click.ClickException(
                f"the loss jumped to {loss:.2f} at step {step}; {usual:.2f} was usual before it.\n"
                f"  The {len(found)} records of that step (and of the batch drawn next) are in {path}: look for broken ones.\n"
                "  Run the same command to go on past it from the last checkpoint, or again with a lower rate: "
                "ARGS='--restart --learning-rate …'."
            )
        if not last:
            raise click.ClickException(
                f"the loss {what} at step {step}, and was no number before: that is not the learning rate.\n"
                f"  The weights of the base hold NaN or infinity, overflow in this precision, or a record of {path} is damaged.\n"
                "  Take the base anew, or try ARGS='--restart --precision 16bit'."
            )
        raise click.ClickException(
            f"the loss {what} at step {step}: the run diverged.\n"
            f"  The {len(found)} records of that step (and of the batch drawn next) are in {path}.\n"
            "  The checkpoints before it are whole. Lower the learning rate and run again with ARGS='--restart --learning-rate …'."
        )
    if "loss" in logs:
        last.append(loss)


def check_room(folder: Path, model) -> None:
    """Raise a click error where the next checkpoint would not fit on the disk."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    need = trained * 12 + (16 << 20)  # float32 weights and two moments, and the small files
    free = free_bytes(folder)
    if free < need:
        raise click.ClickException(
            f"a checkpoint needs {need / 1e9:.2f} GB in {folder}, and {free / 1e9:.2f} GB are free.\n"
            f"  The last one is whole. Free some space and run the same command to go on."
        )


class Stop:
    """SIGINT and SIGTERM ask a run to end after its step and to save; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self.asked = ""
        self.before: dict = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        console.print(f"  {self.asked}: ending after this step, and saving it (Ctrl-C again ends at once)")

    def wanted(self) -> bool:
        """Whether any process was asked to stop: all must end at the same step."""
        import torch

        asked = torch.tensor(float(bool(self.asked)))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            asked = asked.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
            torch.distributed.all_reduce(asked)
        return bool(asked)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; one that was torn or lost a file would go on to other weights, and is passed over."""
    found = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()}
    return next((found[step] for step in sorted(found, reverse=True) if is_whole(found[step])), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint holds all that training goes on from: its weights, its optimizer and schedule, its random state.

    The trainer writes trainer_state.json last, so a kill leaves none; the others may be cut or gone by other hands. torch's files
    are zip archives, whose table stands at their end, and the header of a safetensors file says how long it is.
    """
    from safetensors import SafetensorError, safe_open

    states = [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *checkpoint.glob("rng_state*.pth")]
    try:
        with safe_open(checkpoint / "adapter_model.safetensors", framework="np"):
            whole = read_record(checkpoint / "trainer_state.json", "global_step") is not None
    except (OSError, SafetensorError):
        return False
    return whole and len(states) > 2 and all(zipfile.is_zipfile(path) for path in states)


def trained_to_the_end(checkpoint: Path, patience: int) -> bool:
    state = read_json(checkpoint / "trainer_state.json")
    return state["global_step"] >= state["max_steps"] or stops_early(state["log_history"], patience)


def best_step(history: list[dict]) -> int | None:
    """The step with the lowest loss on held-out rows in the trainer's log, the first of equals; None where it was never measured."""
    measured = [(entry["eval_loss"], entry["step"]) for entry in history if "eval_loss" in entry]
    return min(measured)[1] if measured else None


def stops_early(history: list[dict], patience: int) -> bool:
    """Whether the loss on held-out rows was not lowered by the last `patience` measurements; 0 waits for ever."""
    steps = [entry["step"] for entry in history if "eval_loss" in entry]
    return bool(patience and steps) and len(steps) - steps.index(best_step(history)) > patience


def thinned(history: list[dict], every: int) -> list[dict]:
    """The trainer's log with one loss for each `every` steps, their mean, in place of one a step."""
    out, losses = [], []
    last = max((entry["step"] for entry in history if "loss" in entry), default=0)
    for entry in history:
        if "loss" in entry:
            losses.append(entry["loss"])
            if entry["step"] % every and entry["step"] not in (1, last):
                continue
            entry = {**entry, "loss": round(statistics.fmean(losses), 4)}
            losses = []
        if "loss" in entry or "eval_loss" in entry:  # not the trainer's summary, which a run that goes on at its end has not
            out.append({key: value for key, value in entry.items() if key in ("step", "loss", "eval_loss", "learning_rate")})
    return out
