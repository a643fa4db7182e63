"""What a CUDA card makes of each stage: fits or not, peak memory against the plan, tokens per second, against plain transformers.

\b
    python -m benchmarks.gpu --minutes 8              # on a card; no download, 9 GB of disk for a random model of MedGemma's shape
    python -m benchmarks.gpu --table                  # write what was measured into docs/gpu.md once more
    python -m benchmarks.gpu --rehearse               # the same on a CPU with a tiny shape: that it runs, no figure worth a look

Cases run in order of importance in processes of their own kind (with Unsloth, and without); one that fails ends its process and
is a result. Each is printed and saved as it comes; those that the time did not reach are listed. A cap is a card's size: torch
may take that much less the CUDA context (kmlite/memory.py).
"""

import dataclasses
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import click

from kmlite import memory, paths, runs

OUT = Path("model/benchmarks/gpu.json")
DOC = paths.ROOT / "docs/gpu.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STAGES = {  # the recipes' settings that decide memory and speed
    0: {"length": 512, "batch": 2, "accumulation": 16},
    1: {"length": 512, "batch": 4, "accumulation": 8},
    2: {"length": 1024, "batch": 2, "accumulation": 16},
}
NEW_ROWS = 5000
KEPT = ["lm_head", "vision_tower", "multi_modal_projector"]  # stay in 16-bit, as Unsloth keeps them
STEPS, ACCUMULATION = 5, 2  # of a case: the first step warms up and is not timed
CASE_SECONDS = 150  # a case that takes longer is ended


# ---- the cases


def case(name: str, **given) -> dict:
    """A case: `name` of what it answers, and what differs from stage 0's recipe in 4-bit with Unsloth."""
    whole = {"name": name, "kind": "train", "with": "kmlite", "stage": 0, "precision": "4bit", "embeddings": "none", "cap": None}
    whole |= {"padded": False, "scorer": None, "as_planned": False} | STAGES[given.get("stage", 0)]
    return whole | given


def cases() -> list[dict]:
    """All cases, the most important first."""
    out = [case(f"target: stage 0 with new rows in {cap} GB", embeddings="new", cap=cap, as_planned=True) for cap in (8, 12)]
    out += [case(f"target: stage {stage} in 8 GB", stage=stage, cap=8, as_planned=True) for stage in (1, 2)]
    for kind in ("kmlite", "plain"):  # one kind after the other: a process of the other kind starts anew
        new = "against plain transformers + peft: stage 0 with new rows"
        out.append(case(new, **{"with": kind}, embeddings="new"))
        for stage, precision in ((0, "4bit"), (2, "16bit"), (1, "4bit")):
            out.append(case(f"against plain transformers + peft: stage {stage}", **{"with": kind}, stage=stage, precision=precision))
    for stage in (1, 2):
        for padded in (True, False):
            out.append(case("padding", stage=stage, padded=padded))
    for scorer in ("letter", "generate"):
        out.append(case("evaluation", kind="eval", scorer=scorer, batch=8))
    for cap in (16, 24):
        out.append(case("cap", cap=cap, embeddings="auto", as_planned=True))
    for cap in (12, 16, 24):
        out += [case("cap", cap=cap, stage=stage, as_planned=True) for stage in (1, 2)]
    for embeddings in ("new", "none", "all"):
        for precision in ("4bit", "8bit", "16bit"):
            for length in (512, 1024):
                out.append(case("matrix", precision=precision, embeddings=embeddings, length=length))
    for scorer in ("letter", "generate"):
        out.append(case("evaluation", kind="eval", scorer=scorer, precision="16bit", batch=8))
    return out


def label(asked: dict) -> str:
    what = f"stage {asked['stage']}" if asked["kind"] == "train" else f"eval by {asked['scorer']}"
    rows = f", rows {asked['embeddings']}" if asked["kind"] == "train" and asked["stage"] == 0 else ""
    parts = [what + rows, asked["precision"], f"{asked['batch']} × {asked['length']}"]
    parts += ["padded as given"] if asked["padded"] else []
    parts += ["plain"] if asked["with"] == "plain" else []
    return ", ".join(parts + ([f"cap {asked['cap']} GB"] if asked["cap"] else []))


# ---- in a worker: one case


def settings_of(asked: dict, shape: memory.Shape) -> dict:
    """The case with what kmlite's planner picks for its cap, where it asks for that."""
    if not asked["as_planned"]:
        return asked
    recipe = recipe_settings(asked)
    plan = memory.choose(shape, asked["cap"] * memory.GIB, recipe, embeddings=asked["embeddings"], new_rows=NEW_ROWS)
    chosen = {"precision": plan.precision, "batch": plan.batch, "embeddings": plan.embeddings, "planned_to_fit": plan.fits}
    return {**asked, **chosen, "gave_up": plan.gave_up}


def recipe_settings(asked: dict):
    """The stage's own settings, with the case's length, batch and precision, and few short steps."""
    import importlib

    settings = importlib.import_module(f"recipes.stage{asked['stage']}").Settings()
    given = {name: asked[name] for name in ("length", "batch", "accumulation")} | {"log_every": 1000}
    return dataclasses.replace(settings, **given, precision="auto" if asked["as_planned"] else asked["precision"])


def rows_of(asked: dict, tokenizer, refined: Path, count: int) -> list[dict]:
    """`count` rows of the sample as the stage would train on them, repeated where there are too few."""
    from kmlite import definitions, exam, packing, records, training

    if asked["stage"] == 0:
        texts = list(records.read_texts(paths.text_shards(refined)))
        rows = [{"input_ids": ids} for ids in packing.packed(tokenizer, texts * 4, asked["length"])]
    else:
        teaching = definitions.pairs(records.read_dictionary(refined))
        if asked["stage"] == 2:
            teaching = exam.turns(records.read_exam(refined, "train"), 0.05, 0)[0]
        rows, _ = training.conversation_rows(tokenizer, teaching, asked["length"])
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
    """A few optimizer steps by kmlite's own way: Unsloth's loader, kmlite.training's trainer."""
    from benchmarks.padding import fixed
    from kmlite import model as loading
    from kmlite import packing, shuffling, training

    settings = recipe_settings(asked)
    recompute = loading.recomputes(settings.checkpointing)
    loaded, tokenizer = loading.load(model, asked["precision"], asked["length"], recompute)
    how = {"r": settings.rank, "alpha": settings.alpha, "dropout": settings.dropout, "rslora": settings.rslora, "seed": 0}
    new = new_ids(loaded) if asked["embeddings"] == "new" else None
    adapted = loading.add_lora(loaded, **how, recompute=recompute, embeddings=asked["embeddings"], new_ids=new)
    rows = rows_of(asked, tokenizer, refined, STEPS * ACCUMULATION * asked["batch"])
    apart, order = False, "random"
    if asked["stage"] == 0:
        apart = packing.keeps_texts_apart(adapted, tokenizer)
    elif not asked["padded"]:
        rows, order = shuffling.in_order([rows], asked["batch"], 0), "sequential"
    whole = training.collate
    if asked["padded"]:

        def whole(batch, tokenizer, *others):
            return fixed(batch, tokenizer, asked["length"])

    clock = Clock(whole, warm=ACCUMULATION)
    settings = dataclasses.replace(settings, batch=asked["batch"], accumulation=ACCUMULATION, max_steps=STEPS)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(training, "collate", clock):
        result = training.train(
            adapted,
            tokenizer,
            rows,
            Path(folder),
            settings,
            save="no",
            embeddings=asked["embeddings"],
            embedding_learning_rate=2e-4,
            order=order,
            epochs=1,
            apart=apart,
        )
    found = {**clock.rates(), "loss": result["loss"], "fits": result["out_of_memory"] == 0, "batch_in_the_end": result["batch"]}
    return found | ({"texts_apart": apart} if asked["stage"] == 0 else {}) | {"parts": parts_of(asked, settings, model)}


def new_ids(loaded) -> list[int]:
    """The last rows stand for new tokens: the random model is not extended."""
    rows = loaded.get_input_embeddings().num_embeddings
    return list(range(rows - min(NEW_ROWS, rows // 2), rows))


def parts_of(asked: dict, settings, model: Path) -> dict:
    from kmlite.model import recomputes

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

    from kmlite import shuffling, training
    from kmlite.model import TEXT_PROJECTIONS

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
        use_rslora=settings.rslora,
        target_modules=TEXT_PROJECTIONS,
        task_type="CAUSAL_LM",
        trainable_token_indices={"embed_tokens": new_ids(loaded)} if asked["embeddings"] == "new" else None,
    )
    adapted = get_peft_model(loaded, lora)
    rows = rows_of(asked, tokenizer, refined, STEPS * ACCUMULATION * asked["batch"])
    if asked["stage"]:
        rows = shuffling.in_order([rows], asked["batch"], 0)
    clock = Clock(training.collate, warm=ACCUMULATION)
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

    from kmlite import model as loading
    from kmlite import records, scoring

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
        from kmlite.model import fast_model

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


# ---- the parent


class Workers:
    """One process at a time: of the kind that the case needs, with the model of the last case freed."""

    def __init__(self, model: Path, refined: Path, log: Path) -> None:
        self.command = [sys.executable, "-m", "benchmarks.gpu", "--model", str(model), "--refined", str(refined), "--worker"]
        self.log, self.process, self.kind = log, None, ""

    def run(self, asked: dict, seconds: float) -> dict:
        """The case's result, or why there is none."""
        if self.process is None or self.kind != asked["with"]:
            self.stop()
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    start_new_session=True,
                    cwd=paths.ROOT,
                )
            self.kind = asked["with"]
        self.process.stdin.write((json.dumps(asked) + "\n").encode())
        end, buffer = time.monotonic() + seconds, b""
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            buffer += chunk
            _, mark, rest = buffer.partition(b"\n@@")
            if mark and b"\n" in rest:
                result = json.loads(rest.split(b"\n")[0])
                if result.get("broken"):
                    self.stop()
                return result
            if not chunk:
                why = (
                    f"took over {seconds:.0f} s" if not ready else f"its process ended with status {self.process.wait(30)}, see {self.log}"
                )
                self.stop()
                return {**asked, "fits": None, "error": why}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


def in_words(result: dict) -> str:
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    if result.get("error"):
        return f"DOES NOT FIT: {result['error']}" if result["fits"] is False else f"failed: {result['error']}"
    parts = [] if result["fits"] else [f"does not fit; went on at batch {result['batch_in_the_end']}"]
    if "peak_bytes" in result:
        parts.append(f"peak {result['peak_bytes'] / memory.GIB:.2f} GiB")
    if "planned_bytes" in result:
        parts.append(f"planned {result['planned_bytes'] / memory.GIB:.2f} ({result['planned_bytes'] / result['peak_bytes'] - 1:+.0%})")
    if "tokens_per_second" in result:
        parts.append(f"{result['useful_tokens_per_second']:,.0f} tokens/s, padding {result['padding']:.0%}")
    if "utilisation" in result:
        parts.append(f"{result['utilisation']:.1%} of the card's peak")
    if "questions_per_second" in result:
        parts.append(f"{result['questions_per_second']:.1f} questions/s")
    return ", ".join(parts)


def answers(results: list[dict]) -> list[str]:
    """What the targets of this benchmark come to, said plainly; what was not measured is said so."""
    out = []
    for result in results:
        if result["name"].startswith("target: "):
            verdict = {True: "yes", False: "NO"}.get(result.get("fits"), "not known")
            out.append(f"{result['name'].removeprefix('target: ')} ({result['precision']}, batch {result['batch']}): {verdict}")
    pairs: dict[str, dict] = {}
    for result in results:
        if result["name"].startswith("against plain"):
            pairs.setdefault(result["name"], {})[result["with"]] = result
    for name, pair in pairs.items():
        ours, plain = pair.get("kmlite", {}), pair.get("plain", {})
        if not (ours.get("fits") and plain.get("fits")):
            out.append(f"{name}: not known")
            continue
        ratio = ours["useful_tokens_per_second"] / plain["useful_tokens_per_second"]
        held = f", {ours['peak_bytes'] / plain['peak_bytes']:.2f}× its memory" if "peak_bytes" in ours else ", memory not measured"
        out.append(f"{name} ({ours['precision']}): {ratio:.2f}× its tokens/s{held} (aim: 1.8× at equal memory, or 0.6× its memory)")
    for stage in (1, 2):
        both = {r["padded"]: r for r in results if r["name"] == "padding" and r["stage"] == stage and r.get("fits")}
        if len(both) == 2:
            ratio = both[False]["useful_tokens_per_second"] / both[True]["useful_tokens_per_second"]
            out.append(f"padding, stage {stage}: {ratio:.1f}× the useful tokens/s of rows padded to the full length")
    return out


def table(record: dict) -> str:
    """The record as markdown."""
    lines = [f"Measured on {record['card']}, {record['date']}, commit {record['commit']}; shape: {record['shape']}.", ""]
    lines += [f"- {line}" for line in answers(record["results"])]
    lines += ["", "| case | fits | peak, GiB | planned | useful tokens/s | of the card's peak | padding |", "| --- " * 7 + "|"]
    for result in record["results"]:
        fits = {True: "yes", False: "no", None: result.get("error", result.get("skipped", ""))}.get(result.get("fits"), "not measured")
        size = [f"{result[key] / memory.GIB:.2f}" if key in result else "–" for key in ("peak_bytes", "planned_bytes")]
        rate = f"{result['useful_tokens_per_second']:,.0f}" if "useful_tokens_per_second" in result else "–"
        if "questions_per_second" in result:
            rate = f"{result['questions_per_second']:.1f} questions/s"
        share = [f"{result[key]:.0%}" if key in result else "–" for key in ("utilisation", "padding")]
        lines.append(f"| {label(result)} | {fits} | {size[0]} | {size[1]} | {rate} | {share[0]} | {share[1]} |")
    if record["not_run"]:
        lines += ["", "Not run, for want of time: " + "; ".join(record["not_run"]) + "."]
    return "\n".join(lines)


def write_table(record: dict) -> None:
    """Put the table into docs/gpu.md, between its two marks. Only what a card measured on the real shape goes there."""
    if record["card"].startswith("CPU") or record["shape"] != "medgemma":
        raise click.ClickException(
            "that is a rehearsal or another shape: docs/gpu.md takes what a card measured on MedGemma's. Run: make bench-gpu"
        )
    text = DOC.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    runs.write_text(DOC, f"{head}{BEGIN}\n{table(record)}\n{END}{tail}")
    click.echo(f"written to {DOC}")


def apart(code: str) -> str:
    """What a process of its own prints: this one never touches the card, where its context would take from what is measured."""
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip()[-2000:])
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def refined_sample(folder: Path) -> Path:
    """The refined sample, made anew where it is not there."""
    from click.testing import CliRunner

    from recipes import refine

    if not (folder / paths.REFINE_RECORD).exists():
        result = CliRunner().invoke(refine.command, ["--raw", str(paths.SAMPLE_RAW), "--refined", str(folder), "--heldout-share", "0.1"])
        if result.exit_code:
            raise click.ClickException(result.output)
    return folder


@click.command(help=__doc__)
@click.option("--minutes", default=8.0, help="time for all cases; those that are left are listed")
@click.option("--shape", type=click.Choice(("medgemma", "tiny")), default="medgemma")
@click.option("--rehearse", is_flag=True, help="tiny shape on the CPU")
@click.option("--only", default="", help="cases whose name holds this")
@click.option("--out", type=click.Path(path_type=Path), default=None, help=f"default {OUT}; of a rehearsal its own")
@click.option("--table", "as_table", is_flag=True, help=f"write {OUT} into docs/gpu.md")
@click.option("--model", type=click.Path(path_type=Path), default=None, hidden=True)
@click.option("--refined", type=click.Path(path_type=Path), default=None, hidden=True)
@click.option("--worker", "as_worker", is_flag=True, hidden=True)
def main(minutes, shape, rehearse, only, out, as_table, model, refined, as_worker) -> None:
    if as_worker:
        return worker(model, refined)
    out = out or (OUT.with_name("rehearsal.json") if rehearse else OUT)
    if as_table:
        return write_table(runs.read_json(paths.require(out, "Run first: make bench-gpu")))
    if rehearse:
        shape = "tiny"
        os.environ |= {"UNSLOTH_FORCE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    found = json.loads(apart("import json; from kmlite import runs; print(json.dumps(runs.environment()))"))
    if found["device"].startswith("CPU") and not rehearse:
        raise click.ClickException("no CUDA card is seen here (nvidia-smi?). On a CPU: python -m benchmarks.gpu --rehearse")
    started = time.monotonic()
    refined = refined_sample(out.parent / "sample").resolve()
    model = (out.parent / f"random-{shape}").resolve()
    if not model.exists():
        click.echo(f"building a random model of the shape {shape} in {model}")
        build = f"build(Path({str(model)!r}), {shape!r}, Path({str(refined)!r}))"
        apart(f"from pathlib import Path; from benchmarks.random_model import build; {build}")
        click.echo(f"  built in {time.monotonic() - started:.0f} s")
    card = "CPU (a rehearsal: its figures mean nothing)" if rehearse else found["device"]
    record = {"card": card, "date": time.strftime("%Y-%m-%d"), "commit": found["commit"], "versions": found["versions"], "shape": shape}
    record |= {"results": [], "not_run": []}
    workers = Workers(model, refined, out.with_suffix(".log"))
    wanted = [asked for asked in cases() if only in asked["name"]]
    try:
        for number, asked in enumerate(wanted):
            left = 60 * minutes - (time.monotonic() - started)
            if left < 15:
                record["not_run"] = [f"{part['name']}: {label(part)}" for part in wanted[number:]]
                break
            begun = time.monotonic()
            result = workers.run(asked, min(left, CASE_SECONDS))
            result["whole_seconds"] = round(time.monotonic() - begun, 1)
            record["results"].append(result)
            runs.write_json(out, record)
            click.echo(f"{result['name']} | {label(result)} | {in_words(result)} | {result['whole_seconds']:.0f} s")
    finally:
        workers.stop()
        runs.write_json(out, record)
    click.echo("\n" + "\n".join(answers(record["results"])))
    for line in record["not_run"]:
        click.echo(f"not run: {line}")
    if rehearse:
        click.echo(table(record))
        click.echo("a rehearsal on a CPU: memory was not measured, and no figure above says anything about a card")
    click.echo(f"saved to {out}")
    if not rehearse and shape == "medgemma" and not only:
        write_table(record)


if __name__ == "__main__":
    main()
