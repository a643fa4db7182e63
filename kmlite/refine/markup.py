"""Markup to readable text: HTML, and the pages of NamuWiki and MediaWiki.

Every expression here is linear: what can't be (comments without an end, headings) is found by `str.find` or line by line.
"""

import html
import re

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
NO_TAG = re.compile(rf"<(?!{TAG[1:]}|!doctype)", re.IGNORECASE)
BLOCK_TAG = re.compile(rf"</?(?:{'|'.join(BLOCKS.split())})(?![a-zA-Z0-9])[^<>]*>", re.IGNORECASE)
CELL_TAG = re.compile(r"</t[dh]>", re.IGNORECASE)
HIDDEN = ("script", "style", "noscript", "head", "title", "template", "svg", "iframe")
NESTED_ESCAPE = re.compile(r"&(?:amp;|#38;)+", re.IGNORECASE)  # `&amp;amp;lt;`: escaped again at each copy


def strip_html(text: str) -> str:
    """The visible text of HTML; `혈압 < 120`, `List<T>` and `<기생충>` stay as they are."""
    if "&" in text:
        text = NESTED_ESCAPE.sub("&", text) if "&amp;amp;" in text or "&amp;#38;" in text else text
    if "<" not in text:
        return html.unescape(text) if "&" in text else text
    text = strip_comments(text)
    if not REAL_TAG.search(text):
        return html.unescape(text) if "&" in text else text
    from selectolax.lexbor import LexborHTMLParser

    text = NO_TAG.sub("&lt;", text)  # the parser would take `<기생충>` for a tag
    text = CELL_TAG.sub(r" \g<0>", BLOCK_TAG.sub(r"\n\g<0>\n", text))
    tree = LexborHTMLParser(f"<body>{text}")  # else what stands in a leading <noscript> is taken for the page
    tree.strip_tags(list(HIDDEN), recursive=True)
    body = tree.body
    return body.text(separator="", strip=False) if body is not None else ""


def strip_comments(text: str) -> str:
    """Without `<!-- … -->`; one that never ends stays. A lazy expression took a minute on 200 kB of `<!--`."""
    parts: list[str] = []
    at = 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        parts.append(text[at:start])
        at = end + 3
    return "".join([*parts, text[at:]]) if parts else text


WIKI_WORDS = ("'''", "[목차", "[각주", "[include(")
WIKI_LINK = re.compile(r"\[\[[^\[\]\n]+\]\]")
WIKI_TEMPLATE = re.compile(r"\{\{[^{}\n]")
WIKI_HEADING = re.compile(r"\n==+ [^\n]* ==+[ \t]*(?=\n)")
REF = re.compile(r"<ref(?:\s[^<>]*)?/>|<ref(?:\s[^<>]*)?>(?:(?!</?ref)[\s\S])*</ref>|<references\s*/?>")
NO_TEXT_LINK = re.compile(r"\[\[(?:분류|파일|그림|이미지|Category|File|Image|[a-z]{2,3}):[^\[\]]*\]\]", re.IGNORECASE)
LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
OUTER_LINK = re.compile(r"\[https?://[^\s\[\]]+ ([^\[\]\n]*)\]")
LANGUAGE = re.compile(r"\{\{l?lang\|[^{}|]*\|([^{}|]*)\}\}")
TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
BRACES = re.compile(r"\{\{\{(?:#!\w+[^\n{}]*\n?|[+\-]\d |#[\w,#]+ )?([^{}]*)\}\}\}")
MEDIAWIKI_TABLE = re.compile(r"^\{\|[^\n]*$|^\|[-}][^\n]*$", re.MULTILINE)
MEDIAWIKI_CELLS = re.compile(r"^[|!](?!\|)[ \t]*([^\n]*)$", re.MULTILINE)
CELL_OPTION = re.compile(r"<(?:[-|]\d+|[a-z]*(?:align|bgcolor|color|width|height|bordercolor)=[^<>\n]*|[(:)]|#[0-9a-fA-F]{3,6})>")
FOOTNOTE = re.compile(r"\[\*[^\[\]]*\]")
MACRO = re.compile(r"\[(?:목차|각주|clearfix|tableofcontents|footnote|pagecount|date|age\([^\[\]]*\)|include\([^\[\]]*\))\]", re.IGNORECASE)
# not between digits: 30~~40% and 1990--1995 are ranges
STRUCK = re.compile(r"(?<![\d~])~~(?![\s~])[^~\n]{1,300}~~(?!~)|(?<![\w\-])--(?![\s\d\-])[^\-\n]{1,300}--(?![\w\-])")
LIST_MARK = re.compile(r"^[ \t]*(?:[*#;:]+|>+)[ \t]*|^-{4,}[ \t]*$", re.MULTILINE)


def strip_wiki(text: str) -> str:
    """The readable text of NamuWiki and MediaWiki pages: link labels, cells and headings stay; templates and notes go."""
    text = REF.sub("", text) if "<ref" in text else text
    if not is_wiki(text):
        return text
    text = LANGUAGE.sub(r"\1", text)
    for _ in range(4):  # templates, braces, links and footnotes nest a few levels deep
        text = LINK.sub(r"\1", NO_TEXT_LINK.sub("", text))
        text = TEMPLATE.sub("", BRACES.sub(r"\1", text))
        text = FOOTNOTE.sub("", text)
    text = MACRO.sub("", OUTER_LINK.sub(r"\1", text).replace("[br]", "\n"))
    text = STRUCK.sub("", text)
    if "=" in text:
        text = "\n".join(without_heading_marks(line) for line in text.split("\n"))
    if "{|" in text:
        text = MEDIAWIKI_CELLS.sub(r"\1", MEDIAWIKI_TABLE.sub("", text)).replace("!!", " ")
    text = CELL_OPTION.sub("", text).replace("||", " ")
    return LIST_MARK.sub("", text.replace("'''", "").replace("''", ""))


def is_wiki(text: str) -> bool:
    """Whether a sign stands that only a wiki page has. Each expression begins with a literal, which the engine skips to."""
    if any(word in text for word in WIKI_WORDS):
        return True
    if ("[[" in text and WIKI_LINK.search(text)) or ("{{" in text and WIKI_TEMPLATE.search(text)):
        return True
    if text.startswith(("||", "{|")) or "\n||" in text or "\n{|" in text:
        return True
    return "==" in text and WIKI_HEADING.search(f"\n{text}\n") is not None


def without_heading_marks(line: str) -> str:
    """`== 개요 ==` and NamuWiki's folded `==# 개요 #==` without their signs; other lines as they are."""
    marked = line.rstrip()
    if not (marked.startswith("=") and marked.endswith("=")):
        return line
    inner = marked.strip("=")
    return inner.strip(" ").removeprefix("#").removesuffix("#").strip(" ") if inner.strip() else line
