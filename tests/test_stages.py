"""The whole pipeline in this process, on minimal models: what trains, what stays, what is recorded, what survives a kill."""

import json
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from conftest import SMALL, embedding, run, weights

from kmlite import files, paths, results
from kmlite.models import loading, merging
from recipes import demo, evaluate, export, pipeline, stage0, stage1, stage2

ZERO, ONE, TWO = FOLDERS = [stage.folder for stage in paths.STAGES]
SOME = [*SMALL, "--log-every", "2", "--heldout", "6"]
STAGE0 = [*SOME, "--new-tokens", "40", "--length", "64", "--max-steps", "12", "--save-every", "4", "--entries", "30", "--eval-every", "4"]
STAGE0 += ["--questions", "6"]
STAGE1 = [*SOME, "--max-steps", "6", "--eval-every", "3", "--entries", "50", "--questions", "4", "--recalled", "3"]
STAGE2 = [*SOME, "--max-steps", "4", "--save-every", "2", "--eval-every", "4", "--loops", "2", "--max-new-tokens", "2"]


def vocabulary_of(folder: Path) -> dict[str, int]:
    return files.read_json(folder / "tokenizer.json")["model"]["vocab"]


def record(folder: Path) -> dict:
    return files.read_json(folder / paths.RECORD)


@pytest.fixture(scope="module")
def trained(base, tiny_refined, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """All stages and eval, once: (OUT, what each step printed)."""
    out = tmp_path_factory.mktemp("out") / "모델"
    folders = ["--refined", tiny_refined, "--out", out]
    said = {
        "stage0": run(stage0, "--base", base, *folders, *STAGE0),
        "stage1": run(stage1, *folders, *STAGE1),
        "stage2": run(stage2, *folders, *STAGE2),
        "eval": run(evaluate, *folders, "--max-new-tokens", "2"),
    }
    return out, said


# ---- what trains and what stays


def test_each_stage_changes_the_text_tower_and_nothing_else(base, trained):
    out, _ = trained
    models = [weights(base), *(weights(out / stage / paths.FINAL) for stage in FOLDERS)]
    loops_helped = record(out / TWO)["best_loop"] > 0
    for number, (before, after) in enumerate(pairwise(models)):
        assert before.keys() == after.keys()
        changed = {name for name in before if before[name].shape != after[name].shape or not before[name].equal(after[name])}
        if number < 2 or loops_helped:
            for projection in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
                of_text = {name for name in before if f".{projection}." in name and "vision" not in name}
                assert of_text <= changed, projection
                assert len(of_text) == 2
        left = {name for name in changed if "_proj." not in name}
        assert len(left) == (number == 0)  # the embedding, in stage 0
        assert all(name.endswith("embed_tokens.weight") for name in left)
        tower = {name for name in before if "vision" in name or "multi_modal" in name}
        assert len(tower) > 20 and not tower & changed


def test_old_rows_keep_their_bytes_and_each_new_one_has_its_own(base, trained):
    first, after = (embedding(folder) for folder in (base, trained[0] / ZERO / paths.FINAL))
    assert record(trained[0] / ZERO)["vocabulary"]["new_tokens"] == 40
    start = len(vocabulary_of(base)) + 1  # behind the image token
    assert after[:start].equal(first[:start])
    assert len({tuple(row.tolist()) for row in after[start : start + 40]}) == 40


def test_finished_models_load_with_plain_transformers_and_tied(trained):
    from transformers import AutoModelForImageTextToText

    for stage in FOLDERS:
        folder = trained[0] / stage / paths.FINAL
        loaded = AutoModelForImageTextToText.from_pretrained(folder)
        assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
        assert str(loaded.dtype) == "torch.bfloat16"
        names = {path.name for path in folder.iterdir()}
        assert {"tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json"} <= names
        assert "adapter_config.json" not in names
        assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [1, 106]


# ---- what is recorded


def by_moment(folder: Path, measure: str, data: str) -> dict[str, float]:
    return {one["when"]: one["value"] for one in record(folder)["results"] if (one["measure"], one["data"]) == (measure, data)}


def test_every_result_has_the_same_keys_and_words(trained):
    for stage in [
        *(trained[0] / stage.folder / paths.RECORD for stage in paths.STAGES),
        trained[0] / TWO / paths.EVALUATION,
    ]:
        found = files.read_json(stage)["results"]
        assert found
        for one in found:
            assert set(one) == {"stage", "when", "measure", "data", "value", "low", "high", "n", "unit", "how"}
            assert one["measure"] in results.MEASURES and one["data"] in results.DATA
            assert one["n"] > 0 and (one["low"] is None or one["low"] <= one["value"] <= one["high"])
            assert "16bit" in one["how"].get("precision", "") or one["measure"] == "tokens_per_character"


def test_stage0_measures_the_suite_at_three_moments_and_on_the_way(trained):
    folder = trained[0] / ZERO
    for data in ("korean", "dictionary", "english"):
        bits = by_moment(folder, "bits_per_character", data)
        assert set(bits) == {"before", "extended", "after", "step 4", "step 8"}
        assert len(set(bits.values())) == 5
    bits = by_moment(folder, "bits_per_character", "korean")
    assert 3 < bits["after"] < bits["before"]  # random weights learn fast
    assert bits["step 4"] < bits["extended"]
    assert set(by_moment(folder, "accuracy", "dev")) == {"before", "extended", "after"}
    tokens = by_moment(folder, "tokens_per_character", "korean")
    assert tokens["extended"] < tokens["before"]
    found = record(folder)
    assert found["trainable"]["embeddings"] == 40 * 64
    assert [entry["step"] for entry in found["training"][0]["curve"] if "loss" in entry] == [1, 2, 4, 6, 8, 10, 12]
    assert found["texts_apart"] is True
    assert found["worse"] == []


def test_stage1_measures_definitions_and_what_it_does_not_teach(trained):
    folder = trained[0] / ONE
    bits = by_moment(folder, "bits_per_character", "seen definitions")
    assert bits["after"] < bits["before"]
    assert by_moment(folder, "definition_choice", "held-out definitions")  # all that is measured, and on how many: tests/golden.json


def test_stage2_asks_dev_and_seen_questions_and_never_test(trained):
    folder = trained[0] / TWO
    found = record(folder)
    assert {one["data"] for one in found["results"]} == {"dev", "seen", "korean", "dictionary", "english"}
    assert set(by_moment(folder, "accuracy", "dev")) == {"before", "loop 1", "loop 2", "after"}
    assert found["target_reached"] is (by_moment(folder, "accuracy", "dev")["after"] >= 90)
    assert [part["loop"] for part in found["training"]] == [1, 2]
    assert all(part["reasoned_rows"] <= 0.05 * 21 + 1 for part in found["training"])
    bits = by_moment(folder, "bits_per_character", "korean")
    assert (bits["before"] != bits["after"]) == (found["best_loop"] > 0)


def test_a_finished_stage_names_its_base_as_a_stand_in_and_leaves_nothing_half_done(trained):
    out, said = trained
    assert all("nothing about MedGemma" in text for text in said.values())
    for stage in paths.STAGES:
        found = record(out / stage.folder)
        assert found["stand_in"] and 0 <= found["merge_difference"] < 0.02  # within rounding of the adapter
        names = {path.name for path in (out / stage.folder).iterdir()}
        assert not names & {paths.CHECKPOINTS, paths.EXTENDED, paths.PLAN}
        assert not [name for name in names if name.endswith((".partial", ".old"))]


def test_eval_writes_every_prediction_and_counts_the_openings_of_test(trained):
    out, said = trained
    folder = out / TWO
    result = files.read_json(folder / paths.EVALUATION)
    predictions = [json.loads(line) for line in (folder / paths.PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    assert len(predictions) == result["summary"]["n"] == 6
    assert sum(p["right"] for p in predictions) == result["summary"]["right"]
    assert sum(result["summary"]["letters"].values()) + result["summary"]["unreadable"] == 6
    assert sum(part["n"] for part in result["summary"]["by_subject"].values()) == 6
    assert "scored 1 time " in said["eval"]  # stage 2 leaves it closed
    assert len((folder / paths.TEST_LOG).read_text().splitlines()) == 1
    assert results.find(result["results"], "accuracy", "test")["value"] == result["summary"]["accuracy"]


# ---- running again


COSMETIC = ["nothing changed", "does not change the model"]


@pytest.mark.parametrize(
    ("recipe", "arguments", "status", "expected"),
    [
        (stage0, STAGE0, 0, ["nothing changed"]),
        (stage1, STAGE1, 0, ["nothing changed"]),
        (stage2, STAGE2, 0, ["nothing changed"]),
        (evaluate, ["--max-new-tokens", "2"], 0, ["nothing changed"]),
        (stage1, [*STAGE1, "--save-every", "3"], 0, COSMETIC),
        (stage2, [*STAGE2, "--log-every", "1", "--report-to", "none"], 0, COSMETIC),
        (stage2, [*STAGE2, "--learning-rate", "2e-3"], 1, ["settings.learning_rate: 0.001 → 0.002", "--restart"]),
    ],
)
def test_a_second_run_does_nothing_and_refuses_other_deciding_settings(base, trained, tiny_refined, recipe, arguments, status, expected):
    out, _ = trained
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    start = ["--base", base] if recipe is stage0 else []
    said = run(recipe, *start, "--refined", tiny_refined, "--out", out, *arguments, status=status)
    assert all(words in said for words in expected)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


class Killed(BaseException):
    """As sudden as a kill: nothing on the way catches it."""


def kill_at(monkeypatch, step: int) -> None:
    from transformers.trainer_callback import CallbackHandler

    original = CallbackHandler.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise Killed
        return original(self, args, state, control, **kwargs)

    monkeypatch.setattr(CallbackHandler, "on_step_end", on_step_end)


SENTENCES = [
    "환자의 나이와 증상의 시작을 함께 보면 급성으로 생긴 병을 먼저 생각해야 합니다.",
    "혈액검사에서 염증을 가리키는 값이 높으므로 감염이 있다고 보는 것이 옳습니다.",
    "다른 보기들은 이 증상 가운데 하나만을 설명할 수 있어 여기에는 맞지 않습니다.",
    "먼저 기도를 열고 숨을 쉬는지 살피는 것이 모든 처치보다 앞서야 합니다.",
]


def writes_reasonings(monkeypatch, kill_after: int | None = None) -> None:
    """Where the model is sampled, it writes well-formed reasonings that come to a letter at random; greedily it does as ever."""
    import torch

    from kmlite.evaluation import generation

    original, calls = generation.continued, []

    def continued(model, tokenizer, heads, *, temperature=0, **how):
        if not temperature:
            return original(model, tokenizer, heads, **how)
        calls.append(heads)
        if kill_after is not None and len(calls) > kill_after:
            raise Killed
        turns = []
        for _ in heads:
            first, second, letter = (int(torch.randint(n, (1,))) for n in (2, 2, 5))
            turns.append(f"<reasoning>첫째: {SENTENCES[first]}\n둘째: {SENTENCES[2 + second]}</reasoning>{'ABCDE'[letter]}")
        return turns

    monkeypatch.setattr(generation, "continued", continued)


def test_stage2_teaches_its_own_reasonings_and_a_kill_changes_no_byte(trained, tiny_refined, tmp_path, monkeypatch):
    base = trained[0] / ONE / paths.FINAL
    arguments = ["--base", base, "--refined", tiny_refined, *STAGE2, "--target", "100", "--reasoned-share", "0.3"]
    arguments += ["--self-reason", "--reason-questions", "15", "--out"]
    with monkeypatch.context() as patch:
        writes_reasonings(patch)
        said = run(stage2, *arguments, tmp_path / "whole")
    for kill_after in (1, 2):  # in the first loop's questions, and in the second's
        with monkeypatch.context() as patch:
            writes_reasonings(patch, kill_after)
            with pytest.raises(Killed):
                CliRunner().invoke(stage2.command, [str(a) for a in [*arguments, tmp_path / "killed"]], catch_exceptions=False)
    with monkeypatch.context() as patch:
        writes_reasonings(patch)
        assert "going on after loop 1" in run(stage2, *arguments, tmp_path / "killed")
    whole, killed = (tmp_path / name / TWO for name in ("whole", "killed"))
    for name in ("adapter_model.safetensors", paths.SELF_REASONS):
        assert (whole / "loop_2" / name).read_bytes() == (killed / "loop_2" / name).read_bytes()
    loop = record(whole)["training"][1]
    lines = files.read_lines(whole / "loop_2" / paths.SELF_REASONS)
    assert loop["self_reasons"]["texts"] == len(lines) == 15 * 3
    assert loop["self_reasons"]["kept"] == sum(not line["dropped"] for line in lines) > 0
    assert loop["self_reasons"]["dropped"]["wrong letter"] > 15
    with_cot = sum("cot" in question for question in files.read_lines(paths.exam_split(tiny_refined, "train")))
    assert loop["reasoned_rows"] == with_cot + loop["self_reasons"]["kept"]
    assert f"{loop['self_reasons']['kept']} kept" in said


def test_stage2_on_exam_questions_alone_with_a_weighted_letter(trained, tiny_refined, tmp_path):
    """Neither text nor a dictionary beside them: the suite has its English text, and nothing about Korean."""
    bare = tmp_path / "refined"
    shutil.copytree(tiny_refined / paths.EXAM, bare / paths.EXAM)
    base = trained[0] / ONE / paths.FINAL
    arguments = ["--base", base, "--refined", bare, *STAGE2, "--loops", "1", "--answer-weight"]
    run(stage2, *arguments, "3", "--out", tmp_path / "3")
    run(stage2, *arguments, "1", "--out", tmp_path / "1")
    found = record(tmp_path / "3" / TWO)["results"]
    assert {one["data"] for one in found if one["measure"] == "bits_per_character"} == {"english"}
    adapters = [tmp_path / weight / TWO / "loop_1" / "adapter_model.safetensors" for weight in "31"]
    assert adapters[0].read_bytes() != adapters[1].read_bytes()


def test_self_reasoning_on_the_embedded_base_keeps_nothing_and_says_so(trained, tiny_refined, tmp_path):
    base = trained[0] / ONE / paths.FINAL
    arguments = ["--base", base, "--refined", tiny_refined, *STAGE2, "--loops", "1", "--out", tmp_path]
    asking = ["--self-reason", "--reason-questions", "3", "--reason-tokens", "4"]
    said = run(stage2, *arguments, *asking)
    assert "9 reasonings for 3 questions, 0 kept; dropped: unreadable 9" in said
    assert "A model of this size can't reason" in said


@pytest.mark.parametrize(
    ("recipe", "arguments", "said"),
    [
        (stage2, ["--answer-weight", "0"], "--answer-weight 0: a number above 0"),
        (stage2, ["--self-reason", "--reasoned-share", "0"], "--reasoned-share 0 never teaches"),
        (stage2, ["--self-reason", "--reason-questions", "0"], "--reason-questions and --reason-tokens must be above 0"),
        (stage2, ["--sources", "native:translated=3:1"], "no question of translated among those of train. As in: --sources"),
        (stage0, ["--replay-share", "1.5"], "--replay-share 1.5: a share from 0 to below 1"),
        (stage0, ["--new-tokens", "many"], "--new-tokens many: a number from 0 to 20000, or auto"),
    ],
)
def test_settings_that_could_teach_nothing_are_refused(base, tiny_refined, tmp_path, recipe, arguments, said):
    assert said in run(recipe, "--base", base, "--refined", tiny_refined, "--out", tmp_path, *arguments, status=1)


# ---- other shapes


@pytest.mark.parametrize(("embeddings", "precision"), [("new", "4bit"), ("all", "16bit"), ("none", "16bit")])
def test_rows_and_recomputed_activations_through_kill_and_merge(base, tiny_refined, tmp_path, monkeypatch, precision, embeddings):
    arguments = [*STAGE0, "--max-steps", "6", "--eval-every", "0"]
    arguments += ["--embeddings", embeddings, "--precision", precision, "--checkpointing", "on"]
    arguments = ["--base", base, "--refined", tiny_refined, *arguments, "--out"]
    run(stage0, *arguments, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            CliRunner().invoke(stage0.command, [str(a) for a in [*arguments, tmp_path / "killed"]], catch_exceptions=False)
    assert "going on from" in run(stage0, *arguments, tmp_path / "killed")
    whole, killed = (weights(tmp_path / name / ZERO / paths.FINAL) for name in ("whole", "killed"))
    assert all(whole[name].equal(killed[name]) for name in whole)
    bits = by_moment(tmp_path / "whole" / ZERO, "bits_per_character", "korean")
    assert bits["after"] < bits["before"]
    found = record(tmp_path / "whole" / ZERO)
    assert found["merge_difference"] < merging.ROUNDING
    old, new = embedding(base)[:-64], embedding(tmp_path / "whole" / ZERO / paths.FINAL)
    assert new[: len(old)].equal(old) == (embeddings != "all")
    assert found["trainable"]["embeddings"] == {"new": 40 * 64, "all": new.numel(), "none": 0}[embeddings]


def test_nothing_held_out_and_no_new_tokens(base, tiny_refined, tmp_path):
    """No text to measure on is no reason to fail, and rows that nothing added are not measured twice."""
    arguments = [*STAGE0, "--max-steps", "2", "--heldout", "0", "--entries", "0", "--questions", "0", "--new-tokens", "0"]
    run(stage0, "--base", base, "--refined", tiny_refined, "--out", tmp_path, *arguments)
    found = record(tmp_path / ZERO)["results"]
    assert {(one["data"], one["when"]) for one in found} == {("english", when) for when in ("before", "after")}


AUTO = [*STAGE0, "--new-tokens", "auto", "--max-steps", "2", "--eval-every", "0", "--questions", "2"]


FEW = {"TOKENS_PER_ROW": 1, "LEAST": 10, "MOST": 30}


@pytest.mark.parametrize(
    ("patched", "kept", "because"),
    [
        ({}, 0, "200,000 a new row"),  # little text
        (FEW | {"WORTH": 0.001}, 30, "save"),
        (FEW | {"WORTH": 0.9}, 0, "less than 90%"),
    ],
)
def test_auto_adds_tokens_where_they_pay_and_says_the_sum(base, trained, tiny_refined, tmp_path, monkeypatch, patched, kept, because):
    from kmlite.models import vocabulary

    for name, value in patched.items():
        monkeypatch.setattr(vocabulary, name, value)
    said = run(stage0, "--base", base, "--refined", tiny_refined, "--out", tmp_path, *AUTO)
    assert because in said and ("none are added" in said) == (not kept)
    assert "warning" not in said and "warning" in trained[1]["stage0"]  # which names 40
    found = record(tmp_path / ZERO)
    assert found["vocabulary"]["new_tokens"] == kept
    added = vocabulary_of(tmp_path / ZERO / paths.FINAL).keys() - vocabulary_of(base).keys() - {"<image_soft_token>"}
    assert len(added) == kept


def test_replay_mixes_the_original_language_in(base, trained, tiny_refined, tmp_path):
    refined = shutil.copytree(tiny_refined, tmp_path / "refined")
    files.write_lines(refined / paths.REPLAY / "a.jsonl", files.read_lines(paths.ENGLISH))
    arguments = ["--base", base, "--refined", refined, *STAGE0, "--max-steps", "2", "--eval-every", "0", "--questions", "0"]
    said = run(stage0, *arguments, "--out", tmp_path / "mixed")
    assert "20% of the sequences, from 1 file" in said
    plain, mixed = (record(out / ZERO)["training"][0]["rows"] for out in (trained[0], tmp_path / "mixed"))
    assert mixed == plain + round(plain * 0.2 / 0.8)


def test_a_text_only_base_in_4_bit(text_base, tiny_refined, tmp_path):
    said = run(
        stage0, "--base", text_base, "--refined", tiny_refined, "--out", tmp_path, *STAGE0, "--max-steps", "2", "--precision", "4bit"
    )
    assert "4bit weights" in said
    final = tmp_path / ZERO / paths.FINAL
    assert {str(w.dtype) for w in weights(final).values()} == {"torch.bfloat16"}
    loaded, _ = loading.load(final, "16bit", 64)
    assert type(loaded).__name__ == "Gemma3ForCausalLM"


def test_16bit_weights_in_the_place_of_4bit_are_refused(base, monkeypatch):
    """What Unsloth does where bitsandbytes does not run: on a small card it would end in full memory, and nobody knew why."""
    loaded, _ = loading.load(base, "4bit", 64)
    kinds = {type(m).__name__ for name, m in loaded.named_modules() if name.endswith("_proj") and "vision" not in name}
    assert kinds == {"Linear4bit"}
    silent = mock.Mock()
    whole = loading.fast_model().from_pretrained
    silent.from_pretrained = lambda **given: whole(**given | {"load_in_4bit": False, "load_in_16bit": True})
    monkeypatch.setattr(loading, "fast_model", lambda: silent)
    with pytest.raises(click.ClickException, match="Unsloth loaded 16-bit ones"):
        loading.load(base, "4bit", 64)


def commands_of_the_pipeline(monkeypatch, failing: str = "") -> list[list[str]]:
    """The commands of the steps that it starts, none of which is run."""
    found: list[list[str]] = []

    def note(command, check):
        found.append([command[2].removeprefix("recipes."), *command[3:]])
        return type("P", (), {"returncode": 3 * (found[-1][0] == failing)})

    monkeypatch.setattr(pipeline.subprocess, "run", note)
    return found


def test_the_pipeline_stops_where_a_step_fails(refined, tmp_path, monkeypatch):
    found = commands_of_the_pipeline(monkeypatch, failing="stage1")
    said = run(pipeline, "--refined", refined, "--out", tmp_path, status=3)
    assert [step for step, *_ in found] == ["refine", "stage0", "stage1"]
    assert "stage1 ended with status 3" in said


def test_the_demo_takes_each_step_once_and_shows_what_was_learned(trained, tiny_refined, monkeypatch):
    found = commands_of_the_pipeline(monkeypatch)
    said = run(demo, "--refined", tiny_refined, "--out", trained[0].parent, "--base", trained[0].name)
    assert [step for step, *_ in found] == ["refine", "stage0", "stage1", "stage2", "evaluate", "report"]
    assert re.findall(r"^ (stage\d|eval) ", said, re.MULTILINE) == ["stage0", "stage1", "stage2", "eval"]
    assert "accuracy: test" in said and "train questions right" in said


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ((), [("stage0", "BASE"), ("stage1", None), ("stage2", None), ("evaluate", None)]),
        ((paths.TEXT,), [("stage1", "BASE"), ("stage2", None), ("evaluate", None)]),
        ((paths.DICTIONARY,), [("stage0", "BASE"), ("stage2", "00_trained/final"), ("evaluate", None)]),
        ((paths.TEXT, paths.DICTIONARY), [("stage2", "BASE"), ("evaluate", None)]),
        ((f"{paths.EXAM}/test.jsonl",), [("stage0", "BASE"), ("stage1", None), ("stage2", None)]),
        ((paths.EXAM,), [("stage0", "BASE"), ("stage1", None)]),
    ],
)
def test_the_pipeline_takes_what_data_there_is(refined, tmp_path, monkeypatch, without, expected):
    mine = shutil.copytree(refined, tmp_path / "refined")
    for name in without:
        shutil.rmtree(mine / name) if (mine / name).is_dir() else (mine / name).unlink()
    found = commands_of_the_pipeline(monkeypatch)
    said = run(pipeline, "--base", "BASE", "--refined", mine, "--out", tmp_path / "out")
    bases = [command[command.index("--base") + 1] if "--base" in command else None for command in found[1:]]
    assert [step for step, *_ in found[1:]] == [step for step, _ in expected]
    assert all(base == wanted or (base and wanted and base.endswith(wanted)) for base, (_, wanted) in zip(bases, expected, strict=True))
    assert said.count("skipped") == len(paths.STAGES) + 1 - len(expected)


def test_nothing_changed_but_what_was_meant_to(trained, refined):
    """What the sample and the minimal pipeline come to, by count and by name. A change on purpose: KMLITE_GOLDEN=write, and look."""
    out, _ = trained
    funnel = files.read_json(refined / paths.REFINE_RECORD)["funnel"]
    records = [*(record(out / stage.folder) for stage in paths.STAGES), files.read_json(out / TWO / paths.EVALUATION)]
    measured = sorted({(r["stage"], r["when"].split()[0], r["measure"], r["data"], r["n"]) for one in records for r in one["results"]})
    found = {
        "refine": {name: {"read": part["read"], "kept": part["kept"], "rejected": part["rejected"]} for name, part in funnel.items()},
        "records": [sorted(one) for one in records],
        "results": [list(row) for row in measured],
    }
    golden = paths.ROOT / "tests/golden.json"
    if os.environ.get("KMLITE_GOLDEN") == "write":
        files.write_json(golden, found)
    assert found == files.read_json(golden)


@pytest.mark.parametrize("data", ["korean", "english"])
def test_a_stage_begins_with_the_figures_that_the_one_before_ended_with(trained, data):
    """Whatever lengths the two train with: the same model is measured in the same way."""
    for earlier, later in pairwise(by_moment(trained[0] / stage, "bits_per_character", data) for stage in FOLDERS):
        assert earlier["after"] == later["before"]


def test_stage_2_takes_the_mix_and_the_reasonings_that_hold():
    native = [{"question": f"질문 {i}", **dict.fromkeys("ABCDE", "가"), "answer": "B", "cot": ""} for i in range(6)]
    translated = [{**native[0], "question": f"번역 {i}", "origin": "translated"} for i in range(6)]
    found = stage2.chosen(stage2.Settings(sources="native:translated=3:1"), [*native, *translated])
    assert [question.get("origin", "native") for question in found].count("translated") == 2
    assert len(found) == 8
    korean = "환자의 맥박이 느리고 혈압이 낮으며 피부가 차갑다. 검사에서 나트륨이 낮다. 따라서 갑상샘 기능이 낮다고 본다. 정답은 {}이다."
    right, wrong = ({**native[0], "cot": korean.format(letter)} for letter in "BD")
    assert [bool(question["cot"]) for question in stage2.chosen(stage2.Settings(), [right, wrong])] == [True, False]


def test_the_report_reads_what_the_stages_wrote(trained, tiny_refined):
    """A record that changes its shape must not empty the page."""
    from kmlite.sharing.report import page

    out, _ = trained
    given = page.gather(tiny_refined, out)
    assert [step["state"] for step in given["steps"]] == ["missing", *["done"] * (len(paths.STAGES) + 1)]  # refine.json was not copied
    assert all(stage["loss"] and stage["table"][1] for stage in given["stages"]) and given["stages"][0]["measured"]
    assert given["stand_in"] and given["vocabulary"]["most_used"] and given["loops"] and given["cards"]
    assert {part["name"][0] for part in given["browser"]["sets"]} >= {"before stage 2"}
    assert {part["split"] for part in given["browser"]["sets"]} == {"dev", "test"}
    html = page.build(tiny_refined, out, "ko", {})
    test = files.read_json(out / TWO / paths.EVALUATION)["summary"]
    assert f"{test['accuracy']:.1f}%" in html


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_what_the_stages_trained_is_exported_with_its_card(trained, tiny_refined, kind):
    """On records as the stages write them."""
    if kind == "adapter" and not record(trained[0] / TWO)["best_loop"]:
        pytest.skip("no loop of these minimal models was better on dev")
    run(export, "--refined", tiny_refined, "--out", trained[0], "--format", kind)
    text = (trained[0] / f"export/stage2-{kind}/README.md").read_text(encoding="utf-8")
    for stage in paths.STAGES:
        for one in record(trained[0] / stage.folder)["results"]:
            if one["when"] == "after":
                assert f"| {results.in_words(one)} | {one['n']} |" in text
