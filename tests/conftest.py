"""Shared by the tests that need a model: minimal bases, built once a session in a temporary folder."""

import gc
import os
import shutil
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock
from forked import Forked
from safetensors.numpy import save_file

from kmlite import files, paths, prompts, records

# the same cases in every run; others: make test ARGS="--hypothesis-profile=default tests/refine/test_fuzz.py"
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch comes later; matrices this small cost more in threads than they gain


QUESTION = {"question": "비타민 C가 부족하면?", "A": "괴혈병", "B": "각기병", "C": "구루병", "D": "펠라그라", "E": "야맹증", "answer": "A"}
# a stage that takes seconds
SMALL = ["--batch", "2", "--accumulation", "2", "--rank", "8", "--alpha", "8", "--learning-rate", "1e-3", "--log-every", "1"]


def run(recipe, *arguments, status: int = 0) -> str:
    """What a recipe prints; it must end with `status`, and without a traceback."""
    result = CliRunner().invoke(recipe.command, [str(a) for a in arguments])
    assert result.exit_code == status, result.output + "".join(traceback.format_exception(*result.exc_info))
    assert "Traceback" not in result.output
    return result.output


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def embedding(folder: Path):
    return next(weight for name, weight in weights(folder).items() if name.endswith("embed_tokens.weight"))


def settle() -> None:
    """Take what lives until the end out of the garbage collector's sight: a collection, of which a stage makes several, took 0.4 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def collected() -> None:
    settle()  # all that the test modules imported


# How `make test` shares the files among its workers: what takes longest first, so that they end together, and files whose tests ask for
# one helper process (`warm`, `plain`) to one worker, which then starts it once.
LONG = {
    **dict.fromkeys(("test_kill.py", "test_chat.py", "test_security.py"), "warm"),
    "test_stages.py": "",
    **dict.fromkeys(("test_harness.py", "test_export.py"), "plain"),
    **dict.fromkeys(("test_engine.py", "test_processes.py", "test_suite.py", "test_memory.py", "test_callbacks.py", "test_report.py"), ""),
}


def pytest_collection_modifyitems(items) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class ByFileAndHelper(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return LONG.get(Path(file).name) or file

    return ByFileAndHelper(config, log)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """shared(name, make): the folder of that name, which the first worker to need it fills by make(folder)."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / "shared" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                make(folder.with_name(f"{name}.partial"))
                os.rename(folder.with_name(f"{name}.partial"), folder)
        return folder

    return once


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
def refined(shared) -> Path:
    """The refined sample."""
    from recipes import refine

    def make(folder: Path) -> None:
        result = CliRunner().invoke(refine.command, ["--raw", str(paths.SAMPLE_RAW), "--refined", str(folder), "--heldout-share", "0.1"])
        assert result.exit_code == 0, result.output

    return shared("refined", make)


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


@pytest.fixture
def at_batch(monkeypatch):
    """at_batch(what): call `what(number of the batch, its rows)` before each batch of training; the sizes of those so far."""
    from kmlite.training import trainer

    whole, seen = trainer.collate, []

    def install(what):
        def collate(rows, *others):
            if "record" in rows[0]:
                seen.append(len(rows))
                what(len(seen), rows)
            return whole(rows, *others)

        monkeypatch.setattr(trainer, "collate", collate)
        return seen

    return install


def minimal(folder: Path, texts: list[str], refined: Path, text_only: bool) -> None:
    from kmlite.models import tiny

    turns = [(prompts.dictionary_prompt(e["term"]), e["definition"]) for e in records.read_dictionary(refined)[:20]]
    tiny.build(folder, texts, turns, pieces=1500, hidden=64, layers=2, steps=0, text_only=text_only)


@pytest.fixture(scope="session")
def stack() -> None:
    """Unsloth before transformers, as in a recipe."""
    from kmlite.models import loading

    loading.fast_model()
    settle()


@pytest.fixture(scope="session")
def base(stack, shared, texts, refined) -> Path:
    """MedGemma's class with random weights: two layers, hidden size 64."""
    return shared("base", lambda folder: minimal(folder, texts, refined, text_only=False))


@pytest.fixture(scope="session")
def text_base(stack, shared, texts, refined) -> Path:
    """The class of gemma-3-1b and medgemma-27b-text."""
    return shared("text_base", lambda folder: minimal(folder, texts, refined, text_only=True))


@pytest.fixture(scope="module")
def loaded(base):
    """(model, tokenizer) of `base`, loaded as every recipe does."""
    from kmlite.models import loading

    return loading.load(base, "16bit", 512)


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
    """The last stage of `out`, loaded to talk to."""
    from kmlite.sharing import chat

    return chat.load(*chat.find("", out), "16bit")
