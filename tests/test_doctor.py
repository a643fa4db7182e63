"""make doctor: what it finds, when it refuses, and the plan it shows."""

import importlib.metadata
import re
import shutil
from types import SimpleNamespace

import click
import pytest
import torch
from click.testing import CliRunner

from kmlite import files, paths
from kmlite.models import folders, memory
from recipes import doctor


def run(*arguments, status: int = 0) -> str:
    result = CliRunner().invoke(doctor.command, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """No test asks the hub."""

    def unreachable(base):
        raise click.ClickException(f"{base} is not on this machine.\nWith a network: hf download {base}")

    monkeypatch.setattr(folders, "can_be_fetched", unreachable)


def test_ready_names_the_next_step(base, refined, tmp_path):
    said = run("--base", base, "--refined", refined, "--out", tmp_path)
    assert "Ready. The next step: make stage0" in said
    assert "a stand-in" in said
    assert "✗" not in said


def without_text(refined, folder):
    funnel = files.read_json(refined / paths.REFINE_RECORD)
    funnel["funnel"]["text"]["kept"] = 0
    files.write_json(folder / paths.REFINE_RECORD, funnel)
    return folder


def test_what_stops_the_next_step_is_named_with_the_command_that_fixes_it(base, refined, tmp_path, monkeypatch):
    def refused(base=base, raw="raw", refined=refined):
        return run("--base", base, "--raw", tmp_path / raw, "--refined", refined, "--out", tmp_path / "not" / "yet", status=1)

    said = refused(refined=tmp_path / "none")
    assert "no raw data in" in said and "make data" in said
    said = refused(base="google/medgemma-none")
    assert "✗ base" in said and "hf download google/medgemma-none" in said
    assert "holds no text for stage0" in refused(refined=without_text(refined, tmp_path / "textless"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
        assert "too little room for stage0" in refused()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "peft" else real(name))
    said = refused()
    assert "peft 0.0.1 (lock 0.21.2)" in said and "make setup" in said


@pytest.mark.parametrize(("vram", "rows"), [(6, "no"), (8, "yes"), (24, "yes")])
def test_a_plan_for_any_card_needs_none_and_checks_nothing(vram, rows, refined, tmp_path):
    said = run("--vram", vram, "--refined", refined, "--out", tmp_path)
    line = next(line for line in said.splitlines() if "stage0" in line and "GiB RTX" in line)
    assert ("new tokens" in line) == (rows == "no")
    assert re.search(r" ~\d", line)
    assert "Ready" not in said
    assert "asks for; it runs on less" in said
    parts = next(line for line in said.splitlines() if line.startswith("  stage1 in GiB:"))
    total = sum(map(float, re.findall(r" ([\d.]+)(?:;|$)", parts)))
    shown = float(re.search(r"stage1 .* × \d+ +([\d.]+)", said).group(1))
    assert total == pytest.approx(shown, abs=0.1)


def test_korean_messages_stand_behind_the_names_of_what_is_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    said = run("--raw", tmp_path / "raw", "--refined", tmp_path, "--out", tmp_path, status=1)
    assert "원본 데이터가 없다" in said and "다음 단계를 실행할 수 없다" in said


def test_all_common_cards_where_there_is_none(refined, tmp_path):
    said = run("--refined", refined, "--out", tmp_path, status=1)  # the base is not on this machine
    assert all(f"{size} GiB " in said for size in memory.SIZES)


def test_a_measured_rate_replaces_the_estimate(refined, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (23 * memory.GIB, 24 * memory.GIB))
    record = {"device": "NVIDIA GeForce RTX 4090", "training": [{"tokens_per_second": 4321.0}]}
    files.write_json(tmp_path / paths.STAGES[1].folder / paths.RECORD, record)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: True)
    said = run("--refined", refined, "--out", tmp_path, status=1)
    assert re.search(r"stage1 .* 4,321", said)
    assert "~4,321" not in said
    assert re.search(r"stage0 .* ~\d", said)


def test_the_table_in_the_docs_is_the_planners():
    from recipes import stage0, stage1, stage2

    page = (paths.ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) GB \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for card, *cells in rows:
        for step, settings, cell in zip(("stage0", "stage1", "stage2"), (stage0, stage1, stage2), cells, strict=True):
            plan = doctor.plan_of(memory.MEDGEMMA, float(card), step, settings.Settings(), 2.6e8)  # tokens of 1 GB of text
            words = f"{plan.total / memory.GIB:.1f}: {plan.precision.replace('bit', '-bit')}, {plan.batch} × {plan.accumulation}"
            assert cell.startswith(words)
            assert ("new rows" in cell) == (plan.embeddings == "new")


def test_both_bases_and_what_differs_are_named(refined, tmp_path):
    said = run("--base", "google/medgemma-1.5-4b-it", "--refined", refined, "--out", tmp_path, status=1)
    assert "google/medgemma-4b-it" in said and "may think before it answers" in said
    assert "BASE=google/medgemma-4b-it" in said
