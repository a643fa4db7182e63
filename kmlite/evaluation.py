"""What a model makes of text: bits per character, greedy turns in batches, recall of definitions."""

import math
from collections import Counter
from collections.abc import Iterator

from kmlite import prompts
from kmlite.model import for_inference, on_gpu

# Tokens in one forward pass. The logits of a 262k vocabulary are what fills a small card: 1,024 of them are 1 GiB in float32.
TOKENS_A_PASS = 1024


def total_loss(model, tokenizer, rows: list[tuple[list[int], list[int]]]) -> float:
    """The summed loss in nats of rows of (ids, labels), in batches of similar length."""
    import torch

    for_inference(model, tokenizer)
    pad = tokenizer.pad_token_id
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    total, batch = 0.0, []
    for position, i in enumerate(order):
        batch.append(rows[i])
        following = order[position + 1] if position + 1 < len(order) else None
        if following is not None and (len(batch) + 1) * len(rows[following][0]) <= TOKENS_A_PASS:
            continue
        multiple = 64 if on_gpu() else 1  # few shapes, so that few kernels are compiled
        longest = -(-max(len(ids) for ids, _ in batch) // multiple) * multiple
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in batch], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in batch], device=model.device)
        labels = torch.tensor([row + [prompts.IGNORED] * (longest - len(row)) for _, row in batch], device=model.device)
        targets = int((labels[:, 1:] != prompts.IGNORED).sum())
        if targets:
            with torch.no_grad():
                loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            total += float(loss) * targets
        batch = []
    return total


def bits_per_character(model, tokenizer, texts: list[str], length: int) -> float:
    """Bits per character of plain texts, comparable between tokenizers where perplexity is not.

    Texts longer than `length` tokens are measured in windows, each with its own <bos>. Counts every token of the text and
    not the <eos> behind it.
    """
    rows = []
    room = length - 1
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), room):
            window = [tokenizer.bos_token_id, *ids[start : start + room]]
            rows.append((window, [prompts.IGNORED, *window[1:]]))
    return total_loss(model, tokenizer, rows) / math.log(2) / sum(map(len, texts))


def answer_bits(model, tokenizer, pairs: list[tuple[str, str]], length: int) -> float:
    """Bits per character of the answers in (prompt, answer) pairs, <end_of_turn> included; too long ones are left out."""
    rows, characters = [], 0
    for prompt, answer in pairs:
        ids, labels = prompts.conversation_ids(tokenizer, prompt, answer)
        if len(ids) <= length:
            rows.append((ids, labels))
            characters += len(answer)
    return total_loss(model, tokenizer, rows) / math.log(2) / max(1, characters)


def left_padded(heads: list[list[int]], pad: int, batch: int, device) -> Iterator[tuple]:
    """(indices, ids, attention mask) of batches of prompts of similar length, padded on the left; the longest first, so that
    a batch too large for the memory fails at once."""
    import torch

    order = sorted(range(len(heads)), key=lambda i: -len(heads[i]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(heads[i]) for i in chosen)
        ids = [[pad] * (longest - len(heads[i])) + heads[i] for i in chosen]
        mask = [[0] * (longest - len(heads[i])) + [1] * len(heads[i]) for i in chosen]
        yield chosen, torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def generate(model, tokenizer, asked: list[str], *, max_new_tokens: int, batch: int) -> list[str]:
    """The model's greedy turn for each prompt, in batches of similar length padded on the left.

    Special tokens stay in the text, so that a reader sees where a turn ended; padding is cut off.
    """
    heads = [prompts.conversation_ids(tokenizer, prompt)[0] for prompt in asked]
    return continued(model, tokenizer, heads, max_new_tokens=max_new_tokens, batch=batch)


def continued(model, tokenizer, heads: list[list[int]], *, max_new_tokens: int, batch: int, temperature: float = 0) -> list[str]:
    """What the model writes behind each of `heads`, token ids: greedily, or sampled at a temperature above 0."""
    import torch

    for_inference(model, tokenizer)
    how = {"do_sample": temperature > 0, "temperature": temperature or None}
    pad, stops = tokenizer.pad_token_id, prompts.stop_ids(tokenizer)
    out = [""] * len(heads)
    for chosen, ids, mask in left_padded(heads, pad, batch, model.device):
        with torch.no_grad():
            turns = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                **how,
                top_p=None,
                top_k=None,
                eos_token_id=stops,
                pad_token_id=pad,
                cache_implementation=None,  # not the static one of Gemma's generation_config
            )
        for i, turn in zip(chosen, turns[:, ids.shape[1] :].tolist(), strict=True):
            out[i] = tokenizer.decode([token for token in turn if token != pad])
    return out


def character_f1(found: str, expected: str) -> float:
    """Overlap of the characters of two strings as F1, order disregarded: 0 to 1."""
    a, b = Counter("".join(found.split())), Counter("".join(expected.split()))
    shared = sum((a & b).values())
    return 2 * shared / max(1, sum(a.values()) + sum(b.values()))


def definition_recall(model, tokenizer, entries: list[dict], *, batch: int, max_new_tokens: int = 128) -> float:
    """Mean character F1 of the definitions that the model writes for the terms of `entries`."""
    asked = [prompts.dictionary_prompt(entry["term"]) for entry in entries]
    turns = generate(model, tokenizer, asked, max_new_tokens=max_new_tokens, batch=batch)
    scores = [character_f1(prompts.ENDS.split(turn)[0], entry["definition"]) for turn, entry in zip(turns, entries, strict=True)]
    return sum(scores) / max(1, len(scores))


def default_batch() -> int:
    """Prompts generated at once: 8 fit beside a 4-bit model on an 8 GB card; a CPU gains up to 32."""
    return 8 if on_gpu() else 32
