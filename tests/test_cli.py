"""The command line where the shell, the disk or the console is not as one hopes."""

import io
import os
import subprocess
import sys

import pytest

from kmlite import cli, paths

CODE = """
import os, sys, resource, pathlib, click
from kmlite import cli, files, runs

def work():
    {work}

click.command()(lambda: cli.with_plain_errors(work))()
"""


def run(work: str, arguments: str = "", **environment: str):
    """`work` as a recipe in a process of its own, started by a shell; (exit status, stdout, stderr) in bytes."""
    code = CODE.format(work=work)
    command = f'"{sys.executable}" -c "$CODE" {arguments}'
    values = {**os.environ, "CODE": code, "PYTHONPATH": str(paths.ROOT), **environment}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=values, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["euc-kr", "cp949", "ascii", "utf-8"])
def test_a_console_of_any_encoding_takes_every_line(encoding):
    work = "cli.console.print('혈압 – 120 ✓ 🩺', '12 × 3'); click.echo('오류 ✗')"
    status, said, wrong = run(work, PYTHONIOENCODING=encoding)
    assert status == 0, wrong
    assert "120" in said.decode(encoding, "replace")  # click itself writes UTF-8 where the console says ASCII
    if encoding != "ascii":
        assert "혈압" in said.decode(encoding)
    if encoding == "utf-8":
        assert "✓ 🩺" in said.decode()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  learning     LoRA rank 64, 에폭 3, 배치 4", "  learning     LoRA rank\n               64, 에폭 3,\n               배치 4"),
        ("  Measured on a [bold]real[/] Gemma 3 270M", "  Measured on a real Gemma\n  3 270M"),
        ("  written to /a/path/longer/than/all/of/it", "  written to\n  /a/path/longer/than/all/of/it"),
        ("  a line that just fits it", "  a line that just fits it"),
        ("  Put it there, then: make stage0 OUT=a   or leave it", "  Put it there, then:\n  make stage0 OUT=a   or\n  leave it"),
        ("  Run: make stage0 OUT=/a/folder ARGS=--restart", "  Run:\n  make stage0 OUT=/a/folder ARGS=--restart"),
    ],
)
def test_a_line_too_wide_for_the_terminal_goes_on_below_its_own_beginning(line, shown):
    file = io.StringIO()
    cli.PlainConsole(file=file, width=26, highlight=False).print(line)
    assert [row.rstrip() for row in file.getvalue().split("\n")] == [*shown.split("\n"), ""]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_end_nothing_and_no_file_takes_their_place(tmp_path, closed):
    file = tmp_path / "out.txt"
    work = f"file = open('{file}', 'w'); cli.console.print('x'); click.echo('y'); os.write(1, b'z'); file.write('a'); file.close()"
    status, _, wrong = run(work, closed)
    assert status == 0, wrong
    assert file.read_text() == "a"


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (
            "resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); files.write_text(pathlib.Path('{}/run.json'), 'x' * 99)",
            "{}/run.json.partial: the file grew larger than",
        ),
        ("cli.check_writable(pathlib.Path('{}') / ('가' * 90))", "the name is too long"),
        ("raise RuntimeError('Error: I/O error: Input/output error (os error 5)')", "the disk reports an input/output error"),
        ("raise RuntimeError('[errno 5] bad')", "the disk reports an input/output error"),
        ("raise RuntimeError('I/O error: No space left on device')", "the disk is full"),
    ],
)
def test_an_error_of_the_disk_is_one_line_and_names_the_file(tmp_path, work, expected):
    status, _, said = run(work.format(tmp_path))
    assert status == 1
    assert expected.format(tmp_path) in said.decode() and "Traceback" not in said.decode()


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({"RANK": "1"}, True),
        ({"WORLD_SIZE": "8"}, True),
        ({"RANK": "x", "WORLD_SIZE": "", "LOCAL_RANK": "1"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"}, False),  # torchrun's second process is silent
    ],
)
def test_what_a_job_script_left_in_the_environment_is_no_torchrun(tmp_path, environment, first):
    work = f"files.write_json(pathlib.Path('{tmp_path}/a.json'), runs.processes()); cli.console.print('said')"
    status, said, wrong = run(work, **environment)
    assert (status, said) == (0, b"said\n" if first else b""), wrong
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1\n"] * first
