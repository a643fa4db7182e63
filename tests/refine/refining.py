"""What the tests of refine share: raw folders written, refine run, its result read back."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from kmlite import files, paths
from recipes import refine

MEDICAL = [record["text"] for record in files.read_lines(paths.SAMPLE_RAW / paths.RAW_TEXT / "medical.jsonl")]
QUESTION = {
    "question": "협심증으로 니트로글리세린 설하정을 쓰는 환자가 함께 복용하면 심한 저혈압이 생길 수 있어 금기인 약물을 고르면?",
    **{"A": "메트포르민", "B": "오메프라졸", "C": "실데나필", "D": "세티리진", "E": "스타틴", "answer": 3},
}


def in_lines(*records) -> bytes:
    """Lines of JSON; a text is a line as it is."""
    return "".join((one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)) + "\n" for one in records).encode()


def write(path: Path, *records) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(in_lines(*records))


def as_table(path: Path, records: list[dict], size: int = 1000) -> None:
    """The records in the format of the ending (.ipc and .feather: Arrow's file, .arrow: its stream), `size` in a group or batch."""
    table, ending = pa.Table.from_pylist(records), path.suffix.lower()
    if ending == ".jsonl":
        write(path, *records)
    elif ending in (".parquet", ".pq"):
        pq.write_table(table, path, row_group_size=size)
    else:
        with (pa.ipc.new_stream if ending == ".arrow" else pa.ipc.new_file)(path, table.schema) as file:
            file.write_table(table, max_chunksize=size)


def attempt(raw, out, *args) -> tuple[int, str]:
    """(exit code, output) of one run; whatever goes wrong is told plainly."""
    result = CliRunner().invoke(refine.command, ["--raw", str(raw), "--refined", str(out), *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def refined(raw, out, *args) -> str:
    code, output = attempt(raw, out, *args)
    assert code == 0, output
    return output


def funnel(out: Path) -> dict:
    return files.read_json(out / paths.REFINE_RECORD)["funnel"]


def rejected(out: Path, kind: str) -> list[dict]:
    return files.read_lines(out / paths.REJECTED / f"{kind}.jsonl")


def trained(out: Path) -> list[str]:
    return [record["text"] for path in paths.text_shards(out) for record in files.read_lines(path)]


def held(out: Path) -> list[str]:
    return [record["text"] for record in files.read_lines(paths.heldout_text(out))]


def content(out: Path) -> dict[str, bytes]:
    """Every file of a finished refine but the record, which holds the seconds; and no other is there."""
    assert (out / paths.REFINE_RECORD).exists()
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert not any(".partial" in name for name in found)
    return {name: data for name, data in found.items() if name not in (paths.REFINE_RECORD, ".lock")}


@contextlib.contextmanager
def held_by_another(folder: Path, step: str) -> Iterator[subprocess.Popen]:
    """Another process at work in a folder."""
    hold = "import sys; from pathlib import Path; from kmlite.files import lock\n"
    hold += f"with lock(Path({str(folder)!r}), {step!r}): print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=paths.ROOT) as other:
        other.stdout.readline()
        yield other
        other.stdin.close()
