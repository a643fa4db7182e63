"""The other ways in: the notebook, the Dockerfile, uv. Minutes, so `make test-docs` runs them and `make test` does not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kmlite import paths

slow = pytest.mark.skipif(os.environ.get("KMLITE_RUN_DOCS") != "1", reason="minutes: make test-docs runs it")
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS")


@pytest.fixture
def clone(tmp_path) -> Path:
    """What a clone holds: no .venv, no data but the sample, no model."""
    folder = tmp_path / "kmlite"
    subprocess.run(["git", "clone", "--quiet", paths.ROOT, folder], check=True)
    return folder


def run(command: str, folder: Path, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env={**environment, **more}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@slow
def test_the_notebook_runs_from_top_to_bottom(clone, base, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    (clone / ".venv").symlink_to((paths.ROOT / ".venv").resolve())
    for file in (clone / "pyproject.toml", *(clone / "requirements").iterdir()):
        os.utime(file, (0, 0))  # older than .venv's stamp: it is not set up anew
    for name in OF_MAKE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BASE", str(base))
    notebook = nbformat.read(clone / "docs/colab.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("--max-steps 20", "--max-steps 2 --rank 8 --alpha 8")
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(clone / "docs")}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Traceback" not in said
    failed = [line for line in said.splitlines() if "Error 1" in line or line.startswith("Error:")]
    assert not failed, said[-6000:]  # `!make` does not stop the notebook
    assert (clone / "model/notebook/02_trained/final/model.safetensors").exists()
    assert (clone / "model/notebook/report.html").exists()


@slow
def test_the_dockerfile_is_clean():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, paths.ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def steps() -> list[str]:
    """The Dockerfile's RUN lines that need no root."""
    text = (paths.ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in re.findall(r"^RUN (.+)$", text, re.MULTILINE) if "apt-get" not in line]


@slow
def test_the_dockerfiles_steps_run_in_a_clean_folder(clone):
    assert steps() == ["make setup extras"]
    for pattern in (clone / ".dockerignore").read_text().splitlines():
        path = clone / pattern
        shutil.rmtree(path, ignore_errors=True)
    for step in steps():
        run(step, clone, LOCK="requirements/cpu.txt", HOME=str(clone.parent))
    assert "make demo" in run("make help", clone)


@slow
def test_uv_installs_what_pip_installs(clone):
    run("make setup UV=1", clone, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    found, expected = (
        {line.split("==")[0].lower(): line for line in run(f"{python} -m pip list --format freeze", folder).splitlines()}
        for python, folder in ((".venv/bin/python", clone), (sys.executable, paths.ROOT))
    )
    assert found  # uv's environment holds pip, since venv makes it
    locked = set(found) - {"kmlite", "torch"}  # torch is a CPU or a CUDA build, by what the index gives
    assert {name: found[name] for name in locked} == {name: expected[name] for name in locked}
