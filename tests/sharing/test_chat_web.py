"""The page of `make chat ARGS=--web`: who gets in, what it answers, and that a browser asks no other machine for anything."""

import http.client
import re
import socket
import sys
import threading
import time
from types import SimpleNamespace

import browser
import click
import pytest

from kmlite.sharing import chat
from recipes import chat as recipe

pytest.importorskip("gradio", reason="make extras adds it")


class Served:
    """A server in a thread, and its address."""

    def __init__(self, speaker, settings):
        import uvicorn

        from kmlite.sharing import web

        web.require()
        servers, said = [], []

        class Noted(uvicorn.Server):
            def __init__(self, config):
                super().__init__(config)
                servers.append(self)

        with pytest.MonkeyPatch().context() as patch:
            patch.setattr(uvicorn, "Server", Noted)
            patch.setattr(web.console, "print", lambda *text, **_: said.append(" ".join(map(str, text))))
            work = (speaker, settings)
            self.thread = threading.Thread(target=web.serve, args=work)
            self.thread.start()
            end = time.monotonic() + 120
            while not (servers and servers[0].started):
                assert self.thread.is_alive() and time.monotonic() < end
                time.sleep(0.05)
        self.server = servers[0]
        self.address = re.search(r"http://\S+", "\n".join(said))[0]
        port, self.password = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/", self.address).groups()
        self.port = int(port)

    def ask(self, path: str, headers: dict | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers={"Host": f"127.0.0.1:{self.port}", **(headers or {})})
        return connection.getresponse()

    def close(self):
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def settings(refined, out):
    return recipe.Settings(refined=refined, out=out, max_new_tokens=12, web=True)


@pytest.fixture(scope="module")
def served(speaker, settings):
    served = Served(speaker, settings)
    yield served
    served.close()


# ---- who gets in


@pytest.mark.parametrize("path", ["", "config", "gradio_api/info", "theme.css", "gradio_api/queue/join", "nowhere"])
@pytest.mark.parametrize("given", ["", "wrong", "SHORTER", "LONGER"])
def test_nothing_without_the_password(served, path, given):
    given = {"SHORTER": served.password[:-1], "LONGER": served.password + "a"}.get(given, given)
    reply = served.ask(f"/{given}/{path}")
    assert reply.status == 403
    assert len(reply.read()) < 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("Host", host) for host in ("evil.example", "127.0.0.1.evil.example:PORT", "0.0.0.0:PORT", "[::1]:PORT", "")],
        *[("Origin", origin) for origin in ("http://evil.example", "https://127.0.0.1.evil.example", "null", "file://")],
    ],
)
def test_nothing_under_another_host_or_for_another_origin(served, name, value):
    assert served.ask(f"/{served.password}/", {name: value.replace("PORT", str(served.port))}).status == 403


def test_this_machine_by_either_name(served):
    for host in ("127.0.0.1:8000", "localhost"):  # any port: an ssh tunnel may begin at another
        assert served.ask(f"/{served.password}/", {"Host": host, "Origin": f"http://{host}"}).status == 200


def test_bound_to_this_machine_alone(served):
    """127.0.0.2 is this machine too, and a server that listens on all addresses answers there."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.port), timeout=5)


def test_a_port_that_is_taken_is_said(speaker, refined, out):
    from kmlite.sharing import web

    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = recipe.Settings(refined=refined, out=out, port=taken.getsockname()[1])
        with pytest.raises(click.ClickException, match="can't be had"):
            web.serve(speaker, settings)


def test_gradio_missing(monkeypatch):
    from kmlite.sharing import web

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(click.ClickException, match="make extras"):
        web.require()


def user(text: str) -> dict:
    return {"role": "user", "content": text}


# ---- what it says


def test_a_conversation_leaves_exam_questions_and_broken_turns_out():
    from kmlite.sharing.web import conversation

    parts = [{"type": "text", "text": "나"}]
    history = [("user", "/exam 3"), ("assistant", "A) …"), ("user", "가"), ("assistant", parts), ("user", "stopped at once")]
    found = conversation([{"role": role, "content": content} for role, content in history])
    assert found == [{"role": "user", "content": "가"}, {"role": "assistant", "content": "나"}]


def test_a_second_model_answers_beside_the_first_and_each_hears_its_own_conversation(monkeypatch, refined):
    from kmlite.sharing import web

    def heard(speaker, messages, *_):
        yield chat.Turn(f"\x1b{speaker.name} {[m['content'] for m in messages]}", 1, 1, 0)

    monkeypatch.setattr(chat, "find", lambda name, out: (name, out))
    monkeypatch.setattr(chat, "load", lambda name, *_: SimpleNamespace(name=name))
    monkeypatch.setattr(chat, "answer", heard)
    monkeypatch.setattr(chat, "ask_exam", lambda by, _: {"answer": "A", "probabilities": [0.2] * 5, "mass": 1})
    reply = web.replies(SimpleNamespace(name="first"), recipe.Settings(refined=refined))
    said = ("", [])
    history: list[dict] = []
    for message in ("가", "/exam 2", "나"):
        *said, kept = list(reply(message, history, "second", said[1]))[-1]
        assert kept == said[1]
        history += [user(message), {"role": "assistant", "content": said[0]}]
    assert "dev question 2" in history[3]["content"]
    assert said[0] == "first ['가', \"first ['가']\", '나']"
    assert said[1][-1]["content"] == "second ['가', \"second ['가']\", '나']"
    assert list(reply("다", history, "", said[1]))[-1][1] == []
    assert list(reply("다", [], "second", said[1]))[-1][1][0] == user("다")  # cleared, the second forgets as well


# ---- in a browser


def send(tab, text: str) -> None:
    tab.wait("document.querySelector('textarea[data-testid=textbox]:not([disabled])')")
    tab.run("[...document.querySelectorAll('textarea[data-testid=textbox]:not([disabled])')].at(-1).focus()")
    tab.type(text)
    tab.press("Enter")


@browser.needed
def test_a_conversation_and_an_exam_question_and_no_request_leaves_the_machine(served, speaker, settings):
    with browser.page(width=1400) as tab:
        tab.open(served.address)
        tab.wait("document.body.innerText.includes('not a doctor')", 60)
        send(tab, "고혈압이란?")
        words = list(chat.answer(speaker, [user("고혈압이란?")], 12, 0.0))[-1].text.split()[0]
        tab.wait(f"document.querySelector('.bot')?.innerText.includes({words!r})", 60)
        send(tab, "/exam 2")
        tab.wait("/right is [A-E]/.test(document.body.innerText)", 60)
        _, question = chat.exam_question(settings.refined, "2")
        assert question["A"] in tab.run("document.body.innerText")
        found = chat.ask_exam(speaker, question)
        for share in found["probabilities"]:
            assert f"{share:.1%}" in tab.run("document.body.innerText")
        assert tab.elsewhere("127.0.0.1") == []
