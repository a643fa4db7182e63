"""The embedded base: a model of MedGemma's exact class, small enough for a CPU. It carries the demo and the tests.

Gemma3ForConditionalGeneration with a SigLIP tower, tied embeddings, Gemma's special tokens at Gemma's ids, its chat template
and its byte-fallback BPE, and more embedding rows than tokens. It is built from a seed on the spot; its text weights
are warmed up for a minute so that a LoRA has something to adapt, and its tower stays random. It knows no medicine:
its figures say whether the steps work, nothing about MedGemma.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from kmlite import prompts
from kmlite.files import put_in_place, write_json, write_text
from kmlite.models.merging import publish_names
from kmlite.training import examples

NAME = "kmlite embedded base"
VERSION = 3  # raise it when what `build` makes changes
RESERVED = ["<mask>", "[multimodal]", *(f"<unused{i}>" for i in range(99))]  # added tokens, but not marked special: as in Gemma
TURN = ["<start_of_turn>", "<end_of_turn>"]  # 105 and 106, as in Gemma
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", *RESERVED, *TURN]
SPACES = ["\n", "\n\n", "▁▁"]  # added tokens that stand for text
IMAGE = ["<start_of_image>", "<end_of_image>"]
IMAGE_SOFT = "<image_soft_token>"  # the last id, outside the BPE's own vocabulary, as MedGemma's 262144

# The turn format of Gemma 3, as its model card gives it.
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {%- for item in message['content'] -%}
            {{ '<start_of_image>' if item['type'] == 'image' else item['text'] | trim }}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], pieces: int):
    """A `tokenizers.Tokenizer` in Gemma's shape whose BPE learned about `pieces` pieces from `texts`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    learner = Tokenizer(models.BPE(byte_fallback=True))
    learner.normalizer = normalizers.Replace(" ", "▁")
    # Gemma's merges never cross a word: learn with words apart, though the finished tokenizer reads a text whole
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split("\n", "isolated")])
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=pieces, show_progress=False))
    learned = json.loads(learner.to_str())["model"]

    tokens = [*SPECIAL, *SPACES, *(f"<0x{i:02X}>" for i in range(256))]
    tokens += sorted(set(learned["vocab"]) - set(tokens), key=learned["vocab"].get)
    vocab = {token: i for i, token in enumerate([*tokens, *IMAGE])}
    merges = [("\n", "\n"), ("▁", "▁"), *(tuple(merge) for merge in learned["merges"])]

    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)])
    ordinary = {*RESERVED, *SPACES}
    for token in [*SPECIAL, *SPACES, *IMAGE, IMAGE_SOFT]:
        tokenizer.add_tokens([AddedToken(token, special=token not in ordinary, normalized=False)])
    return tokenizer


def write_tokenizer(folder: Path, texts: Iterable[str], pieces: int) -> int:
    """Write the tokenizer's and the processor's files; returns the number of tokens."""
    tokenizer = train_tokenizer(texts, pieces)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    image = {"boi_token": IMAGE[0], "eoi_token": IMAGE[1], "image_token": IMAGE_SOFT}
    switches = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False}
    classes = {"processor_class": "Gemma3Processor", "tokenizer_class": "GemmaTokenizer"}
    write_json(folder / "tokenizer_config.json", {**named, **image, "extra_special_tokens": image, **switches, **classes})
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    return tokenizer.get_vocab_size()


def new_model(tokens: int, hidden: int, layers: int, text_only: bool, seed: int):
    """Random weights in float32; rows to a multiple of 64 above the number of tokens."""
    import torch
    from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Gemma3TextConfig

    torch.manual_seed(seed)
    text = {
        "vocab_size": -(-(tokens + 1) // 64) * 64,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 256,
        "layer_types": ["full_attention" if i % 6 == layers - 1 else "sliding_attention" for i in range(layers)],
        "max_position_embeddings": 4096,
        "eos_token_id": [1, 106],
    }
    if text_only:
        return Gemma3ForCausalLM(Gemma3TextConfig(**text))
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text,
        vision_config={**vision, "image_size": 56, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=tokens - 3,
        eoi_token_index=tokens - 2,
        image_token_index=tokens - 1,
        eos_token_id=[1, 106],
    )
    return Gemma3ForConditionalGeneration(config)


def write_processor(folder: Path) -> None:
    """The image side's files, written by hand: the classes behind them need torchvision, which a CPU lock leaves out."""
    kind = {"image_seq_length": 4, "processor_class": "Gemma3Processor"}
    image: dict = {"do_convert_rgb": None, "do_normalize": True, "do_pan_and_scan": None, "do_rescale": True, "do_resize": True, **kind}
    image |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "Gemma3ImageProcessor"}
    image |= {"resample": 2, "rescale_factor": 1 / 255, "size": {"height": 56, "width": 56}}
    write_json(folder / "preprocessor_config.json", dict(sorted(image.items())))
    write_json(folder / "processor_config.json", kind)


def warm_up(model, tokenizer, texts: list[str], turns: list[tuple[str, str]], steps: int, seed: int) -> float:
    """Full-parameter training of the text model on plain text and chat turns; returns the last loss.

    The turns teach the chat tokens: an <end_of_turn> never seen keeps a small random row that a LoRA can't lift. A step is 16 rows of
    128 tokens.
    """
    import torch

    rows = list(examples.packed(tokenizer, texts, 128))
    for turn in turns:
        ids, _ = prompts.conversation_ids(tokenizer, *turn)
        rows.append((ids + [tokenizer.pad_token_id] * 128)[:128])
    data = torch.tensor(rows)
    weights = [p for name, p in model.named_parameters() if "vision" not in name and "multi_modal" not in name]
    optimizer = torch.optim.AdamW(weights, lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    order = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        batch = data[torch.randint(len(data), (16,), generator=order)]
        labels = batch.masked_fill(batch == tokenizer.pad_token_id, prompts.IGNORED)
        result = model(input_ids=batch, attention_mask=(batch != tokenizer.pad_token_id).long(), labels=labels)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    return result.loss.item()


def build(
    folder: Path,
    texts: list[str],
    turns: list[tuple[str, str]],
    *,
    pieces: int = 2000,
    hidden: int = 128,
    layers: int = 4,
    steps: int = 300,
    text_only: bool = False,
    seed: int = 0,
) -> dict:
    """Build the embedded base and save it as an ordinary model folder of bfloat16 safetensors; 0 warm-up steps leave it random.

    `text_only`: Gemma3ForCausalLM, the class of gemma-3-1b and medgemma-27b-text, instead of the one with a tower.
    Returns {"parameters", "tokens", "rows", "warm_up_loss" (nats a token, None without warm-up)}.
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    partial = folder.with_name(folder.name + ".partial")
    tokens = write_tokenizer(
        partial, [*texts, *(said for turn in turns for said in turn), prompts.SHORT, prompts.REASONED, "user\nmodel\n"], pieces
    )
    tokenizer = AutoTokenizer.from_pretrained(partial)
    model = new_model(tokens, hidden, layers, text_only, seed)
    loss = warm_up(model, tokenizer, texts, turns, steps=steps, seed=seed) if steps else None
    # the name stands in config.json, so that every later record of this base says what it is
    model.config.kmlite = NAME
    model.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=[1, 106], pad_token_id=0, cache_implementation="hybrid")
    model.to(torch.bfloat16).save_pretrained(partial)
    if not text_only:
        write_processor(partial)
        publish_names(partial)
    put_in_place(partial, folder)
    count = sum(p.numel() for p in model.parameters())
    return {"parameters": count, "tokens": tokens, "rows": model.get_input_embeddings().num_embeddings, "warm_up_loss": loss}
