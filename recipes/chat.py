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

import random
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from kmlite.cli import console, printable, recipe, setting
from kmlite.models.loading import PRECISIONS
from kmlite.sharing.terminal import WIDEST, Flow, note, piped, show_probabilities, stoppable, text_width, typed

SIDE_BY_SIDE = 120  # columns from which two answers stand beside each other


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
    speaker: Any  # kmlite.chat.Speaker
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

    from kmlite.sharing import chat

    if settings.web:
        from kmlite.sharing import web

        web.require()
    name, folder = chat.find(settings.model, settings.out)
    console.print(f"[bold]chat[/]  {name}")
    console.print(f"  model        {folder}", soft_wrap=True)
    with console.status("loading"):
        from kmlite.models import loading

        loading.fast_model()
        from transformers import set_seed

        set_seed(settings.seed)
        speaker = chat.load(name, folder, settings.precision, settings.length)
    how = "the likeliest token each time" if settings.temperature == 0 else f"drawn at temperature {settings.temperature}"
    console.print(f"  device       {'GPU' if loading.on_gpu() else 'CPU'}, {speaker.precision} weights; {how}")
    console.print(f"  length       {speaker.length:,} tokens of conversation, {settings.max_new_tokens:,} of them for the answer")
    console.print()
    for line in chat.WARNING:
        note(line, "bold")
    for line in chat.STAND_IN if speaker.stand_in else ():
        note(line, "bold yellow")
    console.print()
    session = Session(settings, speaker)
    if settings.web:
        web.serve(speaker, comparable(session), lambda: dev_questions(settings), settings)
        return
    note("/help lists the commands. Ctrl-C stops an answer, twice leaves.")
    try:
        talk(session, typed(session, completions(session), settings.remember) if sys.stdin.isatty() else piped())
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


# ---- answers


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
    from kmlite.sharing import chat

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
    return rate + {"turn": "", "length": cut, "stopped": "; stopped", "thought": "; its thought never ended"}[found["ended"]]


# ---- commands; /help shows their first lines


def exam(session: Session, argument: str) -> None:
    """a question of the dev split: its probabilities, then the truth"""
    from kmlite.sharing import chat

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
    console.print(question["question"], markup=False, width=text_width())
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


def compare(session: Session, argument: str) -> None:
    """let another model answer the last message or exam question"""
    from rich.markup import escape

    from kmlite.sharing import chat

    if not argument:
        raise click.ClickException(f"/compare with which? {', '.join(comparable(session)) or 'a model folder or a hub name'}")
    if not session.last and not session.messages:
        raise click.ClickException("there is nothing to compare yet: say something, or /exam.")
    name, folder = chat.find(argument, session.settings.out)
    if folder.resolve() == session.speaker.folder.resolve():
        raise click.ClickException(f"{name} is the model that you talk to. Others: {', '.join(comparable(session)) or 'none yet'}")
    if folder not in session.others:
        with console.status(escape(f"loading {name}")):
            session.others[folder] = chat.load(name, folder, session.settings.precision, session.settings.length)
        if session.others[folder].stand_in and not session.speaker.stand_in:
            note(f"{name}: {chat.STAND_IN[0]}", "yellow")
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

    from kmlite.sharing import chat

    said: list[str] = []

    def columns() -> Table:
        table = Table(width=min(console.width, 2 * WIDEST))
        for name in (session.speaker.name, other.name):
            table.add_column(Text(name), ratio=1)
        table.add_row(Text(printable(known), overflow="fold"), Text(printable("".join(said)), overflow="fold"))
        return table

    with (
        stoppable(session) as stop,
        Live(get_renderable=columns, console=console, transient=True, refresh_per_second=8),
    ):
        found = chat.answer(other, asked, **how(session), said=said.append, stopped=stop.is_set)
    console.print(columns())
    note(f"{other.name}: {footer(session, found)}", "dim")


def completions(session: Session) -> list[str]:
    return [*COMMANDS, "/quit", *(f"/compare {name}" for name in comparable(session))]


def comparable(session: Session) -> list[str]:
    """The other models of OUT by name."""
    from kmlite.sharing import chat

    names = [*chat.finished(session.settings.out), *(["base"] if chat.beginning(session.settings.out) else [])]
    return [name for name in names if name != session.speaker.name]


def history(session: Session, _: str) -> None:
    """the conversation, and how much of its room it takes"""
    from kmlite import prompts

    if not session.messages:
        note("nothing was said yet")
        return
    for said in session.messages:
        mark = "> " if said["role"] == "user" else ""
        console.print(f"{mark}{said['content']}", markup=False, width=text_width())
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
