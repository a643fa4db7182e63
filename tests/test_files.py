"""Files: the lock of a folder, and errors of the disk that name the file."""

import os
import subprocess
import sys

import click
import pytest

from kmlite import files, runs

HOLD = """
import sys, pathlib
from kmlite import files
with files.lock(pathlib.Path(sys.argv[1]), "stage1"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_on_a_folder_is_refused_by_name_and_process(tmp_path, holder):
    said = rf"another run writes in {tmp_path}: stage1, process {holder.pid} "
    with pytest.raises(click.ClickException, match=said), files.lock(tmp_path, "stage1"):
        pytest.fail("both write")
    assert str(holder.pid) in (tmp_path / files.LOCK).read_text()  # the refused one left the holder's note alone


def test_a_killed_run_leaves_no_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    with files.lock(tmp_path, "stage2"):
        assert f"stage2, process {os.getpid()} " in (tmp_path / files.LOCK).read_text()


def test_a_forked_worker_that_outlives_its_run_holds_nothing(tmp_path):
    code = HOLD.replace(
        '    print("held"', "    import os, time\n    worker = os.fork()\n    if not worker:\n        time.sleep(30)\n    print(worker"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = int(run.stdout.readline().split()[0])
    run.kill()
    run.wait()
    try:
        with files.lock(tmp_path, "stage1"):
            pass
    finally:
        os.kill(worker, 9)


def test_a_second_process_of_the_same_training_does_not_lock(tmp_path, holder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with files.lock(tmp_path, "stage1"):
        pass


def test_a_stage_holds_its_folder_until_its_process_ends(tmp_path, holder):
    with pytest.raises(click.ClickException, match="another run writes in"):
        runs.hold(tmp_path, "stage1")
    holder.kill()
    holder.wait()
    runs.hold(tmp_path, "stage1")
    code = "import sys, pathlib; from kmlite import runs; runs.hold(pathlib.Path(sys.argv[1]), 'stage2')"
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"stage1, process {os.getpid()} " in other.stderr


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    def fails(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=r"Input/output error: .*run\.json\.partial"):
        files.write_json(tmp_path / "run.json", {})
