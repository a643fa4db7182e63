"""One case of benchmarks/gpu.py, in a process of its own: train a few steps or answer questions, and measure.

python -m benchmarks.gpu_case MODEL REFINED < cases, a JSON object a line
"""

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import click

from kmlite import paths
from kmlite.models import memory

NEW_ROWS = 5000
KEPT = ["lm_head", "vision_tower", "multi_modal_projector"]  # stay in 16-bit, as Unsloth keeps them
STEPS, ACCUMULATION = 5, 2  # of a case: the first step warms up and is not timed


def settings_of(asked: dict, shape: memory.Shape) -> dict:
    """The case with what kmlite's planner picks for its cap, where it asks for that."""
    if not asked["as_planned"]:
        return asked
    recipe = recipe_settings(asked)
    plan = memory.choose(shape, asked["cap"] * memory.GIB, recipe, embeddings=asked["embeddings"], new_rows=NEW_ROWS)
    chosen = {"precision": plan.precision, "batch": plan.batch, "embeddings": plan.embeddings, "planned_to_fit": plan.fits}
    return {**asked, **chosen, "reduced": plan.reduced}


def recipe_settings(asked: dict):
    """The stage's own settings, with the case's length, batch and precision, and few short steps."""
    import importlib

    settings = importlib.import_module(f"recipes.stage{asked['stage']}").Settings()
    given = {name: asked[name] for name in ("length", "batch", "accumulation")} | {"log_every": 1000}
    return dataclasses.replace(settings, **given, precision="auto" if asked["as_planned"] else asked["precision"])


def rows_of(asked: dict, tokenizer, refined: Path, count: int) -> list[dict]:
    """`count` rows of the sample as the stage would train on them, repeated where there are too few."""
    from kmlite import records
    from kmlite.evaluation import dictionary
    from kmlite.training import examples

    if asked["stage"] == 0:
        texts = list(records.read_texts(paths.text_shards(refined)))
        rows = [{"input_ids": ids} for ids in examples.packed(tokenizer, texts * 4, asked["length"])]
    else:
        teaching = dictionary.pairs(records.read_dictionary(refined))
        if asked["stage"] == 2:
            teaching = examples.turns(records.read_exam(refined, "train"), 0.05, 0)[0]
        rows, _ = examples.conversation_rows(tokenizer, teaching, asked["length"])
    return [{**row, "record": n} for n, row in enumerate((rows * (count // len(rows) + 1))[:count])]


class Clock:
    """Wraps the collator: counts the tokens of all but the first `warm` batches, and the time that they take.

    The loader draws a batch ahead, so the `warm` first ones are done when the one behind the next is asked for.
    """

    def __init__(self, whole, warm: int) -> None:
        self.whole, self.warm, self.seen, self.started = whole, warm, 0, 0.0
        self.useful = self.tokens = 0

    def __call__(self, rows, *others):
        out = self.whole(rows, *others)
        if self.seen == self.warm + 1:
            synchronize()
            self.started = time.perf_counter()
        if self.seen >= self.warm:
            self.useful += sum(len(row["input_ids"]) for row in rows)
            self.tokens += out["input_ids"].numel()
        self.seen += 1
        return out

    def rates(self) -> dict:
        synchronize()
        seconds = time.perf_counter() - self.started
        rates = {"tokens_per_second": self.tokens / seconds, "useful_tokens_per_second": self.useful / seconds}
        return {**rates, "padding": 1 - self.useful / self.tokens, "seconds": seconds}


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def trained_here(asked: dict, model: Path, refined: Path) -> dict:
    """A few optimizer steps by kmlite's own way: Unsloth's loader, kmlite.training.trainer's trainer."""
    from benchmarks.padding import fixed
    from kmlite.models import loading
    from kmlite.training import examples, trainer

    settings = recipe_settings(asked)
    recompute = loading.recomputes(settings.checkpointing)
    loaded, tokenizer = loading.load(model, asked["precision"], asked["length"], recompute)
    how = {"r": settings.rank, "alpha": settings.alpha, "dropout": settings.dropout, "seed": 0}
    new = new_ids(loaded) if asked["embeddings"] == "new" else None
    adapted = loading.add_lora(loaded, **how, recompute=recompute, embeddings=asked["embeddings"], new_ids=new)
    rows = rows_of(asked, tokenizer, refined, STEPS * ACCUMULATION * asked["batch"])
    apart, order = False, "random"
    if asked["stage"] == 0:
        apart = examples.keeps_texts_apart(adapted, tokenizer)
    elif not asked["padded"]:
        rows, order = examples.in_order([rows], asked["batch"], 0), "sequential"
    whole = trainer.collate
    if asked["padded"]:

        def whole(batch, tokenizer, *others):
            return fixed(batch, tokenizer, asked["length"])

    clock = Clock(whole, warm=ACCUMULATION)
    settings = dataclasses.replace(settings, batch=asked["batch"], accumulation=ACCUMULATION, max_steps=STEPS, save_every=STEPS + 1)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(trainer, "collate", clock):
        task = trainer.Task(embeddings=asked["embeddings"], embedding_learning_rate=2e-4, order=order, apart=apart)
        result = trainer.train(adapted, tokenizer, rows, Path(folder), settings, task)
    found = {**clock.rates(), "loss": result["loss"], "fits": result["out_of_memory"] == 0, "batch_in_the_end": result["batch"]}
    return found | ({"texts_apart": apart} if asked["stage"] == 0 else {}) | {"parts": parts_of(asked, settings, model)}


def new_ids(loaded) -> list[int]:
    """The last rows stand for new tokens: the random model is not extended."""
    rows = loaded.get_input_embeddings().num_embeddings
    return list(range(rows - min(NEW_ROWS, rows // 2), rows))


def parts_of(asked: dict, settings, model: Path) -> dict:
    from kmlite.models.loading import recomputes

    return memory.parts(
        memory.shape_of(model),
        precision=asked["precision"],
        rank=settings.rank,
        batch=asked["batch"],
        length=asked["length"],
        embeddings=asked["embeddings"],
        new_rows=NEW_ROWS,
        dropout=settings.dropout,
        recompute=recomputes(settings.checkpointing),
    )


def trained_plainly(asked: dict, model: Path, refined: Path) -> dict:
    """The same steps with transformers' Trainer and peft, as their documentation has it, and without Unsloth."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments

    from kmlite.models.loading import TEXT_PROJECTIONS
    from kmlite.training import examples, trainer

    settings, gpu = recipe_settings(asked), torch.cuda.is_available()
    quantised = None
    if asked["precision"] == "4bit":
        quantised = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=KEPT,
        )
    elif asked["precision"] == "8bit":
        quantised = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT)
    loaded = AutoModelForImageTextToText.from_pretrained(
        model,
        dtype=torch.bfloat16 if gpu else torch.float32,
        quantization_config=quantised if gpu or asked["precision"] == "4bit" else None,
        device_map={"": 0 if gpu else "cpu"},
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded.config.use_cache = False
    loaded.enable_input_require_grads()  # and no prepare_model_for_kbit_training: its float32 embedding and norms would only cost memory
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=True,
        target_modules=TEXT_PROJECTIONS,
        task_type="CAUSAL_LM",
        trainable_token_indices={"embed_tokens": new_ids(loaded)} if asked["embeddings"] == "new" else None,
    )
    adapted = get_peft_model(loaded, lora)
    rows = rows_of(asked, tokenizer, refined, STEPS * ACCUMULATION * asked["batch"])
    if asked["stage"]:
        rows = examples.in_order([rows], asked["batch"], 0)
    clock = Clock(trainer.collate, warm=ACCUMULATION)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=asked["batch"],
            gradient_accumulation_steps=ACCUMULATION,
            learning_rate=settings.learning_rate,
            bf16=gpu,
            use_cpu=not gpu,
            optim="adamw_8bit" if gpu else "adamw_torch",
            gradient_checkpointing=gpu,
            gradient_checkpointing_kwargs={"use_reentrant": False} if gpu else None,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=adapted,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            data_collator=lambda batch: clock(batch, tokenizer, 8 if gpu else 1, False),
        )
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        result = trainer.train()
    return {**clock.rates(), "loss": round(result.training_loss, 4), "fits": True}


def answered(asked: dict, model: Path, refined: Path) -> dict:
    """Exam questions answered by a scorer. A random model never ends its turn: `generate` writes all its 32 tokens."""
    import torch

    from kmlite import records
    from kmlite.evaluation import scoring
    from kmlite.models import loading

    loaded, tokenizer = loading.load(model, asked["precision"], asked["length"])
    questions = (records.read_exam(refined, "train") * 2)[:64]
    scoring.answer_exam(loaded, tokenizer, questions[: asked["batch"]], scorer=asked["scorer"], batch=asked["batch"])
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    synchronize()
    started = time.perf_counter()
    scoring.answer_exam(loaded, tokenizer, questions, scorer=asked["scorer"], batch=asked["batch"])
    return {"questions_per_second": len(questions) / (time.perf_counter() - started), "fits": True}


def measured(asked: dict, model: Path, refined: Path) -> dict:
    """The case's result. Memory is measured on a card alone."""
    import torch

    if asked["with"] == "kmlite":
        from kmlite.models.loading import fast_model

        fast_model()  # before transformers
    shape = memory.shape_of(model)
    asked = settings_of(asked, shape)
    gpu = torch.cuda.is_available()
    if gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        allowed = asked["cap"] * memory.GIB - memory.CONTEXT if asked["cap"] else total
        if allowed > total:
            return {**asked, "skipped": f"the card has {total / memory.GIB:.0f} GB"}
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    work = answered if asked["kind"] == "eval" else trained_plainly if asked["with"] == "plain" else trained_here
    try:
        found = work(asked, model, refined)
    except (torch.OutOfMemoryError, click.ClickException) as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "out of GPU memory" in error.message):
            raise
        return {**asked, "fits": False, "broken": True, "error": "out of memory"}
    out = {**asked, **found}
    if not gpu:
        out["fits"] = "not measured"
    else:
        out |= {"peak_bytes": torch.cuda.max_memory_allocated() + round(memory.CONTEXT), "reserved_bytes": torch.cuda.max_memory_reserved()}
        peak = max((rate for name, rate in memory.CARDS.items() if name in torch.cuda.get_device_name()), default=None)
        if peak and "tokens_per_second" in out:
            out["utilisation"] = out["tokens_per_second"] * memory.operations(shape) / (peak * 1e12)
        if "parts" in out:
            out["planned_bytes"] = sum(out["parts"].values())
    return out


def worker(model: Path, refined: Path) -> None:
    """Cases from stdin, a JSON object a line; each result goes to stdout behind `@@`. It ends at the first that fails."""
    import gc
    import traceback

    import torch

    for line in sys.stdin:
        try:
            result = measured(json.loads(line), model, refined)
        except Exception as error:  # any failure of a case is its result
            traceback.print_exc()
            result = {**json.loads(line), "fits": None, "broken": True, "error": f"{type(error).__name__}: {error}"[:300]}
        print("\n@@" + json.dumps(result), flush=True)
        if result.get("broken"):
            return
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    worker(Path(sys.argv[1]), Path(sys.argv[2]))
