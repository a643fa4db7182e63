"""The weights of a model folder by their headers: which files they are in, and whether they are what the configuration asks for.

Transformers is not imported: it must come after Unsloth, and a stage looks at its base before that.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import click

from kmlite.files import named

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # what transformers reads, in this order
FLOATS = ("F64", "F32", "F16", "BF16")
LAYERS = 1000  # more than any model has: a configuration must not make us list millions of names

# What the classes take where config.json is silent (transformers 5.17, Gemma3TextConfig and SiglipVisionConfig).
TEXT = {"vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
TEXT |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_channels": 3, "image_size": 224, "patch_size": 16}

# Names that older versions stored, as transformers 5 reads them (conversion_mapping.py: llava, LlavaModel, CLIPVisionModel).
OLDER = [(r"^language_model\.lm_head\.", "lm_head."), (r"^language_model\.model\.", "language_model.")]
OLDER += [(r"^vision_tower\.vision_model\.", "vision_tower.")]
# buffers that old versions stored, computed anew; and the tower's pooling head, which Gemma 3 does not use
NOT_NEEDED = re.compile(r"\.(position_ids|rotary_emb\.inv_freq)$|(^|\.)vision_tower\.(vision_model\.)?head\.")

KINDS = {
    b"version ": "a git-LFS pointer (the place of a file that was not fetched)",
    b"GGUF": "a GGUF file",
    **dict.fromkeys((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04"), "a pickled file, which is never read"),
    b"<": "a web page",
}

Shapes = dict[str, tuple[int, ...]]


class Stored(NamedTuple):
    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def check(folder: Path, config: dict) -> int:
    """Compare the headers of all weights with the class that config.json names; returns the rows of the embedding. A click error names
    files or tensors that are missing, unknown, stored twice, of another shape or type, or a head of its own."""
    stored: dict[str, Stored] = {}
    for tensor in headers(folder):
        if NOT_NEEDED.search(tensor.name):
            continue
        if tensor.dtype not in FLOATS:
            raise click.ClickException(
                f"{tensor.file}: {tensor.name} is stored as {tensor.dtype}. kmlite trains over weights of 16 or 32 bits.\n"
                "  Take the model as its maker published it; kmlite quantises it while loading (--precision 4bit)."
            )
        known = tensor.name.removeprefix("model.")  # as `shapes` has it
        for pattern, now in OLDER if config["model_type"] == "gemma3" else []:
            known = re.sub(pattern, now, known)
        if known in stored:
            raise click.ClickException(f"{folder} stores one tensor under two names, {stored[known].name} and {tensor.name}.")
        stored[known] = tensor
    expected = shapes(config)
    head = stored.pop("lm_head.weight", None)
    missing = sorted(expected.keys() - stored.keys())
    unknown = sorted(stored[name].name for name in stored.keys() - expected.keys())
    if missing:
        others = f", and {len(unknown)} have names that the class does not know ({unknown[0]})" if unknown else ""
        what = f"{folder} lacks {len(missing)} of {len(expected)} tensors: {', '.join(missing[:2])}{others}."
        raise click.ClickException(f"{what} They would be filled with random numbers.")
    if unknown:
        kind = "an adapter that was not merged" if any("lora_" in name for name in unknown) else "config.json describes another model"
        raise click.ClickException(f"{folder} holds {len(unknown)} tensors that its config.json has no place for ({unknown[0]}): {kind}.")
    for name, (file, written, _, shape) in stored.items():
        if shape != expected[name]:
            raise click.ClickException(f"{file}: {written} is {list(shape)}, config.json makes it {list(expected[name])}: of two models.")
    embedding = next(tensor for name, tensor in stored.items() if name.endswith("embed_tokens.weight"))
    if head and not equal(embedding, head):
        raise click.ClickException(
            f"{head.file}: {head.name} is not the embedding matrix. In Gemma 3 the two are one, and kmlite trains them as one.\n"
            "  Take a model whose head is tied to its embedding."
        )
    return embedding.shape[0]


def files_of(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files that are loaded, and the index's {tensor: file} where they are several."""
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() and index.exists():
        raise click.ClickException(f"{folder} holds both {WEIGHTS} and {INDEX}, and loaders differ in which they read.\n  Remove one.")
    if single.is_file():
        return [single], None
    if not index.exists():
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        found = f"has {others[0]}, but neither {WEIGHTS} nor {INDEX}" if others else "has no .safetensors weights"
        raise click.ClickException(f"{folder} {found}. Pickled weights are never loaded.")
    places = parsed(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise click.ClickException(f"{index} has no weight_map of tensors and files.")
    names = sorted(set(places.values()))
    if wrong := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise click.ClickException(f"{index} names {wrong[0]!r}, which is no .safetensors file of this folder.")
    if gone := [name for name in names if not (folder / name).is_file()]:
        raise click.ClickException(f"{folder} lacks {len(gone)} of {len(names)} weight files: {', '.join(gone[:3])}.")
    return [folder / name for name in names], places


def headers(folder: Path) -> list[Stored]:
    """Every stored tensor, from all files; each once, and where the index says."""
    files, places = files_of(folder)
    found: dict[str, Stored] = {}
    for tensor in (tensor for file in files for tensor in header(file)):
        if tensor.name in found:
            raise click.ClickException(f"{tensor.name} is stored in both {found[tensor.name].file} and {tensor.file.name}.")
        found[tensor.name] = tensor
    held = {name: tensor.file.name for name, tensor in found.items()}
    listed = held if places is None else places
    for name in sorted(held.keys() | listed.keys()):
        if listed.get(name) != held.get(name):
            raise click.ClickException(
                f"{folder / INDEX} has {name} in {listed.get(name, 'no file')}, and it is in {held.get(name, 'none')}."
            )
    return list(found.values())


def header(file: Path) -> list[Stored]:
    """The tensors of one safetensors file, none of them read. The library checks that they fit each other and the file's size."""
    from safetensors import SafetensorError, safe_open

    with named(file), open(file, "rb") as handle:
        start = handle.read(8)
    if not start.endswith(bytes(4)) and (kind := other_kind(start)):  # a header's length takes the first four bytes at the most
        raise click.ClickException(f"{file} is {kind}, not a safetensors file.")
    try:
        with safe_open(file, framework="np") as opened:
            tensors = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return [Stored(file, name, tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in tensors.items()]
    except SafetensorError as error:
        size, why = file.stat().st_size, str(error).rpartition("header: ")[2][:100]
        raise click.ClickException(f"{file} ({size:,} bytes) is cut short or damaged: {why}.") from error


def parsed(file: Path) -> dict:
    """A JSON file of a model folder, which must hold an object; a click error says what it is instead."""
    found = file.read_bytes()
    if kind := other_kind(found[:8]):
        raise click.ClickException(f"{file} is {kind}, not JSON.")
    try:
        value = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{file} is not valid JSON ({str(error)[:80]}).") from error
    if not isinstance(value, dict):
        raise click.ClickException(f"{file} holds a JSON {type(value).__name__}, an object is expected.")
    return value


def other_kind(start: bytes) -> str:
    """What a file is by its first bytes, where that is a frequent mistake; else an empty string."""
    return next((kind for begin, kind in KINDS.items() if start.lstrip().startswith(begin)), "" if start else "empty")


def numbers(config: dict, defaults: dict[str, int], where: str) -> dict[str, int]:
    """The sizes that a part of config.json names, with the class's own for the others."""
    found = {name: config.get(name, value) for name, value in defaults.items()}
    for name, value in found.items():
        if type(value) is not int or value < 1 or (name == "num_hidden_layers" and value > LAYERS):
            raise click.ClickException(
                f"{where} says {name}={value!r}; a number from 1 is expected. Take config.json as its maker published it."
            )
    return found


def shapes(config: dict) -> Shapes:
    """The name and shape of every parameter of the class but the tied head and what is not needed, by config.json alone.

    Held against the classes on torch's meta device by tests/models/test_folders.py.
    """
    if config["model_type"] == "gemma3_text":
        return text_shapes(config)
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    width, depth = (numbers(*part)["hidden_size"] for part in ((text, TEXT, "text_config"), (vision, VISION, "vision_config")))
    return {
        **{f"language_model.{name}": shape for name, shape in text_shapes(text).items()},
        **{f"vision_tower.{name}": shape for name, shape in vision_shapes(vision).items()},
        "multi_modal_projector.mm_input_projection_weight": (depth, width),
        "multi_modal_projector.mm_soft_emb_norm.weight": (depth,),
    }


def text_shapes(config: dict) -> Shapes:
    """Gemma3TextModel."""
    has = numbers(config, TEXT, "config.json")
    hidden, inner, head = has["hidden_size"], has["intermediate_size"], has["head_dim"]
    queries, keys = has["num_attention_heads"] * head, has["num_key_value_heads"] * head
    attention: Shapes = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    layer: Shapes = {f"self_attn.{name}_proj.weight": shape for name, shape in attention.items()}
    if config.get("attention_bias"):
        layer |= {f"self_attn.{name}_proj.bias": shape[:1] for name, shape in attention.items()}
    layer |= {f"self_attn.{name}_norm.weight": (head,) for name in "qk"}
    layer |= {f"mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")} | {"mlp.down_proj.weight": (hidden, inner)}
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    layer |= {f"{name}_layernorm.weight": (hidden,) for name in norms}
    layers = {f"layers.{n}.{name}": shape for n in range(has["num_hidden_layers"]) for name, shape in layer.items()}
    return {"embed_tokens.weight": (has["vocab_size"], hidden), "norm.weight": (hidden,)} | layers


def vision_shapes(config: dict) -> Shapes:
    """SiglipVisionModel without its pooling head."""
    has = numbers(config, VISION, "vision_config")
    hidden, inner, patch = has["hidden_size"], has["intermediate_size"], has["patch_size"]

    def both(name: str, *shape: int) -> Shapes:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    mlp = both("mlp.fc1", inner, hidden) | both("mlp.fc2", hidden, inner)
    layer = both("layer_norm1", hidden) | both("layer_norm2", hidden) | mlp
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer |= both(f"self_attn.{name}", hidden, hidden)
    out = both("embeddings.patch_embedding", hidden, has["num_channels"], patch, patch) | both("post_layernorm", hidden)
    out["embeddings.position_embedding.weight"] = ((has["image_size"] // patch) ** 2, hidden)
    out |= {f"encoder.layers.{n}.{name}": shape for n in range(has["num_hidden_layers"]) for name, shape in layer.items()}
    return out


def equal(*tensors: Stored) -> bool:
    """Whether two tensors hold the same numbers; they are mapped, not read into memory."""
    from safetensors import safe_open

    one, other = (safe_open(tensor.file, framework="pt").get_tensor(tensor.name) for tensor in tensors)
    return one.dtype == other.dtype and one.equal(other)
