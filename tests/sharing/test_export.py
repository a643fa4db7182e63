"""Exports of a small trained chain: what others load, what is refused, what the card says, what would go to the Hub."""

import ast
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from kmlite import files, paths, prompts, results
from kmlite.evaluation.scoring import score
from kmlite.models import loading, merging, starts, vocabulary
from kmlite.sharing import export, gguf, model_card
from recipes import export as recipe

VERSIONS = dict.fromkeys(("torch", "transformers", "trl", "peft", "unsloth"), "1")


def record(step: int, base: Path, name: str, found: list[dict], **facts) -> dict:
    settings = {"rank": 8, "alpha": 8, "learning_rate": 1e-4, "epochs": 1}
    plan = {"step": f"stage{step}", "settings": settings, "data": {"text": "0123"}}
    plan["base"] = {"name": name, "fingerprint": files.model_fingerprint(base)}
    run = {"training": [{"rows": 10}], "precision": "16bit", "versions": VERSIONS, "commit": "abc1234"}
    return {"plan": plan, "results": found, **run, **facts}


def measured(stage: str, measure: str, data: str, before: int, after: int, n: int) -> list[dict]:
    """A score before and after a stage."""
    points = (("before", before), ("after", after))
    return [one for when, right in points for one in results.stamped([results.of_score(score(right, n), measure, data)], stage, when)]


@pytest.fixture(scope="module")
def out(base, texts, tokenizer, tmp_path_factory) -> Path:
    """Stage 0's model with new tokens, stage 1's as it came, stage 2's with a LoRA of random weights merged in."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    out = tmp_path_factory.mktemp("모델 out")
    finals = [out / stage / paths.FINAL for stage in paths.STAGES]
    merges = vocabulary.choose_merges(vocabulary.count_words(texts), tokenizer, 60)
    old = next(w for name, w in load_file(base / "model.safetensors").items() if name.endswith("embed_tokens.weight"))
    vocabulary.extend_model(base, finals[0], merges, starts.fitted_rows(old, tokenizer, merges))
    named = load_file(finals[0] / "model.safetensors")
    torch.manual_seed(0)
    blind = named["multi_modal_projector.mm_input_projection_weight"]  # zeros in a new model: it would see every image alike
    blind.copy_(torch.randn(blind.shape))
    save_file(named, finals[0] / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(finals[0], finals[1])
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(finals[1], dtype=torch.float32)
    adapted = get_peft_model(
        plain, LoraConfig(r=4, target_modules=loading.TEXT_PROJECTIONS, init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(out / paths.STAGES[2] / "loop_1")
    merging.merge(finals[1], out / paths.STAGES[2] / "loop_1", finals[2], texts[:2])
    bits = results.result("bits_per_character", "korean", 5.0, 20)
    found = results.stamped([bits], "stage0", "before") + results.stamped([bits], "stage0", "after")
    chain = (
        (base, "google/medgemma-4b-it", found, {"vocabulary": {"new_tokens": 60}}),
        (finals[0], "stage 0", measured("stage1", "definition_choice", "seen definitions", 3, 3, 9), {}),
        (finals[1], "stage 1", measured("stage2", "accuracy", "dev", 5, 9, 25), {"best_loop": 1}),
    )
    for step, (before, name, found, facts) in enumerate(chain):
        files.write_json(out / paths.STAGES[step] / paths.RECORD, record(step, before, name, found, **facts))
    return out


@pytest.fixture
def short(monkeypatch) -> None:
    """Answers of four tokens are compared, not of 32, where the comparison is not what is tested: it is most of an export's time."""
    monkeypatch.setattr(export, "MAX_NEW_TOKENS", 4)


@pytest.fixture
def real(short, out, tmp_path) -> Path:
    """The same chain as if it descended from MedGemma: without the stand-in's name."""
    shutil.copytree(out, tmp_path / "real")
    for stage in paths.STAGES:
        path = tmp_path / "real" / stage / paths.FINAL / "config.json"
        config = files.read_json(path)
        del config["kmlite"]
        files.write_json(path, config)
    before = tmp_path / "real" / paths.STAGES[1] / paths.FINAL
    path = tmp_path / "real" / paths.STAGES[2] / paths.RECORD
    changed = files.read_json(path)
    changed["plan"]["base"]["fingerprint"] = files.model_fingerprint(before)
    files.write_json(path, changed)
    return tmp_path / "real"


def run(out: Path, refined: Path, *arguments, status: int = 0) -> str:
    result = CliRunner().invoke(recipe.command, ["--out", str(out), "--refined", str(refined), *map(str, arguments)])
    assert result.exit_code == status, result.output + str(result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def merged(out, refined, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("merged") / "here"
    assert "10 of 10 greedy answers" in run(out, refined, "--to", to)
    return to


@pytest.fixture
def plainly(plain):
    """Run code in a process of its own, in which unsloth must not appear."""

    def run(code: str, *arguments) -> str:
        code += "\nimport sys\nassert not any(name.startswith('unsloth') for name in sys.modules)"
        status, said = plain.run(code, *map(str, arguments))
        assert status == 0, said
        return said

    return run


# ---- merged


LOAD = """
import json, sys, torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
assert not any(info.values()), info
"""


def test_plain_transformers_reads_the_merged_folder_and_an_image_changes_what_it_says(plainly, merged):
    """The image as the processor would give it: four soft tokens and 3 × 56 × 56 numbers, made here."""
    said = plainly(
        LOAD
        + """
config = model.config
picture = [config.boi_token_index, *[config.image_token_index] * 4, config.eoi_token_index]
ids = torch.tensor([[2, *picture, *tokenizer('무엇이 보입니까?', add_special_tokens=False)['input_ids']]])
seen = (ids == config.image_token_index).long()
torch.manual_seed(0)
light, dark = torch.ones(1, 3, 56, 56), -torch.ones(1, 3, 56, 56)
with torch.no_grad():
    a, b = (model(input_ids=ids, pixel_values=x, token_type_ids=seen).logits[0, -1] for x in (light, dark))
    turn = model.generate(input_ids=ids, pixel_values=light, token_type_ids=seen, max_new_tokens=3, do_sample=False)
print(float((a - b).abs().max()), turn.shape[1] - ids.shape[1])
""",
        merged,
    )
    difference, written = said.split()[-2:]
    assert float(difference) > 1e-4
    assert 1 <= int(written) <= 3


def test_an_image_prompt_through_the_processor(plainly, merged):
    pytest.importorskip("PIL")
    said = plainly(
        LOAD
        + """
from PIL import Image
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(folder)
picture = Image.new('RGB', (80, 40), (200, 30, 30))
turn = [{'role': 'user', 'content': [{'type': 'image', 'image': picture}, {'type': 'text', 'text': '무엇이 보입니까?'}]}]
given = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors='pt')
assert int((given['input_ids'] == model.config.image_token_index).sum()) == 4
print(model.generate(**given, max_new_tokens=3, do_sample=False).shape[1] - given['input_ids'].shape[1])
""",
        merged,
    )
    assert 1 <= int(said.split()[-1]) <= 3


def test_weights_keep_their_bytes_and_the_tower_is_stage_0s(out, merged):
    assert (merged / "model.safetensors").read_bytes() == (out / paths.STAGES[2] / paths.FINAL / "model.safetensors").read_bytes()
    before, after = load_file(out / paths.STAGES[0] / paths.FINAL / "model.safetensors"), load_file(merged / "model.safetensors")
    tower = [name for name in before if name.startswith(("vision_tower.vision_model.", "multi_modal_projector."))]
    assert len(tower) > 30
    assert all(before[name].equal(after[name]) for name in tower)
    assert {weight.dtype.itemsize for weight in after.values()} == {2}


def test_old_ids_and_stops(base, merged):
    from transformers import AutoTokenizer

    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(merged)
    assert len(new) == len(old) + 60
    assert {name: new.get_vocab()[name] for name in old.get_vocab()} == old.get_vocab()
    for name in ("config.json", "generation_config.json"):
        assert files.read_json(merged / name)["eos_token_id"] == [1, 106]


def test_lengthened_stops_and_a_stale_vocabulary_do_not_travel(short, out, refined, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    final = tmp_path / "out" / paths.STAGES[2] / paths.FINAL
    config = files.read_json(final / "config.json")
    files.write_json(final / "config.json", config | {"eos_token_id": [1, 106, 106, 1]})
    files.write_json(final / "generation_config.json", {"eos_token_id": 1, "do_sample": True})
    (final / "tokenizer.model").write_text("stale")
    (final / "added_tokens.json").write_text('{"<mask>": 4}')
    run(tmp_path / "out", refined, "--to", tmp_path / "to")
    assert files.read_json(tmp_path / "to/config.json")["eos_token_id"] == [1, 106]
    assert files.read_json(tmp_path / "to/generation_config.json") == {"eos_token_id": [1, 106], "do_sample": True}
    assert not (tmp_path / "to/added_tokens.json").exists()
    assert (tmp_path / "to/tokenizer.model").read_bytes()[:5] != b"stale"


def test_weights_of_32_bits_are_refused(out, refined, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    file = tmp_path / "out" / paths.STAGES[2] / paths.FINAL / "model.safetensors"
    save_file({name: weight.float() for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    assert "F32 weights" in run(tmp_path / "out", refined, "--to", tmp_path / "to", status=1)
    assert not (tmp_path / "to").exists()


def test_an_answer_that_changed_is_refused_and_the_older_export_stays(short, out, refined, tmp_path, monkeypatch):
    run(out, refined, "--to", tmp_path / "to")
    before = {p.name: p.read_bytes() for p in (tmp_path / "to").iterdir()}
    answers = export.answers

    def changed(folder, asked, adapter=None):
        found = answers(folder, asked, adapter)
        return found if folder.name == paths.FINAL else [*found[:-1], "E"]

    monkeypatch.setattr(export, "answers", changed)
    assert "answers otherwise than its source" in run(out, refined, "--to", tmp_path / "to", status=1)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "to").iterdir()}


def test_a_folder_of_something_else_is_never_replaced(out, refined, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    assert "did not write" in run(out, refined, "--to", tmp_path / "home", status=1)
    assert "did not write" in run(out, refined, "--to", out / paths.STAGES[1] / paths.FINAL, status=1)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "mine"


def test_questions_of_the_sample_where_there_are_none(short, out, tmp_path):
    assert "10 questions of the sample" in run(out, tmp_path / "nothing", "--to", tmp_path / "to", "--stage", 0)


@pytest.mark.parametrize("single", [True, False])
def test_a_tower_without_its_published_names_gets_them_and_keeps_its_bytes(tmp_path, single):
    import torch

    weights = {"vision_tower.encoder.a": torch.ones(3), "language_model.model.b": torch.zeros(2, 5, dtype=torch.bfloat16)}
    name = "model.safetensors" if single else "model-00001-of-00001.safetensors"
    save_file(weights, tmp_path / name, metadata={"format": "pt"})
    if not single:
        files.write_json(tmp_path / "model.safetensors.index.json", {"metadata": {}, "weight_map": dict.fromkeys(weights, name)})
    for _ in range(2):  # named once, it stays
        merging.publish_names(tmp_path)
        found = load_file(tmp_path / name)
        assert sorted(found) == ["language_model.model.b", "vision_tower.vision_model.encoder.a"]
        assert found["vision_tower.vision_model.encoder.a"].equal(torch.ones(3))
        if not single:
            assert sorted(files.read_json(tmp_path / "model.safetensors.index.json")["weight_map"]) == sorted(found)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".renamed"] == []


# ---- the vocabulary


def test_a_sentencepiece_vocabulary_cuts_as_the_extended_bpe(merged, texts):
    lines = [line for text in texts for line in text.split("\n")]
    assert len(lines) > 300
    assert gguf.read_apart(merged, lines) == []
    from sentencepiece import SentencePieceProcessor

    made = SentencePieceProcessor(model_file=str(merged / "tokenizer.model"))
    vocab = files.read_json(merged / "tokenizer.json")["model"]["vocab"]
    assert all(made.IdToPiece(id) == name for name, id in vocab.items())
    assert (made.bos_id(), made.eos_id(), made.pad_id(), made.unk_id()) == (2, 1, 0, 3)
    assert made.IsControl(106) and made.IsByte(made.PieceToId("<0xEA>"))


def test_a_vocabulary_that_cuts_otherwise_is_refused(short, out, refined, tmp_path, monkeypatch):
    right = gguf.pieces

    def without_ranks(tokenizer):
        return [(name, -1.0 if kind == gguf.NORMAL else score, kind) for name, score, kind in right(tokenizer)]

    monkeypatch.setattr(gguf, "pieces", without_ranks)
    said = run(out, refined, "--to", tmp_path / "to", status=1)
    assert "texts otherwise" in said
    assert not (tmp_path / "to").exists()


def test_a_text_that_spells_a_control_token_is_no_reason_to_refuse(merged):
    assert gguf.read_apart(merged, ["혈압 <end_of_turn> <unused3> 높다"]) == []


def test_an_id_without_an_embedding_row_is_left_out(llama, merged, tmp_path):
    """The image token of a text-only Gemma; the converter writes as many ids as config.json has rows."""
    shutil.copytree(merged, tmp_path / "m")
    config = files.read_json(merged / "config.json")
    tokens = len(gguf.pieces(files.read_json(merged / "tokenizer.json")))
    for rows in (tokens - 1, tokens + 3):
        config["text_config"]["vocab_size"] = rows
        files.write_json(tmp_path / "m/config.json", config)
        gguf.convert(tmp_path / "m", tmp_path, tmp_path)


def test_ids_with_a_gap_are_refused():
    tokenizer = {"model": {"vocab": {"<unk>": 0, "a": 2}, "merges": [], "unk_token": "<unk>"}, "added_tokens": []}
    with pytest.raises(Exception, match="without a gap"):
        gguf.pieces(tokenizer)


# ---- adapter


def test_the_adapter_over_its_base_by_plain_peft(plainly, out, refined, tmp_path):
    said = run(out, refined, "--format", "adapter", "--to", tmp_path / "to")
    assert "10 of 10 greedy answers" in said
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == [
        "NOTICE",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "export.json",
    ]
    said = plainly(
        """
import sys, torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM
base = PeftConfig.from_pretrained(sys.argv[1]).base_model_name_or_path
ids = torch.tensor([[2, 105, 300, 400, 500]])
plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
before = plain(ids).logits
after = PeftModel.from_pretrained(plain, sys.argv[1])(ids).logits
merged = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32)(ids).logits
print(float((after - before).std()), float((after - merged).std()), base)
""",
        tmp_path / "to",
        out / paths.STAGES[2] / paths.FINAL,
    )
    effect, rounding, base = said.strip().splitlines()[-1].split(" ", 2)
    assert float(effect) > 10 * float(rounding)
    assert Path(base) == (out / paths.STAGES[1] / paths.FINAL).resolve()


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_that_keeps_no_adapter_says_what_there_is(out, refined, tmp_path, stage):
    said = run(out, refined, "--format", "adapter", "--stage", stage, "--to", tmp_path / "to", status=1)
    assert "merged into its model" in said
    assert f"--format merged --stage {stage}" in said


def test_no_better_loop_and_a_base_made_anew(out, refined, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / paths.STAGES[2] / paths.RECORD
    was = files.read_json(path)
    files.write_json(path, was | {"best_loop": 0})
    assert "there is no adapter" in run(tmp_path / "out", refined, "--format", "adapter", status=1)
    files.write_json(path, was)
    config = tmp_path / "out" / paths.STAGES[1] / paths.FINAL / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    assert "made anew since" in run(tmp_path / "out", refined, "--format", "adapter", status=1)


# ---- gguf

# What llama.cpp's converter does to a Gemma 3 vocabulary (conversion/base.py, _create_vocab_sentencepiece), and one tensor.
CONVERTER = """
import json, sys
from pathlib import Path
import numpy as np
from gguf import GGUFWriter
from sentencepiece import SentencePieceProcessor
folder, target = Path(sys.argv[1]), sys.argv[sys.argv.index('--outfile') + 1]
assert (folder / 'model.safetensors').stat().st_size
writer = GGUFWriter(target, 'clip' if '--mmproj' in sys.argv else 'gemma3')
if '--mmproj' not in sys.argv:
    model = SentencePieceProcessor(model_file=str(folder / 'tokenizer.model'))
    config = json.loads((folder / 'config.json').read_text())
    rows = config.get('text_config', config)['vocab_size']
    tokens = [f'[PAD{i}]' for i in range(rows)]
    scores, kinds = [-10000.0] * rows, [5] * rows
    for i in range(min(model.vocab_size(), rows)):
        kinds[i] = 2 if model.IsUnknown(i) else 3 if model.IsControl(i) else 6 if model.IsByte(i) else 1
        tokens[i], scores[i] = model.IdToPiece(i), model.GetScore(i)
    decoder = json.loads((folder / 'tokenizer_config.json').read_text()).get('added_tokens_decoder', {})
    for i, token in [(i, token) for i, token in decoder.items() if int(i) < rows]:
        text = token['content']
        control = token['special'] or text == '<mask>' or text.startswith('<unused')  # does_token_look_special
        kinds[int(i)], scores[int(i)] = (3 if control else 4), -1000.0
        tokens[int(i)] = text if control else text.replace('▁', ' ')
    writer.add_tokenizer_model('llama')
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
writer.add_tensor('t', np.zeros((2, 2), dtype=np.float32))
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
"""


@pytest.fixture
def llama(short, tmp_path, monkeypatch) -> Path:
    """A folder LLAMA_CPP with such a converter and a llama-quantize that copies."""
    pytest.importorskip("gguf")
    home = tmp_path / "llama.cpp"
    (home / "build/bin").mkdir(parents=True)
    (home / gguf.CONVERTER).write_text(CONVERTER)
    quantize = home / "build/bin/llama-quantize"
    quantize.write_text('#!/bin/sh\ncp "$1" "$2"\n')
    quantize.chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP", str(home))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return home


def test_gguf_files_with_the_right_vocabulary(out, refined, llama, tmp_path):
    from gguf import GGUFReader

    said = run(out, refined, "--format", "gguf", "--to", tmp_path / "to")
    assert "were not compared: neither llama-completion nor llama-cli was found" in said
    names = {p.name for p in (tmp_path / "to").iterdir()}
    assert {"model-q8_0.gguf", "model-q4_k_m.gguf", "mmproj-f16.gguf", "Modelfile", "README.md", "NOTICE"} <= names
    assert not names & {"model", "work", "model.safetensors"}
    assert "FROM ./model-q4_k_m.gguf\n" in (tmp_path / "to/Modelfile").read_text()
    fields = GGUFReader(tmp_path / "to/model-q8_0.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    vocab = files.read_json(out / paths.STAGES[2] / paths.FINAL / "tokenizer.json")["model"]["vocab"]
    assert all(tokens[id] == (name if name != "▁▁" else "  ") for name, id in vocab.items())
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert [kinds[vocab[name]] for name in ("<mask>", "<unused7>", "<end_of_turn>")] == [gguf.CONTROL] * 3
    assert [kinds[vocab[name]] for name in ("[multimodal]", "\n", "▁▁")] == [gguf.USER_DEFINED] * 3


def test_a_converted_vocabulary_that_is_not_the_models_is_refused(out, refined, llama, tmp_path):
    (llama / gguf.CONVERTER).write_text(CONVERTER.replace("model.IdToPiece(i), model.GetScore(i)", "model.IdToPiece(i), 0.0"))
    assert "in tokenizer.json" in run(out, refined, "--format", "gguf", "--to", tmp_path / "to", status=1)
    assert not (tmp_path / "to").exists()


def test_without_llama_quantize(out, refined, llama, tmp_path):
    (llama / "build/bin/llama-quantize").unlink()
    assert "there is no q4_k_m" in run(out, refined, "--format", "gguf", "--to", tmp_path / "to")
    assert "FROM ./model-q8_0.gguf\n" in (tmp_path / "to/Modelfile").read_text()


def test_without_a_converter_three_lines_say_what_to_do(out, refined, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    said = run(out, refined, "--format", "gguf", "--to", tmp_path / "to", status=1)
    lines = said.strip().splitlines()[-3:]
    assert f"neither in LLAMA_CPP={tmp_path} nor on PATH" in lines[0]
    assert "git clone" in lines[1]
    assert "make export" in lines[2]
    assert not list(tmp_path.iterdir())


def test_a_converter_that_fails_says_its_last_words(out, refined, llama, tmp_path):
    (llama / gguf.CONVERTER).write_text("raise SystemExit('this model is not known')")
    assert "this model is not known" in run(out, refined, "--format", "gguf", "--to", tmp_path / "to", status=1)


@pytest.mark.skipif("LLAMA_CPP" not in os.environ, reason="LLAMA_CPP names no llama.cpp")
def test_the_real_converter(out, refined, tmp_path):
    said = run(out, refined, "--format", "gguf", "--to", tmp_path / "to")
    assert re.search(r"tokenizer.json's, [\d,]+ ids", said)


def test_layers_as_llama_cpp_expects_them():
    six = [*["sliding_attention"] * 5, "full_attention"]
    assert gguf.layers_fit({"text_config": {"layer_types": six * 5 + six[:4]}})
    assert not gguf.layers_fit({"text_config": {"layer_types": six[2:]}})


# ---- Ollama's template


def rendered(template: str, messages: list[dict]) -> str:
    """Go's text/template as far as ours uses it: range over messages, if / else if / end, a variable, fields, eq, trim marks."""
    parts = re.split(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", template, flags=re.DOTALL)
    nodes: list[tuple[str, str]] = [("text", parts[0])]
    for i in range(1, len(parts), 4):
        left, action, right, text = parts[i : i + 4]
        if left:
            nodes[-1] = (nodes[-1][0], nodes[-1][1].rstrip())
        nodes += [("action", action), ("text", text.lstrip() if right else text)]
    names: dict[str, str] = {}
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")

    def value(word: str, message: dict) -> str:
        fields = {".System": system, ".Role": message.get("role"), ".Content": message.get("content")}
        return word[1:-1] if word[0] == '"' else names[word] if word[0] == "$" else fields[word]

    def holds(condition: str, message: dict) -> bool:
        words = condition.split()
        return value(words[1], message) == value(words[2], message) if words[0] == "eq" else bool(value(words[0], message))

    def block(at: int, message: dict, live: bool) -> tuple[str, int]:
        """(what the nodes from `at` on write, the place behind their {{ end }} or {{ else }})."""
        written = ""
        while at < len(nodes):
            kind, content = nodes[at]
            if kind == "text":
                written += content if live else ""
            elif content == "end" or content.startswith("else"):
                return written, at
            elif content.startswith("range"):
                end = at
                for each in messages:
                    inner, end = block(at + 1, each, live)
                    written += inner
                at = end
            elif content.startswith("if"):
                done = False
                while not (kind == "action" and content == "end"):
                    now = live and not done and holds(content.removeprefix("else ").removeprefix("if "), message)
                    inner, at = block(at + 1, message, now)
                    written, done = written + inner, done or now
                    kind, content = nodes[at]
            elif match := re.fullmatch(r"(\$\w+) :?= (\S+)", content):
                if live:
                    names[match[1]] = value(match[2], message)
            else:
                written += value(content, message) if live else ""
            at += 1
        return written, at

    return block(0, {}, True)[0]


def turns(*contents: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.mark.parametrize(
    "messages",
    [
        turns("혈압이 높은 까닭은?"),
        turns('무엇입니까?\nA) {{ .Role }} "따옴표"', "B", "왜 그렇습니까?"),
        turns("하나", "둘", "셋", "넷", "다섯"),
        [{"role": "system", "content": "짧게 답하세요."}, *turns("하나")],
        [{"role": "system", "content": "짧게 답하세요."}, *turns("하나", "둘", "셋")],
    ],
    ids=["one", "three", "five", "system", "system-three"],
)
def test_ollamas_template_writes_what_the_chat_template_writes(tokenizer, messages):
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert "<bos>" + rendered(gguf.TEMPLATE, messages) == expected


def test_modelfile(tmp_path):
    gguf.write_modelfile(tmp_path, "model-q8_0.gguf", False, "the terms")
    text = (tmp_path / "Modelfile").read_text()
    assert f'TEMPLATE """{gguf.TEMPLATE}"""\n' in text
    assert "PARAMETER stop <end_of_turn>\nPARAMETER temperature 0\n" in text
    assert "SYSTEM" not in text


# ---- the card


def test_the_card_of_a_stand_in_says_so_first(merged):
    assert (merged / "README.md").read_text().splitlines()[0] == model_card.STAND_IN


def test_names_from_elsewhere_are_text_in_the_card():
    """A folder's name may hold what Markdown, or the Python of the card, reads as its own."""
    name = 'a|b](http://x) <img> "c" `d`'
    plan = {
        "step": "stage0",
        "base": {"name": name, "commit": "1"},
        "data": {},
        "settings": {"rank": 1, "alpha": 1, "learning_rate": 1, "epochs": 1},
    }
    record = {"plan": plan, "training": [{"rows": 1}], "precision": "16bit", "results": []}
    packages = dict.fromkeys(("torch", "transformers", "trl", "peft", "unsloth"), "1")
    record["versions"] = packages
    source = SimpleNamespace(stand_in=False, base_name=name, folder=Path("out") / paths.STAGES[0], records=[record], record=record)
    text = model_card.text(source, "adapter", {"compared": "", "named": name})
    inside = text.split("```python")[1].split("```\n")[0]
    assert ast.literal_eval(inside.split("AutoTokenizer.from_pretrained(")[1].split(")\n")[0]) == name
    rest = text.replace(inside, "")
    assert "<img>" not in rest.replace(r"\<img\>", "")
    assert "](http://x)" not in rest
    assert r"| a\|b\]" in rest


def test_the_card_names_what_was_trained_on_what(real, refined, tmp_path):
    found = [results.of_score(score(n, 30), "accuracy", "test", **how) for n, how in ((7, {}), (5, {"subject": "a|b[c](d)"}))]
    record = {"plan": {"settings": {"split": "test", "scorer": "letter"}}, "prompt": {"name": "kmlite", "version": 1}}
    record |= {"results": results.stamped(found, "eval", "after"), "test_openings": 2}
    files.write_json(real / paths.STAGES[2] / paths.EVALUATION, record)
    run(real, refined, "--to", tmp_path / "to")
    text = (tmp_path / "to/README.md").read_text(encoding="utf-8")
    head = text.split("---")[1]
    assert "base_model: google/medgemma-4b-it\n" in head
    assert "license_name: health-ai-developer-foundations\n" in head
    assert "| 0, Korean text | google/medgemma-4b-it (" in text
    assert "| stage2 | accuracy, dev | 20.0% (8.9–39.1) | 36.0% (20.2–55.5) | 25 |" in text
    assert "| accuracy | 23.3% (11.8–40.9) | 30 |" in text
    assert r"| accuracy, a\|b\[c\]\(d\) |" in text  # text from data is no markup
    assert "Test had been scored 2 times" in text
    assert "prompt kmlite version 1, scorer letter" in text
    assert "| stage1 | right definition of five (chance 20%), definitions, seen | 33.3% (12.1–64.6) | 33.3% (12.1–64.6) | 9 |" in text
    assert "| stage0 | bits per character, Korean, held out (less is better) | 5.0000 | 5.0000 | 20 |" in text
    for said in (
        "CC BY-NC 2.0",
        model_card.GEMMA,
        model_card.HAI_DEF,
        model_card.WARNING,
        "kmlite does not know",
        "60 Korean tokens",
        "abc1234",
    ):
        assert said in text
    assert "stand-in" not in text
    assert (tmp_path / "to/NOTICE").read_text().startswith("HAI-DEF is provided under")


# ---- the Hub


@pytest.fixture
def hub(short, monkeypatch):
    """An HfApi that keeps what it is asked, and may hold a repository already."""

    class Api:
        calls: list = []  # noqa: RUF012
        private: bool | None = None

        def create_repo(self, repo_id, **how):
            self.calls.append(("create", repo_id, how))
            if Api.private is None:
                Api.private = how["private"]

        def repo_info(self, repo_id, **how):
            return type("Info", (), {"private": Api.private})

        def upload_folder(self, **how):
            self.calls.append(("upload", how["repo_id"], sorted(p.name for p in Path(how["folder_path"]).iterdir())))
            return f"https://huggingface.co/{how['repo_id']}"

    Api.calls, Api.private = [], None
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", "hf_thisIsASecret")
    return Api


def test_a_stand_in_is_not_uploaded(out, refined, hub, tmp_path):
    said = run(out, refined, "--to", tmp_path / "to", "--push", "me/model", status=1)
    assert "a stand-in is not uploaded" in said
    said = run(out, refined, "--to", tmp_path / "to", "--push", "me/model", "--dry-run")
    assert "without --dry-run this is refused" in said
    assert hub.calls == []


def test_a_dry_run_lists_files_sizes_repository_and_visibility(real, refined, hub, tmp_path):
    said = run(real, refined, "--to", tmp_path / "to", "--push", "me/model", "--dry-run", "--public")
    size = (tmp_path / "to/model.safetensors").stat().st_size
    assert f"{size:>14,}  model.safetensors" in said
    assert "me/model, public" in said
    assert "Nothing was uploaded" in said
    assert hub.calls == []
    assert "hf_thisIsASecret" not in said


@pytest.mark.parametrize("public", [False, True])
def test_an_upload(real, refined, hub, tmp_path, public):
    said = run(real, refined, "--to", tmp_path / "to", "--push", "me/model", *(["--public"] if public else []))
    assert "uploaded to https://huggingface.co/me/model" in said
    (create, _, how), (upload, _, files) = hub.calls
    assert (create, upload, how["private"]) == ("create", "upload", not public)
    assert files == sorted(p.name for p in (tmp_path / "to").iterdir())
    assert "hf_thisIsASecret" not in said


def test_a_repository_that_is_public_already_gets_nothing_in_private(real, refined, hub, tmp_path):
    hub.private = False
    assert "is there already and is public" in run(real, refined, "--to", tmp_path / "to", "--push", "me/model", status=1)
    assert [call[0] for call in hub.calls] == ["create"]


@pytest.mark.parametrize("name", ["model", "me/model/more", "me/mo del", "../model"])
def test_names_that_are_no_repository(out, refined, tmp_path, name):
    assert f"--push {name}" in run(out, refined, "--to", tmp_path / "to", "--push", name, "--dry-run", status=1)


def test_an_adapter_without_its_base_is_not_uploaded(real, refined, hub, tmp_path):
    adapter = ["--format", "adapter", "--to", tmp_path / "to", "--push", "me/lora"]
    assert "--stage 1 --push you/base" in run(real, refined, *adapter, status=1)
    run(real, refined, *adapter, "--base", "me/base")
    assert json.loads((tmp_path / "to/adapter_config.json").read_text())["base_model_name_or_path"] == "me/base"
    assert [call[0] for call in hub.calls] == ["create", "upload"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--stage", "3"], "--stage 3"), (["--dry-run"], "--push owner/name"), (["--stage", "2"], "make stage2")],
)
def test_mistakes(refined, tmp_path, arguments, said):
    assert said in run(tmp_path, refined, *arguments, status=1)


def test_prompts_end_where_the_model_begins(tokenizer):
    """llama.cpp is given the prompt as text, without <bos>, which it adds: the ids must come back the same."""
    ids = prompts.conversation_ids(tokenizer, "무엇입니까?\nA) 가")[0]
    text = tokenizer.decode(ids).removeprefix("<bos>")
    assert tokenizer(text)["input_ids"] == ids
