"""Talk to a model: in the terminal, or with --web in the browser of this machine.

\b
    make chat                                  the last finished stage in OUT
    make chat MODEL=model/00_trained           another stage, a model folder or a hub name
    make chat OUT=model/demo REFINED=data/demo/02_refined
    make chat ARGS=--web                       a page that this machine alone can open
    echo 고혈압이란? | make chat               without a terminal: answers each line, ends with the input

/exam draws a dev question and shows how likely the model holds each option, then which one is right; the test split is never
asked. The page takes a second model, which answers beside the first.
"""

import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from kmlite.cli import console, printable, recipe, setting
from kmlite.messages import localized
from kmlite.models.loading import PRECISIONS


@dataclass(frozen=True)
class Settings:
    model: str = setting("", "a stage in OUT, its final, a model folder or a hub name; empty: the last finished stage in OUT")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote; /exam draws from its dev split")
    out: Path = setting(Path("model"), "folder of the trained models")
    max_new_tokens: int = setting(512, "tokens of an answer at most")
    temperature: float = setting(0.0, "0 takes the likeliest token, always the same; 0.7 or so varies, as people are used to")
    precision: str = setting("auto", "weights; auto takes what the free GPU memory holds", PRECISIONS)
    thoughts: bool = setting(False, "show in the terminal what MedGemma 1.5 thinks before it answers")
    web: bool = setting(False, "serve a page on 127.0.0.1 in place of the terminal")
    port: int = setting(0, "port of the page; 0 takes a free one. Name one to reach it through ssh -L")


@dataclass
class Session:
    """One conversation in the terminal."""

    settings: Settings
    speaker: Any  # chat.Speaker
    messages: list[dict] = field(default_factory=list)


def main(settings: Settings) -> None:
    from kmlite.sharing import chat

    most = chat.LENGTH - 64
    if not 1 <= settings.max_new_tokens <= most:
        raise click.ClickException(f"--max-new-tokens {settings.max_new_tokens}: 1 to {most} of a conversation's {chat.LENGTH} tokens.")
    if settings.temperature < 0:
        raise click.ClickException(f"--temperature {settings.temperature}: 0 or more.")
    if settings.web:
        from kmlite.sharing import web

        web.require()
    name, folder = chat.find(settings.model, settings.out)
    console.print(f"[bold]chat[/]  {name}")
    console.print(f"  model        {folder}", soft_wrap=True)
    with console.status("loading"):
        from kmlite.models import loading

        loading.fast_model()
        speaker = chat.load(name, folder, settings.precision)
    how = "the likeliest token each time" if settings.temperature == 0 else f"drawn at temperature {settings.temperature}"
    console.print(f"  device       {'GPU' if loading.on_gpu() else 'CPU'}, {speaker.precision} weights; {how}")
    console.print(f"  length       {speaker.length:,} tokens of conversation, {settings.max_new_tokens:,} of them for the answer")
    console.print()
    for line in chat.WARNING:
        note(line, "bold")
    for line in chat.STAND_IN if speaker.stand_in else ():
        note(line, "bold yellow")
    console.print()
    if settings.web:
        web.serve(speaker, settings)
        return
    note("/help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.")
    try:
        talk(Session(settings, speaker), typed() if sys.stdin.isatty() else piped())
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


def message(session: Session, text: str) -> None:
    """Say something to the model and print its answer while it is written, then how it ended; Ctrl-C stops it."""
    from kmlite.sharing import chat

    asked, speaker, settings = [*session.messages, {"role": "user", "content": text}], session.speaker, session.settings
    turn, shown, thought = chat.Turn("", 0, 0, 0), 0, 0
    with stoppable() as stop, closing(chat.answer(speaker, asked, settings.max_new_tokens, settings.temperature)) as turns:
        for turn in turns:
            if settings.thoughts and thought < len(turn.thought):
                console.out(printable(turn.thought[thought:]), style="dim", end="", highlight=False)
                thought = len(turn.thought)
            if thought and turn.text and not shown:
                console.print("\n")
            console.out(printable(turn.text[shown:]), end="", highlight=False)
            shown = len(turn.text)
            if stop.is_set() and not turn.ended:
                turn = turn._replace(ended="stopped")
                break
    console.print()
    why = {"length": f"; cut at --max-new-tokens {settings.max_new_tokens}", "stopped": "; stopped", "thought": "; its thought never ended"}
    note(f"{turn.tokens} tokens, {turn.tokens / max(turn.seconds, 1e-9):.0f} a second{why.get(turn.ended, '')}", "dim")
    session.messages = [*asked[2 * turn.dropped :], {"role": "assistant", "content": turn.text}]
    if turn.dropped:
        note(f"the oldest {turn.dropped} turns no longer fit into {speaker.length:,} tokens and are forgotten", "yellow")


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, a second one raises KeyboardInterrupt. The first does not: an exception that comes while a finalizer runs,
    as in a garbage collection, is lost, and with it the Ctrl-C."""
    asked = threading.Event()

    def note_it(*_) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, note_it)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


# ---- commands; /help shows their first lines


def exam(session: Session, argument: str) -> None:
    """a question of the dev split: its probabilities, then the truth"""
    from kmlite.sharing import chat

    number, question = chat.exam_question(session.settings.refined, argument)
    console.print(chat.exam_text(number, question, chat.ask_exam(session.speaker, question)), markup=False)


def reset(session: Session, _: str) -> None:
    """forget the conversation and start anew"""
    session.messages = []
    note("forgotten; a new conversation")


def show_help(session: Session, _: str) -> None:
    """this list"""
    for name, (work, takes) in COMMANDS.items():
        note(f"{name + ' ' + takes:<16} {localized(work.__doc__ or '')}")
    note(f"{'/quit':<16} {localized('leave; so does Ctrl-D')}")
    note("Enter sends, Alt-Enter starts a new line, the arrow keys bring back what was typed. Ctrl-C stops an answer.")
    note("An exam question stands outside the conversation: the model is asked it by itself.")


COMMANDS = {"/exam": (exam, "[NUMBER]"), "/reset": (reset, ""), "/help": (show_help, "")}


# ---- the terminal


def note(text: str, style: str = "") -> None:
    """A line of our own, indented and by LANG in Korean."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(localized(printable(text)), style), (0, 0, 0, 2), expand=False))


def piped() -> Iterator[str]:
    """The lines of standard input, shown as they are taken."""
    for line in sys.stdin:
        if line.strip():
            console.print(f"\n> {line.strip()}", markup=False)
        yield line


def typed() -> Iterator[str]:
    """Lines edited in the terminal: Korean and other wide characters, arrow keys, pasted lines."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))  # Alt-Enter
    # multiline: a pasted exam question keeps its lines
    prompt: PromptSession = PromptSession(
        multiline=True, prompt_continuation="  ", key_bindings=keys, completer=WordCompleter([*COMMANDS, "/quit"], sentence=True)
    )
    while True:
        try:
            console.print()
            yield prompt.prompt("> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            note("Ctrl-D or /quit leaves")


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
