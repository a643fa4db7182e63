"""Many texts cleaned at once. One look at all their signs says which rules a text may need; most texts need one or two.

The rules stand in `text` and `markup` and can be read and tested alone; here is only which of them are asked, and when again.
"""

import functools
import unicodedata
from collections import Counter

import numpy as np

from kmlite.refine.markup import (
    MARKED,
    outside_code,
    shielded,
    strip_forum_tags,
    strip_html,
    strip_links,
    strip_notes,
    strip_time_codes,
)
from kmlite.refine.text import (
    CONTROL,
    INVISIBLE,
    LINE_ENDS,
    SALES_OPENINGS,
    compose,
    holds_control_token,
    is_plain,
    squeeze,
    squeeze_plain,
    strip_addresses,
    strip_control_tokens,
)
from kmlite.refine.wiki import MATH, strip_wiki

PASSES = 8
LAST_RESORT = str.maketrans("", "", "<>&[]{}()|=~'@＠:/.0123456789")  # without these no rule finds anything more

# ---- what kind of sign a code point is, a bit each

WORD, LETTER, HANGUL, KANA, BLANK, MARK, SALE, ODD = (1 << bit for bit in range(8))
CODES = 0x32000  # the table's size: the planes that hold letters; what is above is an odd sign
MARKS = "<&@＠:w[]{|='_"  # signs that some rule begins with


@functools.cache
def kinds() -> np.ndarray:
    """(CODES + 1,) uint8. MARK: a rule may begin with it. SALE: an advertisement's term may. ODD: `compose` may change it, or it is
    white space other than a blank and a line end (BLANK as well)."""
    signs = [chr(code) for code in range(CODES)]
    out = np.zeros(CODES + 1, dtype=np.uint8)

    def mark(kind: int, where) -> None:
        out[:CODES][np.fromiter(where, dtype=bool, count=CODES)] |= kind

    mark(WORD, map(str.isalnum, signs))
    out[:CODES][(out[:CODES] & WORD).astype(bool) & ~np.fromiter(map(str.isdecimal, signs), dtype=bool, count=CODES)] |= LETTER
    out[0xAC00:0xD7A4] |= HANGUL
    out[0x3040:0x3100] |= KANA
    mark(
        BLANK,
        (
            sign.isspace() and (sign == "\n" or not (LINE_ENDS.match(sign) or INVISIBLE.match(sign) or CONTROL.match(sign)))
            for sign in signs
        ),
    )
    out[[ord(sign) for sign in MARKS]] |= MARK
    out[[ord(opening[0]) for opening in SALES_OPENINGS]] |= SALE
    # NFC leaves a text alone whose signs are composed, combine with nothing and are no second half of a composed one
    halves = {parts[1] for parts in map(str.split, map(unicodedata.decomposition, signs)) if len(parts) == 2 and parts[0][0] != "<"}
    out[[CODES, *range(0x1161, 0x1200), *(int(half, 16) for half in halves)]] |= ODD
    mark(ODD, map(unicodedata.combining, signs))
    mark(ODD, (not unicodedata.is_normalized("NFC", sign) for sign in signs))
    mark(ODD, (not is_plain(sign) for sign in signs))
    return out


# ---- what rules a text may need, a bit each

COMPOSE, TABS, BLANKS, LINK, URL, MAIL, NUMBER, RESIDENT, WIKI, TAG, ENTITY, TIME, FORUM = (1 << bit for bit in range(13))
ADDRESS = URL | MAIL | NUMBER | RESIDENT
MARKUP = LINK | WIKI | TAG | ENTITY | TIME | FORUM
RULES = ADDRESS | MARKUP
KINDS_OF_ADDRESS = {"url": URL, "mail": MAIL, "resident_number": RESIDENT, "phone": NUMBER}


def pack(first, second, third):
    """Three code points in one number, or three arrays of them, whether letters are small or not."""
    return (first | 32) << 42 | (second | 32) << 21 | third | 32


PAD = 20  # blanks behind the texts, so that every sign has some after it: more than two groups of a resident number
TWICE = np.array([ord(sign) for sign in "w[{|='_"])
MACROS = (
    "include anchor youtube ruby math age( dday kakaotv navertv nicovideo vimeo "
    "pagecount tableofcontents clearfix footnote date br] doc /doc gallery"
)
MACRO_SIGNS = np.array([pack(*map(ord, name[:3])) for name in MACROS.split()])
MACRO_SYLLABLES = np.array([pack(*map(ord, name + " ")) >> 21 for name in ("목차", "각주", "편집", "원본", "소스")])


def look(texts: list[str]) -> list[int]:
    """Which rules may change each text; none that is not told can.

    No rule begins at a blank, and squeezing joins no two signs, so it brings up none of the others.
    """
    codes = np.frombuffer((" ".join(["", *texts]) + " " * PAD).encode("utf-32-le", "surrogatepass"), dtype=np.int32)
    kind = kinds().take(codes, mode="clip")
    ends = np.cumsum([len(text) + 1 for text in texts]) + 1  # each with the blank behind it
    n = len(codes) - PAD
    out = np.zeros(len(texts) + 1, dtype=np.uint16)

    def need(rule: int, places: np.ndarray) -> None:
        out[np.searchsorted(ends, places, side="right")] |= rule

    odd = np.flatnonzero((kind & ODD) != 0)  # of bool: of bytes it takes four times as long
    space = (kind[odd] & BLANK) != 0
    need(TABS, odd[space])
    need(COMPOSE, odd[~space])
    blank = (kind & BLANK) != 0
    two = np.flatnonzero(blank[:n] & blank[1 : n + 1])
    two = two[(codes[two] == 32) | (codes[two + 1] == 32) | blank[two + 2]]  # all but one empty line
    need(BLANKS, two)
    need(BLANKS, two + 1)  # before a text, the first of them is the one that holds it apart from the last
    number, resident = numbers((kind & (WORD | LETTER)) == WORD, n)
    need(NUMBER, np.flatnonzero(number))
    need(RESIDENT, np.flatnonzero(resident))

    marks = np.flatnonzero((kind & MARK) != 0)
    first, second = codes[marks], codes[marks + 1]
    small = (second | 32) - ord("a")
    letter = (small >= 0) & (small < 26)
    twice = (first == second) & np.isin(first, TWICE)
    need(URL, marks[((first == ord(":")) & (second == ord("/"))) | (twice & (first == ord("w")))])
    need(LINK, marks[(first == ord("]")) & (second == ord("("))])
    need(MAIL, marks[(first == ord("@")) | (first == ord("＠"))])
    need(TAG, marks[(first == ord("<")) & (letter | (second == ord("/")) | (second == ord("!")))])
    need(ENTITY, marks[(first == ord("&")) & (letter | (second == ord("#")))])
    table = (first == ord("{")) & (second == ord("|"))
    brackets = marks[(first == ord("[")) | (first == ord("<"))]
    three = pack(*(codes[brackets + i].astype(np.int64) for i in (1, 2, 3)))
    named = np.isin(three, MACRO_SIGNS) | np.isin(three >> 21, MACRO_SYLLABLES) | (codes[brackets + 1] == ord("*"))
    need(WIKI, brackets[named])
    before, gap = codes[marks - 1], blank[marks - 1]
    starts = np.zeros(len(codes), dtype=bool)
    starts[1], starts[ends[:-1]] = True, True
    opens = (before == ord("\n")) | (gap & blank[marks - 2]) | starts[marks]
    spaced = (first == ord("=")) & blank[marks + 1] & opens  # ` = = 제목 = =`
    cell = (first == ord("|")) & ((before == ord('"')) | (gap & ((codes[marks - 2] == ord('"')) | blank[marks - 2])))  # `rowspan="2" |`
    need(WIKI, marks[(twice & (first != ord("w"))) | table | spaced | cell])
    need(TAG, marks[(first == ord("[")) & ((second == ord("m")) | (second == ord("@")))])  # control tokens in square brackets
    need(FORUM, marks[(first == ord("[")) & (second == ord("/"))])
    third = codes[marks + 3]
    need(TIME, marks[(first == ord(":")) & digit_at(second) & ((third == ord(",")) | (third == ord(".")) | (third == ord("]")))])
    return out[:-1].tolist()


def numbers(digit: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `n` signs, whether a telephone number may begin there, and a resident number: by the groups of digits that follow."""

    def later(values: np.ndarray, by: int) -> np.ndarray:
        return values[by : by + n]

    three = digit[:-2] & digit[1:-1] & digit[2:]
    four = three[:-1] & digit[3:]
    seven = four[:-3] & three[4:]
    number = later(three, 0) & (later(four, 3) | later(four, 4) | later(four, 5) | later(four, 6))
    seven = later(seven, 6) | later(seven, 7) | later(seven, 8) | later(seven, 9)
    return number, later(three, 0) & later(three, 3) & seven


def digit_at(codes: np.ndarray) -> np.ndarray:
    return (codes >= ord("0")) & (codes <= ord("9"))


def tidy(text: str, needs: int) -> tuple[str, int]:
    """(text with its signs and white space seen to, what it needs besides)."""
    if needs & COMPOSE:
        return squeeze(strip_control_tokens(compose(text))), RULES  # `0\u200b10` holds a number now
    if needs & TAG and holds_control_token(text):
        text, needs = strip_control_tokens(text), needs | RULES | BLANKS  # `=<bos>=` is another sign than `= =`
    if needs & TABS:
        text = squeeze(text)
    elif needs & BLANKS:
        text = squeeze_plain(text)
    return text, needs & RULES


def apply_rules(text: str, needs: int, counts: Counter | None) -> str:
    """Links, addresses, wiki, HTML, once. What one brings up for an earlier one waits for the next pass. Links come before
    addresses, which stand in them, and these before HTML, since an unescaped `&` would cut them."""
    if needs & TIME:
        text = strip_time_codes(text)
    if needs & ADDRESS:
        text = outside_code(text, strip_links) if needs & LINK else text
        needs &= ~LINK
        text = strip_addresses(text, [kind for kind, bit in KINDS_OF_ADDRESS.items() if needs & bit], counts)
    return outside_code(text, lambda prose: strip_markup(prose, needs)) if needs & MARKUP else text


def strip_markup(text: str, needs: int) -> str:
    if needs & LINK:
        text = strip_links(text)
    if needs & TAG:
        text = strip_notes(text)
    if needs & WIKI:
        marked = any(sign in text for sign in ("<math", "<nowiki", "<syntax", "<source", "<pre", "<code", "[math(", "{{{#!syntax"))
        text = shielded(text, MARKED, strip_wiki) if marked else strip_wiki(text)
        text = MATH.sub(r"\1", text) if "[math(" in text else text
    if needs & FORUM:
        text = strip_forum_tags(text)
    return strip_html(text) if needs & (TAG | ENTITY) else text


def clean_all(texts: list[str], counts: Counter | None = None) -> list[str]:
    """Each text with all rules applied until nothing changes: what only entities spelled, or a tag held apart, takes another pass.

    Cleaning a cleaned text changes nothing, and none gets longer than three times its length (NFC takes some signs apart).
    `counts` is added to: how many of each kind of address were removed.
    """
    out = list(texts)
    left = list(range(len(out)))
    for _ in range(PASSES):
        changed = []
        for i, needs in zip(left, look([out[i] for i in left]) if left else (), strict=True):
            if needs:
                text, needs = tidy(out[i], needs)
                out[i] = apply_rules(text, needs, counts) if needs else text
                if out[i] != text:
                    changed.append(i)
        left = changed
    for i in left:  # markup in markup in markup, which nobody wrote by hand
        out[i] = squeeze(compose(out[i].translate(LAST_RESORT)))
    return out


def clean(text: str, counts: Counter | None = None) -> str:
    return clean_all([text], counts)[0]


def clean_field(text: str) -> str:
    """A field of a dictionary entry or an exam question: HTML, white space and control tokens, until nothing changes. Its addresses,
    brackets and wiki signs may be what it is about."""
    for _ in range(PASSES):
        before = text
        text = squeeze(strip_control_tokens(strip_html(compose(text))))
        if text == before:
            return text
    return squeeze(compose(text.translate(LAST_RESORT)))
