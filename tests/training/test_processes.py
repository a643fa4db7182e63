"""Several processes that train together: the same losses as one with the same effective batch, one record, one voice."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kmlite import files, paths, results, runs
from recipes import stage0

ARGUMENTS = "--batch 2 --accumulation 4 --rank 8 --alpha 8 --learning-rate 1e-3 --log-every 1 --new-tokens 20 --length 64 --max-steps 4"
ARGUMENTS += " --save-every 2 --eval-every 2 --heldout 2 --entries 2 --questions 0 --dropout 0"


def arguments(base, refined, out) -> list[str]:
    return ["--base", str(base), "--refined", str(refined), "--out", str(out), *ARGUMENTS.split()]


def test_two_processes_follow_the_curve_of_one(base, refined, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UNSLOTH_FORCE_CPU": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "recipes.stage0"]
    with (
        open(tmp_path / "said", "w+", encoding="utf-8") as said,
        subprocess.Popen([*launcher, *arguments(base, refined, two)], stdout=said, stderr=said, cwd=paths.ROOT, env=environment) as shared,
    ):
        try:  # the one beside the two, who take longer to start than it takes
            alone = CliRunner().invoke(stage0.command, arguments(base, refined, one))
            shared.wait(600)
        finally:
            shared.terminate()  # torchrun ends its workers
        said.seek(0)
        printed = said.read()
    assert alone.exit_code == 0, alone.output
    assert shared.returncode == 0, printed
    assert printed.count("written to") == 1
    records = [files.read_json(out / paths.STAGES[0].folder / paths.RECORD) for out in (one, two)]
    assert [record["processes"] for record in records] == [1, 2]
    curves = [[e["loss"] for e in record["training"][0]["curve"] if "loss" in e] for record in records]
    assert len(curves[0]) == 4
    assert curves[1] == pytest.approx(curves[0], abs=1e-3)
    bits = [results.find(record["results"], "bits_per_character", "korean")["value"] for record in records]
    assert bits[1] == pytest.approx(bits[0], abs=1e-3)


def test_processes_that_do_not_divide_the_accumulation_are_refused(base, refined, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(runs, "wait", lambda: None)
    result = CliRunner().invoke(stage0.command, arguments(base, refined, tmp_path))
    assert result.exit_code == 1
    assert "GPUS=3 does not divide the accumulation of 4" in result.output


@pytest.mark.parametrize(("rank", "writes"), [("0", True), ("1", False)])
def test_only_the_first_process_writes(tmp_path, monkeypatch, rank, writes):
    monkeypatch.setenv("RANK", rank)
    files.write_json(tmp_path / "record.json", {})
    assert (tmp_path / "record.json").exists() is writes
