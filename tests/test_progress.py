"""Long work says how far it is: a line now and then where there is no terminal, nothing for short work."""

import time

import pytest

from kmlite import progress as module
from kmlite.progress import progress


@pytest.fixture
def said(monkeypatch):
    out: list[str] = []
    monkeypatch.setattr(module.console, "print", out.append)
    return out


def until(true) -> None:
    """Wait until the thread that speaks has done so; a busy machine may keep it waiting."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_long_work_says_how_far_it_is_also_while_one_unit_takes_long(said, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.05)
    with progress("scoring", 4, "questions") as done:
        until(lambda: said)
        assert "scoring      0/4 questions" in said[0]
        done(1)
        until(lambda: "1/4 questions" in said[-1])
    assert "a second" in said[-1] and "left" in said[-1]
    count = len(said)
    time.sleep(0.12)
    assert len(said) == count  # it ends with the work


def test_short_work_and_work_inside_other_work_say_nothing_of_their_own(said, monkeypatch):
    with pytest.raises(ZeroDivisionError), progress("measuring", 2, "texts"):
        raise ZeroDivisionError  # ends it as success does
    assert not said and not module.SHOWN.locked()
    monkeypatch.setattr(module, "EVERY", 0.05)
    with progress("reasoning", 2, "questions"), progress("answering", 9, "prompts") as done:
        done(3)
        until(lambda: len(said) > 2)
    assert not any("answering" in line for line in said)


def test_the_line_has_a_rate_and_the_time_left():
    assert module.line("scoring", 30, 120, "questions", 60) == "  scoring      30/120 questions, 60 s, 0.50 a second, 180 s left"
    assert module.line("measuring", 4, 7, "sequences", 240) == "  measuring    4/7 sequences, 240 s, 60 s each, 180 s left"
    assert module.line("measuring", 0, 7, "sequences", 240) == "  measuring    0/7 sequences, 240 s"
    assert module.line("scoring", 0, 120, "questions", 60) == "  scoring      0/120 questions, 60 s"
