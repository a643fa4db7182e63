"""The list of results: read back without knowing the stage, compared, and what counts as a loss."""

import pytest

from kmlite import files, paths, results


def point(when: str, korean: float, dev: float, low: float) -> list[dict]:
    found = [
        results.result("bits_per_character", "korean", korean, 100),
        results.result("bits_per_character", "english", 1.0, 16),
        results.result("accuracy", "dev", dev, 40, low, 99.0, scorer="generate"),
    ]
    return results.stamped(found, "stage0", when, precision="16bit")


@pytest.mark.parametrize(
    ("after", "worse", "also_worse"),
    [((3.9, 31, 20), [], []), ((4.001, 40, 30), ["Korean"], []), ((3.9, 29, 20), [], ["dev"]), ((4.2, 10, 0), ["Korean"], ["dev"])],
)
def test_what_is_trained_must_not_get_worse_and_the_rest_is_said(after, worse, also_worse):
    found = results.losses([*point("before", 4.0, 40, 30), *point("after", *after)], {("bits_per_character", "korean")})
    assert [len(part) for part in found] == [len(worse), len(also_worse)]
    assert all(name in told for name, told in zip([*worse, *also_worse], [*found[0], *found[1]], strict=True))


def test_bits_of_what_is_not_trained_on_may_rise_by_two_percent():
    for value, told in ((4.07, []), (4.12, ["bits per character, Korean, held out: 4.0000 → 4.1200 (+3.0%)"])):
        found = [*point("before", 4.0, 40, 30), *point("after", value, 60, 50)]
        assert results.losses(found, {("accuracy", "dev")}) == ([], told)


def test_what_was_measured_once_or_is_not_guarded_is_no_loss():
    assert results.losses(point("after", 4.0, 40, 30), {("accuracy", "dev")}) == ([], [])
    unreadable = [
        results.stamped([results.result("unreadable", "dev", value, 40)], "stage0", when)[0]
        for when, value in (("before", 0.0), ("after", 90.0))
    ]
    assert results.change(*unreadable) == ("+90.0", -1)
    assert results.losses(unreadable, {("unreadable", "dev")}) == ([], [])


def test_find_takes_the_result_over_all_subjects():
    summary = {
        "n": 3,
        "accuracy": 33.3,
        "interval": [6.1, 79.2],
        "macro": 25.0,
        "unreadable": 1,
        "consistency": 0.5,
        "by_subject": {},
        "by_year": {},
    }
    one = {"n": 2, "accuracy": 50.0, "interval": [9.5, 90.5]}
    other = {"n": 1, "accuracy": 0.0, "interval": [0.0, 79.3]}
    summary["by_subject"] = {"doctor": one, "nurse": other}
    found = results.stamped(results.of_answers(summary, "test", scorer="letter"), "eval", "after")
    assert results.find(found, "accuracy", "test")["n"] == 3
    assert results.find(found, "accuracy", "dev") is None
    assert {one["how"].get("subject") for one in found if one["measure"] == "accuracy"} == {None, "doctor", "nurse"}
    assert results.find(found, "unreadable", "test")["value"] == 33.33
    assert results.find(found, "consistency", "test")["value"] == 50.0
    assert all(one["how"]["scorer"] == "letter" for one in found)


def test_rows_bring_the_moments_of_one_measure_together():
    found = [*point("before", 4.0, 40, 30), *point("loop 1", 3.9, 41, 31), *point("after", 3.8, 42, 32)]
    rows = results.rows(found)
    assert len(rows) == 3
    assert all(list(at) == ["before", "loop 1", "after"] for at in rows.values())
    assert results.moments(found) == ["before", "after"]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (results.result("bits_per_character", "korean", 4.0, 1), results.result("bits_per_character", "korean", 3.0, 1), ("−25.0%", 1)),
        (results.result("accuracy", "dev", 20.0, 1), results.result("accuracy", "dev", 24.5, 1), ("+4.5", 1)),
        (results.result("accuracy", "dev", 20.0, 1), results.result("accuracy", "dev", 20.0, 1), ("+0.0", 0)),
        (results.result("unreadable", "dev", 0.0, 1), results.result("unreadable", "dev", 5.0, 1), ("+5.0", -1)),
        (results.result("letter_mass", "dev", 99.0, 1), results.result("letter_mass", "dev", 90.0, 1), ("−9.0", 0)),
        (results.result("bits_per_character", "dev", 0.0, 1), results.result("bits_per_character", "dev", 1.0, 1), ("+1.0000", -1)),
    ],
)
def test_a_change_is_relative_for_bits_and_in_points_for_shares(before, after, told):
    assert results.change(before, after) == told


def test_in_words():
    assert results.in_words(results.result("accuracy", "dev", 24.0, 50, 12.34, 40.06)) == "24.0% (12.3–40.1)"
    assert results.in_words(results.result("bits_per_character", "korean", 3.12343, 50)) == "3.1234"
    assert results.in_words(None) == "–"


def test_a_measure_that_is_new_is_shown_by_every_reader(monkeypatch, tmp_path):
    """Its value under its name in the summary of the answers and its line in MEASURES are all: terminal, card, report, compare."""
    from kmlite.cli import console
    from kmlite.sharing import model_card
    from kmlite.sharing.report import page

    new = results.Measure(("length of an answer", "답의 길이"), "characters", 1, better=0)
    monkeypatch.setitem(results.MEASURES, "answer_length", new)
    summary = {"n": 3, "accuracy": 33.3, "interval": [6.1, 79.2], "unreadable": 0, "by_subject": {}, "by_year": {}}
    moments = {"before": 12.0, "after": 15.5}
    found = [
        one
        for when, value in moments.items()
        for one in results.stamped(results.of_answers(summary | {"answer_length": value}, "dev"), "eval", when)
    ]
    assert results.losses(found, {("answer_length", "dev")}) == ([], [])
    [row] = [row for row in results.table(found)[1] if row["name"] == ("length of an answer: dev", "답의 길이: dev")]
    assert (row["cells"], row["change"], row["sign"], row["n"]) == (["12.0", "15.5"], "+3.5", 0, 3)
    assert "| eval | length of an answer: dev | 12.0 | 15.5 | 3 |" in model_card.table(found)
    with console.capture() as shown:
        results.show(found, "")
    assert "length of an answer: dev" in shown.get()
    files.write_json(tmp_path / paths.STAGES[2].folder / paths.EVALUATION, {"plan": {}, "results": found})
    assert "답의 길이: dev" in page.build(tmp_path, tmp_path, "ko", {})
