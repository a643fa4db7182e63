"""Pages of NamuWiki and MediaWiki to readable text: labels, cells, headings and values stay; notes and navigation go.

A rule is asked for its own construct, wherever it stands. What other texts hold as well (`#` and `*` before a line, `{{x}}`, `||`)
is taken for markup only on a page that shows several kinds of sign, or macros that only a wiki has. All of it is linear.
"""

import re
from collections.abc import Callable

from kmlite.refine.text import GONE, close_gaps

NAMU = re.compile(
    r"\[(?:목차|각주|include\(|anchor\(|youtube\(|ruby\(|math\(|age\(|dday\(|pagecount|tableofcontents\]|clearfix\]"
    r"|\*[^\[\]\n]{0,40} [^\[\]]{0,200}[가-힣])"
)
NAMU_BRACES = re.compile(r"\{\{\{(?:#!(?:wiki|folding|html|syntax|if)\b|[+\-][1-5] )")
NO_TEXT_LINK = re.compile(r"\[\[ ?(?:분류|파일|그림|이미지|Category|File|Image|[a-z]{2,3}):[^\[\]]*\]\]", re.IGNORECASE)
KOREAN_LINK = re.compile(r"""(?<![A-Za-z0-9_)\]"'])\[\[(?![\s"'$])[^\[\]\n]*[가-힣][^\[\]\n]*(?<!["' ])\]\](?!\])""")
HEADING = re.compile(r"^[ \t]*(==+)#? ?(?! )([^=\n][^\n]*?) ?#?\1[ \t]*$", re.MULTILINE)
SPACED_HEADING = re.compile(r"^[ \t]*((?:= )+)([^=\n]*[가-힣][^=\n]*?)((?: =)+)[ \t]*$", re.MULTILINE)  # ` = = 제목 = =`
SPACED_END = re.compile(r" =[ \t]*$", re.MULTILINE)
BOLD = re.compile(r"'''(?! )[^'\n]*[가-힣][^'\n]*'''(?!')")
ITALIC = re.compile(r"''(?<!''')(?! )[^'\n]*[가-힣][^'\n]*''(?!')")
GLUED = re.compile(r"''(?<!''')('?)(?![' ])([^'\n]{1,200})''\1(?=[가-힣(])")
TEMPLATE = re.compile(r"\{\{(?![\s{])(?:[^{}|\n]*[가-힣][^{}|\n]*(?:\}\}|[|\n])|[a-zA-Z][^{}|\n]*\|)")
TABLE = re.compile(r"^\{\|[^|\n]*$", re.MULTILINE)
ITEM = re.compile(r"^[*#:;]+ ?(?:\[\[|''')", re.MULTILINE)


def kinds_of_sign(text: str) -> tuple[bool, int]:
    """(whether it has NamuWiki's own, how many kinds of MediaWiki's)."""
    namu = any(sign in text and expression.search(text) for sign, expression in (("[", NAMU), ("{{{", NAMU_BRACES), ("||", NAMU_ROW)))
    kinds = sum(worth for sign, expression, worth in KINDS if sign in text and expression.search(text)) + ("[br]" in text)
    if "==" in text:
        kinds += min(2, len(HEADING.findall(text)))
    if "[[" in text or "'''" in text:
        kinds += ITEM.search(text) is not None
    return namu, kinds


# ---- links

LINK = re.compile(r"\[\[(?!\s)(?:[^\[\]|\n]*\|)?([^\[\]|\n]*)\]\](?!\])")
OUTER_LINK = re.compile(r"\[https?://[^\s\[\]]+ ([^\[\]\n]*)\]")
FOOTNOTE = re.compile(r"\[\*[^\[\]]*\]")


def label(link: re.Match) -> str:
    _, bar, shown = link[0][2:-2].rpartition("|")
    return shown if bar else shown.lstrip("#:")


def strip_wiki_links(text: str, page: bool, namu: bool) -> str:
    for _ in range(4):  # links, captions and footnotes nest a few levels deep
        before = text
        text = KOREAN_LINK.sub(label, NO_TEXT_LINK.sub("", text))
        text = LINK.sub(label, text) if page else text
        text = FOOTNOTE.sub("", text) if namu else text
        if text == before:
            break
    return OUTER_LINK.sub(r"\1", text) if page else text


# ---- braces

RUN = re.compile(r"\{\{+|\}\}+")
OPENED = re.compile(
    r"#!(?P<name>\w+)[ \t]*|[+\-][0-5](?:[ \t]|(?=\n))|#(?!include|define|if|ifdef|ifndef|endif|pragma|undef|else|error|import)"
    r"[A-Za-z0-9]+(?:,#?[A-Za-z0-9]+)?[ \t]"
)
ATTRIBUTES = re.compile(r"""(?:[\w\-]+=(?:"[^"\n]*"|'[^'\n]*'|[^\s"'<>=]++)[ \t]*+)++""")
FOLDED = re.compile(r"[^\n]*\n|\[[^\[\]\n]*\][ \t]*")
PARTS_MOST = 20_000  # characters of a template that may be a value: a longer one is navigation
Piece = str | list  # a text, or the pieces that it is made of


def strip_braces(text: str, page: bool) -> str:
    """Innermost first, at any depth: of `{{{…}}}` the inner text, of a template its value or nothing.

    A stack of what stands open; inner pieces are handed on without being copied, so that depth costs nothing.
    """
    stack: list[tuple[int, int, list[Piece]]] = [(0, 0, [])]  # braces, where they begin, what stands behind them
    at = 0
    for run in RUN.finditer(text):
        stack[-1][2].append(text[at : run.start()])
        at = run.end()
        braces = at - run.start()
        if text[run.start()] == "{":
            stack.append((braces, run.start(), []))
            continue
        while braces and len(stack) > 1:
            opened, start, inner = stack[-1]
            size = 3 if opened >= 3 else 2
            if braces < size:
                break
            stack.pop()
            braces -= size
            around = text[max(0, start - 1) : start], text[at : at + 1]
            shown: Piece | None = inside_braces(inner, page) if size == 3 else template(flat(inner), *around, page)
            pieces: list[Piece] = ["{" * size, inner, "}" * size] if shown is None else [shown]
            if opened - size >= 2:
                stack.append((opened - size, start, pieces))
            else:
                stack[-1][2].extend(["{" * (opened - size), *pieces])
        stack[-1][2].append("}" * braces)
    stack[-1][2].append(text[at:])
    out: list[Piece] = []
    for opened, _, inner in stack:
        header = OPENED.match(inner[0]) if opened == 3 and inner and isinstance(inner[0], str) else None
        out += inside_braces(inner, page) or [] if header else ["{" * opened, *inner]  # a page may break off before it ends
    return close_gaps(flat(out))


def flat(pieces: list[Piece]) -> str:
    out: list[str] = []
    left = [iter(pieces)]
    while left:
        piece = next(left[-1], None)
        if piece is None:
            left.pop()
        elif isinstance(piece, str):
            out.append(piece)
        else:
            left.append(iter(piece))
    return "".join(out)


def inside_braces(inner: list[Piece], page: bool) -> list[Piece] | None:
    """What `{{{…}}}` shows: all but the size, colour or name that it begins with. None: no wiki's braces, and they stay."""
    first = inner[0] if inner and isinstance(inner[0], str) else ""
    opened = OPENED.match(first)
    if opened is None:
        return inner if page else None
    rest = first[opened.end() :]
    if name := (opened["name"] or "").lower():
        if found := ATTRIBUTES.match(rest):
            rest = rest[found.end() :]
        if name == "folding" and (found := FOLDED.match(rest)):
            rest = rest[found.end() :]
        elif name == "syntax":
            rest = rest.lstrip("abcdefghijklmnopqrstuvwxyz+#-0123456789")
        elif name == "if":
            rest = rest.partition("\n")[2]
    return [rest.removeprefix("\n"), *inner[1:]]


def number(args: list[str]) -> str:
    """`70 kg` of convert|70|kg|lb, `5-10 cm` of convert|5|-|10|cm|in."""
    for i, arg in enumerate(args[1:], 1):
        if not re.fullmatch(r"[\d.,+−\- /]*|to|and|by|x|×|±|–|~", arg):
            return f"{''.join(args[:i])} {arg}"
    return " ".join(args)


def fraction(args: list[str]) -> str:
    *whole, top, bottom = (["1"] if len(args) == 1 else []) + args
    return " ".join([*whole, f"{top}/{bottom}"])


def day(args: list[str]) -> str:
    return " ".join(arg + unit for arg, unit in zip([arg for arg in args if arg.isdecimal()], "년월일", strict=False))


VALUES: dict[str, Callable[[list[str]], str]] = {  # template: its value, of its arguments without names
    name: value
    for names, value in (
        ("lang, llang, 언어, color, colour, 색, 글자색, 글자 색, font color, 배경색", lambda args: args[min(1, len(args) - 1)]),
        (
            "nowrap, nobr, nobold, small, big, large, smaller, larger, 작게, 크게, 굵게, 기울임, 강조, strong, em, u, s, ins, sub, sup, "
            "위첨자, 아래첨자, 가운데, center, abbr, 약어, tooltip, 툴팁, math, 수학, mvar, code, 코드, mono, 글꼴, 발음, ipa, 원문, 한자, "
            "hanja, zh, kor, jpn, 일본어, 중국어, 영어, 한국어, nihongo, flag, 국기, flagcountry, 임시링크, ill, 링크, interlanguage link, "
            "인용, 인용문, quote, cquote, quotation, blockquote",
            lambda args: args[0],
        ),
        ("ruby, 루비, 루비 문자, furigana, ruby-ja", lambda args: f"{args[0]}({args[1]})" if len(args) > 1 else args[0]),
        ("convert, cvt, 변환, 단위변환, 단위 변환", number),
        ("val, 값, num, gaps, 숫자", "±".join),
        ("frac, sfrac, fraction, 분수", fraction),
        ("chem, chem2, 화학식, ce", "".join),
        ("날짜, date, dts, 시작일, 종료일, 개시일, 출간일, 출시일, start date, end date, birth date, 출생일, 사망일", day),
        ("출생일과 나이, 사망일과 나이, birth date and age", day),
    )
    for name in names.split(", ")
}
FUNCTIONS = ("formatnum", "lc", "uc", "lcfirst", "ucfirst", "padleft", "padright")
NO_VALUES = ("각주", "토막글", "출처", "주석", "참고", "목차", "위키데이터", "전거통제", "정리", "번역", "독자연구", "중립", "출처필요")
NAMED = re.compile(r"^\s*[\w \-]{1,40}=(?!=)")


def template(content: str, before: str, after: str, page: bool) -> str | None:
    """What `{{content}}` leaves: the value that it carries, or GONE. None: it is no template, as Jinja's, Vue's and LaTeX's."""
    head, bar, rest = content.partition("|")
    name = head.strip().lower().replace("_", " ")
    function, colon, _ = name.partition(":")
    if colon and function in FUNCTIONS:
        return head.partition(":")[2].strip()
    known = name in VALUES or name.startswith("lang-")
    korean = re.search("[가-힣]", name) is not None
    if head[:1] in (" ", "\t", "") and not (page and "|" in content):
        return None
    if not (known and bar) and not (korean and (bar or name.split(" ")[0] in NO_VALUES)) and not page:
        return None
    if page and not bar and not korean and re.fullmatch(r"[a-zA-Z0-9_.+\-]", name):  # \frac{{a}}{{b}}
        return None
    if len(content) > PARTS_MOST or not bar:
        return {"!": "|", "=": "=", "·": "·"}.get(name, GONE)
    args = [arg.strip() for arg in rest.split("|")]
    unit = next((arg.partition("=")[2].strip() for arg in args if re.match(r"u[l]?\s*=", arg)), "")
    args = [re.sub(r"^[12]\s*=\s*", "", arg) for arg in args if arg and (not NAMED.match(arg) or re.match(r"[12]\s*=", arg))]
    if args and known:
        shown = args[0] if name.startswith("lang-") else VALUES[name](args)
        return f"{shown} {unit}" if unit else shown
    # an unknown one in the middle of a sentence, with one argument and a particle behind it: without it the sentence has a hole
    in_sentence = bool(before) and before in " (（" and "가" <= after[:1] <= "힣"
    return args[0] if in_sentence and len(args) == 1 and name.split(" ")[0] not in NO_VALUES else GONE


# ---- macros, tables, marks

RUBY = re.compile(r"\[ruby\(([^,()\[\]\n]*)(?:,[^()\[\]\n]*?ruby=([^,()\[\]\n]*))?(?:,[^()\[\]\n]*)?\)\]", re.IGNORECASE)
MATH = re.compile(r"\[math\(((?:[^)\[\n]|\)(?!\])|\[(?!math\())*+)\)\]", re.IGNORECASE)
MACRO = re.compile(
    r"\[(?:목차|각주|clearfix|tableofcontents|footnote|pagecount|date|datetime"
    r"|(?:age|dday|include|anchor|youtube|kakaotv|navertv|nicovideo|vimeo|pagecount)\([^\[\]]*\))\]",
    re.IGNORECASE,
)
SWITCH = re.compile(r"__(?:(?:NO|FORCE)?(?:TOC|EDITSECTION|GALLERY|INDEX)|목차(?:숨김)?)__", re.IGNORECASE)
REDIRECT = re.compile(r"\A#(?:넘겨주기|redirect)[ \t]*(?=\S)", re.IGNORECASE)
CELL_OPTION = re.compile(
    r"<(?:[-|^v]+\d*|[a-z]*(?:align|bgcolor|color|width|height|bordercolor)=[^<>\n]*|[(:)]|#[0-9a-fA-F]{3,6}|(?:no|col|row)?(?:pad|keepall))>"
)
CELL_NAMES = ["rowspan", "colspan", "style", "class", "align", "valign", "width", "height", "bgcolor", "scope", "id"]
# the first letter stands before what looks back, so that the engine skips to it
CELL_NAME = "|".join(rf"{name[0]}(?<!\w{name[0]}){name[1:]}" for name in CELL_NAMES)
CELL_ATTRIBUTE = rf"""(?:{CELL_NAME})\s?=\s?(?:"[^"\n|]{{0,200}}"|[\w#%]{{1,30}}+)[ \t]*+"""
ATTRIBUTE_CELL = re.compile(rf"{CELL_ATTRIBUTE}(?:{CELL_ATTRIBUTE})*+\|(?!\|)[ \t]*")
NAMU_ROW = re.compile(r"^\|\|[^\n]*\|\|[ \t]*$", re.MULTILINE)
GALLERY = re.compile(r"<gallery\b[^<>\n]*>((?:[^<]|<(?!/?gallery\b))*+)</gallery>", re.IGNORECASE)
GALLERY_LINE = re.compile(r"^[^|\n]*\|?", re.MULTILINE)
DOC = re.compile(r"^</?doc\b[^<>\n]*>[ \t]*$", re.MULTILINE)
EDIT = re.compile(r"(?<=[^\s\[\]>→])\[(?:(?:원본 )?편집|편집 \| 원본 편집|소스 편집)\](?=[ \t]*$)", re.MULTILINE)
NOTE_LINE = re.compile(r"^##[^\n]*$", re.MULTILINE)
# not between digits: 30~~40% and 1990--1995 are ranges
STRUCK = re.compile(  # begins with a set of signs, which the engine skips to
    r"[~\-](?:(?<=~)(?<![\d~]~)~(?![\s~])[^~\n]{1,300}~~(?!~)|(?<=-)(?<![\w\-]-)-(?![\s\d\-])[^\-\n]{1,300}--(?![\w\-]))"
)
KINDS = (  # of sign that MediaWiki's pages have: what asks for it, and how many it counts for
    *(("[[", NO_TEXT_LINK, 2), ("[[", KOREAN_LINK, 1), ("{{", TEMPLATE, 1), ("{|", TABLE, 2)),
    *(("''", BOLD, 1), ("''", ITALIC, 1), ("~~", STRUCK, 1)),
)
RAISED = re.compile(r"\^\^([^\^\n]{1,40})\^\^|,,([^,\n]{1,40}),,|(?<![\w_])__(?! )([^_\n]{1,200})__(?![\w_])")
# what a list mark stands before is a blank, Korean or other markup: `#include`, `::1`, `>>> x` and `*args` are code
LIST_MARK = re.compile(r"^[ \t]*(?:[*#;:]+(?:[ \t]+|(?=[가-힣\[']))|>{1,2}(?!>)[ \t]*)|^-{4,}[ \t]*$", re.MULTILINE)
QUOTES = re.compile(r"'''(?!')([^\n]*?)'''|(?<!')''(?!')([^'\n]*)''(?!')")


def strip_tables(text: str) -> str:
    """MediaWiki's: the cells of each line apart by blanks, captions as they are."""
    out: list[str] = []
    depth = 0
    for line in text.split("\n"):
        bare = line.lstrip(" \t:")
        if bare.startswith("{|"):
            depth += 1
            out.append("")
        elif depth and bare.startswith("|}"):
            depth -= 1
            out.append(bare[2:])
        elif depth and bare.startswith("|-"):
            out.append("")
        elif depth and bare[:1] in ("|", "!"):
            cells = ATTRIBUTE_CELL.sub("", bare[1:].removeprefix("+").lstrip())
            out.append(cells.replace("||", " ").replace("!!", " "))
        else:
            out.append(line)
    return "\n".join(out)


def row_cells(line: str) -> str:
    bare = line.strip()
    return CELL_OPTION.sub("", line).replace("||", " ") if bare.startswith("||") or bare.endswith("||") else line


LEFT_OVERS: tuple[tuple[str, re.Pattern, str | Callable[[re.Match], str]], ...] = (  # the sign that asks for it, what goes, what stays
    ("편집]", EDIT, ""),
    ("doc", DOC, ""),
    ("<gallery", GALLERY, lambda found: GALLERY_LINE.sub("", found[1])),
    ("[", RUBY, lambda found: f"{found[1]}({found[2]})" if found[2] else found[1]),
    ("__", SWITCH, ""),
    ("[", MACRO, ""),
    ("==", HEADING, lambda found: found[2].strip(" ") if re.search("[가-힣]", found[2]) else found[0]),
    ("= ", SPACED_HEADING, lambda found: found[2].strip() if found[1].count("=") == found[3].count("=") else found[0]),
    ("||", NAMU_ROW, lambda row: row_cells(row[0])),
)


def strip_left_overs(text: str) -> str:
    """Markup that can be nothing else, on whatever page it stands."""
    for sign, expression, stays in LEFT_OVERS:
        if sign in text and (expression is not SPACED_HEADING or SPACED_END.search(text)):
            text = expression.sub(stays, text)
    if "{|" in text and TABLE.search(text):
        text = strip_tables(text)
    if '" |' in text or '"|' in text:
        text = ATTRIBUTE_CELL.sub("", text)
    return GLUED.sub(r"\2", text) if "''" in text else text


def strip_wiki(text: str) -> str:
    """The readable text of a page, or of what is left of one."""
    namu, kinds = kinds_of_sign(text)
    page = namu or kinds > 1
    if "[[" in text or namu:
        text = strip_wiki_links(text, page, namu)
    if "{{" in text:
        text = strip_braces(text, page)
    text = strip_left_overs(text)
    if not page:
        return text
    text = REDIRECT.sub("", text).replace("[br]", "\n")
    if namu:
        text = RAISED.sub(lambda found: found[1] or found[2] or found[3], NOTE_LINE.sub("", text))
    if "~~" in text or "--" in text:
        text = STRUCK.sub("", text)
    if "||" in text:
        text = "\n".join(row_cells(line) for line in text.split("\n"))
    if "''" in text:
        text = QUOTES.sub(lambda found: found[1] or found[2] or "", text)
    return LIST_MARK.sub("", text)
