"""A model folder with random weights, built in seconds and without a download: for memory and speed, which do not ask what it knows."""

import json
from pathlib import Path

from kmlite import paths, prompts, records
from kmlite.files import put_in_place, write_json, write_text
from kmlite.models import memory, tiny

SHARD = 2 << 30  # bytes of a weights file: no more than that is held at once
# text tower, vision tower, tokens an image takes
SHAPES = {
    "medgemma": (  # google/medgemma-4b-it: Gemma 3 4B's configuration
        {"hidden_size": 2560, "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
        | {"intermediate_size": 10240, "vocab_size": 262_208, "query_pre_attn_scalar": 256, "sliding_window": 1024},
        {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304, "image_size": 896},
        256,
    ),
    "middle": (  # large enough that tensors outweigh what a plan can't know
        {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 256}
        | {"intermediate_size": 4096, "vocab_size": 65_536, "query_pre_attn_scalar": 256, "sliding_window": 512},
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 56},
        4,
    ),
    "tiny": (
        {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
        | {"intermediate_size": 1024, "vocab_size": 4096, "query_pre_attn_scalar": 64, "sliding_window": 256},
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 56},
        4,
    ),
}


def build(folder: Path, shape: str, refined: Path, seed: int = 0) -> None:
    """Write a Gemma3ForConditionalGeneration of SHAPES in bfloat16, with the embedded base's tokenizer filled up to its rows.

    Weights are drawn on the card where there is one, a file at a time, so that a card smaller than the model can hold them.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text, vision, image_tokens = SHAPES[shape]
    partial = folder.with_name(folder.name + ".partial")
    turns = [entry["definition"] for entry in records.read_dictionary(refined)]
    texts = [*records.read_texts(paths.text_shards(refined)), *turns, prompts.SHORT, prompts.REASONED, "user\nmodel\n"]
    tokens = tiny.write_tokenizer(partial, texts, 2000)
    last = text["vocab_size"] - 64  # the image token's id, MedGemma's 262144
    fill(partial / "tokenizer.json", last)
    layers = text["num_hidden_layers"]
    kinds = ["full_attention" if i % 6 == 5 or i == layers - 1 < 5 else "sliding_attention" for i in range(layers)]
    ends = {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0}
    config = Gemma3Config(
        text_config={**text, **ends, "layer_types": kinds, "max_position_embeddings": 131_072, "tie_word_embeddings": True},
        vision_config={**vision, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=image_tokens,
        boi_token_index=tokens - 3,
        eoi_token_index=tokens - 2,
        image_token_index=last,
        eos_token_id=ends["eos_token_id"],
        tie_word_embeddings=True,
        architectures=["Gemma3ForConditionalGeneration"],
        dtype="bfloat16",
        kmlite=tiny.NAME,  # so that every record of it says that it is a stand-in
    )
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chance = torch.Generator(device).manual_seed(seed)
    shard, size, index = {}, 0, {}

    def write() -> None:
        name = f"model-{len(set(index.values())) + 1:05d}.safetensors"
        save_file(shard, partial / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, name))
        shard.clear()

    total = 0
    for name, weight in model.named_parameters():
        if size and size + 2 * weight.numel() > SHARD:
            write()
            size = 0
        shard[name] = start(name, weight.shape, device, chance).cpu()
        size, total = size + 2 * weight.numel(), total + 2 * weight.numel()
    write()
    write_json(partial / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
    write_json(partial / "config.json", config.to_dict())
    write_json(partial / "generation_config.json", {**ends, "cache_implementation": "hybrid"})
    tiny.write_processor(partial)
    for name in ("preprocessor_config.json", "processor_config.json"):
        whole = json.loads((partial / name).read_text())
        side = {"size": {"height": vision["image_size"], "width": vision["image_size"]}} if "size" in whole else {}
        write_json(partial / name, {**whole, **side, "image_seq_length": image_tokens})
    if shape == "medgemma":
        assert memory.shape_of(partial) == memory.MEDGEMMA
    put_in_place(partial, folder)


def start(name: str, size, device: str, chance):
    """A weight as transformers would start it: norms at one (Gemma's add one themselves), biases at zero, the rest at random."""
    import torch

    if name.endswith("bias") or ("norm" in name and "vision_tower" not in name):
        return torch.zeros(size, dtype=torch.bfloat16, device=device)
    if "norm" in name:
        return torch.ones(size, dtype=torch.bfloat16, device=device)
    return torch.empty(size, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=chance)


def fill(path: Path, last: int) -> None:
    """Fill a tokenizer's vocabulary up to the id `last`, which the image token takes, as in MedGemma."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    vocab = whole["model"]["vocab"]
    vocab.update({f"<filler{i}>": i for i in range(len(vocab), last)})
    for token in whole["added_tokens"]:
        if token["content"] == tiny.IMAGE_SOFT:
            token["id"] = last
    write_text(path, json.dumps(whole, ensure_ascii=False))
