"""Reading what refine wrote."""

import json

import click
import pytest

from kmlite import paths
from kmlite.records import read_dictionary, read_exam, read_texts


def test_read_texts(tmp_path):
    for name, texts in (("train-00000.jsonl", ["가", "나"]), ("train-00001.jsonl", ["다\u2028라"])):
        (tmp_path / name).write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")
    assert list(read_texts([tmp_path / "train-00000.jsonl", tmp_path / "train-00001.jsonl"])) == ["가", "나", "다\u2028라"]


@pytest.mark.parametrize("line", ["nope", '{"body": "a"}', "[1]", '"text"', "", "null", '{"text": 5}', '{"text": null}'])
def test_read_texts_names_the_file_and_line_that_is_bad(tmp_path, line):
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"text": "가"}}\n{line}\n{{"text": "나"}}\n', encoding="utf-8")
    texts = read_texts([path])
    assert next(texts) == "가"
    with pytest.raises(click.ClickException) as error:
        next(texts)
    assert f"{path}, line 2" in error.value.message
    assert "make refine" in error.value.message


ENTRY = {"term": "허파", "definition": "숨 쉬는 장기"}


def test_read_dictionary(tmp_path):
    (tmp_path / paths.DICTIONARY).write_text(json.dumps([ENTRY]), encoding="utf-8")
    assert read_dictionary(tmp_path) == [ENTRY]


@pytest.mark.parametrize("bad", [{"term": "허파"}, {"term": "허파", "definition": 5}, {"definition": "가"}, ["허파", "가"], None])
def test_read_dictionary_names_the_file_and_entry_that_is_bad(tmp_path, bad):
    path = tmp_path / paths.DICTIONARY
    path.write_text(json.dumps([ENTRY, bad]), encoding="utf-8")
    with pytest.raises(click.ClickException) as error:
        read_dictionary(tmp_path)
    assert f"{path}, entry 2" in error.value.message


@pytest.mark.parametrize("content", ["", "nope", '[{"term": "허', "5", "null", '{"term": "허파", "definition": "가"}'])
def test_read_dictionary_names_a_file_that_is_no_array(tmp_path, content):
    path = tmp_path / paths.DICTIONARY
    path.write_text(content, encoding="utf-8")
    with pytest.raises(click.ClickException, match=r"01_medical_dict\.json"):
        read_dictionary(tmp_path)


QUESTION = {"question": "금기인 약물은?", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마", "answer": "B"}


def write_exam(folder, *lines):
    path = paths.exam_split(folder, "dev")
    path.parent.mkdir()
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_read_exam(tmp_path):
    other = QUESTION | {"answer": "E", "subject": "doctor", "cot": "까닭이다."}
    write_exam(tmp_path, json.dumps(QUESTION), json.dumps(other, ensure_ascii=False))
    assert read_exam(tmp_path, "dev") == [QUESTION, other]


@pytest.mark.parametrize(
    "bad",
    [
        "nope",
        "",
        "[1]",
        "null",
        *(json.dumps({k: v for k, v in QUESTION.items() if k != key}) for key in ("question", "A", "E", "answer")),
        *(json.dumps(QUESTION | {"answer": answer}) for answer in (2, None, "F", "b", "", "AB", ["A"])),
        json.dumps(QUESTION | {"C": 3}),
        json.dumps(QUESTION | {"question": None}),
    ],
)
def test_read_exam_names_the_file_and_line_that_is_bad(tmp_path, bad):
    path = write_exam(tmp_path, json.dumps(QUESTION), bad, json.dumps(QUESTION))
    with pytest.raises(click.ClickException) as error:
        read_exam(tmp_path, "dev")
    assert f"{path}, line 2" in error.value.message
    assert "make refine" in error.value.message


@pytest.mark.parametrize("read_refined", [read_dictionary, lambda folder: read_exam(folder, "dev")], ids=["dictionary", "exam"])
def test_what_was_never_refined_is_named_with_the_command_that_makes_it(tmp_path, read_refined):
    with pytest.raises(click.ClickException) as error:
        read_refined(tmp_path)
    assert str(tmp_path) in error.value.message
    assert "make refine" in error.value.message
