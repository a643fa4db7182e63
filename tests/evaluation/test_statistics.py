"""Intervals and tests of scores, as published."""

import math
import random

import pytest

from kmlite.evaluation import scoring, statistics


def rights(text: str) -> list[dict]:
    """A prediction for each character, 1 where it is right."""
    return [{"number": i, "right": c == "1"} for i, c in enumerate(text, 1)]


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (263, 435, 0.5579, 0.6494), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval(right, n, low, high):
    """Values of R's binom::binom.wilson."""
    assert statistics.wilson(right, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (9, 2), (3, 12)])
def test_mcnemar_is_the_exact_binomial_test(gained, lost):
    """Against counting every outcome of a fair coin that is no likelier than the one seen."""
    result = statistics.paired(rights("0" * gained + "1" * lost + "1" * 20), rights("1" * gained + "0" * lost + "1" * 20))
    flips = gained + lost
    seen = math.comb(flips, gained)
    expected = sum(math.comb(flips, k) for k in range(flips + 1) if math.comb(flips, k) <= seen) / 2**flips
    assert result["p"] == pytest.approx(expected)


def test_comparison_counts_what_flipped():
    result = statistics.paired(rights("1100110000"), rights("1111010000"))
    assert (result["gained"], result["lost"], result["difference"]) == ([3, 4], [5], 10.0)
    assert result["p"] == 1.0  # two against one
    assert result["interval"] == pytest.approx([-23.99, 40.66], abs=0.1)


def test_intervals_hold_what_they_should():
    """Of many samples of questions about 95% of the intervals hold the true accuracy and the true difference."""
    chance = random.Random(5)
    held = [0, 0]
    for _ in range(400):
        pairs = chance.choices(["11", "00", "10", "01"], [50, 25, 10, 15], k=120)
        first, second = (rights("".join(pair[side] for pair in pairs)) for side in (0, 1))
        low, high = statistics.paired(first, second)["interval"]
        held[0] += low <= 5 <= high
        low, high = scoring.score_of(first)["interval"]
        held[1] += low <= 60 <= high
    assert all(0.92 < count / 400 < 0.985 for count in held), held


@pytest.mark.parametrize("second", [rights("1"), rights("111"), rights("11") * 2])
def test_other_questions_are_no_comparison(second):
    with pytest.raises(ValueError, match="same questions"):
        statistics.paired(rights("11"), second)
