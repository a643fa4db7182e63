"""The weights of a model folder by their headers: which files they are in, and whether they are what the configuration asks for.

Neither torch nor transformers is imported: both must come after Unsloth, and a stage looks at its base before that.
"""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import click

from kmlite.files import named

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # what transformers reads, in this order
HEADER = 100_000_000  # bytes of a header at the most, as safetensors itself has it
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of a weight
LAYERS = 1000  # more than any model has: a configuration must not make us list millions of names

# What the classes take where config.json is silent (transformers 5.17, Gemma3TextConfig and SiglipVisionConfig).
TEXT = {"vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
TEXT |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_channels": 3, "image_size": 224, "patch_size": 16}

# Names that older versions stored, as transformers 5 reads them (conversion_mapping.py: llava, LlavaModel, CLIPVisionModel).
OLDER = [(r"^language_model\.lm_head\.", "lm_head."), (r"^language_model\.model\.", "language_model.")]
OLDER += [(r"^vision_tower\.vision_model\.", "vision_tower.")]
NOT_PARAMETERS = re.compile(r"\.(position_ids|rotary_emb\.inv_freq)$")  # buffers that old versions stored; computed anew

Shapes = dict[str, tuple[int, ...]]


class Stored(NamedTuple):
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    end: int


def check(folder: Path, config: dict, again: str) -> int:
    """Compare the headers of all weights with the class that config.json names; returns the rows of the embedding.

    Args:
        config: what config.json holds, of the type gemma3 or gemma3_text.
        again: the sentence that says how to get the folder anew.

    Raises:
        click.ClickException: files or tensors that are missing, unknown, stored twice, of another shape or type, or a head of its own.
    """
    multimodal = config["model_type"] == "gemma3"
    stored: dict[str, tuple[str, Stored]] = {}
    for name, tensor in headers(folder, again).items():
        if NOT_PARAMETERS.search(name):
            continue
        if tensor.dtype not in SIZES:
            raise click.ClickException(
                f"{tensor.file}: {name} is stored as {tensor.dtype}. kmlite trains over weights of 16 or 32 bits.\n"
                "  Take the model as its maker published it; kmlite quantises it while loading (--precision 4bit)."
            )
        known = plain_name(name, multimodal)
        if known in stored:
            raise click.ClickException(f"{folder} stores one tensor under two names, {stored[known][0]} and {name}.\n  {again}")
        stored[known] = name, tensor
    expected = shapes(config)
    head = stored.pop("lm_head.weight", None)
    missing, unknown = sorted(set(expected) - set(stored)), sorted(stored[name][0] for name in set(stored) - set(expected))
    if missing:
        others = f", and {len(unknown)} have names that the class does not know ({unknown[0]})" if unknown else ""
        raise click.ClickException(
            f"{folder} lacks {len(missing)} of {len(expected)} tensors: {', '.join(missing[:2])}{others}.\n"
            f"  They would be filled with random numbers. {again}"
        )
    if unknown:
        kind = "an adapter that was not merged" if any("lora_" in name for name in unknown) else "config.json describes another model"
        raise click.ClickException(
            f"{folder} holds {len(unknown)} tensors that its config.json has no place for ({unknown[0]}): {kind}.\n  {again}"
        )
    for name, (written, tensor) in stored.items():
        if tensor.shape != expected[name]:
            raise click.ClickException(
                f"{tensor.file}: {written} is {list(tensor.shape)}, config.json makes it {list(expected[name])}.\n"
                f"  Weights and config.json are of two models. {again}"
            )
    embedding = next(tensor for name, (_, tensor) in stored.items() if name.endswith("embed_tokens.weight"))
    if head and not same_bytes(embedding, head[1]):
        raise click.ClickException(
            f"{head[1].file}: {head[0]} is not the embedding matrix. In Gemma 3 the two are one, and kmlite trains them as one.\n"
            "  Take a model whose head is tied to its embedding."
        )
    return embedding.shape[0]


def files_of(folder: Path, again: str) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files that are loaded, and the index's {tensor: file} where they are several."""
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() and index.exists():
        raise click.ClickException(f"{folder} holds both {WEIGHTS} and {INDEX}, and loaders differ in which they read. Remove one.")
    if single.is_file():
        return [single], None
    if not index.exists():
        others = sorted(p.name for p in folder.glob("*.safetensors"))
        if others:
            raise click.ClickException(
                f"{folder} has {others[0]}, but neither {WEIGHTS} nor {INDEX}, by which it would be found.\n  {again}"
            )
        raise click.ClickException(f"{folder} has no .safetensors weights. Pickled weights are never loaded.\n  {again}")
    places = parsed(index, again).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise click.ClickException(f"{index} has no weight_map of tensors and files.\n  {again}")
    names = sorted(set(places.values()))
    if wrong := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise click.ClickException(f"{index} names {wrong[0]!r}, which is no .safetensors file of this folder.\n  {again}")
    if gone := [name for name in names if not (folder / name).is_file()]:
        raise click.ClickException(f"{folder} lacks {len(gone)} of {len(names)} weight files: {', '.join(gone[:3])}.\n  {again}")
    return [folder / name for name in names], places


def headers(folder: Path, again: str) -> dict[str, Stored]:
    """Every stored tensor by its name, from all files; each once, and where the index says."""
    files, places = files_of(folder, again)
    found: dict[str, Stored] = {}
    for file in files:
        for name, tensor in header(file, again).items():
            if name in found:
                raise click.ClickException(f"{name} is stored in both {found[name].file} and {file.name}.\n  {again}")
            found[name] = tensor
    for name, place in (places or {}).items():
        if name not in found or found[name].file.name != place:
            raise click.ClickException(f"{folder / INDEX} says that {name} is in {place}; it is not.\n  {again}")
    if places and (extra := set(found) - set(places)):
        raise click.ClickException(f"{folder / INDEX} does not name {min(extra)}, which {found[min(extra)].file.name} holds.\n  {again}")
    return found


def header(file: Path, again: str) -> dict[str, Stored]:
    """The tensors of one safetensors file, none of them read (its format: github.com/huggingface/safetensors)."""
    size = file.stat().st_size
    with named(file), open(file, "rb") as handle:
        start = handle.read(8)
        if kind := other_kind(start):
            raise click.ClickException(f"{file} is {kind}, not a safetensors file.\n  {again}")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(HEADER, size - 8):
            raise click.ClickException(f"{file} ({size:,} bytes) ends inside its header: an unfinished download or copy.\n  {again}")
        text = handle.read(length)
    try:
        tensors = {
            name: Stored(file, entry["dtype"], tuple(entry["shape"]), *(8 + length + int(at) for at in entry["data_offsets"]))
            for name, entry in json.loads(text).items()
            if name != "__metadata__"
        }
        whole = 8 + length + sum(tensor.end - tensor.start for tensor in tensors.values())
        right = all(t.end - t.start == math.prod(t.shape) * SIZES.get(t.dtype, 0) for t in tensors.values() if t.dtype in SIZES)
        last = max((tensor.end for tensor in tensors.values()), default=whole)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise click.ClickException(f"{file} has a damaged header.\n  {again}") from error
    if last > size:
        raise click.ClickException(f"{file} is cut short: {size:,} of {last:,} bytes are there.\n  {again}")
    if not right or whole != last or last != size:
        raise click.ClickException(f"{file} is damaged: its header does not fit its {size:,} bytes.\n  {again}")
    return tensors


def parsed(file: Path, again: str) -> dict:
    """A JSON file of a model folder, which must hold an object; a click error says what it is instead."""
    found = file.read_bytes()
    if kind := other_kind(found[:8]):
        raise click.ClickException(f"{file} is {kind}, not JSON.\n  {again}")
    try:
        value = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{file} is not valid JSON ({str(error)[:80]}).\n  {again}") from error
    if not isinstance(value, dict):
        raise click.ClickException(f"{file} holds a JSON {type(value).__name__}, an object is expected.\n  {again}")
    return value


def other_kind(start: bytes) -> str:
    """What a file is by its first bytes, where that is a frequent mistake; else an empty string."""
    if start.startswith(b"version "):
        return "a git-LFS pointer (the place of a file that was not fetched)"
    if start.startswith(b"GGUF"):
        return "a GGUF file"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return "a pickled file, which is never read"
    if start.lstrip().startswith(b"<"):
        return "a web page"
    return "" if start else "empty"


def plain_name(name: str, multimodal: bool) -> str:
    """A stored name as `shapes` has it: without `model.` before it, and of the present layout."""
    name = name.removeprefix("model.")
    for pattern, now in OLDER if multimodal else []:
        name = re.sub(pattern, now, name)
    return name


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
    """The name and shape of every parameter of the class but the tied head, by config.json alone.

    Held against the classes on torch's meta device by tests/models/test_weights.py.
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
    layer: Shapes = {}
    for name, out, into in (("q", queries, hidden), ("k", keys, hidden), ("v", keys, hidden), ("o", hidden, queries)):
        layer[f"self_attn.{name}_proj.weight"] = (out, into)
        if config.get("attention_bias"):
            layer[f"self_attn.{name}_proj.bias"] = (out,)
    layer |= {f"self_attn.{name}_norm.weight": (head,) for name in "qk"}
    layer |= {f"mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")} | {"mlp.down_proj.weight": (hidden, inner)}
    norms = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    layer |= {f"{name}.weight": (hidden,) for name in norms}
    layers = {f"layers.{n}.{name}": shape for n in range(has["num_hidden_layers"]) for name, shape in layer.items()}
    return {"embed_tokens.weight": (has["vocab_size"], hidden), "norm.weight": (hidden,)} | layers


def vision_shapes(config: dict) -> Shapes:
    """SiglipVisionModel; its pooling head, which Gemma 3 does not use, is there unless config.json says otherwise."""
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
    if config.get("vision_use_head", True):
        out |= {f"head.{name}": shape for name, shape in (both("layernorm", hidden) | mlp).items()}
        out |= {
            "head.probe": (1, 1, hidden),
            "head.attention.in_proj_weight": (3 * hidden, hidden),
            "head.attention.in_proj_bias": (3 * hidden,),
        }
        out |= {f"head.{name}": shape for name, shape in both("attention.out_proj", hidden, hidden).items()}
    return out


def same_bytes(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same bytes; 16 MiB of each are read at a time."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with open(one.file, "rb") as first, open(other.file, "rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.end - one.start
        while left:
            step = min(left, 16 << 20)
            if first.read(step) != second.read(step):
                return False
            left -= step
    return True
