"""What a user acts on, in Korean: LANG=ko shows errors, warnings and hints by messages.ko.txt, line by line, whatever it lacks in English.

The table holds pairs of lines: the English one, without indent and label, and below it the Korean one. A field has the last part of the
name that the code formats ({settings.length} → {length}; a call: what it counts). No particle follows a field, since 이/가 and 은/는
depend on its last sound. tests/test_messages.py finds lines that the code no longer has.
"""

import functools
import os
import re
from pathlib import Path


@functools.cache
def table() -> dict[str, str]:
    """{English line: Korean line}."""
    lines = Path(__file__).with_name("messages.ko.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line and not line.startswith("# ")]
    return dict(zip(kept[::2], kept[1::2], strict=True))


def language() -> str:
    """ "ko" where the locale asks for Korean, by the order that POSIX gives its variables; else "en"."""
    chosen = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "ko" if chosen.lower().startswith("ko") else "en"


@functools.cache
def expressions() -> list[tuple[re.Pattern, str]]:
    """(expression of an English line, its Korean template), the most particular first."""
    found = []
    for english, korean in sorted(table().items(), key=lambda pair: -len(re.sub(r"\{[^{}]*\}", "", pair[0]))):
        parts = re.split(r"(\{\w+[^{}]*\})", english.replace("{{", "\0").replace("}}", "\1"))
        names: list[str] = []
        pattern = ""
        for part in parts:
            field = re.fullmatch(r"\{(\w+)[^{}]*\}", part)
            if not field:
                pattern += re.escape(part.replace("\0", "{").replace("\1", "}"))
            elif field[1] in names:
                pattern += f"(?P={field[1]})"
            else:
                names.append(field[1])
                pattern += f"(?P<{field[1]}>.*?)"
        plain = re.sub(r"\{(\w+)[^{}]*\}", r"{\1}", korean.replace("{{", "\0").replace("}}", "\1"))
        found.append((re.compile(pattern), plain.replace("\0", "{{").replace("\1", "}}")))
    return found


TAG = r"(?:\[[a-z ]+\])?"
# of a line: its indent and, with two blanks behind it, its label
BEGINNING = re.compile(rf" *(?:{TAG}[✓✗](?:\[/\])? )?(?:{TAG}\w[\w ]{{0,11}}(?:\[/\])?  +)?")


def localized(text: str) -> str:
    """`text` with each line that the table has in Korean, its fields too, where the locale asks for it; else as it is."""
    return text if language() != "ko" else "\n".join(map(in_korean, text.split("\n")))


def in_korean(line: str) -> str:
    head = BEGINNING.match(line)[0]  # type: ignore[index]  # it matches any line
    for expression, korean in expressions():
        if found := expression.fullmatch(line, len(head)):
            return head + korean.format(**{name: in_korean(value) for name, value in found.groupdict().items()})
    return line
