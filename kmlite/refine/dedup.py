"""Duplicates: exact by hash, near ones by MinHash; and texts that hold an exam question.

The first text in input order is kept. Held in memory per kept text: one exact hash and 14 band hashes, about 2 kB.
"""

import re

import numpy as np
import xxhash

WORDS = 3  # a shingle; one word changed in 60 leaves a Jaccard similarity of 0.9
BANDS, ROWS = 14, 8  # finds 89% of the pairs at a similarity of 0.8 and all at 0.9 (measured)
ALIKE = 0.8
NORMAL = re.compile(r"[\W_]+")


class Duplicates:
    """What has been kept so far. `reason(text)` says what a new text repeats, or remembers it."""

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self.factors = random.integers(1, 2**32, BANDS * ROWS, dtype=np.uint32) | 1
        self.masks = random.integers(0, 2**32, BANDS * ROWS, dtype=np.uint32)
        self.exact: set[int] = set()
        self.bands: list[dict[int, int]] = [{} for _ in range(BANDS)]
        self.signatures: list[np.ndarray] = []

    def reason(self, text: str) -> str | None:
        key = xxhash.xxh3_64_intdigest(NORMAL.sub("", text).encode())
        if key in self.exact:
            return "duplicate"
        signature = self.signature(text)
        buckets = [xxhash.xxh3_64_intdigest(band.tobytes()) for band in signature.reshape(BANDS, ROWS)]
        for band, bucket in zip(self.bands, buckets, strict=True):
            other = band.get(bucket)
            if other is not None and (self.signatures[other] == signature).mean() >= ALIKE:
                return "near_duplicate"
        self.exact.add(key)
        for band, bucket in zip(self.bands, buckets, strict=True):
            band.setdefault(bucket, len(self.signatures))
        self.signatures.append(signature)
        return None

    def signature(self, text: str) -> np.ndarray:
        """112 minima (uint32) over the hashes of all runs of three words; equal entries estimate the Jaccard similarity."""
        words = NORMAL.sub(" ", text).split()
        hashes = np.array([xxhash.xxh3_64_intdigest(word.encode()) & 0xFFFFFFFF for word in words] or [0], dtype=np.uint32)
        shingles = hashes.copy() if len(hashes) < WORDS else sum_of_runs(hashes)
        lowest = np.empty(BANDS * ROWS, dtype=np.uint32)
        for i, (factor, mask) in enumerate(zip(self.factors, self.masks, strict=True)):
            lowest[i] = ((shingles ^ mask) * factor).min()
        return lowest


def sum_of_runs(hashes: np.ndarray) -> np.ndarray:
    """One uint32 for each run of WORDS hashes, dependent on their order."""
    runs = len(hashes) - WORDS + 1
    out = np.zeros(runs, dtype=np.uint32)
    for i in range(WORDS):
        out = out * np.uint32(2654435761) + hashes[i : i + runs]
    return out ^ (out >> np.uint32(15))


STEM_WORDS = 13  # the run of words that counts as the same text (GPT-3's contamination check, arXiv 2005.14165, appendix C)
STEM_LEAST = 4  # shorter stems ("옳은 것은?") stand in innocent text


class ExamStems:
    """The questions of dev and test, to find them in other text: any run of 13 words, or the whole of a shorter stem."""

    def __init__(self, questions: list[str]) -> None:
        self.runs: dict[int, set[tuple[str, ...]]] = {}
        for question in questions:
            words = normal_words(question)
            size = min(STEM_WORDS, len(words))
            if size >= STEM_LEAST:
                self.runs.setdefault(size, set()).update(tuple(words[i : i + size]) for i in range(len(words) - size + 1))

    def stands_in(self, text: str) -> bool:
        if not self.runs:
            return False
        words = normal_words(text)
        return any(tuple(words[i : i + size]) in runs for size, runs in self.runs.items() for i in range(len(words) - size + 1))


def normal_words(text: str) -> list[str]:
    return NORMAL.sub(" ", text).lower().split()
