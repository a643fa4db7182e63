"""The labelled texts of tests/quality: what a careful Korean reader would keep, drop and mend."""

import pytest

from benchmarks import quality


@pytest.fixture(scope="module")
def measured():
    rows = quality.labelled()
    return rows, quality.table(rows, quality.verdicts(rows))


def test_there_are_enough_of_all_rules(measured):
    rows, _ = measured
    assert len(rows) >= 250
    reasons = {row["verdict"] for row in rows}
    assert reasons == {
        *("keep", "too_short", "not_korean", "advertisement", "repeated_lines", "repeated_ngrams"),
        *("duplicate", "near_duplicate", "exam_leak"),
    }
    for reason in reasons - {"keep", "too_short"}:  # near misses of each
        about = "korean" if reason == "not_korean" else reason
        assert sum(row["about"] == about and row["verdict"] == "keep" for row in rows) >= 4, reason


def test_precision_and_recall_of_every_rule(measured):
    low = {name: figures for name, figures in measured[1].items() if min(figures[:2]) < 0.97}
    assert not low, low
