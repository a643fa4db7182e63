"""Markup to readable text: HTML, the pages of NamuWiki and MediaWiki, and the links of Markdown.

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
    r"|(?i:allowfullscreen|async|autoplay|checked|controls|defer|disabled|hidden|itemscope|loop|multiple|muted|noshade|nowrap|open|readonly"
    r"|required|selected|/)(?=[\s/>]))"
)
TAG = re.compile(rf"<(?:(/?)([a-zA-Z][a-zA-Z0-9:]*+)(?:{ATTRIBUTE})*+\s*+/?|!((?i:doctype))[^<>]*+)>")
KNOWN, BREAKS, CELLS = frozenset(NAMES.split()), frozenset(BLOCKS.split()), frozenset(["td", "th"])
HIDDEN = frozenset(["script", "style", "noscript", "head", "title", "template", "svg", "iframe"])
SWAPS = {  # (closing or not, name): what stands in its place
    (closing, name): "\n\n" if name in BREAKS else " " if closing and name in CELLS else ""
    for closing in ("", "/")
    for name in KNOWN
    if closing or name not in HIDDEN
}
CODE = ("script", "style")  # their content is no text, not even where a page breaks off before they end
NESTED_ESCAPE = re.compile(r"&(?:amp;|#38;)+", re.IGNORECASE)  # `&amp;amp;lt;`: escaped again at each copy


def strip_html(text: str) -> str:
    """The visible text of HTML; `혈압 < 120`, `List<T>` and `<기생충>` stay as they are.

    Only what is a tag by its name and attributes is taken for one, so no parser is asked: it would find the same tags, build a
    tree of them, and take seconds for a thousand that are never closed.
    """
    if "&amp;amp;" in text or "&amp;#38;" in text:
        text = NESTED_ESCAPE.sub("&", text)
    if "<" in text:
        text = strip_tags(strip_comments(text))
    return html.unescape(text) if "&" in text else text


def strip_tags(text: str) -> str:
    """Without tags and hidden elements; two line ends for a block's tag, a blank for a cell's end, nothing for others."""
    hides = False

    def swap(tag: re.Match) -> str:
        nonlocal hides
        if (swapped := SWAPS.get(tag.group(1, 2))) is not None:
            return swapped
        closing, name = tag[1], (tag[2] or "").lower()
        hides = hides or (name in HIDDEN and not closing)
        return SWAPS.get((closing, name), tag[0] if name and name not in HIDDEN else "")

    seen = TAG.sub(swap, text)
    return strip_hidden(text) if hides else seen


def strip_hidden(text: str) -> str:
    """The same for a text in which an element begins that is not shown."""
    parts: list[str] = []
    at = 0
    hidden = ""  # the element that is being left out
    ends: dict[str, int] = {}  # where each hidden element ends for the last time
    for tag in TAG.finditer(text):
        closing, name = tag[1], (tag[2] or "").lower()
        if name not in KNOWN and not tag[3]:
            continue
        if hidden:
            if not (closing and name == hidden):
                continue
            hidden, at = "", tag.end()
            continue
        parts.append(text[at : tag.start()])
        at = tag.end()
        if name in BREAKS:
            parts.append("\n\n")
        elif closing and name in CELLS:
            parts.append(" ")
        elif name in HIDDEN and not closing:
            if name not in ends:
                ends[name] = max(text.rfind(f"</{name}"), text.rfind(f"</{name.upper()}"))
            if name in CODE or ends[name] >= at:
                hidden = name
    return "".join([*parts, "" if hidden in CODE else text[at:]]) if at or hidden else text


def strip_comments(text: str) -> str:
    """Without `<!-- … -->`; one that never ends stays. A lazy expression took a minute on 200 kB of `<!--`."""
    parts: list[str] = []
    at = 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        parts.append(text[at:start])
        at = end + 3
    return "".join([*parts, text[at:]]) if parts else text


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
MACRO = re.compile(
    r"\[(?:목차|각주|clearfix|tableofcontents|footnote|pagecount|date|(?:age|include|anchor|youtube|kakaotv|navertv)\([^\[\]]*\))\]"
    r"|__(?:NO|FORCE)?TOC__",
    re.IGNORECASE,
)
# not between digits: 30~~40% and 1990--1995 are ranges
STRUCK = re.compile(r"(?<![\d~])~~(?![\s~])[^~\n]{1,300}~~(?!~)|(?<![\w\-])--(?![\s\d\-])[^\-\n]{1,300}--(?![\w\-])")
LIST_MARK = re.compile(r"^[ \t]*(?:[*#;:]+|>+)[ \t]*|^-{4,}[ \t]*$", re.MULTILINE)


REFERENCE = re.compile(r"<sup\b[^<>]*\bclass=[\"']?reference[^<>]*+>(?:(?!</?sup)[\s\S])*+</sup>")
# a path or an address, so that `a[i](x)` and `[1](2)` stay; nothing that is a name before it, since that is code
MARKDOWN_TARGET = r"""\((?=[^()\s]{0,2000}[/.#])(?:[^()\s]|\([^()\s]{0,200}\)){1,2000}+(?:[ \t]+"[^"\n]*")?\)"""
MARKDOWN_LINK = re.compile(rf"(!?)\[(?<![A-Za-z0-9_\])]\[)((?:[^\[\]\n]++|\[[^\[\]\n]*+\])*+)\]{MARKDOWN_TARGET}")
MARKDOWN_INCLUDE = re.compile(rf"\[!INCLUDE ?\[([^\[\]\n]*+)\]{MARKDOWN_TARGET}\]", re.IGNORECASE)


def strip_links(text: str) -> str:
    """The labels of Markdown's links and includes; of its pictures nothing, as of HTML's."""
    text = MARKDOWN_INCLUDE.sub(r"\1", text) if "[!" in text else text
    return MARKDOWN_LINK.sub(lambda link: "" if link[1] else strip_links(link[2]) if "](" in link[2] else link[2], text)


def strip_notes(text: str) -> str:
    """Without MediaWiki's footnotes in tags, as written and as shown: the `[1]` of a rendered page."""
    text = REF.sub("", text) if "<ref" in text else text
    return REFERENCE.sub("", text) if "<sup" in text else text


def strip_wiki(text: str) -> str:
    """The readable text of NamuWiki and MediaWiki pages: link labels, cells and headings stay; templates and notes go."""
    if not is_wiki(text):
        return text
    text = LANGUAGE.sub(r"\1", text)
    for _ in range(4):  # templates, braces, links and footnotes nest a few levels deep
        text = LINK.sub(r"\1", NO_TEXT_LINK.sub("", text))
        text = TEMPLATE.sub("", BRACES.sub(r"\1", text))
        text = FOOTNOTE.sub("", text)
    text = MACRO.sub("", OUTER_LINK.sub(r"\1", text).replace("[br]", "\n"))
    if "~~" in text or "--" in text:
        text = STRUCK.sub("", text)
    if "=" in text:
        text = "\n".join(without_heading_marks(line) for line in text.split("\n"))
    if "{|" in text:
        text = MEDIAWIKI_CELLS.sub(r"\1", MEDIAWIKI_TABLE.sub("", text)).replace("!!", " ")
    text = CELL_OPTION.sub("", text).replace("||", " ")
    return LIST_MARK.sub("", text.replace("'''", "").replace("''", ""))


def is_wiki(text: str) -> bool:
    """Whether a sign stands that only a wiki page has. Each expression begins with a literal, which the engine skips to."""
    if "'''" in text or "[목차" in text or "[각주" in text or "[include(" in text or "[anchor(" in text or "[youtube(" in text:
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
