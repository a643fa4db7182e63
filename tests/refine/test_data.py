"""make data with a stub in place of the hub: what is written, what a second run does, and a fetch that breaks off."""

import pytest
from click.testing import CliRunner
from refining import held_by_another

from kmlite import files, paths
from kmlite.refine import exam, readers
from recipes import data

PAGES = [{"title": f"{i}", "text": f"글 {i}"} for i in range(50)]
QUESTION = {"question": "금기인 약물은?", **dict(zip("ABCDE", "가나다라마", strict=True)), "answer": 2, "subject": "doctor"}
WIKIPEDIA = f"{paths.RAW_TEXT}/wikipedia/train.jsonl"


class Hub:
    """A hub of two sets that notes what is asked of it and can break off."""

    def __init__(self):
        self.asked, self.breaks_at = [], None

    def load(self, repository, name=None, split=None, revision=None, streaming=False):
        self.asked.append((repository, name, split, revision, streaming))
        table = [QUESTION | {"year": i, "split": split} for i in range(3)] if "KorMed" in repository else PAGES
        for i, row in enumerate(table):
            if i == self.breaks_at:
                raise ConnectionError("the line is down\nand more")
            yield row


@pytest.fixture
def hub(monkeypatch):
    made = Hub()
    monkeypatch.setattr("datasets.load_dataset", made.load)
    monkeypatch.setattr(data, "newest", lambda repository: "abc123")
    monkeypatch.setattr(data, "PIECE", 10)
    return made


def fetch(raw, *args, code=0):
    result = CliRunner().invoke(data.command, ["--raw", str(raw), *args])
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


def test_exam_questions_of_four_professions_and_pages(tmp_path, hub):
    fetch(tmp_path)
    for split in ("train", "dev", "test", "fewshot"):
        assert len(files.read_lines(tmp_path / paths.RAW_EXAM / f"{split}.jsonl")) == 12
    assert files.read_lines(tmp_path / WIKIPEDIA) == PAGES
    assert files.read_lines(tmp_path / paths.REPLAY / "wikipedia/train.jsonl") == PAGES  # English, which stage 0 mixes in
    assert ("sean0042/KorMedMCQA", "nurse", "dev", "abc123", True) in hub.asked
    assert {("wikimedia/wikipedia", f"20231101.{code}", "train", "abc123", True) for code in ("ko", "en")} <= set(hub.asked)
    assert [p.name for p in readers.raw_files(tmp_path / paths.RAW_TEXT)] == ["train.jsonl"]  # the notes are no data
    hub.asked.clear()
    assert "there already" in fetch(tmp_path)
    assert hub.asked == []


@pytest.mark.parametrize("at", [0, 5, 10, 37])
def test_a_fetch_that_breaks_off_goes_on(tmp_path, hub, at):
    hub.breaks_at = at
    said = fetch(tmp_path, "--sets", "wikipedia", code=1)
    assert "the line is down)" in said
    assert len(said[said.index("Error:") :].strip().split("\n")) == 2  # what to put where, in two lines
    assert str(tmp_path / WIKIPEDIA) in said.replace("\n", "")
    with open(tmp_path / WIKIPEDIA, "ab") as file:
        file.write(b'{"text": "ha')  # half a line behind the note
    hub.breaks_at = None
    fetch(tmp_path, "--sets", "wikipedia")
    assert files.read_lines(tmp_path / WIKIPEDIA) == PAGES


def test_a_split_that_was_deleted_is_fetched_anew(tmp_path, hub):
    for _ in range(2):
        fetch(tmp_path, "--sets", "wikipedia")
        assert files.read_lines(tmp_path / WIKIPEDIA) == PAGES
        (tmp_path / WIKIPEDIA).unlink()


def test_without_a_network_exam_questions_go_where_refine_finds_them(tmp_path, hub):
    hub.breaks_at = 0
    said = fetch(tmp_path, "--sets", "kormedmcqa", code=1)
    assert f"{tmp_path / paths.RAW_EXAM}/{{train,dev,test,fewshot}}.jsonl" in said
    assert len(said[said.index("Error:") :].strip().split("\n")) == 2


def test_most_records_and_another_revision(tmp_path, hub):
    fetch(tmp_path, "--sets", "wikipedia", "--most", "7")
    assert files.read_lines(tmp_path / WIKIPEDIA) == PAGES[:7]
    hub.asked.clear()
    fetch(tmp_path, "--sets", "wikipedia", "--revision", "v2")
    assert files.read_lines(tmp_path / WIKIPEDIA) == PAGES
    assert hub.asked == [("wikimedia/wikipedia", "20231101.ko", "train", "v2", True)]


def test_a_set_of_unknown_name(tmp_path, hub):
    said = fetch(tmp_path, "--sets", "wikipedia,nothing", code=1)
    assert "nothing" in said and "namuwiki" in said


def test_a_second_fetch_into_one_folder_is_told_who_holds_it(tmp_path, hub):
    with held_by_another(tmp_path, "data") as other:
        said = fetch(tmp_path, "--sets", "wikipedia", code=1)
    assert f"another run writes in {tmp_path}: data, process {other.pid}" in said.replace("\n", " ")
    assert hub.asked == [] and not (tmp_path / WIKIPEDIA).exists()
    fetch(tmp_path, "--sets", "wikipedia")


LETTERS = {letter: QUESTION[letter] for letter in "ABCDE"}


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
    said = " ".join(fetch(tmp_path, "--sets", "kormedmcqa,reasoning").split())
    for part in ("licence CC BY-NC 2.0", "answer (1 to 5)", "revision abc123", "not verified: the licence", "ChuGyouk/medical-reasoning"):
        assert part in said
    said = fetch(tmp_path, "--help")
    assert all(part in said for name, source in data.SOURCES.items() for part in (name, source.what, source.licence, source.size))
