"""Messages by LANG: the table knows what the code says, and says it in Korean."""

import ast
import re

import pytest
from click.testing import CliRunner

from kmlite import messages, paths
from recipes import stage0, stage1

FIELD = re.compile(r"\{[^{}]*\}")


def without_fields(template: str) -> str:
    return FIELD.sub("{}", template.replace("{{", "\0").replace("}}", "\1")).replace("\0", "{").replace("\1", "}")


def said() -> set[str]:
    """Every line of the code's strings without indent and label, the fields of f-strings as {}."""
    found = set()
    for folder in ("kmlite", "recipes"):
        for file in (paths.ROOT / folder).rglob("*.py"):
            if file.name == "messages.py":
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
                elif isinstance(node, ast.JoinedStr):
                    found.add("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
    return {messages.BEGINNING.sub("", line, count=1) for text in found for line in text.split("\n")}


def test_every_template_is_one_that_the_code_has():
    there = said()
    assert not {template for template in messages.table() if without_fields(template) not in there}


def test_each_line_stands_once_with_one_translation():
    lines = [line for line in (paths.ROOT / "kmlite/messages.ko.txt").read_text(encoding="utf-8").split("\n") if line and line[:2] != "# "]
    assert len(lines) == 2 * len(messages.table())


def test_both_languages_have_the_same_fields():
    for english, korean in messages.table().items():
        assert set(re.findall(r"\{(\w+)", english)) >= set(re.findall(r"\{(\w+)", korean)), english
        assert re.search("[가-힣]", korean), korean


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "ko_KR"}, "ko"),
        ({"LANG": "ko", "LC_ALL": "C"}, "en"),
        ({}, "en"),
    ],
)
def test_the_locale_decides(monkeypatch, variables, expected):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert messages.language() == expected


def test_an_error_that_the_table_has_is_korean_and_its_command_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    assert messages.localized("  [bold red]warning[/]      the disk is full") == "  [bold red]warning[/]      디스크가 가득 찼다"
    assert messages.localized("no such thing in any table: {x}") == "no such thing in any table: {x}"
    for recipe, command in ((stage0, "make refine RAW="), (stage1, "make refine")):
        result = CliRunner().invoke(recipe.command, ["--refined", str(tmp_path), "--out", str(tmp_path / "out")])
        assert result.exit_code == 1
        assert re.search("[가-힣]", result.output)
        assert command in result.output
        assert str(tmp_path) in result.output.replace("\n", "")
