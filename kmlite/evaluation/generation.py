"""What a model makes of text: bits per character, turns in batches."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from kmlite import prompts
from kmlite.models.loading import computing, for_inference, free, on_gpu
from kmlite.models.new_rows import head_of, states_for_logits
from kmlite.progress import progress
from kmlite.training.loss import tiled_is_faster, token_losses

# Tokens in one forward pass. The logits of a 262k vocabulary are what fills a small card: 1,024 of them are 1 GiB in float32.
TOKENS_A_PASS = 1024
MOST_AT_ONCE = {"cuda": 64, "cpu": 32}  # prompts; a batch waits for its slowest row
THOUGHT_MOST = 2048  # tokens of a model's thoughts before its answer
SETTLED_LATEST = 64  # tokens among which a first line may settle an answer; later ones are not looked through at each step


def batches(model, tokenizer, rows: list[tuple[list[int], list[int]]]) -> Iterator[tuple]:
    """(indices, {"input_ids", "attention_mask", "labels"}) of batches of (ids, labels) rows of similar length, padded on the right."""
    import torch

    pad = tokenizer.pad_token_id
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    multiple = 64 if on_gpu() else 1  # few shapes, so that few kernels are compiled
    with progress("measuring", len(rows), "sequences") as done:
        while order:
            fits = next((n for n in range(1, len(order)) if (n + 1) * len(rows[order[n]][0]) > TOKENS_A_PASS), len(order))
            chosen, order = order[:fits], order[fits:]
            batch = [rows[k] for k in chosen]
            longest = -(-len(batch[-1][0]) // multiple) * multiple
            ids = [row + [pad] * (longest - len(row)) for row, _ in batch]
            mask = [[1] * len(row) + [0] * (longest - len(row)) for row, _ in batch]
            labels = [row + [prompts.IGNORED] * (longest - len(row)) for _, row in batch]
            named = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            yield chosen, {name: torch.tensor(values, device=model.device) for name, values in named.items()}
            done(len(rows) - len(order))


def total_loss(model, tokenizer, rows: list[tuple[list[int], list[int]]]) -> float:
    """The summed loss in nats of rows of (ids, labels), in batches of similar length."""
    import torch

    if tiled_is_faster(head_of(model)[0]):
        return sum(row_losses(model, tokenizer, rows))
    for_inference(model, tokenizer)
    total = 0.0
    for _, batch in batches(model, tokenizer, rows):
        targets = int((batch["labels"][:, 1:] != prompts.IGNORED).sum())
        if targets:
            with torch.no_grad(), computing(model):
                loss = model(**batch, use_cache=False).loss
            total += number(float(loss), model) * targets
    return total


def number(loss: float, model) -> float:
    """`loss`, or a click error where it is NaN or infinite: no training has such a model's fault yet, and none would cure it."""
    if not math.isfinite(loss):
        raise click.ClickException(
            f"{model.config._name_or_path or 'the model'} answers plain text with a loss of {loss}: its weights hold NaN or infinity,\n"
            "  or overflow in this precision. Training can't fix that: fetch the base again, or try ARGS='--precision 16bit'."
        )
    return loss


def row_losses(model, tokenizer, rows: list[tuple[list[int], list[int]]]) -> list[float]:
    """The summed loss in nats of each row of (ids, labels) by itself, in batches of similar length."""
    import torch

    for_inference(model, tokenizer)
    head = head_of(model)
    tiled = tiled_is_faster(head[0])
    out = [0.0] * len(rows)
    for chosen, batch in batches(model, tokenizer, rows):
        targets = batch.pop("labels")[:, 1:]
        counted = targets != prompts.IGNORED
        places = counted.any(0).nonzero().squeeze(-1)  # logits of a large vocabulary fill a card
        with torch.no_grad(), computing(model), states_for_logits(model) if tiled else nullcontext():
            found = model(**batch, logits_to_keep=places, use_cache=False).logits.float()
            targets, counted = targets[:, places], counted[:, places]
            losses = torch.zeros(targets.shape, device=found.device)
            if tiled:
                losses[counted] = token_losses(found[counted], targets[counted], *head)
            else:
                losses = torch.nn.functional.cross_entropy(found.transpose(1, 2), targets, ignore_index=prompts.IGNORED, reduction="none")
        for i, loss in zip(chosen, losses.sum(-1).tolist(), strict=True):
            out[i] = number(loss, model)
    return out


def bits_per_character(model, tokenizer, texts: list[str], length: int) -> float | None:
    """Bits per character of plain texts, comparable between tokenizers where perplexity is not; None where there is no character.

    Texts longer than `length` tokens are measured in windows, each with its own <bos>. The <eos> behind a text is not counted.
    """
    rows = []
    for ids in prompts.text_ids(tokenizer, texts):
        for start in range(0, len(ids), length - 1):
            window = ids[start : start + length - 1]
            rows.append(([tokenizer.bos_token_id, *window], [prompts.IGNORED, *window]))
    return total_loss(model, tokenizer, rows) / math.log(2) / sum(map(len, texts)) if any(texts) else None


def answer_bits(model, tokenizer, pairs: list[tuple[str, str]], length: int) -> float | None:
    """Bits per character of the answers in (prompt, answer) pairs, <end_of_turn> included, of those that fit `length` tokens; None if
    none does."""
    encoded = [(prompts.conversation_ids(tokenizer, prompt, answer), len(answer)) for prompt, answer in pairs]
    fitting = [(row, characters) for row, characters in encoded if len(row[0]) <= length]
    characters = sum(n for _, n in fitting)
    return total_loss(model, tokenizer, [row for row, _ in fitting]) / math.log(2) / characters if characters else None


def left_padded(
    heads: list[list[int]],
    pad: int,
    batch: int,
    device,
    work: Callable[[list[int], Any, Any], None],
    what: str = "answering",
    least: float = 0,
) -> None:
    """Call `work(indices, ids, attention mask)` for batches of prompts of similar length, padded on the left.

    The longest come first, so that a batch too large for the memory fails at once: it is halved and tried again. Each prompt has at least
    the share `least` of its batch's longest: with 0.75 the prompts of 24 exam questions are 1.08 times their tokens instead of 2.6.
    """
    import torch

    order = sorted(range(len(heads)), key=lambda i: -len(heads[i]))
    with progress(what, len(heads), "prompts") as done:
        while order:
            longest = len(heads[order[0]])
            chosen = [i for i in order[:batch] if len(heads[i]) >= least * longest]
            ids = [[pad] * (longest - len(heads[i])) + heads[i] for i in chosen]
            mask = [[0] * (longest - len(heads[i])) + [1] * len(heads[i]) for i in chosen]
            try:
                work(chosen, torch.tensor(ids, device=device), torch.tensor(mask, device=device))
            except torch.OutOfMemoryError:
                if len(chosen) == 1:
                    raise
                batch = len(chosen) // 2
            else:
                order = order[len(chosen) :]
                done(len(heads) - len(order))
                continue
            free()  # only here, outside the handler, is what the failed batch held let go


def generate(
    model, tokenizer, asked: list[str], *, max_new_tokens: int, batch: int, settled: Callable[[str], bool] | None = None
) -> list[str]:
    """The model's greedy turn for each prompt, with the special token that ended it; `settled` as of `continued_ids`."""
    heads = [prompts.conversation_ids(tokenizer, prompt)[0] for prompt in asked]
    return continued(model, tokenizer, heads, max_new_tokens=max_new_tokens, batch=batch, settled=settled)


def continued(model, tokenizer, heads: list[list[int]], **how) -> list[str]:
    """What the model writes as its turn behind each of `heads`, token ids; `how` as of `continued_ids`."""
    return [tokenizer.decode(turn) for turn in continued_ids(model, tokenizer, heads, ends=prompts.stop_ids(tokenizer), **how)]


def continued_ids(
    model,
    tokenizer,
    heads: list[list[int]],
    *,
    max_new_tokens: int,
    batch: int,
    ends: list[int],
    settled: Callable[[str], bool] | None = None,
    temperature: float = 0,
) -> list[list[int]]:
    """The ids that the model continues each of `heads` with, up to and with one of `ends`, without padding; greedily, or sampled at
    a temperature above 0.

    Args:
        max_new_tokens: of what is no thought (`prompts.THINKS`); a thought may take THOUGHT_MOST beside them.
        settled: ends a row whose text it is true of: what would stand behind it is worth no time.
    """
    import torch

    for_inference(model, tokenizer)
    pad, thinks = tokenizer.pad_token_id, prompts.thought_ids(tokenizer)
    how = writing(tokenizer, max_new_tokens + (THOUGHT_MOST if thinks else 0), temperature)
    how |= {"eos_token_id": ends, "top_p": None, "top_k": None}
    out: list[list[int]] = [[]] * len(heads)

    def work(chosen: list[int], ids, mask) -> None:
        stops = [until(tokenizer, ids.shape, max_new_tokens, thinks, settled)]
        with torch.no_grad(), computing(model):
            turns = model.generate(input_ids=ids, attention_mask=mask, stopping_criteria=stops, **how)
        for i, turn in zip(chosen, turns[:, ids.shape[1] :].tolist(), strict=True):
            out[i] = [token for token in turn if token != pad]

    left_padded(heads, pad, batch, model.device, work)
    return out


def writing(tokenizer, tokens: int, temperature: float = 0) -> dict:
    """What `generate` is called with: the likeliest token each time, or above a temperature of 0 drawn, with top-k and top-p as the
    model's own generation_config.json gives them; its static cache alone is not taken."""
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    how: dict = {"do_sample": True, "temperature": temperature} if temperature else greedy
    ends = {"eos_token_id": prompts.stop_ids(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return {**how, **ends, "max_new_tokens": tokens, "cache_implementation": None}


def until(tokenizer, shape, most: int, thinks: list[int], settled: Callable[[str], bool] | None) -> Callable:
    """A stopping criterion for a batch of prompts of `shape`: a row ends with `most` tokens outside of thoughts (`thinks`: the ids that
    begin and end one, or none), or as it is settled."""
    import torch

    rows, width = shape
    inside, written = [False] * rows, [0] * rows

    def ended(so_far, scores, **_):
        done = []
        for row, token in enumerate(so_far[:, -1].tolist()):
            if token in thinks:
                inside[row] = token == thinks[0]
            else:
                written[row] += not inside[row]
            full = written[row] >= most
            short = settled and not inside[row] and not full and so_far.shape[1] - width <= SETTLED_LATEST
            done.append(full or bool(short and settled and settled(tokenizer.decode(so_far[row, width:]))))
        return torch.tensor(done, device=so_far.device)

    return ended


def default_batch(model=None, tokens: int = 0) -> int:
    """Prompts answered at once: as many of `tokens` (prompt and answer) as two thirds of the free memory hold, at most
    MOST_AT_ONCE. Without a model 8 beside a GPU, which fit beside a 4-bit model on an 8 GB card."""
    most = MOST_AT_ONCE["cuda" if on_gpu() else "cpu"]
    if model is None:
        return 8 if on_gpu() else most
    return max(1, min(most, int(free_memory() * 2 / 3 / row_bytes(model, tokens))))


def row_bytes(model, tokens: int) -> int:
    """Memory that one sequence takes while it is written, calculated high: its keys and values in all layers, one layer's
    activations over the whole prompt, its attention scores in float32, and three copies of a token's logits."""
    shape = model.config.get_text_config()
    size = 4 if model.dtype.itemsize == 4 else 2
    keys_and_values = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * size
    activations = (8 * shape.hidden_size + 3 * shape.intermediate_size) * size
    return tokens * (keys_and_values + activations) + 4 * shape.num_attention_heads * tokens * tokens + 12 * shape.vocab_size


def free_memory() -> int:
    """Bytes that the card, or without one the machine, has to give."""
    if on_gpu():
        import torch

        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except OSError:  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
