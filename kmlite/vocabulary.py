"""Choose Korean tokens, append them to the BPE, and start their embedding rows.

Continued BPE (arXiv 2512.03989): new merges at the lowest rank, so that no string gets longer and text without the new
merges keeps its ids. `add_tokens` would match new words before the BPE and inside words: on real Korean it made 364 of 6,354
strings longer.
"""

import heapq
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from kmlite import paths
from kmlite.model import copy_side_files
from kmlite.runs import put_in_place, read_json, write_json

HANGUL = re.compile(r"^▁?[가-힣]+$")
HANGUL_NO_SPACE = re.compile(r"^[가-힣]+$")
ROWS = 64  # a matrix of a multiple of 64 rows is fast on tensor cores


def count_words(texts: Iterable[str], limit: int = 1_000_000) -> Counter:
    """How often each word with its leading ▁ stands in the texts; the `limit` most frequent ones."""
    words: Counter = Counter()
    for text in texts:
        words.update("▁" + word for word in text.split())
        if len(words) > 4 * limit:
            words = Counter(dict(words.most_common(2 * limit)))
    return Counter(dict(words.most_common(limit)))


def choose_merges(words: dict[str, int], tokenizer, count: int, min_count: int = 2) -> list[tuple[str, str]]:
    """The `count` merges that continue the tokenizer's BPE on these words, most frequent pair first.

    Args:
        words: frequency of each word, with its leading ▁.
        tokenizer: a fast transformers tokenizer; splits each word as it does today.
        count: how many merges at the most; fewer where no pair stands `min_count` times.

    Both sides of a merge are Hangul, the left one with or without the leading ▁. Equal counts are decided by the pair's
    text, so that the result does not depend on the order of the words.
    """
    known = set(tokenizer.get_vocab())
    # Byte-fallback pieces (<0xEA>) never match HANGUL; neither do special tokens.
    listed = [(word, n) for word, n in sorted(words.items()) if re.search("[가-힣]", word)]
    encoded = tokenizer.backend_tokenizer.encode_batch([w.replace("▁", " ") for w, _ in listed], add_special_tokens=False)
    pieces = [list(e.tokens) for e in encoded]
    frequency = [n for _, n in listed]

    pairs: Counter = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)

    def fits(left: str, right: str) -> bool:
        return bool(HANGUL.match(left) and HANGUL_NO_SPACE.match(right))

    for index, word in enumerate(pieces):
        for pair in pairwise(word):
            if fits(*pair):
                pairs[pair] += frequency[index]
                where[pair].add(index)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    while heap and len(merges) < count:
        negative, pair = heapq.heappop(heap)
        if pairs[pair] != -negative:  # an older count of this pair
            if pairs[pair] >= min_count:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        if -negative < min_count:
            break
        joined = pair[0] + pair[1]
        if joined in known:  # the old BPE has this piece by other merges and did not use it here
            pairs[pair] = 0
            continue
        known.add(joined)
        merges.append(pair)
        touched: set[tuple[str, str]] = set()
        for index in where.pop(pair):
            old, n = pieces[index], frequency[index]
            new = join(old, pair, joined)
            if len(new) == len(old):
                continue
            for before in pairwise(old):
                if fits(*before):
                    pairs[before] -= n
            for after in pairwise(new):
                if fits(*after):
                    pairs[after] += n
                    where[after].add(index)
                    touched.add(after)
            pieces[index] = new
        for other in touched:
            heapq.heappush(heap, (-pairs[other], other))
    return merges


def join(pieces: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    """`pieces` with each occurrence of the pair joined, from left to right."""
    out, i = [], 0
    while i < len(pieces):
        if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == pair:
            out.append(joined)
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return out


def extend_tokenizer(source: Path, target: Path, merges: list[tuple[str, str]]) -> list[int]:
    """Write `source`'s tokenizer.json with `merges` appended to `target`; returns the new ids, in the order of the merges."""
    data = read_json(source / "tokenizer.json")
    model = data["model"]
    # A token outside the BPE's own vocab (MedGemma's image token) loses its id once the vocab grows past it: put it in.
    for added in data["added_tokens"]:
        model["vocab"].setdefault(added["content"], added["id"])
    first = max(model["vocab"].values()) + 1
    as_pairs = not model["merges"] or isinstance(model["merges"][0], list)
    for i, (left, right) in enumerate(merges):
        model["vocab"][left + right] = first + i
        model["merges"].append([left, right] if as_pairs else f"{left} {right}")
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return list(range(first, first + len(merges)))


def extend_model(base: Path, target: Path, merges: list[tuple[str, str]], tokenizer) -> list[int]:
    """Write the model folder `base` with new tokens to `target`; returns the new tokens' ids.

    Only the embedding matrix is rewritten: it grows, never shrinks, to a multiple of 64 rows, and each new row starts as
    the mean of the rows of the pieces that the token replaces. Old rows and all other weights keep their bytes. The head
    is tied to it in every Gemma 3. tokenizer.model is left behind: it can't hold the new merges, and a converter that
    finds it would use it.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy_side_files(base, partial, without={"tokenizer.json", "tokenizer.model", "added_tokens.json", paths.RECORD})
    ids = extend_tokenizer(base, partial, merges)
    pieces = [tokenizer.encode((left + right).replace("▁", " "), add_special_tokens=False) for left, right in merges]

    for shard in sorted(base.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith("embed_tokens.weight") and "vision" not in name]  # noqa: SIM118
            if not names:
                shutil.copyfile(shard, partial / shard.name)
                continue
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        old = weights[names[0]]
        rows = max(len(old), -(-(ids[-1] + 1) // ROWS) * ROWS if ids else 0)
        new = torch.empty(rows, old.shape[1], dtype=old.dtype)
        new[: len(old)] = old
        new[len(old) :] = old.float().mean(0).to(old.dtype)  # rows that no token has: an average logit
        for row, parts in zip(ids, pieces, strict=True):
            new[row] = old[parts].float().mean(0).to(old.dtype)
        weights[names[0]] = new
        save_file(weights, partial / shard.name, metadata=metadata)
    for index in base.glob("*.safetensors.index.json"):
        shutil.copyfile(index, partial / index.name)

    config = read_json(base / "config.json")
    for part in (config, config.get("text_config", {})):
        if "vocab_size" in part or part is config.get("text_config"):
            part["vocab_size"] = rows
    write_json(partial / "config.json", config)
    put_in_place(partial, target)
    return ids


def tokens_per_character(tokenizer, texts: list[str]) -> float:
    tokens = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    return tokens / max(1, sum(map(len, texts)))
