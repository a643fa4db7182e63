"""Variables reach the recipe as they were typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmlite import paths
from kmlite.training.settings import TrainingSettings
from recipes import of_stages, pipeline

ROOT = Path(__file__).parents[1]
ODD = ["two words", "it's", 'a "b" c', "$HOME $(RAW) $$ ${x}", "`id` $(id)", "back\\slash", "한글 자료", "-x", "a;b&c|d>e*?#f"]


def arguments(tmp_path: Path, *words: str) -> list[list[str]]:
    """What the recipe of each target would be called with."""
    show = tmp_path / "show.py"
    show.write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    command = ["make", "-s", "-o", ".venv/.done", f"PY={sys.executable} {show}", *words]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "x": "wrong"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


PASSED_ON = {"refine": ("RAW",), "stage0": ("REFINED",), "export": ("OUT",), "stage1": ("BASE",), "chat": ("MODEL",), "compare": ("A", "B")}


@pytest.mark.parametrize("value", ODD)
def test_a_variable_is_one_word_as_it_stands(tmp_path, value):
    variables = [f"{name}={value}" for names in PASSED_ON.values() for name in names]
    for names, found in zip(PASSED_ON.values(), arguments(tmp_path, *PASSED_ON, *variables), strict=True):
        for name in names:
            assert found[found.index(f"--{name.lower()}") + 1] == value


def test_args_are_words_quoted_as_in_a_shell(tmp_path):
    [found] = arguments(tmp_path, "export", """ARGS=--base 'a $b' --push "you/it's" """)
    assert found[-4:] == ["--base", "a $b", "--push", "you/it's"]


def test_every_stage_has_its_recipe_its_target_and_its_place_in_the_pipeline(tmp_path):
    for stage, called in zip(paths.STAGES, arguments(tmp_path, *(stage.name for stage in paths.STAGES)), strict=True):
        assert called[:2] == ["-m", f"recipes.{stage.name}"]
        assert issubclass(of_stages()[stage.name].Settings, TrainingSettings)
        assert hasattr(pipeline.Settings, f"{stage.name}_args")


def test_what_is_not_given_is_not_passed_on(tmp_path):
    stage0, chat = arguments(tmp_path, "stage0", "chat")
    assert "--base" not in stage0 and "--model" not in chat
