"""Plain text to full rows of tokens: tokenised once, kept on disk, read back as a memory map."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from kmlite import prompts
from kmlite.files import fingerprint

VERSION = 3  # goes into the cache's fingerprint: raise it when `packed` changes
BATCH = 256  # texts tokenised at once; the fast tokenizer spreads them over all cores


def packed(tokenizer, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """Rows of exactly `length` ids without padding: each text as <bos> … <eos>, one behind the other.

    A row that goes on with a text starts with a <bos> of its own, since Gemma was never trained on a row without one.
    What does not fill a last row is left out (under `length` tokens).
    """
    row: list[int] = []
    end = tokenizer.convert_tokens_to_ids("<eos>")  # gemma-3-*-it's tokenizers call <end_of_turn> their eos_token
    texts = iter(texts)
    while chunk := list(islice(texts, BATCH)):
        for ids in prompts.text_ids(tokenizer, chunk):
            rest = [tokenizer.bos_token_id, *ids, end]
            start = 0
            while start < len(rest):
                if not row and rest[start] != tokenizer.bos_token_id:
                    row.append(tokenizer.bos_token_id)
                taken = min(length - len(row), len(rest) - start)
                row += rest[start : start + taken]
                start += taken
                if len(row) == length:
                    yield row
                    row = []


def positions(ids: list[int], bos: int) -> list[int]:
    """Position of each token in its own text: they begin anew at each <bos>, and attention then stays inside a text."""
    out, start = [], 0
    for i, token in enumerate(ids):
        if token == bos:
            start = i
        out.append(i - start)
    return out


def tokenised(shards: list[Path], tokenizer, length: int, cache: Path):
    """The packed rows of refined text as a memory-mapped Dataset of {"input_ids": int32[length], "record": number of the row}.

    Built streaming, a batch of texts at a time, and kept below `cache` under a fingerprint of text, tokenizer and length;
    an older one is dropped. Raises click.ClickException where the text does not fill one row.
    """
    from datasets import Dataset, Features, List, Value
    from datasets.utils.logging import disable_progress_bar

    from kmlite.records import read_texts

    disable_progress_bar()
    key = f"{VERSION} {length} {fingerprint(*shards)} {tokenizer.backend_tokenizer.to_str()}"
    folder = cache / hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    if cache.exists():
        for other in cache.iterdir():
            if other != folder:
                shutil.rmtree(other)

    def rows(shards: list[Path]) -> Iterator[dict]:
        for number, ids in enumerate(packed(tokenizer, read_texts(shards), length)):
            yield {"input_ids": ids, "record": number}

    if not folder.exists() and next(rows(shards), None) is None:  # `datasets` would fail on it in words of its own
        raise click.ClickException(f"the text does not fill one row of {length} tokens. Add text, or lower --length.")
    features = Features({"input_ids": List(Value("int32")), "record": Value("int64")})
    try:
        return Dataset.from_generator(rows, gen_kwargs={"shards": shards}, cache_dir=str(folder), features=features, fingerprint="packed")
    except Exception as error:
        # `datasets` wraps what a generator raised
        raise error.__cause__ if isinstance(error.__cause__, click.ClickException | OSError) else error from None


def with_replay(data, replay, share: float, seed: int):
    """`data` with as many rows of `replay` as make `share` of all, drawn by the seed (repeated where there are too few)."""
    from datasets import concatenate_datasets

    wanted = round(len(data) * share / (1 - share))
    chosen = [replay.shuffle(seed=seed)] * (wanted // len(replay))
    chosen.append(replay.shuffle(seed=seed + 1).select(range(wanted % len(replay))))
    return concatenate_datasets([data, *chosen])


def keeps_texts_apart(model, tokenizer) -> bool:
    """Whether attention stays inside a text of a packed row on this backend: measured, not assumed.

    Two rows hold the same second text behind different first ones. Where positions begin anew with a text, its logits must be the
    same in both, up to a tenth of what the first text changes where they don't (8-bit rounds a row as a whole).
    """
    import torch

    from kmlite.models.loading import computing, for_training

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    second = [bos, *tokenizer("환자의 혈압이 높다", add_special_tokens=False)["input_ids"]]
    firsts = [(tokenizer(words, add_special_tokens=False)["input_ids"] * 4)[:8] for words in ("하늘이 맑다", "약을 먹는다")]
    rows = [[bos, *first, eos, *second] for first in firsts]
    model.eval()

    def gap(where) -> float:
        logits = []
        for row in rows:
            ids, at = (torch.tensor([values], device=model.device) for values in (row, where(row)))
            with torch.no_grad(), computing(model):
                logits.append(model(input_ids=ids, position_ids=at, use_cache=False).logits[0, -len(second) :].float())
        return float((logits[0] - logits[1]).pow(2).mean().sqrt())

    apart, together = gap(lambda row: positions(row, bos)), gap(lambda row: list(range(len(row))))
    for_training(model, tokenizer)
    return apart < 0.1 * together
