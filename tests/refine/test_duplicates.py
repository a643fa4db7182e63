"""Repeated texts and texts that hold an exam question."""

import itertools
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest

from kmlite.refine import batch, duplicates
from kmlite.refine.duplicates import find_duplicates
from kmlite.refine.leakage import ExamStems


def keys_of(texts):
    return batch.keys(batch.measure(texts))


def reasons(texts, *cuts):
    """Why each text would be dropped; `cuts` are the places where one part ends and the next begins."""
    bounds = [0, *cuts, len(texts)]
    parts = [keys_of(texts[low:high]) for low, high in itertools.pairwise(bounds)]
    with tempfile.TemporaryDirectory() as work:
        return [duplicates.REASONS.get(verdict) for verdict in find_duplicates(parts, Path(work)).tolist()]


def words(n, seed=0):
    chosen = random.Random(seed)
    return ["".join(chr(chosen.randrange(0xAC00, 0xD7A4)) for _ in range(3)) for _ in range(n)]


def changed(text_words, *places):
    return " ".join(f"바뀐말{i}" if i in places else word for i, word in enumerate(text_words))


TEXT = words(60)
ONE, LONG_TEXT = " ".join(TEXT), words(100)
PROSE = "고혈압은 혈압이 높은 병이다. 싱겁게 먹는다."
FATES = {
    "spacing": ([PROSE, "고혈압은  혈압이 높은 병이다.\n\n싱겁게 먹는다"], [None, "duplicate"]),
    "punctuation": ([PROSE, "고혈압은, 혈압이 높은 병이다! (싱겁게 먹는다)"], [None, "duplicate"]),
    "no blanks": ([PROSE, "고혈압은 혈압이 높은병이다. 싱겁게먹는다."], [None, "duplicate"]),
    **{f"word {place} of 60": ([ONE, changed(TEXT, place)], [None, "near_duplicate"]) for place in (0, 1, 20, 35, 58, 59)},
    "a changed one first": ([changed(TEXT, 30), ONE], [None, "near_duplicate"]),
    "two words side by side": ([" ".join(words(80)), changed(words(80), 40, 41)], [None, "near_duplicate"]),
    "a sentence added": ([" ".join(words(200)), " ".join([*words(200), "그리고", "한", "마디", "더"])], [None, "near_duplicate"]),
    "a number": ([f"{ONE} 120 mmHg", f"{ONE} 130 mmHg"], [None, "near_duplicate"]),
    # only texts that are kept are remembered: a near duplicate that comes again is near to the one kept, no duplicate of itself
    "again": ([ONE, changed(TEXT, 30), changed(TEXT, 30), ONE], [None, "near_duplicate", "near_duplicate", "duplicate"]),
    # each a step from the one before: the third is far from the first, which alone was kept
    "steps": (
        [" ".join(LONG_TEXT), changed(LONG_TEXT, 10, 30, 50), changed(LONG_TEXT, 10, 30, 50, 70, 85, 95)],
        [None, "near_duplicate", None],
    ),
    "other words": ([ONE, " ".join(words(60, seed=1))], [None, None]),
    "other order": ([ONE, " ".join(reversed(TEXT))], [None, None]),
    "each sixth word": ([ONE, changed(TEXT, *range(0, 60, 6))], [None, None]),
    "less than half": ([ONE, " ".join(TEXT[:25])], [None, None]),
    "half": ([ONE, " ".join([*TEXT[:30], *words(60, seed=2)[30:]])], [None, None]),
}


@pytest.mark.parametrize("name", FATES)
def test_what_is_a_duplicate(name):
    texts, expected = FATES[name]
    assert reasons(texts) == expected


MIXED = [
    t for seed in range(40) for t in (" ".join(words(60, seed)), changed(words(60, seed), 7, 50), " ".join(words(60, seed // 2)), "짧은 글")
]


@pytest.mark.parametrize("cuts", [(1,), (3, 4, 5), (80,), tuple(range(1, len(MIXED), 7))])
def test_the_bounds_of_shards_change_nothing(cuts):
    found = reasons(MIXED)
    assert {None, "duplicate", "near_duplicate"} == set(found)
    assert reasons(MIXED, *cuts) == found


def test_sorting_in_slices_changes_nothing(monkeypatch):
    found = reasons(MIXED)
    monkeypatch.setattr(duplicates, "AT_ONCE", 13)
    monkeypatch.setattr(duplicates, "BLOCK", 7)
    assert reasons(MIXED, 50) == found


def test_no_text_at_all(tmp_path):
    assert len(find_duplicates([], tmp_path)) == 0
    assert len(find_duplicates([keys_of(["글"])[:0]], tmp_path)) == 0


@pytest.mark.parametrize(("changes", "least", "most"), [(2, 0.78, 1.0), (5, 0.0, 0.45)], ids=["0.84", "0.65"])
def test_how_many_pairs_are_found_at_a_similarity(changes, least, most):
    """Of pairs at 0.84 most (0.84 ± 0.03 of 200: an estimate of 112 minima), of pairs at 0.65 few."""
    chosen = random.Random(5)
    texts = [t for seed in range(200) for t in (words(70, seed), chosen.sample(range(3, 67), changes))]
    pairs = [t for text, places in zip(texts[::2], texts[1::2], strict=True) for t in (" ".join(text), changed(text, *places))]
    found = reasons(pairs)
    assert not any(found[::2])
    assert least <= sum(reason is not None for reason in found[1::2]) / 200 <= most


def test_measures_of_a_batch_are_those_of_its_texts():
    texts = ["고혈압은 HTN", "", "120/80 ㎜Hg", "かな 漢字", "a_b c", "가 나 다 라 마 가 나 다 라 마"]
    together = batch.measure(texts)
    assert together.hangul.tolist() == [4, 0, 0, 0, 0, 10]
    assert together.letters.tolist() == [7, 0, 2, 4, 3, 10]
    assert together.kana.tolist() == [0, 0, 0, 2, 0, 0]
    assert batch.repeated_words(together).tolist() == [0, 0, 0, 0, 0, 5]
    assert batch.measure(["쿠 폰 쿠폰", "무료배송 무료, 1+1 상 담"]).sales.tolist() == [1, 3]
    for i, text in enumerate(texts):
        alone = batch.measure([text])
        assert alone.exact[0] == together.exact[i]
        assert alone.words.tolist() == together.words[together.starts[i] : together.starts[i + 1]].tolist()
        assert batch.signatures(alone)[:, 0].tolist() == batch.signatures(together)[:, i].tolist()


# ---- exam questions in other text

SHORT = "협심증 환자에게 금기인 약물은?"
LONG = "60세 남자가 두 시간 전 갑자기 시작된 가슴 통증으로 응급실에 왔으며 심전도에서 ST 분절이 올라가 있을 때 먼저 할 일은?"


BOTH, THIRTEEN = [SHORT, LONG], " ".join(LONG.split()[:13])


@pytest.mark.parametrize(
    ("stems", "text", "found"),
    [
        (BOTH, SHORT, True),
        (BOTH, f"어제 시험에 {SHORT} 하는 물음이 나왔다.", True),
        (BOTH, "협심증, 환자에게\n금기인   '약물은' 무엇일까", True),
        (BOTH, "협심증 환자에게 금기인 음식은?", False),
        (BOTH, "협심증 환자에게 쓰는 금기인 약물은?", False),
        (BOTH, "환자에게 금기인 약물은?", False),
        (BOTH, LONG, True),
        (BOTH, THIRTEEN, True),
        (BOTH, f"앞말 {' '.join(LONG.split()[3:16])} 뒷말", True),
        (BOTH, " ".join(LONG.split()[:12]), False),
        (BOTH, " ".join([*LONG.split()[:12], "다른말", *LONG.split()[13:]]), False),
        (BOTH, LONG.replace(" ", "  ").replace("60세", "[60세]").lower(), True),
        (BOTH, "", False),
        *(([stem], f"다음 문장을 읽자. {stem} 끝.", False) for stem in ("옳은 것은?", "다음 중 옳은?", "")),  # under four words
        ([THIRTEEN], f"가 {THIRTEEN} 나", True),
        ([THIRTEEN], " ".join(THIRTEEN.split()[:12]), False),
        ([THIRTEEN], " ".join(THIRTEEN.split()[1:]), False),
        ([], LONG, False),
    ],
)
def test_exam_stems_in_a_text(stems, text, found):
    exam = ExamStems(stems)
    assert exam.stands_in(text) is found
    assert exam.suspects(batch.measure([text, text]))[1] or not found  # the gate lets through all that it must


def test_disk_for_a_text_is_188_bytes_even_where_every_text_shares_every_bucket(tmp_path, monkeypatch):
    n = 20_000
    keys = np.repeat(np.arange(n // 2, dtype=np.uint64), 2)[:, None].repeat(1 + batch.BANDS, axis=1)
    keys[:, 0] = np.arange(n)  # no text is the same as another
    used = []
    compare = duplicates.near_duplicates
    monkeypatch.setattr(
        duplicates, "near_duplicates", lambda *args: (used.append(sum(f.stat().st_size for f in tmp_path.iterdir())), compare(*args))
    )
    verdicts = find_duplicates([keys], tmp_path)
    assert verdicts.tolist() == [duplicates.KEPT, duplicates.NEAR_DUPLICATE] * (n // 2)
    assert keys[0].nbytes + 8 + used[0] / n <= 188.1  # the 8 are `places` of the worker; the files have heads of 128 bytes
    assert not list(tmp_path.iterdir())


def test_a_text_is_not_dropped_for_one_that_was_dropped_itself(tmp_path):
    """B is near A, and C near B but not near A; B is the first in the buckets that it shares with C alone."""
    bands = np.zeros((batch.BANDS, 4), dtype=np.uint64)
    bands[:2, 1:3] = 1  # B and C
    bands[2:4, 2] = 2  # C alone
    bands[:, 3] = bands[:, 2]
    keys = np.concatenate([np.arange(4, dtype=np.uint64)[None], np.where(bands > 0, bands * np.uint64(0x0101010101010101), bands)])
    assert [duplicates.REASONS.get(verdict) for verdict in find_duplicates([keys.T.copy()], tmp_path)] == [None, "near_duplicate"] * 2
