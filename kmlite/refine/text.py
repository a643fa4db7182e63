"""Rules for plain text: `clean` mends it, `judge` keeps it or says why not. Each rule can be read and tested alone."""

import html
import re
import unicodedata
from collections import Counter

VERSION = 1  # goes into refine's record: raise it when a rule changes, and finished text is refined anew

# ---- cleaning: composed Hangul first, since every later rule counts syllables, and white space last, which the others leave

LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufff9-\ufffd]")
CHAT_TOKENS = re.compile(r"</?(?:start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token|bos|eos|pad|unk|mask)>")

NAMES = (
    "a abbr acronym address article aside audio b big blockquote body br button canvas caption center cite code col colgroup dd del "
    "details dfn div dl dt em fieldset figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins "
    "kbd label legend li link main mark marquee meta nav nobr noscript o:p ol option p picture pre q rp rt ruby s samp script section "
    "select small source span strike strong style sub summary sup svg table tbody td template textarea tfoot th thead time title tr tt "
    "u ul var video wbr"
)
BLOCKS = (
    "address article aside blockquote br caption center dd details div dl dt figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr li main nav ol p pre section summary table tr ul"
)
# a bare word counts as an attribute only where HTML knows it so: `a<b and b>c` holds no tag
ATTRIBUTE = (
    r"""\s+(?:[a-zA-Z_:@][\w:.\-]*=(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=]*)"""
    r"|(?:allowfullscreen|async|autoplay|checked|controls|defer|disabled|hidden|itemscope|loop|multiple|muted|noshade|nowrap|open|readonly"
    r"|required|selected|/)(?=[\s/>]))"
)
TAG = rf"</?(?:{'|'.join(NAMES.split())})(?:{ATTRIBUTE})*\s*/?>"
REAL_TAG = re.compile(TAG, re.IGNORECASE)
NO_TAG = re.compile(rf"<(?!{TAG[1:]}|!--|!doctype)", re.IGNORECASE)
BLOCK_TAG = re.compile(rf"</?(?:{'|'.join(BLOCKS.split())})(?![a-zA-Z0-9])[^<>]*>", re.IGNORECASE)
CELL_TAG = re.compile(r"</t[dh]>", re.IGNORECASE)
COMMENT = re.compile(r"<!--(?:(?!-->).)*-->", re.DOTALL)
HIDDEN = ("script", "style", "noscript", "head", "title", "template", "svg", "iframe")


def compose(text: str) -> str:
    """NFC, so that decomposed Hangul counts as Hangul; without control and zero-width characters and chat tokens."""
    text = INVISIBLE.sub("", LINE_ENDS.sub("\n", unicodedata.normalize("NFC", text)))
    while "<" in text:  # one token may hide in another: <start_of_<bos>turn>
        text, found = CHAT_TOKENS.subn("", text)
        if not found:
            break
    return text


def strip_html(text: str) -> str:
    """The visible text of HTML; `혈압 < 120`, `List<T>` and `<기생충>` stay as they are."""
    if "<" not in text:
        return html.unescape(text) if "&" in text else text
    text = COMMENT.sub("", text)
    if not REAL_TAG.search(text):
        return html.unescape(text)
    from selectolax.lexbor import LexborHTMLParser

    text = NO_TAG.sub("&lt;", text)  # the parser would take `<기생충>` for a tag
    text = CELL_TAG.sub(r" \g<0>", BLOCK_TAG.sub(r"\n\g<0>\n", text))
    tree = LexborHTMLParser(f"<body>{text}")  # else what stands in a leading <noscript> is taken for the page
    tree.strip_tags(list(HIDDEN), recursive=True)
    body = tree.body
    return body.text(separator="", strip=False) if body is not None else ""


WIKI = re.compile(r"\[\[[^\[\]\n]+\]\]|'''|\{\{[^{}\n]|^==+ .+ ==+\s*$|^\|\||^\{\||\[(?:목차|각주|include\()", re.MULTILINE)
REF = re.compile(r"<ref(?:\s[^<>]*)?/>|<ref(?:\s[^<>]*)?>(?:(?!</?ref).)*</ref>|<references\s*/?>", re.DOTALL)
NO_TEXT_LINK = re.compile(r"\[\[(?:분류|파일|그림|이미지|Category|File|Image|[a-z]{2,3}):[^\[\]]*\]\]", re.IGNORECASE)
LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
LANGUAGE = re.compile(r"\{\{l?lang\|[^{}|]*\|([^{}|]*)\}\}")
TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
BRACES = re.compile(r"\{\{\{(?:#!\w+[^\n{}]*\n?|[+\-]\d |#[\w,#]+ )?([^{}]*)\}\}\}")
MEDIAWIKI_TABLE = re.compile(r"^\{\|[^\n]*$|^\|[-}][^\n]*$", re.MULTILINE)
MEDIAWIKI_CELLS = re.compile(r"^[|!](?!\|)\s*(.*)$", re.MULTILINE)
CELL_OPTION = re.compile(r"<(?:[-|]\d+|[a-z]*(?:align|bgcolor|color|width|height|bordercolor)=[^<>\n]*|[(:)]|#[0-9a-fA-F]{3,6})>")
FOOTNOTE = re.compile(r"\[\*[^\[\]]*\]")
MACRO = re.compile(r"\[(?:목차|각주|clearfix|tableofcontents|footnote|pagecount|date|age\([^\[\]]*\)|include\([^\[\]]*\))\]", re.IGNORECASE)
HEADING = re.compile(r"^=+ ?#? ?(.+?) ?#? ?=+\s*$", re.MULTILINE)
# not between digits: 30~~40% and 1990--1995 are ranges
STRUCK = re.compile(r"(?<![\d~])~~(?![\s~])[^~\n]{1,300}~~(?!~)|(?<![\w\-])--(?![\s\d\-])[^\-\n]{1,300}--(?![\w\-])")
LIST_MARK = re.compile(r"^\s*(?:[*#;:]+|>+)\s*|^-{4,}\s*$", re.MULTILINE)


def strip_wiki(text: str) -> str:
    """The readable text of NamuWiki and MediaWiki pages: link labels, cells and headings stay; templates and notes go."""
    text = REF.sub("", text) if "<ref" in text else text
    if not WIKI.search(text):
        return text
    text = LANGUAGE.sub(r"\1", text)
    for _ in range(4):  # templates, braces, links and footnotes nest a few levels deep
        text = LINK.sub(r"\1", NO_TEXT_LINK.sub("", text))
        text = TEMPLATE.sub("", BRACES.sub(r"\1", text))
        text = FOOTNOTE.sub("", text)
    text = MACRO.sub("", text.replace("[br]", "\n"))
    text = HEADING.sub(r"\1", STRUCK.sub("", text))
    if "{|" in text:
        text = MEDIAWIKI_CELLS.sub(r"\1", MEDIAWIKI_TABLE.sub("", text)).replace("!!", " ")
    text = CELL_OPTION.sub("", text).replace("||", " ")
    return LIST_MARK.sub("", text.replace("'''", "").replace("''", ""))


URL = re.compile(r"(?:https?|ftp)://[\w\-.~:/?#@!$&*+,;=%]+|(?<![\w.])www\.[A-Za-z0-9\-]+\.[\w\-.~/?#=&%]+", re.ASCII)
MAIL = re.compile(r"(?<![\w.])[\w.+\-]{1,64}@[\w\-]{1,63}(?:\.[\w\-]{1,63}){1,4}", re.ASCII)
RESIDENT_NUMBER = re.compile(r"(?<!\d)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])[-–]?[1-8]\d{6}(?!\d)")
# Business numbers (1588-1234) are no personal data, and their shape is that of years: 1592-1598.
PHONE = re.compile(
    r"(?<![\d\-.])(?:\+82[- .]?(?:\(0\))?\d{1,2}|\(0\d{1,2}\)|0\d{1,2}\)?)[- .]?(?<=[\-). ])\d{3,4}[- .]\d{4}(?![\d\-])"
    r"|(?<![\d\-.])01[016-9]\d{7,8}(?![\d\-])"
)
GONE = "\x00"  # stands for what was removed, until the brackets around it are seen to; `compose` leaves none in a text
IN_BRACKETS = re.compile(r"[(\[<][\s,;:·/]*\x00[\s,;:·/\x00]*[)\]>]")


def strip_addresses(text: str) -> str:
    """Without URLs, and without personal data: e-mail addresses, resident registration and phone numbers."""
    before = text
    if "://" in text or "www." in text:
        text = URL.sub(GONE, text)
    if "@" in text:
        text = MAIL.sub(GONE, text)
    text = PHONE.sub(GONE, RESIDENT_NUMBER.sub(GONE, text))
    return text if text == before else IN_BRACKETS.sub("", text).replace(GONE, "")


def squeeze(text: str) -> str:
    """One blank between words, no blanks at the ends of lines, at most one empty line between paragraphs."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).strip()


def clean(text: str) -> str:
    """All of these. Addresses first, since an unescaped `&` would cut them; and what only entities spelled, again at the end."""
    return squeeze(strip_addresses(compose(strip_html(strip_wiki(strip_addresses(compose(text)))))))


# ---- judging a cleaned text: (keep, reason)

HANGUL = re.compile(r"[가-힣]")
KANA = re.compile(r"[\u3040-\u30ff]")
LETTERS = re.compile(r"[^\W\d_]")
HANGUL_SHARE = 0.10  # of letters: Korean charts full of English terms stay; a 30% rule kept 2.5% of such text
HANGUL_LEAST = 20
AD_TERMS = re.compile(
    r"최저가|무료\s?배송|지금\s?구매|구매\s?문의|카톡\s?문의|카카오톡\s?문의|상담\s?문의|할인|쿠폰|적립금|사은품|특가|파격|대방출|땡처리|이벤트|"
    r"선착순|클릭|공짜|당일\s?(?:입금|개통|배송)|한정\s?수량|정품\s?보장|보장|증정|공구|무료\s?체험|신용\s?불량|무직자|매입|오픈\s?기념|1\+1|지금\s?예약|마감\s?임박"
)


def long_enough(text: str, least: int) -> tuple[bool, str]:
    return len(text) >= least, "too_short"


def is_korean(text: str) -> tuple[bool, str]:
    hangul = len(HANGUL.findall(text))
    letters = len(LETTERS.findall(text))
    keep = hangul >= HANGUL_LEAST and hangul >= HANGUL_SHARE * letters and hangul > len(KANA.findall(text))
    return keep, "not_korean"


def is_no_advertisement(text: str) -> tuple[bool, str]:
    """Three different sales terms, and one in every 60 characters: single words stand in technical prose too."""
    terms = ["".join(term.split()) for term in AD_TERMS.findall(text)]
    return not (len(set(terms)) >= 3 and len(terms) * 60 >= len(text)), "advertisement"


def no_repeated_lines(text: str) -> tuple[bool, str]:
    """At most 30% of the characters in lines that stood before (Gopher's rule, arXiv 2112.11446, table A1)."""
    lines = [line for line in text.split("\n") if line]
    repeated = sum(len(line) * (n - 1) for line, n in Counter(lines).items())
    return repeated <= 0.3 * len(text), "repeated_lines"


def no_repeated_ngrams(text: str) -> tuple[bool, str]:
    """At most 30% of the words in a five-word sequence that stood before, in texts of 20 words and more."""
    words = text.split()
    if len(words) < 20:
        return True, "repeated_ngrams"
    seen: set[tuple[str, ...]] = set()
    covered = -1  # last word known to be part of a repetition
    repeated = 0
    for i in range(len(words) - 4):
        ngram = tuple(words[i : i + 5])
        if ngram in seen:
            repeated += i + 4 - max(covered, i - 1)
            covered = i + 4
        else:
            seen.add(ngram)
    return repeated <= 0.3 * len(words), "repeated_ngrams"


def judge(text: str, least: int) -> tuple[bool, str]:
    """The first rule that drops a cleaned text, cheapest first; (True, "") when all keep it."""
    for keep, reason in (long_enough(text, least), is_korean(text)):
        if not keep:
            return keep, reason
    for rule in (is_no_advertisement, no_repeated_lines, no_repeated_ngrams):
        keep, reason = rule(text)
        if not keep:
            return keep, reason
    return True, ""
