"""lm-eval itself on a model folder: its kormedmcqa task as shipped, on local questions or on the hub's."""

import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import click

from kmlite import prompts
from kmlite.evaluation import scoring
from kmlite.evaluation.generation import default_batch

PINNED = "0.4.13"
TASK, VERSION = "kormedmcqa", "3.0"  # v2.0 scored whole families of models 0: the version stands beside every figure
LONGEST_ANSWER = 1024  # tokens, the task's limit


def prompt(shots: int, chat: bool) -> dict:
    """How lm-eval asks, for the record and whoever shows its figure."""
    how = {"package": f"lm-eval {PINNED}", "task": TASK, "version": VERSION}
    return {"name": "lm-eval", **how, "shots": shots, "chat_template": chat}


def require() -> None:
    """A click error with the command that installs lm-eval, where it is missing or of another version than the pinned one."""
    if find_spec("lm_eval") is None:
        raise click.ClickException(f"lm-eval {PINNED} is not installed. Run: make extras")
    if version("lm-eval") != PINNED:
        raise click.ClickException(f"lm-eval {version('lm-eval')} is installed; the task is pinned at {PINNED}. Run: make extras")


def shipped() -> Path:
    """The folder of the task in the package."""
    import lm_eval

    return Path(str(lm_eval.__file__)).parent / "tasks" / TASK


def require_examples(fewshot: list[dict], questions: list[dict], shots: int) -> None:
    """A click error where a subject that is asked has fewer few-shot rows than `shots`."""
    for subject in sorted({scoring.subject_of(question) for question in questions}):
        rows = sum(scoring.subject_of(row) == subject for row in fewshot)
        if rows < shots:
            raise click.ClickException(
                f"--shots {shots}: {subject} has {rows} few-shot rows. KorMedMCQA has five a subject: put its\n"
                f"  fewshot.jsonl under RAW/02_kor_med_test and run make refine again, or leave --shots out."
            )


def write_tasks(folder: Path, questions: list[dict], fewshot: list[dict]) -> list[str]:
    """Write one task a subject, as lm-eval ships them, but with its data in local files; returns the tasks' names.

    Everything but the place of the data comes from the template in the package, by `include`.
    """
    names = []
    for number, subject in enumerate(sorted({scoring.subject_of(question) for question in questions})):
        files = {}
        for split, rows in (("test", questions), ("fewshot", fewshot)):
            files[split] = str(folder / f"{number}-{split}.jsonl")
            mine = [as_shipped(row, place) for place, row in enumerate(rows, 1) if scoring.subject_of(row) == subject]
            # without few-shot examples lm-eval still opens their split: then the questions stand in, unused
            Path(files[split]).write_text("\n".join(mine) if mine else Path(files["test"]).read_text("utf-8"), "utf-8")
        name = f"{TASK}_{re.sub(r'[^0-9A-Za-z]+', '_', subject)}"
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")}}
        (folder / f"{number}.yaml").write_text(json.dumps({"include": str(shipped() / "_template_yaml"), "task": name, **data}), "utf-8")
        names.append(name)
    return names


def as_shipped(question: dict, number: int) -> str:
    """A refined question as a line of lm-eval's data, where the answer is a number from 1 to 5; all lines have the same columns."""
    row = {key: question[key] for key in ("question", *prompts.LETTERS)}
    row |= {"number": number, "subject": scoring.subject_of(question), "answer": prompts.LETTERS.index(question["answer"]) + 1}
    return json.dumps(row, ensure_ascii=False)


def run(
    base: Path, work: Path, questions: list[dict] | None, fewshot: Sequence[dict] = (), *, shots: int, chat: bool, batch: int = 0
) -> tuple[list[dict], dict]:
    """Have lm-eval ask a model folder, as `lm_eval --model hf` does, in 16-bit on a GPU and in float32 on a CPU.

    `work`: an empty folder for its tasks and its copy of the data; `questions`: refined ones, None for the task's own data set, from the
    hub. Returns (predictions as of `scoring.answer_exam`, lm-eval's own results without its samples).
    """
    if questions is not None:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # all that is needed lies here
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers.utils import logging as transformers_logging

    from kmlite.models.loading import on_gpu

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every setting that it was given
    names = [TASK] if questions is None else write_tasks(work, questions, list(fewshot))
    manager = TaskManager(include_path=shipped() if questions is None else work, include_defaults=False)
    try:
        loaded = manager.load(names)
    except OSError as error:
        if questions is not None:
            raise
        raise click.ClickException(
            f"lm-eval can't fetch its data set ({str(error).splitlines()[0][:120]}).\n"
            "  Without a network put KorMedMCQA's files under RAW/02_kor_med_test and run: make refine"
        ) from error
    device, dtype = ("cuda", "bfloat16") if on_gpu() else ("cpu", "float32")
    transformers_logging.disable_progress_bar()
    lm = HFLM(pretrained=str(base), dtype=dtype, device=device, batch_size=batch or 1)
    if not sys.stdout.isatty():
        lm.generate_until = partial(lm.generate_until, disable_tqdm=True)
    if not batch:
        longest = max(len(lm.tok_encode(task.doc_to_text(doc))) for task in loaded["tasks"].values() for doc in task.test_docs())
        lm.batch_size_per_gpu = default_batch(lm.model, longest * (1 + shots) + LONGEST_ANSWER)
    found = lm_eval.simple_evaluate(
        model=lm,
        tasks=list((loaded.get("groups") or loaded["tasks"]).values()),
        num_fewshot=shots,
        task_manager=manager,
        apply_chat_template=chat,
        fewshot_as_multiturn=False,  # its examples have no turn of the model's: one user turn after another is no conversation
        bootstrap_iters=0,
    )
    predictions = [prediction(sample, questions) for name in found["samples"] for sample in found["samples"][name]]
    if questions is not None:
        predictions.sort(key=lambda one: one["number"])
    told = {key: found[key] for key in ("results", "versions", "n-shot", "lm_eval_version", "max_length")}
    return [{**one, "number": number} for number, one in enumerate(predictions, 1)], told


def prediction(sample: dict, questions: list[dict] | None) -> dict:
    """One of lm-eval's samples in the shape of kmlite's predictions; "prompt" is the text that the model was given."""
    doc = sample["doc"]
    known = doc if questions is None else questions[doc["number"] - 1]
    return {
        "number": doc.get("number"),
        **{key: known[key] for key in prompts.WHERE_FROM if key in known},
        "question": doc["question"],
        "subject": doc["subject"],
        "expected": prompts.LETTERS[doc["answer"] - 1],
        "right": bool(sample["exact_match"]),
        "answer": sample["filtered_resps"][0] or None,
        "output": sample["resps"][0][0],
        "prompt": sample["arguments"][0][0],
    }
