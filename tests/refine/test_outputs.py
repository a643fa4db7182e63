"""What refine may touch: RAW never, of REFINED only what it wrote itself."""

import json
import os
from types import SimpleNamespace

import click
import pytest
from refining import attempt, held_by_another, rejected, write
from refining import refined as refine

from kmlite import files, paths
from kmlite.refine import outputs

QUESTION = {"question": "금기인 약물은?", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마", "answer": 2}


def run(raw, out, *args):
    return attempt(raw, out, "--workers", 1, *args)


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def raw(tmp_path):
    write(tmp_path / "raw" / paths.RAW_EXAM / "train.jsonl", QUESTION)
    return tmp_path / "raw"


@pytest.mark.parametrize("place", ["raw", "raw/02_kor_med_test", "raw/new/deep", ".", "link", "link/deep"])
def test_refined_in_raw_or_around_it_is_refused_before_anything_is_touched(tmp_path, raw, place):
    (tmp_path / "link").symlink_to(raw)
    before = everything(tmp_path)
    code, said = run(raw, tmp_path / place)
    assert (code, "nothing was touched" in said) == (1, True)
    assert everything(tmp_path) == before
    assert not (raw / "new").exists()


def test_a_link_from_raw_into_refined_is_refused(tmp_path, raw):
    write(tmp_path / "refined" / "dev.jsonl", QUESTION)
    (raw / paths.RAW_EXAM / "dev.jsonl").symlink_to(tmp_path / "refined" / "dev.jsonl")
    code, said = run(raw, tmp_path / "refined")
    assert (code, "nothing was touched" in said) == (1, True)


@pytest.mark.parametrize("name", [f"{paths.TEXT}/train-7.jsonl", paths.DICTIONARY, f"{paths.EXAM}/train.jsonl", ".partial/mine.txt"])
def test_files_of_others_under_its_own_names_are_not_overwritten(tmp_path, raw, name):
    mine = tmp_path / "refined" / name
    write(mine, "mine")
    code, said = run(raw, tmp_path / "refined")
    assert code == 1 and (mine.name in said or ".partial" in said)
    assert mine.read_text() == "mine\n"


def test_files_of_others_beside_its_own_stay(tmp_path, raw):
    refined = tmp_path / "refined"
    refine(raw, refined)
    mine = [refined / name for name in (f"{paths.EXAM}/notes.txt", f"{paths.REJECTED}/mine/x.jsonl", "mine.txt")]
    for file in mine:
        write(file, "mine")
    refine(raw, refined, "--restart")
    write(raw / paths.RAW_DICTIONARY / "a.jsonl", {"term": "허파", "definition": "숨을 쉬는 가슴 속 장기"})
    (raw / paths.RAW_EXAM / "train.jsonl").unlink()
    refine(raw, refined)
    assert not paths.exam_split(refined, "train").exists()  # what refine wrote and no longer makes goes
    assert all(file.read_text() == "mine\n" for file in mine)


def test_a_second_run_on_one_folder_is_told_who_holds_it(tmp_path, raw):
    refined = tmp_path / "refined"
    with held_by_another(refined, "refine") as other:
        code, said = run(raw, refined)
    assert (code, f"process {other.pid}" in said) == (1, True)
    assert not (refined / ".partial").exists()
    refine(raw, refined)


@pytest.mark.parametrize(("free", "code"), [(2 * 3000 - 1, 1), (2 * 3000, 0)])
def test_a_disk_too_small_is_refused_before_anything_is_written(tmp_path, raw, monkeypatch, free, code):
    [file] = (raw / paths.RAW_EXAM).iterdir()
    file.write_text(file.read_text(encoding="utf-8") + " " * (3000 - file.stat().st_size), encoding="utf-8")
    monkeypatch.setattr("kmlite.files.shutil.disk_usage", lambda place: SimpleNamespace(free=free))
    found, said = run(raw, tmp_path / "refined")
    assert found == code
    if code:
        said = " ".join(said.split())
        assert f"{tmp_path / 'refined'} has room for 5,999 bytes, and refine needs up to 6,000 there" in said
        assert "make refine REFINED=…" in said
        assert everything(tmp_path / "refined").keys() <= {".lock"}


def test_what_is_compressed_needs_more_room_and_what_an_unfinished_run_wrote_needs_none(tmp_path, monkeypatch):
    monkeypatch.setattr("kmlite.files.shutil.disk_usage", lambda place: SimpleNamespace(free=1999))
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        (tmp_path / name).write_bytes(b"1" * 1000)
    partial = tmp_path / "refined" / ".partial"
    for name, need in (("a.jsonl", 2000), ("a.jsonl.gz", 6000), ("a.parquet", 6000)):
        with pytest.raises(click.ClickException, match=f"needs up to {need:,} there"):
            outputs.check_room(tmp_path / "refined", partial, [tmp_path / name])
    (partial / "shards").mkdir(parents=True)
    (partial / "shards" / "1.0.jsonl").write_bytes(b"1" * 1000)
    outputs.check_room(tmp_path / "refined", partial, [tmp_path / "a.jsonl"])


# ---- what is said


def test_what_is_not_read_what_is_missing_and_what_a_setting_keeps_is_said(tmp_path, raw):
    (raw / "stray.jsonl").write_text("x" * 77)
    (raw / paths.RAW_EXAM / "scan[red].pdf").write_bytes(b"1234")
    write(raw / paths.RAW_DICTIONARY / "a.jsonl", {"term": "폐", "definition": "숨을 쉬는 가슴 속 장기"}, {"word": "간", "meaning": "장기"})
    write(
        raw / paths.RAW_DICTIONARY / "b.jsonl",
        {"term": "허파", "definition": "숨을 쉬는 가슴 속 장기"},
        {"term": "허파", "definition": "장기"},
    )
    said = " ".join(refine(raw, tmp_path / "out").split())
    lost = ("word, meaning", "1 terms under 2", "1 definitions under 10", "--term-least 1")
    assert all(part in said for part in ("stray.jsonl (77 bytes)", "scan[red].pdf (4 bytes)", *lost))
    unread = files.read_json(tmp_path / "out" / paths.REFINE_RECORD)["unread"]
    assert {os.path.basename(one["path"]): one["bytes"] for one in unread} == {"stray.jsonl": 77, "scan[red].pdf": 4}
    refine(raw, tmp_path / "out", "--term-least", 1, "--definition-least", 1)
    assert len(files.read_json(tmp_path / "out" / paths.DICTIONARY)) == 2


# ---- official layouts of exam files


@pytest.mark.parametrize(
    ("name", "split", "subject"),
    [
        ("data/doctor-train.csv", "train", "doctor"),
        ("pharm/test/0000.jsonl", "test", "pharm"),
        ("test/data-00000-of-00001.jsonl", "test", None),
        ("KorMedMCQA/pharmacy/validation-00000-of-00001.JSONL", "dev", "pharm"),
        ("간호사/평가.jsonl", "test", "nurse"),
        ("nurse_few-shot.jsonl", "fewshot", "nurse"),
        ("dental/학습/a.jsonl", "train", "dentist"),
        ("test/doctor-train.jsonl", "train", "doctor"),
        ("Test.jsonl", "test", None),
        ("train-00000-of-00001.jsonl", "train", None),
    ],
)
def test_a_split_and_a_subject_are_found_in_any_part_of_a_path(tmp_path, name, split, subject):
    path = tmp_path / "raw" / paths.RAW_EXAM / name
    if name.endswith("csv"):
        write(path, ",".join(QUESTION), ",".join(map(str, QUESTION.values())))
    else:
        write(path, QUESTION)
    refine(tmp_path / "raw", tmp_path / "out")
    [question] = files.read_lines(paths.exam_split(tmp_path / "out", split))
    assert question.get("subject") == subject


@pytest.mark.parametrize("name", ["train_test.jsonl", "extra.jsonl"])
def test_a_file_of_two_splits_or_none_is_named_not_guessed(tmp_path, raw, name):
    write(raw / paths.RAW_EXAM / name, QUESTION | {"question": "다른 물음은 무엇인가?"})
    refine(raw, tmp_path / "out")
    [row] = rejected(tmp_path / "out", "exam")
    assert (row["reason"], row["source"]) == ("unknown_split", f"{paths.RAW_EXAM}/{name}")
    assert os.listdir(tmp_path / "out" / paths.EXAM) == ["train.jsonl"]


@pytest.mark.parametrize("answers", [(0, 1, 2, 3, 4), ("0", "3"), (0.0, 4.0), ("０",)])
def test_answers_counted_from_0_are_refused_and_read_so_when_asked(tmp_path, answers):
    texts = [
        "첫째로 묻는 것은 무엇인가?",
        "간이 하는 일은?",
        "폐렴의 흔한 원인균을 고르면?",
        "당뇨병에서 먼저 재는 값은?",
        "골절을 처음 보는 사진은?",
    ]
    rows = [QUESTION | {"question": text, "answer": answer} for text, answer in zip(texts, answers, strict=False)]
    write(tmp_path / "raw" / paths.RAW_EXAM / "train.jsonl", *rows)
    write(tmp_path / "raw" / paths.RAW_EXAM / "dev.jsonl", QUESTION | {"answer": 5, "question": "개발용 물음은 이것이다, 답은?"})
    code, said = run(tmp_path / "raw", tmp_path / "out")
    assert code == 1 and all(part in said for part in ("train.jsonl", "Counted from 0", "counted from 1"))
    refine(tmp_path / "raw", tmp_path / "out", "--zero-based")
    kept = files.read_lines(paths.exam_split(tmp_path / "out", "train"))
    assert [q["answer"] for q in kept] == ["ABCDE"[int(float(answer))] for answer in answers]
    assert [q["answer"] for q in files.read_lines(paths.exam_split(tmp_path / "out", "dev"))] == ["E"]


def test_odd_records_are_rejected_one_by_one(tmp_path, raw):
    deep = "[" * 1000 + "]" * 1000
    lines = [
        '{"question": "가", "deep": ' + deep + "}",
        json.dumps(QUESTION | {"question": "연도가 긴 물음은?", "year": "9" * 5000}, ensure_ascii=False),
        json.dumps(QUESTION | {"question": "연도가 숫자로 긴 물음은?", "year": 0}, ensure_ascii=False).replace(
            '"year": 0', '"year": ' + "9" * 5000
        ),
        json.dumps(QUESTION | {"question": "상관없는 칸이 빈 물음은?", "score": float("nan")}, ensure_ascii=False),
        deep,
    ]
    write(raw / paths.RAW_EXAM / "train.jsonl", QUESTION, *lines)
    os.rename(
        raw / paths.RAW_EXAM / "train.jsonl", os.path.join(os.fsencode(raw), paths.RAW_EXAM.encode(), "시험 train.jsonl".encode("cp949"))
    )
    refine(raw, tmp_path / "out")
    rows = rejected(tmp_path / "out", "exam")
    assert [row["line"] for row in rows] == [2, 3, 4, 6]
    assert {row["source"] for row in rows} == {f"{paths.RAW_EXAM}/시험 train.jsonl"}
    assert [q["question"] for q in files.read_lines(paths.exam_split(tmp_path / "out", "train"))] == [
        QUESTION["question"],
        "상관없는 칸이 빈 물음은?",
    ]
