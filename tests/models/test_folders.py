"""The one look at a model folder: what is refused, in which words, and that what is accepted loads whole."""

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path

import click
import pytest
from safetensors import deserialize

from kmlite import paths
from kmlite.models import folders, rendering, weights


def linked(source: Path, target: Path) -> Path:
    """A copy whose files are the same ones: `put` replaces one, and never writes into it."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def put(file: Path, content: bytes | str) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def written(name: str, content: bytes | str):
    return lambda folder: put(folder / name, content)


def json_of(name: str, edit=None, **values):
    """The change of a JSON file: by `edit`, or values to set; `a__b` is b of the object a, and None takes a value out."""

    def work(folder: Path) -> None:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        if edit:
            edit(data)
        for key, value in values.items():
            *parts, last = key.split("__")
            inner = functools.reduce(dict.__getitem__, parts, data)
            inner.pop(last) if value is None else inner.update({last: value})
        put(folder / name, json.dumps(data))

    return work


config = functools.partial(json_of, "config.json")


def load(file: Path) -> dict[str, list]:
    """{name: [dtype, shape, bytes]} of a safetensors file."""
    return {name: [held["dtype"], held["shape"], bytes(held["data"])] for name, held in deserialize(file.read_bytes())}


def store(file: Path, tensors: dict[str, list]) -> None:
    at, header = 0, {}
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at := at + len(data)]}
    text = json.dumps(header).encode()
    put(file, len(text).to_bytes(8, "little") + text + b"".join(data for *_, data in tensors.values()))


def tensors(edit):
    """The change that edits the tensors of the one weight file, or gives others."""

    def work(folder: Path) -> None:
        held = load(folder / weights.WEIGHTS)
        store(folder / weights.WEIGHTS, edit(held) or held)

    return work


def tensor(name: str, edit):
    """The change of one tensor: `edit` gives its new dtype, shape and bytes."""
    return tensors(lambda held: held.update({name: edit(*held[name])}))


def added(name: str, like: str = ""):
    """A further tensor, `like` another or of one number."""
    return tensors(lambda held: held.update({name: held[like] if like else ["F32", [1], bytes(4)]}))


def renamed(old: str, new: str):
    return tensors(lambda held: {name.replace(old, new): value for name, value in held.items()})


def whole(edit, name: str = weights.WEIGHTS):
    """The change of a file's bytes."""
    return lambda folder: put(folder / name, edit((folder / name).read_bytes()))


def sharded(folder: Path, edit=lambda places, shards: None) -> None:
    """Split the weights in two, with an index; `edit` may spoil its map and the shards before they are written."""
    held = load(folder / weights.WEIGHTS)
    (folder / weights.WEIGHTS).unlink()
    shards: dict[str, dict] = {FIRST: {}, SECOND: {}}
    for number, name in enumerate(sorted(held)):
        shards[SECOND if number % 2 else FIRST][name] = held[name]
    places = {name: shard for shard, part in shards.items() for name in part}
    edit(places, shards)
    for shard, part in shards.items():
        store(folder / shard, part)
    put(folder / weights.INDEX, json.dumps({"metadata": {}, "weight_map": places}))


def split(edit):
    return lambda folder: sharded(folder, edit)


def template(old: str, new: str):
    return whole(lambda text: text.replace(old.encode(), new.encode()), "chat_template.jinja")


def without(*tokens: str):
    """The tokenizer's change that takes added tokens out."""

    def edit(data: dict) -> None:
        data["added_tokens"] = [added for added in data["added_tokens"] if added["content"] not in tokens]
        for token in set(tokens) & data["model"]["vocab"].keys():
            data["model"]["vocab"][token.upper()] = data["model"]["vocab"].pop(token)

    return json_of("tokenizer.json", edit)


def moved_bos(data: dict) -> None:
    ids = data["model"]["vocab"]
    ids["<bos>"], ids["<unk>"] = ids["<unk>"], ids["<bos>"]
    for added in data["added_tokens"]:
        added["id"] = ids.get(added["content"], added["id"])


def pickled(folder: Path) -> None:
    (folder / weights.WEIGHTS).rename(folder / "pytorch_model.bin")
    store(folder / "dummy.safetensors", {"a": ["F32", [1], bytes(4)]})


def removed(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def both(*changes):
    return lambda folder: [change(folder) for change in changes]


ADAPTER = written("adapter_config.json", '{"base_model_name_or_path": "/elsewhere"}')
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 8600000000\n"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
LAYER, NORM = "language_model.model.layers.1.mlp.up_proj.weight", "language_model.model.norm.weight"
EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
TWICE = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"
BROKEN = {
    # weights
    "a tensor is missing": (tensors(lambda held: held.pop(LAYER) and None), r"lacks 1 of \d+ tensors: language_model.layers.1.mlp.up_proj"),
    "all tensors have other names": (renamed("language_model", "text_model"), r"lacks \d+ of \d+ tensors.*class does not know"),
    "a tensor of another shape": (
        tensor(LAYER, lambda dtype, shape, data: [dtype, shape[::-1], data]),
        r"up_proj.weight is \[64, 256\], config.json makes it \[256, 64\]",
    ),
    "fewer layers than weights": (config(text_config__num_hidden_layers=1, text_config__layer_types=None), "no place for"),
    "more layers than weights": (config(text_config__num_hidden_layers=3, text_config__layer_types=None), "lacks 13 of"),
    "another hidden size": (config(text_config__hidden_size=128), r"config.json makes it \[\d+, 128\]"),
    "a hidden size that is a word": (config(text_config__hidden_size="64"), "hidden_size='64'; a number"),
    "a billion layers": (config(text_config__num_hidden_layers=10**9, text_config__layer_types=None), "num_hidden_layers"),
    "layer types for other layers": (config(text_config__layer_types=["full_attention"]), "layer_types must name 2 layers"),
    "an adapter's tensors": (renamed("up_proj.weight", "up_proj.lora_A.weight"), r"lacks 2 of .*lora_A"),
    "an adapter's tensors beside": (added(LAYER.replace("weight", "lora_A.weight")), "an adapter that was not merged"),
    "another head": (
        tensors(lambda held: held.update({HEAD: [*held[EMBEDDING][:2], held[EMBEDDING][2][::-1]]})),
        "lm_head.weight is not the embedding matrix",
    ),
    "an untied configuration": (config(tie_word_embeddings=False), "tie_word_embeddings=false"),
    "an untied text configuration": (config(text_config__tie_word_embeddings=False), "tie_word_embeddings=false"),
    "integers": (tensor(LAYER, lambda dtype, shape, data: ["I8", shape, data[::2]]), "is stored as I8"),
    "one tensor under two names": (added("model.language_model.norm.weight", like=NORM), "under two names"),
    "cut short": (whole(lambda data: data[: len(data) * 2 // 3]), r"\([\d,]+ bytes\) is cut short or damaged"),
    "cut short in its header": (whole(lambda data: data[:200]), "is cut short or damaged"),
    "no byte": (written("model.safetensors", b""), "is empty, not a safetensors file"),
    "a damaged header": (written("model.safetensors", (16).to_bytes(8, "little") + b"not json at all!"), "is cut short or damaged"),
    "bytes behind the end": (whole(lambda data: data + bytes(9)), "is cut short or damaged"),
    "a git-LFS pointer": (written("model.safetensors", LFS), "git-LFS pointer"),
    "a web page": (written("model.safetensors", "<!doctype html>" + " " * 99), "a web page"),
    "a GGUF file": (written("model.safetensors", b"GGUF\x03" + bytes(99)), "a GGUF file"),
    "a pickle by another name": (
        written("model.safetensors", b"PK\x03\x04\0\0\x08\x08" + bytes(99)),
        "a pickled file, which is never read",
    ),
    "pickles beside a dummy": (pickled, "has dummy.safetensors, but neither"),
    "a shard is missing": (split(lambda places, shards: shards.pop(SECOND)), r"lacks 1 of 2 weight files: model-00002"),
    "an index that leads out": (
        split(lambda places, _: places.update({NORM: "../../x.safetensors"})),
        "'../../x.safetensors', which is no",
    ),
    "a tensor in the wrong shard": (split(lambda places, _: places.update({min(places): SECOND})), f"in {SECOND}, and it is in {FIRST}"),
    "a tensor in two shards": (split(lambda places, shards: shards[SECOND].update(shards[FIRST])), "is stored in both"),
    "a tensor that the index lacks": (split(lambda places, _: places.pop(min(places))), f"in no file, and it is in {FIRST}"),
    "a tensor that no shard has": (split(lambda places, _: places.update(a=FIRST)), f"has a in {FIRST}, and it is in none"),
    "shards without an index": (both(sharded, removed(weights.INDEX)), "but neither"),
    "an index without a map": (both(sharded, written(weights.INDEX, "{}")), "has no weight_map"),
    "two layouts": (both(sharded, written(weights.WEIGHTS, b"")), "holds both"),
    "a folder for a file": (both(removed(weights.WEIGHTS), lambda f: (f / weights.WEIGHTS).mkdir()), "has model.safetensors, but neither"),
    # configuration
    "empty": (lambda folder: [path.unlink() for path in folder.iterdir()], "config.json is missing"),
    "an adapter": (both(removed("config.json"), ADAPTER), "an adapter and no model"),
    "an adapter beside": (ADAPTER, "stands beside a model"),
    "config.json is a list": (written("config.json", "[1]"), "a JSON list, an object is expected"),
    "config.json is a pointer": (written("config.json", LFS), "git-LFS pointer"),
    "config.json is of 16-bit characters": (written("config.json", "{}".encode("utf-16") + b"\xff"), "not valid JSON"),
    "config.json is deep": (written("config.json", "[" * 100_000), "not valid JSON"),
    "generation_config.json is cut": (written("generation_config.json", "{"), "generation_config.json is not valid JSON"),
    "tokenizer_config.json is empty": (written("tokenizer_config.json", ""), "tokenizer_config.json is empty"),
    "code of its own": (json_of("tokenizer_config.json", auto_map={"AutoTokenizer": "x.Y"}), r"asks for code of its own \(auto_map\)"),
    "text_config is a list": (config(text_config=[1]), "must be objects"),
    "quantised": (config(quantization_config={"load_in_4bit": True}), "quantised already"),
    "quantised inside": (config(text_config__quantization_config={"bits": 8}), "quantised already"),
    "weights named elsewhere": (config(transformers_weights="pytorch_model.safetensors"), "transformers_weights"),
    "Gemma 4": (config(model_type="gemma4"), "gemma4 model; .*no MedGemma stands on it"),
    "no processor": (removed(*folders.PROCESSOR), "vision tower and no preprocessor_config.json"),
    # tokenizer
    "a tokenizer that is none": (written("tokenizer.json", "{}"), "is no tokenizer"),
    "another model's tokenizer": (without("<start_of_turn>", "<end_of_turn>"), "has no <start_of_turn>"),
    "an id without a row": (json_of("tokenizer.json", model__vocab__뜻밖=9_000_000), "1 tokens without a row, '뜻밖' among them"),
    "<bos> at another id": (json_of("tokenizer.json", moved_bos), "has <bos> at 3, config.json says bos_token_id=2"),
    "no image token": (without(folders.IMAGE), "<image_soft_token> at None, config.json says"),
    "another image token": (config(image_token_index=5), "<image_soft_token> at .* says image_token_index=5"),
    "no bos_token": (json_of("tokenizer_config.json", bos_token=None), "bos_token=None"),
    "bos_token without content": (json_of("tokenizer_config.json", bos_token={"lstrip": False}), "bos_token=None"),
    "bos_token is another": (json_of("tokenizer_config.json", bos_token="<s>"), "bos_token='<s>'"),
    # template
    "no template": (removed("chat_template.jinja"), "no chat template"),
    "two <bos>": (template("{{ bos_token }}", "{{ bos_token }}<bos>"), "writes 2 <bos>"),
    "no <bos>": (template("{{ bos_token }}", ""), "writes 0 <bos>"),
    "a <bos> a turn": (template("{{ '<start_of_turn>'", "{{ '<bos><start_of_turn>'"), "writes 2 <bos>"),
    "turns without an end": (template("<end_of_turn>", "</turn>"), "does not write Gemma's turns"),
    "no generation prompt": (template("<start_of_turn>model\\n", ""), "behind its own generation prompt"),
    "a template that is cut": (template("{%- endfor -%}", ""), "fails on a plain conversation"),
    "a template that reaches for Python": (written("chat_template.jinja", "{{ ''.__class__.__mro__ }}"), "fails on a plain conversation"),
    "a template that loops": (written("chat_template.jinja", TWICE.replace("BODY", "")), "does not end: it was stopped after 3 s"),
    "a template that allocates": (written("chat_template.jinja", "{{ 'x' * 2000000000 }}"), "asks for over 1 GiB of memory"),
    "a template that writes for ever": (written("chat_template.jinja", TWICE.replace("BODY", "xxxx")), "writes over 100,000 characters"),
}


@pytest.mark.parametrize(("spoil", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_refused_in_a_sentence(base, tmp_path, spoil, said):
    folder = linked(base, tmp_path / "base")
    spoil(folder)
    with pytest.raises(click.ClickException, match=f"(?s){said}") as caught:
        folders.check(folder)
    what, _, fix = caught.value.message.partition("\n")
    assert str(folder) in what or "config" in what or "stored in both" in what
    assert len(what) < 250 + 2 * len(str(folder))
    assert fix


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
        needed = [(name, weight) for name, weight in model.named_parameters() if not weights.NOT_NEEDED.search(name)]
        expected = {name.removeprefix("model."): tuple(weight.shape) for name, weight in needed}
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


@pytest.mark.parametrize(("kind", "names"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_that_is_accepted_loads_whole(request, tmp_path, kind, names):
    folder = linked(request.getfixturevalue(kind), tmp_path / "내 모델 (1)")
    for old, new in dict(names).items():
        renamed(old, new)(folder)
    if names and kind == "base":
        renamed("multi_modal_projector.", "model.multi_modal_projector.")(folder)
    assert folders.resolve(str(folder)) == folder
    loads_whole(folder)


def in_float32(held: dict) -> dict:
    import torch

    wide = lambda data: torch.frombuffer(bytearray(data), dtype=torch.bfloat16).float().numpy().tobytes()  # noqa: E731
    return {name: ["F32", shape, wide(data)] for name, (_, shape, data) in held.items()}


@pytest.mark.parametrize("change", [both(added(HEAD, like=EMBEDDING), sharded), tensors(in_float32)])
def test_shards_with_a_stored_head_and_float32_are_accepted(base, tmp_path, change):
    folder = linked(base, tmp_path / "base")
    change(folder)
    folders.check(folder)
    loads_whole(folder)


@pytest.mark.parametrize(("more", "said"), [(0, None), (-1, "2 tokens without a row"), (5000, "the tokenizer is of another model")])
def test_rows_and_ids_must_fit(text_base, tmp_path, more, said):
    """As google/gemma-3-270m and -1b have it: 262,144 rows, and the image token at 262144; no row less, and not thousands more."""
    folder = linked(text_base, tmp_path / "base")
    ids = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    rows = more + next(added["id"] for added in ids if added["content"] == folders.IMAGE)
    config(vocab_size=rows)(folder)
    resized = lambda dtype, shape, data: [dtype, [rows, shape[1]], data.ljust(2 * rows * shape[1], b"\0")[: 2 * rows * shape[1]]]  # noqa: E731
    tensor("model.embed_tokens.weight", resized)(folder)
    with pytest.raises(click.ClickException, match=said) if said else contextlib.nullcontext():
        folders.check(folder)


@pytest.mark.parametrize("size", [0x0280, 0x0480, 0x3C20])
def test_the_length_of_a_header_is_not_taken_for_another_kind_of_file(tmp_path, size):
    """Bytes that stand for 640 begin a pickle too, those for 15,392 are a blank and <."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(size)
    put(tmp_path / weights.WEIGHTS, size.to_bytes(8, "little") + text + bytes(4))
    assert [stored.name for stored in weights.header(tmp_path / weights.WEIGHTS)] == ["a"]


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
    listed = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}]
    json_of("tokenizer_config.json", chat_template=listed, bos_token={"content": "<bos>", "lstrip": False})(folder)
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


def test_a_file_that_cannot_be_read_is_named(base, tmp_path, monkeypatch):
    folder = linked(base, tmp_path / "base")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").symlink_to("tokenizer_config.json")
    with pytest.raises(click.ClickException, match=r"tokenizer_config\.json"):
        folders.check(folder)
    monkeypatch.setattr(weights, "header", lambda file: (_ for _ in ()).throw(OSError(5, "Input/output error", "/disk/model.safetensors")))
    with pytest.raises(click.ClickException, match=r"/disk/model\.safetensors can't be read: Input/output error"):
        folders.check(base)


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
    sharded(folder, lambda places, shards: shards.pop(SECOND) and None)
    assert folders.at_hand("google/medgemma-4b-it") is None
    with pytest.raises(click.ClickException, match=r"lacks 1 of 2 weight files.*\n.*hf download google/medgemma-4b-it --revision 0123abcd"):
        folders.check(folder)


def test_a_broken_stage_names_the_command_that_makes_it(base, tmp_path):
    final = linked(base, tmp_path / "out" / paths.STAGES[1].folder / paths.FINAL)
    (final / weights.WEIGHTS).unlink()
    with pytest.raises(click.ClickException, match=f"make stage1 OUT={tmp_path}/out ARGS=--restart"):
        folders.check(final)
