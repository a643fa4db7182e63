"""The mix of sources, and reasonings that are worth learning from."""

import json

import pytest
from click.testing import CliRunner

from kmlite import files, paths
from kmlite.training import examples, self_training
from recipes import refine

OPTIONS = {"A": "아스피린", "B": "헤파린", "C": "와파린", "D": "디곡신", "E": "인슐린"}
REASON = "이 환자는 심방세동이 있어 뇌졸중의 위험이 높고, 오래 먹는 항응고제가 필요하다. 인공판막이 있으므로 새로운 항응고제는 쓸 수 없다."


def questions(native, translated, plain=0):
    kinds = ["native"] * native + ["translated"] * translated + [None] * plain
    return [{"question": f"{i}", "source": f"{kind}-set"} | ({"origin": kind} if kind else {}) for i, kind in enumerate(kinds)]


def counts(mix):
    return [sum(q.get("origin", "native") == kind for q in mix) for kind in ("native", "translated")]


@pytest.mark.parametrize(
    ("have", "shares", "expected"),
    [
        ((300, 50), "3:1", [150, 50]),
        ((30, 50), "3:1", [30, 10]),
        ((30, 50), "1:1", [30, 30]),
        ((30, 50), "1:0", [30, 0]),
        ((0, 50, 60), "3:1", [60, 20]),
    ],
)
def test_the_mix_has_the_shares_asked_for_and_as_many_as_there_are(have, shares, expected):
    all_of = questions(*have)
    mix = examples.mixed(all_of, "native:translated", shares, seed=3)
    assert counts(mix) == expected
    assert mix == sorted(mix, key=lambda q: int(q["question"]))
    assert mix == examples.mixed(all_of, "native:translated", shares, seed=3)
    if len(have) == 2:  # a source may be named itself
        assert mix == examples.mixed(all_of, "native-set:translated-set", shares, seed=3)
    assert sum(expected) in (80, 40, 30) or mix != examples.mixed(all_of, "native:translated", shares, seed=4)


@pytest.mark.parametrize(
    ("sources", "shares"), [("native:translated", "3"), ("native", "0"), ("native:other", "1:1"), ("native:translated", "1:-1")]
)
def test_a_mix_that_cannot_be_made_is_refused(sources, shares):
    with pytest.raises(ValueError):
        examples.mixed(questions(5, 5), sources, shares, 0)


@pytest.mark.parametrize(
    ("cot", "why"),
    [
        (f"{REASON} 따라서, 정답은 (C) 입니다.", ""),
        (REASON, ""),
        ("", "no reasoning"),
        ("차근차근 생각해봅시다. 따라서, 정답은 (C) 입니다.", "no reasoning"),
        (f"{REASON} 따라서, 정답은 (B) 입니다.", "wrong letter"),
        ("The patient has atrial fibrillation with a mechanical valve, so a vitamin K antagonist is needed for life.", "not Korean"),
        (f"정답은 헤파린이다. {REASON}", "names another answer"),
        (f"정답은 B입니다. {REASON} 그러므로 와파린이 맞다.", "names another answer"),
    ],
)
def test_a_reasoning_must_be_korean_reach_the_right_letter_and_name_no_other_option(cot, why):
    assert self_training.why_unverified({"question": "약물은?", **OPTIONS, "answer": "C", "cot": cot}) == why


def test_refine_gives_a_question_the_reasoning_that_another_set_has_of_it(tmp_path):
    question = {"question": "인공판막 환자의 심방세동에 쓰는 약물은?", **OPTIONS, "answer": 3, "year": 2019}
    for name, rows in (
        ("train.jsonl", [question]),
        ("reasoning/train.jsonl", [question | {"cot": f"{REASON} 정답은 (B) 입니다."}, question | {"cot": f"{REASON} 정답은 (C) 입니다."}]),
    ):
        path = tmp_path / "raw" / paths.RAW_EXAM / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner().invoke(refine.command, ["--raw", str(tmp_path / "raw"), "--refined", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    [kept] = files.read_lines(paths.exam_split(tmp_path / "out", "train"))
    assert (kept["year"], kept["cot"]) == (2019, f"{REASON} 정답은 (C) 입니다.")
    assert self_training.why_unverified(kept) == ""
