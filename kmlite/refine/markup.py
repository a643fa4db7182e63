"""Markup to readable text: HTML, links and code of Markdown, time codes of subtitles (`wiki` has the pages of wikis).

Every expression here is linear: what can't be (comments without an end, fenced code) is found by `str.find` or line by line.
"""

import bisect
import html
import re
from collections.abc import Callable, Iterator

from kmlite.refine.text import HANGUL

NAMES = (
    "a abbr acronym address article aside audio b big blockquote body br button canvas caption center cite code col colgroup dd del "
    "details dfn div dl dt em fieldset figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins "
    "kbd label legend li link main mark marquee meta nav nobr noscript o:p ol option p picture pre q rp rt ruby s samp script section "
    "select small source span strike strong style sub summary sup svg table tbody td template textarea tfoot th thead time title tr tt "
    "u ul var video wbr "
    "math mi mn mo mrow msup msub msubsup mfrac msqrt mtext mspace mover munder mstyle semantics annotation mtable mtr mtd mroot "
    "nowiki noinclude includeonly onlyinclude poem syntaxhighlight gallery references sync sami nopad"
)
BLOCKS = (
    "address article aside blockquote br caption center dd details div dl dt figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr li main nav ol p pre section summary table tr ul poem syntaxhighlight gallery sync"
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
CODE = ("script", "style")  # a page may break off before they end
NESTED_ESCAPE = re.compile(r"&(?:amp;|#38;)+", re.IGNORECASE)  # `&amp;amp;lt;`: escaped again at each copy
# Without the semicolon only where nothing follows: `?a=1&copy=2` and `&timestamp` are no entities
ENTITY = re.compile(r"&(?:#\d{1,7};?|#[xX][0-9a-fA-F]{1,6};?|[a-zA-Z][a-zA-Z0-9]{1,31};|(?:nbsp|lt|gt|amp|quot)(?![\w=;]))", re.ASCII)
POWER = re.compile(r"(?<=\d)<sup>\s*([0-9+\-−]{1,5})\s*</sup>", re.IGNORECASE)  # 10<sup>9</sup> is not 109
RAISED = str.maketrans("0123456789+-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻")
SPOKEN_OF = re.compile(  # a tag in prose about tags, alone or in a list of them
    r"<(?:/?[a-zA-Z][a-zA-Z0-9]*>[`'\"]?(?:, ?| ?및 | ?또는 |[와과나] |/|·)[`'\"]?<){0,4}"  # `<` first: the engine skips to it
    r"(/?[a-zA-Z][a-zA-Z0-9]*)>[`'\"’”]?( ?)(?:태그|요소|엘리먼트|tag\b|element\b)"
)
PARTICLE = re.compile(r"[`'\"’”]?(?:은|는|을|를|와|과|에|의|로|으로|에서|라는|이라는|처럼|까지|부터|,) ")
TITLE_MOST = 500  # characters


def strip_html(text: str) -> str:
    """The visible text of HTML; `혈압 < 120`, `List<T>`, `<기생충>` and `<script> 태그` stay as they are.

    Only what is a tag by its name and attributes is taken for one, so no parser is asked: it would find the same tags, build a
    tree of them, and take seconds for a thousand that are never closed.
    """
    if "&" in text and ("&amp;amp;" in text or "&amp;#38;" in text):
        text = NESTED_ESCAPE.sub("&", text)
    if "<" in text:
        if "<sup>" in text or "<SUP>" in text:
            text = POWER.sub(lambda power: power[1].translate(RAISED), text)
        spoken_of = "태그" in text or "요소" in text or "엘리먼트" in text
        if spoken_of:
            text = hide_named_tags(text)
        text = strip_tags(strip_comments(text))
        if spoken_of:
            text = text.replace("\x01", "<")
    return ENTITY.sub(lambda entity: html.unescape(entity[0]), text) if "&" in text else text


def hide_named_tags(text: str) -> str:
    """With \\x01 in the place of the `<` of tags that the text speaks of; `<td>요소</td>` is markup."""
    closed: dict[str, bool] = {}

    def hide(found: re.Match) -> str:
        name = found[1].lstrip("/")
        if not found[2]:
            if name not in closed:
                closed[name] = f"</{name}" in text
            if closed[name]:
                return found[0]
        return found[0].replace("<", "\x01")

    return SPOKEN_OF.sub(hide, text)


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
    tags = [tag for tag in TAG.finditer(text) if tag[3] or tag[2].lower() in KNOWN]
    ends: dict[str, list[int]] = {}  # where each hidden element ends
    for tag in tags:
        if tag[1] and tag[2].lower() in HIDDEN:
            ends.setdefault(tag[2].lower(), []).append(tag.start())
    parts: list[str] = []
    at = 0
    hidden, until = "", -1  # the element that is being left out, and where it ends
    named: set[str] = set()
    for tag in tags:
        closing, name = tag[1], (tag[2] or "").lower()
        if hidden:
            if tag.start() == until:
                hidden, at = "", tag.end()
            continue
        parts.append(text[at : tag.start()])
        at = tag.end()
        if name in HIDDEN and not closing:
            of_name = ends.get(name, [])
            next_end = bisect.bisect_left(of_name, at)
            until = of_name[next_end] if next_end < len(of_name) else -1
            if not (until < 0 and name in named) and is_hidden(text, tag, until):
                hidden = name
            elif until >= 0 or name in CODE:
                named.add(name)
                parts.append(tag[0])
        elif name in named and closing:
            parts.append(tag[0])
        else:
            parts.append("\n\n" if name in BREAKS else " " if closing and name in CELLS else "")
    return "".join([*parts, "" if hidden else text[at:]])


def is_hidden(text: str, tag: re.Match, until: int) -> bool:
    """Whether an element that begins with `tag` is hidden, or only named: `<script>와 </script> 사이에`. `until` < 0: it never ends."""
    name, bare = tag[2].lower(), "=" not in tag[0]
    if bare and PARTICLE.match(text, tag.end()):
        return False
    inside = text[tag.end() : min(until if until >= 0 else len(text), tag.end() + 1000)]
    if name in CODE:
        signs = sum(map(inside.count, "{}();="))
        code = len(HANGUL.findall(inside)) <= 3 * signs and (signs > 0 or not inside.strip())
        return code or (until >= 0 and not bare and signs > 0)
    return until >= 0 and (name != "title" or until - tag.end() <= TITLE_MOST)


def strip_comments(text: str) -> str:
    """Without `<!-- … -->`; one that never ends stays. A lazy expression took a minute on 200 kB of `<!--`."""
    parts: list[str] = []
    at = 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        parts.append(text[at:start])
        at = end + 3
    return "".join([*parts, text[at:]]) if parts else text


REF = re.compile(r"<ref(?:\s[^<>]*)?/>|<ref(?:\s[^<>]*)?>(?:(?!</?ref)[\s\S])*</ref>|<references\s*/?>")
REFERENCE = re.compile(r"<sup\b[^<>]*\bclass=[\"']?reference[^<>]*+>(?:(?!</?sup)[\s\S])*+</sup>")
# a path or an address, so that `a[i](x)` and `[1](2)` stay; nothing that is a name before it, since that is code
MARKDOWN_TARGET = r"""\((?=[^()\s]{0,2000}[/.#])(?:[^()\s]|\([^()\s]{0,200}\)){1,2000}+(?:[ \t]+"[^"\n]*")?\)"""
MARKDOWN_LINK = re.compile(rf"(!\[|\[)(?<![A-Za-z0-9_\])]\[)((?:[^\[\]\n]++|\[[^\[\]\n]*+\])*+)\]{MARKDOWN_TARGET}")
MARKDOWN_INCLUDE = re.compile(rf"\[!INCLUDE ?\[([^\[\]\n]*+)\]{MARKDOWN_TARGET}\]", re.IGNORECASE)


def strip_links(text: str) -> str:
    """The labels of Markdown's links and includes; of its pictures nothing, as of HTML's."""
    if "](" not in text:
        return text
    text = MARKDOWN_INCLUDE.sub(r"\1", text) if "[!I" in text or "[!i" in text else text
    return MARKDOWN_LINK.sub(lambda link: "" if link[1] == "![" else strip_links(link[2]) if "](" in link[2] else link[2], text)


def strip_notes(text: str) -> str:
    """Without MediaWiki's footnotes in tags, as written and as shown: the `[1]` of a rendered page."""
    text = REF.sub("", text) if "<ref" in text else text
    return REFERENCE.sub("", text) if "<sup" in text else text


# ---- code, which no rule for markup may touch

INLINE = re.compile(r"`(?<!``)(`?)(?!`)[^`\n]{1,300}`\1(?!`)")
FENCE = re.compile(r"\n[ \t]*+(`{3,}+|~{3,}+)[^`\n]*+(?=\n|\Z)")
MARKED = re.compile(  # what a wiki shows as it stands
    r"<(math|nowiki|syntaxhighlight|source|pre|code)\b[^<>\n]*>(?:(?!</?\1\b)[\s\S])*+</\1>|\[math\((?:[^)\[\n]|\)(?!\])|\[(?!math\())*+\)\]"
    r"|\{\{\{#!syntax\b(?:[^{}]|\{(?!\{\{)|\}(?!\}\}))*+\}\}\}"
)


def shielded(text: str, expression: re.Pattern, rule: Callable[[str], str], name: str = "m") -> str:
    """`rule` applied to all but what `expression` finds. `name`: a letter, another one for each of those that stand in each other."""
    stored: list[str] = []

    def store(found: re.Match) -> str:
        stored.append(found[0])
        return f"\x02{name}{len(stored) - 1}\x03"

    seen = expression.sub(store, text)
    if (done := rule(seen)) == seen:
        return text
    text = done
    return re.sub(rf"\x02{name}(\d+)\x03", lambda place: stored[int(place[1])], text) if stored else text


def outside_code(text: str, rule: Callable[[str], str]) -> str:
    """`rule` applied to all but Markdown's code, fenced or in a line."""
    if "`" not in text and "~~~" not in text:
        return rule(text)
    parts: list[str] = []  # prose and what stands for code in turn
    stored: list[str] = []
    at = 0
    for start, end in code_blocks(text):
        parts += [text[at:start], f"\x02c{len(stored)}\x03"]
        stored.append(text[start:end])
        at = end
    seen = "".join([*parts, text[at:]])
    if (done := shielded(seen, INLINE, rule, "i") if "`" in seen else rule(seen)) == seen:
        return text
    return CODE_STORED.sub(lambda place: stored[int(place[1])], done) if stored else done


CODE_STORED = re.compile(r"\x02c(\d+)\x03")


def code_blocks(text: str) -> Iterator[tuple[int, int]]:
    """Where each fenced block begins and ends, its fences with it; one that is never closed is none."""
    fence, opened = "", 0
    for mark in FENCE.finditer("\n" + text):
        if not fence:
            fence, opened = mark[1], mark.start()
        elif mark[1].startswith(fence) and not mark[0].strip("`~ \t\n"):
            fence = ""
            yield opened, mark.end() - 1


# ---- subtitles

TIME = r"(?:\d{1,2}:)?\d{2}:\d{2}[,.]\d{2,3}"
SUBTITLE = re.compile(rf"(?:(?<!\S)\d{{1,5}}[ \n])?(?<![\d:]){TIME} *--> *{TIME}(?: +(?:align|position|line|size|X1)[^\n]*)? ?\n?")
CUE = re.compile(rf"--> *{TIME}")  # begins with what the engine skips to: most arrows are code
LYRIC_TIME = r"\[\d{1,2}:\d{2}(?:[.:]\d{2,3})?\] ?"
LYRIC = re.compile(rf"\[(?<![^\n]\[){LYRIC_TIME[2:]}(?:{LYRIC_TIME})*")  # at the beginning of a line
DIALOGUE = re.compile(r"^Dialogue: \d+,(?:[^,\n]*,){8}", re.MULTILINE)


def strip_time_codes(text: str) -> str:
    """Subtitles (SRT, WebVTT, ASS) and timed lyrics without their times; `09:00 접수` stays."""
    if "-->" in text and CUE.search(text):
        text = SUBTITLE.sub("", text).removeprefix("WEBVTT")
    if "Dialogue: " in text:
        text = DIALOGUE.sub("", text)
    return LYRIC.sub("", text) if "[" in text and len(LYRIC.findall(text)) >= 3 else text


FORUM_TAG = re.compile(
    r"\[(?:(?<![A-Za-z0-9_)\]]\[)|(?=/))(/?)(b|i|u|s|quote|color|size|center|img|url|font|align|list)"
    r"(?:=[^\[\]\n]{0,200})?\]",
    re.IGNORECASE,
)


def strip_forum_tags(text: str) -> str:
    """Without BBCode's tags that are opened as well as closed."""
    found = FORUM_TAG.findall(text) if "[/" in text else []
    paired = {name.lower() for closing, name in found if closing} & {name.lower() for closing, name in found if not closing}
    return FORUM_TAG.sub(lambda tag: "" if tag[2].lower() in paired else tag[0], text) if paired else text
