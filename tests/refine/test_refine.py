"""refine from the command line: the sample, the second run, bad input, and a run that is killed."""

import dataclasses
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmlite import paths
from kmlite.refine import readers
from recipes import refine

SAMPLE_REASONS = {
    "exam": {
        "bad_answer": 4,
        "duplicate": 2,
        "duplicate_options": 1,
        "empty_question": 1,
        "exam_leak_dev": 1,
        "exam_leak_test": 1,
        "missing_field": 1,
        "not_an_object": 1,
        "not_json": 1,
    },
    "dictionary": {
        "short_definition": 5,
        "duplicate": 4,
        "short_term": 4,
        "missing_field": 3,
        "repeats_term": 2,
        "not_an_object": 1,
        "not_json": 1,
    },
    "text": {
        "not_korean": 10,
        "advertisement": 8,
        "too_short": 4,
        "duplicate": 3,
        "missing_field": 3,
        "near_duplicate": 3,
        "repeated_lines": 3,
        "empty_file": 1,
        "not_an_object": 1,
        "not_json": 1,
    },
}


def run(*args):
    """Run refine; whatever goes wrong must be told plainly."""
    result = CliRunner().invoke(refine.command, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return result


def refined(raw, out, *args):
    result = run("--raw", raw, "--refined", out, *args)
    assert result.exit_code == 0, result.output
    return result.output


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def rejected(out, kind):
    return lines(out / paths.REJECTED / f"{kind}.jsonl")


def funnel(out):
    return json.loads((out / paths.REFINE_RECORD).read_text(encoding="utf-8"))["funnel"]


def snapshot(out):
    """Every file with its bytes and the time it was written; what an unfinished run left aside."""
    files = (p for p in out.rglob("*") if p.is_file() and p.name != ".lock" and ".partial" not in p.relative_to(out).parts)
    return {str(p.relative_to(out)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def same_bytes(one, other):
    """Equal but for refine.json, which holds the seconds."""
    contents = [{name: content for name, (content, _) in s.items() if name != paths.REFINE_RECORD} for s in (one, other)]
    return contents[0] == contents[1]


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The sample refined into a folder with Korean and blanks in its name; for reading only."""
    out = tmp_path_factory.mktemp("한글 이름") / "정제된 자료" / "02 refined"
    output = refined(paths.SAMPLE_RAW, out)
    return out, output


@pytest.fixture
def out(tmp_path, once):
    """A copy of the refined sample to run again in."""
    return shutil.copytree(once[0], tmp_path / "refined")


TEXTS = [json.loads(line)["text"] for line in (paths.SAMPLE_RAW / paths.RAW_TEXT / "medical.jsonl").read_text("utf-8").split("\n") if line]
QUESTION = {
    "question": "협심증으로 니트로글리세린 설하정을 쓰는 환자가 함께 복용하면 심한 저혈압이 생길 수 있어 금기인 약물을 고르면?",
    "A": "메트포르민",
    "B": "오메프라졸",
    "C": "실데나필",
    "D": "세티리진",
    "E": "스타틴",
    "answer": 3,
}


# ---- the sample


def test_what_the_sample_loses_and_why(once):
    assert {kind: part["rejected"] for kind, part in funnel(once[0]).items()} == SAMPLE_REASONS


@pytest.mark.parametrize("kind", SAMPLE_REASONS)
def test_nothing_is_lost_between_read_kept_and_set_aside(once, kind):
    part = funnel(once[0])[kind]
    assert part["read"] == part["kept"] + sum(part["rejected"].values())
    assert Counter(row["reason"] for row in rejected(once[0], kind)) == part["rejected"]


@pytest.mark.parametrize("kind", SAMPLE_REASONS)
def test_what_is_set_aside_can_be_found_again(once, kind):
    """The line that is named holds the record that was set aside."""
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
    out = once[0]
    part = funnel(out)
    train, heldout = lines(out / paths.TEXT / "train.jsonl"), lines(out / paths.TEXT / "heldout.jsonl")
    assert len(train) + len(heldout) == part["text"]["kept"]
    assert len(heldout) == part["text"]["heldout"] > 0
    assert all(set(record) == {"text"} and len(record["text"]) >= 100 for record in train + heldout)
    entries = json.loads((out / paths.DICTIONARY).read_text(encoding="utf-8"))
    assert len(entries) == part["dictionary"]["terms"]
    assert len({entry["term"] for entry in entries}) == len(entries)
    for split, n in part["exam"]["splits"].items():
        questions = lines(paths.exam_split(out, split))
        assert len(questions) == n > 0
        assert all(question["answer"] in list("ABCDE") for question in questions)
    assert not {record["text"] for record in train} & {record["text"] for record in heldout}
    assert not (out / ".partial").exists()


def test_the_numbers_are_shown(once):
    for part in ("not_korean 10", "bad_answer 4", "short_definition 5", "train 100, dev 25, test 30, fewshot 5", "02 refined"):
        assert part in once[1]


def test_no_question_of_dev_or_test_is_in_train(once):
    keys = {s: {(q["question"], q["A"]) for q in lines(paths.exam_split(once[0], s))} for s in ("train", "dev", "test")}
    assert keys["train"] and not keys["train"] & (keys["dev"] | keys["test"])


def test_a_second_run_changes_nothing(out):
    before = snapshot(out)
    assert "nothing changed" in refined(paths.SAMPLE_RAW, out)
    assert snapshot(out) == before


def test_the_sample_in_another_place_gives_the_same_bytes(tmp_path, out):
    raw = shutil.copytree(paths.SAMPLE_RAW, tmp_path / "내 자료 (사본)")
    assert "nothing changed" in refined(raw, out)
    refined(raw, tmp_path / "again")
    assert same_bytes(snapshot(tmp_path / "again"), snapshot(out))


def test_restart_refines_again_to_the_same_bytes(out):
    before = snapshot(out)
    assert "nothing changed" not in refined(paths.SAMPLE_RAW, out, "--restart")
    after = snapshot(out)
    assert same_bytes(after, before)
    assert after[f"{paths.TEXT}/train.jsonl"][1] != before[f"{paths.TEXT}/train.jsonl"][1]


def test_a_changed_rule_refines_again(out):
    assert "nothing changed" not in refined(paths.SAMPLE_RAW, out, "--min-length", 200)
    assert funnel(out)["text"]["rejected"]["too_short"] > SAMPLE_REASONS["text"]["too_short"]
    kept = lines(out / paths.TEXT / "train.jsonl") + lines(out / paths.TEXT / "heldout.jsonl")
    assert min(len(record["text"]) for record in kept) >= 200
    assert "nothing changed" in refined(paths.SAMPLE_RAW, out, "--min-length", 200)


@pytest.mark.parametrize(
    "damage",
    [lambda out: shutil.rmtree(out / paths.TEXT), lambda out: (out / paths.REFINE_RECORD).write_text('{"plan": ')],
    ids=["result deleted", "record broken"],
)
def test_a_result_that_was_damaged_is_made_again(out, damage):
    before = snapshot(out)
    damage(out)
    refined(paths.SAMPLE_RAW, out)
    assert same_bytes(snapshot(out), before)


def test_a_changed_file_or_another_version_of_the_rules_refines_again(tmp_path, out, monkeypatch):
    raw = shutil.copytree(paths.SAMPLE_RAW, tmp_path / "raw")
    with open(raw / paths.RAW_TEXT / "general.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "짧은 글"}\n')
    assert "nothing changed" not in refined(raw, out)
    assert funnel(out)["text"]["rejected"]["too_short"] == SAMPLE_REASONS["text"]["too_short"] + 1
    monkeypatch.setattr("kmlite.refine.text.VERSION", 999)
    assert "nothing changed" not in refined(raw, out)


# ---- held-out texts


def held(out):
    return {record["text"] for record in lines(out / paths.TEXT / "heldout.jsonl")}


def trained(out):
    return {record["text"] for record in lines(out / paths.TEXT / "train.jsonl")}


@pytest.mark.parametrize("name", ["zz_later.jsonl", "00_earlier.jsonl"])
@pytest.mark.parametrize("most", [2000, 8])
def test_more_data_never_holds_out_a_text_that_was_trained_on(tmp_path, name, most):
    raw = tmp_path / "raw"
    args = ("--heldout-share", 0.2, "--heldout-most", most)
    write_lines(raw / paths.RAW_TEXT / "medical.jsonl", [{"text": t} for t in TEXTS[:100]])
    refined(raw, tmp_path / "one", *args)
    write_lines(raw / paths.RAW_TEXT / name, [{"text": t} for t in TEXTS[100:]])
    refined(raw, tmp_path / "two", *args)
    before, after = held(tmp_path / "one"), held(tmp_path / "two")
    assert 4 < len(before) <= most
    assert len(after) <= most
    assert before | trained(tmp_path / "one") < after | trained(tmp_path / "two")
    assert not trained(tmp_path / "one") & after
    assert most < 2000 or before < after  # a full held-out set gives its highest hashes back to train


@pytest.mark.parametrize(("args", "n"), [(("--heldout-share", 0), 0), (("--heldout-share", 1, "--heldout-most", 7), 7)])
def test_how_many_are_held_out_is_a_setting(tmp_path, args, n):
    write_lines(tmp_path / "raw" / paths.RAW_TEXT / "a.jsonl", [{"text": t} for t in TEXTS[:20]])
    refined(tmp_path / "raw", tmp_path / "out", *args)
    assert (len(held(tmp_path / "out")), len(trained(tmp_path / "out"))) == (n, 20 - n)


# ---- kinds of data


@pytest.mark.parametrize(
    ("raw_name", "kind", "made"),
    [
        (paths.RAW_TEXT, "text", paths.TEXT),
        (paths.RAW_DICTIONARY, "dictionary", paths.DICTIONARY),
        (paths.RAW_EXAM, "exam", paths.EXAM),
    ],
)
def test_one_kind_of_data_is_enough(tmp_path, raw_name, kind, made):
    shutil.copytree(paths.SAMPLE_RAW / raw_name, tmp_path / "raw" / raw_name)
    out = tmp_path / "out"
    refined(tmp_path / "raw", out)
    assert sorted(os.listdir(out)) == sorted([".lock", made, paths.REJECTED, paths.REFINE_RECORD])
    assert list(funnel(out)) == [kind]
    assert os.listdir(out / paths.REJECTED) == [f"{kind}.jsonl"]


def test_what_is_no_longer_among_the_raw_data_goes(tmp_path, out):
    shutil.copytree(paths.SAMPLE_RAW / paths.RAW_DICTIONARY, tmp_path / "raw" / paths.RAW_DICTIONARY)
    refined(tmp_path / "raw", out)
    assert sorted(os.listdir(out)) == [".lock", paths.DICTIONARY, paths.REFINE_RECORD, paths.REJECTED]


def test_rejected_records_are_limited_the_counts_are_true(tmp_path):
    records = [{"text": f"짧은 글 {i}"} for i in range(9)] + [{"text": TEXTS[0]}, {"x": 1}]
    write_lines(tmp_path / "raw" / paths.RAW_TEXT / "a.jsonl", records)
    refined(tmp_path / "raw", tmp_path / "out", "--rejected-most", 3)
    rows = rejected(tmp_path / "out", "text")
    assert [(row["reason"], row["line"]) for row in rows] == [("too_short", 1), ("too_short", 2), ("too_short", 3), ("missing_field", 11)]
    assert funnel(tmp_path / "out")["text"]["rejected"] == {"too_short": 9, "missing_field": 1}


# ---- dev and test stay clean


def exam_data(tmp_path, **splits):
    for split, questions in splits.items():
        write_lines(tmp_path / "raw" / paths.RAW_EXAM / f"{split}.jsonl", questions)
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
    assert [q["question"] for q in lines(paths.exam_split(out, "train"))] == [other["question"]]
    assert len(lines(paths.exam_split(out, split))) == 1


def test_a_dev_question_that_stands_in_test_is_set_aside(tmp_path):
    out = exam_data(tmp_path, dev=[QUESTION, QUESTION | {"question": "다른 물음은?"}], test=[QUESTION])
    assert [(row["reason"], row["source"]) for row in rejected(out, "exam")] == [("exam_leak_test", f"{paths.RAW_EXAM}/dev.jsonl")]


def test_an_example_may_stand_in_dev_but_not_in_test_or_train(tmp_path):
    other, third = QUESTION | {"question": "둘째 물음은?"}, QUESTION | {"question": "셋째 물음은?", "A": "가슴", "B": "머리", "C": "다리"}
    out = exam_data(tmp_path, dev=[QUESTION], fewshot=[QUESTION, other, third], test=[other], train=[third, QUESTION])
    found = [(row["reason"], Path(row["source"]).name, row["line"]) for row in rejected(out, "exam")]
    assert found == [("exam_leak_test", "fewshot.jsonl", 2), ("exam_leak_fewshot", "train.jsonl", 1), ("exam_leak_dev", "train.jsonl", 2)]


def test_what_each_source_adds_to_train_and_what_its_leak_check_took(tmp_path):
    more = [QUESTION | {"question": f"{part}이 하는 일은?"} for part in ("간", "콩팥", "허파")]
    write_lines(tmp_path / "raw" / paths.RAW_EXAM / "other/train.jsonl", [more[0], more[1], more[1], QUESTION, {"x": 1}])
    out = exam_data(tmp_path, train=[more[0]], dev=[QUESTION])
    assert funnel(out)["exam"]["sources"] == [
        {"file": "train.jsonl", "read": 1, "kept": 1, "leaks": 0},
        {"file": "other/train.jsonl", "read": 5, "kept": 1, "leaks": 1},
    ]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_texts_and_definitions_that_hold_an_exam_question_are_set_aside(tmp_path, split):
    raw = tmp_path / "raw"
    write_lines(raw / paths.RAW_TEXT / "a.jsonl", [{"text": TEXTS[0]}, {"text": f"{TEXTS[1]} {QUESTION['question']} {TEXTS[2]}"}])
    entries = [{"term": "허파", "definition": "숨 쉬는 장기이다."}, {"term": "금기", "definition": f"이를테면 {QUESTION['question']}"}]
    write_lines(raw / paths.RAW_DICTIONARY / "a.jsonl", entries)
    out = exam_data(tmp_path, **{split: [QUESTION]})
    for kind in ("text", "dictionary"):
        assert [(row["reason"], row["line"]) for row in rejected(out, kind)] == [("exam_leak", 2)]


def test_a_text_may_hold_a_question_of_train(tmp_path):
    write_lines(tmp_path / "raw" / paths.RAW_TEXT / "a.jsonl", [{"text": f"{TEXTS[1]} {QUESTION['question']} {TEXTS[2]}"}])
    out = exam_data(tmp_path, train=[QUESTION])
    assert funnel(out)["text"]["kept"] == 1


# ---- what goes wrong


def test_a_raw_folder_that_is_missing(tmp_path):
    result = run("--raw", tmp_path / "없는 폴더", "--refined", tmp_path / "out")
    assert result.exit_code == 1
    assert str(tmp_path / "없는 폴더") in result.output
    assert "make refine" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [(), (paths.RAW_TEXT,), ("other",)], ids=["nothing", "an empty folder of text", "another folder"])
def test_a_raw_folder_without_data(tmp_path, content):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in content:
        (raw / name).mkdir()
    (raw / "stray.jsonl").write_text('{"text": "글"}\n', encoding="utf-8")
    result = run("--raw", raw, "--refined", tmp_path / "out")
    assert result.exit_code == 1
    for part in (str(raw), paths.RAW_TEXT, paths.RAW_DICTIONARY, paths.RAW_EXAM, "make refine"):
        assert part in result.output
    assert not (tmp_path / "out").exists()


def bad_data(raw):
    write_lines(raw / paths.RAW_TEXT / "a.jsonl", [{"text": "짧다"}, [1], {"body": "글"}])
    (raw / paths.RAW_TEXT / "b.jsonl").write_bytes(b"\x00\xff no json\n")
    (raw / paths.RAW_TEXT / "c.parquet").write_bytes(b"no parquet")
    (raw / paths.RAW_TEXT / "d.txt").touch()
    write_lines(raw / paths.RAW_DICTIONARY / "a.jsonl", [{"term": "폐"}])
    write_lines(raw / paths.RAW_EXAM / "train.jsonl", [{"question": "물음은?"}])
    return raw


def test_data_that_is_all_bad_is_told_and_leaves_the_earlier_result(tmp_path, out):
    before, raw = snapshot(out), bad_data(tmp_path / "raw")
    for place in (tmp_path / "new", out):
        result = run("--raw", raw, "--refined", place)
        assert result.exit_code == 1
        assert "nothing was kept" in result.output
        [shown] = re.findall(r"See why in (.+?);", result.output)
        reasons = {row["reason"] for path in Path(shown).glob("*.jsonl") for row in lines(path)}
        assert reasons == {"too_short", "not_an_object", "missing_field", "not_json", "unreadable", "empty_file"}
    assert not (tmp_path / "new" / paths.REFINE_RECORD).exists()
    assert snapshot(out) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    result = run("--raw", paths.SAMPLE_RAW, "--refined", locked / "out")
    assert result.exit_code == 1
    assert str(locked) in result.output


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "x"))

    monkeypatch.setattr(refine, "refine_text", fail)
    result = run("--raw", paths.SAMPLE_RAW, "--refined", tmp_path / "out")
    assert result.exit_code == 1
    assert "the disk is full" in result.output
    assert str(tmp_path / "out" / "x") in result.output


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_output_that_is_a_file(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    result = run("--raw", paths.SAMPLE_RAW, "--refined", tmp_path / "file" / below)
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.output
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("args", [("--no-such-option",), ("--min-length", "long"), ("stray",)])
def test_options_that_are_wrong(args):
    result = run(*args)
    assert result.exit_code == 2
    assert args[-1] in result.output


def test_help_names_every_setting_and_its_reason():
    output = " ".join(run("--help").output.split())
    for item in dataclasses.fields(refine.Settings):
        assert f"--{item.name.replace('_', '-')}" in output
    assert "less is mostly menus and captions" in output


# ---- killed


@pytest.mark.parametrize(
    "place",
    ["kmlite.refine.judging.judge", "kmlite.refine.dictionary.join_senses", "kmlite.refine.leakage.exact_key"],
    ids=["text", "dictionary", "exam"],
)
def test_a_run_that_is_killed_leaves_the_earlier_result(out, monkeypatch, place):
    before = snapshot(out)
    calls = []

    def kill(*args):
        calls.append(args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, kill)
        assert run("--raw", paths.SAMPLE_RAW, "--refined", out, "--min-length", 200).exit_code == 1
    assert len(calls) == 1
    assert snapshot(out) == before
    assert "nothing changed" in refined(paths.SAMPLE_RAW, out)
    refined(paths.SAMPLE_RAW, out, "--min-length", 200)
    assert funnel(out)["text"]["rejected"]["too_short"] > SAMPLE_REASONS["text"]["too_short"]
    assert not (out / ".partial").exists()


def test_a_run_that_is_killed_while_it_moves_its_results_is_not_taken_as_done(out, monkeypatch):
    before = snapshot(out)
    replace, moved = os.replace, []

    def kill(source, target):
        if ".partial/" in str(source) and ".partial" not in str(target):
            moved.append(target)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("kmlite.refine.outputs.os.replace", kill)
        assert run("--raw", paths.SAMPLE_RAW, "--refined", out, "--min-length", 200).exit_code == 1
    assert len(moved) == 2
    assert "nothing changed" not in refined(paths.SAMPLE_RAW, out)
    assert same_bytes(snapshot(out), before)


def test_text_of_the_bases_own_language_is_cleaned_and_not_judged(tmp_path):
    english = "The heart pumps blood through the body. <b>Valves</b> keep it from flowing back<end_of_turn>. " * 3
    rows = [{"text": english}, {"text": english}, {"text": "too short"}, {"body": "no text"}]
    write_lines(tmp_path / "raw" / paths.REPLAY / "a.jsonl", rows)
    refined(tmp_path / "raw", tmp_path / "out")
    [kept] = lines(tmp_path / "out" / paths.REPLAY / "train.jsonl")
    assert kept["text"].startswith("The heart pumps blood") and "<" not in kept["text"]
    part = funnel(tmp_path / "out")["replay"]
    assert (part["read"], part["kept"], part["rejected"]) == (4, 1, {"duplicate": 1, "missing_field": 1, "too_short": 1})
