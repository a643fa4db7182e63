"""Talk to a model: in the terminal, or with --web in the browser of this machine.

\b
    make chat                                  the newest finished stage in OUT
    make chat MODEL=model/00_trained           another stage, a model folder or a hub name
    make chat OUT=model/demo REFINED=data/demo/02_refined
    make chat ARGS=--web                       a page that this machine alone can open
    echo 고혈압이란? | make chat               without a terminal: answers each line, ends with the input

/exam draws a dev question and shows how likely the model holds each option, then which one is right; /compare OTHER lets
another stage's model answer the same. The test split is never asked.
"""

import contextlib
import os
import random
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from kmlite.cli import console, recipe, setting
from kmlite.model import PRECISIONS

SIDE_BY_SIDE = 120  # columns from which two answers stand beside each other
WIDEST = 100  # columns of running text: longer lines are hard to read


@dataclass(frozen=True)
class Settings:
    model: str = setting("", "a stage in OUT, its final, a model folder or a hub name; empty: the newest final in OUT")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote; /exam draws from its dev split")
    out: Path = setting(Path("model"), "folder of the trained models")
    max_new_tokens: int = setting(512, "tokens of an answer at most")
    temperature: float = setting(0.0, "0 takes the likeliest token, always the same; 0.7 or so varies, as people are used to")
    length: int = setting(4096, "tokens of a conversation with its answer; what is older is left out. Longer takes more memory")
    precision: str = setting("auto", "weights; auto takes what the free GPU memory holds", PRECISIONS)
    seed: int = setting(0, "of the questions that /exam draws, and of a temperature above 0")
    web: bool = setting(False, "serve a page on 127.0.0.1 in place of the terminal")
    port: int = setting(0, "port of the page; 0 takes a free one. Name one to reach it through ssh -L")
    remember: bool = setting(True, "keep typed lines for the arrow keys, in the user's state folder (never the answers)")


@dataclass
class Session:
    """One conversation in the terminal."""

    settings: Settings
    speaker: object  # kmlite.chat.Speaker
    others: dict = field(default_factory=dict)  # loaded for /compare, by folder
    messages: list[dict] = field(default_factory=list)
    drawn: list[dict] = field(default_factory=list)  # dev questions in the order in which /exam asks them
    asked: int = 0  # how many of them were asked
    last: dict | None = None  # the exam question that came after the last message
    told: bool = False  # that old turns are left out
    interrupted: bool = False  # Ctrl-C was the last thing pressed


def main(settings: Settings) -> None:
    if settings.max_new_tokens < 1 or settings.length - settings.max_new_tokens < 64:
        raise click.ClickException(
            f"--length {settings.length} leaves no room for a message beside an answer of --max-new-tokens {settings.max_new_tokens}."
        )
    if settings.temperature < 0:
        raise click.ClickException(f"--temperature {settings.temperature}: 0 or more.")

    from kmlite import chat

    if settings.web:
        from kmlite import web

        web.require()
    name, folder = chat.find(settings.model, settings.out)
    console.print(f"[bold]chat[/]  {name}")
    console.print(f"  model        {folder}", soft_wrap=True)
    with console.status("loading"):
        from kmlite import model

        model.fast_model()
        from transformers import set_seed

        set_seed(settings.seed)
        speaker = chat.load(name, folder, settings.precision, settings.length)
    how = "the likeliest token each time" if settings.temperature == 0 else f"drawn at temperature {settings.temperature}"
    console.print(f"  device       {'GPU' if model.on_gpu() else 'CPU'}, {speaker.precision} weights; {how}")
    console.print(f"  length       {speaker.length:,} tokens of conversation, {settings.max_new_tokens:,} of them for the answer")
    console.print()
    for line in chat.WARNING:
        note(line, "bold")
    for line in chat.BABBLE if speaker.stand_in else ():
        note(line, "bold yellow")
    console.print()
    session = Session(settings, speaker)
    if settings.web:
        web.serve(speaker, comparable(session), lambda: dev_questions(settings), settings)
        return
    note("/help lists the commands. Ctrl-C stops an answer, twice leaves.")
    try:
        talk(session, typed(session) if sys.stdin.isatty() else piped())
    except KeyboardInterrupt:
        console.print()
        sys.exit(130)


def talk(session: Session, lines: Iterator[str]) -> None:
    """Answer each line, or do what it says, until the lines end or /quit."""
    for line in lines:
        text = unicodedata.normalize("NFC", line).strip()  # a syllable of separate letters would be other tokens
        if not text:
            continue
        command, _, argument = text.partition(" ")
        if command == "/quit":
            return
        try:
            if command in COMMANDS:
                COMMANDS[command][0](session, argument.strip())
            elif re.fullmatch(r"/\w+", command):
                note(f"there is no {command}; /help lists the commands")
            else:
                message(session, text)
        except click.ClickException as error:
            note(error.message, "red")


def note(text: str, style: str = "") -> None:
    """A line of our own, indented; in a terminal broken between words."""
    from rich.text import Text

    from kmlite.chat import printable

    whole = Text(printable(text), style)
    for line in whole.wrap(console, min(console.width, WIDEST) - 2) if console.is_terminal else [whole]:
        console.print(Text("  ").append_text(line))


# ---- what is typed


def piped() -> Iterator[str]:
    """The lines of standard input, shown as they are taken."""
    from kmlite import chat

    for line in sys.stdin:
        if line.strip():
            console.print(f"\n> {chat.printable(line.strip())}", markup=False, emoji=False)
        yield line


def typed(session: Session) -> Iterator[str]:
    """Lines edited in the terminal: Korean and other wide characters, arrow keys, pasted lines, completion of commands."""
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

    prompt = PromptSession(
        history=typing_history(session.settings.remember),
        multiline=True,  # a pasted exam question keeps its lines
        prompt_continuation="  ",
        key_bindings=keys,
        completer=WordCompleter([*COMMANDS, "/quit", *(f"/compare {name}" for name in comparable(session))], sentence=True),
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


# ---- answers


@contextlib.contextmanager
def stoppable(session: Session) -> Iterator[threading.Event]:
    """Ctrl-C sets the event in place of ending the program; a second one ends it."""
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


def message(session: Session, text: str) -> None:
    """Say something to the model and show its answer while it is written."""
    asked = [*session.messages, {"role": "user", "content": text}]
    found = stream(session, session.speaker, asked)
    session.messages = [*asked, {"role": "assistant", "content": found["text"]}]
    session.last = None
    if found["dropped"] and not session.told:
        session.told = True
        note(
            f"The conversation has outgrown {session.speaker.length:,} tokens: from now on the model no longer hears its oldest turns. "
            "/reset starts anew.",
            "yellow",
        )


def stream(session: Session, speaker, messages: list[dict]) -> dict:
    from kmlite import chat

    flow = Flow()
    with stoppable(session) as stop:
        found = chat.answer(speaker, messages, **how(session), said=flow.write, stopped=stop.is_set)
    flow.end()
    note(footer(session, found), "dim")
    return found


def how(session: Session) -> dict:
    return {"max_new_tokens": session.settings.max_new_tokens, "temperature": session.settings.temperature}


def footer(session: Session, found: dict) -> str:
    rate = f"{found['tokens']} tokens, {found['tokens'] / max(found['seconds'], 1e-9):.0f} a second"
    cut = f"; cut at --max-new-tokens {session.settings.max_new_tokens}"
    return rate + {"turn": "", "length": cut, "stopped": "; stopped"}[found["ended"]]


class Flow:
    """Streamed text on the console, wrapped between words; as it comes where there is no terminal."""

    def __init__(self):
        self.width = min(console.width, WIDEST) if console.is_terminal else 0
        self.column, self.word = 0, ""

    def write(self, text: str) -> None:
        from kmlite.chat import printable

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


# ---- commands; /help shows their first lines


def exam(session: Session, argument: str) -> None:
    """a question of the dev split: its probabilities, then the truth"""
    from kmlite import chat

    if not session.drawn:
        session.drawn = dev_questions(session.settings)
    if argument:
        numbers = {question["number"]: question for question in session.drawn}
        if not argument.isdecimal() or int(argument) not in numbers:
            raise click.ClickException(f"/exam {argument}: a number from 1 to {len(session.drawn)}, or none to draw one.")
        question = numbers[int(argument)]
    else:
        question = session.drawn[session.asked % len(session.drawn)]
        session.asked += 1
    found = chat.ask_exam(session.speaker, question)
    subject = f" · {question['subject']}" if question.get("subject") else ""
    note(f"dev question {question['number']} of {len(session.drawn)}{subject}", "dim")
    console.print(chat.printable(question["question"]), markup=False, emoji=False, width=text_width())
    show_probabilities(question, {session.speaker.name: found})
    session.last = {"question": question, "found": found}


def dev_questions(settings: Settings) -> list[dict]:
    """The dev questions with their numbers, shuffled by the seed."""
    from kmlite import paths, records

    questions = records.read_exam(settings.refined, "dev")
    if not questions:
        raise click.ClickException(f"{paths.exam_split(settings.refined, 'dev')} is empty.")
    numbered = [{**question, "number": number} for number, question in enumerate(questions, 1)]
    random.Random(settings.seed).shuffle(numbered)
    return numbered


def text_width() -> int | None:
    return min(console.width, WIDEST) if console.is_terminal else None


def show_probabilities(question: dict, found: dict[str, dict]) -> None:
    """The options with the probability that each model gives them as bars, then the truth and who found it."""
    from rich.table import Table
    from rich.text import Text

    from kmlite import chat, prompts

    size = 20 if len(found) == 1 else 10
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=len(found) > 1)
    table.add_column("")
    for name in found:
        table.add_column(Text(name), width=size + 7, overflow="fold")
    table.add_column("", ratio=1, overflow="fold")
    for i, letter in enumerate(prompts.LETTERS):
        shares = [prediction["probabilities"][i] for prediction in found.values()]
        table.add_row(Text(letter), *(bar(share, size) for share in shares), Text(chat.printable(question[letter])))
    console.print(table)
    truth = question["answer"]
    for name, prediction in found.items():
        right = prediction["answer"] == truth
        who = "" if len(found) == 1 else f"{name}: "
        share = prediction["probabilities"][prompts.LETTERS.index(prediction["answer"])]
        held = f"(the five letters hold {prediction['mass']:.0%} of the next token's probability)"
        note(f"{who}{prediction['answer']} at {share:.0%}, {'right ✓' if right else 'wrong ✗'}  {held}")
    note(f"right is {truth}: {question[truth]}", "bold green")


def bar(share: float, size: int):
    """A share as a bar of up to `size` columns, in eighths of a column, with its percentage."""
    from rich.text import Text

    full, eighths = divmod(round(share * size * 8), 8)
    drawn = "█" * full + ("", *"▏▎▍▌▋▊▉")[eighths]
    return Text(f"{drawn:<{size}} {share:>6.1%}")


def compare(session: Session, argument: str) -> None:
    """let another model answer the last message or exam question"""
    from kmlite import chat

    if not argument:
        raise click.ClickException(f"/compare with which? {', '.join(comparable(session)) or 'a model folder or a hub name'}")
    if not session.last and not session.messages:
        raise click.ClickException("there is nothing to compare yet: say something, or /exam.")
    name, folder = chat.find(argument, session.settings.out)
    if folder.resolve() == session.speaker.folder.resolve():
        raise click.ClickException(f"{name} is the model that you talk to. Others: {', '.join(comparable(session)) or 'none yet'}")
    if folder not in session.others:
        with console.status(f"loading {name}"):
            session.others[folder] = chat.load(name, folder, session.settings.precision, session.settings.length)
        if session.others[folder].stand_in and not session.speaker.stand_in:
            note(f"{name}: {chat.BABBLE[0]}", "yellow")
    other = session.others[folder]
    if other.precision != session.speaker.precision:
        note(f"{name} in {other.precision} weights, {session.speaker.name} in {session.speaker.precision}", "yellow")
    if session.last:
        question = session.last["question"]
        show_probabilities(question, {session.speaker.name: session.last["found"], other.name: chat.ask_exam(other, question)})
        return
    asked, known = session.messages[:-1], session.messages[-1]["content"]
    if console.is_terminal and console.width >= SIDE_BY_SIDE:
        beside(session, other, asked, known)
        return
    console.print(f"── {session.speaker.name}", style="bold", markup=False)
    flow = Flow()
    flow.write(known)
    flow.end()
    console.print(f"── {other.name}", style="bold", markup=False)
    stream(session, other, asked)


def beside(session: Session, other, asked: list[dict], known: str) -> None:
    """Two answers in two columns, the right one while it is written."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from kmlite import chat

    said: list[str] = []

    def columns() -> Table:
        table = Table(width=min(console.width, 2 * WIDEST))
        for name in (session.speaker.name, other.name):
            table.add_column(Text(name), ratio=1)
        table.add_row(Text(chat.printable(known), overflow="fold"), Text(chat.printable("".join(said)), overflow="fold"))
        return table

    with (
        stoppable(session) as stop,
        Live(get_renderable=columns, console=console, transient=True, refresh_per_second=8),
    ):
        found = chat.answer(other, asked, **how(session), said=said.append, stopped=stop.is_set)
    console.print(columns())
    note(f"{other.name}: {footer(session, found)}", "dim")


def comparable(session: Session) -> list[str]:
    """The other models of OUT by name."""
    from kmlite import chat

    names = [*chat.finished(session.settings.out), *(["base"] if chat.beginning(session.settings.out) else [])]
    return [name for name in names if name != session.speaker.name]


def history(session: Session, _: str) -> None:
    """the conversation, and how much of its room it takes"""
    from kmlite import chat, prompts

    if not session.messages:
        note("nothing was said yet")
        return
    for said in session.messages:
        mark = "> " if said["role"] == "user" else ""
        console.print(f"{mark}{chat.printable(said['content'])}", markup=False, emoji=False, width=text_width())
    tokens = len(prompts.dialogue_ids(session.speaker.tokenizer, session.messages))
    room = session.speaker.length - session.settings.max_new_tokens
    note(f"{len(session.messages) // 2} turns, {tokens:,} of {room:,} tokens", "dim")


def reset(session: Session, _: str) -> None:
    """forget the conversation and start anew"""
    session.messages, session.last, session.told = [], None, False
    note("forgotten; a new conversation")


def show_help(session: Session, _: str) -> None:
    """this list"""
    for name, (work, takes) in COMMANDS.items():
        note(f"{name + ' ' + takes:<16} {work.__doc__}")
    note(f"{'/quit':<16} leave; so do Ctrl-D, and Ctrl-C twice")
    if others := comparable(session):
        note(f"to compare with: {', '.join(others)}, a model folder or a hub name")
    note("Enter sends, Alt-Enter starts a new line, the arrow keys bring back what was typed. Ctrl-C stops an answer.")
    note("An exam question stands outside the conversation: the model is asked it afresh, and forgets it.")


COMMANDS = {
    "/exam": (exam, "[NUMBER]"),
    "/compare": (compare, "OTHER"),
    "/history": (history, ""),
    "/reset": (reset, ""),
    "/help": (show_help, ""),
}

command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
