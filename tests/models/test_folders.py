"""The one look at a model folder: what is refused, in which words, and that what is accepted loads whole."""

import json
import os
import shutil
from pathlib import Path

import click
import pytest

from kmlite import paths
from kmlite.models import folders, rendering, weights


def linked(source: Path, target: Path) -> Path:
    """A copy whose files are the same ones: `put` replaces one, and never writes into it."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def put(file: Path, content: bytes | str) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def change(file: Path, **values) -> None:
    """Set values of a JSON file; `a__b` is b of the object a, and None takes a value out."""
    data = json.loads(file.read_text(encoding="utf-8"))
    for name, value in values.items():
        *parts, last = name.split("__")
        inner = data
        for part in parts:
            inner = inner[part]
        inner.pop(last) if value is None else inner.update({last: value})
    put(file, json.dumps(data))


def load(file: Path) -> dict[str, list]:
    """{name: [dtype, shape, bytes]} of a safetensors file."""
    whole = file.read_bytes()
    return {name: [t.dtype, list(t.shape), whole[t.start : t.end]] for name, t in weights.header(file, "").items()}


def store(file: Path, tensors: dict[str, list]) -> None:
    at, header = 0, {}
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at := at + len(data)]}
    text = json.dumps(header).encode()
    put(file, len(text).to_bytes(8, "little") + text + b"".join(data for *_, data in tensors.values()))


def tensors(edit):
    """The change of a folder that edits the tensors of its one weight file."""

    def work(folder: Path) -> None:
        held = load(folder / weights.WEIGHTS)
        store(folder / weights.WEIGHTS, edit(held) or held)

    return work


def renamed(old: str, new: str):
    return tensors(lambda held: {name.replace(old, new): value for name, value in held.items()})


def sharded(folder: Path, edit=lambda index, shards: None) -> None:
    """Split the weights in two, with an index; `edit` may spoil both before they are written."""
    held = load(folder / weights.WEIGHTS)
    (folder / weights.WEIGHTS).unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shards: dict[str, dict] = {name: {} for name in names}
    for number, name in enumerate(sorted(held)):
        shards[names[number % 2]][name] = held[name]
    index = {"metadata": {}, "weight_map": {name: shard for shard, part in shards.items() for name in part}}
    edit(index, shards)
    for shard, part in shards.items():
        store(folder / shard, part)
    put(folder / weights.INDEX, json.dumps(index))


def json_of(name: str, **values):
    return lambda folder: change(folder / name, **values)


def written(name: str, content: bytes | str):
    return lambda folder: put(folder / name, content)


def cut(share: float):
    def work(folder: Path) -> None:
        whole = (folder / weights.WEIGHTS).read_bytes()
        put(folder / weights.WEIGHTS, whole[: int(len(whole) * share)])

    return work


def untied(held: dict) -> None:
    embedding = held["language_model.model.embed_tokens.weight"]
    held["language_model.lm_head.weight"] = [*embedding[:2], bytes(reversed(embedding[2]))]


def tied(held: dict) -> None:
    held["language_model.lm_head.weight"] = list(held["language_model.model.embed_tokens.weight"])


def narrower(held: dict) -> None:
    dtype, (rows, columns), data = held["language_model.model.layers.1.mlp.up_proj.weight"]
    held["language_model.model.layers.1.mlp.up_proj.weight"] = [dtype, [columns, rows], data]


def as_integers(held: dict) -> None:
    _, shape, data = held["language_model.model.layers.0.mlp.up_proj.weight"]
    held["language_model.model.layers.0.mlp.up_proj.weight"] = ["I8", shape, data[::2]]


def vocabulary(edit):
    """The change that edits tokenizer.json."""

    def work(folder: Path) -> None:
        data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        edit(data)
        put(folder / "tokenizer.json", json.dumps(data))

    return work


def without_turns(data: dict) -> None:
    for token in ("<start_of_turn>", "<end_of_turn>"):
        data["added_tokens"] = [added for added in data["added_tokens"] if added["content"] != token]
        data["model"]["vocab"][token.upper()] = data["model"]["vocab"].pop(token)


def far_ids(data: dict) -> None:
    data["model"]["vocab"]["뜻밖"] = 9_000_000


def moved_bos(data: dict) -> None:
    ids = data["model"]["vocab"]
    ids["<bos>"], ids["<unk>"] = ids["<unk>"], ids["<bos>"]
    for added in data["added_tokens"]:
        added["id"] = ids.get(added["content"], added["id"])


def template(old: str, new: str):
    def work(folder: Path) -> None:
        file = folder / "chat_template.jinja"
        text = file.read_text(encoding="utf-8")
        assert old in text
        put(file, text.replace(old, new))

    return work


def stray(index: dict, shards: dict) -> None:
    index["weight_map"]["language_model.model.norm.weight"] = "../../elsewhere.safetensors"


def gone(index: dict, shards: dict) -> None:
    shards.pop("model-00002-of-00002.safetensors")


def swapped(index: dict, shards: dict) -> None:
    first = min(index["weight_map"])
    index["weight_map"][first] = "model-00002-of-00002.safetensors"


def twice(index: dict, shards: dict) -> None:
    shards["model-00002-of-00002.safetensors"] |= dict(list(shards["model-00001-of-00002.safetensors"].items())[:1])


def unnamed(index: dict, shards: dict) -> None:
    index["weight_map"].pop(min(index["weight_map"]))


def unindexed(folder: Path) -> None:
    sharded(folder)
    (folder / weights.INDEX).unlink()


def both_layouts(folder: Path) -> None:
    whole = (folder / weights.WEIGHTS).read_bytes()
    sharded(folder)
    put(folder / weights.WEIGHTS, whole)


def pickled(folder: Path) -> None:
    (folder / weights.WEIGHTS).rename(folder / "pytorch_model.bin")
    store(folder / "dummy.safetensors", {"a": ["F32", [1], bytes(4)]})


def adapter_alone(folder: Path) -> None:
    (folder / "config.json").unlink()
    put(folder / "adapter_config.json", json.dumps({"base_model_name_or_path": "/elsewhere"}))


def no_processor(folder: Path) -> None:
    for name in folders.PROCESSOR:
        (folder / name).unlink()


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 8600000000\n"
LAYER = "language_model.model.layers.1.mlp.up_proj.weight"
BROKEN = {
    # weights
    "a tensor is missing": (tensors(lambda held: held.pop(LAYER) and None), r"lacks 1 of \d+ tensors: language_model.layers.1.mlp.up_proj"),
    "all tensors have other names": (renamed("language_model", "text_model"), r"lacks \d+ of \d+ tensors.*class does not know"),
    "names of the text-only class": (renamed("language_model.model.", "model."), r"lacks \d+ of \d+ tensors"),
    "a tensor of another shape": (tensors(narrower), r"up_proj.weight is \[64, 256\], config.json makes it \[256, 64\]"),
    "fewer layers than weights": (json_of("config.json", text_config__num_hidden_layers=1, text_config__layer_types=None), "no place for"),
    "more layers than weights": (json_of("config.json", text_config__num_hidden_layers=3, text_config__layer_types=None), "lacks 13 of"),
    "another hidden size": (json_of("config.json", text_config__hidden_size=128), r"config.json makes it \[\d+, 128\]"),
    "a hidden size that is a word": (json_of("config.json", text_config__hidden_size="64"), "hidden_size='64'; a number"),
    "a billion layers": (json_of("config.json", text_config__num_hidden_layers=10**9, text_config__layer_types=None), "num_hidden_layers"),
    "layer types for other layers": (json_of("config.json", text_config__layer_types=["full_attention"]), "layer_types must name 2 layers"),
    "an adapter's tensors": (renamed("up_proj.weight", "up_proj.lora_A.weight"), r"lacks 2 of .*lora_A"),
    "an adapter's tensors beside": (
        tensors(lambda held: held.update({LAYER.replace("weight", "lora_A.weight"): ["F32", [1], bytes(4)]})),
        "an adapter that was not merged",
    ),
    "another head": (tensors(untied), "lm_head.weight is not the embedding matrix"),
    "an untied configuration": (json_of("config.json", tie_word_embeddings=False), "tie_word_embeddings=false"),
    "an untied text configuration": (json_of("config.json", text_config__tie_word_embeddings=False), "tie_word_embeddings=false"),
    "integers": (tensors(as_integers), "is stored as I8"),
    "one tensor under two names": (
        tensors(lambda held: held.update({"model.language_model.norm.weight": held["language_model.model.norm.weight"]})),
        "under two names",
    ),
    "cut short": (cut(0.7), r"cut short: [\d,]+ of [\d,]+ bytes"),
    "cut short in its header": (cut(0.001), "ends inside its header"),
    "no byte": (written("model.safetensors", b""), "is empty, not a safetensors file"),
    "a few bytes": (written("model.safetensors", b"abc"), "ends inside its header"),
    "a damaged header": (written("model.safetensors", (16).to_bytes(8, "little") + b"not json at all!"), "damaged header"),
    "a list for a header": (written("model.safetensors", (16).to_bytes(8, "little") + b"[1]             "), "damaged header"),
    "bytes behind the end": (lambda f: put(f / weights.WEIGHTS, (f / weights.WEIGHTS).read_bytes() + bytes(9)), "is damaged"),
    "a git-LFS pointer": (written("model.safetensors", LFS), "git-LFS pointer"),
    "a web page": (written("model.safetensors", "<!doctype html>" + " " * 99), "a web page"),
    "a GGUF file": (written("model.safetensors", b"GGUF" + bytes(99)), "a GGUF file"),
    "a pickle by another name": (written("model.safetensors", b"PK\x03\x04" + bytes(99)), "a pickled file, which is never read"),
    "pickles beside a dummy": (pickled, "has dummy.safetensors, but neither"),
    "a shard is missing": (lambda f: sharded(f, gone), r"lacks 1 of 2 weight files: model-00002"),
    "an index that leads out": (lambda f: sharded(f, stray), "'../../elsewhere.safetensors', which is no"),
    "a tensor in the wrong shard": (lambda f: sharded(f, swapped), "says that .* is in model-00002-of-00002.safetensors; it is not"),
    "a tensor in two shards": (lambda f: sharded(f, twice), "is stored in both"),
    "a tensor that the index lacks": (lambda f: sharded(f, unnamed), "does not name"),
    "shards without an index": (unindexed, "but neither"),
    "an index without a map": (lambda f: (sharded(f), put(f / weights.INDEX, "{}")), "has no weight_map"),
    "two layouts": (both_layouts, "holds both"),
    "a folder for a file": (
        lambda f: ((f / weights.WEIGHTS).unlink(), (f / weights.WEIGHTS).mkdir()),
        "has model.safetensors, but neither",
    ),
    # configuration
    "empty": (lambda f: [path.unlink() for path in f.iterdir()], "config.json is missing"),
    "an adapter": (adapter_alone, "an adapter and no model"),
    "an adapter beside": (written("adapter_config.json", '{"base_model_name_or_path": "/elsewhere"}'), "stands beside a model"),
    "config.json is a list": (written("config.json", "[1]"), "a JSON list, an object is expected"),
    "config.json is cut": (written("config.json", '{"model_type": "gemma3", '), "config.json is not valid JSON"),
    "config.json is a pointer": (written("config.json", LFS), "git-LFS pointer"),
    "config.json is of 16-bit characters": (written("config.json", "{}".encode("utf-16") + b"\xff"), "not valid JSON"),
    "config.json is deep": (written("config.json", "[" * 100_000), "not valid JSON"),
    "generation_config.json is cut": (written("generation_config.json", "{"), "generation_config.json is not valid JSON"),
    "tokenizer_config.json is empty": (written("tokenizer_config.json", ""), "tokenizer_config.json is empty"),
    "text_config is a list": (json_of("config.json", text_config=[1]), "must be objects"),
    "quantised": (json_of("config.json", quantization_config={"load_in_4bit": True}), "quantised already"),
    "quantised inside": (json_of("config.json", text_config__quantization_config={"bits": 8}), "quantised already"),
    "weights named elsewhere": (json_of("config.json", transformers_weights="pytorch_model.safetensors"), "transformers_weights"),
    "Gemma 4": (json_of("config.json", model_type="gemma4"), "gemma4 model; .*no MedGemma stands on it"),
    "Gemma 3n": (json_of("config.json", model_type="gemma3n"), "gemma3n model"),
    "no processor": (no_processor, "vision tower and no preprocessor_config.json"),
    # tokenizer
    "a tokenizer that is none": (written("tokenizer.json", "{}"), "is no tokenizer"),
    "a tokenizer that is a pointer": (written("tokenizer.json", LFS), "is no tokenizer"),
    "another model's tokenizer": (vocabulary(without_turns), "has no <start_of_turn>"),
    "an id without a row": (vocabulary(far_ids), "1 tokens without a row, '뜻밖' among them"),
    "<bos> at another id": (vocabulary(moved_bos), "has <bos> at 3, config.json says bos_token_id=2"),
    "another image token": (json_of("config.json", image_token_index=5), "<image_soft_token> at .* says image_token_index=5"),
    "no bos_token": (json_of("tokenizer_config.json", bos_token=None), "bos_token=None"),
    "bos_token is another": (json_of("tokenizer_config.json", bos_token="<s>"), "bos_token='<s>'"),
    # template
    "no template": (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
    "two <bos>": (template("{{ bos_token }}", "{{ bos_token }}<bos>"), "writes 2 <bos>"),
    "no <bos>": (template("{{ bos_token }}", ""), "writes 0 <bos>"),
    "a <bos> a turn": (template("{{ '<start_of_turn>'", "{{ '<bos><start_of_turn>'"), "writes 2 <bos>"),
    "turns without an end": (template("<end_of_turn>", "</turn>"), "does not write Gemma's turns"),
    "turns of Gemma 4": (template("<start_of_turn>", "<|turn>"), "does not write Gemma's turns"),
    "no generation prompt": (template("<start_of_turn>model\\n", ""), "behind its own generation prompt"),
    "a template that is cut": (template("{%- endfor -%}", ""), "fails on a plain conversation"),
    "a template that reaches for Python": (written("chat_template.jinja", "{{ ''.__class__.__mro__ }}"), "fails on a plain conversation"),
    "a template that loops": (
        written("chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "does not end: it was stopped after 3 s of computing",
    ),
    "a template that allocates": (written("chat_template.jinja", "{{ 'x' * 2000000000 }}"), "asks for over 1 GiB of memory"),
    "a template that writes for ever": (
        written("chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}xxxx{% endfor %}{% endfor %}"),
        "writes over 100,000 characters",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_refused_in_a_sentence(base, tmp_path, fault):
    spoil, said = BROKEN[fault]
    folder = linked(base, tmp_path / "base")
    spoil(folder)
    with pytest.raises(click.ClickException, match=f"(?s){said}") as caught:
        folders.check(folder)
    what, _, fix = caught.value.message.partition("\n")
    assert str(folder) in what or "config" in what or "stored in both" in what
    assert len(what) < 250 + 2 * len(str(folder))
    assert fix or "Name" in what or "Remove" in what or "Take" in what or "Copy" in what


# ---- what is accepted, loads whole


def loads_whole(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["unexpected_keys"], info


@pytest.mark.parametrize("kind", ["base", "text_base"])
def test_the_names_and_shapes_are_the_classes_own(request, kind):
    import torch
    from transformers import AutoConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

    config = json.loads((request.getfixturevalue(kind) / "config.json").read_text())
    text, vision = config.get("text_config", config), config.get("vision_config", {})
    variants = [({}, {}), ({"attention_bias": True, "num_hidden_layers": 3, "layer_types": None}, {"vision_use_head": True})]
    variants += [({"head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 4}, {"num_hidden_layers": 1, "num_channels": 1})]
    for of_text, of_vision in variants:
        text.update(of_text)
        vision.update(of_vision)
        values = {name: value for name, value in config.items() if name != "model_type"}
        made = AutoConfig.for_model(config["model_type"], **values)
        with torch.device("meta"):
            model = (Gemma3ForCausalLM if kind == "text_base" else Gemma3ForConditionalGeneration)(made)
        expected = {name.removeprefix("model."): tuple(weight.shape) for name, weight in model.named_parameters()}
        assert weights.shapes(config) == expected


def test_what_a_configuration_leaves_out_is_the_classes_default():
    from transformers import SiglipVisionConfig
    from transformers.models.gemma3.configuration_gemma3 import Gemma3TextConfig

    assert all(getattr(Gemma3TextConfig(), name) == value for name, value in weights.TEXT.items())
    assert all(getattr(SiglipVisionConfig(), name) == value for name, value in weights.VISION.items())


LAYOUTS = {
    "as published": ("base", ""),
    "of transformers 5": ("base", {"language_model.model.": "model.language_model.", "vision_tower.vision_model.": "model.vision_tower."}),
    "of transformers 4.52": ("base", {"language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower."}),
    "of the bare model": ("base", {"language_model.model.": "language_model.", "vision_tower.vision_model.": "vision_tower."}),
    "text only": ("text_base", ""),
    "text only, of the bare model": ("text_base", {"model.": ""}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_that_is_accepted_loads_whole(request, tmp_path, layout):
    kind, names = LAYOUTS[layout]
    folder = linked(request.getfixturevalue(kind), tmp_path / "base")
    for old, new in dict(names).items():
        renamed(old, new)(folder)
    if names and kind == "base":
        renamed("multi_modal_projector.", "model.multi_modal_projector.")(folder)
    folders.check(folder)
    loads_whole(folder)


def test_shards_a_stored_head_and_float32_are_accepted(base, tmp_path):
    import torch

    one = linked(base, tmp_path / "shards")
    tensors(tied)(one)
    sharded(one)
    folders.check(one)
    loads_whole(one)
    other = linked(base, tmp_path / "float32")
    wide = lambda data: torch.frombuffer(bytearray(data), dtype=torch.bfloat16).float().numpy().tobytes()  # noqa: E731
    tensors(lambda held: {name: ["F32", shape, wide(data)] for name, (_, shape, data) in held.items()})(other)
    folders.check(other)
    loads_whole(other)


def test_the_image_token_may_stand_one_behind_a_text_only_matrix(text_base, tmp_path):
    """As google/gemma-3-270m and -1b have it: 262,144 rows, and the token at 262144."""
    folder = linked(text_base, tmp_path / "base")
    ids = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    rows = next(added["id"] for added in ids if added["content"] == folders.IMAGE)

    def shorten(held: dict) -> None:
        dtype, (_, width), data = held["model.embed_tokens.weight"]
        held["model.embed_tokens.weight"] = [dtype, [rows, width], data[: rows * width * 2]]

    tensors(shorten)(folder)
    change(folder / "config.json", vocab_size=rows)
    folders.check(folder)
    tensors(lambda held: held.update({"model.embed_tokens.weight": ["BF16", [rows - 1, 64], bytes(128 * (rows - 1))]}))(folder)
    change(folder / "config.json", vocab_size=rows - 1)
    with pytest.raises(click.ClickException, match="2 tokens without a row"):
        folders.check(folder)


def test_a_tokenizer_of_far_fewer_ids_is_another_models(text_base, tmp_path):
    folder = linked(text_base, tmp_path / "base")

    def longer(held: dict) -> None:
        dtype, (rows, width), data = held["model.embed_tokens.weight"]
        held["model.embed_tokens.weight"] = [dtype, [rows + 6000, width], data + bytes(6000 * width * 2)]
        change(folder / "config.json", vocab_size=rows + 6000)

    tensors(longer)(folder)
    with pytest.raises(click.ClickException, match="the tokenizer is of another model"):
        folders.check(folder)


# ---- the template


def test_templates_are_rendered_as_transformers_renders_them(base, tokenizer):
    names, template = folders.names_and_template(base)
    user, model = {"role": "user", "content": " 가 <b> "}, {"role": "assistant", "content": "나"}
    for messages in ([user], [user, model], [{"role": "system", "content": "계"}, user, model, user]):
        said = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=messages[-1]["role"] == "user")
        assert rendering.render(template, [messages], names) == [said]
    marked = (
        "{% generation %}{{ messages | tojson }}{% endgeneration %}{% for a in [1, 2] %}{% break %}{% endfor %}{{ strftime_now('%Y') }}"
    )
    assert rendering.render(marked, [[user]], names) == [tokenizer.apply_chat_template([user], chat_template=marked, tokenize=False)]


def test_a_template_in_the_tokenizers_configuration_is_found(base, tmp_path):
    folder = linked(base, tmp_path / "base")
    text = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    change(folder / "tokenizer_config.json", chat_template=[{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}])
    change(folder / "tokenizer_config.json", bos_token={"content": "<bos>", "lstrip": False})
    folders.check(folder)


# ---- what BASE may be


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("", "is empty"),
        (" google/medgemma-4b-it", "blanks around it"),
        ("google/medgemma 4b", "neither a folder nor a hub name"),
        ("google/medgemma-4b-it@a b", "neither a folder nor a hub name"),
        ("https://huggingface.co/google/medgemma-4b-it", "neither a folder nor a hub name"),
        ("a.gguf", "can be run and not trained"),
        ("config.json", "is a file; name the model's folder"),
        ("round", "which leads to no folder"),
        ("가" * 200, "neither a folder"),
    ],
)
def test_what_is_no_base_is_named(tmp_path, monkeypatch, base, said):
    monkeypatch.chdir(tmp_path)
    for name in ("a.gguf", "config.json"):
        (tmp_path / name).touch()
    (tmp_path / "round").symlink_to("round")
    for look in (folders.resolve, folders.at_hand):
        with pytest.raises(click.ClickException, match=said):
            look(base)


def test_a_folder_with_blanks_and_hangul_in_its_name(base, tmp_path):
    assert folders.resolve(str(linked(base, tmp_path / "내 모델 (1)")))


def test_a_file_that_cannot_be_read_is_named(base, tmp_path, monkeypatch):
    folder = linked(base, tmp_path / "base")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").symlink_to("tokenizer_config.json")
    with pytest.raises(click.ClickException, match=r"tokenizer_config\.json"):
        folders.check(folder)
    monkeypatch.setattr(weights, "header", refused)
    with pytest.raises(click.ClickException, match=r"/disk/model\.safetensors can't be read: Input/output error"):
        folders.check(base)


def refused(file: Path, again: str):
    raise OSError(5, "Input/output error", "/disk/model.safetensors")


# ---- downloads


def snapshot(base: Path, cache: Path) -> Path:
    """As a download of the hub leaves it: links into blobs."""
    folder = cache / "models--google--medgemma-4b-it" / "snapshots" / ("0123abcd" * 5)
    linked(base, folder)
    (cache / "models--google--medgemma-4b-it" / "refs").mkdir()
    (cache / "models--google--medgemma-4b-it" / "refs" / "main").write_text(folder.name)
    return folder


def test_an_interrupted_download_is_not_at_hand_and_says_how_to_go_on(base, tmp_path, monkeypatch):
    folder = snapshot(base, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert folders.at_hand("google/medgemma-4b-it") == folder
    sharded(folder, gone)
    assert folders.at_hand("google/medgemma-4b-it") is None
    with pytest.raises(click.ClickException, match=r"lacks 1 of 2 weight files.*\n.*hf download google/medgemma-4b-it --revision 0123abcd"):
        folders.check(folder)


def test_a_broken_stage_names_the_command_that_makes_it(base, tmp_path):
    final = linked(base, tmp_path / "out" / paths.STAGES[1] / paths.FINAL)
    (final / weights.WEIGHTS).unlink()
    with pytest.raises(click.ClickException, match=f"make stage1 OUT={tmp_path}/out ARGS=--restart"):
        folders.check(final)
