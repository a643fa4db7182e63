"""What all recipes share on the command line: settings from a dataclass, one console, errors without a traceback."""

import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from kmlite.messages import BEGINNING, localized

if TYPE_CHECKING:
    from rich.table import Table

TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # characters that turn the direction of writing
TAGS = re.compile(r"\[(bold red|bold|red|green)\](.*?)\[/\]", re.DOTALL)  # all the markup that recipes use

# what a line may be parted before: words, and commands up to three blanks or the end of the line
WORDS = re.compile(r"(?:(?:make|git|mv) [a-z]|\.venv/bin/|[A-Z_]+=\S+ make ).*?(?:\s{3,}|$)|\S+\s*")


def printable(text: str) -> str:
    """Text of a model or of data for a terminal: without control characters, which could move its cursor or set its title."""
    return "".join(c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in TURNING))


def counted(n: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def size_in_words(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


class PlainConsole(Console):
    """A console that shows names and data as they are: no markup but TAGS, no :emoji: codes, no control characters; by LANG in Korean."""

    def print(self, *objects: Any, **how: Any) -> None:
        if self.soft_wrap or not all(isinstance(thing, str) for thing in objects):
            super().print(*(localized(thing) if isinstance(thing, str) else thing for thing in objects), **how)
            return
        shown = (self.render_str(localized(thing), style=how.get("style", ""), markup=how.get("markup")) for thing in objects)
        super().print(*map(self.folded, shown), **{**how, "soft_wrap": True})

    def folded(self, text: Text, taken: int = 0) -> Text:
        """`text` with each line that is wider than the terminal going on below its own beginning, behind a label where it has one.

        No path and no command is cut: a wider one stays whole, to be copied. `taken`: columns that are taken before the first line.
        """
        out: list[Text] = []
        for line in text.split("\n", allow_blank=True):
            plain, room, at, ends = line.plain, self.width - (0 if out else taken), 0, []
            beginning = len(BEGINNING.match(plain)[0])  # type: ignore[index]  # it matches any line
            margin = cell_len(plain[:beginning]) or (2 if taken and not out else 0)
            for word in WORDS.finditer(plain):
                if word.start() > beginning and cell_len(plain[at : word.end()].rstrip()) > room:
                    at, room = word.start(), self.width - margin
                    ends.append(at)
            first, *more = line.divide(ends)
            out += [first, *(Text(" " * margin) + part for part in more)]
        return Text("\n").join(out)

    def render_str(self, text: str, *, style: Any = "", markup: bool | None = None, **how: Any) -> Text:
        out, at, text = Text(style=style, justify=how.get("justify"), overflow=how.get("overflow")), 0, printable(text)
        for tag in TAGS.finditer(text) if markup is not False else ():
            out.append(text[at : tag.start()]).append(tag[2], tag[1])
            at = tag.end()
        return out.append(text[at:])


def table(*columns: str, title: str = "") -> "Table":
    """An empty table that 80 columns hold: no frame, and cells that go on in the next line."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    return Table(*(Column(name, overflow="fold") for name in columns), title=localized(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def open_streams() -> None:
    """Make the three streams writable whatever the shell handed over: closed ones go to /dev/null, and a console in EUC-KR or ASCII
    shows ? for a character that it lacks."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: no file that is opened later becomes the output
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


open_streams()

# A log file or a pipe has no width of its own: 160 columns keep a table's row on one line there.
# Where several processes train together, the first one speaks.
console = PlainConsole(
    highlight=False,
    soft_wrap=not sys.stdout.isatty(),
    width=None if sys.stdout.isatty() else 160,
    quiet=os.environ.get("RANK", "0") != "0",
)

DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EIO: "the disk reports an input/output error",
    errno.EFBIG: "the file grew larger than its file system, or ulimit -f, allows",
    errno.ENAMETOOLONG: "the name is too long (255 bytes, 85 Hangul, at the most)",
    errno.EROFS: "that file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EEXIST: "that is a file, a folder is expected",
    errno.EISDIR: "that is a folder, a file is expected",
    errno.ENOTDIR: "that is a file, a folder is expected",
}


def setting(default: Any, why: str, choices: tuple[str, ...] = (), *, decides: bool = True) -> Any:
    """A field of a recipe's settings: its default and the reason for it, which `--help` shows.

    Args:
        decides: whether another value makes another result; where not, a finished step is not done again for it.
    """
    return field(default=default, metadata={"why": why, "choices": choices, "decides": decides})


def split_settings(settings: Any) -> tuple[dict, dict]:
    """The values of a recipe's settings: (those that decide its result, the others)."""
    parts: tuple[dict, dict] = ({}, {})
    for item in fields(settings):
        parts[not item.metadata["decides"]][item.name] = getattr(settings, item.name)
    return parts


def recipe(settings: type) -> Callable:
    """Make `work(settings)` a command with one option for each field of the frozen dataclass `settings`."""

    def decorate(work: Callable) -> click.Command:
        @functools.wraps(work)
        def run(**values: Any) -> None:
            with_plain_errors(work, settings(**values))

        for item in reversed(fields(settings)):
            kind = {"int": int, "float": float, "Path": click.Path(path_type=Path)}.get(getattr(item.type, "__name__", ""), str)
            name = item.name.replace("_", "-")
            choices = item.metadata["choices"]
            option = click.option(
                f"--{name}/--no-{name}" if item.type is bool else f"--{name}",
                item.name,
                type=None if item.type is bool else click.Choice(choices) if choices else kind,
                default=None if item.default is MISSING else item.default,
                show_default=True,
                help=item.metadata["why"],
            )
            run = option(run)
        return click.command(help=sys.modules[work.__module__].__doc__, context_settings={"max_content_width": 120})(run)

    return decorate


def with_plain_errors(work: Callable, *args: Any) -> None:
    """Run `work(*args)`; a full disk, a folder that can't be written, Ctrl-C or SIGTERM ends in one line and exit code 1."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        work(*args)
    except click.ClickException as error:
        raise shown_error(error.message) from error
    except KeyboardInterrupt:
        raise shown_error("stopped. What was finished is kept; run the same command to go on.") from None
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise shown_error(where + disk_error(error.errno)) from error
    except Exception as error:
        # safetensors, tokenizers and arrow report the disk's errors in exceptions of their own
        found = re.search(r"os error (\d+)|\[?errno:? (\d+)", str(error), re.IGNORECASE)
        code = int(found.group(1) or found.group(2)) if found else errno.ENOSPC if "No space left on device" in str(error) else 0
        if code not in DISK_ERRORS:
            raise
        raise shown_error(f"{disk_error(code)}\n  {str(error)[:300]}") from error


def shown_error(message: str) -> click.ClickException:
    """An error as the user reads it: by LANG in Korean, without control characters (it quotes data), folded on a terminal."""
    text = localized(printable(message))
    if sys.stderr.isatty():
        text = PlainConsole(stderr=True).folded(Text(text), taken=len("Error: ")).plain
    return click.ClickException(text)


def disk_error(code: int) -> str:
    """What the disk's error number means, and what to do about it."""
    what_to_do = "Name another place with REFINED=… or OUT=…, or correct its permissions."
    if code in (errno.ENOSPC, errno.EDQUOT):
        what_to_do = "Free some space and run the same command again: what was finished is kept."
    elif code == errno.EIO:
        what_to_do = "Look at the disk (dmesg), free or replace it, and run the same command again: what was finished is kept."
    return f"{localized(DISK_ERRORS[code])}.\n  {localized(what_to_do)}"


def check_writable(folder: Path) -> None:
    """Create `folder` and try to write in it, before hours are spent. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".write-test-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()
