"""kmlite against plain transformers and peft on a CPU: tokens a second in training, exam questions a second by letter, and memory.

\b
    OMP_NUM_THREADS=2 .venv/bin/python -m benchmarks.cpu --model MODEL --refined data/02_refined

Both train the same rows with the same settings (rank 64, dropout 0.05, batch 2), plain in float32 with transformers' own Trainer. Each
case is a process of its own, the two take turns, and medians are compared. Beside the wall clock stands the processor time,
which other programs on the machine disturb less.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from kmlite import paths
from kmlite.cli import console, recipe, setting
from kmlite.files import write_json

CASES = ("text", "exam", "letter")
WAYS = ("plain", "kmlite")


@dataclass(frozen=True)
class Settings:
    model: Path = setting(Path("model/00_trained/final"), "folder of a Gemma 3 model")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    length: int = setting(512, "tokens of a sequence of text, as stage 0 packs it")
    steps: int = setting(3, "optimizer steps of a case; the first warms up and is not timed")
    batches: int = setting(2, "batches of an optimizer step")
    questions: int = setting(32, "exam questions to score by letter")
    times: int = setting(3, "of which the median is taken")
    only: str = setting("", "one case alone: text, exam or letter")
    out: Path = setting(Path("benchmarks/cpu.json"), "where the figures go")


def main(settings: Settings) -> None:
    found: dict[str, dict] = {}
    for case in [settings.only] if settings.only else CASES:
        runs: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(settings.times):
            for way in WAYS:
                runs[way].append(apart(case, way, settings))
                console.print(f"  {case} {way}: {json.dumps(runs[way][-1])}")
        found[case] = {way: median(runs[way]) for way in WAYS}
        wall, processor = (found[case]["kmlite"][name] / found[case]["plain"][name] for name in ("a_second", "a_processor_second"))
        found[case] |= {"times_as_fast": round(wall, 2), "times_as_fast_in_processor_time": round(processor, 2)}
        console.print(f"{case}: {found[case]}")
    write_json(settings.out, {"model": settings.model.name, "settings": {k: str(v) for k, v in vars(settings).items()}, **found})


def median(runs: list[dict]) -> dict:
    numbers = [key for key, value in runs[0].items() if isinstance(value, float)]
    return {**runs[0], **{key: round(statistics.median(run[key] for run in runs), 3) for key in numbers}}


def apart(case: str, way: str, settings: Settings) -> dict:
    asked = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    command = [sys.executable, "-m", "benchmarks.cpu", "--case", json.dumps({**asked, "case": case, "way": way})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


# ---- one case, in its own process


def measured(asked: dict) -> dict:
    asked = {**asked, "model": Path(asked["model"]), "refined": Path(asked["refined"])}
    work = {"text": trained, "exam": trained, "letter": scored}[asked["case"]]
    found = work(asked)
    return {**found, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


class Clock:
    """Time between its first and its last tick, by the wall and by the processor."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.ticks.append((time.perf_counter(), time.process_time()))

    def rates(self, count: int) -> dict:
        wall, processor = (last - first for first, last in zip(self.ticks[0], self.ticks[-1], strict=True))
        return {"a_second": count / wall, "a_processor_second": count / processor}


def rows_of(asked: dict, tokenizer) -> list[dict]:
    """Sequences for all steps: packed text, or exam questions with their answers, sorted into batches of similar length."""
    from kmlite import records
    from kmlite.training import examples

    count = 2 * asked["batches"] * asked["steps"]
    if asked["case"] == "text":
        packed = examples.packed(tokenizer, records.read_texts(paths.text_shards(asked["refined"])), asked["length"])
        return [{"input_ids": next(packed), "record": number} for number in range(count)]
    turns = examples.turns(records.read_exam(asked["refined"], "train")[: 20 * count], 0.0, 0)[0]
    rows = examples.conversation_rows(tokenizer, turns, asked["length"])[0]
    return examples.in_order([rows], 2, 0)[:count]


def trained(asked: dict) -> dict:
    from transformers import TrainerCallback

    clock = Clock()

    class Timed(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.tick()  # what comes after the last step, such as saving, is no training

    with tempfile.TemporaryDirectory() as folder:
        rows, result = (plainly if asked["way"] == "plain" else ours)(asked, Path(folder), Timed())
    timed = rows[2 * asked["batches"] :]
    return {**clock.rates(sum(len(row["input_ids"]) for row in timed)), **result}


def ours(asked: dict, folder: Path, timed) -> tuple[list[dict], dict]:
    from unittest import mock

    from kmlite.models import loading
    from kmlite.training import trainer
    from recipes import stage2

    settings = replace(
        stage2.Settings(),
        length=asked["length"],
        batch=2,
        accumulation=asked["batches"],
        max_steps=asked["steps"],
        epochs=1,
        save_every=10**9,
    )
    model, tokenizer = loading.load(asked["model"], "16bit", asked["length"])
    how = {"r": settings.rank, "alpha": settings.alpha, "dropout": settings.dropout}
    adapted = loading.add_lora(model, **how, seed=0)
    rows = rows_of(asked, tokenizer)
    prepare = trainer.prepare

    def with_clock(*args):
        prepared = prepare(*args)
        prepared[0].add_callback(timed)
        return prepared

    with mock.patch.object(trainer, "prepare", with_clock):
        result = trainer.train(adapted, tokenizer, rows, folder, settings, trainer.Task(order="sequential"))
    return rows, {"loss": result["loss"], "compute": result["compute"]}


def plain_model(folder: Path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def plainly(asked: dict, folder: Path, timed) -> tuple[list[dict], dict]:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    from kmlite.models.loading import TEXT_PROJECTIONS
    from kmlite.training.trainer import collate
    from recipes import stage2

    settings = stage2.Settings()
    model, tokenizer = plain_model(asked["model"])
    model.config.use_cache = False
    how = {"r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout, "use_rslora": True}
    adapted = get_peft_model(model, LoraConfig(**how, target_modules=TEXT_PROJECTIONS, task_type="CAUSAL_LM"))
    rows = rows_of(asked, tokenizer)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=asked["steps"],
        per_device_train_batch_size=2,
        gradient_accumulation_steps=asked["batches"],
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=0.01,
        optim="adamw_torch",
        use_cpu=True,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
    )
    data = Dataset.from_list(rows)
    trainer = Trainer(
        model=adapted, args=arguments, train_dataset=data, data_collator=lambda rows: collate(rows, tokenizer, 1, False), callbacks=[timed]
    )
    return rows, {"loss": round(trainer.train().training_loss, 4), "compute": "float32"}


def scored(asked: dict) -> dict:
    """Exam questions by letter: ours in batches, plain one by one, as most scripts do it."""
    import torch

    from kmlite import prompts, records
    from kmlite.evaluation import scoring
    from kmlite.models import loading

    questions = records.read_exam(asked["refined"], "dev")[: asked["questions"]]
    clock = Clock()
    if asked["way"] == "kmlite":
        model, tokenizer = loading.load(asked["model"], "16bit", 2048)
        clock.tick()
        answers = scoring.answer_exam(model, tokenizer, questions, scorer="letter", batch=32)
        clock.tick()
        return {**clock.rates(len(questions)), "right": sum(answer["right"] for answer in answers)}
    model, tokenizer = plain_model(asked["model"])
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in prompts.LETTERS]
    right = 0
    clock.tick()
    for question in questions:
        ids = prompts.conversation_ids(tokenizer, prompts.exam_prompt(question, False))[0]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1, letters]
        right += prompts.LETTERS[int(logits.argmax())] == question["answer"]
    clock.tick()
    return {**clock.rates(len(questions)), "right": right}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(measured(json.loads(sys.argv[2]))))
    else:
        recipe(Settings)(main)()
