"""refine from the command line: the sample, the second run, bad input, and a run that is killed."""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import xxhash
from click.testing import CliRunner
from refining import MEDICAL, QUESTION, attempt, content, funnel, held, refined, rejected, trained, write

from kmlite import files, paths
from kmlite.refine import readers
from recipes import refine

SAMPLE_REASONS = {
    "exam": {
        **{"bad_answer": 4, "duplicate": 2, "duplicate_options": 1, "empty_question": 1, "exam_leak_dev": 1, "exam_leak_test": 1},
        **{"missing_field": 1, "not_an_object": 1, "not_json": 1},
    },
    "dictionary": {
        **{"short_definition": 5, "duplicate": 4, "short_term": 4, "missing_field": 3, "repeats_term": 2, "not_an_object": 1, "not_json": 1}
    },
    "text": {
        **{"not_korean": 10, "advertisement": 8, "too_short": 4, "duplicate": 3, "missing_field": 3, "near_duplicate": 3},
        **{"repeated_lines": 3, "empty_file": 1, "not_an_object": 1, "not_json": 1},
    },
}
TOO_SHORT = SAMPLE_REASONS["text"]["too_short"]


def snapshot(out):
    """Every file with its bytes and the time it was written; what an unfinished run left aside."""
    found = (p for p in out.rglob("*") if p.is_file() and p.name != ".lock" and ".partial" not in p.relative_to(out).parts)
    return {str(p.relative_to(out)): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The sample refined into a folder with Korean and blanks in its name; for reading only."""
    out = tmp_path_factory.mktemp("한글 이름") / "정제된 자료" / "02 refined"
    return out, refined(paths.SAMPLE_RAW, out)


@pytest.fixture
def out(tmp_path, once):
    """A copy of the refined sample to run again in."""
    return shutil.copytree(once[0], tmp_path / "refined")


# ---- the sample


@pytest.mark.parametrize("kind", SAMPLE_REASONS)
def test_what_the_sample_loses_and_why(once, kind):
    """Nothing is lost between read, kept and set aside, and the line that is named holds the record that was set aside."""
    part = funnel(once[0])[kind]
    assert part["rejected"] == SAMPLE_REASONS[kind]
    assert part["read"] == part["kept"] + sum(part["rejected"].values())
    assert Counter(row["reason"] for row in rejected(once[0], kind)) == part["rejected"]
    for row in rejected(once[0], kind):
        assert set(row) - {"near"} == {"reason", "source", "line", "record"}
        source = paths.SAMPLE_RAW / row["source"]
        if row["reason"] == "empty_file":
            assert (source.stat().st_size, row["line"]) == (0, 0)
            continue
        line = source.read_text(encoding="utf-8").split("\n")[row["line"] - 1]
        if row["reason"] == "not_json":
            assert line.startswith(row["record"][:100])
        elif isinstance(row["record"], str):
            assert json.loads(line)["text"][: readers.REJECTED_CHARACTERS] == row["record"]
        else:
            assert json.loads(line) == row["record"]


def test_the_refined_sample(once):
    out, said = once
    part = funnel(out)
    for number in ("not_korean 10", "bad_answer 4", "short_definition 5", "train 100, dev 25, test 30, fewshot 5", "02 refined"):
        assert number in said
    assert len(trained(out)) + len(held(out)) == part["text"]["kept"]
    assert len(held(out)) == part["text"]["heldout"] > 0
    assert all(len(text) >= 100 for text in trained(out) + held(out))
    assert not set(trained(out)) & set(held(out))
    entries = files.read_json(out / paths.DICTIONARY)
    assert len(entries) == part["dictionary"]["terms"] == len({entry["term"] for entry in entries})
    keys = {}
    for split, n in part["exam"]["splits"].items():
        questions = files.read_lines(paths.exam_split(out, split))
        assert len(questions) == n > 0
        assert all(question["answer"] in list("ABCDE") for question in questions)
        keys[split] = {(question["question"], question["A"]) for question in questions}
    assert not keys["train"] & (keys["dev"] | keys["test"])
    assert not (out / ".partial").exists()


def test_a_second_run_changes_nothing_and_another_place_gives_the_same_bytes(tmp_path, out):
    before = snapshot(out)
    raw = shutil.copytree(paths.SAMPLE_RAW, tmp_path / "내 자료 (사본)")
    for folder in (paths.SAMPLE_RAW, raw):
        assert "nothing changed" in refined(folder, out)
    assert snapshot(out) == before
    refined(raw, tmp_path / "again")
    assert content(tmp_path / "again") == content(out)


def test_restart_refines_again_to_the_same_bytes(out):
    before, old = snapshot(out), content(out)
    assert "nothing changed" not in refined(paths.SAMPLE_RAW, out, "--restart")
    assert content(out) == old
    assert snapshot(out)[f"{paths.TEXT}/train.jsonl"][1] != before[f"{paths.TEXT}/train.jsonl"][1]


def test_a_changed_rule_refines_again(out):
    assert "nothing changed" not in refined(paths.SAMPLE_RAW, out, "--min-length", 200)
    assert funnel(out)["text"]["rejected"]["too_short"] > TOO_SHORT
    assert min(map(len, trained(out) + held(out))) >= 200
    assert "nothing changed" in refined(paths.SAMPLE_RAW, out, "--min-length", 200)


@pytest.mark.parametrize(
    "damage",
    [lambda out: shutil.rmtree(out / paths.TEXT), lambda out: (out / paths.REFINE_RECORD).write_text('{"plan": ')],
    ids=["result deleted", "record broken"],
)
def test_a_result_that_was_damaged_is_made_again(out, damage):
    before = content(out)
    damage(out)
    refined(paths.SAMPLE_RAW, out)
    assert content(out) == before


@pytest.mark.parametrize("module", ["text", "judging", "batch", "readers"])
def test_a_changed_file_or_another_version_of_the_rules_refines_again(tmp_path, out, monkeypatch, module):
    raw = shutil.copytree(paths.SAMPLE_RAW, tmp_path / "raw")
    with open(raw / paths.RAW_TEXT / "general.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "짧은 글"}\n')
    assert "nothing changed" not in refined(raw, out)
    assert funnel(out)["text"]["rejected"]["too_short"] == TOO_SHORT + 1
    monkeypatch.setattr(f"kmlite.refine.{module}.VERSION", 999)
    assert "nothing changed" not in refined(raw, out)


# ---- held-out texts


@pytest.mark.parametrize("name", ["zz_later.jsonl", "00_earlier.jsonl"])
@pytest.mark.parametrize("most", [2000, 8])
def test_more_data_never_holds_out_a_text_that_was_trained_on(tmp_path, name, most):
    raw, found = tmp_path / "raw", []
    for file, texts in (("medical.jsonl", MEDICAL[:100]), (name, MEDICAL[100:])):
        write(raw / paths.RAW_TEXT / file, *({"text": text} for text in texts))
        refined(raw, tmp_path / "out", "--heldout-share", 0.2, "--heldout-most", most)
        found.append((set(held(tmp_path / "out")), set(trained(tmp_path / "out"))))
    (before, trained_before), (after, trained_after) = found
    assert 4 < len(before) <= most
    assert len(after) <= most
    assert before | trained_before < after | trained_after
    assert not trained_before & after
    assert most < 2000 or before < after  # a full held-out set gives its highest hashes back to train


@pytest.mark.parametrize(("args", "n"), [(("--heldout-share", 0), 0), (("--heldout-share", 1, "--heldout-most", 7), 7)])
def test_how_many_are_held_out_is_a_setting(tmp_path, args, n):
    write(tmp_path / "raw" / paths.RAW_TEXT / "a.jsonl", *({"text": text} for text in MEDICAL[:20]))
    refined(tmp_path / "raw", tmp_path / "out", *args)
    texts = held(tmp_path / "out") + trained(tmp_path / "out")
    assert len(texts) == 20
    assert (
        held(tmp_path / "out") == sorted(texts, key=lambda text: xxhash.xxh3_64_intdigest(text.encode()))[:n]
    )  # the lowest hashes, in their order


# ---- kinds of data


@pytest.mark.parametrize(
    ("raw_name", "kind", "made"),
    [
        (paths.RAW_TEXT, "text", paths.TEXT),
        (paths.RAW_DICTIONARY, "dictionary", paths.DICTIONARY),
        (paths.RAW_EXAM, "exam", paths.EXAM),
    ],
)
def test_one_kind_of_data_is_enough_and_what_is_no_longer_among_the_raw_data_goes(tmp_path, out, raw_name, kind, made):
    shutil.copytree(paths.SAMPLE_RAW / raw_name, tmp_path / "raw" / raw_name)
    for folder in (tmp_path / "new", out):
        refined(tmp_path / "raw", folder)
        assert sorted(os.listdir(folder)) == sorted([".lock", made, paths.REJECTED, paths.REFINE_RECORD])
        assert list(funnel(folder)) == [kind]
        assert os.listdir(folder / paths.REJECTED) == [f"{kind}.jsonl"]


def test_rejected_records_are_limited_the_counts_are_true(tmp_path):
    records = [{"text": f"짧은 글 {i}"} for i in range(9)] + [{"text": MEDICAL[0]}, {"x": 1}]
    write(tmp_path / "raw" / paths.RAW_TEXT / "a.jsonl", *records)
    refined(tmp_path / "raw", tmp_path / "out", "--rejected-most", 3)
    rows = rejected(tmp_path / "out", "text")
    assert [(row["reason"], row["line"]) for row in rows] == [("too_short", 1), ("too_short", 2), ("too_short", 3), ("missing_field", 11)]
    assert funnel(tmp_path / "out")["text"]["rejected"] == {"too_short": 9, "missing_field": 1}


def test_text_of_the_bases_own_language_is_cleaned_and_not_judged(tmp_path):
    english = "The heart pumps blood through the body. <b>Valves</b> keep it from flowing back<end_of_turn>. " * 3
    write(tmp_path / "raw" / paths.REPLAY / "a.jsonl", {"text": english}, {"text": english}, {"text": "too short"}, {"body": "no text"})
    refined(tmp_path / "raw", tmp_path / "out")
    [kept] = files.read_lines(tmp_path / "out" / paths.REPLAY / "train.jsonl")
    assert kept["text"].startswith("The heart pumps blood") and "<" not in kept["text"]
    part = funnel(tmp_path / "out")["replay"]
    assert (part["read"], part["kept"], part["rejected"]) == (4, 1, {"duplicate": 1, "missing_field": 1, "too_short": 1})


# ---- dev and test stay clean


def exam_data(tmp_path, **splits):
    for split, questions in splits.items():
        write(tmp_path / "raw" / paths.RAW_EXAM / f"{split}.jsonl", *questions)
    refined(tmp_path / "raw", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"question": QUESTION["question"].replace(" ", "  ").replace("?", "")},
        {"question": QUESTION["question"].replace(" ", "")},
        {"A": QUESTION["E"], "E": QUESTION["A"]},
        {"answer": 1, "cot": "다른 까닭이다."},
    ],
    ids=["same", "spacing", "no blanks", "order of options", "answer"],
)
def test_a_train_question_that_stands_in_dev_or_test_is_set_aside(tmp_path, split, change):
    other = QUESTION | {"question": "혈압을 낮추는 약은?"}
    out = exam_data(tmp_path, train=[other, QUESTION | change], **{split: [QUESTION]})
    assert [(row["reason"], row["line"]) for row in rejected(out, "exam")] == [(f"exam_leak_{split}", 2)]
    assert [q["question"] for q in files.read_lines(paths.exam_split(out, "train"))] == [other["question"]]
    assert len(files.read_lines(paths.exam_split(out, split))) == 1


def test_which_split_keeps_a_question_of_two(tmp_path):
    """Of dev and test test; an example may stand in dev but not in test or train."""
    other, third = QUESTION | {"question": "둘째 물음은?"}, QUESTION | {"question": "셋째 물음은?", "A": "가슴", "B": "머리", "C": "다리"}
    fourth = QUESTION | {"question": "넷째로 묻는 것은 무엇인가?"}
    splits = {"dev": [QUESTION, fourth], "fewshot": [QUESTION, other, third], "test": [other, fourth], "train": [third, QUESTION]}
    found = [(row["reason"], Path(row["source"]).stem, row["line"]) for row in rejected(exam_data(tmp_path, **splits), "exam")]
    assert found == [
        *[("exam_leak_test", "dev", 2), ("exam_leak_test", "fewshot", 2)],
        *[("exam_leak_fewshot", "train", 1), ("exam_leak_dev", "train", 2)],
    ]


def test_what_each_source_adds_to_train_and_what_its_leak_check_took(tmp_path):
    more = [QUESTION | {"question": f"{part}이 하는 일은?"} for part in ("간", "콩팥", "허파")]
    write(tmp_path / "raw" / paths.RAW_EXAM / "other/train.jsonl", more[0], more[1], more[1], QUESTION, {"x": 1})
    out = exam_data(tmp_path, train=[more[0]], dev=[QUESTION])
    assert funnel(out)["exam"]["sources"] == [
        {"file": "train.jsonl", "read": 1, "kept": 1, "leaks": 0},
        {"file": "other/train.jsonl", "read": 5, "kept": 1, "leaks": 1},
    ]


@pytest.mark.parametrize("split", ["dev", "test", "train"])
def test_texts_and_definitions_that_hold_a_question_of_dev_or_test_are_set_aside(tmp_path, split):
    raw = tmp_path / "raw"
    write(raw / paths.RAW_TEXT / "a.jsonl", {"text": MEDICAL[0]}, {"text": f"{MEDICAL[1]} {QUESTION['question']} {MEDICAL[2]}"})
    entries = {"허파": "숨 쉬는 장기이다.", "금기": f"이를테면 {QUESTION['question']}"}
    write(raw / paths.RAW_DICTIONARY / "a.jsonl", *({"term": term, "definition": text} for term, text in entries.items()))
    out = exam_data(tmp_path, **{split: [QUESTION]})
    for kind in ("text", "dictionary"):
        assert [(row["reason"], row["line"]) for row in rejected(out, kind)] == [("exam_leak", 2)] * (split != "train")


# ---- what goes wrong


@pytest.mark.parametrize("there", [None, (), (paths.RAW_TEXT,), ("other",)], ids=["no folder", "nothing", "no text", "another folder"])
def test_a_raw_folder_without_data(tmp_path, there):
    raw = tmp_path / "없는 폴더"
    for name in ("", *there) if there is not None else ():
        (raw / name).mkdir(exist_ok=True)
    if there:
        (raw / "stray.jsonl").write_text('{"text": "글"}\n', encoding="utf-8")
    code, said = attempt(raw, tmp_path / "out")
    named = () if there is None else (paths.RAW_TEXT, paths.RAW_DICTIONARY, paths.RAW_EXAM)
    assert code == 1 and all(part in said for part in (str(raw), "make refine", *named))
    assert not (tmp_path / "out").exists()


def test_data_that_is_all_bad_is_told_and_leaves_the_earlier_result(tmp_path, out):
    before, raw = snapshot(out), tmp_path / "raw"
    write(raw / paths.RAW_TEXT / "a.jsonl", {"text": "짧다"}, [1], {"body": "글"})
    for name, data in (("b.jsonl", b"\x00\xff no json\n"), ("c.parquet", b"no parquet"), ("d.txt", b"")):
        (raw / paths.RAW_TEXT / name).write_bytes(data)
    write(raw / paths.RAW_DICTIONARY / "a.jsonl", {"term": "폐"})
    write(raw / paths.RAW_EXAM / "train.jsonl", {"question": "물음은?"})
    for place in (tmp_path / "new", out):
        code, said = attempt(raw, place)
        assert (code, "nothing was kept" in said) == (1, True)
        [shown] = re.findall(r"See why in (.+?);", said)
        reasons = {row["reason"] for path in Path(shown).glob("*.jsonl") for row in files.read_lines(path)}
        assert reasons == {"too_short", "not_an_object", "missing_field", "not_json", "unreadable", "empty_file"}
    assert not (tmp_path / "new" / paths.REFINE_RECORD).exists()
    assert snapshot(out) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, said = attempt(paths.SAMPLE_RAW, tmp_path / "locked" / "out")
    assert (code, str(tmp_path / "locked") in said) == (1, True)


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "x"))

    monkeypatch.setattr(refine, "refine_text", fail)
    code, said = attempt(paths.SAMPLE_RAW, tmp_path / "out")
    assert code == 1 and "the disk is full" in said and str(tmp_path / "out" / "x") in said


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_output_that_is_a_file(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    code, said = attempt(paths.SAMPLE_RAW, tmp_path / "file" / below)
    assert (code, str(tmp_path / "file") in said, (tmp_path / "file").read_text()) == (1, True, "mine")


@pytest.mark.parametrize("args", [("--no-such-option",), ("--min-length", "long"), ("stray",)])
def test_options_that_are_wrong(tmp_path, args):
    code, said = attempt(paths.SAMPLE_RAW, tmp_path, *args)
    assert (code, args[-1] in said) == (2, True)


def test_help_names_every_setting_and_its_reason():
    said = " ".join(CliRunner().invoke(refine.command, ["--help"]).output.split())
    assert all(f"--{item.name.replace('_', '-')}" in said for item in fields(refine.Settings))
    assert "less is mostly menus and captions" in said


# ---- killed


@pytest.mark.parametrize("place", ["judging.judge", "dictionary.join_senses", "leakage.exact_key"])
def test_a_run_that_is_killed_leaves_the_earlier_result(out, monkeypatch, place):
    before, calls = snapshot(out), []

    def kill(*args):
        calls.append(args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"kmlite.refine.{place}", kill)
        assert attempt(paths.SAMPLE_RAW, out, "--min-length", 200)[0] == 1
    assert len(calls) == 1
    assert snapshot(out) == before
    assert "nothing changed" in refined(paths.SAMPLE_RAW, out)
    refined(paths.SAMPLE_RAW, out, "--min-length", 200)
    assert funnel(out)["text"]["rejected"]["too_short"] > TOO_SHORT
    assert not (out / ".partial").exists()


def test_a_run_that_is_killed_while_it_moves_its_results_is_not_taken_as_done(out, monkeypatch):
    before, replace, moved = content(out), os.replace, []

    def kill(source, target):
        if ".partial/" in str(source) and ".partial" not in str(target):
            moved.append(target)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("kmlite.refine.outputs.os.replace", kill)
        assert attempt(paths.SAMPLE_RAW, out, "--min-length", 200)[0] == 1
    assert len(moved) == 2
    assert "nothing changed" not in refined(paths.SAMPLE_RAW, out)
    assert content(out) == before
