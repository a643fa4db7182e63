"""What a model makes of text: bits per character, turns in batches."""

import math
from collections.abc import Iterator

from kmlite import prompts
from kmlite.model import for_inference, on_gpu

# Tokens in one forward pass. The logits of a 262k vocabulary are what fills a small card: 1,024 of them are 1 GiB in float32.
TOKENS_A_PASS = 1024


def batches(model, tokenizer, rows: list[tuple[list[int], list[int]]]) -> Iterator[tuple]:
    """(indices, {"input_ids", "attention_mask", "labels"}) of batches of (ids, labels) rows of similar length, padded on the right."""
    import torch

    pad = tokenizer.pad_token_id
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    chosen: list[int] = []
    for position, i in enumerate(order):
        chosen.append(i)
        following = order[position + 1] if position + 1 < len(order) else None
        if following is not None and (len(chosen) + 1) * len(rows[following][0]) <= TOKENS_A_PASS:
            continue
        batch = [rows[k] for k in chosen]
        multiple = 64 if on_gpu() else 1  # few shapes, so that few kernels are compiled
        longest = -(-max(len(ids) for ids, _ in batch) // multiple) * multiple
        ids = [row + [pad] * (longest - len(row)) for row, _ in batch]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row, _ in batch]
        labels = [row + [prompts.IGNORED] * (longest - len(row)) for _, row in batch]
        named = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        yield chosen, {name: torch.tensor(values, device=model.device) for name, values in named.items()}
        chosen = []


def total_loss(model, tokenizer, rows: list[tuple[list[int], list[int]]]) -> float:
    """The summed loss in nats of rows of (ids, labels), in batches of similar length."""
    import torch

    for_inference(model, tokenizer)
    total = 0.0
    for _, batch in batches(model, tokenizer, rows):
        targets = int((batch["labels"][:, 1:] != prompts.IGNORED).sum())
        if targets:
            with torch.no_grad():
                loss = model(**batch, use_cache=False).loss
            total += float(loss) * targets
    return total


def row_losses(model, tokenizer, rows: list[tuple[list[int], list[int]]]) -> list[float]:
    """The summed loss in nats of each row of (ids, labels) by itself, in batches of similar length."""
    import torch

    for_inference(model, tokenizer)
    out = [0.0] * len(rows)
    for chosen, batch in batches(model, tokenizer, rows):
        targets = batch.pop("labels")[:, 1:]
        places = (targets != prompts.IGNORED).any(0).nonzero().squeeze(-1)  # logits of a large vocabulary fill a card
        with torch.no_grad():
            logits = model(**batch, logits_to_keep=places, use_cache=False).logits.float()
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), targets[:, places], ignore_index=prompts.IGNORED, reduction="none"
            )
        for i, loss in zip(chosen, losses.sum(-1).tolist(), strict=True):
            out[i] = loss
    return out


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


def default_batch() -> int:
    """Prompts generated at once: 8 fit beside a 4-bit model on an 8 GB card; a CPU gains up to 32."""
    return 8 if on_gpu() else 32
