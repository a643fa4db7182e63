"""Exports of a small trained chain: what others load, what is refused, what the card says, what goes to the Hub."""

import ast
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import click
import httpx
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from kmlite import files, paths, prompts, results
from kmlite.evaluation.scoring import score
from kmlite.models import loading, merging, starts, vocabulary
from kmlite.sharing import chat, export, gguf, model_card
from recipes import evaluate
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
    finals = [out / stage.folder / paths.FINAL for stage in paths.STAGES]
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
    adapted.save_pretrained(out / paths.STAGES[2].folder / "loop_1")
    merging.merge(finals[1], out / paths.STAGES[2].folder / "loop_1", finals[2], texts[:2])
    bits = results.result("bits_per_character", "korean", 5.0, 20)
    found = results.stamped([bits], "stage0", "before") + results.stamped([bits], "stage0", "after")
    chain = (
        (base, "google/medgemma-4b-it", found, {"vocabulary": {"new_tokens": 60}}),
        (finals[0], "stage 0", measured("stage1", "definition_choice", "seen definitions", 3, 3, 9), {}),
        (finals[1], "stage 1", measured("stage2", "accuracy", "dev", 5, 9, 25), {"best_loop": 1}),
    )
    for step, (before, name, found, facts) in enumerate(chain):
        files.write_json(out / paths.STAGES[step].folder / paths.RECORD, record(step, before, name, found, **facts))
    return out


@pytest.fixture
def short(monkeypatch) -> None:
    """Answers of four tokens are compared, not of 32, where the comparison is not what is tested: it is most of an export's time."""
    monkeypatch.setattr(gguf, "MAX_NEW_TOKENS", 4)


@pytest.fixture
def mine(short, out, tmp_path) -> Path:
    """The chain, to be changed."""
    return shutil.copytree(out, tmp_path / "out", ignore=shutil.ignore_patterns("export"))


@pytest.fixture
def real(mine) -> Path:
    """The same chain as if it descended from MedGemma: without the stand-in's name."""
    for stage in paths.STAGES:
        path = mine / stage.folder / paths.FINAL / "config.json"
        config = files.read_json(path)
        del config["kmlite"]
        files.write_json(path, config)
    path = mine / paths.STAGES[2].folder / paths.RECORD
    changed = files.read_json(path)
    changed["plan"]["base"]["fingerprint"] = files.model_fingerprint(mine / paths.STAGES[1].folder / paths.FINAL)
    files.write_json(path, changed)
    return mine


def run(out: Path, refined: Path, *arguments, status: int = 0) -> str:
    result = CliRunner().invoke(recipe.command, ["--out", str(out), "--refined", str(refined), *map(str, arguments)])
    assert result.exit_code == status, result.output + str(result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def merged(out, refined) -> Path:
    assert "10 of 10 greedy answers" in run(out, refined)
    assert (out / "export/stage2-merged/README.md").read_text().splitlines()[0] == model_card.STAND_IN
    return out / "export/stage2-merged"


@pytest.fixture
def plainly(plain):
    """Run code in a process of its own, in which unsloth must not appear."""

    def run(code: str, *arguments) -> str:
        code += "\nimport sys\nassert not any(name.startswith('unsloth') for name in sys.modules)"
        status, said = plain.run(code, *map(str, arguments))
        assert status == 0, said
        return said

    return run


def test_the_last_finished_stage_is_what_eval_export_and_chat_take(mine, refined):
    shutil.rmtree(mine / paths.STAGES[2].folder / paths.FINAL)
    final = mine / paths.STAGES[1].folder / paths.FINAL
    run(mine, refined)
    assert (mine / "export/stage1-merged/model.safetensors").read_bytes() == (final / "model.safetensors").read_bytes()
    assert evaluate.model_and_folder("", mine, "dev") == (final, final.parent / paths.ON_DEV)
    assert chat.find("", mine) == ("01_trained", final)
    files.write_json(mine / paths.STAGES[2].folder / paths.PLAN, {})
    assert evaluate.model_and_folder("", mine, "dev")[0] == final
    with pytest.raises(click.ClickException, match="stage2 has begun and is not finished"):
        evaluate.model_and_folder("", mine, "test")
    for stage in paths.STAGES:
        shutil.rmtree(mine / stage.folder)
    for take in (lambda: evaluate.model_and_folder("", mine, "test"), lambda: export.source(mine, 2), lambda: chat.find("", mine)):
        with pytest.raises(click.ClickException, match=r"no finished model.\n  .*make"):
            take()


def test_an_adapter_is_of_the_last_stage_that_keeps_one(mine):
    loops, none = (mine / paths.STAGES[number].folder / paths.RECORD for number in (1, 2))
    assert export.stage_of(mine, "adapter") == export.stage_of(mine, "merged") == 2
    files.write_json(loops, files.read_json(loops) | {"best_loop": 1})
    files.write_json(none, {key: value for key, value in files.read_json(none).items() if key != "best_loop"})
    assert (export.stage_of(mine, "adapter"), export.stage_of(mine, "gguf")) == (1, 2)


# ---- merged


def test_plain_transformers_reads_the_merged_folder_and_an_image_changes_what_it_says(plainly, merged):
    said = plainly(
        """
import sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1])
model, info = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32, output_loading_info=True)
assert not any(info.values()), info
logits = []
for colour in ('white', 'black'):
    content = [{'type': 'image', 'image': Image.new('RGB', (80, 40), colour)}, {'type': 'text', 'text': '무엇이 보입니까?'}]
    how = {'add_generation_prompt': True, 'tokenize': True, 'return_dict': True, 'return_tensors': 'pt'}
    given = processor.apply_chat_template([{'role': 'user', 'content': content}], **how)
    assert int((given['input_ids'] == model.config.image_token_index).sum()) == 4
    logits.append(model(**given).logits[0, -1])
turn = model.generate(**given, max_new_tokens=3, do_sample=False)
print(float((logits[0] - logits[1]).abs().max()), turn.shape[1] - given['input_ids'].shape[1])
""",
        merged,
    )
    difference, written = said.split()[-2:]
    assert float(difference) > 1e-4
    assert 1 <= int(written) <= 3


def test_weights_keep_their_bytes_old_tokens_their_ids_and_a_server_knows_where_to_stop(out, base, merged):
    from transformers import AutoTokenizer

    assert (merged / "model.safetensors").read_bytes() == (out / paths.STAGES[2].folder / paths.FINAL / "model.safetensors").read_bytes()
    before, after = load_file(out / paths.STAGES[0].folder / paths.FINAL / "model.safetensors"), load_file(merged / "model.safetensors")
    tower = [name for name in before if name.startswith(("vision_tower.vision_model.", "multi_modal_projector."))]
    assert len(tower) > 30
    assert all(before[name].equal(after[name]) for name in tower)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(merged)
    assert len(new) == len(old) + 60
    assert {name: new.get_vocab()[name] for name in old.get_vocab()} == old.get_vocab()
    for name in ("config.json", "generation_config.json"):
        assert files.read_json(merged / name)["eos_token_id"] == [1, 106]


def test_lengthened_stops_and_a_stale_vocabulary_do_not_travel(mine, refined):
    final, to = mine / paths.STAGES[2].folder / paths.FINAL, mine / "export/stage2-merged"
    files.write_json(final / "generation_config.json", {"eos_token_id": [1, 1], "do_sample": True})
    for stale in ("tokenizer.model", "added_tokens.json"):
        (final / stale).write_text('{"<mask>": 4}')
    run(mine, refined)
    assert files.read_json(to / "generation_config.json") == {"eos_token_id": [1, 106], "do_sample": True}
    assert not (to / "added_tokens.json").exists() and not (to / "tokenizer.model").exists()


def test_an_answer_that_changed_is_refused_and_the_older_export_stays(short, out, refined, merged, monkeypatch):
    before = {p.name: p.read_bytes() for p in merged.iterdir()}
    answers = export.answers

    def changed(folder, asked, adapter=None):
        found = answers(folder, asked, adapter)
        return found if folder.name == paths.FINAL else [*found[:-1], "E"]

    monkeypatch.setattr(export, "answers", changed)
    assert "answers otherwise than its source" in run(out, refined, status=1)
    assert before == {p.name: p.read_bytes() for p in merged.iterdir()}


# ---- the vocabulary


@pytest.fixture
def vocabulary_of(merged, tmp_path) -> Path:
    """A merged folder with a tokenizer.model."""
    folder = shutil.copytree(merged, tmp_path / "vocabulary")
    gguf.write_vocabulary(folder, [])
    return folder


def test_a_sentencepiece_vocabulary_cuts_as_the_extended_bpe(vocabulary_of, texts, monkeypatch):
    lines = [line for text in texts for line in text.split("\n")]
    assert len(lines) > 300
    gguf.write_vocabulary(vocabulary_of, [*lines, "혈압 <end_of_turn> <unused3> 높다"])  # a control token that is spelled is no difference
    from sentencepiece import SentencePieceProcessor

    made = SentencePieceProcessor(model_file=str(vocabulary_of / "tokenizer.model"))
    vocab = files.read_json(vocabulary_of / "tokenizer.json")["model"]["vocab"]
    assert all(made.IdToPiece(id) == name for name, id in vocab.items())
    assert (made.bos_id(), made.eos_id(), made.pad_id(), made.unk_id()) == (2, 1, 0, 3)
    assert made.IsControl(106) and made.IsByte(made.PieceToId("<0xEA>"))
    right = gguf.pieces
    monkeypatch.setattr(gguf, "pieces", lambda of: [(name, -1.0 if kind == gguf.NORMAL else n, kind) for name, n, kind in right(of)])
    with pytest.raises(click.ClickException, match="texts otherwise"):
        gguf.write_vocabulary(vocabulary_of, lines)


def test_an_id_without_an_embedding_row_is_left_out(llama, vocabulary_of, tmp_path):
    """The image token of a text-only Gemma; the converter writes as many ids as config.json has rows."""
    config = files.read_json(vocabulary_of / "config.json")
    tokens = len(gguf.pieces(files.read_json(vocabulary_of / "tokenizer.json")))
    for rows in (tokens - 1, tokens + 3):
        config["text_config"]["vocab_size"] = rows
        files.write_json(vocabulary_of / "config.json", config)
        gguf.convert(vocabulary_of, tmp_path, tmp_path)


def test_ids_with_a_gap_are_refused():
    with pytest.raises(click.ClickException, match="without a gap"):
        gguf.pieces({"model": {"vocab": {"<unk>": 0, "a": 2}, "merges": [], "unk_token": "<unk>"}, "added_tokens": []})


# ---- adapter


def test_the_adapter_over_its_base_by_plain_peft(plainly, out, refined):
    assert "10 of 10 greedy answers" in run(out, refined, "--format", "adapter")
    to = out / "export/stage2-adapter"
    assert {p.name for p in to.iterdir()} == {"NOTICE", "README.md", "adapter_config.json", "adapter_model.safetensors"}
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
        to,
        out / paths.STAGES[2].folder / paths.FINAL,
    )
    effect, rounding, base = said.strip().splitlines()[-1].split(" ", 2)
    assert float(effect) > 10 * float(rounding)
    assert Path(base) == (out / paths.STAGES[1].folder / paths.FINAL).resolve()


def test_where_there_is_no_adapter_it_says_what_there_is(mine, refined):
    said = run(mine, refined, "--format", "adapter", "--stage", 1, status=1)
    assert "merged into its model" in said
    assert "--format merged --stage 1" in said
    path = mine / paths.STAGES[2].folder / paths.RECORD
    was = files.read_json(path)
    files.write_json(path, was | {"best_loop": 0})
    assert "there is no adapter" in run(mine, refined, "--format", "adapter", status=1)
    files.write_json(path, was)
    config = mine / paths.STAGES[1].folder / paths.FINAL / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    assert "made anew since" in run(mine, refined, "--format", "adapter", status=1)


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


FILES = ("model-q8_0.gguf", "mmproj-f16.gguf", "Modelfile", "README.md", "NOTICE")


def program(path: Path, code: str) -> None:
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


@pytest.fixture
def llama(short, tmp_path, monkeypatch) -> Path:
    """A folder LLAMA_CPP with such a converter and a llama-quantize that copies."""
    pytest.importorskip("gguf")
    home = tmp_path / "llama.cpp"
    (home / "build/bin").mkdir(parents=True)
    (home / gguf.CONVERTER).write_text(CONVERTER)
    program(home / "build/bin/llama-quantize", 'cp "$1" "$2"')
    monkeypatch.setenv("LLAMA_CPP", str(home))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return home


def test_gguf_files_with_the_right_vocabulary(mine, refined, llama):
    from gguf import GGUFReader

    said = run(mine, refined, "--format", "gguf")
    assert re.search(r"tokenizer.json's, [\d,]+ ids", said)
    assert "were not compared: neither llama-completion nor llama-cli was found" in said
    to = mine / "export/stage2-gguf"
    assert {p.name for p in to.iterdir()} == {*FILES, "model-q4_k_m.gguf"}
    modelfile = (to / "Modelfile").read_text()
    assert "FROM ./model-q8_0.gguf\n" in modelfile and f'TEMPLATE """{gguf.TEMPLATE}"""\n' in modelfile
    assert "PARAMETER stop <end_of_turn>\nPARAMETER temperature 0\n" in modelfile and "SYSTEM" not in modelfile
    fields = GGUFReader(to / "model-q8_0.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    vocab = files.read_json(mine / paths.STAGES[2].folder / paths.FINAL / "tokenizer.json")["model"]["vocab"]
    assert all(tokens[id] == (name if name != "▁▁" else "  ") for name, id in vocab.items())
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert [kinds[vocab[name]] for name in ("<mask>", "<unused7>", "<end_of_turn>")] == [gguf.CONTROL] * 3
    assert [kinds[vocab[name]] for name in ("[multimodal]", "\n", "▁▁")] == [gguf.USER_DEFINED] * 3


@pytest.mark.parametrize(("alike", "taken"), [(("q4_k_m", "q8_0"), "q4_k_m"), (("q8_0",), "q8_0"), ((), "q8_0")])
def test_the_modelfile_takes_the_smallest_file_that_answers_as_the_model(tmp_path, tokenizer, monkeypatch, alike, taken):
    files_there = [tmp_path / f"model-{kind}.gguf" for kind in ("q4_k_m", "q8_0")]
    monkeypatch.setattr(gguf, "write_vocabulary", lambda *_: None)
    monkeypatch.setattr(gguf, "convert", lambda *_: (files_there, False))
    monkeypatch.setattr(gguf, "find", lambda name: Path(name))
    monkeypatch.setattr(gguf, "answers", lambda _, file, heads: ["B" if any(kind in file.name for kind in alike) else "?"] * len(heads))
    tokenizer.save_pretrained(tmp_path)
    said = gguf.write(tmp_path, tmp_path, tmp_path, [], "terms", ["물음"] * 3, ["B<end_of_turn>"] * 3)
    assert f"FROM ./model-{taken}.gguf\n" in (tmp_path / "Modelfile").read_text()
    for kind in ("q4_k_m", "q8_0"):
        assert f"model-{kind}.gguf: {3 if kind in alike else 0} of 3 greedy answers" in said


def test_the_answers_of_llama_cpp_are_counted_and_quantize_may_be_missing(mine, refined, llama):
    (llama / "build/bin/llama-quantize").unlink()
    program(llama / "build/bin/llama-completion", "echo '뭐라고 [end of text]'")
    said = run(mine, refined, "--format", "gguf")
    assert "there is no q4_k_m" in said and "model-q8_0.gguf: 0 of 10 greedy answers" in said
    assert {p.name for p in (mine / "export/stage2-gguf").iterdir()} == set(FILES)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (CONVERTER.replace("model.IdToPiece(i), model.GetScore(i)", "model.IdToPiece(i), 0.0"), "in tokenizer.json"),
        ("raise SystemExit('this model is not known')", "this model is not known"),
        (None, "neither in LLAMA_CPP={home} nor on PATH. Get it and run again:\n  git clone"),
    ],
    ids=["another vocabulary", "fails", "missing"],
)
def test_a_converter_that_does_not_do(mine, refined, llama, code, said):
    if code:
        (llama / gguf.CONVERTER).write_text(code)
    else:
        (llama / gguf.CONVERTER).unlink()
    assert said.format(home=llama) in run(mine, refined, "--format", "gguf", status=1)
    assert not (mine / "export/stage2-gguf").exists()


# ---- Ollama's template


def rendered(template: str, messages: list[dict]) -> str:
    """Go's text/template as far as ours uses it, by the same template in Jinja's words."""
    from jinja2 import Template

    values = {"$system": "kept.system", ".Content": "message.content"}
    words = {
        "range $i, $message := .Messages": "for message in messages",
        'if eq .Role "user"': "if message.role == 'user'",
        'else if eq .Role "assistant"': "elif message.role == 'assistant'",
        "if $system": "if kept.system",
        "$system := .System": "set kept.system = system",
        '$system = ""': "set kept.system = ''",
    }
    opened: list[str] = []

    def action(found: re.Match) -> str:
        left, content, right = found.groups()
        if content in values:
            return f"{{{{{left} {values[content]} {right}}}}}"
        said = f"end{opened.pop()}" if content == "end" else words[content]
        opened.extend([said.split()[0]] if said.startswith(("for", "if")) else [])
        return f"{{%{left} {said} {right}%}}"

    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    jinja = "{% set kept = namespace() %}" + re.sub(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", action, template)
    return Template(jinja, keep_trailing_newline=True).render(messages=messages, system=system)


def turns(*contents: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def test_ollamas_template_writes_what_the_chat_template_writes(tokenizer):
    said = turns('무엇입니까?\nA) {{ .Role }} "따옴표"', "B", "왜 그렇습니까?", "넷", "다섯")
    for system in ([], [{"role": "system", "content": "짧게 답하세요."}]):
        for n in (1, 3, 5):
            messages = [*system, *said[:n]]
            expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert "<bos>" + rendered(gguf.TEMPLATE, messages) == expected


# ---- the card


def test_names_from_elsewhere_are_text_in_the_card():
    """A folder's name may hold what Markdown, or the Python of the card, reads as its own."""
    name = 'a|b](http://x) <img> "c" `d`'
    settings = {"rank": 1, "alpha": 1, "learning_rate": 1, "epochs": 1}
    plan = {"step": "stage0", "base": {"name": name, "commit": "1"}, "data": {}, "settings": settings}
    record = {"plan": plan, "training": [{"rows": 1}], "precision": "16bit", "results": [], "versions": VERSIONS}
    source = SimpleNamespace(stand_in=False, base_name=name, folder=Path("out") / paths.STAGES[0].folder, records=[record])
    text = model_card.text(source, "adapter", "", name)
    inside = text.split("```python")[1].split("```\n")[0]
    assert ast.literal_eval(inside.split("AutoTokenizer.from_pretrained(")[1].split(")\n")[0]) == name
    rest = text.replace(inside, "")
    assert "<img>" not in rest.replace(r"\<img\>", "")
    assert "](http://x)" not in rest
    assert r"| a\|b\]" in rest


def test_the_card_names_what_was_trained_on_what(real, refined):
    found = [results.of_score(score(n, 30), "accuracy", "test", **how) for n, how in ((7, {}), (5, {"subject": "a|b[c](d)"}))]
    record = {"plan": {"settings": {"split": "test", "scorer": "letter", "vote": 5}}, "prompt": {"name": "kmlite", "version": 1}}
    record |= {"results": results.stamped(found, "eval", "after"), "test_openings": 2}
    files.write_json(real / paths.STAGES[2].folder / paths.EVALUATION, record)
    run(real, refined)
    text = (real / "export/stage2-merged/README.md").read_text(encoding="utf-8")
    head = text.split("---")[1]
    assert "base_model: google/medgemma-4b-it\n" in head
    assert "license_name: health-ai-developer-foundations\n" in head
    assert "| stage 0: Korean text | google/medgemma-4b-it (" in text
    assert "| stage2 | accuracy: dev | 20.0% (8.9–39.1) | 36.0% (20.2–55.5) | 25 |" in text
    assert "| eval | accuracy: test | 23.3% (11.8–40.9) | 30 |" in text
    assert r"| accuracy: test: a\|b\[c\]\(d\) |" in text  # text from data is no markup
    assert "Test had been scored 2×" in text
    assert "prompt kmlite version 1, scorer letter, voted over 5 orders of the options" in text
    assert r"| stage1 | right definition of five \(chance 20%\): definitions, seen | 33.3% (12.1–64.6) | 33.3% (12.1–64.6) | 9 |" in text
    assert "| stage0 | bits per character: Korean, held out (less is better) | 5.0000 | 5.0000 | 20 |" in text
    links = (model_card.GEMMA, model_card.HAI_DEF, model_card.WARNING)
    assert all(said in text for said in ("CC BY-NC 2.0", *links, "kmlite does not know", "60 Korean tokens", "abc1234"))
    assert "stand-in" not in text
    assert (real / "export/stage2-merged/NOTICE").read_text().startswith("HAI-DEF is provided under")


# ---- the Hub


@pytest.fixture
def hub(short, monkeypatch):
    """An HfApi that keeps what it is asked, and may hold a repository already."""

    class Api:
        calls: list = []  # noqa: RUF012
        private = True

        def create_repo(self, repo_id, **how):
            self.calls.append(("create", repo_id, how["private"]))

        def repo_info(self, repo_id, **how):
            return SimpleNamespace(private=Api.private)

        def upload_folder(self, **how):
            self.calls.append(("upload", how["repo_id"], sorted(p.name for p in Path(how["folder_path"]).iterdir())))
            return f"https://huggingface.co/{how['repo_id']}"

    Api.calls, Api.private = [], True
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", "hf_thisIsASecret")
    return Api


def test_an_upload_is_private_and_an_adapter_names_its_base(real, refined, hub):
    assert "--stage 1 --push you/base" in run(real, refined, "--format", "adapter", "--push", "me/lora", status=1)
    path = real / paths.STAGES[2].folder / paths.RECORD
    made = files.read_json(path)
    files.write_json(path, made | {"plan": made["plan"] | {"base": made["plan"]["base"] | {"name": "me/base"}}})
    assert "--base me/base" in run(real, refined, "--format", "adapter", "--push", "me/lora", status=1)
    files.write_json(path, made)
    said = run(real, refined, "--format", "adapter", "--push", "me/lora", "--base", "me/base")
    assert "uploaded to https://huggingface.co/me/lora, private" in said
    to = real / "export/stage2-adapter"
    assert hub.calls == [("create", "me/lora", True), ("upload", "me/lora", sorted(p.name for p in to.iterdir()))]
    assert files.read_json(to / "adapter_config.json")["base_model_name_or_path"] == "me/base"
    assert "hf_thisIsASecret" not in said


def test_a_public_repository_gets_nothing_and_no_connection_is_said_in_words(real, refined, hub, monkeypatch):
    hub.private = False
    assert "is there already and is public" in run(real, refined, "--push", "me/model", status=1)
    assert [call[0] for call in hub.calls] == ["create"]

    def fails(*_, **__):
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(hub, "create_repo", fails)
    assert "me/model: no route" in run(real, refined, "--push", "me/model", status=1)
    assert (real / "export/stage2-merged/model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stage", "99"], "--stage 99"),
        (["--push", "me/model"], "a stand-in is not uploaded"),
        *[(["--push", name], f"--push {name}") for name in ("model", "me/model/more", "me/mo del", "../model")],
    ],
)
def test_what_is_refused_before_anything_is_written(out, refined, hub, arguments, said):
    before = sorted(out.rglob("*"))
    assert said in run(out, refined, *arguments, status=1)
    assert sorted(out.rglob("*")) == before and hub.calls == []


def test_prompts_end_where_the_model_begins(tokenizer):
    """llama.cpp is given the prompt as text, without <bos>, which it adds: the ids must come back the same."""
    ids = prompts.conversation_ids(tokenizer, "무엇입니까?\nA) 가")[0]
    text = tokenizer.decode(ids).removeprefix("<bos>")
    assert tokenizer(text)["input_ids"] == ids
