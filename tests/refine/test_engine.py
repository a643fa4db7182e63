"""Shards, workers that are killed, runs that are killed, and input that is broken in every way."""

import gzip
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from refining import as_table, attempt, content, funnel, in_lines, refined, rejected, trained, write

from kmlite import paths
from kmlite.refine import batch, engine, readers, worker
from kmlite.refine.cleaning import clean
from kmlite.refine.judging import judge

ROOM = random.Random(7)
STOCK = ["".join(chr(ROOM.randrange(0xAC00, 0xD7A4)) for _ in range(ROOM.randrange(2, 5))) for _ in range(400)]


def text_of(seed: int, size: int = 40) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(STOCK) for _ in range(size)) + "."


def rows(n: int, first: int = 0) -> list[dict]:
    """Texts of which every fifth repeats an earlier one, every seventh is short and every eleventh nearly repeats one."""
    out = []
    for i in range(first, first + n):
        seed = i // 2 if i % 5 == 0 else i
        text = text_of(seed)
        out.append({"text": "짧다" if i % 7 == 0 else text.replace(" ", " 바뀐말 ", 1) if i % 11 == 0 else text})
    return out


ONE, TWO = (("--workers", n, "--shard-mb", 1) for n in (1, 2))


# ---- pieces of files


@pytest.mark.parametrize("name", ["a.jsonl", "a.arrow", "a.parquet"])
@pytest.mark.parametrize("size", [64, 1000, 4096, 10**9])
def test_a_file_in_pieces_gives_each_record_once_and_in_order(tmp_path, name, size):
    table = rows(100)
    as_table(tmp_path / name, table, 17)
    pieces = worker.cut(tmp_path / name, tmp_path, size)
    assert (len(pieces) > 1) == (size < 10_000)
    found = [raw.value for piece in pieces for raw in readers.read_raw(tmp_path / name, tmp_path, piece.start, piece.stop)]
    assert found == table


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n\n"])
def test_lines_of_any_length_at_any_bound(tmp_path, end):
    lines = [json.dumps({"n": i, "x": "가" * (i % 9)}, ensure_ascii=False).encode() for i in range(60)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + end)
    for size in range(1, 90):
        pieces = worker.cut(tmp_path / "a.jsonl", tmp_path, size)
        found = [raw.value["n"] for p in pieces for raw in readers.read_raw(tmp_path / "a.jsonl", tmp_path, p.start, p.stop)]
        assert found == list(range(60)), size


def test_small_files_share_a_shard_and_keep_their_order(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.jsonl", *rows(3))
    files = readers.raw_files(tmp_path)
    size = files[0].stat().st_size
    planned = worker.plan_shards(files, tmp_path, size * 4)
    assert [len(shard) for shard in planned] == [4, 4, 2]
    assert [piece.file for shard in planned for piece in shard] == [f"{i}.jsonl" for i in range(10)]


# ---- the same bytes, however it is run


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """3.4 MB in all the ways that split differently."""
    raw = tmp_path_factory.mktemp("large") / "raw"
    folder = raw / paths.RAW_TEXT
    write(folder / "a" / "lines.jsonl", *rows(4000))
    as_table(folder / "b.arrow", rows(1500, 3000), 17)
    as_table(folder / "c.parquet", rows(1500, 4000), 17)
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(in_lines(*rows(500, 5000))))
    (folder / "e.txt").write_text(text_of(-1, 200), encoding="utf-8")
    return raw


@pytest.fixture(scope="module")
def undisturbed(large, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    refined(large, out, *ONE)
    return out


def test_what_large_data_loses_and_why(undisturbed):
    told = funnel(undisturbed)["text"]
    assert told["read"] == 7501 == told["kept"] + sum(told["rejected"].values())
    assert set(told["rejected"]) == {"too_short", "duplicate", "near_duplicate"}
    assert len(trained(undisturbed)) + told["heldout"] == told["kept"]
    assert len(paths.text_shards(undisturbed)) > 3


def test_workers_change_no_byte(large, undisturbed, tmp_path):
    refined(large, tmp_path / "out", *TWO)
    assert content(tmp_path / "out") == content(undisturbed)


def test_the_size_of_shards_changes_no_text(large, undisturbed, tmp_path):
    refined(large, tmp_path / "out", "--workers", 1, "--shard-mb", 100)
    assert trained(tmp_path / "out") == trained(undisturbed)
    for name in (f"{paths.TEXT}/heldout.jsonl", f"{paths.REJECTED}/text.jsonl"):
        assert content(tmp_path / "out")[name] == content(undisturbed)[name]


def test_rejected_lines_are_those_of_the_file_whatever_the_shard(large, undisturbed):
    source = (large / paths.RAW_TEXT / "a/lines.jsonl").read_text(encoding="utf-8").split("\n")
    mine = [row for row in rejected(undisturbed, "text") if row["source"].endswith("lines.jsonl")]
    assert len(mine) > 500
    assert all(json.loads(source[row["line"] - 1])["text"] == row["record"] for row in mine)


def test_several_text_columns(tmp_path):
    texts = {"title": text_of(1), "body": text_of(2)}, {"body": text_of(3)}, {"x": "글"}
    write(tmp_path / "raw" / paths.RAW_TEXT / "a.jsonl", *texts)
    refined(tmp_path / "raw", tmp_path / "out", "--text-column", "title,body", "--heldout-share", 0)
    assert trained(tmp_path / "out") == [f"{text_of(1)}\n\n{text_of(2)}", text_of(3)]
    assert funnel(tmp_path / "out")["text"]["rejected"] == {"missing_field": 1}


def test_personal_data_is_counted(tmp_path):
    text = f"{text_of(1)} 주민번호 900101-1234567, 전화 010-1234-5678과 02-123-4567, a@b.kr, https://a.kr"
    write(tmp_path / "raw" / paths.RAW_TEXT / "a.jsonl", {"text": text})
    refined(tmp_path / "raw", tmp_path / "out", "--heldout-share", 0)
    assert funnel(tmp_path / "out")["text"]["removed"] == {"phone": 2, "mail": 1, "resident_number": 1, "url": 1}
    assert not re.search(r"\d{4}|@|://", trained(tmp_path / "out")[0])


# ---- killed

COMMAND = [sys.executable, "-m", "recipes.refine"]


def start(raw: Path, out: Path, *args) -> subprocess.Popen:
    command = [*COMMAND, "--raw", str(raw), "--refined", str(out), *map(str, args)]
    return subprocess.Popen(command, cwd=paths.ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finished_shards(out: Path, since: float = 0) -> int:
    """Shards that are finished; those alone that were finished after `since`, in seconds of the clock."""
    try:
        return sum(path.stat().st_mtime > since for path in (out / ".partial/shards").glob("*.json"))
    except FileNotFoundError:  # --restart deletes them meanwhile
        return 0


def test_killed_again_and_again_the_bytes_are_the_same(large, undisturbed, tmp_path):
    """kill -9 of the whole group at twenty moments of runs that go on, then an undisturbed run.

    A moment is a number of finished shards and a little more, not a time: how fast a machine is decides nothing.
    """
    out, chosen, killed, seen = tmp_path / "out", random.Random(11), 0, set()
    while killed < 20 or len(seen) < 3:  # it was killed at different points
        assert killed < 60, seen
        began = time.time()
        process = start(large, out, *TWO, *(["--restart"] if killed % 2 else []))
        wanted, more = chosen.randrange(4), chosen.choice((0.001, 0.02, 0.2))
        while process.poll() is None and finished_shards(out, began) < wanted:
            time.sleep(0.002)
        try:
            process.wait(more)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            seen.add(finished_shards(out))
        else:
            assert process.returncode == 0
            assert content(out) == content(undisturbed)
            (out / paths.REFINE_RECORD).write_text("{")  # begin anew, over the old result
    refined(large, out, *TWO)
    assert content(out) == content(undisturbed)


def stopped(*_args, **_kwargs):
    raise KeyboardInterrupt


def test_finished_shards_are_not_done_again(large, undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("kmlite.refine.corpus.assemble", stopped)
        assert attempt(large, tmp_path, *ONE)[0]
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".partial/shards").glob("*.keys")}
    assert before
    monkeypatch.setattr("kmlite.refine.worker.clean_all", stopped)  # nothing may be cleaned again
    refined(large, tmp_path, *ONE)
    assert content(tmp_path) == content(undisturbed)


@pytest.mark.parametrize("kept", [False, True], ids=["unfinished", "kept"])
def test_more_data_redoes_its_shards_alone(large, tmp_path, monkeypatch, kept):
    """Of a run that was stopped, and of a finished one with --keep-shards."""
    raw = Path(shutil.copytree(large, tmp_path / "raw"))
    with monkeypatch.context() as patch:
        if not kept:
            patch.setattr("kmlite.refine.corpus.assemble", stopped)
        attempt(raw, tmp_path / "out", *ONE, "--keep-shards")
    assert not kept or [path.name for path in (tmp_path / "out/.partial").iterdir()] == ["shards"]
    write(raw / paths.RAW_TEXT / "f.jsonl", {"text": text_of(99999, 300)})
    told = refined(raw, tmp_path / "out", *ONE)
    planned, finished = map(int, re.search(r"(\d+) shards.*?(\d+) finished before", told).groups())
    assert 1 <= planned - finished <= 2
    refined(raw, tmp_path / "again", *ONE)
    assert content(tmp_path / "out") == content(tmp_path / "again")


def die(_task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_every_worker_ends_the_run(tmp_path):
    with pytest.raises(click.ClickException, match="--workers 1"):
        list(engine.run(die, [1, 2], workers=2))


def workers_of(process: subprocess.Popen) -> list[int]:
    """The process ids of a command's workers, as soon as there are any."""
    found: list[int] = []
    while not found and process.poll() is None:
        time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        found = [int(p) for p in children if "spawn_main" in Path(f"/proc/{p}/cmdline").read_text()]
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize("after", [0.0, 0.3, 0.6])
def test_killing_a_worker_changes_no_byte(large, undisturbed, tmp_path, after):
    process = start(large, tmp_path / "out", *TWO)
    workers = workers_of(process)
    assert workers
    time.sleep(after)
    if is_running(workers[0]):
        os.kill(workers[0], signal.SIGKILL)
    assert process.wait(60) == 0
    assert content(tmp_path / "out") == content(undisturbed)


@linux
def test_workers_end_with_the_command(large, tmp_path):
    """Whoever kills the command alone leaves no worker behind."""
    process = start(large, tmp_path / "out", *TWO)
    workers = workers_of(process)
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(200):
        if not any(map(is_running, workers)):
            return
        time.sleep(0.05)
    pytest.fail("workers went on")


# ---- broken input


def test_broken_files_are_named_and_the_rest_goes_on(tmp_path):
    folder = tmp_path / "raw" / paths.RAW_TEXT
    good = [{"text": text_of(i)} for i in range(40)]
    write(folder / "good.jsonl", *good)
    packed = gzip.compress(in_lines(*({"text": text_of(100 + i)} for i in range(500))))
    (folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    as_table(folder / "cut.arrow", [{"text": text_of(1000 + i)} for i in range(500)], 17)
    arrow = (folder / "cut.arrow").read_bytes()
    (folder / "cut.arrow").write_bytes(arrow[: len(arrow) // 2])
    (folder / "no.parquet").write_bytes(b"PAR1 nothing of the kind PAR1")
    with open(folder / "long.jsonl", "wb") as file:
        file.write(b'{"text": "' + b"x" * 50_000_000 + b'"}\n')
        file.write(json.dumps({"text": text_of(5000)}).encode() + b"\n")
    (folder / "bytes.jsonl").write_bytes(
        b'{"text": "\xff\xfe' + text_of(5001).encode() + b'"}\n\x00\x00\n' + json.dumps({"text": "\x00" + text_of(5002)}).encode() + b"\n"
    )
    refined(tmp_path / "raw", tmp_path / "out", *ONE, "--heldout-share", 0)
    kept = set(trained(tmp_path / "out"))
    assert {clean(row["text"]) for row in good} | {clean(text_of(5000)), clean(text_of(5002))} <= kept
    assert clean(text_of(100)) in kept
    assert clean(text_of(1000)) in kept
    shown = rejected(tmp_path / "out", "text")
    named = {(row["reason"], Path(row["source"]).name) for row in shown}
    expected = {("unreadable", "cut.jsonl.gz"), ("unreadable", "cut.arrow"), ("unreadable", "no.parquet"), ("too_long", "long.jsonl")}
    assert named == expected | {("not_json", "bytes.jsonl"), ("not_json", "cut.jsonl.gz")}  # the line that the cut goes through
    assert [row["line"] for row in shown if row["source"].endswith("bytes.jsonl")] == [2]
    assert any(text.startswith("\ufffd\ufffd") and text_of(5001)[:40] in text for text in kept)  # two broken bytes stay signs
    assert all(len(str(row["record"])) < 3000 for row in shown)


HOSTILE = (
    "<¦<!--¦-->¦www.¦a.¦ ¦\n¦\t¦[[¦]]¦{{¦}}¦{{{¦=¦== ¦~~¦--¦(¦)¦@¦a@¦&¦&amp;¦&lt;¦<b>¦<a ¦<a x=¦<b><p>¦<div>¦<span>¦<script>¦<title>¦"
    "</title>¦<title></¦<ref>¦<ref ¦</¦[*¦[include(¦||¦{|\n|¦''¦'''¦|¦<bos¦0¦01¦010-¦010 1234 ¦900101-¦http://¦http://a(¦"
    "(010-1234-5678¦가¦가 ¦할인 ¦\u1100¦\u0301¦* ¦> ¦-¦\r¦가나다 ¦다.\n¦<table><tr><td>¦<!--<b>-->¦[[a|¦{{a|¦\n=¦=\n¦= =¦<svg><p>¦"
    "<b x='¦https://a.¦&#38;¦&a¦[math(¦<gallery>¦<math>¦{{{+1 ¦{{lang|en|¦{{{#!wiki a=b ¦[ruby(¦```\n¦[b]¦00:00:01,000 --> "
)  # apart by ¦
NESTED = [("<bo", "s>"), ("[[a|", "]]"), ("{{", "}}"), ("(010 ", ")"), ("ht(http://x)", "tp://y")]


@pytest.mark.parametrize(("sign", "end"), [*((sign, "") for sign in HOSTILE.split("¦")), *NESTED])
def test_every_rule_is_linear_on_hostile_input(sign, end):
    """200 kB of one sign, alone, in a page of HTML and in a page of a wiki: a quadratic rule takes minutes."""
    for before in ("", "<p>글</p>", "[[글]]\n{|\n", "https://a.kr a@b.kr 010-1234-5678 "):
        n = 200_000 // len((sign + end).encode())
        hostile = before + sign * n + end * n + "x" * bool(before)
        begun = time.process_time()
        cleaned = clean(hostile)
        judge(cleaned, 100, *batch.counts(batch.measure([cleaned])))
        assert time.process_time() - begun < 1, (before, sign)
        assert not end or clean(cleaned) == cleaned


def test_a_pool_that_breaks_while_it_is_filled_is_started_again(monkeypatch):
    """A worker killed as it starts: the tasks behind it can't be handed over any more."""
    original, tried = engine.ProcessPoolExecutor.submit, []

    def submit(self, function, task):
        tried.append(task)
        if len(tried) == 2:
            raise engine.BrokenProcessPool("killed")
        return original(self, function, task)

    monkeypatch.setattr(engine.ProcessPoolExecutor, "submit", submit)
    assert sorted(engine.run(abs, [-3, -4, -5], workers=2)) == [(0, 3), (1, 4), (2, 5)]
    assert len(tried) > 3


# ---- Ray


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_extra_is_named(tmp_path):
    code, said = attempt(paths.SAMPLE_RAW, tmp_path, "--engine", "ray")
    assert (code, "'.[ray]'" in said) == (1, True)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
def test_a_local_ray_of_two_workers_gives_the_same_bytes(large, undisturbed, tmp_path):
    refined(large, tmp_path / "out", *TWO, "--engine", "ray")
    assert content(tmp_path / "out") == content(undisturbed)
