"""Many cleaned texts measured at once in numpy: letters, words, repeated runs, one exact hash and one MinHash signature each.

A batch is joined into one array of code points; a table says of each whether it is Hangul, a letter, part of a word. Word
hashes, runs of words and their minima are then a few passes over arrays, where a Python loop would take 150 ns a word.
"""

import functools
from typing import NamedTuple

import numpy as np
import xxhash

from kmlite.refine.judging import SALES_OPENINGS, Counts

VERSION = 1  # of the hashes: raise it when one of them changes
SHINGLE = 3  # words; one word changed in 60 leaves a Jaccard similarity of 0.9
GROUPS, PERMUTATIONS, ROWS = 7, 16, 8
BANDS = GROUPS * PERMUTATIONS // ROWS
EXAM_RUN = 4  # words of the run that gates the search for exam questions
REPEATED_RUN = 5
SLOT_BITS = 17  # of a table of runs: four times as many slots as a batch has words

MIX, STEP = np.uint32(0x9E3779B1), np.uint32(0x01000193)
WORD, LETTER, HANGUL, KANA, BLANK, SALE = (1 << bit for bit in range(6))  # kinds of sign
CODES = 0x32000  # the planes that hold letters; what is above has the last entry of a table


@functools.cache
def kinds() -> np.ndarray:
    """(CODES + 1,) uint8: the kinds of each sign. SALE: a term of an advertisement may begin with it."""
    signs = [chr(code) for code in range(CODES)]
    word, decimal, blank = (np.fromiter(map(has, signs), dtype=bool, count=CODES) for has in (str.isalnum, str.isdecimal, str.isspace))
    out = np.append(word * WORD | (word & ~decimal) * LETTER | blank * BLANK, 0).astype(np.uint8)
    out[0xAC00:0xD7A4] |= HANGUL
    out[0x3040:0x3100] |= KANA
    out[[ord(opening[0]) for opening in SALES_OPENINGS]] |= SALE
    return out


@functools.cache
def mixed() -> np.ndarray:
    """(CODES + 1,) uint32: of a sign of a word the hash of its lower-case form, else zero."""
    lower = np.arange(CODES + 1, dtype=np.uint32)
    for code in np.flatnonzero(kinds() & LETTER).tolist():
        folded = chr(code).lower()
        if len(folded) == 1:
            lower[code] = ord("σ" if folded == "ς" else folded)
    return np.where(kinds() & WORD, scramble((lower + np.uint32(1)) * MIX), np.uint32(0))


@functools.cache
def sales() -> tuple[np.ndarray, np.ndarray]:
    """((CODES + 1,) bool: the second signs of an advertisement's terms; the first two of each as one number, in order)."""
    second = np.zeros(CODES + 1, dtype=bool)
    second[[ord(opening[1]) for opening in SALES_OPENINGS]] = True
    return second, np.unique([ord(opening[0]) << 32 | ord(opening[1]) for opening in SALES_OPENINGS])


@functools.cache
def powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """STEP**i and its inverse modulo 2**32, for i < n."""
    inverse = np.uint32(pow(int(STEP), -1, 2**32))
    up, down = (np.cumprod(np.concatenate([[np.uint32(1)], np.full(n - 1, base)]), dtype=np.uint32) for base in (STEP, inverse))
    return up, down


@functools.cache
def factors() -> np.ndarray:
    """GROUPS × PERMUTATIONS odd uint32: multiplying by one permutes the numbers below 2**32."""
    return np.random.default_rng(1).integers(1, 2**32, (GROUPS, PERMUTATIONS), dtype=np.uint32) | np.uint32(1)


def scramble(values: np.ndarray) -> np.ndarray:
    """A bijection on uint32 in which each bit of the result depends on all of the value (murmur3's last step)."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


class Batch(NamedTuple):
    """What is known of n texts with w words in all."""

    hangul: np.ndarray  # (n,) syllables
    kana: np.ndarray  # (n,)
    letters: np.ndarray  # (n,)
    words: np.ndarray  # (w,) uint32: a hash of each word in lower case, in order of the texts
    starts: np.ndarray  # (n + 1,): the words of text i are words[starts[i]:starts[i + 1]]
    tokens: np.ndarray  # (n,): what blanks hold apart and holds a letter or digit; `120/80` is one, of two words
    sales: np.ndarray  # (n,): places where a term of an advertisement may begin
    exact: np.ndarray  # (n,) uint64: equal for texts that differ in case, spacing and punctuation alone


def measure(texts: list[str]) -> Batch:
    """The counts and hashes of texts; a line end between them, so that no word crosses."""
    codes = np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le", "surrogatepass"), dtype=np.int32)
    kind = kinds().take(codes, mode="clip")
    ends = np.cumsum([len(text) + 1 for text in texts])
    hangul, kana, letters = (count((kind & bit) != 0, ends) for bit in (HANGUL, KANA, LETTER))

    word = (kind & WORD) != 0
    begins = word.copy()
    begins[1:] &= ~word[:-1]
    at = np.flatnonzero(begins)
    starts = np.concatenate([[0], np.searchsorted(at, ends)])
    signs = mixed().take(codes, mode="clip")
    words = word_hashes(signs, at)
    blanks = np.cumsum((kind & BLANK) != 0, dtype=np.int32)[at]
    parted = np.concatenate([[0], np.cumsum(np.diff(blanks, prepend=-1) > 0)])
    tokens = parted[starts[1:]] - parted[starts[:-1]]

    second, openings = sales()
    may = np.flatnonzero((kind & SALE) != 0)
    may = may[second.take(codes[may + 1], mode="clip")]
    may = may[np.isin(codes[may].astype(np.int64) << 32 | codes[may + 1], openings)]
    found = np.bincount(np.searchsorted(ends, may, side="right"), minlength=len(texts))
    signs = signs.take(np.flatnonzero(word))
    cuts = np.cumsum(count(word, ends)).tolist()
    exact = [xxhash.xxh3_64_intdigest(signs[start:end].data) for start, end in zip([0, *cuts], cuts, strict=False)]
    return Batch(hangul, kana, letters, words, starts, tokens, found, np.array(exact, dtype=np.uint64))


def count(marked: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(n,): how many are true in each stretch of a bool array that ends before `ends`."""
    return np.add.reduceat(marked, np.concatenate([[0], ends[:-1]]), dtype=np.int32)


def word_hashes(signs: np.ndarray, at: np.ndarray) -> np.ndarray:
    """One uint32 for each word, whose signs begin at `at`: a polynomial in its signs, whatever the place it stands in.

    What stands between words is zero in `signs` and adds nothing.
    """
    if not len(at):
        return np.empty(0, dtype=np.uint32)
    forward, backward = powers(1 << max(16, len(signs).bit_length()))
    sums = np.cumsum(signs * forward[: len(signs)], dtype=np.uint32)  # of all signs so far; reduceat takes longer on short words
    ends = np.append(at[1:], len(signs)) - 1
    return scramble((sums[ends] - np.where(at > 0, sums[at - 1], np.uint32(0))) * backward[at])


def runs(words: np.ndarray, size: int) -> np.ndarray:
    """One uint32 for each run of `size` words, dependent on their order; it is named by the place of its first word."""
    n = max(0, len(words) - size + 1)
    out = np.zeros(n, dtype=np.uint32)
    for i in range(size):
        out *= MIX
        out += words[i : i + n]
    return scramble(out)


def inside(batch: Batch, size: int, n: int) -> np.ndarray:
    """(n,) bool: whether the run of `size` words that begins there ends in the same text."""
    out = np.ones(n, dtype=bool)
    for shift in range(1, size):
        crossing = batch.starts[1:] - shift
        out[crossing[(crossing >= 0) & (crossing < n)]] = False
    return out


def repeated_words(batch: Batch) -> np.ndarray:
    """(n,): how many words stand in a run of five that stood before in the same text.

    Few runs are repeated, so what to sort is found first: runs that share a slot of a table with another.
    """
    hashes = runs(batch.words, REPEATED_RUN)
    text = np.repeat(np.arange(len(batch.exact), dtype=np.uint32), np.diff(batch.starts))
    places = np.flatnonzero(inside(batch, REPEATED_RUN, len(hashes)))
    slots = (hashes + text[: len(hashes)] * STEP)[places] >> np.uint32(32 - SLOT_BITS)
    numbers = np.arange(len(slots), dtype=np.uint32)
    last = np.empty(1 << SLOT_BITS, dtype=np.uint32)
    last[slots] = numbers
    several = np.zeros(1 << SLOT_BITS, dtype=bool)
    several[slots[last[slots] != numbers]] = True
    places = places[several[slots]]
    keys = (text[places].astype(np.uint64) << np.uint64(32)) | hashes[places]
    order = np.argsort(keys, kind="stable")
    again = places[order[1:][keys[order[1:]] == keys[order[:-1]]]]
    covered = np.zeros(len(batch.words), dtype=bool)
    for shift in range(REPEATED_RUN):
        covered[again + shift] = True
    return np.bincount(text[covered], minlength=len(batch.exact))


def counts(batch: Batch) -> list[Counts]:
    """What `judging` asks of each text."""
    columns = (batch.hangul, batch.letters, batch.kana, batch.tokens, repeated_words(batch), batch.sales)
    return [Counts(*row) for row in zip(*(values.tolist() for values in columns), strict=True)]


def keys(batch: Batch) -> np.ndarray:
    """(n, 1 + BANDS) uint64: exact hash and signature of each text."""
    return np.column_stack([batch.exact, *signatures(batch)])


def signatures(batch: Batch) -> np.ndarray:
    """(BANDS, n) uint64: eight minima, a byte each, in every one.

    Runs of three words fall into seven groups by their hash, and each group has sixteen permutations of its own: a seventh of
    the work of 112 permutations over all runs, and no less exact (between MinHash and one-permutation hashing, Li 2012). The
    share of the 112 bytes that are equal estimates the Jaccard similarity. Two groups that are empty agree, which
    adds under 0.01 at 25 words. A text of one or two words has its exact hash for a signature.
    """
    n = len(batch.exact)
    hashes = runs(batch.words, SHINGLE)
    last = batch.starts[1:] - SHINGLE + 1  # where a text's runs end
    whole = inside(batch, SHINGLE, len(hashes))
    groups = ((hashes.astype(np.uint64) * np.uint64(GROUPS)) >> np.uint64(32)).astype(np.uint8)
    out = np.full((GROUPS, PERMUTATIONS, n), 255, dtype=np.uint8)
    for group in range(GROUPS):
        where = np.flatnonzero((groups == group) & whole)
        lo, hi = np.searchsorted(where, batch.starts[:-1]), np.searchsorted(where, last)
        filled = lo < hi
        if not filled.any():
            continue
        chosen, begin = hashes[where], lo[filled]
        product = np.empty_like(chosen)
        for permutation, factor in enumerate(factors()[group]):
            np.multiply(chosen, factor, out=product)
            out[group, permutation, filled] = np.minimum.reduceat(product, begin).astype(np.uint8)
    bands = np.ascontiguousarray(out.reshape(BANDS, ROWS, n).transpose(0, 2, 1)).view(np.uint64)[:, :, 0]
    short = np.diff(batch.starts) < SHINGLE
    bands[:, short] = batch.exact[short]
    return bands
