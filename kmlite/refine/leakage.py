"""What must not leak: questions of dev and test in plain text, definitions and, as copies or translations, in other questions.

Three looks, each for what the one before can't see: `ExamStems` finds a run of a question's words in any text; `ExamGuard.find`
finds a question whose stem and options are nearly those of a guarded one (a particle, a sign, an order changed), and one that
shares its numbers, its drug names (메트포르민 and metformin have the same consonants) and its options, as a translation does.
"""

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kmlite import prompts
from kmlite.refine import batch

NORMAL = re.compile(r"[\W_]+")


STEM_WORDS = 13  # the run of words that counts as the same text (GPT-3's contamination check, arXiv 2005.14165, appendix C)
STEM_LEAST = batch.EXAM_RUN  # shorter stems ("옳은 것은?") stand in innocent text
FILTER_BITS = 20


class ExamStems:
    """The questions of dev and test, to find them in other text: any run of 13 words, or the whole of a shorter stem."""

    def __init__(self, questions: list[str]) -> None:
        self.runs: dict[int, set[tuple[str, ...]]] = {}
        for question in questions:
            words = normal_words(question)
            size = min(STEM_WORDS, len(words))
            if size >= STEM_LEAST:
                self.runs.setdefault(size, set()).update(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
        openings = sorted({" ".join(run[:STEM_LEAST]) for runs in self.runs.values() for run in runs})
        self.openings = np.zeros(0, dtype=np.uint32)
        self.filter = np.zeros(1 << FILTER_BITS, dtype=bool)
        if openings:
            measured = batch.measure(openings)
            self.openings = np.sort(batch.runs(measured.words, STEM_LEAST)[measured.starts[:-1]])
            self.filter[self.openings >> np.uint32(32 - FILTER_BITS)] = True

    def suspects(self, measured: batch.Batch) -> np.ndarray:
        """(n,) bool: the texts that hold the first four words of some run, by their hash; `stands_in` says whether it goes on."""
        suspects = np.zeros(len(measured.exact), dtype=bool)
        if not len(self.openings):
            return suspects
        hashes = batch.runs(measured.words, STEM_LEAST)
        places = np.flatnonzero(self.filter[hashes >> np.uint32(32 - FILTER_BITS)])
        at = np.minimum(np.searchsorted(self.openings, hashes[places]), len(self.openings) - 1)
        places = places[self.openings[at] == hashes[places]]
        suspects[np.searchsorted(measured.starts, places, side="right") - 1] = True
        return suspects

    def stands_in(self, text: str) -> bool:
        if not self.runs:
            return False
        words = normal_words(text)
        return any(tuple(words[i : i + size]) in runs for size, runs in self.runs.items() for i in range(len(words) - size + 1))


def normal_words(text: str) -> list[str]:
    return NORMAL.sub(" ", text).lower().split()


# ---- copies and translations of questions

GRAM = 4  # signs of the runs by which a copy is looked up
COMMON = 300  # guarded questions that share a run or a name: it tells no question from another
PARTICLE = re.compile(r"(?<=..)(?:으로|에서|에게|부터|까지|이다|은|는|이|가|을|를|의|에|로|와|과|도|만)$")
NUMBER = re.compile(r"\d+(?:[.,/:]\d+)*")
LATIN = re.compile(r"[a-z]{3,}")
KOREAN = re.compile("[가-힣]{2,}")


class Shape(NamedTuple):
    """A question as it is compared."""

    stem: str  # letters and digits alone, in lower case
    options: tuple[str, ...]
    grams: frozenset[str]
    numbers: frozenset[str]  # of the stem, of two digits or more
    names: frozenset[str]  # of the stem: Latin words, and the consonants of Latin and Hangul words
    marks: tuple[frozenset[str], ...]  # of each option: its numbers and names
    korean: bool


class Leak(NamedTuple):
    reason: str
    where: str  # file and line of the guarded question


class ExamGuard:
    """The questions that must not be trained on, to find copies and translations of them."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self.places: list[tuple[str, str]] = []  # split, file and line
        self.index: dict[str, list[int]] = {}
        self.exact: dict[tuple, str] = {}  # the split that a question was first read in

    def add(self, question: dict, split: str, where: str) -> None:
        """Take a question of the refined format; one of train is only known again exactly."""
        self.exact.setdefault(exact_key(question), split)
        if split == "train":
            return
        shape = shape_of(question)
        for key in {*shape.grams, *evidence(shape)}:
            self.index.setdefault(key, []).append(len(self.shapes))
        self.shapes.append(shape)
        self.places.append((split, where))

    def find(self, question: dict, split: str) -> Leak | None:
        """Why a question of `split` is set aside; splits are read in the order test, dev, fewshot, train.

        Few-shot examples stand in dev as well in KorMedMCQA: they are examples, never trained on.
        """
        if earlier := self.exact.get(exact_key(question)):
            allowed = split == "fewshot" and earlier == "dev"
            return None if allowed else Leak("duplicate" if earlier == split else f"exam_leak_{earlier}", "")
        shape = shape_of(question)
        passed = {split} | ({"dev"} if split == "fewshot" else set())
        for kind, number in self.suspects(shape):
            other, where = self.places[number]
            same = is_copy if kind == "near" else self.is_translation
            if other not in passed and same(shape, self.shapes[number]):
                return Leak(f"exam_{kind}_{other}", where)
        return None

    def suspects(self, shape: Shape) -> Iterator[tuple[str, int]]:
        """("near" or "translated", number of a guarded question), the likeliest first."""
        copies: Counter[int] = Counter()
        for gram in shape.grams:
            if len(found := self.index.get(gram, ())) <= COMMON:
                copies.update(found)
        yield from (("near", number) for number, shared in copies.most_common(8) if 4 * shared >= len(shape.grams))
        likely: Counter[int] = Counter()
        for key in evidence(shape):
            if len(found := self.index.get(key, ())) <= COMMON:
                likely.update(dict.fromkeys(found, self.weight(key)))
        yield from (("translated", number) for number, _ in likely.most_common(8))

    def weight(self, key: str) -> int:
        """How much a number or name tells, in tenths of a nat: less the more guarded questions hold it."""
        return round(10 * math.log((2000 + len(self.shapes)) / (1 + len(self.index.get(key, ())))))

    def is_translation(self, one: Shape, guarded: Shape) -> bool:
        """Numbers, names and options that two questions share only as copies of each other do, in one language or in two.

        In one language more is asked: exams ask for the same five things again and again, of other patients.
        """
        numbers, names = one.numbers & guarded.numbers, one.names & guarded.names
        same_patient = 4 * len(numbers) >= 3 * max(len(one.numbers), len(guarded.numbers))
        told = sum(self.weight(key) for key in numbers | names) / 10
        if one.korean == guarded.korean:
            least = 4 if likeness(one.stem, guarded.stem) >= 0.5 else 3 if len(numbers) >= 4 and told >= 20 else 6
            return same_patient and least < 6 and matching_options(one.options, guarded.options) >= least
        options, by_name = matching_marks(one.marks, guarded.marks)
        if options >= 4 and (by_name >= 4 or told >= 6):
            return True
        return same_patient and ((options >= 2 and told >= 10) or (len(numbers) >= 4 and told >= 20) or (len(names) >= 3 and told >= 20))


def exact_key(question: dict) -> tuple:
    """Equal for the same question, whatever its spacing, punctuation and order of options."""
    options = sorted("".join(normal_words(question[letter])) for letter in prompts.LETTERS)
    return "".join(normal_words(question["question"])), *options


def shape_of(question: dict) -> Shape:
    stem, *options = (unicodedata.normalize("NFKC", question[key]).lower() for key in ("question", *prompts.LETTERS))
    plain = NORMAL.sub("", stem)
    bare = tuple(PARTICLE.sub("", NORMAL.sub("", option)) for option in options)
    korean = 10 * len(re.findall("[가-힣]", stem)) >= len(plain)
    grams = frozenset(text[i : i + GRAM] for text in (plain, *bare) for i in range(max(1, len(text) - GRAM + 1)))
    return Shape(plain, bare, grams, numbers_in(stem), names_in(stem), tuple(numbers_in(o, 1) | names_in(o) for o in options), korean)


def evidence(shape: Shape) -> set[str]:
    return {*shape.numbers, *shape.names, *(mark for marks in shape.marks for mark in marks)}


def numbers_in(text: str, least: int = 2) -> frozenset[str]:
    """`#120`, `#80`, `#37.5`: numbers of at least so many signs; 1,500 is 1500, and 120/80 is two."""
    found = (part.strip(".,:") for number in NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)) for part in re.split("[/:]", number))
    return frozenset(f"#{number}" for number in found if len(number) >= least)


def names_in(text: str) -> frozenset[str]:
    """Latin words, and of Latin and Hangul words of four consonants or more those consonants, by which a name is known in either."""
    out: set[str] = set()
    for word in LATIN.findall(text):
        out.update((word, *consonants_of_latin(word)))
    for word in KOREAN.findall(text):
        out.update(consonants_of_hangul(one) for one in (word, PARTICLE.sub("", word)))
    return frozenset(name for name in out if len(name) >= 5 or name.isalpha())


@functools.lru_cache(maxsize=1 << 16)
def consonants_of_hangul(word: str) -> str:
    """`=mtplmn` for 메트포르민: consonants in classes that Korean spelling does not tell apart, doubled ones once."""
    parts: list[str] = []
    for sign in word:
        code = ord(sign) - 0xAC00
        parts += (ONSET[code // 588], CODA[code % 28])
    return "=" + re.sub(r"(.)\1+", r"\1", "".join(parts))


ONSET = ("k", "k", "n", "t", "t", "l", "m", "p", "p", "s", "s", "", "j", "j", "j", "k", "t", "p", "h")
CODA = ("", *"kkk", *"nnn", "t", *"lllllll", "l", "m", *"pp", *"ss", "n", *"jj", "k", "t", "p", "h")
SPELLINGS = (
    (r"ph|f", "p"), (r"th", "t"), (r"rh", "l"), (r"gh", "k"), (r"sh|sch", "s"), (r"ng(?![aeiouy])", "n"), (r"c(?=[eiy])", "s"),
    (r"\bx", "j"), (r"x", "ks"), (r"ch|ck|[cqg]", "k"), (r"[bv]", "p"), (r"d", "t"), (r"z", "j"),
)  # fmt: skip


@functools.lru_cache(maxsize=1 << 16)
def consonants_of_latin(word: str) -> frozenset[str]:
    """The same of a Latin word: with every r, and without those that Korean does not write (warfarin, 와파린)."""
    out = set()
    for spelled in (word, re.sub(r"r(?![aeiouyh])", "", word)):
        for pattern, sign in SPELLINGS:
            spelled = re.sub(pattern, sign, spelled)
        out.add("=" + re.sub(r"(.)\1+", r"\1", re.sub(r"[aeiouyw]", "", spelled.replace("r", "l"))))
    return frozenset(out)


def is_copy(one: Shape, guarded: Shape) -> bool:
    """Nearly the same stem and nearly the same options, in whatever order."""
    stem = likeness(one.stem, guarded.stem)
    if stem < 0.7:
        return False
    options = matching_options(one.options, guarded.options)
    long = sum(map(len, guarded.options)) >= 25
    return (stem >= 0.85 and options >= 4) or (options == 5 and long) or (stem >= 0.95 and options >= 3 and len(guarded.stem) >= 30)


def likeness(one: str, other: str) -> float:
    """Dice's coefficient over the pairs of neighbouring signs of two texts, from 0 to 1."""
    a, b = pairs(one), pairs(other)
    return 1.0 if one == other else 2 * len(a & b) / max(1, len(a) + len(b))


@functools.lru_cache(maxsize=1 << 16)
def pairs(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 2] for i in range(len(text) - 1))


def matching_options(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    left, n = list(other), 0
    for option in one:
        if match := next((o for o in left if o == option or (min(len(o), len(option)) > 3 and likeness(o, option) >= 0.8)), None):
            left.remove(match)
            n += 1
    return n


def matching_marks(one: tuple[frozenset[str], ...], other: tuple[frozenset[str], ...]) -> tuple[int, int]:
    """(options that have a partner, those of them by a name): a shared name, or the same numbers where neither has names in common."""
    left, n, by_name = list(other), 0, 0
    for marks in one:
        name = next((o for o in left if any(not mark.startswith("#") for mark in marks & o)), None)
        match = name if name is not None else next((o for o in left if marks and digits(marks) and digits(marks) == digits(o)), None)
        if match is not None:
            left.remove(match)
            n += 1
            by_name += name is not None
    return n, by_name


def digits(marks: frozenset[str]) -> frozenset[str]:
    return frozenset(mark for mark in marks if mark.startswith("#"))
