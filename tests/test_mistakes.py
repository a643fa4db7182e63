"""A user's mistake ends in a message that names what is wrong and the command that fixes it, not in a traceback."""

import errno
import shutil

import pytest
from click.testing import CliRunner

from kmlite import cli, files, paths
from kmlite.training import stages
from recipes import evaluate, pipeline, refine, stage0, stage1, stage2

QUESTION = {"question": "옳은 것은?", **{letter: f"보기 {letter}" for letter in "ABCDE"}, "answer": "B"}


def fails(recipe, *arguments) -> str:
    """The message of a recipe that must end with status 1."""
    result = CliRunner().invoke(recipe.command, [str(a) for a in arguments])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    return result.output


@pytest.fixture
def small(tmp_path):
    """Refined data of a few lines, all right."""
    folder = tmp_path / "refined"
    files.write_lines(folder / paths.TEXT / "train.jsonl", [{"text": "혈압이 높다."}])
    files.write_lines(folder / paths.TEXT / "heldout.jsonl", [{"text": "맥박이 빠르다."}])
    terms = ("맥박", "혈압", "체온", "호흡")
    files.write_json(folder / paths.DICTIONARY, [{"term": term, "definition": "몸의 상태를 나타내는 활력 징후"} for term in terms])
    for split in ("train", "dev", "test"):
        files.write_lines(paths.exam_split(folder, split), [QUESTION])
    return folder


# ---- data


@pytest.mark.parametrize(
    ("recipe", "named"), [(stage0, paths.TEXT), (stage1, paths.DICTIONARY), (stage2, "train.jsonl"), (evaluate, "test.jsonl")]
)
def test_data_that_is_not_there(tmp_path, recipe, named):
    said = fails(recipe, "--refined", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert named in said
    assert "make refine" in said


@pytest.mark.parametrize(
    ("recipe", "file", "lines", "more", "named"),
    [
        (stage0, f"{paths.TEXT}/heldout.jsonl", [], [], "--heldout-share"),
        (stage0, f"{paths.TEXT}/train.jsonl", [{"text": "혈압이 높다."}], [], "does not fill one row of 512 tokens"),
        (stage0, f"{paths.TEXT}/train.jsonl", [{"text": "가"}, [1]], ["--length", "8"], "train.jsonl, line 2"),
        (stage2, f"{paths.EXAM}/dev.jsonl", [QUESTION, {**QUESTION, "answer": 2}], [], "dev.jsonl, line 2"),
        (stage2, f"{paths.EXAM}/dev.jsonl", [], [], "dev.jsonl"),
    ],
)
def test_data_that_is_damaged_empty_or_too_short(small, base, tmp_path, recipe, file, lines, more, named):
    files.write_lines(small / file, lines)
    if recipe is stage0:
        more = [*more, "--base", base, "--new-tokens", "0"]
    assert named in fails(recipe, "--refined", small, "--out", tmp_path / "out", *more)


# ---- the base


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "a/b/c"])
def test_unknown_base(small, tmp_path, name):
    said = fails(stage0, "--refined", small, "--out", tmp_path / "out", "--base", name)
    assert f"BASE={name}" in said


def test_hub_name_without_a_network(small, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    said = fails(stage0, "--refined", small, "--out", tmp_path / "out", "--base", "nobody/nothing")
    assert "nobody/nothing is not on this machine, and the hub does not answer" in said
    assert "hf download nobody/nothing" in said


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("config.json", '{"model_type": "llama"}', "llama model"),
        ("model.safetensors", "", "no .safetensors"),
        ("tokenizer.json", "", "no tokenizer.json"),
        ("chat_template.jinja", "", "no chat template"),
    ],
)
def test_base_that_lacks_something(base, small, tmp_path, file, content, named):
    shutil.copytree(base, tmp_path / "base")  # what else may be wrong with one: tests/models/test_folders.py
    (tmp_path / "base" / file).unlink()
    if content:
        (tmp_path / "base" / file).write_text(content)
    assert named in fails(stage0, "--refined", small, "--out", tmp_path / "out", "--base", tmp_path / "base")


@pytest.mark.parametrize(
    ("recipe", "before"), [(stage1, "make stage0"), (stage2, "make stage1"), (evaluate, f"make {paths.STAGES[-1].name}")]
)
def test_a_stage_before_the_one_it_stands_on(small, tmp_path, recipe, before):
    assert before in fails(recipe, "--refined", small, "--out", tmp_path / "out")


# ---- places


def refusing(code):
    def raise_error(*_args, **_kwargs):
        raise OSError(code, "refused", "/some/place")

    return raise_error


@pytest.mark.parametrize(("code", "said"), [(errno.EROFS, "read-only"), (errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission")])
def test_a_place_that_cannot_be_written(small, base, tmp_path, monkeypatch, code, said):
    for module in (stages, refine):
        monkeypatch.setattr(module, "check_writable", refusing(code))
    assert said in fails(stage0, "--refined", small, "--out", tmp_path, "--base", base)
    assert said in fails(refine, "--raw", paths.SAMPLE_RAW, "--refined", tmp_path)


def test_other_errors_keep_their_traceback():
    def work():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.with_plain_errors(work)


def test_out_is_a_file(small, base, tmp_path):
    (tmp_path / "out").write_text("")
    assert "a folder is expected" in fails(stage0, "--refined", small, "--out", tmp_path / "out", "--base", base)


@pytest.mark.parametrize("recipe", [refine, stage0, stage1, stage2, evaluate, pipeline])
@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--out", "x", "stray"], ["--seed", "many"]])
def test_unknown_options(recipe, arguments):
    result = CliRunner().invoke(recipe.command, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
