"""Stage 0: teach the base Korean text. New tokens, trainable embeddings and a LoRA on packed plain text.

\b
    make stage0 BASE=google/medgemma-4b-it REFINED=data/02_refined OUT=model
    make stage0 GPUS=2          the same steps, their batches shared by two cards
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import console, counted, recipe, setting
from kmlite.training.settings import TrainingSettings

NO_REPLAY = "none: English may be forgotten; make data fetches some for RAW/03_replay"
DOMAIN_SHARE = 0.5  # of exam train and dictionary in the words that choose new tokens
EMBEDDINGS = ("auto", "new", "all", "none")


@dataclass(frozen=True)
class Settings(TrainingSettings):
    base: str = setting("google/medgemma-4b-it", "hub name or folder of a Gemma 3 model", decides=False)
    new_tokens: str = setting("auto", "Korean tokens to add, 0 to 20000; auto: what the text can teach, often none (docs/evidence.md)")
    embeddings: str = setting(
        "auto",
        "rows that train: new ones alone, all (10 GB more), or none; auto: new ones, or no new tokens where they don't fit",
        EMBEDDINGS,
    )
    embedding_learning_rate: float = setting(2e-4, "new rows start as estimates and have further to go than the LoRA")
    # on a real 270M, 8,000 tokens, three seeds: English cost 20% less bits, Korean and exam questions no more (docs/evidence.md)
    replay_share: float = setting(0.2, "share of the sequences that come from REFINED/03_replay, where that is; 0 for none")
    length: int = setting(512, "tokens a sequence: most Korean paragraphs fit, and a small card can hold it")
    batch: int = setting(2, "sequences at once on the card")
    accumulation: int = setting(16, "batches an optimizer step: 32 sequences, 16k tokens")
    warmup: float = setting(0.03, "share of the steps (or, from 1 on, a number of steps)")
    epochs: float = setting(1, "raw text is plentiful: once over it")
    save_every: int = setting(1000, "steps between checkpoints; 0 for one an epoch", decides=False)
    eval_every: int = setting(1000, "steps between measurements of the suite's bits per character; 0 for none", decides=False)


def main(settings: Settings) -> None:
    console.print(f"[bold]stage 0[/]  Korean text → {settings.out / paths.STAGES[0].folder}")

    # ---- what there is to learn
    shards, replay, tokens = what_to_learn(settings)

    from kmlite import runs
    from kmlite.evaluation import suite
    from kmlite.models import loading, vocabulary
    from kmlite.training import stages

    auto = settings.new_tokens == "auto"
    most, because = vocabulary.affordable(tokens) if auto else (int(settings.new_tokens), "as asked for")
    mode = "none" if settings.embeddings == "auto" and not most else settings.embeddings
    data = {"text": shards, "replay": replay, "train": [paths.exam_split(settings.refined, "train")]}
    stage = stages.open_stage(0, settings, data, embeddings=mode, new_rows=most)
    if not stage:
        return
    trained = stage.fitted.embeddings
    if most and trained == "none" and settings.embeddings == "auto":
        most, because = 0, "new rows do not fit into the memory"  # and rows that do not train would stay estimates
    measured_on = suite.prepare(settings.refined, texts=settings.heldout, entries=settings.entries, questions=settings.questions)
    resolved: dict[str, object] = {
        "text": f"{counted(len(shards), 'file')}, {sum(shard.stat().st_size for shard in shards) / 1e6:.1f} MB",
        "suite": suite.in_words(measured_on),
        "embeddings": f"{trained}, learning rate {settings.embedding_learning_rate:g}" if most or trained == "all" else "frozen",
        "new tokens": f"{most:,}; {because}",
        "replay": f"{settings.replay_share:.0%} of the sequences, from {counted(len(replay), 'file')}" if replay else NO_REPLAY,
    }
    stage.describe("sequences", resolved)
    if costs := vocabulary.warning(most, tokens):
        console.print(f"  [bold red]warning[/]      {costs}")

    # ---- measure the base, extend it, train
    stage.measure("before", stage.base, measured_on)
    loading.free()
    extended = stage.folder / paths.EXTENDED
    ids = extend(stage, settings, most, tokens if auto else None, shards, measured_on)
    model, tokenizer = stage.load(extended, train=True)
    if ids:
        stage.measure("extended", (model, tokenizer), measured_on)
    train(stage, settings, model, tokenizer, ids, shards, replay, measured_on)
    if runs.rank():
        return  # what is left is for one process
    del model
    loading.free()

    # ---- merge, measure what is handed over
    final = stage.merge(extended, stage.adapter(), (measured_on.korean or measured_on.english)[:3])
    stage.measure("after", final, measured_on)
    stage.finish(trained_on={("bits_per_character", "korean"), ("accuracy", "dev")})


def what_to_learn(settings: Settings) -> tuple[list[Path], list[Path], float]:
    """(the text's shards, those of replay, tokens of text that the stage will train on, estimated from the size of the files); or a
    click error that names what is missing."""
    from kmlite import records
    from kmlite.models import vocabulary

    shards, heldout = paths.text_shards(settings.refined), paths.heldout_text(settings.refined)
    refine = f"Run first: make refine RAW=… REFINED={settings.refined}"
    if not shards:
        raise click.ClickException(f"{settings.refined / paths.TEXT} holds no train*.jsonl.\n  {refine}")
    if settings.heldout and not next(records.read_texts([paths.require(heldout, refine)]), None):
        raise click.ClickException(
            f"{heldout} is empty, so nothing could be measured.\n"
            f"  Hold more out: make refine REFINED={settings.refined} ARGS='--heldout-share 0.1'   or measure none: --heldout 0"
        )
    if settings.new_tokens != "auto" and not (settings.new_tokens.isdecimal() and int(settings.new_tokens) <= vocabulary.MOST):
        raise click.ClickException(f"--new-tokens {settings.new_tokens}: a number from 0 to {vocabulary.MOST}, or auto.")
    if not 0 <= settings.replay_share < 1:
        raise click.ClickException(f"--replay-share {settings.replay_share}: a share from 0 to below 1.")
    replay = sorted((settings.refined / paths.REPLAY).rglob("*.jsonl")) if settings.replay_share else []
    tokens = sum(shard.stat().st_size for shard in shards) * records.TOKENS_PER_BYTE * settings.epochs
    if settings.max_steps > 0:
        tokens = min(tokens, settings.max_steps * settings.batch * settings.accumulation * settings.length)
    return shards, replay, tokens


def extend(stage, settings: Settings, most: int, tokens: float | None, shards: list[Path], measured_on) -> list[int]:
    """Write the model with up to `most` new tokens, say what they save on each kind of text, and note it; the ids of the new tokens.

    Args:
        tokens: of text, where what the new tokens save and cost decides whether they stay; None where their number was asked for.
    """
    from kmlite import files, prompts, results, runs
    from kmlite.models import loading, vocabulary

    note, extended = stage.checkpoints / "extension.json", stage.folder / paths.EXTENDED
    kinds = {"korean": measured_on.korean, "dictionary": [answer for _, answer in measured_on.dictionary]}
    kinds["exam"] = [prompts.exam_prompt(question) for question in measured_on.dev]
    with runs.first_alone():
        if not files.read_record(note, "new_ids", "told"):
            ids = write_extended(stage, settings, most, tokens, shards, kinds)
            before, after = (loading.load_tokenizer(folder) for folder in (stage.base, extended))
            files.write_json(note, {"new_ids": ids, "told": vocabulary.gain(before, after, kinds, ids)})
    ids, gain = (files.read_json(note)[key] for key in ("new_ids", "told"))
    stage.facts["vocabulary"] = {"new_tokens": len(ids), "used_share": gain["used_share"], "most_used": gain["most_used"]}
    for data, part in gain["by_text"].items():
        for when, count in (("before", part["tokens_before"]), ("extended", part["tokens_after"])):
            cost = results.result("tokens_per_character", data, count / max(1, part["characters"]), part["texts"])
            stage.results += results.stamped([cost], stage.name, when)
    if ids:
        saved = {name: part["saved"] for name, part in gain["by_text"].items()}
        shares = ", ".join(f"{share:.1%} of {name}" for name, share in saved.items())
        console.print(f"  new tokens   {len(ids):,} save of the tokens {shares}; {gain['used_share']:.0%} of them stand in these texts")
        console.print(f"  most used    {' '.join(token for token, _ in gain['most_used'][:12])}", markup=False)
        if saved and max(saved.values()) < vocabulary.WORTH:
            little = f"under {vocabulary.WORTH:.0%} is little for {len(ids):,} rows that must be learned"
            console.print(f"  verdict      {little}; --new-tokens 0 may serve you better")
    return ids


def write_extended(stage, settings: Settings, most: int, tokens: float | None, shards: list[Path], kinds: dict) -> list[int]:
    """Choose new tokens, teach their rows and write the model with those that stay; `tokens` as of `extend`."""
    from kmlite import records
    from kmlite.evaluation import generation
    from kmlite.models import loading, starts, vocabulary

    def bits(model, tokenizer) -> dict[str, float]:
        found = {name: generation.bits_per_character(model, tokenizer, kinds[name], settings.length) for name in ("korean", "exam")}
        return {name: cost for name, cost in found.items() if cost is not None}

    def without() -> list[int]:
        return vocabulary.extend_model(stage.base, extended, [], None)

    extended = stage.folder / paths.EXTENDED
    if not most:
        return without()
    domain = list(domain_texts(settings.refined))
    words = vocabulary.weighted_words(records.read_texts(shards), domain, DOMAIN_SHARE)
    model, tokenizer = stage.load(stage.base)
    merges = vocabulary.choose_merges(words, tokenizer, most, flat=tokens is not None)
    if not merges:
        return without()
    half = starts.TEXTS // 2
    sample = [*random.Random(settings.seed).sample(domain, min(half, len(domain))), *islice(records.read_texts(shards), half)]
    rows = starts.trained_rows(model, tokenizer, merges, sample)
    before = bits(model, tokenizer) if tokens is not None else {}
    del model
    loading.free()
    ids = vocabulary.extend_model(stage.base, extended, merges, rows)
    if tokens is None:
        return ids
    model, after_tokenizer = stage.load(extended)
    after, saved = bits(model, after_tokenizer), vocabulary.gain(tokenizer, after_tokenizer, kinds, ids)["by_text"]
    del model
    loading.free()
    found = {name: (saved[name]["saved"], after[name] / was - 1) for name, was in before.items()}
    stay, because = vocabulary.worth_it(len(ids), tokens, found)
    console.print(f"  new tokens   {because}")
    return ids if stay else without()


def domain_texts(refined: Path) -> Iterator[str]:
    """What new tokens are to make shorter beside plain text: the exam questions that teach, and the dictionary."""
    from kmlite import prompts, records

    if (refined / paths.DICTIONARY).exists():
        for entry in records.read_dictionary(refined):
            yield f"{entry['term'].replace('/', ' ')} {entry['definition']}"
    if paths.exam_split(refined, "train").exists():
        for question in records.read_exam(refined, "train"):
            yield " ".join(question[key] for key in ("question", *prompts.LETTERS))


def train(stage, settings: Settings, model, tokenizer, ids: list[int], shards, replay, measured_on) -> None:
    """Train a LoRA and the embedding rows on the packed text."""
    from kmlite import runs
    from kmlite.evaluation import suite
    from kmlite.training import examples

    cache = settings.out / ".cache"
    with runs.first_alone():
        rows = examples.tokenised(shards, tokenizer, settings.length, cache / "text")
        old = examples.tokenised(replay, tokenizer, settings.length, cache / "replay") if replay else None
    if old:
        rows = examples.with_replay(rows, old, settings.replay_share, settings.seed)
    embeddings = stage.fitted.embeddings if ids or stage.fitted.embeddings == "all" else "none"
    adapted = stage.adapt(model, embeddings=embeddings, new_ids=ids)
    apart = stage.facts["texts_apart"] = examples.keeps_texts_apart(adapted, tokenizer)
    count = stage.facts["trainable"]
    weights = f"{count['lora']:,} LoRA and {count['embeddings']:,} embedding weights of {sum(count.values()):,}"
    console.print(f"  training     {len(rows):,} sequences, {len(rows) * settings.length:,} tokens; {weights}")
    if not apart:
        console.print("  attention    crosses the texts of a sequence: this backend has no mask for it")
    task: dict = {"embeddings": embeddings, "embedding_learning_rate": settings.embedding_learning_rate, "apart": apart}
    stage.train(adapted, tokenizer, rows, **task, every=partial(suite.bits, adapted, tokenizer, measured_on))


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
