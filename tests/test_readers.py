"""Reading the raw formats people have."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kmlite.refine import readers
from kmlite.refine.readers import Raw, raw_files, read_raw

RECORDS = [{"text": "첫째 글"}, {"text": "둘째 글"}, {"text": "셋째 글"}]
LINES = "\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS).encode()


def as_plain(path):
    path.write_bytes(LINES)


def as_lines_with_windows_ends(path):
    path.write_bytes(LINES.replace(b"\n", b"\r\n") + b"\r\n")


def as_gzip(path):
    path.write_bytes(gzip.compress(LINES))


def as_two_gzip_members(path):
    first, rest = LINES.split(b"\n", 1)
    path.write_bytes(gzip.compress(first + b"\n") + gzip.compress(rest))


def as_zstd(path):
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(LINES)


def as_array(path):
    path.write_text(json.dumps(RECORDS), encoding="utf-8")


def as_parquet(path):
    pq.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=2)


def as_stream(path):
    table = pa.Table.from_pylist(RECORDS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def as_ipc_file(path):
    table = pa.Table.from_pylist(RECORDS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def as_csv(path):
    path.write_text("text\n첫째 글\n둘째 글\n셋째 글\n", encoding="utf-8")


def as_csv_from_excel(path):
    path.write_text("text\r\n첫째 글\r\n둘째 글\r\n셋째 글\r\n", encoding="utf-8-sig")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", as_plain),
        ("a.jsonl", as_lines_with_windows_ends),
        ("a.jsonl.gz", as_gzip),
        ("a.jsonl.gz", as_two_gzip_members),
        ("a.jsonl.zst", as_zstd),
        ("a.json", as_array),
        ("a.parquet", as_parquet),
        ("data-00000-of-00001.arrow", as_stream),
        ("a.arrow", as_ipc_file),
        ("a.csv", as_csv),
        ("a.csv", as_csv_from_excel),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_format_gives_the_same_records(tmp_path, name, write):
    folder = tmp_path / "한글 폴더"
    folder.mkdir()
    write(folder / name)
    expected = [Raw(f"한글 폴더/{name}", line, record, None) for line, record in enumerate(RECORDS, 1)]
    assert list(read_raw(folder / name, tmp_path)) == expected


def read(path, content):
    path.write_bytes(content)
    return [(raw.line, raw.value, raw.problem) for raw in read_raw(path, path.parent)]


def test_bad_lines_keep_their_line_numbers(tmp_path):
    content = b'{"text": 1}\n\n{"text": \n  \n[1, 2]\n"s"\nnull\n{"text": NaN}\n\xc7\xd1\n{"text": 2}'
    assert read(tmp_path / "a.jsonl", content) == [
        (1, {"text": 1}, None),
        (3, '{"text": ', "not_json"),
        (5, [1, 2], "not_an_object"),
        (6, "s", "not_an_object"),
        (7, None, "not_an_object"),
        (8, '{"text": NaN}', "not_json"),
        (9, "\ufffd\ufffd", "not_json"),
        (10, {"text": 2}, None),
    ]


def test_a_long_bad_line_is_cut(tmp_path):
    [(line, value, problem)] = read(tmp_path / "a.jsonl", b'{"text": "' + b"x" * 5000)
    assert (line, len(value), problem) == (1, 500, "not_json")


def test_a_line_longer_than_a_block(tmp_path):
    long = "가" * 800_000
    content = json.dumps({"text": long}, ensure_ascii=False).encode() + b'\n{"text": "b"}\n'
    assert read(tmp_path / "a.jsonl", content) == [(1, {"text": long}, None), (2, {"text": "b"}, None)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_byte_order_mark_does_no_harm(tmp_path, name):
    assert read(tmp_path / name, b'\xef\xbb\xbf{"text": "a"}') == [(1, {"text": "a"}, None)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "a.arrow", "a.csv", "a.txt"])
def test_an_empty_file(tmp_path, name):
    assert read(tmp_path / name, b"") == [(0, None, "empty_file")]


def random_lines(n):
    chosen = random.Random(3)
    return [json.dumps({"n": i, "text": f"{chosen.getrandbits(200):x}"}).encode() + b"\n" for i in range(n)]


@pytest.mark.parametrize("lines", [100_000, 200], ids=["7 MB", "14 kB"])
def test_a_truncated_gzip_keeps_what_came_before(tmp_path, lines):
    whole = gzip.compress(b"".join(random_lines(lines)), compresslevel=1)
    rows = read(tmp_path / "a.jsonl.gz", whole[: len(whole) * 3 // 4])
    *kept, (line, message, problem) = rows
    assert problem == "unreadable"
    assert "ended before" in message
    assert line == len(kept) + 1
    assert [(n, value["n"], trouble) for n, value, trouble in kept] == [(i + 1, i, None) for i in range(len(kept))]
    assert len(kept) > lines // 2


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow", "a.json"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, name):
    [(line, message, problem)] = read(tmp_path / name, b"these bytes are none of that")
    assert (line, problem) == (1, "unreadable")
    assert message


def test_a_parquet_file_without_its_end(tmp_path):
    as_parquet(tmp_path / "whole.parquet")
    [(line, _, problem)] = read(tmp_path / "a.parquet", (tmp_path / "whole.parquet").read_bytes()[:-8])
    assert (line, problem) == (1, "unreadable")


def test_an_arrow_stream_that_breaks_off_keeps_what_came_before(tmp_path):
    as_stream(tmp_path / "whole.arrow")
    content = (tmp_path / "whole.arrow").read_bytes()
    *kept, (line, _, problem) = read(tmp_path / "a.arrow", content[:-60])
    assert [value for _, value, _ in kept] == RECORDS[:2]
    assert (line, problem) == (3, "unreadable")


def test_a_csv_of_several_columns_and_lines_in_a_field(tmp_path):
    content = 'term,definition\n간,"두 줄의\n뜻, 쉼표"\n폐,숨\n귀\n'.encode()
    assert read(tmp_path / "a.csv", content) == [
        (1, {"term": "간", "definition": "두 줄의\n뜻, 쉼표"}, None),
        (2, {"term": "폐", "definition": "숨"}, None),
        (3, {"term": "귀", "definition": None}, None),
    ]


def test_a_csv_in_another_encoding_is_unreadable(tmp_path):
    [(line, message, problem)] = read(tmp_path / "a.csv", "text\n한글\n".encode("cp949"))
    assert (line, problem) == (1, "unreadable")
    assert "utf-8" in message


def test_a_csv_may_hold_a_long_text(tmp_path):
    long = "x" * 200_000
    rows = read(tmp_path / "a.csv", f"text\nfirst\n{long}\nlast\n".encode())
    assert rows == [(1, {"text": "first"}, None), (2, {"text": long}, None), (3, {"text": "last"}, None)]


def test_a_txt_is_one_document(tmp_path):
    assert read(tmp_path / "a.txt", "첫 문단\r\n\r\n둘째 문단\n".encode()) == [(1, {"text": "첫 문단\n\n둘째 문단\n"}, None)]
    assert read(tmp_path / "b.txt", b" \n\n ") == []


def test_a_large_txt_is_cut_at_blank_lines(tmp_path):
    paragraphs = [f"{i} " + "가" * 1000 for i in range(2500)]
    rows = read(tmp_path / "a.txt", "\n\n".join(paragraphs).encode())
    assert [line for line, _, _ in rows] == [1, 2, 3]
    texts = [value["text"] for _, value, _ in rows]
    assert "\n\n".join(texts).split("\n\n") == paragraphs
    assert all(text.split(" ")[0].isdigit() and text.endswith("가") for text in texts)
    assert all(len(text) < readers.TXT_PIECE + 5000 for text in texts)


def test_a_json_file_of_one_object(tmp_path):
    assert read(tmp_path / "a.json", b'{"text": "a"}') == [(1, {"text": "a"}, None)]
    assert read(tmp_path / "b.json", b'[{"text": "a"}, 2]') == [(1, {"text": "a"}, None), (2, 2, "not_an_object")]


def test_which_files_are_read(tmp_path):
    for name in (
        "b.jsonl",
        "a/z.parquet",
        "a/deep/data-00000-of-00001.arrow",
        "a/deep/dataset_info.json",
        "a/deep/state.json",
        "dataset_dict.json",
        "a/.hidden.jsonl",
        ".cache/a.jsonl",
        "a/.git/deep/a.txt",
        "README.md",
        "a.jsonl.partial",
        "c.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jsonl").mkdir()
    expected = ["a/deep/data-00000-of-00001.arrow", "a/z.parquet", "b.jsonl", "c.csv"]
    assert [str(p.relative_to(tmp_path)) for p in raw_files(tmp_path)] == expected


def test_a_hidden_folder_above_the_data_does_not_hide_it(tmp_path):
    folder = tmp_path / ".hidden" / "raw"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("글", encoding="utf-8")
    assert raw_files(folder) == [folder / "a.txt"]


def test_no_folder_no_files(tmp_path):
    assert raw_files(tmp_path / "none") == []
