"""`make chat ARGS=--web`: the same conversation on a page that this machine alone can open.

Bound to 127.0.0.1; every request must carry the random token that stands in the page's address, and name this machine as
its host, so that neither another user's program nor a page of another site (DNS rebinding) can talk to the model.
"""

import asyncio
import contextlib
import functools
import json
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import click

from kmlite import prompts
from kmlite.cli import console
from kmlite.sharing import chat

ADDRESS = "127.0.0.1"
HOSTS = {ADDRESS, "localhost"}
LARGEST = 1 << 20  # bytes of a request
PAGE = Path(__file__).with_name("chat.html")


def require() -> None:
    """Refuse where the server's packages are missing, before a model is loaded."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise click.ClickException(f"--web needs {error.name}. Run: make extras") from error


class Hall:
    """What the server holds: the models, the questions, and whose turn it is."""

    def __init__(self, speaker: chat.Speaker, others: list[str], draw: Callable[[], list[dict]], settings):
        self.speaker, self.others, self.settings = speaker, others, settings
        self.draw = functools.cache(draw)  # read when the first question is asked for
        self.loaded = {speaker.name: speaker}
        self.turn = threading.Lock()  # one model call at a time
        self.closing = threading.Event()

    def named(self, name: str) -> chat.Speaker:
        """A model by its name in the list of the page, loaded when first asked for. No other name is taken."""
        if name not in self.loaded:
            if name not in self.others:
                raise click.ClickException(f"no model called {name} here")
            short, folder = chat.find(name, self.settings.out)
            self.loaded[name] = chat.load(short, folder, self.settings.precision, self.settings.length)
        return self.loaded[name]

    def take_turn(self, stop: threading.Event) -> bool:
        """Wait until no other answer is being written; False where the one who asked has gone meanwhile."""
        while not self.turn.acquire(timeout=0.1):
            if stop.is_set() or self.closing.is_set():
                return False
        return True


def serve(speaker: chat.Speaker, others: list[str], draw: Callable[[], list[dict]], settings) -> None:
    """Serve until Ctrl-C. Raises click.ClickException where the port is taken."""
    import uvicorn

    try:
        listening = socket.create_server((ADDRESS, settings.port))
    except (OSError, OverflowError) as error:
        raise click.ClickException(f"port {settings.port} can't be had ({error}). ARGS='--web --port 0' takes a free one.") from error
    token = secrets.token_urlsafe(24)
    hall = Hall(speaker, others, draw, settings)
    app = guarded(application(hall), token)
    # no access log: it would write the token down
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=1)
    console.print("  Open this address in a browser of this machine; Ctrl-C closes it.")
    console.print("  Whoever holds the address gets in: keep it to yourself.")
    console.print(f"\n  http://{ADDRESS}:{listening.getsockname()[1]}/{token}/\n", soft_wrap=True)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        hall.closing.set()
        with hall.turn:  # an answer that is being written ends with its next token
            listening.close()
    console.print("  closed")


def guarded(app, token: str):
    """`app` behind the checks that every request must pass; it sees the path without the token.

    The token is the first part of the path. It is compared in constant time, and no-referrer keeps it from leaving the page.
    """
    from starlette.responses import PlainTextResponse

    async def guard(scope, receive, send):
        async def answered(reply):
            if reply["type"] == "http.response.start":
                reply = {**reply, "headers": [*reply["headers"], *FIXED_HEADERS]}
            await send(reply)

        if scope["type"] != "http":  # no page of ours opens a websocket
            return
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        host = hosts[0].decode("latin-1").rsplit(":", 1)[0] if len(hosts) == 1 else ""
        given, slash, rest = scope["path"].removeprefix("/").partition("/")
        if host not in HOSTS or not secrets.compare_digest(given.encode(), token.encode()) or not slash:
            refused = PlainTextResponse("403: take the whole address that make chat printed, as it stands.\n", 403)
            await refused(scope, receive, answered)
            return
        await app({**scope, "path": f"/{rest}"}, receive, answered)

    return guard


FIXED_HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def content_policy(nonce: str) -> str:
    """The page's own script and style, its own server, and nothing else."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def application(hall: Hall):
    """The page and what it asks for: about, exam, chat."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def page(_: Request):
        nonce = secrets.token_urlsafe(16)
        html = PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
        return HTMLResponse(html, headers={"Content-Security-Policy": content_policy(nonce)})

    async def about(_: Request):
        speaker = hall.speaker
        return JSONResponse(
            {
                "model": speaker.name,
                "others": hall.others,
                "warning": {"en": chat.WARNING[0], "ko": chat.WARNING[1]},
                "babble": {"en": chat.BABBLE[0], "ko": chat.BABBLE[1]} if speaker.stand_in else None,
            }
        )

    async def exam(request: Request):
        asked = await body(request)
        found = await asyncio.to_thread(ask_exam, hall, asked.get("number"), asked.get("model", hall.speaker.name))
        return JSONResponse(found)

    async def talk(request: Request):
        asked = await body(request)
        messages = conversation(asked.get("messages"))
        lines = answer_lines(hall, messages, asked.get("model", hall.speaker.name))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def refuse(_: Request, error: Exception):
        return JSONResponse({"error": str(error)}, 400)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/api/about", about),
            Route("/api/exam", exam, methods=["POST"]),
            Route("/api/chat", talk, methods=["POST"]),
        ],
        exception_handlers={click.ClickException: refuse},
    )


async def body(request) -> dict:
    """The JSON object of a request of up to LARGEST bytes."""
    from starlette.exceptions import HTTPException

    read = b""
    async for piece in request.stream():
        read += piece
        if len(read) > LARGEST:
            raise HTTPException(413, f"a request is {LARGEST:,} bytes at most")
    try:
        asked = json.loads(read)
    except ValueError as error:
        raise click.ClickException(f"not JSON: {error}") from error
    if not isinstance(asked, dict) or not isinstance(asked.get("model", ""), str):
        raise click.ClickException("not a request that this server knows")
    return asked


def conversation(messages: object) -> list[dict]:
    """The messages of a request, or a click error: turns of user and assistant, the user's first and last."""
    roles = ("user", "assistant")
    if (
        not isinstance(messages, list)
        or len(messages) % 2 == 0
        or not all(
            isinstance(m, dict) and m.get("role") == roles[i % 2] and isinstance(m.get("content"), str) for i, m in enumerate(messages)
        )
    ):
        raise click.ClickException("messages must be turns of user and assistant, the user's first and last")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def ask_exam(hall: Hall, number: object, name: str) -> dict:
    """A dev question by its number, else the next of the shuffled ones, with the model's probabilities and the truth."""
    questions = hall.draw()
    if not hall.take_turn(threading.Event()):
        raise click.ClickException("the server is closing")
    try:
        if number is None:
            questions.append(question := questions.pop(0))  # the whole split comes before one comes again
        else:
            asked = next((q for q in questions if q["number"] == number), None)
            if asked is None:
                raise click.ClickException(f"a number from 1 to {len(questions)}, not {number}")
            question = asked
        found = chat.ask_exam(hall.named(name), question)
    finally:
        hall.turn.release()
    shown = {key: question.get(key, "") for key in ("number", "subject", "question", *prompts.LETTERS)}
    return {**shown, **found, "of": len(questions), "truth": question["answer"], "model": name}


async def answer_lines(hall: Hall, messages: list[dict], name: str) -> AsyncIterator[str]:
    """An answer as lines of JSON: {"text"} for each piece, at last the figures, or {"error"}.

    The model works in a thread of its own. Whoever closes the connection stops it.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue = asyncio.Queue()
    stop = threading.Event()

    def put(item: dict | None) -> None:
        if not hall.closing.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        if not hall.take_turn(stop):
            return
        try:
            found = chat.answer(
                hall.named(name),
                messages,
                max_new_tokens=hall.settings.max_new_tokens,
                temperature=hall.settings.temperature,
                said=lambda text: put({"text": text}),
                stopped=lambda: stop.is_set() or hall.closing.is_set(),
            )
            put({key: found[key] for key in ("tokens", "seconds", "ended", "dropped")})
        except click.ClickException as error:
            put({"error": error.message})
        except Exception as error:  # it would end unseen in its thread, and the page would wait for ever
            put({"error": f"{type(error).__name__}: {error}"})
            raise
        finally:
            hall.turn.release()
            put(None)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (item := await queue.get()) is not None:
            yield json.dumps(item, ensure_ascii=False) + "\n"
    finally:
        stop.set()
