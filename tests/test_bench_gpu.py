"""benchmarks/gpu.py without a card: what it says of results, and what it makes of a case that dies or hangs."""

import sys

import click
import pytest

from benchmarks import gpu, gpu_case

GIB = gpu.memory.GIB


def result(name: str, **given) -> dict:
    return gpu.case(name, **given) | {"fits": True, "padding": 0.0, "useful_tokens_per_second": 1000.0, "tokens_per_second": 1000.0} | given


def test_targets_are_answered_and_what_is_unknown_is_said_so():
    against = "against plain transformers + peft: stage 0"
    results = [
        result("target: stage 1 in 8 GB", stage=1, cap=8, fits=True),
        result("target: stage 2 in 8 GB", stage=2, cap=8, fits=False, error="out of memory"),
        result("target: stage 0 with new rows in 12 GB", fits=None, error="took over 150 s"),
        result(against, useful_tokens_per_second=900.0, peak_bytes=6 * GIB),
        result(against, **{"with": "plain"}, useful_tokens_per_second=450.0, peak_bytes=8 * GIB),
        result("against plain transformers + peft: stage 2", stage=2),
        result("padding", stage=1, padded=True, useful_tokens_per_second=100.0),
        result("padding", stage=1, padded=False, useful_tokens_per_second=750.0),
        result("padding", stage=2, padded=True, fits=None, error="x"),
    ]
    assert gpu.answers(results) == [
        "stage 1 in 8 GB (4bit, batch 4): yes",
        "stage 2 in 8 GB (4bit, batch 2): NO",
        "stage 0 with new rows in 12 GB (4bit, batch 2): not known",
        f"{against} (4bit): 2.00× its tokens/s, 0.75× its memory (aim: 1.8× at equal memory, or 0.6× its memory)",
        "against plain transformers + peft: stage 2: not known",
        "padding, stage 1: 7.5× the useful tokens/s of rows padded to the full length",
    ]


def test_the_table_has_a_row_a_case_and_names_what_was_not_run():
    results = [
        result("cap", cap=8, peak_bytes=7 * GIB, planned_bytes=round(7.7 * GIB)),
        result("cap", cap=24, skipped="the card has 12 GB", fits=None),
        gpu.case("evaluation", kind="eval", scorer="letter") | {"fits": True, "questions_per_second": 41.25},
    ]
    record = {"card": "RTX 4070", "date": "2027-01-01", "commit": "abc", "shape": "medgemma", "results": results, "not_run": ["matrix: x"]}
    text = gpu.table(record)
    assert "| stage 0, rows none, 4bit, 2 × 512, cap 8 GB | yes | 7.00 | 7.70 | 1,000 | – | 0% |" in text
    assert "| the card has 12 GB |" in text
    assert "41.2 questions/s" in text
    assert text.endswith("Not run, for want of time: matrix: x.")
    assert "peak 7.00 GiB, planned 7.70 (+10%)" in gpu.in_words(results[0])


def test_a_rehearsal_never_reaches_the_docs_and_a_measurement_does(tmp_path, monkeypatch):
    page = tmp_path / "gpu.md"
    page.write_text(f"before\n{gpu.BEGIN}\nNothing yet.\n{gpu.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(gpu, "DOC", page)
    record = {"card": "CPU (a rehearsal)", "date": "2027-01-01", "commit": "abc", "shape": "tiny", "results": [], "not_run": []}
    with pytest.raises(click.ClickException, match="rehearsal"):
        gpu.write_table(record)
    assert "Nothing yet." in page.read_text(encoding="utf-8")
    gpu.write_table(record | {"card": "RTX 4070", "shape": "medgemma"})
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{gpu.BEGIN}\nMeasured on RTX 4070, 2027-01-01")
    assert text.endswith(f"{gpu.END}\nafter\n")
    assert "Nothing yet." not in text


def test_the_docs_have_the_marks_that_the_table_goes_between():
    text = gpu.DOC.read_text(encoding="utf-8")
    assert text.count(gpu.BEGIN) == text.count(gpu.END) == 1


def test_the_first_cases_are_the_targets_and_all_differ():
    asked = gpu.cases()
    assert [case["name"].split(":")[0] for case in asked[:4]] == ["target"] * 4
    assert [(case["embeddings"], case["cap"]) for case in asked[:4]] == [("new", 8), ("new", 12), ("none", 8), ("none", 8)]
    assert len({str(case) for case in asked}) == len(asked)


def test_a_plan_for_a_cap_is_the_planners():
    found = gpu_case.settings_of(gpu.case("cap", cap=8, embeddings="auto", as_planned=True), gpu.memory.MEDGEMMA)
    assert (found["precision"], found["embeddings"], found["reduced"]) == ("4bit", "new", ["16bit → 4bit"])
    assert found["planned_to_fit"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("input(); print('noise'); print('\\n@@' + '{\"fits\": true}', flush=True); input()", None),
        ("input(); raise SystemExit(9)", "status 9"),
        ("input(); import time; time.sleep(60)", "took over 1 s"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_a_result(tmp_path, program, said):
    workers = gpu.Workers(tmp_path, tmp_path, tmp_path / "log")
    workers.command = [sys.executable, "-c", program]
    found = workers.run(gpu.case("x"), 1.0 if said and "took" in said else 20.0)
    alive = workers.process is not None
    workers.stop()
    assert alive == (said is None)
    assert found["fits"] is (True if said is None else None)
    assert said is None or said in found["error"]
