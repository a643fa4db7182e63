"""Reading what refine wrote: as it stands, or refused with file, line and the command that makes it anew."""

import json

import click
import pytest

from kmlite import files, paths, records

ENTRY = {"term": "허파", "definition": "숨 쉬는 장기"}
QUESTION = {"question": "금기인 약물은?", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마", "answer": "B"}
TEXT = {"text": "다\u2028라"}
READ = {
    "text": (f"{paths.TEXT}/train.jsonl", lambda refined: [{"text": text} for text in records.read_texts(paths.text_shards(refined))]),
    "dictionary": (paths.DICTIONARY, records.read_dictionary),
    "exam": (f"{paths.EXAM}/dev.jsonl", lambda refined: records.read_exam(refined, "dev")),
}


def lines(*parts) -> str:
    return "".join(f"{part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)}\n" for part in parts)


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("text", lines({"text": "가"}, TEXT), [{"text": "가"}, TEXT]),
        ("dictionary", json.dumps([ENTRY]), [ENTRY]),
        ("exam", lines(QUESTION, QUESTION | {"answer": "E", "subject": "doctor", "cot": "이유이다."}), None),
    ],
)
def test_what_refine_wrote_is_read_as_it_stands(tmp_path, kind, content, expected):
    name, read = READ[kind]
    files.write_text(tmp_path / name, content)
    assert read(tmp_path) == (expected or [json.loads(line) for line in content.splitlines()])


BAD = {
    "text": ["nope", '{"body": "a"}', "[1]", '"text"', "", "null", '{"text": 5}', '{"text": null}'],
    "dictionary": [{"term": "허파"}, {"term": "허파", "definition": 5}, {"definition": "가"}, ["허파", "가"], None],
    "exam": [
        *("nope", "", "[1]", "null", QUESTION | {"C": 3}, QUESTION | {"question": None}),
        *({k: v for k, v in QUESTION.items() if k != key} for key in ("question", "A", "E", "answer")),
        *(QUESTION | {"answer": answer} for answer in (2, None, "F", "b", "", "AB", ["A"])),
    ],
}


@pytest.mark.parametrize(("kind", "bad"), [(kind, bad) for kind, several in BAD.items() for bad in several])
def test_the_file_and_the_line_that_is_bad_are_named(tmp_path, kind, bad):
    name, read = READ[kind]
    good = {"text": TEXT, "dictionary": ENTRY, "exam": QUESTION}[kind]
    files.write_text(tmp_path / name, json.dumps([good, bad, good]) if kind == "dictionary" else lines(good, bad, good))
    with pytest.raises(click.ClickException) as error:
        read(tmp_path)
    assert f"{tmp_path / name}, {'entry' if kind == 'dictionary' else 'line'} 2" in error.value.message
    assert "make refine" in error.value.message


@pytest.mark.parametrize("content", ["", "nope", '[{"term": "허', "5", "null", json.dumps(ENTRY)])
def test_a_dictionary_that_is_no_array_is_named(tmp_path, content):
    files.write_text(tmp_path / paths.DICTIONARY, content)
    with pytest.raises(click.ClickException, match=r"01_medical_dict\.json.*make refine"):
        records.read_dictionary(tmp_path)


@pytest.mark.parametrize("kind", ["dictionary", "exam"])
def test_what_was_never_refined_is_named_with_the_command_that_makes_it(tmp_path, kind):
    name, read = READ[kind]
    with pytest.raises(click.ClickException) as error:
        read(tmp_path)
    assert str(tmp_path / name) in error.value.message and "make refine" in error.value.message
