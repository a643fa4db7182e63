"""What the three stages share around their training: the plan, what is printed first, the verdict at the end."""

import dataclasses
import sys
from pathlib import Path

from kmlite import bases, paths, runs
from kmlite.cli import console

WORSE = 3  # exit status of a stage that ended worse than it began


def plan_of(step: str, settings, base: Path, base_name: str, data: dict[str, list[Path]]) -> dict:
    """What decides a stage's result: settings, the model it starts from, its data."""
    commit = {"commit": bases.commit_of(base)} if bases.commit_of(base) else {}
    aside = ("base", "refined", "out", "restart", "accept_regression")
    return {
        "step": step,
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k not in aside},
        "base": {"name": base_name, "fingerprint": runs.model_fingerprint(base), **commit},
        "data": {name: runs.fingerprint(*files) for name, files in data.items()},
    }


def skip_or_begin(folder: Path, plan: dict, settings) -> bool:
    """True where the step's record says that it is done and nothing changed; else the run's plan is noted."""
    if not settings.restart and runs.is_done(folder, plan):
        console.print(f"  done before, nothing changed: {folder / paths.FINAL}   (ARGS=--restart runs it again)")
        verdict(runs.read_json(folder / paths.RECORD)["metrics"]["worse"], plan["step"], settings)
        return True
    runs.begin(folder, plan, settings.restart)
    return False


def describe(resolved: dict[str, object]) -> None:
    """Print what a stage is about to do, before it spends time on it."""
    for name, value in resolved.items():
        console.print(f"  {name:<12} {value}")


def verdict(worse: list[str], step: str, settings) -> None:
    """Say what a stage made worse, and leave with status 3 unless the user accepts it. The model and its record are kept."""
    if not worse:
        return
    console.print(f"  [bold red]warning: {step}-worse[/]")
    for reason in worse:
        console.print(f"    {reason}")
    if settings.accept_regression:
        console.print("    going on, as --accept-regression says")
        return
    console.print("    More text, more steps or a lower rate may help. To go on with it as it is: ARGS=--accept-regression")
    sys.exit(WORSE)
