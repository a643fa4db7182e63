"""Have lm-eval itself score a model on its kormedmcqa task: the figure that others can compare with theirs.

\b
    make eval OUT=model HARNESS=1                       stage 2's final model
    make eval OUT=model HARNESS=1 BASE=some/model       any other model
    make eval OUT=model HARNESS=1 ARGS="--shots 5 --hub"

Asks the refined test questions, or, where there are none or with --hub, the data set from the hub as lm-eval does. Refine changes
white space and sets faulty questions aside: the figure to publish beside others' is the one with --hub. Needs the extra `eval`.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting
from recipes import evaluate


@dataclass(frozen=True)
class Settings:
    base: str = setting("", "model to evaluate; empty: stage 2's final model in OUT")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models")
    shots: int = setting(0, "few-shot examples before the question; 0 or 5 in published figures")
    chat: bool = setting(False, "lm-eval's --apply_chat_template; a plain run of lm-eval has none")
    hub: bool = setting(False, "ask sean0042/KorMedMCQA from the hub, untouched, although there are refined questions")
    batch: int = setting(0, "questions answered at once; 0 chooses by device and free memory")
    restart: bool = setting(False, "evaluate again where nothing changed")


def main(settings: Settings) -> None:
    from kmlite import records
    from kmlite.evaluation import harness, scoring

    console.print("[bold]lm-eval[/]  test split")
    harness.require()
    if settings.shots < 0:
        raise click.ClickException(f"--shots {settings.shots}: 0 or more examples.")
    test, examples = (paths.exam_split(settings.refined, split) for split in ("test", "fewshot"))
    questions = records.read_exam(settings.refined, "test") if test.exists() and not settings.hub else None
    if questions == []:
        raise click.ClickException(f"{test} is empty.")
    fewshot = records.read_exam(settings.refined, "fewshot") if questions and (settings.shots or examples.exists()) else []
    if questions is not None:
        harness.require_examples(fewshot, questions, settings.shots)

    from kmlite import files, results, runs
    from kmlite.models import folders, loading

    base, folder = evaluate.model_and_folder(settings.base, settings.out, "test")
    check_writable(folder)
    plan = plan_of(settings, base, [path for path in (test, examples) if path.exists()] if questions else [])
    result_path = folder / paths.HARNESS
    if not settings.restart and evaluate.done_before(result_path, plan):
        return
    stand_in = folders.is_stand_in(base)
    console.print(f"  model        {base}{folders.stand_in_note(base)}")
    where = f"{len(questions):,} refined questions" if questions else "sean0042/KorMedMCQA from the hub"
    console.print(f"  questions    {where}, {evaluate.in_words(plan['prompt'])}")
    started = time.time()
    with tempfile.TemporaryDirectory() as work:
        predictions, told = harness.run(
            base, Path(work), questions, fewshot, shots=settings.shots, chat=settings.chat, batch=settings.batch
        )
    summary = scoring.summarise(predictions)
    openings = scoring.log_opening(folder, "lm-eval", summary)
    files.write_lines(folder / paths.HARNESS_PREDICTIONS, predictions)
    precision = f"16bit, {'bfloat16' if loading.on_gpu() else 'float32'}"  # as `harness.run` loads it
    how = {"scorer": "lm-eval", "prompt": "lm-eval", "shots": settings.shots, "chat_template": settings.chat, "precision": precision}
    record = {
        "plan": plan,
        "summary": summary,
        "precision": precision,
        "results": results.stamped(results.of_answers(summary, "test", **how), "lm-eval", "after"),
        "lm_eval": told,
        "prompt": plan["prompt"],
        "test_openings": openings,
        "stand_in": stand_in,
        "seconds": round(time.time() - started, 1),
        **runs.environment(),
    }
    files.write_json(result_path, record)
    evaluate.show_record(record, f"every answer: {folder / paths.HARNESS_PREDICTIONS}")


def plan_of(settings: Settings, base: Path, data: list[Path]) -> dict:
    """What decides the result; `data`: the refined files, none where the hub's are asked."""
    from kmlite import files
    from kmlite.evaluation import harness

    return {
        "settings": {"split": "test", "scorer": "generate", **{k: asdict(settings)[k] for k in ("base", "shots", "chat")}},
        "prompt": {
            "name": "lm-eval",
            "package": f"lm-eval {harness.PINNED}",
            "task": harness.TASK,
            "version": harness.VERSION,
            "shots": settings.shots,
            "chat_template": settings.chat,
        },
        "model": {"folder": str(base), "fingerprint": files.model_fingerprint(base)},
        "data": files.fingerprint(*data) if data else "sean0042/KorMedMCQA",
    }


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
