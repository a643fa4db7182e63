"""One trainer for the three stages: rows of token ids with labels in, a trained adapter out; resumes by itself."""

import json
import math
import time
from pathlib import Path

import click

from kmlite import paths, prompts
from kmlite.cli import console
from kmlite.model import fast_model, for_training, is_embedding, on_gpu


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


def collate(rows: list[dict], pad: int, multiple: int):
    """A batch padded on the right to the longest row; padding is neither seen nor counted in the loss.

    Not the library's collator: that pads on the tokenizer's side, which Unsloth flips between training and generation.
    """
    import torch

    longest = -(-max(len(row["input_ids"]) for row in rows) // multiple) * multiple
    batch: dict[str, list] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        ids = list(row["input_ids"])
        gap = longest - len(ids)
        batch["input_ids"].append(ids + [pad] * gap)
        batch["attention_mask"].append([1] * len(ids) + [0] * gap)
        # packed text carries no labels: every token of it counts
        batch["labels"].append(list(row.get("labels", ids)) + [prompts.IGNORED] * gap)
    return {name: torch.tensor(values) for name, values in batch.items()}


def train(
    model,
    tokenizer,
    rows,
    folder: Path,
    settings,
    *,
    save: str = "steps",
    embedding_learning_rate: float | None = None,
    eval_rows: list[dict] | None = None,
    grouped: bool = False,
) -> dict:
    """Train `model` on `rows` (a Dataset or a list) with a recipe's settings; checkpoints go to `folder`.

    Goes on from the last whole checkpoint in `folder`. Returns {"steps", "tokens", "loss" (mean, nats a token),
    "curve": the trainer's log, "seconds"}.

    Raises:
        click.ClickException: the loss is not a number any more.
    """
    fast_model()  # before trl: unsloth replaces its trainer
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list(rows) if isinstance(rows, list) else rows
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
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
        bf16=on_gpu() and torch.cuda.is_bf16_supported(),
        fp16=on_gpu() and not torch.cuda.is_bf16_supported(),  # cards before Ampere; Unsloth keeps Gemma from overflowing
        use_cpu=not on_gpu(),
        gradient_checkpointing=on_gpu(),
        logging_steps=settings.log_every,
        logging_first_step=True,
        save_strategy=save,
        save_steps=settings.save_every if save == "steps" else 500,
        save_total_limit=2,
        eval_strategy="steps" if eval_rows else "no",
        eval_steps=settings.eval_every if eval_rows else None,
        prediction_loss_only=True,
        seed=settings.seed,
        data_seed=settings.seed,
        max_length=settings.length,
        packing=False,  # plain text comes packed; a custom collator turns trl's packing off
        padding_free=False,
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are ours, the same on a CPU and a GPU
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length" if grouped else "random",
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
        data_collator=lambda batch: collate(batch, tokenizer.pad_token_id, multiple),
        optimizers=(optimizer(model, arguments, embedding_learning_rate), None),
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    trainer.add_callback(progress_callback(settings.batch * settings.accumulation))
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
    counted = (
        sum(sum(label != prompts.IGNORED for label in row["labels"]) for row in rows)
        if isinstance(rows, list)
        else data.num_rows * settings.length
    )
    return {
        "steps": trainer.state.global_step,
        "rows": len(data),
        "tokens_in_loss": counted,
        "loss": round(result.training_loss, 4),
        "seconds": round(time.time() - started, 1),
        "curve": [
            {k: v for k, v in entry.items() if k in ("step", "loss", "eval_loss", "learning_rate")} for entry in trainer.state.log_history
        ],
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


def tokenised_text(shards: list[Path], tokenizer, length: int, cache: Path):
    """The packed rows of refined text as a memory-mapped Dataset of {"input_ids"}: built streaming, kept on disk."""
    from datasets import Dataset, Features, List, Value
    from datasets.utils.logging import disable_progress_bar

    from kmlite.records import read_texts

    disable_progress_bar()

    def rows(shards: list[Path]):
        for ids in prompts.packed(tokenizer, read_texts(shards), length):
            yield {"input_ids": ids}

    if next(rows(shards), None) is None:  # `datasets` would fail on it in words of its own
        raise click.ClickException(f"the text does not fill one row of {length} tokens. Add text, or lower --length.")
    try:
        return Dataset.from_generator(
            rows,
            gen_kwargs={"shards": shards},
            cache_dir=str(cache),
            features=Features({"input_ids": List(Value("int32"))}),
            fingerprint="packed",
        )
    except click.ClickException:
        raise
    except Exception as error:
        # `datasets` wraps what a generator raised
        cause = error.__cause__
        raise cause if isinstance(cause, click.ClickException) else error from None


def describe(resolved: dict[str, object]) -> None:
    """Print what a stage is about to do, before it spends time on it."""
    for name, value in resolved.items():
        console.print(f"  {name:<12} {value}")


def stage_plan(step: str, settings, base: Path, base_name: str, data: dict[str, list[Path]]) -> dict:
    """What decides a stage's result: settings, the model it starts from, its data."""
    import dataclasses

    from kmlite.runs import fingerprint, model_fingerprint

    own = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("base", "refined", "out", "restart")}
    return {
        "step": step,
        "settings": own,
        "base": {"name": base_name, "fingerprint": model_fingerprint(base)},
        "data": {name: fingerprint(*files) for name, files in data.items()},
    }


def skip_or_begin(folder: Path, plan: dict, restart: bool) -> bool:
    """True where the step's record says that it is done and nothing changed; else the run's plan is noted."""
    from kmlite import runs

    if not restart and runs.is_done(folder, plan):
        console.print(f"  done before, nothing changed: {folder / paths.FINAL}   (ARGS=--restart runs it again)")
        return True
    runs.begin(folder, plan, restart)
    return False
