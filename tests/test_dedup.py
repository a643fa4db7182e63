"""Repeated texts and texts that hold an exam question."""

import random

import pytest

from kmlite.refine.dedup import Duplicates, ExamStems


def words(n, seed=0):
    chosen = random.Random(seed)
    return ["".join(chr(chosen.randrange(0xAC00, 0xD7A4)) for _ in range(3)) for _ in range(n)]


def changed(text_words, *places):
    return " ".join(f"바뀐말{i}" if i in places else word for i, word in enumerate(text_words))


@pytest.mark.parametrize(
    "repeated",
    [
        "고혈압은 혈압이 높은 병이다. 싱겁게 먹는다.",
        "고혈압은  혈압이 높은 병이다.\n\n싱겁게 먹는다",
        "고혈압은, 혈압이 높은 병이다! (싱겁게 먹는다)",
        "고혈압은 혈압이 높은병이다. 싱겁게먹는다.",
    ],
)
def test_exact_repetition_but_for_spacing_and_punctuation(repeated):
    seen = Duplicates()
    assert seen.reason("고혈압은 혈압이 높은 병이다. 싱겁게 먹는다.") is None
    assert seen.reason(repeated) == "duplicate"


@pytest.mark.parametrize("place", [0, 1, 20, 35, 58, 59])
def test_one_word_changed_in_sixty(place):
    seen, text = Duplicates(), words(60)
    assert seen.reason(" ".join(text)) is None
    assert seen.reason(changed(text, place)) == "near_duplicate"


def test_two_words_changed_side_by_side():
    seen, text = Duplicates(), words(80)
    assert seen.reason(" ".join(text)) is None
    assert seen.reason(changed(text, 40, 41)) == "near_duplicate"


def test_two_words_changed_apart_are_mostly_found():
    """A similarity of 0.84: the bands miss few of these."""
    found = 0
    for seed in range(30):
        seen, text = Duplicates(), words(70, seed)
        seen.reason(" ".join(text))
        found += seen.reason(changed(text, 15, 50)) == "near_duplicate"
    assert found >= 22


def test_a_sentence_added_to_a_long_text():
    seen, text = Duplicates(), words(200)
    assert seen.reason(" ".join(text)) is None
    assert seen.reason(" ".join([*text, "그리고", "한", "마디", "더"])) == "near_duplicate"


def test_only_texts_that_are_kept_are_remembered():
    """A near duplicate that comes again is near to the one kept, no duplicate of itself."""
    seen, text = Duplicates(), words(60)
    reasons = [seen.reason(t) for t in (" ".join(text), changed(text, 30), changed(text, 30), " ".join(text))]
    assert reasons == [None, "near_duplicate", "near_duplicate", "duplicate"]
    assert len(seen.signatures) == len(seen.exact) == 1


def test_the_first_of_two_is_kept():
    text = words(60)
    one, other = " ".join(text), changed(text, 30)
    for first, second in ((one, other), (other, one)):
        seen = Duplicates()
        assert (seen.reason(first), seen.reason(second)) == (None, "near_duplicate")


@pytest.mark.parametrize(
    "other",
    [
        " ".join(words(60, seed=1)),
        " ".join(reversed(words(60))),
        changed(words(60), *range(0, 60, 6)),
        " ".join(words(60)[:25]),
        " ".join([*words(60)[:30], *words(60, seed=2)[30:]]),
    ],
    ids=["other words", "other order", "each sixth word changed", "less than half", "half"],
)
def test_different_texts_are_kept(other):
    seen = Duplicates()
    assert seen.reason(" ".join(words(60))) is None
    assert seen.reason(other) is None


def test_texts_that_differ_in_a_number_only_are_near():
    text = words(60)
    seen = Duplicates()
    seen.reason(" ".join([*text, "120", "mmHg"]))
    assert seen.reason(" ".join([*text, "130", "mmHg"])) == "near_duplicate"


def test_two_instances_agree():
    texts = [t for seed in range(10) for t in (" ".join(words(60, seed)), changed(words(60, seed), 7, 50), changed(words(60, seed), 7))]
    one, other = Duplicates(), Duplicates()
    reasons = [one.reason(t) for t in texts]
    assert reasons == [other.reason(t) for t in texts]
    assert {None, "near_duplicate"} == set(reasons)
    assert (one.signature(texts[0]) == other.signature(texts[0])).all()


# ---- exam questions in other text

SHORT = "협심증 환자에게 금기인 약물은?"
LONG = "60세 남자가 두 시간 전 갑자기 시작된 가슴 통증으로 응급실에 왔으며 심전도에서 ST 분절이 올라가 있을 때 먼저 할 일은?"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SHORT, True),
        (f"어제 시험에 {SHORT} 하는 물음이 나왔다.", True),
        ("협심증, 환자에게\n금기인   '약물은' 무엇일까", True),
        ("협심증 환자에게 금기인 음식은?", False),
        ("협심증 환자에게 쓰는 금기인 약물은?", False),
        ("환자에게 금기인 약물은?", False),
        (LONG, True),
        (" ".join(LONG.split()[:13]), True),
        (f"앞말 {' '.join(LONG.split()[3:16])} 뒷말", True),
        (" ".join(LONG.split()[:12]), False),
        (" ".join([*LONG.split()[:12], "다른말", *LONG.split()[13:]]), False),
        (LONG.replace(" ", "  ").replace("60세", "[60세]").lower(), True),
        ("", False),
    ],
)
def test_exam_stems_in_a_text(text, found):
    assert ExamStems([SHORT, LONG]).stands_in(text) is found


@pytest.mark.parametrize("stem", ["옳은 것은?", "다음 중 옳은?", ""])
def test_a_stem_of_fewer_than_four_words_stops_nothing(stem):
    assert ExamStems([stem]).stands_in(f"다음 문장을 읽자. {stem} 끝.") is False


def test_a_stem_of_thirteen_words_is_one_run():
    stem = " ".join(LONG.split()[:13])
    exam = ExamStems([stem])
    assert exam.stands_in(f"가 {stem} 나")
    assert not exam.stands_in(" ".join(stem.split()[:12]))
    assert not exam.stands_in(" ".join(stem.split()[1:]))


def test_no_stems():
    assert ExamStems([]).stands_in(LONG) is False
