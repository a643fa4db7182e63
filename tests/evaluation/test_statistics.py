"""Intervals and tests of scores: as published, and a question counted once however often it was asked."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmlite.evaluation import scoring, statistics


def rights(*texts: str) -> list[dict]:
    """A prediction for each character, 1 where it is right; each text is one order of the same questions."""
    return [{"number": i, "right": c == "1"} for text in texts for i, c in enumerate(text, 1)]


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (263, 435, 0.5579, 0.6494), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval(right, n, low, high):
    """Values of R's binom::binom.wilson."""
    assert statistics.wilson(right, n) == pytest.approx((low, high), abs=1e-4)


@settings(deadline=None)
@given(st.text("01", min_size=1, max_size=40), st.integers(1, 5))
def test_asking_again_with_the_same_outcome_is_no_evidence(text, orders):
    once, often = rights(text), rights(*[text] * orders)
    assert scoring.score_of(often)["interval"] == pytest.approx(scoring.score_of(once)["interval"], abs=0.011)
    other = rights(text[::-1])
    several = rights(*[text[::-1]] * orders)
    one, many = statistics.paired(once, other), statistics.paired(often, several)
    assert many["n"] == one["n"] == len(text)
    assert many["p"] == pytest.approx(one["p"])
    assert (many["interval"], many["gained"], many["lost"]) == (one["interval"], one["gained"], one["lost"])


def test_ten_flips_of_two_questions_are_two():
    """Five orders of two questions, all gained: p 0.5; counted as ten questions it would be 0.002."""
    before, after = rights(*["0011"] * 5), rights(*["1111"] * 5)
    result = statistics.paired(before, after)
    assert (result["n"], result["gained"], result["difference"]) == (4, [1, 2], 50.0)
    assert result["p"] == pytest.approx(0.5)
    apart = [{**p, "number": place} for p, place in zip(before, itertools.count(), strict=False)]
    assert statistics.paired(apart, [{**p, "number": i} for i, p in enumerate(after)])["p"] == pytest.approx(2 / 2**10)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), max_size=9))
def test_the_exact_p_counts_every_way_that_the_signs_may_fall(differences):
    seen = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert statistics.sign_flip(differences) == pytest.approx(sum(total >= seen for total in sums) / len(sums))


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
    assert (result["gained"], result["lost"]) == ([3, 4], [5])
    assert result["difference"] == 10.0
    assert result["p"] == 1.0  # two against one
    assert result["interval"][0] < 10 < result["interval"][1]


@pytest.mark.parametrize("orders", [1, 5])
def test_intervals_hold_what_they_should(orders):
    """Of many samples of questions about 95% of the intervals hold the true accuracy and the true difference, and with the five
    answers of a question alike more often than not."""
    chance = random.Random(5)
    held = [0, 0]
    for _ in range(400):
        first, second = [], []
        for number in range(120):
            a, b = chance.choices([(1, 1), (0, 0), (1, 0), (0, 1)], [50, 25, 10, 15])[0]
            for _ in range(orders):
                alike = chance.random() < 0.8 or orders == 1
                first.append({"number": number, "right": bool(a) if alike else chance.random() < 0.6})
                second.append({"number": number, "right": bool(b) if alike else chance.random() < 0.65})
        low, high = statistics.paired(first, second)["interval"]
        held[0] += low <= 5 <= high
        low, high = scoring.score_of(first)["interval"]
        held[1] += low <= 60 <= high
    assert all(0.92 < count / 400 < 0.985 for count in held), held


@pytest.mark.parametrize("second", [rights("1"), rights("11", "11"), rights("111")])
def test_other_questions_are_no_comparison(second):
    with pytest.raises(ValueError, match="same questions"):
        statistics.paired(rights("11"), second)
