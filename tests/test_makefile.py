"""Variables reach the recipe as they were typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ODD = ["two words", "it's", 'a "b" c', "$HOME $(RAW) $$ ${x}", "`id` $(id)", "back\\slash", "한글 자료", "-x", "a;b&c|d>e*?#f"]


def arguments(tmp_path: Path, target: str, *variables: str) -> list[str]:
    """What the recipe of a target would be called with."""
    show = tmp_path / "show.py"
    show.write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    command = ["make", "-s", "-o", ".venv/.done", target, f"PY={sys.executable} {show}", *variables]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "x": "wrong"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    ("target", "variable", "option"),
    [
        ("refine", "RAW", "--raw"),
        ("stage0", "REFINED", "--refined"),
        ("export", "OUT", "--out"),
        ("stage1", "BASE", "--base"),
        ("chat", "MODEL", "--model"),
        ("compare", "A", "--a"),
    ],
)
def test_a_variable_is_one_word_as_it_stands(tmp_path, target, variable, option, value):
    found = arguments(tmp_path, target, f"{variable}={value}")
    assert found[found.index(option) + 1] == value


def test_args_are_words_quoted_as_in_a_shell(tmp_path):
    found = arguments(tmp_path, "export", """ARGS=--to 'a $b' --push "you/it's" """)
    assert found[-4:] == ["--to", "a $b", "--push", "you/it's"]


def test_what_is_not_given_is_not_passed_on(tmp_path):
    assert not {"--base", "--model"} & {*arguments(tmp_path, "stage0"), *arguments(tmp_path, "chat")}
