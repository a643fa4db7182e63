"""Files that are there whole or not at all, known again by their bytes, and the lock of a folder."""

import os
import subprocess
import sys

import click
import pytest

from kmlite import files, runs


def test_what_is_written_makes_its_folders_replaces_the_old_file_and_is_read_back(tmp_path):
    path = tmp_path / "새 폴더" / "a.json"
    for value in ("old", {"이름": ["값", None], "path": tmp_path}):
        files.write_json(path, value)
    assert files.read_json(path) == {"이름": ["값", None], "path": str(tmp_path)}
    assert os.listdir(path.parent) == ["a.json"]
    assert "이름" in path.read_text(encoding="utf-8")
    files.write_lines(path, [{"text": "가\n나\u2028"}, {"text": "다"}])
    assert path.read_text(encoding="utf-8") == '{"text": "가\\n나\u2028"}\n{"text": "다"}\n'
    assert files.read_lines(path) == [{"text": "가\n나\u2028"}, {"text": "다"}]


@pytest.mark.parametrize(("broken", "text"), [("fsync", "new"), ("replace", "new"), (None, "new \ud800")])
def test_a_write_that_fails_leaves_the_old_file_or_none(tmp_path, monkeypatch, broken, text):
    def fail(*args):
        raise OSError(28, "No space left on device")

    files.write_text(tmp_path / "a.json", "old")
    with monkeypatch.context() as patch:
        if broken:
            patch.setattr(os, broken, fail)
        for name in ("a.json", "b.json"):
            with pytest.raises((OSError, UnicodeEncodeError), match=r"No space|surrogates"):
                files.write_text(tmp_path / name, text)
    assert (tmp_path / "a.json").read_text() == "old"
    assert not (tmp_path / "b.json").exists()
    files.write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    def fails(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=r"Input/output error: .*run\.json\.partial"):
        files.write_json(tmp_path / "run.json", {})


def test_put_in_place_replaces_a_folder(tmp_path):
    for name in ("old", "new"):
        files.write_text(tmp_path / name / "deep" / "a", name)
    (tmp_path / "old" / "only_old").touch()
    files.put_in_place(tmp_path / "new", tmp_path / "old")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["old", "old/deep", "old/deep/a"]
    assert (tmp_path / "old" / "deep" / "a").read_text() == "new"


# ---- fingerprints


def test_a_fingerprint_knows_bytes_names_and_where_a_file_ends(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"

    def of(first: bytes, second: bytes) -> str:
        a.write_bytes(first)
        b.write_bytes(second)
        os.utime(a, (0, 0))
        return files.fingerprint(a, b)

    assert of(b"12", b"3") == of(b"12", b"3") != files.fingerprint(b, a)
    assert len({of(b"12", b"3"), of(b"1", b"23"), of(b"12", b"4"), files.fingerprint(a), files.fingerprint(a.rename(tmp_path / "c"))}) == 5


@pytest.mark.parametrize(
    ("size", "place", "seen"),
    [(8, 0, True), (8, 7, True), (12, 5, True), (100, 0, True), (100, 7, True), (100, 99, True), (100, 48, True), (100, 50, False)],
)
def test_a_fingerprint_of_a_large_file_reads_its_size_both_ends_and_samples_between(tmp_path, monkeypatch, size, place, seen):
    for name, value in {"WHOLE": 8, "SAMPLE": 2, "STRIDE": 20}.items():
        monkeypatch.setattr(files, name, value)

    def of(content: bytes) -> str:
        (tmp_path / "weights").write_bytes(content)
        return files.fingerprint(tmp_path / "weights")

    content = bytearray(size)
    content[place] = 1
    assert (of(content) != of(bytes(size))) is seen
    assert of(bytes(size)) != of(bytes(size + 1))


def test_a_models_fingerprint_reads_what_makes_a_model(tmp_path):
    found = {files.model_fingerprint(tmp_path)}
    for name in ("config.json", "model.safetensors", "chat_template.jinja"):
        (tmp_path / name).write_text("1")
        found.add(files.model_fingerprint(tmp_path))
    assert len(found) == 4
    (tmp_path / "README.md").write_text("2")
    assert files.model_fingerprint(tmp_path) in found


# ---- the lock of a folder

HOLD = """
import os, sys, time, pathlib
from kmlite import files
with files.lock(pathlib.Path(sys.argv[1]), "stage1"):
    worker = os.fork()
    if not worker:
        time.sleep(30)
        os._exit(0)
    print(worker, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path until it is killed, with a forked worker that outlives it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    yield process
    process.kill()
    os.kill(worker, 9)
    process.communicate()


def test_a_second_run_on_a_folder_is_refused_by_name_and_process_until_the_first_is_gone(tmp_path, holder, monkeypatch):
    said = rf"another run writes in {tmp_path}: stage1, process {holder.pid} "
    with pytest.raises(click.ClickException, match=said), files.lock(tmp_path, "stage2"):
        pytest.fail("both write")
    with monkeypatch.context() as patch:  # a second process of the same training does not lock
        patch.setenv("RANK", "1")
        with files.lock(tmp_path, "stage1"):
            pass
    assert str(holder.pid) in (tmp_path / files.LOCK).read_text()  # the refused one left the holder's note alone
    holder.kill()
    holder.wait()
    with files.lock(tmp_path, "stage2"):
        assert f"stage2, process {os.getpid()} " in (tmp_path / files.LOCK).read_text()


def test_a_stage_holds_its_folder_until_its_process_ends(tmp_path):
    runs.hold(tmp_path, "stage1")
    code = "import sys, pathlib; from kmlite import runs; runs.hold(pathlib.Path(sys.argv[1]), 'stage2')"
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"stage1, process {os.getpid()} " in other.stderr
