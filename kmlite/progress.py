"""Progress of long work: a bar with a rate and the time left on a terminal, elsewhere a line every half minute."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from kmlite.cli import console

SHOWN = threading.Lock()  # held while one is shown
EVERY = 30.0  # seconds between lines where there is no terminal


@contextlib.contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show that `what` goes on until the block ends; the function that it gives is told how many of `total` are done now.

    Work that is done within EVERY seconds prints nothing where there is no terminal, and neither does work inside other work.
    """
    if SHOWN.locked():
        yield lambda now: None
        return
    with SHOWN, (bar if console.is_terminal else lines)(what, total, unit) as done:
        yield done


@contextlib.contextmanager
def lines(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    started, count, ended = time.monotonic(), 0, threading.Event()

    def done(now: int) -> None:
        nonlocal count
        count = now

    def speak() -> None:
        while not ended.wait(EVERY):
            console.print(line(what, count, total, unit, time.monotonic() - started))

    speaker = threading.Thread(target=speak, daemon=True)  # one unit may itself take minutes
    speaker.start()
    try:
        yield done
    finally:
        ended.set()
        speaker.join()


def line(what: str, count: int, total: int, unit: str, seconds: float) -> str:
    text = f"  {what:<12} {count:,}/{total:,} {unit}, {seconds:.0f} s"
    return f"{text}, {rate(count, seconds)}, {(total - count) * seconds / count:.0f} s left" if count else text


def rate(count: int, seconds: float) -> str:
    each = count / max(seconds, 1e-9)
    return f"{each:,.0f} a second" if each >= 10 else f"{each:.2f} a second" if each >= 0.1 or not count else f"{1 / each:,.0f} s each"


@contextlib.contextmanager
def bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as shown:
        task, started = shown.add_task(what, total=total, rate=unit), time.monotonic()

        def done(now: int) -> None:
            shown.update(task, completed=now, rate=f"{unit}, {rate(now, time.monotonic() - started)}")

        yield done
