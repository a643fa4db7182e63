"""What a stranger's file can't do: run code, read a token out of what is written, or write outside its folder."""

import json
import os
import pickle
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kmlite import files, paths
from kmlite.models import folders, loading
from recipes import refine, stage1

SMALL = ["--batch", "2", "--accumulation", "1", "--rank", "4", "--alpha", "4", "--log-every", "1", "--recalled", "1"]
SMALL += ["--heldout", "2", "--entries", "2", "--questions", "2", "--max-new-tokens", "2"]


class Bomb:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def write_bomb(file: Path, mark: Path) -> None:
    """As torch.save writes it: a zip archive with the pickle inside."""
    import torch

    torch.save(Bomb(mark), file)


def test_the_bomb_would_go_off(tmp_path):
    import torch

    write_bomb(tmp_path / "a.pt", tmp_path / "mark")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "mark").is_dir()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark2")))
    assert (tmp_path / "mark2").is_dir()


# ---- pickles and code in a model folder


def test_pickled_weights_beside_safetensors_are_not_read(base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
        write_bomb(folder / name, tmp_path / "mark")
    assert folders.resolve(str(folder)) == folder
    loading.load(folder, "16bit", 64)
    folders.copy_side_files(folder, tmp_path / "copy")
    assert not (tmp_path / "mark").exists()
    assert not [p.name for p in (tmp_path / "copy").iterdir() if p.suffix in (".bin", ".pt")]


def test_pickled_weights_alone_are_refused(base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    write_bomb(folder / "pytorch_model.bin", tmp_path / "mark")
    with pytest.raises(click.ClickException, match="Pickled weights are never loaded"):
        folders.resolve(str(folder))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"])
def test_a_base_with_code_of_its_own_is_refused_and_the_code_does_not_run(base, tmp_path, name):
    folder, mark = tmp_path / "base", tmp_path / "mark"
    shutil.copytree(base, folder)
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n")
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor")
    auto_map = dict.fromkeys(classes, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    files.write_json(folder / name, {**files.read_json(folder / name), "auto_map": auto_map})
    with pytest.raises(click.ClickException, match=rf"{name} asks for code of its own"):
        folders.resolve(str(folder))
    loading.load(folder, "16bit", 64)  # and whoever came past that check still runs none of it
    loading.load_tokenizer(folder)
    folders.copy_side_files(folder, tmp_path / "copy")
    assert not mark.exists()
    assert not (tmp_path / "copy" / "evil.py").exists()


def test_a_chat_template_that_reaches_for_python_is_stopped(base, tmp_path):
    from jinja2.exceptions import SecurityError

    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(SecurityError):
        loading.load_tokenizer(folder).apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_runs_no_code(base, refined, tmp_path, monkeypatch, name):
    """A run that goes on reads its checkpoint's state with weights_only: a bomb in it stops the run and does not go off."""
    from transformers.trainer_callback import CallbackHandler

    entries = files.read_json(refined / paths.DICTIONARY)[:6]
    files.write_json(tmp_path / "refined" / paths.DICTIONARY, entries)
    out = tmp_path / "out"
    arguments = ["--base", str(base), "--refined", str(tmp_path / "refined"), "--out", str(out), *SMALL, "--heldout-share", "0"]
    on_step_end = CallbackHandler.on_step_end

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 4:  # six entries in batches of two: the checkpoint of the first epoch is behind it
            raise KeyboardInterrupt
        return on_step_end(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(CallbackHandler, "on_step_end", stop)
        assert "Run the same command to go on" in CliRunner().invoke(stage1.command, arguments).output
    checkpoint = out / paths.STAGES[1].folder / paths.CHECKPOINTS / "checkpoint-3"
    assert (checkpoint / name).exists()
    write_bomb(checkpoint / name, tmp_path / "mark")
    result = CliRunner().invoke(stage1.command, arguments)
    assert not (tmp_path / "mark").exists()
    assert result.exit_code == 1
    assert f"{checkpoint}" in result.output
    assert "--restart" in result.output


# ---- tokens


def test_a_token_is_in_nothing_that_is_written_or_printed(warm, base, refined, tmp_path):
    """From the environment and from a log-in: one stage in a process of its own, then every file and every line."""
    secrets = ("hf_fromTheEnvironment1234567890", "hf_fromTheLogIn0987654321")
    code = f"""
import os
from huggingface_hub import get_token
found = os.environ.pop("HF_TOKEN"), get_token()
os.environ["HF_TOKEN"] = found[0]
assert found == {secrets}, found
from recipes.stage1 import command
command()
"""
    (tmp_path / "tmp").mkdir()
    arguments = ["--base", base, "--refined", refined, "--out", tmp_path / "out", *SMALL, "--max-steps", "1"]
    warm.home.mkdir(exist_ok=True)
    (warm.home / "token").write_text(secrets[1])
    try:
        status, said = warm.run(code, *map(str, arguments), HF_TOKEN=secrets[0], TMPDIR=str(tmp_path / "tmp"))
    finally:
        (warm.home / "token").unlink()
    assert status in (0, 3), said
    written = b"".join(p.read_bytes() for folder in ("out", "tmp") for p in (tmp_path / folder).rglob("*") if p.is_file())
    assert len(written) > 1000
    assert "written to" in said
    for secret in secrets:
        assert secret not in said
        assert secret.encode() not in written


# ---- downloads


def test_a_download_names_its_revision_and_the_commit_is_recorded(base, tmp_path, monkeypatch):
    from kmlite.training import stages

    asked = []
    snapshot = tmp_path / "models--me--base" / "snapshots" / ("0123abcd" * 5)
    shutil.copytree(base, snapshot)

    def download(name, revision=None, allow_patterns=None):
        asked.append((name, revision))
        assert not {"*.bin", "*.pt", "*.py", "*"} & set(allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = folders.resolve("me/base")
    assert folders.resolve("me/base@0123abcd") == found
    assert asked == [("me/base", "main"), ("me/base", "0123abcd")]
    plan = stages.plan_of("stage1", stage1.Settings(), found, "me/base", {})
    assert plan["base"]["commit"] == "0123abcd" * 5
    assert "commit" not in stages.plan_of("stage1", stage1.Settings(), base, str(base), {})["base"]


# ---- paths


def test_nothing_in_the_data_names_a_path(tmp_path):
    """Fields that reach for other folders, and files with names that do: refine writes below REFINED alone."""
    raw, refined = tmp_path / "in" / "raw", tmp_path / "in" / "refined"
    away = "../../../away"
    asked = {"train": "고혈압의 첫 약", "dev": "폐렴을 일으킨 균", "test": "소아에게 빠진 접종"}  # unlike each other: no leaks
    for split, topic in asked.items():
        options = {letter: f"{topic} {letter}" for letter in "ABCDE"}
        row = {"question": f"{away} {topic}으로 알맞은 것은 무엇인가?", **options, "answer": 2, "subject": away, "exam_type": f"/{away}"}
        files.write_lines(raw / paths.RAW_EXAM / f"{split}.jsonl", [row])
    files.write_lines(raw / paths.RAW_DICTIONARY / "a.jsonl", [{"term": away, "definition": "다른 폴더를 가리키는 이름입니다."}])
    text = "혈압은 심장이 피를 내보낼 때 혈관의 벽이 받는 힘이다. 높으면 고혈압이라고 한다. " * 5
    odd = raw / paths.RAW_TEXT / "..%2f..%2faway" / "…\\..\\away"
    files.write_lines(odd / "a;touch away.jsonl", [{"text": f"{i} {text}", "id": away, "source": away, "file": away} for i in range(5)])
    before = {p for p in tmp_path.rglob("*") if refined not in p.parents and p != refined}
    result = CliRunner().invoke(refine.command, ["--raw", str(raw), "--refined", str(refined), "--heldout-share", "0.2"])
    assert result.exit_code == 0, result.output
    assert {p for p in tmp_path.rglob("*") if refined not in p.parents and p != refined} == before
    assert not [p for p in tmp_path.parent.rglob("away*") if tmp_path not in p.parents]
    kept = [json.loads(line) for line in paths.exam_split(refined, "train").read_text(encoding="utf-8").splitlines()]
    assert kept and kept[0]["subject"] == away  # it was in the data, and stayed a word
