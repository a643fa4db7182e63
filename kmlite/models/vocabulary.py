"""Choose Korean tokens, append them to the BPE, and start their embedding rows.

Continued BPE (arXiv 2512.03989): new merges at the lowest rank, so that no string gets longer and text without the new
merges keeps its ids. `add_tokens` would match new words before the BPE and inside words: on real Korean it made 364 of 6,354
strings longer.
"""

import functools
import heapq
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from kmlite import paths
from kmlite.files import put_in_place, read_json, write_json, write_text
from kmlite.models.folders import copy_side_files
from kmlite.progress import progress

HANGUL = re.compile(r"▁?[가-힣]+").fullmatch
HANGUL_NO_SPACE = re.compile(r"[가-힣]+").fullmatch
ROWS = 64  # a matrix of a multiple of 64 rows is fast on tensor cores

# --new-tokens auto. What was measured and published; docs/evidence.md says how.
MOST, LEAST = 20_000, 250
FLAT_WINDOW, FLAT_SHARE = 250, 0.0005  # 250 more tokens that save under 0.05% of the words' tokens are not worth it
WORTH = 0.05  # least share of tokens saved, of held-out text or of exam questions: that is all that new tokens bring
RISE = 0.25  # of bits per character right after extension: exam questions, 5,000 fitted rows on gemma-3-270m (Korean text: 12%)
# Tokens of text that a new row needs where the rise is RISE. Published: 2 B tokens for 8,960 rows (EEVE, arXiv 2402.14714), 220,000 a
# row; under hundreds of millions plain continued pretraining is often stronger (arXiv 2406.11477). Measured on gemma-3-270m (benchmarks/
# real.py): 1,000 trained rows and a LoRA cost 5.0% more Korean bits than plain pretraining at the start, 4.4% after 8 tokens of text a
# row; 1,000 fitted rows alone 12.2% at the start and 10.5% after 65. So far less text does not win them back.
TOKENS_PER_ROW = 200_000


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


def weighted_words(texts: Iterable[str], domain: Iterable[str], share: float) -> dict[str, int]:
    """Words of the texts with their counts, those of `domain` counted so often that they make `share` of all.

    Measured on gemma-3-270m, 16 MB of general text against 3,398 exam questions: 1,000 merges make held-out text 10.2% and dev
    questions 1.0% shorter with a share of 0, 8.3% and 9.3% with 0.25, 6.0% and 12.2% with 0.5, 2.6% and 13.6% with 0.75.
    """
    words, special = count_words(texts), count_words(domain)
    if special and share:
        factor = share / (1 - share) * sum(words.values()) / sum(special.values())
        for word, n in special.items():
            words[word] += round(n * factor)
    return words


def affordable(tokens: float) -> tuple[int, str]:
    """As many new tokens as `tokens` tokens of training text can teach, before anything is measured, and the sum that says so; 0 where
    that is under LEAST."""
    rows = min(MOST, int(tokens / TOKENS_PER_ROW))
    because = f"{tokens / 1e6:,.1f} million tokens of text / {TOKENS_PER_ROW:,} a new row = {tokens / TOKENS_PER_ROW:,.0f} rows"
    if rows < LEAST:
        return 0, f"{because}, fewer than {LEAST}: none are added"
    return rows, f"{because}: at most {rows:,}"


def worth_it(count: int, tokens: float, found: dict[str, tuple[float, float]]) -> tuple[bool, str]:
    """Whether `count` new tokens that were chosen and measured stay, with `tokens` tokens of training text, and the sum that says so;
    `found`: kind of text → (share of its tokens saved, rise of its bits per character right after extension, as a share)."""
    saves = ", ".join(f"{saved:.1%} of {name}" for name, (saved, _) in found.items())
    if max((saved for saved, _ in found.values()), default=0.0) < WORTH:
        return False, f"{count:,} would save {saves}, less than {WORTH:.0%} of either: none are added"
    rise = max(rise for _, rise in found.values())
    has, needs = tokens / max(1, count), TOKENS_PER_ROW * max(0.0, rise) / RISE
    because = f"{count:,} save {saves}; {has:,.0f} tokens of text each, {needs:,.0f} needed after a rise of {rise:.1%}"
    return has >= needs, because if has >= needs else because + ": none are added"


def warning(count: int, tokens: float) -> str | None:
    """What a number of new tokens that was asked for will cost by the measurement; None where the text can teach them."""
    if not count or tokens / count >= TOKENS_PER_ROW:
        return None
    return (
        f"{tokens / count:,.0f} tokens of text for each of {count:,} new tokens; about {TOKENS_PER_ROW:,} are needed.\n"
        "  On gemma-3-270m 5,000 raised bits per character by 12% on text and 26% on exam questions, which little text does not win back.\n"
        "  --new-tokens auto adds as many as the text can teach."
    )


def choose_merges(words: dict[str, int], tokenizer, count: int, min_count: int = 2, flat: bool = False) -> list[Merge]:
    """The `count` merges that continue the tokenizer's BPE on these words, most frequent pair first.

    `words` are frequencies of words with their leading ▁; `flat` stops earlier, where more merges save next to nothing (FLAT_SHARE).
    Equal counts are decided by the pair's text, so that the result does not depend on the order of the words.
    """
    known, fitting = set(tokenizer.get_vocab()), pairs_to_join(set(tokenizer.get_added_vocab()))
    listed = [(word, n) for word, n in sorted(words.items()) if re.search("[가-힣]", word)]
    written, frequency = [word.replace("▁", " ") for word, _ in listed], [n for _, n in listed]
    pieces = [encoded.tokens for encoded in tokenizer.backend_tokenizer.encode_batch(written, add_special_tokens=False)]
    total = sum(n * len(p) for n, p in zip(frequency, pieces, strict=True))

    pairs: Counter = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    for index, word in enumerate(pieces):
        for pair in fitting(word):
            pairs[pair] += frequency[index]
            where[pair].add(index)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    merges: list[Merge] = []
    with progress("new tokens", count, "merges chosen") as done:
        while heap and len(merges) < count:
            negative, pair = heapq.heappop(heap)
            joined = pair[0] + pair[1]
            if joined in known or pairs[pair] < min_count:  # the old BPE has such a piece by other merges and did not use it here
                continue
            if pairs[pair] != -negative:  # an older count of this pair
                heapq.heappush(heap, (-pairs[pair], pair))
                continue
            known.add(joined)
            merges.append(Merge(pair[0], pair[1], -negative))
            done(len(merges))
            if flat and len(merges) % FLAT_WINDOW == 0 and sum(merge.saved for merge in merges[-FLAT_WINDOW:]) < FLAT_SHARE * total:
                return merges[:-FLAT_WINDOW]
            touched: set[tuple[str, str]] = set()
            for index in where.pop(pair):
                old, n = pieces[index], frequency[index]
                new = pieces[index] = join(old, pair, joined)
                for before in fitting(old):
                    pairs[before] -= n
                for after in fitting(new):
                    pairs[after] += n
                    where[after].add(index)
                    touched.add(after)
            for other in touched:
                heapq.heappush(heap, (-pairs[other], other))
    return merges


def pairs_to_join(added: set[str]) -> Callable[[list[str]], Iterator[tuple[str, str]]]:
    """A function that gives the neighbours in a word that may be merged: both Hangul, the left one with or without the leading ▁, and
    neither one of the `added` tokens, which are cut out before the BPE."""

    @functools.cache  # there are few pieces and many words
    def fits(piece: str, begins: bool) -> bool:
        # byte-fallback pieces (<0xEA>) and special tokens never match
        return (HANGUL if begins else HANGUL_NO_SPACE)(piece) is not None and piece not in added

    return lambda pieces: (pair for pair in pairwise(pieces) if fits(pair[0], True) and fits(pair[1], False))


def join(pieces: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    """`pieces` with each occurrence of the pair joined, from left to right."""
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] = joined
        else:
            out.append(piece)
    return out


def extend_tokenizer(data: dict, merges: list[Merge]) -> list[int]:
    """Append `merges` to what a tokenizer.json holds; returns the new ids, in the order of the merges."""
    model = data["model"]
    # A token outside the BPE's own vocab (MedGemma's image token) loses its id once the vocab grows past it: put it in.
    for added in data["added_tokens"]:
        model["vocab"].setdefault(added["content"], added["id"])
    ids = range(first := max(model["vocab"].values()) + 1, first + len(merges))
    as_pairs = not model["merges"] or isinstance(model["merges"][0], list)
    for id, (left, right, _) in zip(ids, merges, strict=True):
        model["vocab"][left + right] = id
        model["merges"].append([left, right] if as_pairs else f"{left} {right}")
    return list(ids)


def old_merges(tokenizer) -> list[tuple[str, str]]:
    """The merges of the tokenizer's BPE, in order of rank."""
    return [tuple(merge) for merge in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


def extend_model(base: Path, target: Path, merges: list[Merge], new_rows) -> list[int]:
    """Write the model folder `base` with new tokens to `target`; returns the new tokens' ids.

    Only the embedding matrix is rewritten: it grows, never shrinks, to a multiple of 64 rows; `new_rows` [merges, width] are those of
    the new tokens (kmlite/models/starts.py). Old rows and all other weights keep their bytes. The head is tied to it in every Gemma 3.
    tokenizer.model is left behind: it can't hold the new merges, and a converter that finds it would use it.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy_side_files(base, partial, without={"tokenizer.json", "tokenizer.model", "added_tokens.json", paths.RECORD})
    tokenizer = read_json(base / "tokenizer.json")
    ids = extend_tokenizer(tokenizer, merges)
    write_text(partial / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=False))

    for shard in sorted(base.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith("embed_tokens.weight") and "vision" not in name]  # noqa: SIM118
            weights = {name: file.get_tensor(name) for name in file.keys()} if names else {}  # noqa: SIM118
            metadata = file.metadata()
        if not names:
            shutil.copyfile(shard, partial / shard.name)
            continue
        old = weights[names[0]]
        rows = max(len(old), -(-(ids[-1] + 1) // ROWS) * ROWS if ids else 0)
        average = old.float().mean(0).to(old.dtype)  # for rows that no token has: an average logit
        new = weights[names[0]] = torch.cat([old, average.expand(rows - len(old), -1)])
        if ids:
            new[ids] = new_rows.to(old.dtype)
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
    """What the new tokens save on each kind of text, and which of them are used: {"by_text": {name: {"texts" (how many), "characters",
    "tokens_before", "tokens_after", "saved" (share)}}, "used_share": of the new tokens, "most_used": 50 of them with their counts}."""
    used, new = Counter[int](), set(new_ids)
    by_text: dict[str, dict] = {}
    for name, listed in texts.items():
        if not listed:
            continue
        encoded = [t(listed, add_special_tokens=False)["input_ids"] for t in (before, after)]
        counts = [sum(map(len, ids)) for ids in encoded]
        used.update(id for ids in encoded[1] for id in ids if id in new)
        by_text[name] = {"texts": len(listed), "characters": sum(map(len, listed))}
        by_text[name] |= {"tokens_before": counts[0], "tokens_after": counts[1], "saved": 1 - counts[1] / max(1, counts[0])}
    most = [[after.decode([id]).strip(), n] for id, n in used.most_common(50)]
    return {"by_text": by_text, "used_share": len(used) / max(1, len(new)), "most_used": most}
