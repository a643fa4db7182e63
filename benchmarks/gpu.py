"""What a CUDA card makes of each stage: fits or not, peak memory against the plan, tokens per second, against plain transformers.

\b
    python -m benchmarks.gpu --minutes 15             # on a card; no download, 9 GB of disk for a random model of MedGemma's shape
    python -m benchmarks.gpu --rehearse               # the same on a CPU with a tiny shape: that it runs, no figure worth a look

Cases run in order of importance, each in a process of its own; one that fails is a result. Each is printed and saved as it comes, those
that the time did not reach are listed, and a whole run on a card goes into docs/gpu.md. A cap is a card's size: torch may take that much
less the CUDA context (kmlite/models/memory.py).
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import click

from kmlite import files, paths
from kmlite.models import memory

OUT = Path("model/benchmarks/gpu.json")
DOC = paths.ROOT / "docs/gpu.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CASE_SECONDS = 180  # a case that takes longer is ended
NEW_ROWS = 5000
STEPS, ACCUMULATION = 5, 2  # of a case: the first step warms up and is not timed
KEPT = ["lm_head", "vision_tower", "multi_modal_projector"]  # stay in 16-bit, as Unsloth keeps them


def case(name: str, stage: int, precision: str = "4bit", rows: str = "none", *, way: str = "kmlite", cap: int = 0) -> dict:
    """A case: what it answers, and what it runs. With a `cap` in GiB the planner picks precision, batch and trained rows."""
    return {"name": name, "stage": stage, "precision": precision, "rows": rows, "way": way, "cap": cap}


def cases() -> list[dict]:
    """All cases, the most important first."""
    out = [case(f"stage 0 with new rows in {cap} GB", 0, "auto", "new", cap=cap) for cap in (8, 12)]
    out += [case(f"stage {stage} in 8 GB", stage, "auto", cap=8) for stage in (1, 2)]
    for stage, precision, rows in ((0, "4bit", "new"), (2, "16bit", "none"), (0, "4bit", "none"), (1, "4bit", "none")):
        out += [case("against plain transformers + peft", stage, precision, rows, way=way) for way in ("kmlite", "plain")]
    return out + [case(f"stage {stage} in {cap} GB", stage, "auto", cap=cap) for cap in (16, 24) for stage in (0, 1, 2)]


def in_words(result: dict) -> str:
    """A row of the table: case | fits | peak | planned | useful tokens/s | padding."""
    what = f"{result['name']}: stage {result['stage']}, {result['precision']}, rows {result['rows']}, {result['way']}"
    if "batch" in result:
        what += f", {result['batch']} × {result['length']}"
    fits = {True: "yes", False: "no", None: result.get("error", "not measured")}[result["fits"]]
    peak, planned = (f"{result[key] / memory.GIB:.2f}" if result.get(key) else "–" for key in ("peak_bytes", "planned_bytes"))
    rate = f"{result['tokens_per_second']:,.0f}" if "tokens_per_second" in result else "–"
    padding = f"{result['padding']:.0%}" if "padding" in result else "–"
    return f"| {what} | {fits} | {peak} | {planned} | {rate} | {padding} |"


def table(record: dict) -> str:
    """The record as markdown."""
    lines = [f"Measured on {record['card']}, {record['date']}, commit {record['commit']}; shape: {record['shape']}.", ""]
    lines += ["| case | fits | peak, GiB | planned | useful tokens/s | padding |", "| --- " * 6 + "|", *map(in_words, record["results"])]
    return "\n".join([*lines, "", f"Not run, for want of time: {'; '.join(record['not_run'])}."] if record["not_run"] else lines)


def run(asked: dict, command: list[str], seconds: float, log: Path) -> dict:
    """What a case's process says behind @@ on its last line, or why there is nothing."""
    with open(log, "ab") as noise:
        try:
            done = subprocess.run([*command, json.dumps(asked)], cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=noise, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {**asked, "fits": None, "error": f"took over {seconds:.0f} s"}
    last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    if done.returncode or not last.startswith("@@"):
        return {**asked, "fits": None, "error": f"its process ended with status {done.returncode}, see {log}"}
    return {**asked, **json.loads(last.removeprefix("@@"))}


def measured(asked: dict, model: Path, refined: Path) -> dict:
    """The case's result. Memory is measured on a card alone."""
    import torch

    if asked["way"] != "plain":
        from kmlite.models.loading import fast_model

        fast_model()  # before trl
    from kmlite.training import trainer

    shape, gpu = memory.shape_of(model), torch.cuda.is_available()
    settings, found = fitted(asked, shape, gpu)
    if gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        allowed = asked["cap"] * memory.GIB - memory.CONTEXT if asked["cap"] else total
        if allowed > total:
            return {"fits": None, "error": f"the card has {total / memory.GIB:.0f} GB"}
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    clock, way = Clock(trainer.collate), plainly if asked["way"] == "plain" else ours
    try:
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(trainer, "collate", clock):
            found |= way(asked, settings, model, refined, Path(folder)) | clock.rates()
    except (torch.OutOfMemoryError, click.ClickException) as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "out of GPU memory" in error.message):
            raise
        return {**found, "fits": False, "error": "out of memory"}
    if gpu:
        found["peak_bytes"] = torch.cuda.max_memory_allocated() + round(memory.CONTEXT)
    return {"fits": True if gpu else None, **found}


def fitted(asked: dict, shape: memory.Shape, gpu: bool) -> tuple:
    """(the recipe's settings with what the planner picks for the cap, the choice and what it plans)."""
    import importlib

    settings = importlib.import_module(f"recipes.stage{asked['stage']}").Settings()
    # without a cap as the recipe has it, not four times the batch because there is room
    accumulation, room = (settings.accumulation, asked["cap"] * memory.GIB) if asked["cap"] else (1, float("inf"))
    settings = dataclasses.replace(settings, precision=asked["precision"], accumulation=accumulation, log_every=1000)
    plan = memory.choose(shape, room, settings, embeddings=asked["rows"], new_rows=NEW_ROWS)
    batch, length = (plan.batch, plan.length) if gpu else (1, 192)
    chosen = {"precision": plan.precision, "batch": batch, "length": length}
    settings = dataclasses.replace(settings, **chosen, accumulation=ACCUMULATION, max_steps=STEPS, save_every=STEPS + 1)
    return settings, chosen | ({} if asked["way"] == "plain" else {"planned_bytes": plan.total})


def rows_of(stage: int, settings, tokenizer, refined: Path) -> list[dict]:
    """The sample's rows for all steps as the stage would train on them, repeated where there are too few."""
    from kmlite import records
    from kmlite.evaluation import dictionary
    from kmlite.training import examples

    count = STEPS * ACCUMULATION * settings.batch
    if stage == 0:
        texts = list(records.read_texts(paths.text_shards(refined)))
        rows = [{"input_ids": ids} for ids in examples.packed(tokenizer, texts * 4, settings.length)]
    else:
        pairs = dictionary.pairs(records.read_dictionary(refined))
        if stage == 2:
            pairs = examples.turns(records.read_exam(refined, "train"), 0.05, 0)[0]
        rows = examples.conversation_rows(tokenizer, pairs, settings.length)[0]
    rows = [{**row, "record": n} for n, row in enumerate((rows * (count // len(rows) + 1))[:count])]
    return rows if stage == 0 else examples.in_order([rows], settings.batch, 0)


class Clock:
    """Wraps the collator: counts the tokens of all but the first step's batches, and the time that they take. The loader draws a batch
    ahead, so the first step is done when the batch behind the next is asked for."""

    def __init__(self, whole) -> None:
        self.whole, self.seen, self.started, self.useful, self.tokens = whole, 0, 0.0, 0, 0

    def __call__(self, rows, *others):
        out = self.whole(rows, *others)
        if self.seen == ACCUMULATION + 1:
            self.started = self.now()
        if self.seen >= ACCUMULATION:
            self.useful += sum(len(row["input_ids"]) for row in rows)
            self.tokens += out["input_ids"].numel()
        self.seen += 1
        return out

    def now(self) -> float:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def rates(self) -> dict:
        return {"tokens_per_second": self.useful / (self.now() - self.started), "padding": 1 - self.useful / self.tokens}


def new_ids(loaded) -> list[int]:
    """The last rows stand for new tokens: the random model is not extended."""
    rows = loaded.get_input_embeddings().num_embeddings
    return list(range(rows - min(NEW_ROWS, rows // 2), rows))


def ours(asked: dict, settings, model: Path, refined: Path, folder: Path) -> dict:
    """A few optimizer steps by kmlite's own way."""
    from kmlite.models import loading
    from kmlite.training import examples, trainer

    recompute = loading.recomputes(settings.checkpointing)
    loaded, tokenizer = loading.load(model, settings.precision, settings.length, recompute)
    how = {"r": settings.rank, "alpha": settings.alpha, "dropout": settings.dropout, "seed": 0, "recompute": recompute}
    adapted = loading.add_lora(loaded, **how, embeddings=asked["rows"], new_ids=new_ids(loaded) if asked["rows"] == "new" else None)
    rows = rows_of(asked["stage"], settings, tokenizer, refined)
    apart = asked["stage"] == 0 and examples.keeps_texts_apart(adapted, tokenizer)
    task = trainer.Task(embeddings=asked["rows"], embedding_learning_rate=2e-4, order="sequential", apart=apart)
    result = trainer.train(adapted, tokenizer, rows, folder, settings, task)
    return {"loss": result["loss"]} | ({"fits": False, "error": "went on with a smaller batch"} if result["out_of_memory"] else {})


def plainly(asked: dict, settings, model: Path, refined: Path, folder: Path) -> dict:
    """The same steps by transformers' Trainer and peft, as their documentation has it, and without Unsloth."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments

    from kmlite.models.loading import TEXT_PROJECTIONS
    from kmlite.training import trainer

    gpu, how = torch.cuda.is_available(), {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    nf4 = BitsAndBytesConfig(load_in_4bit=True, **how, bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=KEPT)
    loaded = AutoModelForImageTextToText.from_pretrained(
        model,
        dtype=torch.bfloat16 if gpu else torch.float32,
        quantization_config=nf4 if settings.precision == "4bit" else None,
        device_map={"": 0 if gpu else "cpu"},
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded.config.use_cache = False
    loaded.enable_input_require_grads()  # and no prepare_model_for_kbit_training: its float32 embedding and norms would only cost memory
    how = {"r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout, "use_rslora": True}
    rows = {"trainable_token_indices": {"embed_tokens": new_ids(loaded)}} if asked["rows"] == "new" else {}
    adapted = get_peft_model(loaded, LoraConfig(**how, **rows, target_modules=TEXT_PROJECTIONS, task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=settings.batch,
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
        report_to="none",
        disable_tqdm=True,
    )
    data = Dataset.from_list(rows_of(asked["stage"], settings, tokenizer, refined))
    batch = lambda rows: trainer.collate(rows, tokenizer, 8 if gpu else 1, False)  # noqa: E731
    result = Trainer(model=adapted, args=arguments, train_dataset=data, data_collator=batch).train()
    return {"loss": round(result.training_loss, 4)}


def prepare(folder: Path, shape: str) -> tuple[Path, Path]:
    """(the random model, the refined sample), made where they are not there."""
    from benchmarks import random_model

    refined, model = (folder / "sample").resolve(), (folder / f"random-{shape}").resolve()
    if not (refined / paths.REFINE_RECORD).exists():
        sample = ["--raw", str(paths.SAMPLE_RAW), "--refined", str(refined), "--heldout-share", "0.1"]
        subprocess.run([sys.executable, "-m", "recipes.refine", *sample], cwd=paths.ROOT, check=True)
    if not model.exists():
        click.echo(f"building a random model of the shape {shape} in {model}")
        random_model.build(model, shape, refined)
    return model, refined


@click.command(help=__doc__)
@click.option("--minutes", default=15.0, help="time for all cases; those that are left are listed")
@click.option("--rehearse", is_flag=True, help="tiny shape on the CPU")
@click.option("--case", "one", nargs=3, hidden=True, help="model, refined data and a case, for its own process")
def main(minutes, rehearse, one) -> None:
    if one:
        return click.echo("\n@@" + json.dumps(measured(json.loads(one[2]), Path(one[0]), Path(one[1]))))
    if rehearse:
        os.environ |= {"UNSLOTH_FORCE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    out, shape = (OUT.with_name("rehearsal.json"), "tiny") if rehearse else (OUT, "medgemma")
    asked = [sys.executable, "-c", "import json; from kmlite import runs; print(json.dumps(runs.environment()))"]
    found = json.loads(subprocess.run(asked, cwd=paths.ROOT, capture_output=True, check=True).stdout)  # this process never touches the card
    if found["device"].startswith("CPU") and not rehearse:
        raise click.ClickException("no CUDA card is seen here (nvidia-smi?). On a CPU: python -m benchmarks.gpu --rehearse")
    started, (model, refined) = time.monotonic(), prepare(out.parent, shape)
    card = "CPU (a rehearsal: its figures mean nothing)" if rehearse else found["device"]
    record = {"card": card, "date": time.strftime("%Y-%m-%d"), "commit": found["commit"], "versions": found["versions"], "shape": shape}
    record |= {"results": [], "not_run": []}
    command = [sys.executable, "-m", "benchmarks.gpu", "--case", str(model), str(refined)]
    for asked in cases():
        left = 60 * minutes - (time.monotonic() - started)
        if left < 30:
            record["not_run"].append(f"{asked['name']} (stage {asked['stage']}, {asked['way']})")
            continue
        record["results"].append(run(asked, command, min(left, CASE_SECONDS), out.with_suffix(".log")))
        files.write_json(out, record)
        click.echo(in_words(record["results"][-1]))
    files.write_json(out, record)
    click.echo(f"\n{table(record)}\nsaved to {out}")
    if not rehearse:
        head, _, rest = DOC.read_text(encoding="utf-8").partition(BEGIN)
        files.write_text(DOC, f"{head}{BEGIN}\n{table(record)}\n{END}{rest.partition(END)[2]}")
        click.echo(f"written to {DOC}")


if __name__ == "__main__":
    main()
