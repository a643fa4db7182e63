"""One trainer for the three stages: rows of token ids with labels in, a trained adapter out; resumes by itself."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import click

from kmlite import prompts
from kmlite.cli import console
from kmlite.model import bf16, check_movement, fast_model, for_training, is_embedding, on_gpu, recomputes, set_trainable, weight_sums
from kmlite.packing import positions
from kmlite.runs import read_record, write_json


def conversation_rows(tokenizer, pairs: list[tuple[str, str]], length: int) -> tuple[list[dict], int]:
    """({"input_ids", "labels"} rows of (prompt, answer) pairs, how many were longer than `length` and left out).

    A row that does not fit is left out, not cut: a cut answer would teach to stop in the middle of it.
    """
    rows = []
    for prompt, answer in pairs:
        ids, labels = prompts.conversation_ids(tokenizer, prompt, answer)
        if len(ids) <= length:
            rows.append({"input_ids": ids, "labels": labels})
    return rows, len(pairs) - len(rows)


def collate(rows: list[dict], tokenizer, multiple: int, apart: bool):
    """A batch padded on the right to the longest row; padding is neither seen nor counted in the loss.

    Rows of packed text carry no labels: every token counts but <bos>, which no text leads to. They need no padding, and
    where the backend keeps texts `apart` their positions begin anew with each text.

    Not the library's collator: that pads on the tokenizer's side, which Unsloth flips between training and generation.
    """
    import torch

    if "labels" not in rows[0]:
        ids = torch.tensor([row["input_ids"] for row in rows])
        labels = ids.masked_fill(ids == tokenizer.bos_token_id, prompts.IGNORED)
        if apart:
            at = torch.tensor([positions(row["input_ids"], tokenizer.bos_token_id) for row in rows])
            return {"input_ids": ids, "labels": labels, "position_ids": at}
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    longest = -(-max(len(row["input_ids"]) for row in rows) // multiple) * multiple
    batch: dict[str, list] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        gap = longest - len(row["input_ids"])
        batch["input_ids"].append(row["input_ids"] + [tokenizer.pad_token_id] * gap)
        batch["attention_mask"].append([1] * len(row["input_ids"]) + [0] * gap)
        batch["labels"].append(row["labels"] + [prompts.IGNORED] * gap)
    return {name: torch.tensor(values) for name, values in batch.items()}


def train(
    model,
    tokenizer,
    rows,
    folder: Path,
    settings,
    *,
    save: str = "steps",
    embeddings: str = "none",
    embedding_learning_rate: float | None = None,
    eval_rows: list[dict] | None = None,
    order: str = "random",
    epochs: float | None = None,
    apart: bool = False,
    every: tuple[int, Callable[[], dict]] | None = None,
) -> dict:
    """Train `model` on `rows` (a Dataset or a list) with a recipe's settings; checkpoints go to `folder`.

    Goes on from the last whole checkpoint in `folder`. Asserts which weights train, when it starts and when it goes on,
    and after ten steps that these moved and the frozen ones did not.

    Args:
        save: "steps" or "epoch", when a checkpoint is written.
        embeddings: the mode that `add_lora` was given.
        order: of the rows: "random", "group_by_length" (little padding), or "sequential", as they are given.
        epochs: over the rows; the settings' where not given.
        apart: the backend keeps the texts of a packed row apart.
        every: (steps, measure): call `measure` each so many steps; what it returns is kept with the curve.

    Returns:
        {"steps", "rows", "loss" (mean, nats a token), "seconds", "curve": the trainer's log, "measured": {step: …}}.

    Raises:
        click.ClickException: the loss is not a number any more.
    """
    fast_model()  # before trl: unsloth replaces its trainer
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list(rows) if isinstance(rows, list) else rows
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs if epochs is None else epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,  # below 1 it is a share of all steps
        weight_decay=0.01,
        max_grad_norm=1.0,
        optim="adamw_8bit" if on_gpu() else "adamw_torch",
        bf16=on_gpu() and bf16(),
        fp16=on_gpu() and not bf16(),  # cards before Ampere; Unsloth keeps Gemma from overflowing
        use_cpu=not on_gpu(),
        gradient_checkpointing=recomputes(settings.checkpointing),
        logging_steps=settings.log_every,
        logging_first_step=True,
        save_strategy=save,
        save_steps=settings.save_every if save == "steps" else 500,
        save_total_limit=2,
        eval_strategy="steps" if eval_rows else "no",
        eval_steps=settings.eval_every if eval_rows else None,
        prediction_loss_only=True,
        logging_nan_inf_filter=False,  # else a loss that is no number is logged as the last one that was
        seed=settings.seed,
        data_seed=settings.seed,
        max_length=settings.length,
        packing=False,  # plain text comes packed; a custom collator turns trl's packing off
        padding_free=False,
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are ours, the same on a CPU and a GPU
        remove_unused_columns=False,
        train_sampling_strategy=order,
        dataloader_num_workers=0,
        report_to="none",
        disable_tqdm=True,
    )
    for_training(model, tokenizer)
    multiple = 8 if on_gpu() else 1  # tensor cores want multiples of 8
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=Dataset.from_list(eval_rows) if eval_rows else None,
        processing_class=tokenizer,
        data_collator=lambda batch: collate(batch, tokenizer, multiple, apart),
        optimizers=(optimizer(model, arguments, embedding_learning_rate), None),
    )
    # trl casts what trains on a quantised base to bfloat16; before a checkpoint is read back, or its float32 would be rounded
    set_trainable(model, embeddings)
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    trainer.add_callback(progress_callback(settings.batch * settings.accumulation))
    trainer.add_callback(movement_callback(model, embeddings))
    measured = Measured(folder / "measured.json")
    if every:
        trainer.add_callback(measuring_callback(model, tokenizer, every, measured))
    checkpoint = last_checkpoint(folder)
    if checkpoint:
        console.print(f"  going on from {checkpoint}")
    started = time.time()
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        kept = last_checkpoint(folder)
        where = f"the last checkpoint is {kept.name}" if kept else "there is no checkpoint yet"
        raise click.ClickException(f"stopped by Ctrl-C; {where}. Run the same command to go on from there.") from None
    except Exception as error:
        # torch reads a checkpoint's state as weights alone; code in it is not run but ends here
        if not checkpoint or "Weights only load failed" not in str(error):
            raise
        raise click.ClickException(
            f"{checkpoint} holds something else than weights and numbers, so it is not read. It was damaged, or is not yours.\n"
            f"  Remove that folder to go on from the one before, or add ARGS=--restart to begin anew."
        ) from error
    curve_keys = ("step", "loss", "eval_loss", "learning_rate")
    return {
        "steps": trainer.state.global_step,
        "rows": len(data),
        "loss": round(result.training_loss, 4),
        "seconds": round(time.time() - started, 1),
        "curve": [{k: v for k, v in entry.items() if k in curve_keys} for entry in trainer.state.log_history],
        "measured": measured.points,
    }


def optimizer(model, arguments, embedding_learning_rate: float | None):
    """The trainer's own optimizer with the embedding rows in a group of their own, at their own rate, without decay."""
    from transformers import Trainer

    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    weights = {True: [], False: []}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weights[is_embedding(name)].append(weight)
    groups = [{"params": weights[False], "weight_decay": arguments.weight_decay, "lr": arguments.learning_rate}]
    if weights[True]:
        if on_gpu():
            # 8-bit Adam state is too coarse for embedding rows; bitsandbytes keeps 32 bits only for what it knows as nn.Embedding
            from bitsandbytes.optim import GlobalOptimManager

            for weight in weights[True]:
                GlobalOptimManager.get_instance().override_config(weight, "optim_bits", 32)
        rate = embedding_learning_rate or arguments.learning_rate
        groups.append({"params": weights[True], "weight_decay": 0.0, "lr": rate})
    return kind(groups, **options)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole: the trainer writes trainer_state.json last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return checkpoint
    return None


class Measured:
    """What was measured while training, kept in a file so that a run that goes on still has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points: dict[str, dict] = read_record(path) or {}

    def add(self, step: int, values: dict) -> None:
        self.points[str(step)] = values
        write_json(self.path, self.points)


def measuring_callback(model, tokenizer, every: tuple[int, Callable[[], dict]], measured: Measured):
    """Call the measure each so many steps; it draws no random numbers, so training goes on as without it."""
    from transformers import TrainerCallback

    steps, measure = every

    class Gauge(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % steps == 0 and state.global_step < state.max_steps:
                values = measure()
                for_training(model, tokenizer)
                measured.add(state.global_step, values)
                said = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
                console.print(f"  step {state.global_step}: bits per character {said}")

    return Gauge()


def movement_callback(model, embeddings: str):
    """Assert which weights train at the start (also of a run that goes on), and after ten steps that only these moved."""
    from transformers import TrainerCallback

    class Movement(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            set_trainable(model, embeddings)
            self.first, self.before = state.global_step, weight_sums(model)

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == self.first + 10:
                trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
                check_movement(self.before, weight_sums(model), trained)
                self.before = {}

    return Movement()


def progress_callback(records_a_step: int):
    """One line a log on a file; a bar with rate, loss and remaining time on a terminal. Stops at a loss that is no number."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        bar: Progress | None = None

        def on_train_begin(self, args, state, control, **kwargs):
            self.started, self.first = time.time(), state.global_step
            if console.is_terminal:
                columns = (
                    TextColumn("  {task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TimeRemainingColumn(),
                )
                self.bar = Progress(*columns, console=console, transient=True)
                self.bar.start()
                self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            if self.bar:
                self.bar.update(self.task, completed=state.global_step)

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or not ({"loss", "eval_loss"} & logs.keys()):
                return
            name = "loss" if "loss" in logs else "eval_loss"
            if not math.isfinite(float(logs[name])):
                raise click.ClickException(
                    f"the {name} is {logs[name]} at step {state.global_step}: the run went astray.\n"
                    f"  The checkpoints before it are whole. Lower the learning rate and run again with --restart."
                )
            done = state.global_step - self.first
            pace = (time.time() - self.started) / max(done, 1)
            left = pace * (state.max_steps - state.global_step)
            line = f"step {state.global_step}/{state.max_steps}  {name} {float(logs[name]):.3f}"
            if self.bar:
                self.bar.update(self.task, description=line)
            else:
                console.print(f"  {line}  {records_a_step / pace:.1f} rows/s  {left:.0f} s left")

        def on_train_end(self, args, state, control, **kwargs):
            if self.bar:
                self.bar.stop()

    return Report()
