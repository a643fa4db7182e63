"""Rules that change a plain text (`cleaning` says when each is asked): its signs, addresses and white space.

Each can be read and tested alone; `judging` has the rules that set a text aside.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

VERSION = 6  # goes into refine's record: raise it when a rule changes, and finished text is refined anew

HANGUL = re.compile(r"[가-힣]")
LETTERS = re.compile(r"[^\W\d_]")

# ---- signs: composed Hangul first, since every later rule counts syllables; white space comes last, which the others leave

LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")  # known to be nothing: what they part is one word
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours of a terminal
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufff9-\ufffb]")
# What a control character stood for is unknown (`50\x01g`), so a blank keeps its two sides apart; those of Windows' Western code page
# are known: 10\x9620 is a range. U+FFFD and U+FFFC stand for what is lost and stay.
WINDOWS = {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}
# Names that a tokenizer of Gemma's takes for control tokens wherever they stand.
CONTROL_TOKEN = re.compile(
    r"</?(?:start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token|bos|eos|pad|unk|mask|unused\d+|2mass)>"
)
IN_BRACKETS = re.compile(r"\[multimodal\]|\[@BOS@\]")


def is_plain(text: str) -> bool:
    """Whether there is nothing but printable characters, blanks and line ends: str.isprintable costs 1 ms a MB, a regex 20."""
    return text.replace("\n", "").isprintable()


def strip_control_tokens(text: str) -> str:
    """A blank in the place of each: `<end_of_<bos>turn>`, closed up, would be one again. For texts, entries and questions alike;
    `cleaning` runs it again after any rule that removed something."""
    text = CONTROL_TOKEN.sub(" ", text) if "<" in text else text
    return IN_BRACKETS.sub(" ", text) if "[" in text else text


def compose(text: str) -> str:
    """NFC, so that decomposed Hangul counts as Hangul; without control and zero-width characters."""
    if not is_plain(text):
        text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
        text = CONTROL.sub(lambda sign: WINDOWS.get(ord(sign[0]), " "), ANSI.sub("", text))
    return unicodedata.normalize("NFC", text)


# ---- addresses

URL_SIGNS = r"[\w\-.~:/?#@!$&*+,;=%]+"
URL = re.compile(rf"https?://{URL_SIGNS}", re.ASCII)
FTP = re.compile(rf"ftp://{URL_SIGNS}", re.ASCII)
WWW = re.compile(r"www\.(?<![\w.]www\.)[A-Za-z0-9\-]+\.[\w\-.~/?#=&%]+", re.ASCII)
# Begins with a literal, which the engine skips to. A domain ends in letters: `lodash@4.17.21` and `root@10.0.0.5` do not.
AT_DOMAIN = re.compile(r"@((?:[\w\-]{1,63}\.){1,4})([A-Za-z]{2,24})(?![\w\-]|:[A-Za-z~/])", re.ASCII)
BEFORE_AT = re.compile(r"(?<![\w.])[\w.+\-]{1,64}\Z", re.ASCII)
# endings of files and units: `icon@2x.png`, `getty@tty1.service`
NO_DOMAIN = re.compile(r"png|jpe?g|gif|webp|svg|css|[jt]s|json|xml|html?|ya?ml|toml|service|socket|timer|target|mount|local|lan|internal")
# Each begins with a set of signs and looks back afterwards: the engine skips to that set five times faster than it tries.
RESIDENT_NUMBER = re.compile(
    r"\d(?<!\d\d)(?<!\d[.\-]\d)\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])( ?[-–] ?|(?<!\d \d{6}) (?!\d{7} \d)|)[1-8]\d{6}(?!\d|-\d)",
    re.ASCII,
)
# Business numbers (1588-1234) are no personal data, and their shape is that of years: 1592-1598.
AREA = r"(?:1[016-9]|2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|80|50\d)"  # after the zero; `08 120 1400 cc` has none of them
ABROAD = r"(?:1[016-9]|2|[3-6][1-5]|70)"
HYPHEN = r" ?[-–] ?"
PHONE = re.compile(
    r"[+(08](?<![0-9a-fA-F_][+08])(?<![0-9a-fA-F][.:/\-–][+08])(?:"
    rf"(?:(?<=\+) ?82|(?<=\()\+82\)|(?<=0)082)[ .\-–]?(?:\(0\)[ \-]?)?0?{ABROAD}[ .\-–]?\d{{3,4}}[ .\-–]?\d{{4}}"
    rf"|(?<=8)2-0?{ABROAD}-\d{{3,4}}-\d{{4}}"
    rf"|(?<=0){AREA}{HYPHEN}\d{{3,4}}{HYPHEN}\d{{4}}"
    rf"|(?:(?<=\()0|(?<=0)){AREA}\)[ \-–]{{0,2}}\d{{3,4}}(?:{HYPHEN}|[. ])\d{{4}}"
    r"|(?<=0)1[016-9]([. ])\d{3,4}\1\d{4}"
    r"|(?<=0)(?:10\d{8}|1[16-9]\d{7,8})"
    rf"|(?<=0)(?P<unsure>{AREA}([. ])\d{{3,4}}\3\d{{4}}))"
    r"(?![-–]?[0-9A-Za-z_])",
    re.ASCII,
)
AMOUNT = re.compile(r" ?(?:cc|m[lL]|mg|kg|mmHg|[gL])\b| ?%", re.ASCII)  # behind groups of digits that no hyphen joins
PHONE_NAMED = re.compile(r"(?:전화|연락처|팩스|문의|핸드폰|휴대폰|☎|☏|(?i:tel|fax|phone|h\.?p))[^\w\n]{0,4}(?:번호)?[^\w\n]{0,4}\Z")
RESIDENT_NAMED = re.compile(r"주민[^\n]{0,12}\Z")
FULL_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)}  # each sign to one, so places stay
GONE = "\x00"  # stands for what was removed, until its surroundings are seen to; `compose` leaves none in a text
GAP = re.compile(r"\x00[\s,;:·/\x00]*")
OPENING, CLOSING = frozenset("([<（"), frozenset(")]>）")
BETWEEN = re.compile(r"\x00(?<=[0-9A-Za-z]\x00)\x00*(?=[0-9A-Za-z])")


def close_gaps(text: str) -> str:
    """Without GONE, the brackets and commas that held nothing else, and without joining a number or word to another."""
    if GONE not in text:
        return text
    if ")" in text or "]" in text or ">" in text or "）" in text:
        around = [
            (start - 1, end + 1) for start, _, end in gaps(text) if text[start - 1 : start] in OPENING and text[end : end + 1] in CLOSING
        ]
        text = cut(text, around, "")
        inside = [
            (start, end)
            for start, first, end in gaps(text)
            if text[end : end + 1] in (")", "）") or (text[start - 1 : start] in ("(", "（") and ":" not in text[start:first])
        ]
        text = cut(text, inside, "")
    return BETWEEN.sub(" ", text).replace(GONE, "")


def gaps(text: str) -> Iterator[tuple[int, int, int]]:
    """Of each GONE with the blanks, list signs and other GONE around it: where they begin, the first GONE, where they end."""
    for gap in GAP.finditer(text):
        start = gap.start()
        while start and (text[start - 1].isspace() or text[start - 1] in ",;:·/"):
            start -= 1
        yield start, gap.start(), gap.end()


def cut(text: str, spans: list[tuple[int, int]], sign: str = GONE) -> str:
    """With `sign` in the place of each stretch."""
    parts: list[str] = []
    at = 0
    for start, end in spans:
        parts += [text[at:start], sign]
        at = end
    return "".join([*parts, text[at:]]) if parts else text


def narrow(text: str) -> str:
    """Full-width digits and signs as ASCII ones, each in its place."""
    return text.translate(FULL_WIDTH) if "０" in text or "＠" in text else text


def strip_urls(text: str) -> tuple[str, int]:
    total = 0
    for sign, expressions in (("://", (URL, FTP)), ("www.", (WWW,))):
        for expression in expressions if sign in text else ():
            text, found = expression.subn(GONE, text)
            total += found
    return text, total


def strip_mails(text: str) -> tuple[str, int]:
    spans: list[tuple[int, int]] = []
    if "@" not in text and "＠" not in text:
        return text, 0
    signs = narrow(text)
    for domain in AT_DOMAIN.finditer(signs):
        at = spans[-1][1] if spans else 0
        numbers = sum(label.isdecimal() for label in domain[1].split("."))
        if NO_DOMAIN.fullmatch(domain[2].lower()) or numbers > 1:
            continue
        if name := BEFORE_AT.search(signs, max(at, domain.start() - 64), domain.start()):
            spans.append((name.start(), domain.end()))
    return cut(text, spans), len(spans)


def strip_resident_numbers(text: str) -> tuple[str, int]:
    signs = narrow(text)
    found = RESIDENT_NUMBER.finditer(signs)
    spans = [n.span() for n in found if n[1] or is_resident_number(n[0], signs[max(0, n.start() - 20) : n.start()])]
    return cut(text, spans), len(spans)


def is_resident_number(digits: str, before: str) -> bool:
    """Of thirteen digits in a row: a bar code (880…) and a time in milliseconds (14…–17…) may hold a birthday, too."""
    weighted = sum(int(digit) * weight for digit, weight in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False))
    if (11 - weighted % 11) % 10 == int(digits[-1]) or RESIDENT_NAMED.search(before):
        return True
    bar_code = sum(int(digit) * (3 if i % 2 else 1) for i, digit in enumerate(digits)) % 10 == 0
    return not bar_code and not "14" <= digits[:2] <= "17"


def strip_phones(text: str) -> tuple[str, int]:
    signs = narrow(text)
    spans = []
    for number in PHONE.finditer(signs):
        named = not number["unsure"] or PHONE_NAMED.search(signs, max(0, number.start() - 20), number.start())
        if named and (re.search("[-–]", number[0]) or not AMOUNT.match(signs, number.end())):
            spans.append(number.span())
    return cut(text, spans), len(spans)


ADDRESSES: dict[str, Callable[[str], tuple[str, int]]] = {
    "url": strip_urls,
    "mail": strip_mails,
    "resident_number": strip_resident_numbers,
    "phone": strip_phones,
}


def strip_addresses(text: str, kinds: Iterable[str] = ADDRESSES, counts: Counter | None = None) -> str:
    """Without URLs, and without personal data: e-mail addresses, resident registration and phone numbers.

    `kinds`: which of them may be there. `counts` is added to: how many of each were removed.
    """
    removed = False
    for kind in kinds:
        text, found = ADDRESSES[kind](text)
        if found:
            removed = True
            if counts is not None:
                counts[kind] += found
    return close_gaps(text) if removed else text


BLANKS = re.compile(r"  +")
EMPTY_LINES = re.compile(r"\n\n\n+")


def squeeze(text: str) -> str:
    """One blank between words, no blanks at the ends of lines, at most one empty line between paragraphs."""
    for odd in ("\t", "\u00a0", "\u3000"):  # the usual ones; to split and join takes four times as long
        text = text.replace(odd, " ")
    return squeeze_plain(text if is_plain(text) else "\n".join([" ".join(line.split()) for line in text.split("\n")]))


def squeeze_plain(text: str) -> str:
    """The same where blanks and line ends are the only white space."""
    if "  " in text:
        text = BLANKS.sub(" ", text)
    if " \n" in text or "\n " in text:
        text = text.replace(" \n", "\n").replace("\n ", "\n")
    return (EMPTY_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()
