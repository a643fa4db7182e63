"""From refined data to rows of token ids: plain text packed, questions and definitions as turns, options in a new order each epoch."""

import hashlib
import itertools
import random
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from kmlite import prompts
from kmlite.files import fingerprint
from kmlite.refine.leakage import exact_key

# ---- plain text, packed

VERSION = 3  # goes into the cache's fingerprint: raise it when `packed` changes
BATCH = 256  # texts tokenised at once; the fast tokenizer spreads them over all cores


def packed(tokenizer, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """Rows of exactly `length` ids without padding: each text as <bos> … <eos>, one behind the other.

    A row that goes on with a text starts with a <bos> of its own, since Gemma was never trained on a row without one.
    What does not fill a last row is left out (under `length` tokens).
    """
    row: list[int] = []
    bos, end = tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("<eos>")  # gemma-3-*-it's eos_token is <end_of_turn>
    texts = iter(texts)
    while chunk := list(islice(texts, BATCH)):
        for ids in prompts.text_ids(tokenizer, chunk):
            rest = [bos, *ids, end]
            while rest:
                if not row and rest[0] != bos:
                    row.append(bos)
                room = length - len(row)
                row, rest = row + rest[:room], rest[room:]
                if len(row) == length:
                    yield row
                    row = []


def positions(ids: list[int], bos: int) -> list[int]:
    """Position of each token in its own text: they begin anew at each <bos>, and attention then stays inside a text."""
    starts = itertools.accumulate((i if token == bos else 0 for i, token in enumerate(ids)), max)
    return [i - start for i, start in enumerate(starts)]


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


# ---- turns


def conversation_rows(tokenizer, pairs: list[tuple[str, str]], length: int) -> tuple[list[dict], int]:
    """({"input_ids", "labels", "record": place in `pairs`} rows, how many were longer than `length` and left out).

    A row that does not fit is left out, not cut: a cut answer would teach to stop in the middle of it.
    """
    rows = []
    for number, (prompt, answer) in enumerate(pairs):
        ids, labels = prompts.conversation_ids(tokenizer, prompt, answer)
        if len(ids) <= length:
            rows.append({"input_ids": ids, "labels": labels, "record": number})
    return rows, len(pairs) - len(rows)


def collate(rows: list[dict], tokenizer, multiple: int, apart: bool):
    """A batch padded on the right to the longest row; padding is neither seen nor counted in the loss.

    Rows of packed text carry no labels: every token counts but <bos>, which no text leads to. They need no padding, and
    where the backend keeps texts `apart` their positions begin anew with each text.

    Not the library's collator: that pads on the tokenizer's side, which Unsloth flips between training and generation.
    """
    import torch

    if "labels" not in rows[0]:
        ids = torch.tensor([row["input_ids"] for row in rows])
        labels = ids.masked_fill(ids == tokenizer.bos_token_id, prompts.IGNORED)
        if apart:
            at = torch.tensor([positions(row["input_ids"], tokenizer.bos_token_id) for row in rows])
            return {"input_ids": ids, "labels": labels, "position_ids": at}
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    longest = -(-max(len(row["input_ids"]) for row in rows) // multiple) * multiple

    def padded(listed: list[list[int]], filler: int):
        return torch.tensor([ids + [filler] * (longest - len(ids)) for ids in listed])

    ids, labels = [row["input_ids"] for row in rows], [row["labels"] for row in rows]
    mask = padded([[1] * len(row) for row in ids], 0)
    return {"input_ids": padded(ids, tokenizer.pad_token_id), "attention_mask": mask, "labels": padded(labels, prompts.IGNORED)}


# ---- exam questions

# A question whose words name letters, numbers or places would be wrong in another order.
NAMES_PLACES = re.compile(
    r"위\s*(?:의\s*)?(?:모두|보기|항목|사항)|모두\s*(?:해당|정답|맞|옳|아니)|정답\s*없음|해당\s*(?:사항\s*)?없음|[①-⑳㉠-㉭ㄱ-ㅎ]|<\s*보기\s*>|"
    r"(?<![A-Za-z가-힣])[가-마]\s*[,·]\s*[가-마](?![가-힣])|" + prompts.OPTION + prompts.JOINED + r"[A-E](?![A-Za-z])"
)


def names_places(question: dict) -> bool:
    """Whether the stem or an option names letters or positions (`위 모두`, `①`, `A와 B`)."""
    return any(NAMES_PLACES.search(question[key]) for key in ("question", *prompts.LETTERS))


def shuffled(question: dict, chance: random.Random) -> dict:
    """The question with its options in a new order; one that names letters or positions as it is."""
    if names_places(question):
        return question
    order = list(prompts.LETTERS)
    chance.shuffle(order)
    return reordered(question, "".join(order))


def reordered(question: dict, order: str) -> dict:
    """The question with the option that stood at order[i] at the i-th letter; the answer's letter and those in its reasoning go
    with the options."""
    now = dict(zip(order, prompts.LETTERS, strict=True))
    moved = {now[letter]: question[letter] for letter in prompts.LETTERS}
    out = {**question, **moved, "answer": now[question["answer"]]}
    if question.get("cot"):
        out["cot"] = relettered(question["cot"], now)
    return out


def relettered(text: str, now: dict[str, str]) -> str:
    """A reasoning with the letters that stand for options renamed."""
    return prompts.LETTER.sub(lambda found: now[found.group(1)], text)


def in_order(epochs: list[list[dict]], batch: int, seed: int | str) -> list[dict]:
    """The rows of all epochs in the order to train on: at random within an epoch, and rows of similar length side by side,
    so that a batch holds little padding."""
    chance = random.Random(seed)
    out: list[dict] = []
    for rows in epochs:
        rows = rows[:]
        chance.shuffle(rows)
        group = 50 * batch
        groups = [sorted(rows[i : i + group], key=lambda row: -len(row["input_ids"])) for i in range(0, len(rows), group)]
        batches = [part[i : i + batch] for part in groups for i in range(0, len(part), batch)]
        chance.shuffle(batches)
        out += [row for rows_of_batch in batches for row in rows_of_batch]
    return out


def without_leaks(questions: list[dict], *others: list[dict]) -> tuple[list[dict], int]:
    """(the questions that stand in none of the other splits, how many did); refine has set them aside where it made the data."""
    held = {exact_key(question) for split in others for question in split}
    kept = [question for question in questions if exact_key(question) not in held]
    return kept, len(questions) - len(kept)


def mixed(questions: list[dict], sources: str, shares: str, seed: int) -> list[dict]:
    """The questions in the proportion asked for, as many as there are of the scarcest, in their old order; a ValueError where there
    are not as many shares as sources, or a source has no question.

    `sources` are values of `origin` or `source`, apart by colons: "native:translated". A question without an origin is native.
    `shares` are as many whole numbers: "3:1" is three native ones for each translated. 0 leaves a source out.
    """
    names, parts = sources.split(":"), [int(share) for share in shares.split(":")]
    if len(names) != len(parts) or min(parts) < 0 or not any(parts):
        raise ValueError(f"{shares} is not a share for each of {sources}")
    found = {name: [i for i, q in enumerate(questions) if name in (q.get("origin", "native"), q.get("source"))] for name in names}
    if missing := [name for name, part in zip(names, parts, strict=True) if part and not found[name]]:
        raise ValueError(f"no question of {', '.join(missing)} among those of train")
    unit = min(len(found[name]) / part for name, part in zip(names, parts, strict=True) if part)
    chance = random.Random(seed)
    taken = {i for name, part in zip(names, parts, strict=True) for i in chance.sample(found[name], int(unit * part))}
    return [questions[i] for i in sorted(taken)]


def turns(questions: list[dict], share: float, seed: int | str) -> tuple[list[tuple[str, str]], int]:
    """(prompt, answer) of every question in the short form and, as `share` of all sequences, some with their reasoning.

    Reasonings are real or absent: they come from the data's `cot`; where there are too few of these from the model's own
    (`self_written`); and where these are too few as well the share is smaller. Which ones are drawn by the seed.
    """
    short = [(prompts.exam_prompt(q), prompts.exam_answer(q)) for q in questions]
    able = [q for q in questions if q.get("cot")]
    random.Random(seed).shuffle(able)
    able.sort(key=lambda q: bool(q.get("self_written")))
    chosen = able[: round(len(questions) * share / (1 - share)) if share < 1 else len(questions)]
    return short + [(prompts.exam_prompt(q, reasoned=True), prompts.exam_answer(q, reasoned=True)) for q in chosen], len(chosen)


def rows_of_loop(
    tokenizer, questions: list[dict], *, epochs: int, shuffle: bool, reasoned_share: float, length: int, batch: int, seed: str
) -> tuple[list[dict], dict]:
    """The rows of all epochs of a loop in order, each epoch with its own order of options and its own reasoned questions; and
    {"reasoned_rows": in an epoch, "left_out": of all epochs, longer than `length`}."""
    rows, left_out, reasoned = [], 0, 0
    for epoch in range(epochs):
        chance = random.Random(f"{seed} {epoch}")
        now = [shuffled(question, chance) for question in questions] if shuffle else questions
        pairs, reasoned = turns(now, reasoned_share, f"{seed} {epoch} reasoned")
        fitting, too_long = conversation_rows(tokenizer, pairs, length)
        rows.append(fitting)
        left_out += too_long
    return in_order(rows, batch, seed), {"reasoned_rows": reasoned, "left_out": left_out}
