"""benchmarks/gpu.py without a card: what it says of results, and what it makes of a case that dies or hangs."""

import sys

import pytest

from benchmarks import gpu

GIB = gpu.memory.GIB


def test_the_table_has_a_row_a_case_and_names_what_was_not_run():
    results = [
        gpu.case("a", 0, cap=8)
        | {"fits": True, "peak_bytes": 7 * GIB, "planned_bytes": round(7.7 * GIB), "tokens_per_second": 1000.0, "padding": 0.07}
        | {"batch": 2, "length": 512},
        gpu.case("b", 2, "16bit", way="plain") | {"fits": False, "error": "out of memory"},
        gpu.case("c", 1, cap=24) | {"fits": None, "error": "the card has 12 GB"},
    ]
    record = {"card": "RTX 4070", "date": "2027-01-01", "commit": "abc", "shape": "medgemma", "results": results, "not_run": ["d", "e"]}
    text = gpu.table(record)
    assert "| a: stage 0, 4bit, rows none, kmlite, 2 × 512 | yes | 7.00 | 7.70 | 1,000 | 7% |" in text
    assert "| b: stage 2, 16bit, rows none, plain | no | – | – | – | – |" in text
    assert "| the card has 12 GB |" in text
    assert text.endswith("Not run, for want of time: d; e.")


def test_the_docs_have_the_marks_that_the_table_goes_between():
    text = gpu.DOC.read_text(encoding="utf-8")
    assert text.count(gpu.BEGIN) == text.count(gpu.END) == 1


def test_the_first_cases_are_the_targets_and_all_differ():
    asked = gpu.cases()
    assert [(case["stage"], case["rows"], case["cap"]) for case in asked[:4]] == [
        (0, "new", 8),
        (0, "new", 12),
        (1, "none", 8),
        (2, "none", 8),
    ]
    assert len({str(case) for case in asked}) == len(asked)


def test_a_plan_for_a_cap_is_the_planners_and_without_one_the_recipes():
    settings, chosen = gpu.fitted(gpu.case("x", 0, "auto", "new", cap=8), gpu.memory.MEDGEMMA, gpu=True)
    assert (settings.precision, settings.batch, chosen["length"]) == ("4bit", 8, 512)
    assert chosen["planned_bytes"] < 8 * GIB
    settings, chosen = gpu.fitted(gpu.case("x", 2, "16bit", way="plain"), gpu.memory.MEDGEMMA, gpu=True)
    assert (settings.precision, settings.batch, chosen["length"], "planned_bytes" in chosen) == ("16bit", 2, 1024, False)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import json, sys; print('noise\\n@@' + json.dumps({'fits': json.loads(sys.argv[1])['stage'] == 1}))", None),
        ("raise SystemExit(9)", "status 9"),
        ("print('no result')", "status 0"),
        ("import time; time.sleep(60)", "took over 1 s"),
    ],
)
def test_a_process_that_dies_or_hangs_is_a_result(tmp_path, program, said):
    found = gpu.run(gpu.case("x", 1), [sys.executable, "-c", program], 1.0 if said and "took" in said else 20.0, tmp_path / "log")
    assert found["fits"] is (True if said is None else None)
    assert said is None or said in found["error"]
