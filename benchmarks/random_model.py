"""A model folder with random weights, built in a minute and without a download: for memory and speed, which do not ask what it knows."""

import json
from pathlib import Path

from kmlite import paths, prompts, records
from kmlite.files import put_in_place, read_json, write_json, write_text
from kmlite.models import merging, tiny

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": 56}
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
        SMALL,
        4,
    ),
    "tiny": (
        {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
        | {"intermediate_size": 1024, "vocab_size": 4096, "query_pre_attn_scalar": 64, "sliding_window": 256},
        SMALL,
        4,
    ),
}


def build(folder: Path, shape: str, refined: Path) -> None:
    """Write a Gemma3ForConditionalGeneration of SHAPES in bfloat16, with the embedded base's tokenizer filled up to its rows."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text, vision, image_tokens = SHAPES[shape]
    partial = folder.with_name(folder.name + ".partial")
    turns = [entry["definition"] for entry in records.read_dictionary(refined)]
    texts = [*records.read_texts(paths.text_shards(refined)), *turns, prompts.SHORT, prompts.REASONED, "user\nmodel\n"]
    tokens, last = tiny.write_tokenizer(partial, texts, 2000), text["vocab_size"] - 64  # the image token's id, MedGemma's 262144
    fill(partial / "tokenizer.json", last)
    ends = {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0}
    config = Gemma3Config(
        text_config={**text, **ends, "max_position_embeddings": 131_072, "tie_word_embeddings": True},
        vision_config={**vision, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=image_tokens,
        boi_token_index=tokens - 3,
        eoi_token_index=tokens - 2,
        image_token_index=last,
        eos_token_id=ends["eos_token_id"],
        tie_word_embeddings=True,
        dtype="bfloat16",
        kmlite=tiny.NAME,  # so that every record of it says that it is a stand-in
    )
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration._from_config(config).save_pretrained(partial, max_shard_size="2GB")
    merging.publish_names(partial)
    tiny.write_processor(partial)
    for name in ("preprocessor_config.json", "processor_config.json"):
        whole = read_json(partial / name)
        side = {"size": {"height": vision["image_size"], "width": vision["image_size"]}} if "size" in whole else {}
        write_json(partial / name, {**whole, **side, "image_seq_length": image_tokens})
    put_in_place(partial, folder)


def fill(path: Path, last: int) -> None:
    """Fill a tokenizer's vocabulary up to the id `last`, which the image token takes, as in MedGemma."""
    whole = read_json(path)
    vocab = whole["model"]["vocab"]
    vocab.update({f"<filler{i}>": i for i in range(len(vocab), last)})
    for token in whole["added_tokens"]:
        if token["content"] == tiny.IMAGE_SOFT:
            token["id"] = last
    write_text(path, json.dumps(whole, ensure_ascii=False))
