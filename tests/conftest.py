"""Shared by the tests that need a model: minimal bases, built once a session in a temporary folder."""

import gc
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from forked import Forked
from safetensors.numpy import save_file

from kmlite import files, paths, prompts, records

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch comes later; matrices this small cost more in threads than they gain


def settle() -> None:
    """Take what lives until the end out of the garbage collector's sight: a collection, of which a stage makes several, took 0.4 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def collected() -> None:
    settle()  # all that the test modules imported


@pytest.fixture(scope="session", autouse=True)
def early(request) -> None:
    """The helpers that a chosen test asks for, started now: they import while other tests run."""
    wanted = {name for item in request.session.items for name in item.fixturenames}
    for name in {"warm", "plain"} & wanted:
        request.getfixturevalue(name)


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """A process with all that a recipe imports, which forks children (tests/forked.py)."""
    helper = Forked("unsloth", tmp_path_factory.mktemp("warm"))
    yield helper
    helper.close()


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The same with transformers, peft and lm-eval, into which Unsloth never came."""
    helper = Forked("plain", tmp_path_factory.mktemp("plain"))
    yield helper
    helper.close()


@pytest.fixture(scope="session")
def refined(tmp_path_factory) -> Path:
    """The refined sample."""
    from recipes import refine

    out = tmp_path_factory.mktemp("refined")
    result = CliRunner().invoke(refine.command, ["--raw", str(paths.SAMPLE_RAW), "--refined", str(out), "--heldout-share", "0.1"])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def texts(refined) -> list[str]:
    return list(records.read_texts(paths.text_shards(refined)))


@pytest.fixture(scope="session")
def tiny_refined(refined, tmp_path_factory) -> Path:
    """A part of the refined sample, so that a stage takes seconds."""
    folder = tmp_path_factory.mktemp("작은 자료")  # Korean and a space in the path
    shutil.copytree(refined / paths.TEXT, folder / paths.TEXT)
    files.write_json(folder / paths.DICTIONARY, files.read_json(refined / paths.DICTIONARY)[:60])
    for split, n in (("train", 20), ("dev", 6), ("test", 6)):
        lines = paths.exam_split(refined, split).read_text(encoding="utf-8").splitlines(keepends=True)
        files.write_text(paths.exam_split(folder, split), "".join(lines[:n]))
    return folder


@pytest.fixture(scope="session")
def make_checkpoint():
    """make_checkpoint(folder, the trainer's state): a checkpoint that is whole, of one weight."""

    def make(folder: Path, state: dict) -> Path:
        files.write_json(folder / "trainer_state.json", state)
        save_file({"x": np.zeros(4)}, folder / "adapter_model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            with zipfile.ZipFile(folder / name, "w") as file:
                file.writestr("data", "1")
        return folder

    return make


def minimal(folder: Path, texts: list[str], refined: Path, text_only: bool) -> Path:
    from kmlite.models import loading, tiny

    loading.fast_model()  # before transformers, as in a recipe
    settle()
    turns = [(prompts.dictionary_prompt(e["term"]), e["definition"]) for e in records.read_dictionary(refined)[:20]]
    tiny.build(folder, texts, turns, pieces=1500, hidden=64, layers=2, steps=0, text_only=text_only)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory, texts, refined) -> Path:
    """MedGemma's class with random weights: two layers, hidden size 64."""
    return minimal(tmp_path_factory.mktemp("base") / "base", texts, refined, text_only=False)


@pytest.fixture(scope="session")
def text_base(tmp_path_factory, texts, refined) -> Path:
    """The class of gemma-3-1b and medgemma-27b-text."""
    return minimal(tmp_path_factory.mktemp("text_base") / "base", texts, refined, text_only=True)


@pytest.fixture(scope="session")
def tokenizer(base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="session")
def out(base, text_base, tmp_path_factory) -> Path:
    """Stages 0 and 2 as if trained: two models of random weights, stage 2's the newer."""
    folder = tmp_path_factory.mktemp("out")
    for stage, source, ended in (("00_trained", text_base, "2026-01-01T10:00:00+0900"), ("02_trained", base, "2026-01-02T03:00:00+0000")):
        shutil.copytree(source, folder / stage / paths.FINAL)
        files.write_json(folder / stage / paths.RECORD, {"finished": ended, "plan": {"base": {"name": str(base)}}})
    return folder


@pytest.fixture(scope="session")
def speaker(out):
    """The newest of `out`, loaded to talk to."""
    from kmlite.sharing import chat

    return chat.load(*chat.find("", out), "16bit", 1024)
