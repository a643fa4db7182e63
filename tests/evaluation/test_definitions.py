"""What stage 1 is measured by: recall as two libraries of measure see it, and the right definition among five."""

import pytest

from kmlite import prompts
from kmlite.evaluation import dictionary, generation

ENTRIES = [
    {"term": f"용어{i}", "definition": f"{word}이 붓고 아픈 병"} for i, word in enumerate(("위", "간", "폐", "콩팥", "심장", "뇌", "눈"))
]


@pytest.mark.parametrize(
    ("found", "expected", "f1"), [("혈압", "혈압", 1.0), ("혈 압", "혈압", 1.0), ("혈당", "혈압", 0.5), ("", "혈압", 0.0)]
)
def test_character_f1(found, expected, f1):
    assert dictionary.character_f1(found, expected) == pytest.approx(f1)


def test_recall_takes_what_stands_before_the_end_of_the_turn(loaded, monkeypatch):
    def says(change):
        turns = [change(entry["definition"]) + "<end_of_turn>쓸데없는 말" for entry in ENTRIES]
        monkeypatch.setattr(generation, "generate", lambda *a, **k: turns)
        return dictionary.recall(*loaded, ENTRIES, batch=8)

    right, backwards, nothing = says(str), says(lambda text: text[::-1]), says(lambda text: "")
    assert right == {"n": 7, "f1": pytest.approx(1.0), "chrf": pytest.approx(100.0)}
    assert backwards["f1"] == pytest.approx(1.0)  # the same characters
    assert backwards["chrf"] < 30  # in no order
    assert (nothing["f1"], nothing["chrf"]) == (0, 0)
    assert dictionary.recall(*loaded, [], batch=8) is None


def test_five_different_definitions_the_right_one_first_and_the_same_each_time():
    again = [*ENTRIES, {"term": "다른 이름", "definition": ENTRIES[0]["definition"]}]
    for entry in ENTRIES:
        found = dictionary.candidates(entry, again)
        assert found[0] == entry["definition"]
        assert len(set(found)) == 5
        assert found == dictionary.candidates(entry, again)
    assert len({tuple(dictionary.candidates(entry, again)[1:]) for entry in ENTRIES}) > 1
    assert dictionary.candidates(ENTRIES[0], ENTRIES[:4]) is None
    assert dictionary.candidates(ENTRIES[0], [*ENTRIES[:4], again[-1]]) is None  # five terms, four definitions


def test_the_choice_is_by_nats_a_character_behind_the_terms_own_prompt(loaded, monkeypatch):
    """A model that finds the right definition cheaper a character, though dearer as a whole, has chosen it."""
    long = [{"term": entry["term"], "definition": entry["definition"] * (10 if i == 0 else 1)} for i, entry in enumerate(ENTRIES)]

    def costs(model, tokenizer, rows):
        out = []
        for ids, labels in rows:
            text = tokenizer.decode(ids)
            term = text.split("Meaning of word ")[1].split(":")[0]
            definition = tokenizer.decode([i for i in labels if i != prompts.IGNORED]).removesuffix("<end_of_turn>")
            right = next(entry for entry in long if entry["term"] == term)["definition"] == definition
            out.append(len(definition) * (1.0 if not right else 1.1 if term == "용어3" else 0.9))
        return out

    monkeypatch.setattr(generation, "row_losses", costs)
    found = dictionary.choice(*loaded, long, long, 256)
    assert (found["n"], found["right"]) == (7, 6)
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]


def test_too_few_or_too_long_is_not_measured(loaded):
    assert dictionary.choice(*loaded, ENTRIES[:3], ENTRIES[:3], 256) is None
    assert dictionary.choice(*loaded, [], [], 256) is None
    assert dictionary.choice(*loaded, ENTRIES, ENTRIES, 5) is None
