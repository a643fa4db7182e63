"""`make chat ARGS=--web`: the same conversation on a Gradio page that this machine alone can open.

Bound to 127.0.0.1; the page's address holds a random password, every request must carry it and name this machine as its host, and
a browser is told to load nothing from elsewhere. Messages are shown as plain text: what a model writes is never markup.
"""

import contextlib
import functools
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import click

from kmlite import prompts
from kmlite.cli import console, printable
from kmlite.sharing import chat
from kmlite.sharing.terminal import bar

ADDRESS = "127.0.0.1"
HOSTS = {ADDRESS, "localhost"}
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; frame-ancestors 'none'"  # Gradio needs inline code
)
HELP = "/exam draws a question of the dev split, /exam 7 takes the seventh: each option's probability, then which one is right."


def require() -> None:
    """Refuse where Gradio is missing, before a model is loaded."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read on import: it would call its makers
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise click.ClickException(f"--web needs {error.name}. Run: make extras") from error


def serve(speaker: chat.Speaker, others: list[str], draw: Callable[[], list[dict]], settings) -> None:
    """Serve until Ctrl-C.

    Args:
        others: names of the models that may answer beside the first.
        draw: the dev questions, read when the first is asked.

    Raises:
        click.ClickException: the port is taken.
    """
    import gradio
    import uvicorn
    from fastapi import FastAPI

    try:
        listening = socket.create_server((ADDRESS, settings.port))
    except (OSError, OverflowError) as error:
        raise click.ClickException(f"port {settings.port} can't be had ({error}). ARGS='--web --port 0' takes a free one.") from error
    password = secrets.token_urlsafe(24)
    app = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page(speaker, others, draw, settings),
        path=f"/{password}",
        server_name=ADDRESS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=gradio.themes.Base(font=["sans-serif"], font_mono=["monospace"]),  # no font from another server
    )
    # no access log: it would write the password down
    config = uvicorn.Config(guarded(app, password), log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    console.print("  Open this address in a browser of this machine; Ctrl-C closes it.")
    console.print("  Whoever holds the address gets in: keep it to yourself.")
    console.print(f"\n  http://{ADDRESS}:{listening.getsockname()[1]}/{password}/\n", soft_wrap=True)
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    console.print("  closed")


def guarded(app, password: str):
    """`app` for requests that name this machine as host and origin and carry the password as the first part of their path."""
    from starlette.responses import PlainTextResponse

    async def guard(scope, receive, send):
        async def with_headers(reply):
            if reply["type"] == "http.response.start":
                fixed = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"cache-control", b"no-store"),
                ]
                reply = {**reply, "headers": [*reply["headers"], *fixed]}
            await send(reply)

        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif scope["type"] == "http":  # the page opens no websocket
            named = {urlsplit(f"//{value.decode('latin-1')}").hostname for name, value in scope["headers"] if name == b"host"}
            named |= {urlsplit(value.decode("latin-1")).hostname for name, value in scope["headers"] if name == b"origin"}
            given = scope["path"].split("/")[1].encode()
            inside = bool(named) and named <= HOSTS and secrets.compare_digest(given, password.encode())
            refused = PlainTextResponse("403: take the whole address that make chat printed, as it stands.\n", 403)
            await (app if inside else refused)(scope, receive, with_headers)

    return guard


def page(speaker: chat.Speaker, others: list[str], draw: Callable[[], list[dict]], settings):
    """Gradio's ChatInterface with a second model's answers beside it."""
    import gradio

    loaded = {speaker.name: speaker}
    questions = functools.cache(lambda: {question["number"]: question for question in draw()})
    asked = iter(())  # numbers of the questions in the order in which /exam draws them

    def named(name: str) -> chat.Speaker:
        if name not in loaded:
            loaded[name] = chat.load(*chat.find(name, settings.out), settings.precision, settings.length)
        return loaded[name]

    def question(argument: str) -> dict:
        nonlocal asked
        number = int(argument) if argument.isdecimal() else next(asked, None) if not argument else 0
        if number is None:  # the first, or all were asked
            asked = iter(questions())
            number = next(asked)
        if number not in questions():
            raise click.ClickException(f"/exam {argument}: a number from 1 to {len(questions())}, or none to draw one.")
        return questions()[number]

    def reply(message: str, history: list[dict], other: str, beside: list[dict]) -> Iterator[tuple[str, list[dict], list[dict]]]:
        """What the first model says so far, and the second's conversation so far: as it is shown, and as it is kept."""
        try:
            beside = [*(beside if history else []), {"role": "user", "content": message}] if other else []
            drawn = question(message.removeprefix("/exam").strip()) if is_exam(message) else None
            said = ""
            for said in [probabilities(speaker, drawn)] if drawn else written(speaker, history, message, settings):
                yield said, beside, beside
            if other:
                second = named(other)
                for text in [probabilities(second, drawn)] if drawn else written(second, beside[:-1], message, settings):
                    answered = [*beside, {"role": "assistant", "content": text}]
                    yield said, answered, answered
        except click.ClickException as error:
            raise gradio.Error(error.message, print_exception=False) from error

    plain: dict[str, Any] = {"render_markdown": False, "sanitize_html": True, "buttons": ["copy"], "height": "65vh"}
    with gradio.Blocks(title="kmlite", analytics_enabled=False) as blocks:
        notes = [*chat.WARNING, *(chat.STAND_IN if speaker.stand_in else ()), HELP]
        gradio.Markdown("  \n".join(notes))
        kept = gradio.State([])
        name = gradio.Dropdown(["", *others], value="", label="a second model beside it", visible=bool(others))
        with gradio.Row():
            second = gradio.Chatbot(label="the second model", visible=False, render=False, **plain)
            with gradio.Column():
                gradio.ChatInterface(
                    reply,
                    chatbot=gradio.Chatbot(label=speaker.name, **plain),
                    additional_inputs=[name, kept],
                    additional_outputs=[second, kept],
                    concurrency_limit=1,
                    flagging_mode="never",
                    analytics_enabled=False,
                )
            with gradio.Column(visible=False) as column:
                second.render()
        name.change(lambda name: (gradio.update(visible=bool(name)), gradio.update(visible=bool(name), label=name)), name, [column, second])
    return blocks


def is_exam(message: str) -> bool:
    return message.split(maxsplit=1)[:1] == ["/exam"]


def conversation(history: list[dict]) -> list[dict]:
    """The answered turns of Gradio's history, without exam questions: those are asked by themselves."""
    said = [(turn["role"], text_of(turn["content"])) for turn in history]
    answered = [(a, b) for (asks, a), (answers, b) in pairwise(said) if (asks, answers) == ("user", "assistant") and not is_exam(a)]
    return [{"role": role, "content": text} for pair in answered for role, text in zip(("user", "assistant"), pair, strict=True)]


def text_of(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def written(speaker: chat.Speaker, history: list[dict], message: str, settings) -> Iterator[str]:
    """The model's answer, longer each time; it ends where the one who listens has gone."""
    messages = [*conversation(history), {"role": "user", "content": message}]
    pieces: SimpleQueue = SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        how = {"max_new_tokens": settings.max_new_tokens, "temperature": settings.temperature}
        try:
            chat.answer(speaker, messages, **how, said=pieces.put, stopped=stop.is_set)
            pieces.put(None)
        except BaseException as error:  # raised again below, where it is shown
            pieces.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    text = ""
    try:
        while isinstance(piece := pieces.get(), str):
            text += printable(piece)
            yield text
        if piece is not None:
            raise piece
    finally:
        stop.set()
        thread.join()


def probabilities(speaker: chat.Speaker, question: dict) -> str:
    """An exam question, how likely the model holds each option, and which one is right, as text."""
    found = chat.ask_exam(speaker, question)
    subject = f" · {question['subject']}" if question.get("subject") else ""
    options = zip(prompts.LETTERS, found["probabilities"], strict=True)
    truth = question["answer"]
    lines = [
        f"dev question {question['number']}{subject}",
        question["question"],
        "",
        *(f"{letter}) {question[letter]}\n{bar(share, 20)}" for letter, share in options),
        "",
        f"{found['answer']} is {'right ✓' if found['answer'] == truth else 'wrong ✗'}; right is {truth}: {question[truth]}",
        f"The five letters hold {found['mass']:.0%} of the next token's probability; {found['way']}.",
    ]
    return printable("\n".join(lines))
