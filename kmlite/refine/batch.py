"""Many cleaned texts measured at once in numpy: letters, words, repeated runs, one exact hash and one MinHash signature each.

A batch is joined into one array of code points; a table says of each whether it is Hangul, a letter, part of a word. Word
hashes, runs of words and their minima are then a few passes over arrays, where a Python loop would take 150 ns a word.
"""

import functools
from typing import NamedTuple

import numpy as np
import xxhash

VERSION = 1  # of the hashes: raise it when one of them changes
SHINGLE = 3  # words; one word changed in 60 leaves a Jaccard similarity of 0.9
GROUPS, PERMUTATIONS, ROWS = 7, 16, 8
BANDS = GROUPS * PERMUTATIONS // ROWS
EXAM_RUN = 4  # words of the run that gates the search for exam questions
REPEATED_RUN = 5

HANGUL, LETTER, KANA = (np.uint64(1 << bit) for bit in (0, 21, 42))
FIELD = np.uint64((1 << 21) - 1)  # so a text may have two million signs
CODES = 0x32000  # the table's size: the planes that hold letters; nothing above counts
MIX, STEP = np.uint32(0x9E3779B1), np.uint32(0x01000193)


@functools.cache
def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(is_word bool, counted uint64, mixed uint32), each of CODES + 1.

    `counted` has a one in bits 0, 21 and 42 for Hangul, a letter and kana, so that one sum counts all three; `mixed` is a hash
    of the lower-case form.
    """
    is_word = np.zeros(CODES + 1, dtype=bool)
    counted = np.zeros(CODES + 1, dtype=np.uint64)
    lower = np.arange(CODES + 1, dtype=np.uint32)
    for code in range(CODES):
        sign = chr(code)
        if sign.isalnum():
            is_word[code] = True
            counted[code] = 0 if sign.isdecimal() else LETTER
            folded = sign.lower()
            if len(folded) == 1:
                lower[code] = ord("σ" if folded == "ς" else folded)
    counted[0xAC00:0xD7A4] |= HANGUL
    counted[0x3040:0x3100] |= KANA
    return is_word, counted, scramble((lower + np.uint32(1)) * MIX)


@functools.cache
def powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """STEP**i and its inverse modulo 2**32, for i < n."""
    inverse = np.uint32(pow(int(STEP), -1, 2**32))
    return tuple(np.cumprod(np.concatenate([[np.uint32(1)], np.full(n - 1, base)]), dtype=np.uint32) for base in (STEP, inverse))


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
    exact: np.ndarray  # (n,) uint64: equal for texts that differ in case, spacing and punctuation alone


def measure(texts: list[str]) -> Batch:
    """The counts and hashes of texts; a line end between them, so that no word crosses."""
    table, counted_of, mixed_of = tables()
    joined = "\n".join([*texts, ""])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.int32)
    lengths = np.array([len(text) + 1 for text in texts])
    ends = np.cumsum(lengths)
    counted = np.add.reduceat(counted_of.take(codes, mode="clip"), ends - lengths)
    is_word = table.take(codes, mode="clip")
    places = np.flatnonzero(is_word)
    signs = mixed_of.take(codes[places], mode="clip")
    begins = np.ones(len(places), dtype=bool)
    begins[1:] = np.diff(places) > 1
    at = np.flatnonzero(begins)
    cuts = np.searchsorted(places, ends)
    exact = np.empty(len(texts), dtype=np.uint64)
    start = 0
    for i, end in enumerate(cuts.tolist()):
        exact[i] = xxhash.xxh3_64_intdigest(signs[start:end])
        start = end
    starts = np.concatenate([[0], np.searchsorted(at, cuts)])
    blanks = np.cumsum((codes == 32) | (codes == 10), dtype=np.int32)[places[at]]
    parted = np.concatenate([[0], np.cumsum(np.diff(blanks, prepend=-1) > 0)])
    tokens = parted[starts[1:]] - parted[starts[:-1]]
    hangul, letters, kana = ((counted >> np.uint64(bit)) & FIELD for bit in (0, 21, 42))
    return Batch(hangul, kana, letters, word_hashes(signs, at), starts, tokens, exact)


def word_hashes(signs: np.ndarray, at: np.ndarray) -> np.ndarray:
    """One uint32 for each word, whose signs begin at `at`: a polynomial in its signs, whatever the place it stands in."""
    if not len(at):
        return np.empty(0, dtype=np.uint32)
    forward, backward = powers(1 << max(16, len(signs).bit_length()))
    return scramble(np.add.reduceat(signs * forward[: len(signs)], at, dtype=np.uint32) * backward[at])


def runs(words: np.ndarray, size: int) -> np.ndarray:
    """One uint32 for each run of `size` words, dependent on their order; it is named by the place of its first word."""
    n = max(0, len(words) - size + 1)
    out = np.zeros(n, dtype=np.uint32)
    for i in range(size):
        out *= MIX
        out += words[i : i + n]
    return scramble(out)


def repeated_runs(batch: Batch) -> np.ndarray:
    """(n,): how many runs of five words stood before in the same text (of two texts that share one, neither counts it)."""
    hashes = runs(batch.words, REPEATED_RUN)
    text = np.repeat(np.arange(len(batch.exact), dtype=np.uint64), np.diff(batch.starts))[: len(hashes)]
    keys = (text << np.uint64(32)) | hashes
    inside = np.arange(len(hashes)) + REPEATED_RUN <= batch.starts[1:][text.astype(np.int64)]
    keys = np.sort(keys[inside])
    twice = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
    return np.bincount(twice.astype(np.int64), minlength=len(batch.exact))


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
    inside = np.ones(len(hashes), dtype=bool)
    for shift in range(1, SHINGLE):
        crossing = batch.starts[1:] - shift
        inside[crossing[(crossing >= 0) & (crossing < len(hashes))]] = False
    groups = ((hashes.astype(np.uint64) * np.uint64(GROUPS)) >> np.uint64(32)).astype(np.uint8)
    out = np.full((GROUPS, PERMUTATIONS, n), 255, dtype=np.uint8)
    for group in range(GROUPS):
        where = np.flatnonzero((groups == group) & inside)
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
