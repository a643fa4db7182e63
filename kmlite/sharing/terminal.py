"""What `make chat` needs of a terminal: lines that are typed, text that streams, bars, and Ctrl-C that stops an answer."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from kmlite.cli import console, printable

WIDEST = 100  # columns of running text: longer lines are hard to read


def note(text: str, style: str = "") -> None:
    """A line of our own, indented; in a terminal broken between words."""
    from rich.text import Text

    whole = Text(printable(text), style)
    for line in whole.wrap(console, min(console.width, WIDEST) - 2) if console.is_terminal else [whole]:
        console.print(Text("  ").append_text(line))


def text_width() -> int | None:
    return min(console.width, WIDEST) if console.is_terminal else None


# ---- what is typed


def piped() -> Iterator[str]:
    """The lines of standard input, shown as they are taken."""
    for line in sys.stdin:
        if line.strip():
            console.print(f"\n> {line.strip()}", markup=False)
        yield line


def typed(session, words: list[str], remember: bool) -> Iterator[str]:
    """Lines edited in the terminal: Korean and other wide characters, arrow keys, pasted lines.

    Args:
        session: its `interrupted` says whether Ctrl-C was the last thing pressed; twice in a row it ends the lines.
        words: commands to complete.
        remember: keep the lines for later chats.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event):
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")  # Alt-Enter
    def _(event):
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event):
        if event.current_buffer.text:
            event.current_buffer.reset()
            session.interrupted = False
        else:
            event.app.exit(exception=KeyboardInterrupt)

    prompt: PromptSession = PromptSession(
        history=typing_history(remember),
        multiline=True,  # a pasted exam question keeps its lines
        prompt_continuation="  ",
        key_bindings=keys,
        completer=WordCompleter(words, sentence=True),
        complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
        reserve_space_for_menu=4,
    )
    while True:
        try:
            console.print()
            line = prompt.prompt("> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            if session.interrupted:
                return
            session.interrupted = True
            note("Ctrl-C once more leaves; so do Ctrl-D and /quit")
            continue
        session.interrupted = False
        yield line


def typing_history(remember: bool):
    """What was typed in earlier chats, in a file that only its owner can read; nothing is kept where it can't be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if not remember:
        return InMemoryHistory()
    path = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "kmlite/chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        note(f"typed lines are not kept: {path} can't be written ({error.strerror})")
        return InMemoryHistory()
    return FileHistory(path)


# ---- what is shown


@contextlib.contextmanager
def stoppable(session) -> Iterator[threading.Event]:
    """Ctrl-C sets the event (and the session's `interrupted`) in place of ending the program; a second one ends it."""
    stop = threading.Event()

    def on_interrupt(*_):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        session.interrupted = True

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class Flow:
    """Streamed text on the console, wrapped between words; as it comes where there is no terminal."""

    def __init__(self):
        self.width = min(console.width, WIDEST) if console.is_terminal else 0
        self.column, self.word = 0, ""

    def write(self, text: str) -> None:
        text = printable(text)
        if not self.width:
            console.out(text, end="", highlight=False)
            return
        for character in text:
            if character in " \n\t":
                self.flush()
                self.put(character)
            else:
                self.word += character
                if cells(self.word) >= self.width:
                    self.flush()

    def flush(self) -> None:
        if self.column and self.column + cells(self.word) > self.width:
            self.put("\n")
        console.out(self.word, end="", highlight=False)
        self.column += cells(self.word)
        self.word = ""

    def put(self, space: str) -> None:
        if space == "\n" or self.column + 1 > self.width:
            console.out("\n", end="", highlight=False)
            self.column = 0
        else:
            console.out(" ", end="", highlight=False)
            self.column += 1

    def end(self) -> None:
        self.flush()
        console.print()


def cells(text: str) -> int:
    """Columns of a text in the terminal; a Korean syllable takes two."""
    from rich.cells import cell_len

    return cell_len(text)


def show_probabilities(question: dict, found: dict[str, dict]) -> None:
    """The options with the probability that each model gives them as bars, then the truth and who found it."""
    from rich.table import Table
    from rich.text import Text

    from kmlite import prompts

    size = 20 if len(found) == 1 else 10
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=len(found) > 1)
    table.add_column("")
    for name in found:
        table.add_column(Text(name), width=size + 7, overflow="fold")
    table.add_column("", ratio=1, overflow="fold")
    for i, letter in enumerate(prompts.LETTERS):
        shares = [prediction["probabilities"][i] for prediction in found.values()]
        table.add_row(Text(letter), *(bar(share, size) for share in shares), Text(printable(question[letter])))
    console.print(table)
    truth = question["answer"]
    for name, prediction in found.items():
        right = prediction["answer"] == truth
        who = "" if len(found) == 1 else f"{name}: "
        share = prediction["probabilities"][prompts.LETTERS.index(prediction["answer"])]
        held = f"(the five letters hold {prediction['mass']:.0%} of the next token's probability; {prediction['way']})"
        note(f"{who}{prediction['answer']} at {share:.0%}, {'right ✓' if right else 'wrong ✗'}  {held}")
    note(f"right is {truth}: {question[truth]}", "bold green")


def bar(share: float, size: int):
    """A share as a bar of up to `size` columns, in eighths of a column, with its percentage."""
    from rich.text import Text

    full, eighths = divmod(round(share * size * 8), 8)
    drawn = "█" * full + ("", *"▏▎▍▌▋▊▉")[eighths]
    return Text(f"{drawn:<{size}} {share:>6.1%}")
