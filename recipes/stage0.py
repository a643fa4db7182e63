"""Stage 0: teach the base Korean text. New tokens, trainable embeddings and a LoRA on packed plain text.

\b
    make stage0 BASE=google/medgemma-4b-it REFINED=data/02_refined OUT=model
    make stage0 GPUS=2          the same steps, their batches shared by two cards
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting
from kmlite.models.loading import CHECKPOINTING, EMBEDDINGS, PRECISIONS
from kmlite.training.stages import TRACKERS


@dataclass(frozen=True)
class Settings:
    base: str = setting("google/medgemma-4b-it", "hub name or folder of a Gemma 3 model")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models; this stage writes 00_trained below it")
    precision: str = setting("auto", "weights while training; auto takes what the free GPU memory holds", PRECISIONS)
    new_tokens: str = setting("5000", "Korean tokens to add at the most, 0 to 20000; auto stops where more of them save next to nothing")
    min_count: int = setting(2, "a new token stands at least so often in the text")
    dictionary_weight: int = setting(10, "a word of a dictionary term counts like so many in the text; 0 leaves the dictionary out")
    start: str = setting(
        "mean",
        "new rows start as the mean of their pieces' rows; docs/vocabulary.md compares",
        ("mean", "weighted", "rescaled", "fitted", "random"),
    )
    embeddings: str = setting(
        "auto",
        "rows that train: new ones alone, all (10 GB more), or none; auto: new ones, or no new tokens where they don't fit",
        EMBEDDINGS,
    )
    embedding_learning_rate: float = setting(2e-4, "new rows start as averages and have further to go than the LoRA")
    replay: str = setting("", "folder or .jsonl of {text} in the original language, mixed in against forgetting")
    replay_share: float = setting(0.05, "share of the rows that come from --replay")
    checkpointing: str = setting(
        "auto", "recompute activations in the backward pass: less memory, a third slower; auto on a GPU", CHECKPOINTING
    )
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
    gauge_every: int = setting(1000, "steps between looks at the gauge's bits per character; 0 for none")
    heldout: int = setting(200, "held-out texts in the gauge at the most")
    entries: int = setting(200, "dictionary entries in the gauge at the most")
    questions: int = setting(200, "dev questions in the gauge at the most")
    seed: int = setting(0, "of LoRA, order of data and dropout")
    report_to: str = setting("none", "a tracker that gets each step's loss; to be installed beside kmlite", TRACKERS)
    accept_regression: bool = setting(False, "go on where the stage made the model worse, instead of leaving with status 3")
    restart: bool = setting(False, "drop an unfinished run, or redo a finished one")


def main(settings: Settings) -> None:
    from kmlite import records

    console.print(f"[bold]stage 0[/]  Korean text → {settings.out / paths.STAGES[0]}")
    started = time.time()

    # ---- what there is to learn from
    shards = paths.text_shards(settings.refined)
    heldout_path = paths.heldout_text(settings.refined)
    refine = f"Run first: make refine RAW=… REFINED={settings.refined}"
    if not shards:
        raise click.ClickException(f"{settings.refined / paths.TEXT} holds no train*.jsonl.\n  {refine}")
    paths.require(heldout_path, refine)
    if not next(records.read_texts([heldout_path]), None):
        raise click.ClickException(
            f"{heldout_path} is empty, so nothing could be measured.\n"
            f"  Hold more out: make refine REFINED={settings.refined} ARGS='--heldout-share 0.1'"
        )
    replay = replay_shards(settings)
    tokens_wanted = new_tokens(settings.new_tokens)

    from kmlite import files, runs
    from kmlite.evaluation import suite
    from kmlite.models import folders, loading, merging, vocabulary
    from kmlite.training import packing, stages, trainer

    base = folders.resolve(settings.base)
    folder = settings.out / paths.STAGES[0]
    check_writable(folder)
    data = {"text": shards, "heldout": [heldout_path], "replay": replay}
    dictionary = settings.refined / paths.DICTIONARY
    if dictionary.exists():
        data["dictionary"] = [dictionary]
    if paths.exam_split(settings.refined, "dev").exists():
        data["dev"] = [paths.exam_split(settings.refined, "dev")]
    plan = stages.plan_of("stage0", settings, base, settings.base, data)
    if stages.skip_or_begin(folder, plan, settings):
        return
    wanted = 5000 if isinstance(tokens_wanted, str) else tokens_wanted
    mode = "none" if settings.embeddings == "auto" and not wanted else settings.embeddings
    fitted = stages.fit(settings, base, folder / paths.CHECKPOINTS, embeddings=mode, new_rows=wanted)
    precision = fitted.precision
    if fitted.embeddings == "none" and settings.embeddings == "auto":
        tokens_wanted = 0  # rows that do not train would stay averages
    measured_on = suite.prepare(
        settings.refined, texts=settings.heldout, entries=settings.entries, questions=settings.questions, length=settings.length
    )
    stages.describe(
        {
            "base": f"{settings.base}{folders.said_of(base)}",
            **stages.fitted_in_words(fitted, settings, "rows"),
            "text": f"{len(shards)} shards, {sum(s.stat().st_size for s in shards) / 1e6:.1f} MB",
            "gauge": f"{len(measured_on.korean)} held-out texts, {len(measured_on.dictionary)} dictionary entries, "
            f"{len(measured_on.english)} English texts, {len(measured_on.dev)} dev questions",
            "learning": f"LoRA rank {settings.rank}, rate {settings.learning_rate:g}",
            "embeddings": f"{fitted.embeddings}, rate {settings.embedding_learning_rate:g}",
        },
    )

    # ---- new tokens: measure the base as it is, then extend it
    extended = folder / paths.EXTENDED
    note = folder / paths.CHECKPOINTS / "extension.json"
    if not note.exists() and not runs.rank():
        plain, tokenizer = loading.load(base, precision, settings.length)
        point = suite.measure(plain, tokenizer, measured_on)
        del plain
        loading.free()
        terms = [entry["term"] for entry in records.read_dictionary(settings.refined)] if dictionary.exists() else []
        words = word_counts(shards, terms, settings.dictionary_weight) if tokens_wanted else {}
        merges = vocabulary.choose_merges(words, tokenizer, tokens_wanted, settings.min_count)
        ids = vocabulary.extend_model(base, extended, merges, tokenizer, settings.start)
        after = loading.load_tokenizer(extended)
        kinds = {
            "held-out Korean": measured_on.korean,
            "dictionary": [answer for _, answer in measured_on.dictionary],
            "exam": [question["question"] for question in measured_on.dev],
        }
        files.write_json(note, {"new_ids": ids, "base": point, "gain": vocabulary.gain(tokenizer, after, kinds, ids)})
    runs.wait()
    extension = files.read_json(note)
    ids = extension["new_ids"]
    show_gain(extension["gain"], len(ids))
    recompute = loading.recomputes(settings.checkpointing)
    trained, tokenizer = loading.load(extended, precision, settings.length, recompute)
    points = {"base": extension["base"], "extended": suite.measure(trained, tokenizer, measured_on)}
    rise = points["extended"]["bits"]["korean"] / points["base"]["bits"]["korean"] - 1
    console.print(f"  extension    held-out text costs {rise:+.1%} bits per character before any training")

    # ---- train
    with runs.first_alone():
        rows = packing.tokenised(shards, tokenizer, settings.length, settings.out / ".cache" / "text")
        old = packing.tokenised(replay, tokenizer, settings.length, settings.out / ".cache" / "replay") if replay else None
    if old:
        rows = packing.with_replay(rows, old, settings.replay_share, settings.seed)
    embeddings = fitted.embeddings if ids or fitted.embeddings == "all" else "none"
    adapted = stages.adapt(trained, settings, recompute, embeddings=embeddings, new_ids=ids)
    apart = packing.keeps_texts_apart(adapted, tokenizer)
    count = loading.trainable_summary(adapted)
    weights = f"{count['lora']:,} LoRA and {count['embeddings']:,} embedding weights of {sum(count.values()):,}"
    console.print(f"  training     {len(rows):,} rows, {len(rows) * settings.length:,} tokens; {weights}")
    console.print(
        f"  attention    {'stays inside each text of a row' if apart else 'crosses the texts of a row: this backend has no mask for it'}"
    )
    result = trainer.train(
        adapted,
        tokenizer,
        rows,
        folder / paths.CHECKPOINTS,
        replace(settings, batch=fitted.batch, accumulation=fitted.accumulation),
        embeddings=embeddings,
        embedding_learning_rate=settings.embedding_learning_rate,
        apart=apart,
        every=(settings.gauge_every, partial(suite.bits, adapted, tokenizer, measured_on)) if settings.gauge_every else None,
    )
    if runs.rank():
        return  # what is left is for one process
    used = stages.memory_record(fitted, result["peak_bytes"])
    adapter = folder / paths.CHECKPOINTS / "adapter"
    loading.save_adapter(adapted, adapter)
    del trained, adapted
    loading.free()

    # ---- hand over, and measure what is handed over
    difference = loading.merge(extended, adapter, folder / paths.FINAL, measured_on.korean[:3])
    final, tokenizer = loading.load(folder / paths.FINAL, precision, settings.length)
    points["after"] = suite.measure(final, tokenizer, measured_on)
    worse = suite.is_worse(points["base"], points["after"])
    metrics = {
        "gauge": points,
        "gain": extension["gain"],
        "new_tokens": len(ids),
        "texts_apart": apart,
        "trainable": count,
        "training": result,
        "merge_difference": difference,
        "worse": worse,
        "precision": precision,
        "memory": used,
        "stand_in": folders.is_stand_in(base),
    }
    runs.finish(folder, plan, started, metrics)
    suite.show(points, "Stage 0, before and after")
    console.print(f"  merge        logits within {difference:.4f} of their spread of the adapter's (rounding, up to {merging.ROUNDING})")
    console.print(f"  written to {folder / paths.FINAL}, {time.time() - started:.0f} s")
    stages.verdict(worse, "stage0", settings)


def new_tokens(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdigit() or int(text) > 20_000:
        raise click.ClickException(f"--new-tokens {text}: a number from 0 to 20000, or auto.")
    return int(text)


def replay_shards(settings: Settings) -> list[Path]:
    """The files of --replay, or a click error where there are none or the share makes no sense."""
    if not settings.replay:
        return []
    path = paths.require(Path(settings.replay), "Name a folder of .jsonl files, or one such file, with {text} records: --replay …")
    found = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not found:
        raise click.ClickException(f"{path} holds no .jsonl file.")
    if not 0 < settings.replay_share < 1:
        raise click.ClickException(f"--replay-share {settings.replay_share}: a share between 0 and 1.")
    return found


def word_counts(shards: list[Path], terms: list[str], weight: int) -> dict[str, int]:
    """Words of the text with their counts, those of dictionary terms `weight` times more."""
    from kmlite import records
    from kmlite.models import vocabulary

    words = vocabulary.count_words(records.read_texts(shards))
    if weight:
        for word, n in vocabulary.count_words(term.replace("/", " ") for term in terms).items():
            words[word] += weight * n
    return words


def show_gain(gain: dict, count: int) -> None:
    """What the new tokens save, on each kind of text, and whether it is worth it."""
    from kmlite.models.vocabulary import WORTH

    for name, part in gain["by_text"].items():
        before, after = part["tokens_before"], part["tokens_after"]
        console.print(
            f"  tokens       {name}: {before / part['characters']:.3f} → {after / part['characters']:.3f} a character, "
            f"{before / part['words']:.2f} → {after / part['words']:.2f} a word, {part['saved']:.1%} fewer"
        )
    if not count:
        return
    saved = gain["by_text"]["held-out Korean"]["saved"]
    most = " ".join(token for token, _ in gain["most_used"][:12])
    console.print(f"  new tokens   {count:,}, of which {gain['used_share']:.0%} stand in these texts; most used: {most}")
    if saved < WORTH:
        console.print(
            f"  verdict      {saved:.1%} fewer tokens is little: the same share of time in training and writing, for {count:,} rows\n"
            f"               that must be learned. --new-tokens 0 may serve you better."
        )
    else:
        console.print(f"  verdict      training and writing Korean take {saved:.0%} fewer tokens, and about that much less time")


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
