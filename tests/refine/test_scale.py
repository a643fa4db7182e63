"""Ray runs the same shard function; its bytes are those of local processes."""

import importlib.util

import pytest
from click.testing import CliRunner

from kmlite import paths
from kmlite.refine import engine
from recipes import refine


def run(out, *args):
    result = CliRunner().invoke(refine.command, ["--raw", str(paths.SAMPLE_RAW), "--refined", str(out), *args])
    return result


def content(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name not in (paths.REFINE_RECORD, ".lock")}


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_extra_is_named(tmp_path):
    result = run(tmp_path, "--engine", "ray")
    assert result.exit_code == 1
    assert "'.[ray]'" in result.output


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
def test_a_local_ray_of_two_workers_gives_the_same_bytes(tmp_path, monkeypatch):
    import shutil

    raw = tmp_path / "raw"
    for i in range(6):  # several shards
        shutil.copytree(paths.SAMPLE_RAW / paths.RAW_TEXT, raw / paths.RAW_TEXT / str(i))
        (raw / paths.RAW_TEXT / str(i) / "large.txt").write_text("가나다 " * (i + 1) * 40_000, encoding="utf-8")
    for out, args in ((tmp_path / "local", ["--workers", "1"]), (tmp_path / "ray", ["--workers", "2", "--engine", "ray"])):
        result = CliRunner().invoke(refine.command, ["--raw", str(raw), "--refined", str(out), "--shard-mb", "1", *args])
        assert result.exit_code == 0, result.output
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert len(paths.text_shards(tmp_path / "ray")) > 2


def test_cores_are_counted():
    assert engine.cores() >= 1
