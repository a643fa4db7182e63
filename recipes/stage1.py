"""Stage 1: teach the medical dictionary. A LoRA on (term → definition) turns; the loss counts definitions alone.

\b
    make stage1 REFINED=data/02_refined OUT=model
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting
from kmlite.models.loading import CHECKPOINTING, PRECISIONS
from kmlite.training.stages import TRACKERS


@dataclass(frozen=True)
class Settings:
    base: str = setting("", "model to start from; empty: stage 0's final model in OUT")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models; this stage writes 01_trained below it")
    precision: str = setting("auto", "weights while training; auto takes what the free GPU memory holds", PRECISIONS)
    checkpointing: str = setting(
        "auto", "recompute activations in the backward pass: less memory, a third slower; auto on a GPU", CHECKPOINTING
    )
    rank: int = setting(64, "LoRA rank")
    alpha: int = setting(128, "LoRA alpha; with rsLoRA the scale is alpha / sqrt(rank) = 16")
    dropout: float = setting(0.05, "LoRA dropout; 0 is Unsloth's fast path on a GPU")
    rslora: bool = setting(True, "rank-stabilised scale (arXiv 2312.03732)")
    length: int = setting(512, "tokens of the longest entry; longer ones are left out and counted")
    batch: int = setting(4, "entries at once on the card")
    accumulation: int = setting(8, "batches an optimizer step: 32 entries")
    learning_rate: float = setting(2e-5, "as stage 0: the terms are new, the language is not")
    schedule: str = setting("cosine", "of the learning rate")
    warmup: float = setting(0.1, "share of the steps (or, from 1 on, a number of steps)")
    epochs: float = setting(3, "a definition is seen three times")
    max_steps: int = setting(-1, "stop after so many optimizer steps; -1 for all epochs")
    log_every: int = setting(50, "steps between lines of the log")
    eval_every: int = setting(100, "steps between looks at the held-out entries")
    heldout_share: float = setting(0.05, "share of the terms never taught, chosen by hash")
    measured: int = setting(500, "taught and held-out entries to measure at the most, each")
    recalled: int = setting(200, "taught terms whose definition the model is asked to write, before and after")
    chosen: int = setting(200, "taught and held-out terms whose definition is to be told from four others, each, before and after")
    seed: int = setting(0, "of LoRA, order of data and dropout")
    report_to: str = setting("none", "a tracker that gets each step's loss; to be installed beside kmlite", TRACKERS)
    accept_regression: bool = setting(False, "go on where the stage made the model worse, instead of leaving with status 3")
    restart: bool = setting(False, "drop an unfinished run, or redo a finished one")


def main(settings: Settings) -> None:
    from kmlite import records
    from kmlite.evaluation import dictionary

    console.print(f"[bold]stage 1[/]  medical dictionary → {settings.out / paths.STAGES[1]}")
    started = time.time()

    # ---- what there is to learn
    entries = records.read_dictionary(settings.refined)
    taught, heldout = dictionary.split(entries, settings.heldout_share)
    if not taught:
        raise click.ClickException(f"{settings.refined / paths.DICTIONARY} holds no entry to teach.")

    from kmlite import files, runs
    from kmlite.evaluation import generation
    from kmlite.models import folders, loading
    from kmlite.training import stages, trainer

    if settings.base:
        base = folders.resolve(settings.base)
    else:
        base = folders.final_folder(settings.out, 0, f"Run first: make stage0 OUT={settings.out}   (or name another model as BASE=…)")
    folder = settings.out / paths.STAGES[1]
    check_writable(folder)
    plan = stages.plan_of("stage1", settings, base, settings.base or "stage 0", {"dictionary": [settings.refined / paths.DICTIONARY]})
    if stages.skip_or_begin(folder, plan, settings):
        return
    fitted = stages.fit(settings, base, folder / paths.CHECKPOINTS)
    precision = fitted.precision
    stages.describe(
        {
            "base": f"{base}{folders.said_of(base)}",
            **stages.fitted_in_words(fitted, settings, "entries"),
            "dictionary": f"{len(taught):,} terms to teach, {len(heldout):,} held out",
            "learning": f"LoRA rank {settings.rank}, rate {settings.learning_rate:g}, {settings.epochs:g} epochs",
        },
    )

    # ---- before
    recompute = loading.recomputes(settings.checkpointing)
    trained, tokenizer = loading.load(base, precision, settings.length, recompute)

    measure = partial(
        dictionary.measure,
        taught=taught,
        heldout=heldout,
        measured=settings.measured,
        recalled=settings.recalled,
        chosen=settings.chosen,
        length=settings.length,
        batch=generation.default_batch(),
    )
    before_path = folder / paths.CHECKPOINTS / "before.json"
    if not before_path.exists():
        files.write_json(before_path, measure(trained, tokenizer))
    before = files.read_json(before_path)
    console.print(f"  before       {before['taught']:.4f} bits per character on taught definitions")

    # ---- train
    rows, left_out = trainer.conversation_rows(tokenizer, dictionary.pairs(taught), settings.length)
    if left_out:
        console.print(f"  {left_out:,} entries are longer than {settings.length} tokens and are left out")
    heldout_rows, _ = trainer.conversation_rows(tokenizer, dictionary.pairs(heldout[: settings.measured]), settings.length)
    adapted = stages.adapt(trained, settings, recompute)
    count = loading.trainable_summary(adapted)
    on_card = replace(settings, batch=fitted.batch, accumulation=fitted.accumulation)
    result = trainer.train(
        adapted, tokenizer, rows, folder / paths.CHECKPOINTS, on_card, save="epoch", eval_rows=heldout_rows, order="group_by_length"
    )
    used = stages.memory_record(fitted, result["peak_bytes"])
    adapter = folder / paths.CHECKPOINTS / "adapter"
    loading.save_adapter(adapted, adapter)
    del trained, adapted
    loading.free()

    # ---- hand over, and measure what is handed over
    difference = loading.merge(base, adapter, folder / paths.FINAL, [definition for _, definition in dictionary.pairs(taught[:3])])
    final, tokenizer = loading.load(folder / paths.FINAL, precision, settings.length)
    after = measure(final, tokenizer)
    worse = []
    if after["taught"] > before["taught"]:
        worse.append(f"taught definitions cost {after['taught']:.4f} bits per character, {before['taught']:.4f} before")
    metrics = {
        "before": before,
        "after": after,
        "left_out": left_out,
        "trainable": count,
        "training": result,
        "worse": worse,
        "merge_difference": difference,
        "precision": precision,
        "memory": used,
        "stand_in": folders.is_stand_in(base),
    }
    runs.finish(folder, plan, started, metrics)
    dictionary.show(before, after)
    console.print(f"  [bold]bits per character of taught definitions: {before['taught']:.4f} → {after['taught']:.4f}[/]")
    console.print(f"  written to {folder / paths.FINAL}, {time.time() - started:.0f} s")
    stages.verdict(worse, "stage1", settings)


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
