"""What watches a run: progress, which weights move, losses that jump, a full disk, and a request to stop."""

import json
import math
import shutil
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kmlite import results
from kmlite.cli import console
from kmlite.files import read_json, read_record, write_json
from kmlite.models.loading import check_movement, for_training, set_trainable, weight_sums
from kmlite.training.settings import TrainingSettings

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


def callbacks(
    model,
    tokenizer,
    folder: Path,
    embeddings: str,
    settings: TrainingSettings,
    meter: Meter,
    stop: "Stop",
    every: Measure | None,
    measured: "Measured",
    patience: int,
) -> list:
    """The trainer's callbacks, in the order in which they look at a step. They draw no random numbers."""
    from transformers import TrainerCallback

    class Movement(TrainerCallback):
        """Assert which weights train at the start (also of a run that goes on), and after ten steps that only these moved."""

        def on_train_begin(self, args, state, control, **kwargs):
            set_trainable(model, embeddings)
            self.first, self.before = state.global_step, weight_sums(model)

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == self.first + 10:
                trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
                check_movement(self.before, weight_sums(model), trained)
                self.before = {}

    class Measuring(TrainerCallback):
        """Call the measure each `eval_every` steps."""

        def on_step_end(self, args, state, control, **kwargs):
            if every and state.global_step % settings.eval_every == 0 and state.global_step < state.max_steps:
                found = every()
                for_training(model, tokenizer)
                measured.add(state.global_step, found)
                told = ", ".join(f"{one['measure'].replace('_', ' ')} {one['data']} {results.in_words(one)}" for one in found)
                console.print(f"  step {state.global_step}: {told}")

    class Room(TrainerCallback):
        """Before a checkpoint is written: is there room for it?"""

        def on_step_end(self, args, state, control, **kwargs):
            if control.should_save:
                check_room(folder, model)

        on_epoch_end = on_step_end

    class Stopping(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if stop.wanted():
                control.should_save = control.should_training_stop = True

        def on_evaluate(self, args, state, control, **kwargs):
            if stops_early(state.log_history, patience):
                control.should_training_stop = True

    return [
        progress(settings.log_every, meter),
        losses(folder, tokenizer, meter),
        Movement(),
        *([Measuring()] if every and settings.eval_every else []),
        Stopping(),
        Room(),
    ]


def losses(folder: Path, tokenizer, meter: Meter):
    """A callback that looks at each step's loss."""
    from transformers import TrainerCallback

    class Losses(TrainerCallback):
        """Stop at a loss that is no number or that jumps, and write down what the step was made of."""

        def on_train_begin(self, args, state, control, **kwargs):
            before = [entry["loss"] for entry in state.log_history if "loss" in entry]
            self.last: deque = deque(before[-JUMP_STEPS:], maxlen=JUMP_STEPS)

        def on_log(self, args, state, control, logs=None, **kwargs):
            loss = (logs or {}).get("loss", (logs or {}).get("eval_loss"))
            if loss is None:
                return
            usual = statistics.median(self.last) if len(self.last) >= JUMP_LEAST else math.inf
            if not math.isfinite(loss):
                stop_at_loss(folder, state.global_step, f"is {loss}", meter.suspects(tokenizer), learned=bool(self.last))
            if loss > JUMP_FACTOR * usual + JUMP_NATS:
                stop_at_jump(folder, state.global_step, loss, usual, meter.suspects(tokenizer))
            if "loss" in logs:
                self.last.append(loss)

    return Losses()


def stop_at_loss(folder: Path, step: int, what: str, suspects: list[dict], learned: bool) -> None:
    """Stop, and blame the learning rate only where the loss has been a number before."""
    path = folder / "suspects.json"
    write_json(path, {"step": step, "loss": what, "records": suspects})
    if not learned:
        raise click.ClickException(
            f"the loss {what} at step {step}, and was no number before: that is not the learning rate.\n"
            f"  The weights of the base hold NaN or infinity, overflow in this precision, or a record of {path} is damaged.\n"
            "  Take the base anew, or try ARGS='--restart --precision 16bit'."
        )
    raise click.ClickException(
        f"the loss {what} at step {step}: the run diverged.\n"
        f"  The {len(suspects)} records of that step (and of the batch drawn next) are in {path}.\n"
        f"  The checkpoints before it are whole. Lower the learning rate and run again with ARGS='--restart --learning-rate …'."
    )


def stop_at_jump(folder: Path, step: int, loss: float, usual: float, suspects: list[dict]) -> None:
    """Stop at a loss that jumped; the second time at the same step, say it and go on."""
    path = folder / "suspects.json"
    if (read_record(path) or {}).get("step") == step:
        console.print(f"  the loss jumps to {loss:.2f} again at step {step}; going on, as this was seen before")
        return
    write_json(path, {"step": step, "loss": loss, "usual": usual, "records": suspects})
    raise click.ClickException(
        f"the loss jumped to {loss:.2f} at step {step}; {usual:.2f} was usual before it.\n"
        f"  The {len(suspects)} records of that step (and of the batch drawn next) are in {path}: look for broken ones.\n"
        f"  Run the same command to go on past it from the last checkpoint, or again with a lower rate: ARGS='--restart --learning-rate …'."
    )


def check_room(folder: Path, model) -> None:
    """Raise a click error where the next checkpoint would not fit on the disk."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    need = trained * 12 + (16 << 20)  # float32 weights and two moments, and the small files
    free = shutil.disk_usage(folder).free
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

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.note)
        return self

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

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
            asked = torch.tensor(float(bool(self.asked)), device=device)
            torch.distributed.all_reduce(asked)
            return bool(asked)
        return bool(self.asked)


class Measured:
    """What was measured while training, kept in a file so that a run that goes on still has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points: dict[str, list[dict]] = read_record(path) or {}

    def add(self, step: int, found: list[dict]) -> None:
        self.points[str(step)] = found
        write_json(self.path, self.points)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; one that was torn or lost a file would go on to other weights, and is passed over."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]), reverse=True)
    return next((checkpoint for checkpoint in found if is_whole(checkpoint)), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint holds all that training goes on from: its weights, its optimizer and schedule, its random state.

    The trainer writes trainer_state.json last, so a kill leaves none; the others may be cut or gone by other hands. torch's files
    are zip archives, whose table stands at their end, and the header of a safetensors file says how long it is.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        with open(checkpoint / "adapter_model.safetensors", "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            tensors = [part["data_offsets"][1] for name, part in json.loads(file.read(size)).items() if name != "__metadata__"]
        if (checkpoint / "adapter_model.safetensors").stat().st_size != 8 + size + max(tensors):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    states = [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *checkpoint.glob("rng_state*.pth")]
    return len(states) > 2 and all(ends_as_an_archive(path) for path in states)


def ends_as_an_archive(path: Path) -> bool:
    """Whether the table of a zip archive stands at the end of a file: its last 22 bytes, as torch writes no comment."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 22))
        return file.read(4) == b"PK\x05\x06"


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


def progress(log_every: int, meter: Meter):
    """One line every `log_every` steps on a file; on a terminal a bar with rate, loss and remaining time."""
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        bar: Progress | None = None

        def on_train_begin(self, args, state, control, **kwargs):
            self.started, self.first, self.losses = time.time(), state.global_step, []
            if console.is_terminal:
                text, count = TextColumn("  {task.description}"), MofNCompleteColumn()
                self.bar = Progress(text, BarColumn(), count, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
                self.bar.start()
                self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            if self.bar:
                self.bar.update(self.task, completed=state.global_step)

        def on_log(self, args, state, control, logs=None, **kwargs):
            logs = logs or {}
            if "eval_loss" in logs:
                self.say(state, f"eval_loss {logs['eval_loss']:.3f}")
            if "loss" not in logs:
                return
            self.losses.append(logs["loss"])
            if state.global_step % log_every == 0 or state.global_step in (1, state.max_steps):
                self.say(state, f"loss {sum(self.losses) / len(self.losses):.3f}")
                self.losses = []

        def say(self, state, what: str) -> None:
            seconds = max(time.time() - self.started, 1e-9)
            left = seconds / max(state.global_step - self.first, 1) * (state.max_steps - state.global_step)
            line = f"step {state.global_step}/{state.max_steps}  {what}  {meter.useful / seconds:,.0f} tokens/s"
            if self.bar:
                self.bar.update(self.task, description=line)
            else:
                console.print(f"  {line}  {left:.0f} s left")

        def close(self) -> None:
            if self.bar:
                self.bar.stop()

    return Report()


def thinned(history: list[dict], every: int) -> list[dict]:
    """The trainer's log with one loss for each `every` steps, their mean, in place of one a step."""
    keys = ("step", "loss", "eval_loss", "learning_rate")
    out, losses = [], []
    last = max((entry["step"] for entry in history if "loss" in entry), default=0)
    for entry in history:
        if "loss" not in entry and "eval_loss" not in entry:  # the trainer's summary, which a run that goes on at its end has not
            continue
        if "loss" in entry:
            losses.append(entry["loss"])
            if entry["step"] % every and entry["step"] not in (1, last):
                continue
            entry = {**entry, "loss": round(sum(losses) / len(losses), 4)}
            losses = []
        out.append({key: value for key, value in entry.items() if key in keys})
    return out
