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
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from kmlite import paths
from kmlite.files import put_in_place, read_json, write_json
from kmlite.models.folders import copy_side_files
from kmlite.progress import progress

HANGUL = re.compile(r"▁?[가-힣]+").fullmatch
HANGUL_NO_SPACE = re.compile(r"[가-힣]+").fullmatch
ROWS = 64  # a matrix of a multiple of 64 rows is fast on tensor cores
STARTS = ("mean", "weighted", "rescaled", "fitted", "random")
MOST, FLAT_WINDOW, FLAT_SHARE = 20_000, 250, 0.0005  # "auto": 250 more tokens that save under 0.05% of the text are not worth it
WORTH = 0.05  # of the tokens of held-out text


class Merge(NamedTuple):
    """A new token: the two pieces it joins, and how often they stood side by side when it was chosen (tokens it saves)."""

    left: str
    right: str
    saved: int


def count_words(texts: Iterable[str], limit: int = 1_000_000) -> Counter:
    """How often each word with its leading ▁ stands in the texts; the `limit` most frequent ones."""
    words: Counter = Counter()
    for text in texts:
        words.update("▁" + word for word in text.split())
        if len(words) > 4 * limit:
            words = Counter(dict(words.most_common(2 * limit)))
    return Counter(dict(words.most_common(limit)))


def choose_merges(words: dict[str, int], tokenizer, count: int | str, min_count: int = 2) -> list[Merge]:
    """The `count` merges that continue the tokenizer's BPE on these words, most frequent pair first.

    Args:
        words: frequency of each word, with its leading ▁.
        tokenizer: a fast transformers tokenizer; splits each word as it does today.
        count: how many merges at the most; "auto" stops where more of them save next to nothing (see FLAT_SHARE).
        min_count: a pair that stands less often is not merged.

    Both sides of a merge are Hangul, the left one with or without the leading ▁. Equal counts are decided by the pair's
    text, so that the result does not depend on the order of the words.
    """
    most = MOST if count == "auto" else int(count)
    with progress("new tokens", most, "merges chosen") as done:
        return best_merges(words, tokenizer, most, min_count, count == "auto", done)


def best_merges(words: dict[str, int], tokenizer, most: int, min_count: int, until_flat: bool, done: Callable[[int], None]) -> list[Merge]:
    """The work of `choose_merges`; `done` is told how many are chosen."""
    known, added = set(tokenizer.get_vocab()), set(tokenizer.get_added_vocab())
    # Byte-fallback pieces (<0xEA>) never match HANGUL; neither do special tokens.
    listed = [(word, n) for word, n in sorted(words.items()) if re.search("[가-힣]", word)]
    encoded = tokenizer.backend_tokenizer.encode_batch([w.replace("▁", " ") for w, _ in listed], add_special_tokens=False)
    pieces = [e.tokens for e in encoded]
    del encoded
    frequency = [n for _, n in listed]
    total = sum(n * len(p) for n, p in zip(frequency, pieces, strict=True))

    pairs: Counter = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    whole, inner = {}, {}  # each piece is matched once: there are few of them and many words

    def fits(left: str, right: str) -> bool:
        # an added token is cut out before the BPE, which never sees it: a merge with it would not be reached
        if left not in whole:
            whole[left] = HANGUL(left) is not None and left not in added
        if right not in inner:
            inner[right] = HANGUL_NO_SPACE(right) is not None and right not in added
        return whole[left] and inner[right]

    for index, word in enumerate(pieces):
        for pair in pairwise(word):
            if fits(*pair):
                pairs[pair] += frequency[index]
                where[pair].add(index)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    merges: list[Merge] = []
    while heap and len(merges) < most:
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
        merges.append(Merge(pair[0], pair[1], -negative))
        done(len(merges))
        window = merges[-FLAT_WINDOW:]
        if until_flat and len(merges) % FLAT_WINDOW == 0 and sum(merge.saved for merge in window) < FLAT_SHARE * total:
            return merges[:-FLAT_WINDOW]
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


def extend_tokenizer(source: Path, target: Path, merges: list[Merge]) -> list[int]:
    """Write `source`'s tokenizer.json with `merges` appended to `target`; returns the new ids, in the order of the merges."""
    data = read_json(source / "tokenizer.json")
    model = data["model"]
    # A token outside the BPE's own vocab (MedGemma's image token) loses its id once the vocab grows past it: put it in.
    for added in data["added_tokens"]:
        model["vocab"].setdefault(added["content"], added["id"])
    first = max(model["vocab"].values()) + 1
    as_pairs = not model["merges"] or isinstance(model["merges"][0], list)
    for i, (left, right, _) in enumerate(merges):
        model["vocab"][left + right] = first + i
        model["merges"].append([left, right] if as_pairs else f"{left} {right}")
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return list(range(first, first + len(merges)))


def start_rows(old, tokenizer, merges: list[Merge], start: str):
    """Embedding rows of new tokens, float32 [merges, width], from the old matrix [rows, width].

    Args:
        start: "mean" of the rows of the pieces that the token replaces; "weighted" by the pieces' lengths in characters;
            "rescaled", the mean brought to the median norm of the old Hangul rows;
            "fitted", two matrices A and B with row(left + right) = A row(left) + B row(right), fitted by ridge
            regression to the Hangul tokens that the old BPE merged, plus the mean's remainder; "random", normal with
            the spread of the old rows, for comparison.
    """
    import torch

    rows = torch.empty(len(merges), old.shape[1])
    if start == "random":
        chance = torch.Generator().manual_seed(0)
        return torch.randn(rows.shape, generator=chance) * old.float().std()
    texts = [(merge.left + merge.right).replace("▁", " ") for merge in merges]
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    names = [tokenizer.convert_ids_to_tokens(ids) for ids in pieces]
    for i, ids in enumerate(pieces):
        found = old[ids].float()
        if start == "weighted":
            weights = torch.tensor([float(len(name)) for name in names[i]])
            rows[i] = (found * weights[:, None]).sum(0) / weights.sum()
        else:
            rows[i] = found.mean(0)
    vocab = tokenizer.get_vocab()
    if start == "rescaled":
        hangul = [id for name, id in vocab.items() if HANGUL(name)]
        return rows * old[hangul].float().norm(dim=1).median() / rows.norm(dim=1, keepdim=True)
    if start != "fitted" or not merges:
        return rows
    split = [pair for pair in old_merges(tokenizer) if HANGUL(pair[0]) and HANGUL_NO_SPACE(pair[1]) and all(p in vocab for p in pair)]
    if len(split) < 8:
        return rows  # nothing to fit to
    left, right = (torch.stack([old[vocab[pair[side]]].float() for pair in split]) for side in (0, 1))
    both = torch.stack([old[vocab[a + b]].float() for a, b in split])
    # What is fitted is the remainder over the mean, so that little data leaves the mean as it is.
    features = torch.cat([left, right], 1)
    remainder = both - (left + right) / 2
    ridge = features.pow(2).mean() * len(split) * 0.1 * torch.eye(features.shape[1])
    weights = torch.linalg.solve(features.T @ features + ridge, features.T @ remainder)
    known: dict = {}
    for i, merge in enumerate(merges):
        a, b = (known[name] if name in known else old[vocab[name]].float() for name in merge[:2])
        rows[i] = (a + b) / 2 + torch.cat([a, b]) @ weights
        known[merge.left + merge.right] = rows[i]
    return rows


def old_merges(tokenizer) -> list[tuple[str, str]]:
    """The merges of the tokenizer's BPE, in order of rank."""
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]


def extend_model(base: Path, target: Path, merges: list[Merge], tokenizer, start: str = "mean") -> list[int]:
    """Write the model folder `base` with new tokens to `target`; returns the new tokens' ids.

    Only the embedding matrix is rewritten: it grows, never shrinks, to a multiple of 64 rows; new rows start as
    `start_rows` says. Old rows and all other weights keep their bytes. The head is tied to it in every Gemma 3.
    tokenizer.model is left behind: it can't hold the new merges, and a converter that finds it would use it.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy_side_files(base, partial, without={"tokenizer.json", "tokenizer.model", "added_tokens.json", paths.RECORD})
    ids = extend_tokenizer(base, partial, merges)

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
        if ids:
            new[ids] = start_rows(old, tokenizer, merges, start).to(old.dtype)
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


def gain(before, after, texts: dict[str, list[str]], new_ids: list[int]) -> dict:
    """What the new tokens save on each kind of text, and which of them are used.

    Returns:
        {"by_text": {name: {"characters", "words", "tokens_before", "tokens_after", "saved" (share)}},
        "used_share": of the new tokens in these texts, "most_used": 50 of them with their counts}.
    """
    used: Counter = Counter()
    new = set(new_ids)
    by_text = {}
    for name, listed in texts.items():
        if not listed:
            continue
        old_counts = sum(map(len, before(listed, add_special_tokens=False)["input_ids"]))
        encoded = after(listed, add_special_tokens=False)["input_ids"]
        new_count = sum(map(len, encoded))
        used.update(id for ids in encoded for id in ids if id in new)
        by_text[name] = {
            "characters": sum(map(len, listed)),
            "words": sum(len(text.split()) for text in listed),
            "tokens_before": old_counts,
            "tokens_after": new_count,
            "saved": 1 - new_count / max(1, old_counts),
        }
    most = [[after.decode([id]).strip(), n] for id, n in used.most_common(50)]
    return {"by_text": by_text, "used_share": len(used) / max(1, len(new)), "most_used": most}
