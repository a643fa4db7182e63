"""SIGKILL at random moments of each stage, and inside its writes: the same command then ends with the bytes of an undisturbed run."""

import random
import signal
import time
from pathlib import Path

import pytest
from conftest import SMALL

from kmlite import files, paths

SEED = 5
KILLS_IN_SAVING, KILLS_BY_CLOCK = 4, 2  # of each stage
EACH = ["--eval-every", "4", "--heldout", "2"]
STAGES = {
    "stage0": "--new-tokens 40 --length 64 --max-steps 9 --save-every 3 --entries 2 --questions 2",
    "stage1": "--epochs 3 --max-steps 12 --heldout-share 0.7 --entries 5 --recalled 1 --questions 2",
    "stage2": "--max-steps 6 --save-every 2 --loops 2 --max-new-tokens 2 --target 100 --epochs 2 --entries 2 --questions 5",
}
assert STAGES.keys() == {stage.name for stage in paths.STAGES}, "a stage that no test kills"
# of the part of a run that its last process made, and of its place
VOLATILE = {"seconds", "tokens_per_second", "padding", "process_peak_bytes", "finished", "out"}


CODE = """
import sys
watch_saving(sys.argv.pop(), sys.argv.pop(), bool(sys.argv.pop()))
from recipes.{0} import command
command(prog_name="{0}")
"""


@pytest.fixture(scope="module")
def run(warm, base, tiny_refined, tmp_path_factory):
    """run(stage, out, seconds, at, after) → (exit status, seconds, what it printed, what it wrote).

    It is killed after `seconds`, or at the write `at` (see tests/forked.py), or not at all. -9 is the status of a killed run.
    """
    folder = tmp_path_factory.mktemp("forked")

    def run(stage: str, out: Path, *, seconds: float | None = None, at: str = "", after: bool = False):
        log, events = folder / "log", folder / "events"
        for path in (log, events):
            path.unlink(missing_ok=True)
        arguments = ["--base", str(base), "--refined", str(tiny_refined), "--out", str(out), *SMALL, *EACH, *STAGES[stage].split()]
        started = time.monotonic()
        warm.start(CODE.format(stage), *arguments, "after" if after else "", at, str(events), output=log)
        if seconds is not None and not warm.ended(seconds):
            warm.kill()
        status = warm.status()
        said = log.read_text()
        assert status in (0, -signal.SIGKILL), said
        return status, time.monotonic() - started, said, events.read_text().splitlines() if events.exists() else []

    return run


@pytest.fixture(scope="module", params=STAGES)
def undisturbed(request, run, tmp_path_factory):
    """(stage, its folder, the seconds it took, the writes it made with OUT as {out})."""
    out = tmp_path_factory.mktemp("whole")
    status, seconds, said, events = run(request.param, out)
    assert status == 0, said
    return request.param, out, seconds, [line.replace(str(out), "{out}") for line in events]


def folder_of(stage: str, out: Path) -> Path:
    return out / paths.STAGES[int(stage[-1])].folder


def same(stage: str, found: Path, expected: Path) -> None:
    """Assert that two finished runs of a stage left the same files with the same weights, and measured the same."""
    found, expected = folder_of(stage, found), folder_of(stage, expected)
    names = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (found, expected)]
    assert names[0] == names[1]
    weights = [path for path in names[0] if path.suffix == ".safetensors"]
    assert weights
    for path in weights:
        assert (found / path).read_bytes() == (expected / path).read_bytes(), path
    kept = [steady(files.read_json(folder / paths.RECORD)) for folder in (found, expected)]
    assert kept[0] == kept[1]


def steady(value):
    """A record's values without those that depend on the clock, or on the part that its last process made."""
    if isinstance(value, dict):
        return {key: steady(part) for key, part in value.items() if key not in VOLATILE}
    return [steady(part) for part in value] if isinstance(value, list) else value


def chosen(stage: str, events: list[str], chance: random.Random) -> list[tuple[str, bool]]:
    """Writes to die in, in the order of a run, each with whether the call is finished first.

    Always half of an optimizer's state, half of the merged weights (where the stage merged), and the moment behind run.json.
    """
    once = [line for line in events if events.count(line) == 1]
    always = {
        next(line for line in once if line.endswith("optimizer.pt")),
        next(line for line in once if line.endswith("trained/run.json")),
    }
    always |= {line for line in once if line.startswith("serialize") and "final.partial" in line}
    others = [line for line in once if line not in always]
    picked = always | set(chance.sample(others, KILLS_IN_SAVING - len(always) + 1))
    return [(line, line.endswith("trained/run.json") or (line not in always and chance.random() < 0.5)) for line in once if line in picked]


def test_killed_inside_its_writes_it_ends_with_the_same_bytes(undisturbed, run, tmp_path):
    stage, whole, _, events = undisturbed
    writes = chosen(stage, events, random.Random(f"{SEED} {stage}"))
    assert len(writes) >= KILLS_IN_SAVING
    for line, after in writes:
        status, _, said, _ = run(stage, tmp_path, at=line.replace("{out}", str(tmp_path)), after=after)
        assert status == -signal.SIGKILL, (line, after, said)
        if not line.endswith("trained/run.json"):
            assert not (folder_of(stage, tmp_path) / paths.RECORD).exists()
    status, _, said, _ = run(stage, tmp_path)
    assert status == 0
    assert "done before" in said  # the last kill was behind run.json
    same(stage, tmp_path, whole)


def test_killed_by_the_clock_it_ends_with_the_same_bytes(undisturbed, run, tmp_path):
    stage, whole, seconds, _ = undisturbed
    chance = random.Random(f"{SEED} clock {stage}")
    out, kills, ended = tmp_path / "0", 0, 0
    while kills < KILLS_BY_CLOCK or ended == 0:
        # each kill in a slice of its own of the undisturbed run, so that they spread over it
        moment = (kills + chance.random()) / KILLS_BY_CLOCK * seconds if kills < KILLS_BY_CLOCK else None
        status, took, _, _ = run(stage, out, seconds=moment)
        if status == -signal.SIGKILL:
            kills += 1
            continue
        same(stage, out, whole)
        ended += 1
        seconds = min(seconds, took)
        out = tmp_path / str(ended)
