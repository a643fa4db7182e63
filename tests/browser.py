"""A page in a real headless Chromium, driven over its DevTools pipe with the standard library alone.

Mark a test that uses `page()` with `@browser.needed`: it is skipped where there is no Chromium.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
OPTIONS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--mute-audio",
]


class Page:
    """One tab. `errors` gathers console errors, uncaught exceptions and failed loads; `requests` every address asked for."""

    def __init__(self, read: int, write: int):
        self.read, self.write = read, write
        self.rest = b""
        self.number = 0
        self.session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, seconds: float = 60, **params) -> dict:
        """One DevTools command and its result; events that come before it are noted."""
        self.number += 1
        number, message = self.number, {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while True:
            reply = self.receive(end - time.monotonic())
            assert reply is not None, f"{method}: no answer within {seconds} s"
            if reply.get("id") == number:
                assert "error" not in reply, f"{method}: {reply['error']}"
                return reply["result"]

    def receive(self, seconds: float) -> dict | None:
        """The next message, noted if it is an event, or None where none comes in time."""
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            if not select.select([self.read], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            piece = os.read(self.read, 1 << 16)
            assert piece, "Chromium has gone"
            self.rest += piece
        line, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(line)
        self.note(message.get("method"), message.get("params", {}))
        return message

    def note(self, method: str | None, params: dict) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())

    def open(self, address: str, seconds: float = 60) -> None:
        """Go to an address and wait until it has loaded."""
        self.loaded = False
        failed = self.send("Page.navigate", url=address).get("errorText")
        assert not failed, f"{address}: {failed}"
        end = time.monotonic() + seconds
        while not self.loaded:
            assert self.receive(end - time.monotonic()), f"{address} has not loaded within {seconds} s"

    def run(self, script: str):
        """The value of a JavaScript expression; of a promise, what it becomes."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> None:
        """Wait until an expression is true, as JavaScript sees it: an element is."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"not within {seconds} s: {script}"
            time.sleep(0.05)

    def type(self, text: str) -> None:
        """Insert text where the focus is, as an input method does."""
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """A key by its name, such as Enter."""
        text = "\r" if key == "Enter" else ""
        code = {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text, windowsVirtualKeyCode=code)

    def click(self, selector: str) -> None:
        """A real mouse click in the middle of the element, so that one that lies under another is not hit."""
        x, y = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, on: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window: 0 where nothing must be scrolled sideways."""
        return self.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def elsewhere(self, *allowed: str) -> list[str]:
        """Requests that went anywhere but to the named hosts or schemes ("127.0.0.1", "file"); data: never leaves."""
        parts = [(urlsplit(address), address) for address in self.requests]
        return [a for p, a in parts if p.hostname not in allowed and p.scheme not in (*allowed, "data", "blob", "about")]


@contextlib.contextmanager
def page(width: int = 1000, height: int = 800, language: str = "en-US") -> Iterator[Page]:
    """A fresh Chromium with one empty tab, gone with its profile afterwards."""
    profile = tempfile.mkdtemp(prefix="chromium-")
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", f"--accept-lang={language}", f"--lang={language}", "about:blank"]
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # it refuses root otherwise, as in a container
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]  # clear of 3 and 4
    quiet = os.open(os.devnull, os.O_RDWR)
    moves = [(quiet, 0), (quiet, 1), (quiet, 2), (high[0], 3), (high[1], 4)]  # it reads commands from 3 and answers on 4
    actions = [(os.POSIX_SPAWN_DUP2, *move) for move in moves]
    process = os.posix_spawn(CHROMIUM, command, dict(os.environ), file_actions=actions, setpgroup=0)
    for end in (theirs_in, theirs_out, quiet, *high):
        os.close(end)
    try:
        tab = Page(ours_in, ours_out)
        tab.size(width, height)
        yield tab
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(ours_in)
        os.close(ours_out)
        shutil.rmtree(profile, ignore_errors=True)
