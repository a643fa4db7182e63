"""The record of a run: files whole or not at all, and when a run is done, goes on or is refused."""

import json
import os
import shutil
import time

import click
import pytest

from kmlite import files, paths, runs

PLAN = {"settings": {"rate": 2e-5, "epochs": 1}, "data": "0123"}


def test_write_text_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "새 폴더" / "a.json"
    files.write_text(path, "가")
    files.write_text(path, "나")
    assert path.read_bytes() == "나".encode()
    assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runs.os, broken, fail)
        with pytest.raises(OSError, match="No space"):
            files.write_text(path, "new")
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_a_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "new \ud800")
    assert path.read_text() == "old"


def test_a_first_write_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a.json", "\ud800")
    assert not (tmp_path / "a.json").exists()


def test_json_and_lines(tmp_path):
    files.write_json(tmp_path / "a.json", {"이름": ["값", None], "path": tmp_path})
    assert files.read_json(tmp_path / "a.json") == {"이름": ["값", None], "path": str(tmp_path)}
    assert "이름" in (tmp_path / "a.json").read_text(encoding="utf-8")
    files.write_lines(tmp_path / "a.jsonl", [{"text": "가\n나"}, {"text": "다"}])
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"text": "가\\n나"}\n{"text": "다"}\n'


def test_put_in_place_replaces_a_folder(tmp_path):
    for name, text in (("final", "old"), ("final.partial", "new")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a").write_text(text)
    (tmp_path / "final" / "only_old").touch()
    files.put_in_place(tmp_path / "final.partial", tmp_path / "final")
    assert (tmp_path / "final" / "deep" / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["final"]
    assert os.listdir(tmp_path / "final") == ["deep"]


# ---- fingerprints


def test_fingerprint_knows_bytes_and_names(tmp_path):
    one = tmp_path / "a"
    one.write_bytes(b"abc")
    before = files.fingerprint(one)
    assert len(before) == 16
    assert int(before, 16) >= 0
    os.utime(one, (0, 0))
    assert files.fingerprint(one) == before
    one.write_bytes(b"abd")
    assert files.fingerprint(one) != before
    one.write_bytes(b"abc")
    assert files.fingerprint(one) == before
    assert files.fingerprint(one.rename(tmp_path / "b")) != before


def test_fingerprint_of_several_files_knows_where_one_ends(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"12")
    b.write_bytes(b"3")
    before = files.fingerprint(a, b)
    assert before != files.fingerprint(b, a)
    a.write_bytes(b"1")
    b.write_bytes(b"23")
    assert files.fingerprint(a, b) != before


@pytest.mark.parametrize(
    ("size", "place", "seen"),
    [(8, 0, True), (8, 7, True), (12, 5, True), (100, 0, True), (100, 7, True), (100, 99, True), (100, 48, True), (100, 50, False)],
)
def test_fingerprint_of_a_large_file_reads_both_ends_and_samples_between(tmp_path, monkeypatch, size, place, seen):
    monkeypatch.setattr(files, "WHOLE", 8)
    monkeypatch.setattr(files, "SAMPLE", 2)
    monkeypatch.setattr(files, "STRIDE", 20)
    path = tmp_path / "weights"
    content = bytearray(size)
    path.write_bytes(content)
    before = files.fingerprint(path)
    content[place] = 1
    path.write_bytes(content)
    assert (files.fingerprint(path) != before) is seen


def test_fingerprint_of_a_large_file_knows_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WHOLE", 8)
    path = tmp_path / "weights"
    path.write_bytes(bytes(100))
    before = files.fingerprint(path)
    path.write_bytes(bytes(101))
    assert files.fingerprint(path) != before


def test_model_fingerprint_reads_what_makes_a_model(tmp_path):
    for name in ("config.json", "model.safetensors", "chat_template.jinja", "README.md"):
        (tmp_path / name).write_text("1")
    before = files.model_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("2")
    assert files.model_fingerprint(tmp_path) == before
    for name in ("config.json", "model.safetensors", "chat_template.jinja"):
        (tmp_path / name).write_text("2")
        assert files.model_fingerprint(tmp_path) != before
        (tmp_path / name).write_text("1")


# ---- begin, is_done, finish


@pytest.fixture
def finish(monkeypatch):
    monkeypatch.setattr(runs, "environment", lambda: {"device": "none"})
    return lambda folder, plan: runs.finish(folder, plan, time.time(), {"results": [1.5], "worse": []})


def model(folder, weights: str = "1"):
    files.write_text(folder / paths.FINAL / "model.safetensors", weights)


def half_done(folder, plan):
    runs.begin(folder, plan, restart=False)
    (folder / paths.CHECKPOINTS / "checkpoint-10").mkdir(parents=True)
    (folder / paths.EXTENDED).mkdir()
    (folder / "loop_1").mkdir()


def names(folder):
    return sorted(os.listdir(folder))


def test_a_new_run_notes_its_plan(tmp_path):
    runs.begin(tmp_path / "00", PLAN, restart=False)
    assert names(tmp_path / "00") == [paths.PLAN]
    assert files.read_json(tmp_path / "00" / paths.PLAN) == PLAN
    assert not runs.is_done(tmp_path / "00", PLAN)


def test_the_same_plan_goes_on(tmp_path):
    half_done(tmp_path, PLAN)
    before = names(tmp_path)
    runs.begin(tmp_path, PLAN, restart=False)
    assert names(tmp_path) == before
    assert (tmp_path / paths.CHECKPOINTS / "checkpoint-10").is_dir()


def test_tuples_and_paths_of_a_plan_are_no_change(tmp_path):
    plan = {"loops": (1, 2), "base": tmp_path}
    half_done(tmp_path, plan)
    runs.begin(tmp_path, plan, restart=False)
    assert (tmp_path / paths.CHECKPOINTS).is_dir()


def test_an_unfinished_run_of_another_plan_is_refused(tmp_path):
    half_done(tmp_path, PLAN)
    before = names(tmp_path)
    changed = {"settings": {"rate": 1e-4, "epochs": 1}, "data": "4567"}
    with pytest.raises(click.ClickException) as error:
        runs.begin(tmp_path, changed, restart=False)
    for part in (str(tmp_path), "settings.rate: 2e-05 → 0.0001", "data: 0123 → 4567", "--restart"):
        assert part in error.value.message
    assert "epochs" not in error.value.message
    assert names(tmp_path) == before
    assert files.read_json(tmp_path / paths.PLAN) == PLAN


def test_restart_drops_what_an_unfinished_run_has(tmp_path):
    half_done(tmp_path, PLAN)
    changed = PLAN | {"data": "4567"}
    runs.begin(tmp_path, changed, restart=True)
    assert names(tmp_path) == [paths.PLAN]
    assert files.read_json(tmp_path / paths.PLAN) == changed


def test_a_finished_run(tmp_path, finish):
    half_done(tmp_path, PLAN)
    model(tmp_path)
    assert not runs.is_done(tmp_path, PLAN)
    record = finish(tmp_path, PLAN)
    assert names(tmp_path) == [paths.FINAL, "loop_1", paths.RECORD]
    assert files.read_json(tmp_path / paths.RECORD) == json.loads(json.dumps(record))
    assert (record["plan"], record["results"], record["device"]) == (PLAN, [1.5], "none")
    assert 0 <= record["seconds"] < 60
    assert runs.is_done(tmp_path, PLAN)
    assert not runs.is_done(tmp_path, PLAN | {"data": "4567"})


def test_a_kill_right_behind_the_record_leaves_a_finished_run(tmp_path, finish, monkeypatch):
    half_done(tmp_path, PLAN)
    model(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "tidy", lambda folder: None)
        finish(tmp_path, PLAN)
    changed = PLAN | {"data": "4567"}
    with pytest.raises(click.ClickException, match="unfinished"):
        runs.begin(tmp_path, changed, restart=False)
    runs.tidy_after_kill(tmp_path)
    assert names(tmp_path) == [paths.FINAL, "loop_1", paths.RECORD]
    runs.begin(tmp_path, changed, restart=True)
    (tmp_path / paths.CHECKPOINTS).mkdir()
    runs.tidy_after_kill(tmp_path)  # another run is under way
    assert names(tmp_path) == [paths.CHECKPOINTS, paths.FINAL, paths.PLAN, paths.RECORD]


def test_a_record_without_its_model_is_not_done(tmp_path, finish):
    model(tmp_path)
    finish(tmp_path, PLAN)
    assert runs.is_done(tmp_path, PLAN)
    shutil.rmtree(tmp_path / paths.FINAL)
    assert not runs.is_done(tmp_path, PLAN)
    runs.begin(tmp_path, PLAN, restart=False)  # whoever removes a model wants another


@pytest.mark.parametrize(
    "change",
    [
        lambda final: (final / "model.safetensors").unlink(),
        lambda final: (final / "model.safetensors").write_bytes(b"12"),
        lambda final: (final / "model.safetensors").write_bytes(b"2"),
        lambda final: (final / "tokenizer.json").write_text("{ }"),
        lambda final: files.write_json(final.parent / paths.RECORD, [1]),
        lambda final: files.write_json(final.parent / paths.RECORD, {"plan": PLAN}),
        lambda final: (final.parent / paths.RECORD).write_text('{"plan": '),
        lambda final: (final.parent / paths.RECORD).write_text("[" * 100_000),
    ],
)
def test_a_model_or_record_that_was_changed_since_is_not_done_and_not_trained_over_unasked(tmp_path, finish, change):
    final = tmp_path / paths.FINAL
    model(tmp_path)
    (final / "tokenizer.json").write_text("{}")
    finish(tmp_path, PLAN)
    assert runs.is_done(tmp_path, PLAN)
    change(final)
    assert not runs.is_done(tmp_path, PLAN)
    with pytest.raises(click.ClickException, match="not as its run left it"):
        runs.begin(tmp_path, PLAN, restart=False)
    runs.begin(tmp_path, PLAN, restart=True)


@pytest.mark.parametrize("content", ["", "[1]", '{"a": ', "null"])
def test_a_damaged_plan_drops_no_checkpoint_unasked(tmp_path, content):
    half_done(tmp_path, PLAN)
    (tmp_path / paths.PLAN).write_text(content)
    with pytest.raises(click.ClickException, match=r"plan\.json is damaged"):
        runs.begin(tmp_path, PLAN, restart=False)
    assert (tmp_path / paths.CHECKPOINTS / "checkpoint-10").is_dir()
    runs.begin(tmp_path, PLAN, restart=True)
    assert names(tmp_path) == [paths.PLAN]


def test_a_finished_run_of_another_plan_is_refused_until_restart(tmp_path, finish):
    half_done(tmp_path, PLAN)
    model(tmp_path)
    finish(tmp_path, PLAN)
    changed = PLAN | {"data": "4567"}
    before = names(tmp_path)
    with pytest.raises(click.ClickException) as error:
        runs.begin(tmp_path, changed, restart=False)
    for part in ("a finished run", "data: 0123 → 4567", "--restart"):
        assert part in error.value.message
    assert names(tmp_path) == before
    runs.begin(tmp_path, changed, restart=True)
    assert names(tmp_path) == [paths.FINAL, paths.PLAN, paths.RECORD]  # the old result stays until the new one is there
    assert files.read_json(tmp_path / paths.PLAN) == changed
    assert runs.is_done(tmp_path, PLAN)
    assert not runs.is_done(tmp_path, changed)


def test_cosmetic_settings_are_no_part_of_the_result(tmp_path, finish):
    plan, other = (PLAN | {runs.COSMETIC: {"log_every": n}} for n in (10, 5))
    half_done(tmp_path, plan)
    runs.begin(tmp_path, other, restart=False)
    assert (tmp_path / "loop_1").is_dir()  # goes on
    model(tmp_path)
    finish(tmp_path, other)
    assert runs.is_done(tmp_path, plan)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 → 2"]),
        ({"b": {"x": 1, "y": 2}, "a": 0}, {"b": {"x": 1, "y": 3}, "a": 1}, ["a: 0 → 1", "b.y: 2 → 3"]),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, ["a.b.c: 1 → 2"]),
        ({"a": 1}, {}, ["a: 1 → None"]),
        ({}, {"a": "x"}, ["a: None → x"]),
        ({"a": {"b": 1}}, {"a": 5}, ["a: {'b': 1} → 5"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] → [2, 1]"]),
    ],
)
def test_differences(old, new, lines):
    assert runs.differences(old, new) == lines
