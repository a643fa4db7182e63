"""Talking to a model: what it hears and says, the commands, the terminal."""

import dataclasses
import os
import pty
import re
import select
import signal
import threading
import time
from itertools import pairwise

import click
import pytest
from click.testing import CliRunner

from kmlite import cli, prompts
from kmlite.evaluation import generation
from kmlite.sharing import chat
from recipes import chat as recipe


@pytest.fixture
def session(speaker, out, refined):
    return recipe.Session(recipe.Settings(refined=refined, out=out, max_new_tokens=12), speaker)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def say(speaker, *messages, tokens=12, temperature=0.0) -> list[chat.Turn]:
    return list(chat.answer(speaker, list(messages), tokens, temperature))


# ---- what it hears


def test_a_conversation_goes_on_from_the_training_text(tokenizer):
    assert prompts.dialogue_ids(tokenizer, [user("혈압이란?")]) == prompts.conversation_ids(tokenizer, "혈압이란?")[0]
    ids = prompts.dialogue_ids(tokenizer, [user("혈압이란?"), assistant("동맥의 압력이다."), user("맥박은?")])
    first, _ = prompts.conversation_ids(tokenizer, "혈압이란?", "동맥의 압력이다.")
    assert ids[: len(first)] == first
    assert tokenizer.decode(ids[len(first) :]) == "\n<start_of_turn>user\n맥박은?<end_of_turn>\n<start_of_turn>model\n"
    assert ids.count(tokenizer.bos_token_id) == 1


def test_the_oldest_turns_give_way(tokenizer):
    turns = [user("첫 물음"), assistant("첫 답"), user("둘째 물음"), assistant("둘째 답"), user("셋째 물음")]
    whole = len(prompts.dialogue_ids(tokenizer, turns))
    assert chat.fit(tokenizer, turns, whole) == (prompts.dialogue_ids(tokenizer, turns), 0)
    assert chat.fit(tokenizer, turns, whole - 1) == (prompts.dialogue_ids(tokenizer, turns[2:]), 1)
    last = prompts.dialogue_ids(tokenizer, turns[4:])
    assert chat.fit(tokenizer, turns, len(last)) == (last, 2)
    with pytest.raises(click.ClickException, match=f"{len(last)} tokens long, and {len(last) - 1}"):
        chat.fit(tokenizer, turns, len(last) - 1)


# ---- what it says


def test_the_stream_is_what_evaluation_generates(speaker):
    turns = say(speaker, user("혈압이란?"), tokens=24)
    [whole] = generation.generate(speaker.model, speaker.tokenizer, ["혈압이란?"], max_new_tokens=24, batch=1)
    assert len(turns) > 3
    assert all(later.text.startswith(turn.text) for turn, later in pairwise(turns))
    assert turns[-1].text == prompts.ENDS.split(whole)[0]
    assert turns[-1].ended == ("turn" if "<end_of_turn>" in whole else "length")


@pytest.fixture
def written(speaker, monkeypatch):
    """written(ids): the turns of an answer of these tokens."""

    def turns(ids: list[int]) -> list[chat.Turn]:
        def write(_speaker, _ids, _most, _temperature, written, _stop):
            for n in range(len(ids)):
                written.put(ids[: n + 1])
            written.put(None)

        monkeypatch.setattr(chat, "write", write)
        return say(speaker, user("?"))

    return turns


@pytest.mark.parametrize("text", ["혈압이 높다", "뷁뷁 쀍 똠방각하", "💊 5 µg\n\n둘째 줄", "가 나"])
def test_syllables_of_several_tokens_come_whole(tokenizer, written, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    *turns, last = written(ids)
    assert (last.text, last.tokens, len(turns)) == (text, len(ids), len(ids))
    assert all(text.startswith(turn.text) for turn in turns)
    assert len({turn.text for turn in turns}) > 1


def test_a_character_that_is_never_finished_is_still_said(tokenizer, written):
    assert [turn.text for turn in written([tokenizer.convert_tokens_to_ids("<0xEB>")])] == ["", "\ufffd"]


@pytest.mark.parametrize(
    ("tokens", "shown", "thought", "ended"),
    [("TaabE", "E", "aa", "length"), ("TaabE.", "E", "aa", "turn"), ("Taa", "", "aa", "thought"), ("EaTab", "Ea", "a", "length")],
)
def test_a_thought_is_neither_said_nor_counted(tokenizer, monkeypatch, written, tokens, shown, thought, ended):
    ids = {c: tokenizer.convert_tokens_to_ids("<end_of_turn>" if c == "." else c) for c in "TbaE."}
    monkeypatch.setattr(prompts, "thought_ids", lambda tokenizer: [ids["T"], ids["b"]])
    last = written([ids[token] for token in tokens])[-1]
    assert (last.text, last.tokens, last.thought, last.ended) == (shown, len(shown), thought, ended)


def test_an_answer_stops_where_its_reader_goes_away(speaker):
    threads = threading.active_count()
    turns = chat.answer(speaker, [user("길게")], 500, 0.0)
    assert next(turns).ended == ""
    turns.close()
    assert threading.active_count() == threads


def test_temperature_draws(speaker):
    for temperature, alike in ((1.0, False), (0.0, True)):
        assert (len({say(speaker, user("안녕"), temperature=temperature)[-1].text for _ in range(4)}) == 1) is alike


def test_no_room_on_the_card_is_said_in_words(speaker, out, monkeypatch):
    import torch

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speaker.model, "generate", full)
    with pytest.raises(click.ClickException, match="/reset"):
        say(speaker, user("안녕"))
    monkeypatch.setattr(chat.loading, "load", full)
    with pytest.raises(click.ClickException, match="--precision 4bit"):
        chat.load("00_trained", out / "00_trained/final", "16bit")


# ---- which model


def test_find(out, base, monkeypatch):
    last = ("02_trained", out / "02_trained/final")
    assert chat.find("", out) == last
    assert chat.finished(out) == ["02_trained", "00_trained"]
    for name in ("02_trained", str(out / "02_trained"), str(out / "02_trained/final")):
        assert chat.find(name, out) == last
    assert chat.find("base", out)[1] == base
    assert chat.find(str(base), out) == (str(base), base)
    monkeypatch.chdir(out.parent)
    assert chat.find(f"{out.name}/00_trained", out.relative_to(out.parent))[0] == "00_trained"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", "OUT"], "make pipeline"),
        (["--out", "OUT", "--model", "01_trained"], "MODEL=01_trained is no finished stage"),
        (["--model", "03_trained"], "02_trained, 00_trained"),
        (["--model", "../x/y"], "MODEL=../x/y is neither a folder nor a hub name"),
        (["--max-new-tokens", "4090"], "1 to 4032"),
        (["--max-new-tokens", "0"], "1 to 4032"),
        (["--temperature", "-1"], "--temperature"),
    ],
)
def test_models_that_are_not_there_and_settings_that_make_no_sense(out, tmp_path, arguments, named):
    (tmp_path / "01_trained").mkdir()
    given = [str(tmp_path) if argument == "OUT" else argument for argument in arguments]
    result = CliRunner().invoke(recipe.command, ["--out", str(out), *given])
    assert result.exit_code == 1
    assert named in result.output
    assert "BASE=" not in result.output


# ---- commands


def talked(session, capsys, *lines) -> str:
    recipe.talk(session, iter(lines))
    return capsys.readouterr().out


def test_the_model_hears_what_was_said_before_until_it_is_told_to_forget(session, capsys):
    talked(session, capsys, "\u1112\u1167\u11af\u110b\u1161\u11b8", "", "  ", "그리고?")
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    assert [message["content"] for message in session.messages[::2]] == ["혈압", "그리고?"]  # separate letters are joined
    assert session.messages[-1]["content"] == say(session.speaker, *session.messages[:-1])[-1].text
    talked(session, capsys, "/reset")
    assert session.messages == []


def test_old_turns_give_way_and_a_message_that_is_too_long_does_not_end_the_talk(session, capsys):
    session.speaker = chat.Speaker(**{**vars(session.speaker), "length": 60})
    shown = talked(session, capsys, "가" * 500, *["조금 긴 말을 한다"] * 5)
    assert "tokens long" in shown
    assert "the oldest 1 turns no longer fit into 60 tokens" in shown
    assert len(session.messages) < 10


def test_exam_shows_probabilities_then_the_truth(session, capsys):
    shown = talked(session, capsys, "/exam 7")
    _, question = chat.exam_question(session.settings.refined, "7")
    found = chat.ask_exam(session.speaker, question)
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-4)
    lines = shown.splitlines()
    verdict = "right ✓" if found["answer"] == question["answer"] else "wrong ✗"
    truth = lines.index(f"{found['answer']} is {verdict}; right is {question['answer']}: {question[question['answer']]}")
    for letter, share in zip(prompts.LETTERS, found["probabilities"], strict=True):
        row = lines.index(f"{letter}) {question[letter]}")
        assert row + 1 < truth
        assert re.fullmatch(rf"█* +{share:.1%}", lines[row + 1])
    assert session.messages == []


def test_bars_of_probabilities():
    question = {"question": "?", **dict.fromkeys("ABCDE", "x"), "answer": "A"}
    for share, drawn in ((0, " " * 20), (1, "█" * 20), (0.5, "█" * 10 + " " * 10)):
        found = {"answer": "A", "probabilities": [share, 0, 0, 0, 0], "mass": 1}
        assert f"A) x\n{drawn} {share:>6.1%}\nB) x" in chat.exam_text(1, question, found)


def test_exam_asks_with_the_prompt_of_evaluation(session, speaker):
    from kmlite import records
    from kmlite.evaluation import scoring

    question = records.read_exam(session.settings.refined, "dev")[0]
    [scored] = scoring.answer_exam(speaker.model, speaker.tokenizer, [question], scorer="letter", batch=1)
    found = chat.ask_exam(speaker, question)
    assert found == scored
    assert "options as they stand" in chat.exam_text(1, question, found)


def test_exam_draws_any_question_and_takes_a_number_that_is_one(session, speaker, out, tmp_path, capsys):
    assert len({chat.exam_question(session.settings.refined, "")[0] for _ in range(40)}) > 5
    for argument in ("0", "999", "x", "-1", "²"):
        assert f"/exam {argument}: a number from 1 to" in talked(session, capsys, f"/exam {argument}")
    without = recipe.Session(recipe.Settings(refined=tmp_path, out=out), speaker)
    assert "make refine" in talked(without, capsys, "/exam", "/exam")


def test_help_and_unknown_commands(session, capsys):
    shown = talked(session, capsys, "/help", "/exams", "/quit", "never said")
    for name in recipe.COMMANDS:
        assert name in shown
    assert "there is no /exams" in shown
    assert session.messages == []


def test_hostile_text_can_not_steer_the_terminal(session, capsys, monkeypatch):
    evil = "\x1b]0;title\x07\x1b[2J[red]\x9b31m\u202e"
    monkeypatch.setattr(chat, "answer", lambda *_: (chat.Turn(evil[:end], 1, 1, 0) for end in (5, len(evil))))
    shown = talked(session, capsys, evil)
    assert "]0;title[2J[red]31m" in shown
    asked = {"question": evil, **dict.fromkeys("ABCDE", evil), "answer": "A", "subject": evil}
    monkeypatch.setattr(chat.records, "read_exam", lambda *_: [asked])
    exam = talked(session, capsys, "/exam 1")
    assert exam.count("]0;title[2J[red]31m") == 8
    assert not set(shown + exam) & {"\x1b", "\x07", "\x9b", "\u202e"}


@pytest.mark.parametrize("asked", [False, True])
def test_thoughts_are_shown_where_they_are_asked_for_and_never_kept(session, capsys, monkeypatch, asked):
    session.settings = dataclasses.replace(session.settings, thoughts=asked)
    turns = [("", "열이"), ("", "열이 있다"), ("B", "열이 있다"), ("B입니다", "열이 있다")]
    monkeypatch.setattr(chat, "answer", lambda *_: (chat.Turn(text, 1, 1, 0, "", thought) for text, thought in turns))
    shown = talked(session, capsys, "안녕")
    assert ("열이 있다\n\nB입니다" in shown) is asked
    assert ("열이" in shown) is asked
    assert session.messages[-1] == {"role": "assistant", "content": "B입니다"}


# ---- the terminal


def typed_lines(keys: str, lines: int) -> list[str]:
    """What `typed` makes of keys, up to `lines` lines."""
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        return [line for _, line in zip(range(lines), recipe.typed(), strict=False)]  # range first: it asks for no line too many


LEFT, BACKSPACE, ALT_ENTER, UP, CONTROL_C, CONTROL_D = "\x1b[D", "\x7f", "\x1b\r", "\x1b[A", "\x03", "\x04"


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        (f"혈앞{BACKSPACE}압{LEFT}{LEFT}고\r", ["고혈압"]),  # edited by syllable
        (f"첫 줄{ALT_ENTER}둘째 줄\r", ["첫 줄\n둘째 줄"]),
        ("\x1b[200~물음\nA) 가\nB) 나\x1b[201~\r", ["물음\nA) 가\nB) 나"]),  # pasted
        (f"하나{CONTROL_C}둘\r", ["둘"]),
        (f"하나\r{CONTROL_D}둘\r", ["하나"]),
    ],
)
def test_keys(keys, lines):
    assert typed_lines(keys, len(lines) + (CONTROL_D in keys)) == lines


# ---- as a process


TERMINAL = {"PYTHONUNBUFFERED": "1", "TERM": "xterm-256color"}
CODE = "from recipes.chat import command; command()"


def given(out, refined, *more) -> list[str]:
    return ["--out", str(out), "--refined", str(refined), *more]


def test_lines_from_a_pipe(warm, out, refined, tmp_path):
    lines = "안녕\n\n/exam 2\n/exam 999\n마지막 말"
    os.mkfifo(tmp_path / "pipe")
    code = f"import os, sys; os.dup2(os.open(sys.argv.pop(), os.O_RDONLY), 0); {CODE}"
    arguments = given(out, refined, "--max-new-tokens", "5")
    warm.start(code, *arguments, str(tmp_path / "pipe"), output=tmp_path / "said", **TERMINAL)
    (tmp_path / "pipe").write_text(lines, encoding="utf-8")
    status, shown = warm.status(), (tmp_path / "said").read_text(encoding="utf-8")
    assert status == 0, shown
    assert shown.count(chat.WARNING[0]) == shown.count(chat.WARNING[1]) == 1
    assert chat.STAND_IN[0] in shown
    said = ["> 안녕", "5 tokens", "> /exam 2", "; right is", "> /exam 999", "a number from", "> 마지막 말"]
    places = [shown.index(text) for text in said]
    assert places == sorted(places)
    assert "5 tokens" in shown[places[-1] :]
    assert "\x1b" not in shown
    assert "Traceback" not in shown


class Pty:
    """Code in a terminal of 80 columns."""

    def __init__(self, warm, code: str, *arguments: str, **environment: str):
        self.warm = warm
        self.end, self.other = pty.openpty()
        warm.start(code, *arguments, terminal=os.ttyname(self.other), **environment)
        self.shown, self.seen = "", 0

    def until(self, text: str, seconds: float = 120) -> str:
        """Read on until `text` comes; returns what came behind what the last call waited for."""
        end = time.monotonic() + seconds
        raw = b""
        while text not in self.shown[self.seen :] + raw.decode(errors="ignore"):
            assert time.monotonic() < end, f"{text!r} never came: {self.shown}{raw.decode(errors='ignore')}"
            if select.select([self.end], [], [], 0.2)[0]:
                raw += os.read(self.end, 1 << 16)
            else:
                assert not self.warm.ended(0), f"it has ended before {text!r}: {self.shown}{raw.decode(errors='ignore')}"
        self.shown += raw.decode(errors="ignore")
        begun, self.seen = self.seen, self.shown.index(text, self.seen) + len(text)  # what came behind it is for the next call
        return self.shown[begun : self.seen]

    def send(self, text: str) -> None:
        os.write(self.end, text.encode())

    def status(self, seconds: float = 30) -> int:
        end = time.monotonic() + seconds
        while not self.warm.ended(0.1):
            assert time.monotonic() < end, "it has not ended"
            if select.select([self.end], [], [], 0)[0]:
                os.read(self.end, 1 << 16)
        return self.warm.status()

    def close(self) -> None:
        self.warm.drop()
        os.close(self.end)
        os.close(self.other)


def test_control_c_is_not_lost_in_a_finalizer(session, monkeypatch, capsys):
    """An exception that is raised there is only reported, and the answer would run on."""

    class Ends:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(recipe.console, "out", lambda *_, **__: Ends() and None)
    before = signal.getsignal(signal.SIGINT)
    recipe.message(session, "길게")
    assert "; stopped" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), recipe.stoppable() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_control_c_in_a_terminal(warm, out, refined):
    """It stops an answer and the talk goes on; Ctrl-D leaves."""
    arguments = given(out, refined, "--max-new-tokens", "4000")
    terminal = Pty(warm, CODE, *arguments, **TERMINAL, NO_COLOR="1")
    try:
        start = terminal.until("Ctrl-D leaves")
        assert "no meaningful text" in start
        assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])m", start)  # NO_COLOR
        terminal.until("\x1b[?2004h")  # the prompt reads pasted text as such: it is there
        terminal.send(f"길게 말해 봨{BACKSPACE}\r")
        terminal.until("\x1b[?2004l")  # the prompt has given the terminal back
        time.sleep(2)
        terminal.send(CONTROL_C)
        assert "4000 tokens" not in terminal.until("; stopped")
        terminal.until("\x1b[?2004h")
        time.sleep(0.5)  # earlier lines are read beside the prompt
        terminal.send(UP)
        terminal.until("길게 말해")
        terminal.send(CONTROL_C)
        terminal.until("Ctrl-D or /quit leaves")
        terminal.until("\x1b[?2004h")
        terminal.send("/exam 999\r")
        terminal.until("a number from")  # the talk has gone on
        terminal.until("\x1b[?2004h")
        terminal.send(CONTROL_D)
        assert terminal.status() == 0
    finally:
        terminal.close()


def test_names_and_data_are_shown_as_they_are():
    from rich.table import Table

    shown = cli.PlainConsole(width=100, highlight=False)
    table = Table(title="[/] 표")
    table.add_row("[/x] 의사 :heart:", "[link=file:///x]a")
    with shown.capture() as capture:
        shown.print("[bold]model[/]  /tmp/[x]/[bold]a[/bold]/\x1b[2J")
        shown.print(table)
    for text in ("model  /tmp/[x]/[bold]a[/bold]/[2J", "[/] 표", "[/x] 의사 :heart:", "[link=file:///x]a"):
        assert text in capture.get()
    assert "\x1b" not in capture.get()
