"""Everything in order: refine, stage 0, 1, 2, eval. A step whose record says done and unchanged is skipped.

\b
    make pipeline RAW=data/01_raw REFINED=data/02_refined OUT=model BASE=google/medgemma-4b-it
    make pipeline ARGS="--stage0-args '--max-steps 200' --stage2-args '--target 70'"
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kmlite import paths
from kmlite.cli import console, recipe, setting


@dataclass(frozen=True)
class Settings:
    raw: Path = setting(Path("data/01_raw"), "raw data")
    refined: Path = setting(Path("data/02_refined"), "refined data, written by the first step")
    out: Path = setting(Path("model"), "folder of the trained models")
    base: str = setting("google/medgemma-4b-it", "hub name or folder of the Gemma 3 model that stage 0 starts from")
    refine_args: str = setting("", "further options of refine")
    stage0_args: str = setting("", "further options of stage 0")
    stage1_args: str = setting("", "further options of stage 1")
    stage2_args: str = setting("", "further options of stage 2")
    eval_args: str = setting("", "further options of eval")
    restart: bool = setting(False, "do every stage and eval again, also what is done")


def main(settings: Settings) -> None:
    run("refine", "--raw", settings.raw, "--refined", settings.refined, *shlex.split(settings.refine_args))
    train(settings)


def train(settings: Settings) -> None:
    """The steps after refine that there is data for."""
    folders = ["--refined", settings.refined, "--out", settings.out, *(["--restart"] if settings.restart else [])]
    there = data_in(settings.refined)
    last = -1  # the stage that ran before; the next one takes its model by itself, unless a stage between was skipped
    for number, stage in enumerate(paths.STAGES):
        if stage.learns not in there:
            console.print(f"[bold]{stage.name}[/]  skipped: {settings.refined} holds no data for it")
            continue
        base = settings.base if last < 0 else settings.out / paths.STAGES[last].folder / paths.FINAL
        arguments = shlex.split(getattr(settings, f"{stage.name}_args"))
        run(stage.name, *(() if 0 <= last == number - 1 else ("--base", base)), *folders, *arguments)
        last = number
    if {"train", "test"} <= there:
        run("evaluate", *folders, *shlex.split(settings.eval_args))
    else:
        console.print("[bold]eval[/]  skipped: there are no test questions, or none to train on")


def data_in(refined: Path) -> set[str]:
    """The kinds of refined data that are there, as Stage.learns names them, and test; train is of no use without dev."""
    found = {name for name in ("train", "test") if holds(paths.exam_split(refined, name)) and holds(paths.exam_split(refined, "dev"))}
    found |= {"text"} if any(holds(shard) for shard in paths.text_shards(refined)) else set()
    return found | ({"dictionary"} if (refined / paths.DICTIONARY).exists() else set())


def holds(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def run(step: str, *arguments: object) -> None:
    """One step in a process of its own, so that its memory is given back; a step that fails ends the pipeline."""
    try:
        status = subprocess.run([sys.executable, "-m", f"recipes.{step}", *map(str, arguments)], check=False).returncode
    except KeyboardInterrupt:
        status = 130  # the step has said how to go on
    if status:
        console.print(f"[bold red]{step} ended with status {status}[/]; what was finished is kept, the same command goes on from there.")
        sys.exit(status)


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
