"""Two scorers, position bias, calibration and the comparison of two models."""

import copy
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from kmlite import files, paths, prompts, records, results
from kmlite.evaluation import published, scoring
from recipes import compare, evaluate


@pytest.fixture(scope="module")
def questions(refined):
    return records.read_exam(refined, "dev")[:7]


def test_letters_are_compared_at_the_place_of_the_answer(loaded, questions):
    network, tokenizer = loaded
    answers = scoring.answer_exam(network, tokenizer, questions, scorer="letter", batch=7)
    for question, answer in zip(questions, answers, strict=True):
        ids, _ = prompts.conversation_ids(tokenizer, prompts.exam_prompt(question))
        with torch.no_grad():
            whole = network(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
        five = torch.stack([whole[tokenizer.convert_tokens_to_ids(letter)] for letter in "ABCDE"])
        assert answer["probabilities"] == pytest.approx((five / five.sum()).tolist(), abs=1e-4)
        assert answer["mass"] == pytest.approx(float(five.sum()), abs=1e-4)
        assert answer["answer"] == "ABCDE"[int(five.argmax())]
        assert answer["right"] == (answer["answer"] == question["answer"])


@pytest.mark.parametrize("scorer", scoring.SCORERS)
def test_scores_do_not_depend_on_batches_or_order(loaded, questions, scorer):
    def answers(asked, batch):
        found = scoring.answer_exam(*loaded, asked, scorer=scorer, max_new_tokens=4, batch=batch)
        return {p["question"]: (p["answer"], p.get("output")) for p in found}

    one = answers(questions, 1)
    assert answers(questions, 7) == one
    assert answers(questions[::-1], 3) == one


def test_rotating_moves_the_answer_with_its_option():
    question = {"question": "?", **{letter: f"option {letter}" for letter in "ABCDE"}, "answer": "B"}
    for by in range(5):
        turned = scoring.rotated(question, by)
        assert turned[turned["answer"]] == "option B"
        assert sorted(turned[letter] for letter in "ABCDE") == sorted(question[letter] for letter in "ABCDE")
    assert scoring.rotated(question, 1)["A"] == "option B"
    assert len({scoring.rotated(question, by)["answer"] for by in range(5)}) == 5


def test_calibration_error():
    sure = {"probabilities": [0.95, 0.05, 0, 0, 0]}
    unsure = {"probabilities": [0.35, 0.30, 0.35, 0, 0]}
    # half of each group is right: |0.95 - 0.5| and |0.35 - 0.5|, weighed alike
    predictions = [{**one, "right": right} for one in (sure, unsure) for right in (True, False)]
    assert scoring.calibration_error(predictions) == pytest.approx((0.45 + 0.15) / 2)


def run(recipe, *arguments, status=0) -> str:
    result = CliRunner().invoke(recipe.command, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.output


def test_eval_by_letter_in_all_orders_and_compare(base, refined, tmp_path):
    common = ["--base", base, "--refined", refined, "--split", "dev", "--scorer", "letter"]
    said = run(evaluate, *common, "--out", tmp_path / "one", "--vote", "5")
    assert "voted over 5 orders" in said and "letter, single" in said and "calibration error" in said
    for name in ("two", "three"):
        run(evaluate, *common, "--out", tmp_path / name)
    one, two, three = (next((tmp_path / name).rglob(paths.EVALUATION)).parent for name in ("one", "two", "three"))
    record = files.read_json(one / paths.EVALUATION)
    assert record["summary"]["n"] == 25
    assert record["prompt"] == {"name": "kmlite", "version": prompts.VERSION}
    assert record["test_openings"] is None and record["precision"].startswith("16bit, ")
    alone, voted = record["ways"]
    assert (alone["way"], voted["way"]) == ("letter, single", "letter, voted")
    single, answers = files.read_lines(two / paths.PREDICTIONS), files.read_lines(one / paths.PREDICTIONS)
    assert [p["single"] for p in answers] == [p["answer"] for p in single]
    assert alone["right"] == sum(p["right"] for p in single)
    assert 1 < voted["passes"] <= 5
    assert all(len(p["chosen_in"]) in (1, 5) for p in answers)
    assert "vote: 5 → 1" in run(compare, "--a", one, "--b", two, status=1)
    said = run(compare, "--a", two, "--b", three)
    assert "no significant difference" in said and "calibration error: dev" in said
    files.write_lines(three / paths.PREDICTIONS, [{**p, "right": True} for p in files.read_lines(three / paths.PREDICTIONS)])
    assert "a significant difference" in run(compare, "--a", two, "--b", three)


def evaluation(folder, *, changed: dict | None = None, questions: int = 6, right: str = "B") -> Path:
    """A folder as make eval leaves it; `changed` replaces values of the record, by their path."""
    record = {
        "plan": {
            "settings": {"base": str(folder), "split": "dev", "precision": "auto", "scorer": "generate", "max_new_tokens": 32, "shots": 0},
            "prompt": {"name": "kmlite", "version": 1},
            "model": {"folder": str(folder), "fingerprint": str(folder)},
            "data": "0123",
        },
        "precision": "16bit, bfloat16",
        "results": [],
    }
    for path, value in (changed or {}).items():
        *above, key = path.split(".")
        part = record
        for name in above:
            part = part[name]
        part[key] = value
    files.write_json(folder / paths.EVALUATION, record)
    predictions = [
        {"number": i, "question": f"{i}?", "expected": right, "answer": "B", "right": right == "B"} for i in range(1, questions + 1)
    ]
    files.write_lines(folder / paths.PREDICTIONS, predictions)
    return folder


OTHERWISE: dict[str, dict] = {
    "precision": {"changed": {"precision": "4bit, bfloat16"}},
    "version": {"changed": {"plan.prompt.version": 2}},
    "name": {"changed": {"plan.prompt.name": "kmlite-reasoned"}},
    "scorer": {"changed": {"plan.settings.scorer": "letter"}},
    "max_new_tokens": {"changed": {"plan.settings.max_new_tokens": 64}},
    "shots": {"changed": {"plan.settings.shots": 5}},
    "split": {"changed": {"plan.settings.split": "test"}},
    "data": {"changed": {"plan.data": "4567"}},
    "fewshot": {"changed": {"plan.fewshot": "89"}},
    "the questions": {"questions": 5},
    "right answers": {"right": "C"},
}


@pytest.mark.parametrize("named", OTHERWISE)
def test_evaluations_made_in_different_ways_or_of_other_questions_are_not_compared(named, tmp_path):
    a, b = evaluation(tmp_path / "a"), evaluation(tmp_path / "b", **OTHERWISE[named])
    said = run(compare, "--a", a, "--b", b, status=1)
    assert "not comparable" in said and named in said
    run(compare, "--a", a, "--b", a)


def test_lm_evals_figures_are_compared_by_harness_and_never_with_one_of_ours(tmp_path):
    told = {"name": "lm-eval", "package": "lm-eval 0.4.13", "task": "kormedmcqa", "version": "3.0", "shots": 5, "chat_template": False}
    a, b = (evaluation(tmp_path / name, changed={"plan.prompt": told}) for name in "ab")
    for folder in (a, b):
        (folder / paths.EVALUATION).rename(folder / paths.HARNESS)
        (folder / paths.PREDICTIONS).rename(folder / paths.HARNESS_PREDICTIONS)
    assert "lm-eval 0.4.13, kormedmcqa version 3.0, 5 shots, no chat template" in run(compare, "--a", a, "--b", b, "--harness")
    evaluation(a)
    assert "lm-eval" not in run(compare, "--a", a, "--b", a)
    missing = run(compare, "--a", a, "--b", b, status=1)
    assert "eval.json does not exist" in missing and "HARNESS=1" in missing


def test_probabilities_that_are_not_numbers_are_no_answer(loaded, questions):
    """The largest of five NaNs is the first: an accuracy of about 20% out of nothing."""
    network, tokenizer = loaded
    broken = copy.deepcopy(network)
    for name, weight in broken.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.fill_(float("nan"))
    with pytest.raises(click.ClickException, match="not numbers"):
        scoring.answer_exam(broken, tokenizer, questions, scorer="letter", batch=7)


SENSELESS = [
    ["--vote", "6"],
    ["--vote", "0"],
    ["--prior", "-1", "--scorer", "letter"],
    ["--prior", "9"],
    ["--prior", "9", "--scorer", "letter", "--vote", "5"],
    ["--scorer", "letter", "--prompt", "kmlite-reasoned"],
    ["--split", "dev", "--scorer", "lm-eval"],
    ["--shots", "5"],
]


@pytest.mark.parametrize("arguments", SENSELESS)
def test_settings_that_make_no_sense(arguments):
    assert arguments[0] in run(evaluate, *arguments, status=1)


def test_the_reasoned_prompt_is_asked_and_named(base, refined, tmp_path, monkeypatch):
    seen = []
    whole = scoring.generate

    def generate(*arguments, **how):
        seen.append((arguments[2][0], how["max_new_tokens"]))
        return whole(*arguments, **{**how, "max_new_tokens": 2})

    monkeypatch.setattr(scoring, "generate", generate)
    run(evaluate, "--base", base, "--refined", refined, "--out", tmp_path, "--split", "dev", "--prompt", "kmlite-reasoned")
    question = records.read_exam(refined, "dev")[0]
    assert seen == [(prompts.exam_prompt(question, reasoned=True), 500)]
    written = next(tmp_path.rglob(paths.EVALUATION))
    assert written.parent.name == paths.ON_DEV  # a test result keeps its place
    record = files.read_json(written)
    assert record["prompt"] == {"name": "kmlite-reasoned", "version": prompts.VERSION}
    assert record["plan"]["settings"]["max_new_tokens"] == 500


@pytest.mark.parametrize("scorer", scoring.SCORERS)
def test_each_prompt_asks_its_own_words(loaded, questions, monkeypatch, scorer):
    """A prompt that is recorded under one name and asked in the words of another would make its figure a lie."""
    monkeypatch.setitem(prompts.PROMPTS, "terse", prompts.Prompt("a letter", False, "글자 하나로 답하세요.", 2, "글자 하나로 "))
    for name, (_, _, instruction, _, echo) in prompts.PROMPTS.items():
        assert prompts.exam_prompt(questions[0], prompt=name).startswith(instruction + "\n\n")
        assert instruction.startswith(echo)
    how: dict = {"scorer": scorer, "batch": 2, "max_new_tokens": 2}
    seen = []
    whole = prompts.conversation_ids
    monkeypatch.setattr(
        prompts, "conversation_ids", lambda tokenizer, prompt, *answer: seen.append(prompt) or whole(tokenizer, prompt, *answer)
    )
    scoring.answer_exam(*loaded, questions[:1], prompt="terse", **how)
    assert seen[0].startswith("글자 하나로 답하세요.")
    with pytest.raises(KeyError):
        scoring.answer_exam(*loaded, questions[:1], prompt="unknown", **how)


def test_years_are_results_where_there_are_several(loaded, questions):
    """`year`, `period` and `q_number` go from the refined data into the predictions; without them all works as before."""
    where = {key: questions[0][key] for key in prompts.WHERE_FROM}
    assert where == {"year": 9002, "period": 1, "q_number": 1}
    without = {key: value for key, value in questions[6].items() if key not in prompts.WHERE_FROM}
    kinds = {"one": questions, "mixed": [*({**q, "year": 2022 + i % 2} for i, q in enumerate(questions[:6])), without], "old": [without]}
    years = {"one": {"9002": 7}, "mixed": {"2022": 3, "2023": 3, "unknown": 1}, "old": {}}
    for name, asked in kinds.items():
        predictions = scoring.answer_exam(*loaded, asked, scorer="letter", batch=7)
        assert [p.get("q_number") for p in predictions] == [q.get("q_number") for q in asked]
        summary = scoring.summarise(predictions)
        assert {year: part["n"] for year, part in summary["by_year"].items()} == years[name]
        shown = {one["how"].get("year") for one in results.of_answers(summary, "test")} - {None}
        assert shown == (set(years[name]) if name == "mixed" else set())


def test_the_nearest_published_figure_is_said_of_the_whole_test(capsys, monkeypatch):
    record = {"plan": {"settings": {"split": "test", "scorer": "letter"}}, "prompt": {"name": "kmlite", "version": 1}}
    monkeypatch.setattr(evaluate, "console", Console(file=sys.stdout, width=200))
    evaluate.show_published({**record, "summary": {"n": 3009, "accuracy": 60.0}})
    assert "Qwen3-8B 60.4%" in capsys.readouterr().out
    evaluate.show_published({**record, "summary": {"n": 300, "accuracy": 60.0}})
    assert capsys.readouterr().out == ""


def test_published_figures_have_all_that_they_depend_on_and_the_nearest_is_found():
    for row in published.PUBLISHED:
        assert set(row) == {"model", "accuracy", "prompt", "shots", "scorer", "source"}
        assert all(row[key] not in ("", None) for key in row)
    for accuracy, model in ((47.0, "Qwen3-8B"), (0.0, "always answering D"), (100.0, "Qwen3-8B with a LoRA")):
        assert published.nearest(accuracy)["model"][0] == model
    among = "always answering D 22.0% < this model on dev 47.2% < Qwen3-8B 60.4% < Qwen3-8B with a LoRA 69.1%"
    assert published.beside(47.25).endswith(among)


def test_orders_of_a_question_go_through_the_model_once_as_far_as_they_are_alike(loaded, questions):
    network, tokenizer = loaded
    long = {**questions[0], "question": "62세 남자가 가슴이 아파서 왔다. " * 40}  # longer than a sliding window
    shorter = {**questions[1], "question": "45세 여자가 머리가 아파서 왔다. " * 10}
    asked = [scoring.rotated(q, by) for q in (long, shorter) for by in range(5)] + questions[2:7]
    seen = []
    hook = network.get_input_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    together = scoring.answer_exam(network, tokenizer, asked, scorer="letter", batch=10)
    shared = sum(seen)
    seen.clear()
    alone = [scoring.answer_exam(network, tokenizer, [q], scorer="letter", batch=1)[0] for q in asked]
    hook.remove()
    assert shared < 0.6 * sum(seen)
    for one, other in zip(together, alone, strict=True):
        assert one["logs"] == pytest.approx(other["logs"], abs=1e-3)


@pytest.mark.parametrize(
    ("heads", "most", "groups"),
    [
        ([[1, 2, 3, 4], [1, 2, 3, 5], [1, 9, 9, 9]], 8, {2: [[0, 1]], 1: [[2]]}),
        ([[1, 2, 3, 4]] * 3, 2, {2: [[0, 1]], 1: [[2]]}),
        ([[1, 2], [3, 4], [1, 2]], 8, {1: [[0], [1], [2]]}),
        ([[1, 2, 3, 4], [1, 2, 3, 5]], 1, {1: [[0], [1]]}),
        ([], 8, {}),
    ],
)
def test_prompts_that_are_alike(heads, most, groups):
    assert scoring.alike(heads, most) == groups
