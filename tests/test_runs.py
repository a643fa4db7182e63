"""The record of a run: when it is done, goes on or is refused."""

import json
import os
import shutil
import time

import click
import pytest

from kmlite import files, paths, runs

PLAN = {"settings": {"rate": 2e-5, "epochs": 1}, "data": "0123"}
OTHER = {"settings": {"rate": 1e-4, "epochs": 1}, "data": "4567"}


@pytest.fixture
def finish(monkeypatch):
    monkeypatch.setattr(runs, "environment", lambda: {"device": "none"})
    return lambda folder, plan: runs.finish(folder, plan, time.time(), {"results": [1.5], "worse": []})


def half_done(folder, plan):
    runs.begin(folder, plan, restart=False)
    (folder / paths.CHECKPOINTS / "checkpoint-10").mkdir(parents=True)
    (folder / paths.EXTENDED).mkdir()
    (folder / "loop_1").mkdir()


def model(folder):
    for name in ("model.safetensors", "tokenizer.json"):
        files.write_text(folder / paths.FINAL / name, "1")


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("plan", [PLAN, {"loops": (1, 2), "base": paths.ROOT}])
def test_a_run_notes_its_plan_and_the_same_plan_goes_on(tmp_path, plan):
    half_done(tmp_path, plan)
    assert files.read_json(tmp_path / paths.PLAN) == json.loads(json.dumps(plan, default=str))
    assert not runs.is_done(tmp_path, plan)
    before = names(tmp_path)
    runs.begin(tmp_path, plan, restart=False)
    assert names(tmp_path) == before
    assert (tmp_path / paths.CHECKPOINTS / "checkpoint-10").is_dir()


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_of_another_plan_is_refused_with_the_difference_and_restart_drops_it(tmp_path, finish, finished):
    half_done(tmp_path, PLAN)
    if finished:
        model(tmp_path)
        finish(tmp_path, PLAN)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(click.ClickException) as error:
        runs.begin(tmp_path, OTHER, restart=False)
    kind = "a finished run" if finished else "an unfinished run"
    for part in (str(tmp_path), kind, "settings.rate: 2e-05 → 0.0001", "data: 0123 → 4567", "--restart"):
        assert part in error.value.message
    assert "epochs" not in error.value.message
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    runs.begin(tmp_path, OTHER, restart=True)
    assert files.read_json(tmp_path / paths.PLAN) == OTHER
    kept = [paths.FINAL, paths.PLAN, paths.RECORD] if finished else [paths.PLAN]
    assert names(tmp_path) == kept  # an old result stays until the new one is there
    assert runs.is_done(tmp_path, PLAN) is finished
    assert not runs.is_done(tmp_path, OTHER)


def test_a_finished_run_has_a_record_and_nothing_half_done(tmp_path, finish):
    half_done(tmp_path, PLAN)
    model(tmp_path)
    assert not runs.is_done(tmp_path, PLAN)
    record = finish(tmp_path, PLAN)
    assert names(tmp_path) == [paths.FINAL, "loop_1", paths.RECORD]
    assert files.read_json(tmp_path / paths.RECORD) == json.loads(json.dumps(record))
    assert (record["plan"], record["results"], record["device"]) == (PLAN, [1.5], "none")
    assert 0 <= record["seconds"] < 60
    assert runs.is_done(tmp_path, PLAN)
    shutil.rmtree(tmp_path / paths.FINAL)
    assert not runs.is_done(tmp_path, PLAN)
    runs.begin(tmp_path, PLAN, restart=False)  # whoever removes a model wants another


def test_a_kill_right_behind_the_record_leaves_a_finished_run(tmp_path, finish, monkeypatch):
    half_done(tmp_path, PLAN)
    model(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "tidy", lambda folder: None)
        finish(tmp_path, PLAN)
    with pytest.raises(click.ClickException, match="unfinished"):
        runs.begin(tmp_path, OTHER, restart=False)
    runs.tidy_after_kill(tmp_path)
    assert names(tmp_path) == [paths.FINAL, "loop_1", paths.RECORD]
    runs.begin(tmp_path, OTHER, restart=True)
    (tmp_path / paths.CHECKPOINTS).mkdir()
    runs.tidy_after_kill(tmp_path)  # another run is under way
    assert names(tmp_path) == [paths.CHECKPOINTS, paths.FINAL, paths.PLAN, paths.RECORD]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("final/model.safetensors", None),
        ("final/model.safetensors", "12"),
        ("final/model.safetensors", "2"),
        ("final/tokenizer.json", "{ }"),
        (paths.RECORD, "[1]"),
        (paths.RECORD, json.dumps({"plan": PLAN})),
        (paths.RECORD, '{"plan": '),
        (paths.RECORD, "[" * 100_000),
    ],
)
def test_a_model_or_record_that_was_changed_since_is_not_done_and_not_trained_over_unasked(tmp_path, finish, name, content):
    model(tmp_path)
    finish(tmp_path, PLAN)
    assert runs.is_done(tmp_path, PLAN)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
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
        ({"b": {"x": 1, "y": 2}, "a": 0}, {"b": {"x": 1, "y": 3}, "a": 1}, ["a: 0 → 1", "b.y: 2 → 3"]),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, ["a.b.c: 1 → 2"]),
        ({"a": 1}, {"c": "x"}, ["a: 1 → None", "c: None → x"]),
        ({"a": {"b": 1}}, {"a": 5}, ["a: {'b': 1} → 5"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] → [2, 1]"]),
    ],
)
def test_differences(old, new, lines):
    assert runs.differences(old, new) == lines
