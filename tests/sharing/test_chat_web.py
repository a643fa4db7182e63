"""The page of `make chat ARGS=--web`: who gets in, what it answers, and how it behaves in a browser."""

import http.client
import json
import re
import socket
import sys
import threading
import time

import browser
import click
import pytest
import uvicorn
from click.testing import CliRunner

from kmlite.sharing import chat, web
from recipes import chat as recipe

HOSTILE = "<script>document.title='stolen'</script><img src=x onerror=alert(1)>"


class Served:
    """A server in a thread, and its address."""

    def __init__(self, speaker, others, draw, settings):
        servers, self.said = [], []

        class Noted(uvicorn.Server):
            def __init__(self, config):
                super().__init__(config)
                servers.append(self)

        patch = pytest.MonkeyPatch()
        patch.setattr(uvicorn, "Server", Noted)
        patch.setattr(web.console, "print", lambda *text, **_: self.said.append(" ".join(map(str, text))))
        self.thread = threading.Thread(target=web.serve, args=(speaker, others, draw, settings))
        self.thread.start()
        end = time.monotonic() + 30
        while not (servers and servers[0].started):
            assert time.monotonic() < end
            time.sleep(0.02)
        patch.undo()
        self.server = servers[0]
        self.address = re.search(r"http://\S+", "\n".join(self.said))[0]
        self.port, self.token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/", self.address).groups()
        self.port = int(self.port)

    def ask(self, method="GET", path="", body=None, host=None, token=None) -> http.client.HTTPResponse:
        """One request; `path` is below the token."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        where = f"/{self.token if token is None else token}/{path}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, where, data, {"Host": host or f"127.0.0.1:{self.port}"})
        return connection.getresponse()

    def chat(self, **body) -> list[dict]:
        reply = self.ask("POST", "api/chat", body)
        assert reply.status == 200
        return [json.loads(line) for line in reply.read().decode().splitlines()]

    def close(self):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def settings(refined, out):
    return recipe.Settings(refined=refined, out=out, max_new_tokens=12, length=1024, web=True)


def questions(settings):
    return lambda: recipe.dev_questions(settings)


@pytest.fixture(scope="module")
def served(speaker, settings):
    served = Served(speaker, ["00_trained", "base"], questions(settings), settings)
    yield served
    served.close()


def user(text: str) -> dict:
    return {"role": "user", "content": text}


# ---- who gets in

REQUESTS = [("GET", ""), ("GET", "api/about"), ("POST", "api/chat"), ("POST", "api/exam"), ("GET", "nowhere")]
ELSEWHERE = ["evil.example", "evil.example:PORT", "127.0.0.1.evil.example:PORT", "0.0.0.0:PORT", "[::1]:PORT", "x@127.0.0.1"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("GET", "api/about"), ("POST", "api/chat"), ("POST", "api/exam"), ("GET", "nowhere")]
)
@pytest.mark.parametrize("token", ["", "wrong", "SHORTER", "LONGER"])
def test_no_request_without_the_token(served, method, path, token):
    token = {"SHORTER": served.token[:-1], "LONGER": served.token + "a"}.get(token, token)
    reply = served.ask(method, path, {"messages": [user("안녕")]} if method == "POST" else None, token=token)
    assert reply.status == 403
    assert served.token not in reply.read().decode()


def test_the_token_alone_without_its_slash_is_refused(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    for path in ("/", f"/{served.token}", f"//{served.token}/", f"/x/../{served.token}/"):
        connection.request("GET", path)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 403, path


@pytest.mark.parametrize("host", ELSEWHERE)
@pytest.mark.parametrize("path", ["", "api/about"])
def test_no_request_under_another_host(served, host, path):
    assert served.ask(path=path, host=host.replace("PORT", str(served.port))).status == 403


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "localhost", "127.0.0.1:8000"])
def test_this_machine_by_either_name(served, host):
    """Any port: an ssh tunnel may begin at another."""
    assert served.ask(host=host.replace("PORT", str(served.port))).status == 200


def test_bound_to_this_machine_alone(served):
    """127.0.0.2 is this machine too, and a server that listens on all addresses answers there."""
    [listening] = [s for server in served.server.servers for s in server.sockets]
    assert listening.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.port), timeout=5)


def test_each_start_has_a_token_of_its_own(served, speaker, settings):
    other = Served(speaker, [], questions(settings), settings)
    try:
        assert other.token != served.token
        assert len(other.token) >= 32
        assert other.ask(token=served.token).status == 403
    finally:
        other.close()


def test_headers(served):
    first, second = served.ask(), served.ask()
    policy = first.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert first.headers["referrer-policy"] == "no-referrer"
    assert first.headers["cache-control"] == "no-store"
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)[1]
    html = first.read().decode()
    assert html.count(f'nonce="{nonce}"') == 2
    assert "NONCE" not in html
    assert nonce not in second.headers["content-security-policy"]
    assert not re.search(r"https?://", html)  # nothing from elsewhere
    for refused in (served.ask(token="x"), served.ask(path="api/about"), served.ask(path="nowhere")):
        assert refused.headers["referrer-policy"] == "no-referrer"


# ---- what it answers


def test_about(served, speaker):
    about = json.loads(served.ask(path="api/about").read())
    assert about["model"] == speaker.name == "02_trained"
    assert about["others"] == ["00_trained", "base"]
    assert about["warning"]["en"] == chat.WARNING[0]
    assert about["babble"]["ko"] == chat.BABBLE[1]


def test_chat_streams_what_the_terminal_would_say(served, speaker):
    messages = [user("안녕"), {"role": "assistant", "content": "네"}, user("그리고?")]
    *pieces, figures = served.chat(messages=messages)
    expected = chat.answer(speaker, messages, max_new_tokens=12, temperature=0, said=lambda _: None, stopped=lambda: False)
    assert len(pieces) > 1
    assert "".join(piece["text"] for piece in pieces) == expected["text"]
    assert {key: figures[key] for key in ("tokens", "ended", "dropped")} == {key: expected[key] for key in ("tokens", "ended", "dropped")}
    *others, _ = served.chat(messages=messages, model="00_trained")
    assert "".join(piece["text"] for piece in others) != expected["text"]


def test_old_turns_left_out_are_counted(served):
    long = [user("말 " * 1500), {"role": "assistant", "content": "네"}] * 2
    assert served.chat(messages=[*long, user("끝")])[-1]["dropped"] >= 1
    [error] = served.chat(messages=[user("말" * 5000)])
    assert "tokens long" in error["error"]


def test_exam(served, speaker, settings):
    drawn = questions(settings)()
    asked = [json.loads(served.ask("POST", "api/exam", {}).read()) for _ in range(2)]
    assert [exam["number"] for exam in asked] == [question["number"] for question in drawn[:2]]
    found = chat.ask_exam(speaker, drawn[0])
    assert asked[0]["probabilities"] == found["probabilities"]
    assert asked[0]["answer"] == found["answer"]
    assert asked[0]["truth"] == drawn[0]["answer"]
    again = json.loads(served.ask("POST", "api/exam", {"number": drawn[0]["number"], "model": "00_trained"}).read())
    assert again["question"] == drawn[0]["question"]
    assert again["probabilities"] != found["probabilities"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("api/chat", b"{", "not JSON"),
        ("api/chat", b"\xff", "not JSON"),
        ("api/chat", [], "not a request"),
        ("api/chat", {}, "messages must be turns"),
        ("api/chat", {"messages": []}, "messages must be turns"),
        ("api/chat", {"messages": [{"role": "system", "content": "x"}]}, "messages must be turns"),
        ("api/chat", {"messages": [{"role": "user", "content": 3}]}, "messages must be turns"),
        ("api/chat", {"messages": [user("a"), user("b"), user("c")]}, "messages must be turns"),
        ("api/chat", {"messages": [user("a")], "model": 3}, "not a request"),
        ("api/exam", {"number": 999}, "a number from 1 to"),
        ("api/exam", {"number": "x"}, "a number from 1 to"),
        ("api/exam", {"model": "/etc"}, "no model called /etc"),
    ],
)
def test_requests_that_make_no_sense(served, path, body, said):
    reply = served.ask("POST", path, body)
    assert reply.status == 400
    assert said in json.loads(reply.read())["error"]


@pytest.mark.parametrize("name", ["/etc", "../base", "google/medgemma-4b-it", "01_trained"])
def test_no_model_but_those_of_the_list(served, name, monkeypatch):
    monkeypatch.setattr(chat, "load", lambda *_: pytest.fail("loaded"))
    [error] = served.chat(messages=[user("안녕")], model=name)
    assert error["error"] == f"no model called {name} here"


def test_a_request_is_bounded(served):
    assert served.ask("POST", "api/chat", b'{"messages": "' + b"x" * web.LARGEST + b'"}').status == 413


def test_one_model_call_at_a_time(served, monkeypatch):
    inside, most, usual = [], [], chat.answer

    def counted(*args, **how):
        inside.append(1)
        most.append(len(inside))
        try:
            return usual(*args, **how)
        finally:
            inside.pop()

    monkeypatch.setattr(chat, "answer", counted)
    threads = [threading.Thread(target=served.chat, kwargs={"messages": [user("안녕")]}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_whoever_leaves_stops_the_answer(served, monkeypatch):
    """The stop button closes the connection; the model must not write on for nobody."""
    ended, usual = threading.Event(), chat.answer
    found = {}

    def noted(*args, **how):
        found.update(usual(*args, **{**how, "max_new_tokens": 900}))
        ended.set()
        return found

    monkeypatch.setattr(chat, "answer", noted)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("POST", f"/{served.token}/api/chat", json.dumps({"messages": [user("길게")]}))
    reply = connection.getresponse()
    reply.read(5)
    reply.close()
    connection.close()
    assert ended.wait(30)
    assert found["ended"] == "stopped"
    assert found["tokens"] < 900


def test_an_error_of_the_model_reaches_the_page_and_frees_the_turn(served, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(chat, "answer", broken)
        patch.setattr(threading, "excepthook", lambda _: None)
        assert served.chat(messages=[user("안녕")]) == [{"error": "RuntimeError: a bug"}]
    assert served.chat(messages=[user("안녕")])[-1]["tokens"] > 0


def test_a_port_that_is_taken(speaker, settings, served):
    taken = recipe.Settings(**{**vars(settings), "port": served.port})
    with pytest.raises(click.ClickException, match="--port 0"):
        web.serve(speaker, [], questions(settings), taken)


def test_without_the_extra(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(recipe.command, ["--out", str(out), "--web"])
    assert result.exit_code == 1
    assert "make extras" in result.output


# ---- in a browser


@pytest.fixture
def page(served):
    with browser.page() as tab:
        tab.open(served.address)
        tab.wait("about !== null")
        yield tab
        assert tab.errors == []
        assert tab.elsewhere("127.0.0.1") == []


def write(page, text: str) -> None:
    page.run("document.getElementById('input').focus()")
    page.type(text)
    page.press("Enter")


def count(page, selector: str) -> int:
    return page.run(f"document.querySelectorAll({json.dumps(selector)}).length")


def text_of(page, selector: str) -> str:
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


@browser.needed
def test_a_message_is_answered_in_the_page(page, served):
    assert chat.WARNING[0] in text_of(page, "#warning")
    assert chat.BABBLE[0] in text_of(page, "#babble")
    write(page, "안녕")
    page.wait("document.querySelector('.answer .figures')")
    *pieces, _ = served.chat(messages=[user("안녕")])
    assert text_of(page, ".answer .text") == "".join(piece["text"] for piece in pieces)
    assert "12 tokens" in text_of(page, ".answer .figures")
    write(page, "/compare 00_trained")
    page.wait("document.querySelectorAll('.row .answer .figures').length === 2")
    *others, _ = served.chat(messages=[user("안녕")], model="00_trained")
    assert page.run("document.querySelectorAll('.answer .text')[1].textContent") == "".join(piece["text"] for piece in others)
    page.click("#reset")
    assert count(page, ".answer") == 0
    assert page.run("messages.length") == 0


@browser.needed
def test_it_streams(page, served, monkeypatch):
    go_on = threading.Event()

    def slowly(*_, said, **__):
        said("첫 ")
        assert go_on.wait(30)
        said("둘째")
        return {"text": "첫 둘째", "tokens": 2, "seconds": 1.0, "ended": "turn", "dropped": 0}

    monkeypatch.setattr(chat, "answer", slowly)
    write(page, "안녕")
    page.wait("document.querySelector('.answer .text')?.textContent === '첫 '")
    assert count(page, ".figures") == 0
    go_on.set()
    page.wait("document.querySelector('.answer .figures')")
    assert text_of(page, ".answer .text") == "첫 둘째"


@browser.needed
def test_stop_keeps_what_was_written(page, served, monkeypatch):
    stopped_when = threading.Event()

    def endless(*_, said, stopped, **__):
        said("시작")
        while not stopped():
            time.sleep(0.01)
        stopped_when.set()
        return {"text": "시작", "tokens": 1, "seconds": 1.0, "ended": "stopped", "dropped": 0}

    monkeypatch.setattr(chat, "answer", endless)
    write(page, "안녕")
    page.wait("document.querySelector('.answer .text')?.textContent === '시작'")
    page.click("#stop")
    assert stopped_when.wait(10)
    page.wait("messages.length === 2 && !document.getElementById('send').hidden")
    assert text_of(page, ".answer .text") == "시작"


@browser.needed
def test_exam_shows_bars_then_the_truth(page, served):
    write(page, "/exam 7")
    page.wait("document.querySelector('.exam .verdict')")
    asked = json.loads(served.ask("POST", "api/exam", {"number": 7}).read())
    assert text_of(page, ".exam > .text") == asked["question"]
    bars = page.run(
        "[...document.querySelectorAll('.bar')].map(b => b.getBoundingClientRect().width / b.parentElement.getBoundingClientRect().width)"
    )
    assert bars == pytest.approx(asked["probabilities"], abs=0.01)
    letters = page.run("[...document.querySelectorAll('.option')].map(o => [o.textContent, o.className])")
    assert [text[0] for text, _ in letters] == list("ABCDE")
    assert [text[0] for text, classes in letters if "truth" in classes] == [asked["truth"]]
    assert [text[0] for text, classes in letters if "chosen" in classes] == [asked["answer"]]
    order = page.run("document.querySelector('.option:last-of-type, .bar').compareDocumentPosition(document.querySelector('.verdict')) & 4")
    assert order == 4
    page.click("#compare")
    page.wait("document.querySelectorAll('.exam .verdict').length === 2")
    page.click("#exam")
    page.wait("document.querySelectorAll('.exam').length === 2")


@browser.needed
def test_hostile_text_is_text(page, served, monkeypatch):
    def hostile(*_, said, **__):
        said(HOSTILE)
        return {"text": HOSTILE, "tokens": 1, "seconds": 1.0, "ended": "turn", "dropped": 0}

    words = dict.fromkeys(("question", "subject", "model", *"ABCDE"), HOSTILE)
    question = {**words, "answer": "A", "truth": "A", "number": 1, "of": 1, "probabilities": [0.2] * 5, "mass": 0.1}
    monkeypatch.setattr(chat, "answer", hostile)
    monkeypatch.setattr(web, "ask_exam", lambda *_: question)
    write(page, HOSTILE)
    page.wait("document.querySelector('.answer .figures')")
    assert text_of(page, ".user") == text_of(page, ".answer .text") == HOSTILE
    write(page, "/exam")
    page.wait("document.querySelector('.exam .verdict')")
    assert text_of(page, ".exam > .text") == HOSTILE
    write(page, f"/compare {HOSTILE}")
    page.wait("document.querySelector('.error')")
    assert count(page, "main script, main img") == 0
    assert "stolen" not in page.run("document.title")
    # and where one slipped in all the same, the policy does not run it
    page.run("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    page.run("document.querySelector('main').append(Object.assign(document.createElement('script'), {textContent: 'document.title=1'}))")
    time.sleep(0.3)
    assert page.run("document.title") == "02_trained · kmlite chat"
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()


@browser.needed
def test_a_phone_two_languages_and_the_dark(page):
    page.size(360, 640)
    write(page, "혈압" * 60)
    page.wait("document.querySelector('.answer .figures')")
    write(page, "/exam")
    page.wait("document.querySelector('.exam .verdict')")
    for language, word in (("ko", "보내기"), ("en", "Send")):
        page.click("#language")
        assert page.run("document.documentElement.lang") == language
        assert text_of(page, "#send") == word
        assert ("토큰" in text_of(page, ".figures")) == (language == "ko")
        assert page.overflow() == 0
    light = page.run("getComputedStyle(document.body).backgroundColor")
    page.dark(True)
    assert page.run("getComputedStyle(document.body).backgroundColor") != light


@browser.needed
def test_commands_that_are_none_and_a_server_that_is_gone(page, speaker, settings):
    write(page, "/nothing")
    page.wait("document.querySelector('.error')")
    assert "/nothing" in text_of(page, ".error")
    write(page, "/compare 00_trained")
    page.wait("document.querySelectorAll('.error').length === 2")
    other = Served(speaker, [], questions(settings), settings)
    page.open(other.address)
    page.wait("about !== null")
    assert page.run("document.getElementById('with').hidden")  # nothing to compare with
    other.close()
    write(page, "안녕")
    page.wait("document.querySelector('.error')")
    assert "Is make chat still running?" in text_of(page, ".error")
    assert all("ERR_CONNECTION_REFUSED" in error for error in page.errors)
    page.errors.clear()
