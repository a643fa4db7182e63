"""One trainer for all stages: rows of token ids with labels in, a trained adapter out; resumes by itself."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import click

from kmlite.cli import console
from kmlite.files import read_record, write_json
from kmlite.models import loading
from kmlite.models.loading import on_gpu
from kmlite.models.new_rows import head_of
from kmlite.runs import processes
from kmlite.training import callbacks
from kmlite.training.examples import collate
from kmlite.training.loss import in_pieces, tiled_is_faster
from kmlite.training.settings import TrainingSettings


@dataclass(frozen=True)
class Task:
    """What a stage tells the trainer beside its rows and settings."""

    embeddings: str = "none"  # the mode that `add_lora` was given
    embedding_learning_rate: float | None = None
    eval_rows: list[dict] | None = None  # their loss is taken every `eval_every` steps
    # measurements of that loss without a lower one that end training, the weights of the lowest kept; 0: all steps and the last weights
    patience: int = 0
    # of the rows: "random", "group_by_length" (little padding), or "sequential", as they are given. None depends on the batch alone, so
    # that a smaller one goes on at the same row
    order: str = "random"
    apart: bool = False  # the backend keeps the texts of a packed row apart
    every: callbacks.Measure | None = None  # called every `eval_every` steps; the results that it returns are kept by step
    answer_weight: float = 1  # of the last token of each answer in the loss, against 1 for the others; see kmlite/training/loss.py


def train(model, tokenizer, rows, folder: Path, settings: TrainingSettings, task: Task) -> dict:
    """Train `model` on `rows` (a Dataset or a list) with a recipe's settings; checkpoints go to `folder`.

    Goes on from the last whole checkpoint in `folder`. Asserts which weights train, when it starts and when it goes on,
    and after ten steps that these moved and the frozen ones did not. Out of memory, it halves the batch and doubles the
    accumulation, at most three times, and goes on from the last step. SIGINT and SIGTERM end it after a step, saved.

    Returns:
        {"steps", "kept_step" (the one whose weights the model has now), "rows", "loss" (mean, nats a token), "seconds", "curve": the
        trainer's log, "measured": {step: …}, "batch", "accumulation", "out_of_memory" (how often), "compute" (dtype of the
        multiplications), "tokens_per_second" (padding not counted), "padding" (its share), "peak_bytes" (GPU memory that tensors held
        at the most; None on a CPU)}. Rates are of this process's own part of the run; None where it found the last step done.
    """
    loading.fast_model()  # before trl: unsloth replaces its trainer
    import torch

    note = folder / "batch.json"  # a run that goes on keeps what it had to fall back to
    size = read_record(note, "batch", "accumulation", "out_of_memory")
    size = size or {"batch": settings.batch, "accumulation": settings.accumulation, "out_of_memory": 0}
    measured = read_record(folder / callbacks.MEASURED) or {}
    while True:
        trainer, meter, stop = prepare(model, tokenizer, rows, folder, settings, size, task, measured)
        started = time.time()
        if run_to_the_end(trainer, stop, folder, task.patience):
            break
        size = smaller(trainer, size, settings)
        write_json(note, size)
        del trainer
        loading.free()
    if stop.asked:
        raise click.ClickException(
            f"stopped by {stop.asked} after step {trainer.state.global_step} of {trainer.state.max_steps}, which is saved. "
            "Run the same command to go on."
        )
    seconds = time.time() - started
    kept = callbacks.best_step(trainer.state.log_history) if task.patience else None
    if kept not in (None, trainer.state.global_step):
        loading.load_adapter(model, folder / f"checkpoint-{kept}")
        console.print(f"  held-out loss was lowest at step {kept} of {trainer.state.global_step}: its weights are kept")
    return {
        "steps": trainer.state.global_step,
        "kept_step": kept or trainer.state.global_step,
        "rows": len(rows),
        "loss": round(statistics.fmean(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), 4),
        "seconds": round(seconds, 1),
        "curve": callbacks.thinned(trainer.state.log_history, settings.log_every),
        "measured": measured,
        **size,
        "compute": str(loading.compute_dtype(model)).removeprefix("torch."),
        "tokens_per_second": round(meter.useful / max(seconds, 1e-9), 1) if meter.tokens else None,
        "padding": round(1 - meter.useful / meter.tokens, 4) if meter.tokens else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu() else None,
    }


def run_to_the_end(trainer, stop: callbacks.Stop, folder: Path, patience: int) -> bool:
    """Train from the last whole checkpoint in `folder` to the last step, or to a stop that was asked for; False where memory ran out."""
    import torch
    from transformers import TrainerState

    checkpoint = callbacks.last_checkpoint(folder)
    if checkpoint:
        console.print(f"  going on from {checkpoint}")
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
    try:
        with stop:
            if checkpoint and callbacks.trained_to_the_end(checkpoint, patience):
                # the trainer would take one step more before it looks at how many there are
                loading.load_adapter(trainer.model, checkpoint)
                trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        return False  # the caller goes on, where the error no longer holds the step's tensors
    except KeyboardInterrupt:
        kept = callbacks.last_checkpoint(folder)
        where = f"the last checkpoint is {kept.name}" if kept else "there is no checkpoint yet"
        raise click.ClickException(f"stopped at once; {where}. Run the same command to go on from there.") from None
    except Exception as error:
        # torch reads a checkpoint's state as weights alone; code in it is not run but ends here
        if not checkpoint or "Weights only load failed" not in str(error):
            raise
        raise click.ClickException(
            f"{checkpoint} holds something else than weights and numbers, so it is not read. It was damaged, or is not yours.\n"
            f"  Remove that folder to go on from the one before, or add ARGS=--restart to begin anew."
        ) from error
    finally:
        for callback in trainer.callback_handler.callbacks:
            if hasattr(callback, "close"):
                callback.close()
    return True


def prepare(model, tokenizer, rows, folder: Path, settings: TrainingSettings, size: dict, task: Task, measured: dict):
    """(trl's trainer, the meter of its tokens, its stop) for one attempt at a batch and accumulation of `size`."""
    from datasets import Dataset
    from trl import SFTTrainer

    together = processes()
    if size["accumulation"] % together:
        raise click.ClickException(f"GPUS={together} does not divide the accumulation of {size['accumulation']}: add --accumulation.")
    accumulation = size["accumulation"] // together
    arguments = trainers_arguments(settings, folder, size["batch"], accumulation, task)
    loading.for_training(model, tokenizer)
    multiple = 8 if on_gpu() else 1  # tensor cores want multiples of 8
    meter, stop = callbacks.Meter(accumulation, together), callbacks.Stop()

    def batch(rows: list[dict]) -> dict:
        out = collate(rows, tokenizer, multiple, task.apart)
        meter.note(rows, out)
        return out

    trainer_class: type = SFTTrainer
    if task.answer_weight != 1 or task.embeddings == "new" or tiled_is_faster(head_of(model)[0]):
        trainer_class = in_pieces(trainer_class, task.answer_weight, tokenizer.convert_tokens_to_ids("<end_of_turn>"))
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
        eval_dataset=Dataset.from_list(task.eval_rows).remove_columns("record") if task.eval_rows else None,
        processing_class=tokenizer,
        data_collator=batch,
        optimizers=(optimizer(model, arguments, task.embedding_learning_rate), None),
    )
    # trl casts what trains on a quantised base to bfloat16; before a checkpoint is read back, or its float32 would be rounded
    loading.set_trainable(model, task.embeddings)
    if not on_gpu():  # the trainer's own bf16 is a setting of the whole process, which accelerate keeps from the first trainer on
        trainer.compute_loss_context_manager = lambda: loading.computing(model)
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    trainer.add_callback(callbacks.watch(model, tokenizer, folder, settings, task, meter, stop, measured))
    return trainer, meter, stop


def trainers_arguments(settings: TrainingSettings, folder: Path, batch: int, accumulation: int, task: Task):
    """Everything that trl's trainer can be told, from the settings: its own defaults differ from Unsloth's."""
    from trl import SFTConfig

    measures = bool(task.eval_rows and settings.eval_every)
    save_every = settings.eval_every if measures and task.patience else settings.save_every  # each measured step may be the best
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,  # below 1 it is a share of all steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        optim=settings.optimizer if settings.optimizer != "auto" else "adamw_8bit" if on_gpu() else "adamw_torch",
        bf16=on_gpu() and loading.bf16(),
        fp16=on_gpu() and not loading.bf16(),  # cards before Ampere; Unsloth keeps Gemma from overflowing
        use_cpu=not on_gpu(),
        gradient_checkpointing=loading.recomputes(settings.checkpointing),
        logging_steps=1,  # each step's loss is looked at; `thinned` keeps one in log_every
        save_strategy="steps" if save_every else "epoch",
        save_steps=save_every or 500,
        save_total_limit=2,  # the best one is among them
        metric_for_best_model="eval_loss" if measures and task.patience else None,
        greater_is_better=False,
        eval_strategy="steps" if measures else "no",
        eval_steps=settings.eval_every or None,
        prediction_loss_only=True,
        logging_nan_inf_filter=False,  # else a loss that is no number is logged as the last one that was
        seed=settings.seed,
        data_seed=settings.seed,
        max_length=settings.length,
        packing=False,  # plain text comes packed; a custom collator turns trl's packing off
        padding_free=False,
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are ours, the same on a CPU and a GPU
        remove_unused_columns=False,
        train_sampling_strategy=task.order,
        dataloader_num_workers=0,
        ddp_find_unused_parameters=False,  # all that trains is used in each step
        report_to=settings.report_to,
        disable_tqdm=True,
    )


def smaller(trainer, size: dict, settings: TrainingSettings) -> dict:
    """The next batch and accumulation after the memory was full; the last finished step is saved first. A click error where the batch
    is 1 already, or this was the fourth time."""
    batch, times = size["batch"], size["out_of_memory"]
    if batch == 1 or times == 3 or processes() > 1:
        raise click.ClickException(
            f"out of GPU memory at batch {batch}, sequences of {settings.length} tokens. nvidia-smi shows who else uses the card.\n"
            f"  make doctor shows what fits; less takes: ARGS='--batch 1 --length {settings.length // 2} --precision 4bit'."
        )
    trainer.model.zero_grad(set_to_none=True)
    folder, step = Path(trainer.args.output_dir), trainer.state.global_step
    if step and callbacks.last_checkpoint(folder) != folder / f"checkpoint-{step}":  # a whole one is not written over: a kill would tear it
        callbacks.check_room(folder, trainer.model)
        trainer._save_checkpoint(trainer.model, trial=None)
    factor = 2 if batch % 2 == 0 else batch
    now = {"batch": batch // factor, "accumulation": size["accumulation"] * factor, "out_of_memory": times + 1}
    console.print(
        f"  out of GPU memory: batch {batch} → {now['batch']}, accumulation {size['accumulation']} → {now['accumulation']}, "
        f"going on from step {trainer.state.global_step}"
    )
    return now


def optimizer(model, arguments, embedding_learning_rate: float | None):
    """The trainer's own optimizer with the embedding rows in a group of their own, at their own rate, without decay."""
    from transformers import Trainer

    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    weights: dict[bool, list] = {True: [], False: []}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weights[loading.is_embedding(name)].append(weight)
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
