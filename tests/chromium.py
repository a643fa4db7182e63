"""A page in a real headless Chromium, driven over the pipe of its DevTools protocol: no port, no driver, no library."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

FOUND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60  # seconds for one answer: two cores may be busy with other tests


class Page:
    """One tab. `events` keeps what the browser told by itself: console messages, exceptions, requests, violations."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read = write, read
        self.rest = b""
        self.number = 0
        self.session: str | None = None
        self.events: list[dict] = []

    def call(self, method: str, **params) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            assert select.select([self.read], [], [], max(0, until - time.monotonic()))[0], "Chromium does not answer"
            block = os.read(self.read, 1 << 20)
            assert block, "Chromium ended"
            self.rest += block
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def open(self, url: str) -> float:
        """Load `url`; returns the seconds until its load event."""
        started = time.monotonic()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())
        return time.monotonic() - started

    def evaluate(self, expression: str):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def told(self, method: str) -> list[dict]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def complaints(self) -> list[dict]:
        """Errors and warnings of the console, uncaught exceptions and what the browser logged."""
        said = [p for p in self.told("Runtime.consoleAPICalled") if p["type"] in ("error", "warning", "assert")]
        return said + self.told("Runtime.exceptionThrown") + self.told("Log.entryAdded")

    def requests(self) -> list[str]:
        return [params["request"]["url"] for params in self.told("Network.requestWillBeSent")]

    def picture(self, path: Path, width: int, height: int, *, dark: bool = False, whole: bool = False) -> None:
        """A PNG of the page at a size in CSS pixels, light or dark; `whole` goes down to its end."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A tab of a Chromium of its own, with its profile in `folder` and no way to any network."""
    to_browser, from_here = os.pipe()
    to_here, from_browser = os.pipe()
    command = [
        FOUND,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
        "--remote-debugging-pipe",
    ]
    # The browser reads descriptor 3 and writes 4. Through a shell, because Python hands descriptors on under their own numbers.
    shell = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", *command]
    environment = {**os.environ, "HOME": str(folder)}
    process = subprocess.Popen(
        shell,
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    os.close(to_browser)
    os.close(from_browser)
    tab = Page(from_here, to_here)
    try:
        tab.attach()
        yield tab
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: the renderers go with it
        process.wait()
        os.close(from_here)
        os.close(to_here)
