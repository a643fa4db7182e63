"""Stage 0: teach the base Korean text. New tokens, trainable embeddings and a LoRA on packed plain text.

\b
    make stage0 BASE=google/medgemma-4b-it REFINED=data/02_refined OUT=model
"""

import time
from dataclasses import dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting
from kmlite.model import EMBEDDINGS, PRECISIONS


@dataclass(frozen=True)
class Settings:
    base: str = setting("google/medgemma-4b-it", "hub name or folder of a Gemma 3 model")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models; this stage writes 00_trained below it")
    precision: str = setting("auto", "weights while training; auto takes what the free GPU memory holds", PRECISIONS)
    new_tokens: int = setting(5000, "Korean tokens to add at the most; Gemma already knows Korean, so the gain is modest: it is printed")
    embeddings: str = setting("new", "rows that train: new ones alone, all (needs 10 GB more), or none", EMBEDDINGS)
    embedding_learning_rate: float = setting(2e-4, "new rows start as averages and have further to go than the LoRA")
    rank: int = setting(64, "LoRA rank: language is a larger change than a task")
    alpha: int = setting(128, "LoRA alpha; with rsLoRA the scale is alpha / sqrt(rank) = 16")
    dropout: float = setting(0.05, "LoRA dropout; 0 is Unsloth's fast path on a GPU")
    rslora: bool = setting(True, "rank-stabilised scale (arXiv 2312.03732)")
    length: int = setting(512, "tokens a row: most Korean paragraphs fit, and a small card can hold it")
    batch: int = setting(2, "rows at once on the card")
    accumulation: int = setting(16, "batches an optimizer step: 32 rows, 16k tokens")
    learning_rate: float = setting(2e-5, "of the LoRA")
    schedule: str = setting("cosine", "of the learning rate")
    warmup: float = setting(0.03, "share of the steps (or, from 1 on, a number of steps)")
    epochs: float = setting(1, "raw text is plentiful: once over it")
    max_steps: int = setting(-1, "stop after so many optimizer steps; -1 for the whole data")
    save_every: int = setting(1000, "steps between checkpoints")
    log_every: int = setting(10, "steps between lines of the log")
    heldout: int = setting(500, "held-out texts to measure at the most")
    seed: int = setting(0, "of LoRA, order of data and dropout")
    restart: bool = setting(False, "drop an unfinished run, or redo a finished one")


def main(settings: Settings) -> None:
    from kmlite import records, runs

    console.print(f"[bold]stage 0[/]  Korean text → {settings.out / paths.STAGES[0]}")
    started = time.time()

    # ---- what there is to learn from
    shards = paths.text_shards(settings.refined)
    heldout_path = paths.heldout_text(settings.refined)
    if not shards:
        raise click.ClickException(
            f"{settings.refined / paths.TEXT} holds no train*.jsonl.\n  Run first: make refine RAW=… REFINED={settings.refined}"
        )
    paths.require(heldout_path, f"Run first: make refine RAW=… REFINED={settings.refined}")
    heldout = list(records.read_texts([heldout_path]))[: settings.heldout]
    if not heldout:
        raise click.ClickException(
            f"{heldout_path} is empty, so nothing could be measured.\n"
            f"  Hold more out: make refine REFINED={settings.refined} ARGS='--heldout-share 0.1'"
        )

    from kmlite import evaluation, model, training, vocabulary

    base = model.resolve(settings.base)
    folder = settings.out / paths.STAGES[0]
    check_writable(folder)
    plan = training.stage_plan("stage0", settings, base, settings.base, {"text": shards, "heldout": [heldout_path]})
    if training.skip_or_begin(folder, plan, settings.restart):
        return
    precision = model.pick_precision(settings.precision)
    training.describe(
        {
            "base": f"{settings.base}{' (the embedded base: its figures say nothing about MedGemma)' if model.is_stand_in(base) else ''}",
            "device": f"{'GPU' if model.on_gpu() else 'CPU'}, {precision} weights",
            "text": f"{len(shards)} shards, {sum(s.stat().st_size for s in shards) / 1e6:.1f} MB; {len(heldout)} held-out texts",
            "batch": f"{settings.batch} × {settings.accumulation} rows of {settings.length} tokens",
            "learning": f"LoRA rank {settings.rank}, rate {settings.learning_rate:g}",
            "embeddings": f"{settings.embeddings}, rate {settings.embedding_learning_rate:g}",
        },
    )

    # ---- new tokens: measure the base as it is, then extend it
    extended = folder / paths.EXTENDED
    note = folder / paths.CHECKPOINTS / "extension.json"
    if not note.exists():
        plain, tokenizer = model.load(base, precision, settings.length)
        before = evaluation.bits_per_character(plain, tokenizer, heldout, settings.length)
        words = vocabulary.count_words(records.read_texts(shards)) if settings.new_tokens else {}
        merges = vocabulary.choose_merges(words, tokenizer, settings.new_tokens)
        rate = vocabulary.tokens_per_character(tokenizer, heldout)
        del plain
        model.free()
        ids = vocabulary.extend_model(base, extended, merges, tokenizer)
        runs.write_json(note, {"new_ids": ids, "bits_base": before, "tokens_per_character_base": rate})
    extension = runs.read_json(note)
    ids = extension["new_ids"]
    trained, tokenizer = model.load(extended, precision, settings.length)
    bits = {"base": extension["bits_base"], "extended": evaluation.bits_per_character(trained, tokenizer, heldout, settings.length)}
    tokens = {"base": extension["tokens_per_character_base"], "extended": vocabulary.tokens_per_character(tokenizer, heldout)}
    console.print(f"  tokens       {len(ids):,} new; held-out text takes {tokens['extended'] / tokens['base']:.1%} of the tokens it took")
    console.print(f"  before       {bits['base']:.4f} bits per character on held-out text, {bits['extended']:.4f} right after extension")

    # ---- train
    data = training.tokenised_text(shards, tokenizer, settings.length, folder / paths.CHECKPOINTS / "tokens")
    embeddings = settings.embeddings if ids or settings.embeddings == "all" else "none"
    adapted = model.add_lora(
        trained,
        r=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        rslora=settings.rslora,
        seed=settings.seed,
        embeddings=embeddings,
        new_ids=ids,
    )
    count = model.trainable_summary(adapted)
    weights = f"{count['lora']:,} LoRA and {count['embeddings']:,} embedding weights of {sum(count.values()):,}"
    console.print(f"  training     {len(data):,} rows; {weights}")
    result = training.train(
        adapted, tokenizer, data, folder / paths.CHECKPOINTS, settings, embedding_learning_rate=settings.embedding_learning_rate
    )
    adapter = folder / paths.CHECKPOINTS / "adapter"
    model.save_adapter(adapted, adapter)
    del trained, adapted
    model.free()

    # ---- hand over, and measure what is handed over
    model.merge(extended, adapter, folder / paths.FINAL)
    final, tokenizer = model.load(folder / paths.FINAL, precision, settings.length)
    bits["after"] = evaluation.bits_per_character(final, tokenizer, heldout, settings.length)
    worse = bits["after"] > bits["base"]
    metrics = {
        "bits_per_character": bits,
        "tokens_per_character": tokens,
        "new_tokens": len(ids),
        "trainable": count,
        "training": result,
        "worse": worse,
        "precision": precision,
        "stand_in": model.is_stand_in(base),
    }
    runs.finish(folder, plan, started, metrics)
    console.print(
        f"  [bold]held-out bits per character: {bits['base']:.4f} → {bits['after']:.4f}[/]  (right after extension {bits['extended']:.4f})"
    )
    if worse:
        console.print("  [bold red]warning: stage0-worse[/]  the model reads Korean worse than before: more text or more steps are needed.")
    console.print(f"  written to {folder / paths.FINAL}, {time.time() - started:.0f} s")


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
