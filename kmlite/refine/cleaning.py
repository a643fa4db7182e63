"""All rules for many texts, until nothing changes. One look at all their signs says which rules a text may need; most need one or two.

The rules stand in `text`, `markup` and `wiki` and can be read and tested alone.
"""

import functools
import itertools
import string
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
from kmlite.refine.text import CONTROL, INVISIBLE, LINE_ENDS, compose, squeeze, squeeze_plain, strip_addresses, strip_control_tokens
from kmlite.refine.wiki import MATH, strip_wiki

PASSES = 8
LAST_RESORT = str.maketrans("", "", "<>&[]{}()|=~'@＠:/.0123456789")  # without these no rule finds anything more

# ---- what rules a text may need, a bit each

COMPOSE, TABS, BLANKS, ADDRESS, NUMBER, LINK, WIKI, HTML, TIME, FORUM = (1 << bit for bit in range(10))
RULES = ADDRESS | NUMBER | LINK | WIKI | HTML | TIME | FORUM
# two signs that a rule may begin with: `A` any Latin letter, `0` any digit, `E` either end of a text, `각` five syllables of macros
PAIRS = {
    BLANKS: ("  ", " \n", "\n ", "E ", "E\n", " E", "\nE"),
    ADDRESS: (":/", "ww"),
    LINK: ("](",),
    WIKI: ("[[", "{{", "{|", "||", "''", "==", "__", "E=", "\n=", '"|', "[각", "[*"),
    HTML: ("<A", "</", "<!", "&A", "&#", "[m", "[@"),  # and control tokens
    TIME: (":0",),
    FORUM: ("[/",),
}
# the first three letters of what a wiki writes in brackets
MACROS = b"inc anc you rub mat age dda kak nav nic vim pag tab cle foo dat br] doc /do gal"
CODES = 0x32000  # the table's size: the planes that hold letters; what is above is an odd sign
END, ODD, TAB = 1, 2, 9


@functools.cache
def classes() -> np.ndarray:
    """(CODES + 1,) uint8: of each sign its own code if it is ASCII, in lower case; ODD if `compose` may change it; TAB if it is
    white space other than a blank and a line end; else zero."""
    signs = [chr(code) for code in range(CODES)]
    out = np.array([ord("0") if sign.isdecimal() else ord(sign.lower()) if sign < "\x7f" else 0 for sign in [*signs, " "]], dtype=np.uint8)
    for group, kind in (("목각편원소", "A"), ("＠", "@")):
        out[[ord(sign) for sign in group]] = ord(kind)
    out[[code for code, sign in enumerate(signs) if sign.isspace() and sign not in " \n"]] = TAB
    # NFC leaves a text alone whose signs are composed, combine with nothing and are no second half of a composed one
    halves = {parts[1] for parts in map(str.split, map(unicodedata.decomposition, signs)) if len(parts) == 2 and parts[0][0] != "<"}
    out[[CODES, *range(0x1161, 0x1200), *(int(half, 16) for half in halves)]] = ODD
    out[[code for code, sign in enumerate(signs) if unicodedata.combining(sign) or not unicodedata.is_normalized("NFC", sign)]] = ODD
    out[[ord(sign) for expression in (LINE_ENDS, INVISIBLE, CONTROL) for sign in expression.findall("".join(signs))]] = ODD
    return out


@functools.cache
def rules_of_pairs() -> np.ndarray:
    """(128 * 128,) uint16: the rules that two neighbouring classes ask for."""
    out = np.zeros((128, 128), dtype=np.uint16)
    groups = {"A": string.ascii_lowercase, "각": "A", "E": chr(END)}
    for rule, pairs in PAIRS.items():
        for pair in pairs:
            for one, other in itertools.product(*(groups.get(sign, sign) for sign in pair)):
                out[ord(one), ord(other)] |= rule
    out[:, ODD] |= COMPOSE
    out[:, TAB] |= TABS
    out[ord("@")] |= ADDRESS
    return out.ravel()


def triple(signs: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Three signs as one number, at each place."""
    return np.stack([signs[at + i] for i in range(3)], axis=1).astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], dtype=np.uint32)


def look(texts: list[str]) -> list[int]:
    """Which rules may change each text; none that is not told can.

    No rule begins at a blank, and squeezing joins no two signs, so it brings up none of the others.
    """
    codes = np.frombuffer("\n".join(["", *texts, ""]).encode("utf-32-le", "surrogatepass"), dtype=np.int32)
    ends = np.cumsum([0, *(len(text) + 1 for text in texts)])  # of a text the sign behind it, and the one before the first
    kind = classes().take(codes, mode="clip")
    kind[ends] = END
    asked = rules_of_pairs().take(kind[:-1].astype(np.uint16) * np.uint16(128) + kind[1:])  # at the first of two signs
    n = len(asked)
    line, digit = (np.append(kind == ord(sign), np.zeros(8, dtype=bool)) for sign in "\n0")
    asked |= (line[:n] & line[1 : n + 1] & line[2 : n + 2]) * np.uint16(BLANKS)
    # a telephone or resident number holds three digits, and four behind up to three other signs
    three = digit[:-2] & digit[1:-1] & digit[2:]
    four = three[:-1] & digit[3:]
    asked |= (three[:n] & (four[3 : n + 3] | four[4 : n + 4] | four[5 : n + 5] | four[6 : n + 6])) * np.uint16(NUMBER)
    macros = triple(np.frombuffer(MACROS, dtype=np.uint8), np.arange(0, len(MACROS), 4))
    opened = np.flatnonzero((kind[:-3] == ord("[")) | (kind[:-3] == ord("<")))
    asked[opened[np.isin(triple(kind, opened + 1), macros)]] |= WIKI
    mark = np.flatnonzero((kind == ord("=")) | (kind == ord("|")))  # ` = = 제목 = =`, `rowspan="2" |`
    blanks = (TAB, ord(" "), ord("\n"), END)
    asked[mark[np.isin(kind[mark - 1], blanks) & np.isin(kind[mark - 2], (*blanks, ord('"')))]] |= WIKI
    return np.bitwise_or.reduceat(asked, ends[:-1]).tolist()


# ---- the rules, in order


def tidy(text: str, needs: int) -> tuple[str, int]:
    """(text with its signs and white space seen to, what it needs besides)."""
    if needs & COMPOSE:
        return squeeze(strip_control_tokens(compose(text))), RULES  # `0\u200b10` holds a number now
    if needs & HTML and (stripped := strip_control_tokens(text)) != text:
        return squeeze(stripped), RULES  # `=<bos>=` is another sign than `= =`
    text = squeeze(text) if needs & TABS else squeeze_plain(text) if needs & BLANKS else text
    return text, needs & RULES


def apply_rules(text: str, needs: int, counts: Counter | None) -> str:
    """Links, addresses, wiki, HTML, once. What one brings up for an earlier one waits for the next pass. Links come before
    addresses, which stand in them, and these before HTML, since an unescaped `&` would cut them."""
    if needs & TIME:
        text = strip_time_codes(text)
    if needs & (ADDRESS | NUMBER):
        text = outside_code(text, strip_links) if needs & LINK else text
        needs &= ~LINK
        kinds = ("url", "mail") * bool(needs & ADDRESS) + ("resident_number", "phone") * bool(needs & NUMBER)
        text = strip_addresses(text, kinds, counts)
    return outside_code(text, lambda prose: strip_markup(prose, needs)) if needs & (LINK | WIKI | HTML | FORUM) else text


def strip_markup(text: str, needs: int) -> str:
    if needs & LINK:
        text = strip_links(text)
    if needs & HTML:
        text = strip_notes(text)
    if needs & WIKI:
        marked = any(sign in text for sign in ("<math", "<nowiki", "<syntax", "<source", "<pre", "<code", "[math(", "{{{#!syntax"))
        text = shielded(text, MARKED, strip_wiki) if marked else strip_wiki(text)
        text = MATH.sub(r"\1", text) if "[math(" in text else text
    if needs & FORUM:
        text = strip_forum_tags(text)
    return strip_html(text) if needs & HTML else text


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
                out[i] = apply_rules(text, needs, counts)
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
