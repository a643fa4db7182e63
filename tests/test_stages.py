"""The whole pipeline in this process, on minimal models: what trains, what stays, what is recorded, what survives a kill."""

import json
import shutil
import traceback
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from kmlite import files, paths
from kmlite.models import loading, merging
from kmlite.training import loops
from recipes import evaluate, export, pipeline, stage0, stage1, stage2

SMALL = ["--batch", "2", "--accumulation", "2", "--rank", "8", "--alpha", "8", "--learning-rate", "1e-3", "--log-every", "2"]
STAGE0 = [*SMALL, "--new-tokens", "40", "--length", "64", "--max-steps", "12", "--save-every", "4", "--heldout", "6", "--entries", "5"]
STAGE0 += ["--gauge-every", "4", "--questions", "6"]
STAGE1 = [*SMALL, "--max-steps", "6", "--eval-every", "3", "--measured", "10", "--recalled", "3", "--chosen", "50"]
STAGE2 = [*SMALL, "--max-steps", "4", "--save-every", "2", "--eval-every", "4", "--loops", "2", "--max-new-tokens", "2"]


def run(recipe, *arguments, status: int = 0) -> str:
    result = CliRunner().invoke(recipe.command, [str(a) for a in arguments])
    assert result.exit_code == status, result.output + "".join(traceback.format_exception(*result.exc_info))
    assert "Traceback" not in result.output
    return result.output


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


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
    models = [weights(base), *(weights(out / stage / paths.FINAL) for stage in paths.STAGES)]
    loops_helped = record(out / paths.STAGES[2])["metrics"]["best_loop"] > 0
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


def test_the_vision_towers_bytes_are_the_same_after_all_stages(base, trained):
    first, last = weights(base), weights(trained[0] / paths.STAGES[2] / paths.FINAL)
    tower = [name for name in first if "vision" in name or "multi_modal" in name]
    assert len(tower) > 20
    assert all(first[name].equal(last[name]) and first[name].dtype == last[name].dtype for name in tower)


def test_old_rows_keep_their_bytes_and_new_rows_moved(base, trained):
    out, _ = trained
    first, after = weights(base), weights(out / paths.STAGES[0] / paths.FINAL)
    name = next(n for n in first if n.endswith("embed_tokens.weight"))
    n = record(out / paths.STAGES[0])["metrics"]["new_tokens"]
    assert n == 40
    start = len(json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]) + 1  # behind the image token
    assert after[name][:start].equal(first[name][:start])
    rows = after[name][start : start + n]
    assert len({tuple(row.tolist()) for row in rows}) == n
    from transformers import AutoTokenizer

    old = AutoTokenizer.from_pretrained(base)
    new = AutoTokenizer.from_pretrained(out / paths.STAGES[0] / paths.FINAL)
    for i in range(n):
        pieces = old(new.decode([start + i]), add_special_tokens=False)["input_ids"]
        assert not rows[i].equal(first[name][pieces].float().mean(0).to(rows.dtype))  # no longer where it began


def test_finished_models_load_with_plain_transformers_and_tied(trained):
    from transformers import AutoModelForImageTextToText

    for stage in paths.STAGES:
        folder = trained[0] / stage / paths.FINAL
        loaded = AutoModelForImageTextToText.from_pretrained(folder)
        assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
        assert str(loaded.dtype) == "torch.bfloat16"
        names = {path.name for path in folder.iterdir()}
        assert {"tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json"} <= names
        assert "adapter_config.json" not in names
        assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [1, 106]


# ---- what is recorded


def test_stage0_records_its_gauge_at_three_points_and_on_the_way(trained):
    metrics = record(trained[0] / paths.STAGES[0])["metrics"]
    points = metrics["gauge"]
    assert list(points) == ["base", "extended", "after"]
    for kind in ("korean", "dictionary", "english"):
        assert len({point["bits"][kind] for point in points.values()}) == 3
    assert 3 < points["after"]["bits"]["korean"] < points["base"]["bits"]["korean"]  # random weights learn fast
    assert points["after"]["dev"]["n"] == 6
    assert list(metrics["training"]["measured"]) == ["4", "8"]
    assert points["after"]["bits"]["korean"] != metrics["training"]["measured"]["4"]["korean"] < points["extended"]["bits"]["korean"]
    assert metrics["trainable"]["embeddings"] == 40 * 64
    assert metrics["gain"]["by_text"]["held-out Korean"]["saved"] > 0
    assert [entry["step"] for entry in metrics["training"]["curve"] if "loss" in entry] == [1, 2, 4, 6, 8, 10, 12]
    assert metrics["texts_apart"] is True
    assert metrics["worse"] == []


def test_a_merge_is_within_rounding_of_the_adapter(trained):
    for stage in paths.STAGES:
        metrics = record(trained[0] / stage)["metrics"]
        assert 0 <= metrics["merge_difference"] < 0.02


def test_stage1_and_stage2_record_before_and_after(trained):
    out, _ = trained
    one, two = (record(out / stage)["metrics"] for stage in paths.STAGES[1:])
    assert one["after"]["taught"] < one["before"]["taught"]
    for when in ("before", "after"):
        assert set(one[when]["recall"]) == {"n", "f1", "chrf"}
        assert one[when]["recall"]["n"] == 3
        assert one[when]["choice"]["taught"]["n"] == 50
        assert one[when]["choice"]["heldout"]["n"] == 5
    assert "right definition of five, held-out" in trained[1]["stage1"]
    assert {len(two[when]) for when in ("before", "after")} == {2, 3}  # dev and taught; test only after
    assert two["after"]["test"]["n"] == 6
    assert two["target_reached"] is (two["after"]["dev"]["accuracy"] >= 90)
    assert len(two["loops"]) == 2
    assert two["reasoned_rows"] <= 0.05 * 21 + 1
    bits = {when: point["bits"] for when, point in two["gauge"].items()}
    assert list(bits) == ["before", "after"]
    assert set(bits["before"]) == {"korean", "dictionary", "english"}
    assert (bits["before"] != bits["after"]) == (two["best_loop"] > 0)
    assert "the language before and after" in trained[1]["stage2"]


def test_records_name_their_base_as_a_stand_in(trained):
    out, said = trained
    assert all(record(out / stage)["metrics"]["stand_in"] for stage in paths.STAGES)
    assert all("nothing about MedGemma" in text for text in said.values())


def test_nothing_half_done_is_left(trained):
    out, _ = trained
    for stage in paths.STAGES:
        names = {path.name for path in (out / stage).iterdir()}
        assert not names & {paths.CHECKPOINTS, paths.EXTENDED, paths.PLAN}
        assert not [name for name in names if name.endswith((".partial", ".old"))]


def test_eval_writes_every_prediction_and_counts_the_openings_of_test(trained):
    out, said = trained
    folder = out / paths.STAGES[2]
    result = files.read_json(folder / paths.EVALUATION)
    predictions = [json.loads(line) for line in (folder / paths.PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    assert len(predictions) == result["summary"]["n"] == 6
    assert sum(p["right"] for p in predictions) == result["summary"]["right"]
    assert sum(result["summary"]["letters"].values()) + result["summary"]["unreadable"] == 6
    assert sum(part["n"] for part in result["summary"]["by_subject"].values()) == 6
    assert "scored 2 times" in said["eval"]  # once by stage 2, once by eval
    assert len((folder / paths.TEST_LOG).read_text().splitlines()) == 2
    after = record(folder)["metrics"]["after"]["test"]
    assert after["accuracy"] == result["summary"]["accuracy"]


# ---- running again


def test_a_second_run_does_nothing(base, trained, tiny_refined):
    out, _ = trained
    folders = ["--refined", tiny_refined, "--out", out]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    for recipe, arguments in (
        (stage0, ["--base", base, *STAGE0]),
        (stage1, STAGE1),
        (stage2, STAGE2),
        (evaluate, ["--max-new-tokens", "2"]),
    ):
        assert "nothing changed" in run(recipe, *folders, *arguments)
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


@pytest.mark.parametrize("step", [7])  # tests/test_kill.py kills at many more, from outside
def test_stage0_killed_and_run_again_gives_the_same_bytes(base, trained, tiny_refined, tmp_path, monkeypatch, step):
    arguments = ["--base", base, "--refined", tiny_refined, "--out", tmp_path, *STAGE0]
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            CliRunner().invoke(stage0.command, [str(a) for a in arguments], catch_exceptions=False)
    assert not (tmp_path / paths.STAGES[0] / paths.RECORD).exists()
    said = run(stage0, *arguments)
    assert ("going on from" in said) == (step > 4)  # a checkpoint every four steps
    same = [folder / paths.STAGES[0] / paths.FINAL / "model.safetensors" for folder in (trained[0], tmp_path)]
    assert same[0].read_bytes() == same[1].read_bytes()


def test_stage2_killed_in_its_second_loop_gives_the_same_bytes(trained, tiny_refined, tmp_path, monkeypatch):
    before = trained[0] / paths.STAGES[1] / paths.FINAL
    arguments = ["--base", before, "--refined", tiny_refined, "--out", tmp_path, *STAGE2, "--target", "100", "--patience", "2"]
    undisturbed, killed = tmp_path / "a", tmp_path / "b"
    arguments[5] = undisturbed
    run(stage2, *arguments)
    arguments[5] = killed
    seen = []
    original = loops.prune

    def prune(*given):
        original(*given)
        seen.append(given)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loops, "prune", prune)
        with pytest.raises(Killed):
            CliRunner().invoke(stage2.command, [str(a) for a in arguments], catch_exceptions=False)
    assert len(seen) == 1
    assert "going on after loop 1" in run(stage2, *arguments)
    adapters = [folder / paths.STAGES[2] / "loop_2" / "adapter_model.safetensors" for folder in (undisturbed, killed)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


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
    base = trained[0] / paths.STAGES[1] / paths.FINAL
    arguments = ["--base", base, "--refined", tiny_refined, *STAGE2, "--target", "100", "--reasoned-share", "0.3", "--eval-batch", "6"]
    arguments += ["--self-reason", "--reason-samples", "2", "--reason-questions", "15", "--out"]
    with monkeypatch.context() as patch:
        writes_reasonings(patch)
        said = run(stage2, *arguments, tmp_path / "whole")
    for kill_after in (4, 17):  # in the first loop's questions, and in the second's
        with monkeypatch.context() as patch:
            writes_reasonings(patch, kill_after)
            with pytest.raises(Killed):
                CliRunner().invoke(stage2.command, [str(a) for a in [*arguments, tmp_path / "killed"]], catch_exceptions=False)
    with monkeypatch.context() as patch:
        writes_reasonings(patch)
        run(stage2, *arguments, tmp_path / "killed")
    whole, killed = (tmp_path / name / paths.STAGES[2] for name in ("whole", "killed"))
    for name in ("adapter_model.safetensors", paths.SELF_REASONS):
        assert (whole / "loop_2" / name).read_bytes() == (killed / "loop_2" / name).read_bytes()
    loop = record(whole)["metrics"]["loops"][1]
    lines = files.read_lines(whole / "loop_2" / paths.SELF_REASONS)
    assert loop["self_reasons"]["texts"] == len(lines) == 15 * 2 * 3
    assert loop["self_reasons"]["kept"] == sum(not line["dropped"] for line in lines) > 0
    assert loop["self_reasons"]["dropped"]["wrong letter"] > 30
    with_cot = sum("cot" in question for question in files.read_lines(paths.exam_split(tiny_refined, "train")))
    assert loop["reasoned_rows"] == with_cot + loop["self_reasons"]["kept"]
    assert f"{loop['self_reasons']['kept']} kept" in said


def test_stage2_on_exam_questions_alone_with_a_weighted_letter(trained, tiny_refined, tmp_path):
    """Neither text nor a dictionary beside them: the gauge has its English text, and nothing is said of Korean."""
    bare = tmp_path / "refined"
    shutil.copytree(tiny_refined / paths.EXAM, bare / paths.EXAM)
    base = trained[0] / paths.STAGES[1] / paths.FINAL
    arguments = ["--base", base, "--refined", bare, *STAGE2, "--loops", "1", "--answer-weight"]
    run(stage2, *arguments, "3", "--out", tmp_path / "3")
    run(stage2, *arguments, "1", "--out", tmp_path / "1")
    metrics = record(tmp_path / "3" / paths.STAGES[2])["metrics"]
    assert set(metrics["gauge"]["after"]["bits"]) == {"english"}
    assert metrics["price"] is None
    adapters = [tmp_path / weight / paths.STAGES[2] / "loop_1" / "adapter_model.safetensors" for weight in "31"]
    assert adapters[0].read_bytes() != adapters[1].read_bytes()
    assert "--answer-weight" in run(stage2, *arguments, "0", "--out", tmp_path / "0", status=1)


def test_self_reasoning_on_the_embedded_base_keeps_nothing_and_says_so(trained, tiny_refined, tmp_path):
    base = trained[0] / paths.STAGES[1] / paths.FINAL
    arguments = ["--base", base, "--refined", tiny_refined, *STAGE2, "--loops", "1", "--out", tmp_path]
    asking = ["--self-reason", "--reason-questions", "3", "--reason-tokens", "4"]
    said = run(stage2, *arguments, *asking)
    assert "9 reasonings for 3 questions, 0 kept; dropped: unreadable 9" in said
    assert "A model of this size can't reason" in said
    assert "--reasoned-share" in run(stage2, *arguments, *asking, "--reasoned-share", "0", status=1)
    assert "above 0" in run(stage2, *arguments, *asking, "--reason-temperature", "0", status=1)


def test_an_unfinished_run_of_other_settings_is_refused_and_restart_drops_it(base, tiny_refined, tmp_path, monkeypatch):
    arguments = ["--base", base, "--refined", tiny_refined, "--out", tmp_path, *STAGE0, "--questions", "0"]
    with monkeypatch.context() as patch:
        kill_at(patch, 1)
        with pytest.raises(Killed):
            CliRunner().invoke(stage0.command, [str(a) for a in arguments], catch_exceptions=False)
    said = run(stage0, *arguments, "--seed", "7", status=1)
    assert "settings.seed: 0 → 7" in said
    assert "--restart" in said
    assert "going on from" not in run(stage0, *arguments, "--seed", "7", "--restart")


# ---- other shapes


@pytest.mark.parametrize("embeddings", ["all", "none"])
def test_other_embedding_modes(base, tiny_refined, tmp_path, embeddings):
    arguments = [*STAGE0, "--max-steps", "2"]
    run(stage0, "--base", base, "--refined", tiny_refined, "--out", tmp_path, *arguments, "--embeddings", embeddings)
    first, after = weights(base), weights(tmp_path / paths.STAGES[0] / paths.FINAL)
    name = next(n for n in first if n.endswith("embed_tokens.weight"))
    old = len(first[name]) - 64
    assert after[name][:old].equal(first[name][:old]) == (embeddings == "none")
    assert record(tmp_path / paths.STAGES[0])["metrics"]["trainable"]["embeddings"] == (0 if embeddings == "none" else after[name].numel())


@pytest.mark.parametrize(("embeddings", "precision"), [("new", "4bit"), ("all", "16bit")])
def test_rows_and_recomputed_activations_through_kill_and_merge(base, tiny_refined, tmp_path, monkeypatch, precision, embeddings):
    arguments = [*STAGE0, "--embeddings", embeddings, "--precision", precision, "--checkpointing", "on", "--gauge-every", "0"]
    arguments = ["--base", base, "--refined", tiny_refined, *arguments, "--out"]
    run(stage0, *arguments, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 10)
        with pytest.raises(Killed):
            CliRunner().invoke(stage0.command, [str(a) for a in [*arguments, tmp_path / "killed"]], catch_exceptions=False)
    assert "going on from" in run(stage0, *arguments, tmp_path / "killed")
    whole, killed = (weights(tmp_path / name / paths.STAGES[0] / paths.FINAL) for name in ("whole", "killed"))
    assert all(whole[name].equal(killed[name]) for name in whole)
    metrics = record(tmp_path / "whole" / paths.STAGES[0])["metrics"]
    assert metrics["gauge"]["after"]["bits"]["korean"] < metrics["gauge"]["base"]["bits"]["korean"]
    assert metrics["merge_difference"] < merging.ROUNDING


def test_replay_mixes_the_original_language_in(base, tiny_refined, tmp_path):
    folder = tmp_path / "english"
    files.write_lines(folder / "a.jsonl", files.read_lines(paths.ENGLISH_GAUGE))
    arguments = ["--base", base, "--refined", tiny_refined, *STAGE0, "--max-steps", "2", "--gauge-every", "0", "--questions", "0", "--out"]
    run(stage0, *arguments, tmp_path / "plain")
    run(stage0, *arguments, tmp_path / "mixed", "--replay", folder, "--replay-share", "0.2")
    plain, mixed = (record(tmp_path / name / paths.STAGES[0])["metrics"]["training"]["rows"] for name in ("plain", "mixed"))
    assert mixed == plain + round(plain * 0.2 / 0.8)
    for arguments_ in (["--replay", tmp_path / "nowhere"], ["--replay", folder, "--replay-share", "1.5"]):
        assert "replay" in run(stage0, *arguments, tmp_path / "no", *arguments_, status=1)


def test_a_text_only_base_in_4_bit(text_base, tiny_refined, tmp_path):
    said = run(
        stage0, "--base", text_base, "--refined", tiny_refined, "--out", tmp_path, *STAGE0, "--max-steps", "2", "--precision", "4bit"
    )
    assert "4bit weights" in said
    final = tmp_path / paths.STAGES[0] / paths.FINAL
    assert {str(w.dtype) for w in weights(final).values()} == {"torch.bfloat16"}
    loaded, _ = loading.load(final, "16bit", 64)
    assert type(loaded).__name__ == "Gemma3ForCausalLM"


def test_4bit_loading_quantises_the_text_tower_on_a_cpu(base):
    loaded, _ = loading.load(base, "4bit", 64)
    kinds = {type(m).__name__ for name, m in loaded.named_modules() if name.endswith("_proj") and "vision" not in name}
    assert kinds == {"Linear4bit"}


def test_16bit_weights_in_the_place_of_4bit_are_refused(base, monkeypatch):
    """What Unsloth does where bitsandbytes does not run: on a small card it would end in full memory, and nobody knew why."""
    fast = loading.fast_model()

    class Silent:
        @staticmethod
        def from_pretrained(**given):
            return fast.from_pretrained(**{**given, "load_in_4bit": False, "load_in_16bit": True})

    monkeypatch.setattr(loading, "fast_model", lambda: Silent)
    with pytest.raises(click.ClickException, match="Unsloth loaded 16-bit ones"):
        loading.load(base, "4bit", 64)


def test_the_pipeline_skips_what_is_done_and_stops_where_a_step_fails(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(
        pipeline.subprocess,
        "run",
        lambda command, check: steps.append(command[2]) or type("P", (), {"returncode": 3 * (command[2] == "recipes.stage1")}),
    )
    said = run(pipeline, "--refined", tmp_path, "--out", tmp_path, status=3)
    assert steps == ["recipes.refine", "recipes.stage0", "recipes.stage1"]
    assert "stage1 ended with status 3" in said


def test_the_report_reads_what_the_stages_wrote(trained, tiny_refined):
    """A record that changes its shape must not empty the page."""
    from kmlite.sharing.report import page

    out, _ = trained
    given = page.gather(tiny_refined, out)
    assert [step["state"] for step in given["steps"]] == ["missing", "done", "done", "done", "done"]  # refine.json was not copied
    assert all(stage["curve"] for stage in given["stages"]) and given["stages"][0]["measured"]
    assert given["stand_in"] and given["vocabulary"]["examples"] and given["published"]
    assert {part["name"][0] for part in given["browser"]["sets"]} >= {"before stage 2"}
    assert {part["split"] for part in given["browser"]["sets"]} == {"dev", "test"}
    html = page.build(tiny_refined, out, "ko", {})
    test = files.read_json(out / paths.STAGES[2] / paths.EVALUATION)["summary"]
    assert f"{test['accuracy']:.1f}%" in html


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_what_the_stages_trained_is_exported_with_its_card(trained, tiny_refined, tmp_path, kind):
    """On records as the stages write them."""
    if kind == "adapter" and not record(trained[0] / paths.STAGES[2])["metrics"]["best_loop"]:
        pytest.skip("no loop of these minimal models was better on dev")
    run(export, "--refined", tiny_refined, "--out", trained[0], "--format", kind, "--to", tmp_path / "to")
    text = (tmp_path / "to" / "README.md").read_text(encoding="utf-8")
    metrics = [record(trained[0] / stage)["metrics"] for stage in paths.STAGES]
    dev = metrics[2]["after"]["dev"]
    assert f"{dev['accuracy']:.1f}% ({dev['interval'][0]:.1f}–{dev['interval'][1]:.1f}) | {dev['n']} |" in text
    assert f"{metrics[0]['gauge']['after']['bits']['korean']:.3f}" in text
    assert f"| {metrics[1]['before']['taught']:.3f} | {metrics[1]['after']['taught']:.3f} |" in text
