"""make data with a stub in place of the hub: what is written, what a second run does, and a fetch that breaks off."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kmlite import paths
from kmlite.refine import exam, readers
from recipes import data

PAGES = [{"title": f"{i}", "text": f"글 {i}"} for i in range(50)]
QUESTION = {"question": "금기인 약물은?", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마", "answer": 2, "subject": "doctor"}


@pytest.fixture
def hub(monkeypatch):
    """A hub of two sets that counts what is asked of it and can break off."""

    class Hub:
        breaks_at = None

    def load(repository, name=None, split=None, revision=None, streaming=False):
        Hub.asked.append((repository, name, split, revision, streaming))
        table = [QUESTION | {"year": i, "split": split} for i in range(3)] if "KorMed" in repository else PAGES

        def stream():
            for i, row in enumerate(table):
                if i == Hub.breaks_at:
                    raise ConnectionError("the line is down\nand more")
                yield row

        return stream()

    Hub.asked = []
    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr(data, "newest", lambda repository: "abc123")
    monkeypatch.setattr(data, "PIECE", 10)
    return Hub


def run(raw, *args):
    return CliRunner().invoke(data.command, ["--raw", str(raw), *args])


def written(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


WIKIPEDIA = f"{paths.RAW_TEXT}/wikipedia/train.jsonl"


def test_exam_questions_of_four_professions_and_pages(tmp_path, hub):
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    for split in ("train", "dev", "test", "fewshot"):
        assert len(written(tmp_path / paths.RAW_EXAM / f"{split}.jsonl")) == 12
    assert written(tmp_path / WIKIPEDIA) == PAGES
    assert ("sean0042/KorMedMCQA", "nurse", "dev", "abc123", True) in hub.asked
    assert ("wikimedia/wikipedia", "20231101.ko", "train", "abc123", True) in hub.asked
    assert written(tmp_path / paths.REPLAY / "wikipedia/train.jsonl") == PAGES  # English, which stage 0 mixes in
    assert ("wikimedia/wikipedia", "20231101.en", "train", "abc123", True) in hub.asked
    assert [p.name for p in readers.raw_files(tmp_path / paths.RAW_TEXT)] == ["train.jsonl"]  # the notes are no data
    hub.asked.clear()
    assert "there already" in run(tmp_path).output
    assert hub.asked == []


@pytest.mark.parametrize("at", [0, 5, 10, 37])
def test_a_fetch_that_breaks_off_goes_on(tmp_path, hub, at):
    hub.breaks_at = at
    result = run(tmp_path, "--sets", "wikipedia")
    assert result.exit_code == 1
    assert "the line is down)" in result.output
    assert len(result.output[result.output.index("Error:") :].strip().split("\n")) == 2  # what to put where, in two lines
    assert str(tmp_path / WIKIPEDIA) in result.output.replace("\n", "")
    assert "Traceback" not in result.output
    hub.breaks_at = None
    assert run(tmp_path, "--sets", "wikipedia").exit_code == 0
    assert written(tmp_path / WIKIPEDIA) == PAGES


def test_without_a_network_exam_questions_go_where_refine_finds_them(tmp_path, hub):
    hub.breaks_at = 0
    said = run(tmp_path, "--sets", "kormedmcqa").output
    assert f"{tmp_path / paths.RAW_EXAM}/{{train,dev,test,fewshot}}.jsonl" in said
    assert len(said[said.index("Error:") :].strip().split("\n")) == 2


def test_half_a_line_behind_the_note_is_cut(tmp_path, hub):
    hub.breaks_at = 25
    run(tmp_path, "--sets", "wikipedia")
    with open(tmp_path / WIKIPEDIA, "ab") as file:
        file.write(b'{"text": "ha')
    hub.breaks_at = None
    run(tmp_path, "--sets", "wikipedia")
    assert written(tmp_path / WIKIPEDIA) == PAGES


def test_most_records_and_another_revision(tmp_path, hub):
    run(tmp_path, "--sets", "wikipedia", "--most", "7")
    assert written(tmp_path / WIKIPEDIA) == PAGES[:7]
    hub.asked.clear()
    run(tmp_path, "--sets", "wikipedia", "--revision", "v2")
    assert written(tmp_path / WIKIPEDIA) == PAGES
    assert hub.asked == [("wikimedia/wikipedia", "20231101.ko", "train", "v2", True)]


def test_a_set_of_unknown_name(tmp_path, hub):
    result = run(tmp_path, "--sets", "wikipedia,nothing")
    assert result.exit_code == 1
    assert "nothing" in result.output
    assert "namuwiki" in result.output


def test_a_second_fetch_into_one_folder_is_told_who_holds_it(tmp_path, hub):
    hold = (
        "import sys; from pathlib import Path; from kmlite.files import lock\n"
        f"with lock(Path({str(tmp_path)!r}), 'data'): print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=paths.ROOT) as other:
        other.stdout.readline()
        result = run(tmp_path, "--sets", "wikipedia")
        other.stdin.close()
    assert result.exit_code == 1
    assert f"another run writes in {tmp_path}: data, process {other.pid}" in result.output.replace("\n", " ")
    assert hub.asked == [] and not (tmp_path / WIKIPEDIA).exists()
    assert run(tmp_path, "--sets", "wikipedia").exit_code == 0


LETTERS = dict(zip("ABCDE", "가나다라마", strict=True))


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("kormedmcqa", QUESTION, QUESTION),
        ("reasoning", QUESTION | {"thinking": "Let me see", "response": "까닭이다."}, QUESTION | {"cot": "까닭이다."}),
        (
            "clinicalqa",
            {"question": "진단은?", "exam": "혈압 90/60", "options": str(LETTERS), "answer": "B", "explanation": "까닭.", "source": "쪽"},
            {"question": "진단은?\n혈압 90/60", **LETTERS, "answer": "B", "cot": "까닭."},
        ),
        (
            "medexpqa",
            {"question": "치료는?", "options": dict(zip("12345", "가나다라마", strict=True)), "correct_option": 3},
            {"question": "치료는?", **LETTERS, "answer": 3},
        ),
    ],
)
def test_every_set_of_questions_comes_in_the_columns_that_refine_reads_with_its_source(name, row, expected):
    got = data.exam_record(row, name, "default")
    assert {key: got[key] for key in expected} == expected
    assert (got["source"], got["origin"]) == (name, data.SOURCES[name].origin)
    question, reason = exam.check(got)
    assert (reason, question["source"], question["origin"]) == ("", name, data.SOURCES[name].origin)


@pytest.mark.parametrize("options", [None, "nonsense", "{'A': 1", ["가"] * 4, {"A": "가", "B": None}, "[" * 300, 5])
def test_a_question_without_five_options_stays_as_it_is(options):
    row = {"question": "진단은?", "options": options, "answer": "A"}
    assert "A" not in data.exam_record(row, "clinicalqa", "default")


def test_licence_columns_revision_and_what_is_not_verified_are_said(tmp_path, hub):
    said = " ".join(run(tmp_path, "--sets", "kormedmcqa,reasoning").output.split())
    for part in ("licence CC BY-NC 2.0", "answer (1 to 5)", "revision abc123", "not verified: the licence", "ChuGyouk/medical-reasoning"):
        assert part in said
    assert all(source.licence and source.columns for source in data.SOURCES.values())
