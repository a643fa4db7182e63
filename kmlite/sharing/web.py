"""`make chat ARGS=--web`: the same conversation on a Gradio page that this machine alone can open.

Bound to 127.0.0.1; the page's address holds a random password, every request must carry it and name this machine as its host, and
a browser is told to load nothing from elsewhere. Messages are shown as plain text: what a model writes is never markup.
"""

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import click

from kmlite.cli import console, printable
from kmlite.messages import localized
from kmlite.sharing import chat

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


def serve(speaker: chat.Speaker, settings) -> None:
    """Serve until Ctrl-C, or raise a click error where the port is taken."""
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
        page(speaker, settings),
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

    fixed = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-store"}

    async def guard(scope, receive, send):
        async def with_headers(reply):
            if reply["type"] == "http.response.start":
                reply["headers"] = [*reply["headers"], *((name.encode(), value.encode()) for name, value in fixed.items())]
            await send(reply)

        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif scope["type"] == "http":  # the page opens no websocket
            given = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in (b"host", b"origin")]
            named = {urlsplit(f"//{value}" if name == b"host" else value).hostname for name, value in given}
            known = secrets.compare_digest(scope["path"].split("/")[1].encode(), password.encode())
            refused = PlainTextResponse("403: take the whole address that make chat printed, as it stands.\n", 403)
            await (app if known and named and named <= HOSTS else refused)(scope, receive, with_headers)

    return guard


def replies(speaker: chat.Speaker, settings):
    """What the page calls with a message: a generator of what the models say so far."""
    loaded: dict[str, chat.Speaker] = {}

    def said(by: chat.Speaker, history: list[dict], message: str, drawn: tuple[int, dict] | None) -> Iterator[str]:
        if drawn:
            yield chat.exam_text(*drawn, chat.ask_exam(by, drawn[1]))
            return
        messages = [*conversation(history), {"role": "user", "content": message}]
        with contextlib.closing(chat.answer(by, messages, settings.max_new_tokens, settings.temperature)) as turns:
            for turn in turns:
                yield printable(turn.text)

    def reply(message: str, history: list[dict], other: str, beside: list[dict]) -> Iterator[tuple[str, list[dict], list[dict]]]:
        """What the first model says so far, and the second's conversation so far: as it is shown, and as it is kept."""
        import gradio

        try:
            beside = [*(beside if history else []), {"role": "user", "content": message}] if other else []
            drawn = chat.exam_question(settings.refined, message.strip().removeprefix("/exam").strip()) if is_exam(message) else None
            first = ""
            for first in said(speaker, history, message, drawn):
                yield first, beside, beside
            if other:
                if other not in loaded:
                    loaded[other] = chat.load(*chat.find(other, settings.out), settings.precision)
                for second in said(loaded[other], beside[:-1], message, drawn):
                    answered = [*beside, {"role": "assistant", "content": second}]
                    yield first, answered, answered
        except click.ClickException as error:
            raise gradio.Error(localized(error.message), print_exception=False) from error

    return reply


def page(speaker: chat.Speaker, settings):
    """Gradio's ChatInterface with a second model's answers beside it."""
    import gradio

    plain: dict[str, Any] = {"render_markdown": False, "sanitize_html": True, "buttons": ["copy"], "height": "50vh"}
    with gradio.Blocks(title="kmlite", analytics_enabled=False) as blocks:
        notes = [*chat.WARNING, *(chat.STAND_IN if speaker.stand_in else ()), localized(HELP)]
        gradio.Markdown("  \n".join(notes))
        kept = gradio.State([])
        others = chat.others(settings.out, speaker.name)
        name = gradio.Dropdown([("–", ""), *others], value="", label=localized("a second model beside it"), visible=bool(others))
        with gradio.Row():
            second = gradio.Chatbot(label="the second model", visible=False, render=False, **plain)
            with gradio.Column():
                gradio.ChatInterface(
                    replies(speaker, settings),
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
    said = [{"role": turn["role"], "content": text_of(turn["content"])} for turn in history]
    pairs = [
        pair for pair in pairwise(said) if [turn["role"] for turn in pair] == ["user", "assistant"] and not is_exam(pair[0]["content"])
    ]
    return [turn for pair in pairs for turn in pair]


def text_of(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
