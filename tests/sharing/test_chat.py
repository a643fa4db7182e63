"""Talking to a model: what it hears and says, the commands, the terminal."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console

from kmlite import cli, files, paths, prompts
from kmlite.evaluation import generation
from kmlite.sharing import chat
from kmlite.sharing import terminal as screen
from recipes import chat as recipe


@pytest.fixture
def session(speaker, out, refined):
    return recipe.Session(recipe.Settings(refined=refined, out=out, max_new_tokens=12, length=1024), speaker)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def say(speaker, *messages, tokens=12, temperature=0.0, said=lambda _: None, stopped=lambda: False) -> dict:
    return chat.answer(speaker, list(messages), max_new_tokens=tokens, temperature=temperature, said=said, stopped=stopped)


# ---- what it hears


def test_one_turn_is_rendered_as_in_training_and_evaluation(tokenizer):
    assert prompts.dialogue_ids(tokenizer, [user("혈압이란?")]) == prompts.conversation_ids(tokenizer, "혈압이란?")[0]


def test_several_turns_go_on_from_the_training_text(tokenizer):
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
    pieces = []
    found = say(speaker, user("혈압이란?"), tokens=24, said=pieces.append)
    [turn] = generation.generate(speaker.model, speaker.tokenizer, ["혈압이란?"], max_new_tokens=24, batch=1)
    assert len(pieces) > 3
    assert "".join(pieces) == found["text"] == prompts.ENDS.split(turn)[0]
    assert found["ended"] == ("turn" if "<end_of_turn>" in turn else "length")


@pytest.mark.parametrize("text", ["혈압이 높다", "뷁뷁 쀍 똠방각하", "💊 5 µg\n\n둘째 줄", "가 나"])
def test_syllables_of_several_tokens_come_whole(tokenizer, text):
    pieces = []
    stream = chat.Stream(tokenizer, pieces.append)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    stream.put(ids)  # stands for the prompt, which is not said
    for token in ids:
        stream.put(token.reshape(1))
    stream.end()
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 1


def test_a_character_that_is_never_finished_is_still_said(tokenizer):
    pieces = []
    stream = chat.Stream(tokenizer, pieces.append)
    first_byte = tokenizer.convert_tokens_to_ids("<0xEB>")
    import torch

    stream.put(torch.tensor([[2]]))
    stream.put(torch.tensor([first_byte]))
    assert pieces == []
    stream.end()
    assert pieces == ["\ufffd"]


@pytest.mark.parametrize(
    ("tokens", "shown", "counted", "thinking"), [("TaabE", "E", 1, False), ("Taa", "", 0, True), ("EaTab", "Ea", 2, False)]
)
def test_a_thought_is_neither_said_nor_counted_unless_asked_for(tokenizer, monkeypatch, tokens, shown, counted, thinking):
    import torch

    ids = dict(zip("TbaE", (tokenizer.convert_tokens_to_ids(c) for c in "TbaE"), strict=True))
    monkeypatch.setattr(prompts, "thought_ids", lambda tokenizer: [ids["T"], ids["b"]])
    for thoughts in (False, True):
        pieces = []
        stream = chat.Stream(tokenizer, pieces.append, thoughts)
        for token in "E" + tokens:  # the first stands for the prompt
            stream.put(torch.tensor([ids[token]]))
        stream.end()
        assert "".join(pieces) == (tokens if thoughts else shown)
        assert stream.tokens == (len(tokens) if thoughts else counted)
        assert stream.thinking == (thinking and not thoughts)


def test_an_answer_stops_when_told(speaker):
    pieces = []
    found = say(speaker, user("길게"), tokens=500, said=pieces.append, stopped=lambda: len(pieces) >= 3)
    assert found["ended"] == "stopped"
    assert 3 <= found["tokens"] < 30
    assert found["text"] == "".join(pieces)


def test_an_answer_that_ends_by_itself(speaker, monkeypatch):
    usual = say(speaker, user("짧게"), tokens=8)
    assert usual["ended"] == "length"
    stop = speaker.tokenizer(usual["text"], add_special_tokens=False)["input_ids"][0]
    monkeypatch.setattr(prompts, "stop_ids", lambda _: [stop])
    found = say(speaker, user("짧게"), tokens=8)
    assert (found["text"], found["tokens"], found["ended"]) == ("", 1, "turn")


def test_temperature_draws_by_the_seed(speaker):
    from transformers import set_seed

    def drawn(seed):
        set_seed(seed)
        return say(speaker, user("안녕"), temperature=1.0)["text"]

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1
    assert say(speaker, user("안녕"))["text"] == say(speaker, user("안녕"))["text"]


def test_no_room_on_the_card_is_said_in_words(speaker, out, monkeypatch):
    import torch

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speaker.model, "generate", full)
    with pytest.raises(click.ClickException, match="/reset"):
        say(speaker, user("안녕"))
    monkeypatch.setattr(chat.loading, "load", full)
    with pytest.raises(click.ClickException, match="--precision 4bit"):
        chat.load("00_trained", out / "00_trained/final", "16bit", 512)


def test_the_length_is_the_models_own_at_most(out):
    assert chat.load(*chat.find("00_trained", out), "16bit", 1 << 20).length == 4096


# ---- which model


def test_find(out, base, monkeypatch):
    newest = ("02_trained", out / "02_trained/final")
    assert chat.find("", out) == newest
    assert chat.finished(out) == ["02_trained", "00_trained"]
    for name in ("02_trained", str(out / "02_trained"), str(out / "02_trained/final")):
        assert chat.find(name, out) == newest
    assert chat.find("base", out)[1] == base
    assert chat.find(str(base), out) == (str(base), base)
    monkeypatch.chdir(out.parent)
    assert chat.find(f"{out.name}/00_trained", out.relative_to(out.parent))[0] == "00_trained"


def test_the_newest_goes_by_time_not_by_name(out, tmp_path):
    for stage, ended in (("00_trained", "2026-03-01T00:30:00+0900"), ("02_trained", "2026-02-28T16:00:00+0000")):
        (tmp_path / stage / paths.FINAL).mkdir(parents=True)
        files.write_json(tmp_path / stage / paths.RECORD, {"finished": ended})
    assert chat.finished(tmp_path)[0] == "02_trained"  # 16:00 UTC is half past nine hours later than 15:30 UTC
    files.write_json(tmp_path / "00_trained" / paths.RECORD, {"finished": "2026-03-01T01:30:00+0900"})
    assert chat.finished(tmp_path)[0] == "00_trained"


def test_models_that_are_not_there(out, tmp_path):
    (tmp_path / "01_trained").mkdir()
    for name, folder, named in (
        ("", tmp_path, "make pipeline"),
        ("01_trained", tmp_path, "holds no finished model"),
        ("03_trained", out, "02_trained, 00_trained"),
        ("../x/y", out, "MODEL=../x/y is neither a folder nor a hub name"),
    ):
        result = CliRunner().invoke(recipe.command, ["--model", name, "--out", str(folder)])
        assert result.exit_code == 1
        assert named in result.output
        assert "BASE=" not in result.output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--length", "500"], "--max-new-tokens 512"),
        (["--temperature", "-1"], "--temperature"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0"),
    ],
)
def test_settings_that_make_no_sense(out, arguments, named):
    result = CliRunner().invoke(recipe.command, ["--out", str(out), *arguments])
    assert result.exit_code == 1
    assert named in result.output


# ---- commands


def talked(session, capsys, *lines) -> str:
    recipe.talk(session, iter(lines))
    return capsys.readouterr().out


def test_a_conversation_is_remembered_and_forgotten(session, capsys):
    assert "nothing was said yet" in talked(session, capsys, "/history")
    talked(session, capsys, "안녕", "", "  ", "또 안녕")
    roles = [message["role"] for message in session.messages]
    assert roles == ["user", "assistant"] * 2
    shown = talked(session, capsys, "/history")
    assert "> 안녕" in shown
    assert "> 또 안녕" in shown
    assert "2 turns" in shown
    talked(session, capsys, "/reset")
    assert session.messages == []


def test_the_model_hears_what_was_said_before(session, capsys):
    talked(session, capsys, "안녕", "그리고?")
    asked = session.messages[:-1]
    assert [message["content"] for message in asked[::2]] == ["안녕", "그리고?"]
    assert session.messages[-1]["content"] == say(session.speaker, *asked)["text"]


def test_separate_letters_are_joined(session, capsys):
    talked(session, capsys, "\u1112\u1167\u11af\u110b\u1161\u11b8")
    assert session.messages[0]["content"] == "혈압"


def test_old_turns_left_out_are_told_once(session, capsys):
    session.speaker = chat.Speaker(**{**vars(session.speaker), "length": 60})
    shown = talked(session, capsys, *["조금 긴 말을 한다"] * 5)
    assert shown.count("outgrown 60 tokens") == 1
    assert "no longer hears" in shown


def test_a_message_that_is_too_long_does_not_end_the_talk(session, capsys):
    shown = talked(session, capsys, "가" * 3000, "안녕")
    assert "tokens long" in shown
    assert [message["content"] for message in session.messages[::2]] == ["안녕"]


def test_exam_shows_probabilities_then_the_truth(session, capsys):
    shown = talked(session, capsys, "/exam 7")
    question = next(q for q in session.drawn if q["number"] == 7)
    found = chat.ask_exam(session.speaker, question)
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-4)
    lines = shown.splitlines()
    truth = lines.index(f"  right is {question['answer']}: {question[question['answer']]}")
    for letter, share in zip(prompts.LETTERS, found["probabilities"], strict=True):
        [row] = [i for i, line in enumerate(lines) if re.match(rf"{letter} .*{share:.1%}", line)]
        assert question[letter] in lines[row]
        assert row < truth
        assert "█" in lines[row]
    verdict = "right ✓" if found["answer"] == question["answer"] else "wrong ✗"
    assert f"{found['answer']} at {max(found['probabilities']):.0%}, {verdict}" in shown
    assert session.messages == []


def test_exam_asks_with_the_prompt_of_evaluation(session, speaker):
    from kmlite import records
    from kmlite.evaluation import scoring

    question = records.read_exam(session.settings.refined, "dev")[0]
    [scored] = scoring.answer_exam(speaker.model, speaker.tokenizer, [question], scorer="letter", batch=1)
    shown = {key: scored[key] for key in ("answer", "probabilities", "mass")}
    assert chat.ask_exam(speaker, question) == shown | {"way": "options as they stand"}


def numbers(shown: str) -> list[int]:
    return [int(number) for number in re.findall(r"dev question (\d+) of", shown)]


def test_exam_draws_by_the_seed_and_each_question_once(session, speaker, capsys, monkeypatch):
    monkeypatch.setattr(
        chat, "ask_exam", lambda *_: {"answer": "A", "probabilities": [0.2] * 5, "mass": 0.5, "way": "options as they stand"}
    )
    total = len(recipe.dev_questions(session.settings))
    first = numbers(talked(session, capsys, *["/exam"] * total))
    assert sorted(first) == list(range(1, total + 1)) != first
    again = recipe.Session(session.settings, speaker)
    assert numbers(talked(again, capsys, *["/exam"] * 3)) == first[:3]
    other = recipe.Session(recipe.Settings(refined=session.settings.refined, seed=1), speaker)
    assert numbers(talked(other, capsys, *["/exam"] * 3)) != first[:3]


@pytest.mark.parametrize("argument", ["0", "999", "x", "-1", "²"])
def test_exam_numbers_that_are_none(session, capsys, argument):
    assert f"/exam {argument}: a number from 1 to" in talked(session, capsys, f"/exam {argument}")


def test_exam_without_questions(speaker, out, tmp_path, capsys):
    session = recipe.Session(recipe.Settings(refined=tmp_path, out=out), speaker)
    assert "make refine" in talked(session, capsys, "/exam", "/exam")


def test_compare_answers_the_last_message(session, capsys):
    shown = talked(session, capsys, "안녕", "/compare 00_trained")
    [other] = session.others.values()
    expected = say(other, user("안녕"))["text"]
    assert f"── 02_trained\n{session.messages[1]['content']}\n── 00_trained\n{expected}\n" in shown
    assert len(session.messages) == 2  # the other's answer is no part of the conversation
    assert expected != session.messages[1]["content"]


def test_compare_answers_the_last_exam_question(session, capsys):
    shown = talked(session, capsys, "안녕", "/exam 3", "/compare 00_trained")
    [other] = session.others.values()
    question = session.last["question"]
    both = [chat.ask_exam(model, question) for model in (session.speaker, other)]
    for name, found in zip(("02_trained", "00_trained"), both, strict=True):
        assert f"{name}: {found['answer']} at" in shown
    first, second = (found["probabilities"][0] for found in both)
    assert re.search(rf"^A .*{first:.1%}.*{second:.1%}", shown, re.MULTILINE)


def test_compare_that_can_not_be(session, capsys):
    assert "00_trained, base" in talked(session, capsys, "/compare")
    assert "nothing to compare yet" in talked(session, capsys, "/compare 00_trained")
    assert "is the model that you talk to" in talked(session, capsys, "안녕", "/compare 02_trained")
    assert "MODEL=01_trained is no stage" in talked(session, capsys, "/compare 01_trained")
    assert session.others == {}


def test_help_and_unknown_commands(session, capsys):
    shown = talked(session, capsys, "/help", "/exams", "/quit", "never said")
    for name in recipe.COMMANDS:
        assert name in shown
    assert "there is no /exams" in shown
    assert session.messages == []


def test_hostile_text_can_not_steer_the_terminal(session, capsys, monkeypatch):
    evil = "\x1b]0;title\x07\x1b[2J[red]\x9b31m\u202e"
    found = {"text": evil, "tokens": 1, "seconds": 1, "ended": "turn", "dropped": 0}
    monkeypatch.setattr(chat, "answer", lambda *_, said, **__: said(evil) or found)
    shown = talked(session, capsys, evil, "/history")
    assert "]0;title[2J[red]31m" in shown
    session.drawn = [{"question": evil, **dict.fromkeys("ABCDE", evil), "answer": "A", "subject": evil, "number": 1}]
    shown += talked(session, capsys, "/exam 1")
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e"}


# ---- the terminal


@pytest.fixture
def terminal(monkeypatch, capsys):
    """A console that takes standard output for a terminal of a width."""

    def of(width):
        console = Console(force_terminal=True, width=width, highlight=False, color_system=None)
        for module in (recipe, screen):
            monkeypatch.setattr(module, "console", console)
        return console

    return of


WORDS = "고혈압은 수축기 혈압이 140 mmHg 이상이거나 이완기 혈압이 90 mmHg 이상인 상태를 말한다. " * 4


@pytest.mark.parametrize("width", [40, 80, 200])
def test_streamed_text_breaks_between_words(terminal, capsys, width):
    terminal(width)
    flow = screen.Flow()
    for start in range(0, len(WORDS), 3):
        flow.write(WORDS[start : start + 3])
    flow.end()
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(" ".join(lines).split()) == WORDS.strip()  # no word was cut
    assert max(map(cell_len, lines)) <= min(width, 100)
    assert len(lines) >= cell_len(WORDS) // min(width, 100)


def test_a_word_wider_than_the_terminal_is_still_said(terminal, capsys):
    terminal(40)
    flow = screen.Flow()
    flow.write("가" * 100)
    flow.end()
    assert capsys.readouterr().out.replace("\n", "") == "가" * 100


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_wider_than_the_terminal(session, terminal, capsys, width):
    terminal(width)
    shown = talked(session, capsys, "안녕", "/exam 7", "/compare 00_trained", "혈압", "/help", "/history", "/compare 03_trained")
    assert max(cell_len(line) for line in shown.splitlines()) <= width


def test_two_answers_stand_beside_each_other_where_there_is_room(session, terminal, capsys):
    terminal(200)
    shown = talked(session, capsys, "안녕", "/compare 00_trained")
    assert re.search(r"02_trained +┃ +00_trained", shown)
    [other] = session.others.values()
    theirs = cli.printable(say(other, user("안녕"))["text"]).split()[0]
    ours = cli.printable(session.messages[1]["content"]).split()[0]
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert any(ours[:10] in row.split("│")[1] and theirs[:10] in row.split("│")[2] for row in rows)
    terminal(80)
    assert "┃" not in talked(session, capsys, "/compare 00_trained")


def typed_lines(session, keys: str, lines: int) -> list[str]:
    """What `typed` makes of keys, up to `lines` lines."""
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        typed = screen.typed(session, recipe.completions(session), session.settings.remember)
        return [line for _, line in zip(range(lines), typed, strict=False)]  # range first: it asks for no line too many


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "kmlite/chat_history"


LEFT, BACKSPACE, ALT_ENTER, UP, CONTROL_C, CONTROL_D = "\x1b[D", "\x7f", "\x1b\r", "\x1b[A", "\x03", "\x04"


def test_korean_is_edited_by_syllable(session, state):
    assert typed_lines(session, f"혈앞{BACKSPACE}압{LEFT}{LEFT}고\r", 1) == ["고혈압"]


def test_several_lines_and_paste(session, state):
    assert typed_lines(session, f"첫 줄{ALT_ENTER}둘째 줄\r", 1) == ["첫 줄\n둘째 줄"]
    assert typed_lines(session, "\x1b[200~물음\nA) 가\nB) 나\x1b[201~\r", 1) == ["물음\nA) 가\nB) 나"]


def test_what_was_typed_comes_back(session, state):
    assert typed_lines(session, "혈압이란?\r", 1) == ["혈압이란?"]
    assert typed_lines(session, f"{UP}\r", 1) == ["혈압이란?"]
    assert state.stat().st_mode & 0o777 == 0o600
    quiet = recipe.Session(recipe.Settings(out=session.settings.out, remember=False), session.speaker)
    assert typed_lines(quiet, f"{UP}비밀\r", 1) == ["비밀"]
    assert "비밀" not in state.read_text()


def test_a_state_folder_that_cannot_be_written(session, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert typed_lines(session, "안녕\r", 1) == ["안녕"]
    assert "typed lines are not kept" in capsys.readouterr().out


def test_leaving(session, state, capsys):
    assert typed_lines(session, f"하나\r{CONTROL_D}둘\r", 9) == ["하나"]
    assert typed_lines(session, f"{CONTROL_C}{CONTROL_C}둘\r", 9) == []
    session.interrupted = False
    # one Ctrl-C clears what is typed, or asks for a second; what is said in between makes it the first again
    assert typed_lines(session, f"하나{CONTROL_C}둘\r{CONTROL_C}셋\r{CONTROL_C}넷\r{CONTROL_C}{CONTROL_C}다섯\r", 9) == ["둘", "셋", "넷"]
    assert "once more leaves" in capsys.readouterr().out


# ---- as a process


TERMINAL = {"PYTHONUNBUFFERED": "1", "TERM": "xterm-256color"}


CODE = "from recipes.chat import command; command()"


def given(out, refined, *more) -> list[str]:
    return ["--out", str(out), "--refined", str(refined), *more]


def test_lines_from_a_pipe(warm, out, refined, tmp_path):
    lines = "안녕\n\n/exam 2\n/compare 00_trained\n/exam 999\n마지막 말"
    os.mkfifo(tmp_path / "pipe")
    code = f"import os, sys; os.dup2(os.open(sys.argv.pop(), os.O_RDONLY), 0); {CODE}"
    arguments = given(out, refined, "--max-new-tokens", "5")
    warm.start(code, *arguments, str(tmp_path / "pipe"), output=tmp_path / "said", **TERMINAL, XDG_STATE_HOME=str(tmp_path))
    (tmp_path / "pipe").write_text(lines, encoding="utf-8")
    status, shown = warm.status(), (tmp_path / "said").read_text(encoding="utf-8")
    assert status == 0, shown
    assert shown.count(chat.WARNING[0]) == shown.count(chat.WARNING[1]) == 1
    assert chat.STAND_IN[0] in shown
    said = [
        "> 안녕",
        "5 tokens",
        "> /exam 2",
        "right is",
        "> /compare 00_trained",
        "00_trained: ",
        "> /exam 999",
        "a number from",
        "> 마지막 말",
    ]
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


def test_control_c_in_a_terminal(warm, out, refined, tmp_path):
    """It stops an answer and the talk goes on; twice in an answer ends the program, and so does twice at the prompt."""
    arguments = given(out, refined, "--max-new-tokens", "4000", "--length", "4096")
    where = {**TERMINAL, "XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1"}
    terminal = Pty(warm, CODE, *arguments, **where)
    try:
        start = terminal.until("twice leaves")
        assert "no meaningful text" in start
        assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])m", start)  # NO_COLOR
        terminal.until("\x1b[?2004h")  # the prompt reads pasted text as such: it is there
        terminal.send(f"길게 말해 봨{BACKSPACE}\r")
        terminal.until("\x1b[?2004l")  # the prompt has given the terminal back
        time.sleep(2)
        terminal.send(CONTROL_C)
        assert "4000 tokens" not in terminal.until("; stopped")
        terminal.until("\x1b[?2004h")
        terminal.send("/history\r")
        assert "길게 말해" in terminal.until("1 turns")
        terminal.until("\x1b[?2004h")
        terminal.send(CONTROL_C)
        terminal.until("once more leaves")
        terminal.until("\x1b[?2004h")
        terminal.send(CONTROL_C)
        assert terminal.status() == 0
    finally:
        terminal.close()


def test_control_c_twice_in_an_answer_leaves(session):
    """The first sets the flag that the answer asks for, the second ends the program at once."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), screen.stoppable(session) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        assert session.interrupted
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_settings_reach_make():
    asked = ["make", "-n", "chat", "MODEL=model/00_trained", "OUT=x", "ARGS=--web", "STAMP="]
    shown = subprocess.run(asked, cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout
    assert "-m recipes.chat --model 'model/00_trained' --refined 'data/02_refined' --out 'x' --web" in shown


def test_a_conversation_of_thousands_of_turns_costs_what_one_of_ten_costs(tokenizer, monkeypatch):
    encoded = []
    plain = prompts.dialogue_ids

    def counted(tokenizer, messages):
        ids = plain(tokenizer, messages)
        encoded.append(len(ids))
        return ids

    monkeypatch.setattr(prompts, "dialogue_ids", counted)
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"{i}번째 말입니다"} for i in range(6001)]
    ids, dropped = chat.fit(tokenizer, turns, 512)
    assert sum(encoded) < 20 * 512
    assert 0 <= 512 - len(ids) < len(plain(tokenizer, turns[:2]))
    assert ids == plain(tokenizer, turns[2 * dropped :])


def run_as(code: str, encoding: str, closed: str = "") -> subprocess.CompletedProcess:
    """A program in a console of an encoding, or with a stream closed by the shell."""
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    return subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code], capture_output=True, env=env, input=b"", check=False
    )


@pytest.mark.parametrize("encoding", ["euc-kr", "cp949", "ascii", "utf-8"])
def test_a_console_that_lacks_a_character_shows_a_question_mark(encoding):
    code = "from kmlite.cli import console; console.print('[bold]a[/] 뷁 ✓ █ \\udcff [/x] :smile: \\x1b]0;title\\x07 end')"
    done = run_as(code, encoding)
    assert done.returncode == 0, done.stderr
    expected = "a 뷁 ✓ █ \udcff [/x] :smile: ]0;title end\n".encode(encoding, "replace")
    assert done.stdout == expected


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_closed_streams(closed):
    code = "import click; from kmlite.cli import console; console.print('x'); click.echo('y', err=True)"
    assert run_as(code, "utf-8", closed).returncode == 0


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
