"""The tutorial's commands, run in an empty folder as a reader would: make test-docs. Minutes, so not part of make test.

A block of kind `sh` is run, unless the line above says that it needs a GPU or a network. What a block of kind `text` behind it shows must
come out, but for its figures.
"""

import os
import re
import shutil
import subprocess

import pytest
from test_docs import FENCED, MARKS

from kmlite import paths

TUTORIALS = [paths.ROOT / "docs/tutorial.md", paths.ROOT / "docs/ko/tutorial.md"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What a clone holds, with this .venv."""
    folder = tmp_path_factory.mktemp("tutorial") / "kmlite"
    ignored = shutil.ignore_patterns(".*", "model", "__pycache__", "demo", "01_raw", "02_refined", "*.egg-info")
    shutil.copytree(paths.ROOT, folder, ignore=ignored)
    shutil.copytree(paths.SAMPLE_RAW, folder / paths.SAMPLE_RAW.relative_to(paths.ROOT))
    (folder / ".venv").symlink_to((paths.ROOT / ".venv").resolve())
    for file in (folder / "pyproject.toml", *(folder / "requirements").iterdir()):
        os.utime(file, (0, 0))  # older than .venv's stamp: it is not set up anew
    return folder


def shape(line: str) -> str:
    """A line without its figures, bars and widths: they differ from machine to machine."""
    line = re.sub(r"[+−-]?\d[\d,.]*(?:e-\d+)?", "0", line)
    return re.sub(r"[\s━─┏┓┗┛┡┩└┘│┃┳╇┴╷╵┬]+", " ", line).strip()


@pytest.mark.skipif(os.environ.get("KMLITE_RUN_DOCS") != "1", reason="minutes: make test-docs runs it")
def test_the_tutorial_runs_as_written(clone):
    blocks = [block for block in FENCED.finditer(TUTORIALS[0].read_text(encoding="utf-8")) if block["kind"] in ("sh", "text")]
    said: list[str] | None = None
    ran = 0
    for block in blocks:
        if block["kind"] == "text":
            check_shown(block["body"], said)
            continue
        if any(mark.match((block["above"] or "").strip()) for mark in MARKS.values()):
            said = None
            continue
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS")}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block["body"]], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block['body']}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        said = [shape(line) for line in (done.stdout + done.stderr).splitlines()]
        ran += 1
    assert ran >= 6


def check_shown(body: str, said: list[str] | None) -> None:
    """Each line of a block of output came out; `…` stands for what was left out of it."""
    if said is None:  # of a command that was not run here
        return
    for line in body.splitlines():
        pieces = [shape(piece) for piece in line.split("…")]
        assert any(all(piece in real for piece in pieces) for real in said), f"not printed: {line}"


def test_both_languages_show_the_same_commands_and_output():
    pages = [[(b["kind"], b["body"]) for b in FENCED.finditer(page.read_text(encoding="utf-8")) if b["kind"]] for page in TUTORIALS]
    assert pages[0] == pages[1]
