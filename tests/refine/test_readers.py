"""Reading the raw formats people have."""

import codecs
import gzip
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refining import as_table, write

from kmlite.refine import encodings, readers, tables
from kmlite.refine.readers import Raw, raw_files, read_raw

RECORDS = [{"text": "첫째 글"}, {"text": "둘째 글"}, {"text": "셋째 글"}]
LINES = "\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS).encode()


FIRST, REST = LINES.split(b"\n", 1)
CSV = "text\n첫째 글\n둘째 글\n셋째 글\n"
WAYS = [
    ("a.jsonl", LINES),
    ("a.jsonl", LINES.replace(b"\n", b"\r\n") + b"\r\n"),
    ("a.jsonl.gz", gzip.compress(LINES)),
    ("a.jsonl.gz", gzip.compress(FIRST + b"\n") + gzip.compress(REST)),
    ("a.jsonl.zst", pa.compress(LINES, "zstd", asbytes=True)),
    ("a.json", json.dumps(RECORDS).encode()),
    *((name, None) for name in ("a.parquet", "a.PQ", "data-00000-of-00001.arrow", "a.Arrow", "a.feather", "a.ipc")),
    ("a.csv", CSV.encode()),
    ("a.csv", CSV.replace("\n", "\r\n").encode("utf-8-sig")),  # from Excel
]


@pytest.mark.parametrize(("name", "content"), WAYS, ids=[f"{i} {name}" for i, (name, _) in enumerate(WAYS)])
def test_every_format_gives_the_same_records(tmp_path, name, content):
    folder = tmp_path / "한글 폴더"
    folder.mkdir()
    (folder / name).write_bytes(content) if content else as_table(folder / name, RECORDS, 2)
    expected = [Raw(f"한글 폴더/{name}", line, record, None) for line, record in enumerate(RECORDS, 1)]
    assert list(read_raw(folder / name, tmp_path)) == expected


def read(path, content):
    path.write_bytes(content)
    return [(raw.line, raw.value, raw.problem) for raw in read_raw(path, path.parent)]


LONG = "가" * 800_000  # more than a block
CELLS = {"term": "간", "definition": "장기, 크다"}
FILES = {
    "long.jsonl": (f'{{"text": "{LONG}"}}\n{{"text": "b"}}\n', [(1, {"text": LONG}, None), (2, {"text": "b"}, None)]),
    "broken.jsonl": ('{"text": "' + "x" * 5000, [(1, '{"text": "' + "x" * 490, "not_json")]),
    "mark.jsonl": ('\ufeff{"text": "a"}', [(1, {"text": "a"}, None)]),
    "mark.json": ('\ufeff{"text": "a"}', [(1, {"text": "a"}, None)]),
    "two.json": ('[{"text": "a"}, 2]', [(1, {"text": "a"}, None), (2, 2, "not_an_object")]),
    "a.txt": ("첫 문단\r\n\r\n둘째 문단\n", [(1, {"text": "첫 문단\n\n둘째 문단"}, None)]),
    "blank.txt": (" \n\n ", []),
    "columns.csv": (
        'term,definition\n간,"두 줄의\n뜻, 쉼표"\n귀\n',
        [(1, {"term": "간", "definition": "두 줄의\n뜻, 쉼표"}, None), (2, {"term": "귀", "definition": None}, None)],
    ),
    "long.csv": (f"text\nfirst\n{LONG}\nlast\n", [(i, {"text": text}, None) for i, text in enumerate(("first", LONG, "last"), 1)]),
    "commas.csv": (
        "term,definition\n폐,숨, 그리고 말\n귀,듣는 곳\n",
        [(1, "폐,숨, 그리고 말", "too_many_cells"), (2, {"term": "귀", "definition": "듣는 곳"}, None)],
    ),
    "only.csv": (
        'text\n두통, 발열이 있다.\n말했다, "아프다"고\n',
        [(1, {"text": "두통, 발열이 있다."}, None), (2, {"text": '말했다, "아프다"고'}, None)],
    ),
    "tabs.csv": ("term\tdefinition\n간\t장기, 크다\n", [(1, CELLS, None)]),
    "semicolons.csv": ("term;definition\n간;장기, 크다\n", [(1, CELLS, None)]),
    **{f"empty.{ending}": ("", [(0, None, "empty_file")]) for ending in ("jsonl", "jsonl.gz", "json", "parquet", "arrow", "csv", "txt")},
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_gives(tmp_path, name):
    content, rows = FILES[name]
    assert read(tmp_path / name, content.encode()) == rows


def test_bad_lines_keep_their_line_numbers(tmp_path):
    content = b'{"text": 1}\n\n{"text": \n  \n[1, 2]\n"s"\nnull\n{"text": "?"}\n\xc7\xd1\n{"text": 2}'
    assert read(tmp_path / "a.jsonl", content) == [
        (1, {"text": 1}, None),
        (3, '{"text": ', "not_json"),
        (5, [1, 2], "not_an_object"),
        (6, "s", "not_an_object"),
        (7, None, "not_an_object"),
        (8, {"text": "?"}, None),
        (9, "한", "not_json"),
        (10, {"text": 2}, None),
    ]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow", "a.parquet without its end"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, name):
    as_table(tmp_path / "whole.parquet", RECORDS)
    content = (tmp_path / "whole.parquet").read_bytes()[:-8] if " " in name else b"these bytes are none of that"
    [(line, message, problem)] = read(tmp_path / name.split(" ")[0], content)
    assert (line, problem, bool(message)) == (1, "unreadable", True)


def test_a_large_txt_is_cut_at_blank_lines(tmp_path):
    paragraphs = [f"{i} " + "가" * 1000 for i in range(2500)]
    rows = read(tmp_path / "a.txt", "\n\n".join(paragraphs).encode())
    assert [line for line, _, _ in rows] == list(range(1, 9))
    texts = [value["text"] for _, value, _ in rows]
    assert "\n\n".join(texts).split("\n\n") == paragraphs
    assert all(text.split(" ")[0].isdigit() and text.endswith("가") for text in texts)
    assert all(len(text.encode()) < readers.TXT_PIECE + 5000 for text in texts)


# ---- which files


def test_a_hidden_folder_above_the_data_does_not_hide_it_and_no_folder_has_no_files(tmp_path):
    write(tmp_path / ".hidden/raw/a.txt", "글")
    assert raw_files(tmp_path / ".hidden/raw") == [tmp_path / ".hidden/raw/a.txt"]
    assert raw_files(tmp_path / "none") == []


TEXT_NAMES = ("jsonl", "ndjson", "jsonlines", "json", "csv", "tsv", "tab", "txt", "md", "text", "markdown")
PACKERS = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda b: pa.compress(b, "zstd", asbytes=True),
}


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("ending", TEXT_NAMES)
def test_every_ending_in_any_case_and_compression_is_read(tmp_path, ending, packing, upper):
    name = f"a.{ending}{packing}"
    content = b'{"text": "\xea\xb8\x80"}\n' if "json" in ending else "text\n글\n".encode()
    path = tmp_path / (name.upper() if upper else name)
    path.write_bytes(PACKERS[packing](content))
    [found] = raw_files(tmp_path)
    [raw] = read_raw(found, tmp_path)
    assert (raw.problem, raw.value["text"].split("\n")[-1]) == (None, "글")


def test_every_file_is_read_or_named_with_its_size_and_why(tmp_path):
    others = [
        "a/deep/state.json",
        "README.md",
        "a/.hidden.jsonl",
        "a.jsonl.partial",
        "x.pdf",
        "y.zip",
        "z.parquet.gz",
        "no_ending",
        "w.xlsx",
        "v.jsonl.bz2",
    ]
    for name in ("b.jsonl", "a/z.parquet", "a/deep/data-00000-of-00001.arrow", "c.CSV", *others):
        write(tmp_path / name, "12")
    write(tmp_path / ".git/deep/a.txt", "1" * 50)
    (tmp_path / "folder.jsonl").mkdir()
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    write(outside / "linked.jsonl", "1")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "twice").symlink_to(outside)
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "one.jsonl").symlink_to(tmp_path / "b.jsonl")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")
    found, unread = readers.survey(tmp_path)
    names = ["a/deep/data-00000-of-00001.arrow", "a/z.parquet", "b.jsonl", "c.CSV", "link/linked.jsonl", "one.jsonl"]
    assert [str(path.relative_to(tmp_path)) for path in found] == names
    named = {os.path.relpath(one.path, tmp_path): (one.bytes, one.why) for one in unread}
    assert set(named) == {*others, ".git", "twice", "a/round", "gone.jsonl", "pipe.jsonl"}
    assert all(named[name][0] == 3 for name in others)
    assert named[".git"][0] >= 50
    expected = {"y.zip": "unpack", "v.jsonl.bz2": "unpack", "z.parquet.gz": "unpack", "x.pdf": "format", "gone.jsonl": "nowhere"}
    assert all(why in named[name][1] for name, why in {**expected, ".git": "hidden", "twice": "same"}.items())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_or_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o000)
    (tmp_path / "a.jsonl").touch(mode=0o000)
    found, unread = readers.survey(tmp_path)
    assert found == [] and len(unread) == 2


def test_a_name_in_cp949_is_read_and_printed_in_korean(tmp_path):
    name = os.fsdecode("의학자료.jsonl".encode("cp949"))
    (tmp_path / name).write_bytes(LINES)
    [path] = raw_files(tmp_path)
    rows = list(read_raw(path, tmp_path))
    assert [row.value for row in rows] == RECORDS
    assert rows[0].source == "의학자료.jsonl"


# ---- encodings


PROSE = "환자는 서른다섯 살 남자로 가슴 통증이 있어 병원에 왔다. 혈압은 120/80 이었고 맥박은 규칙적이었다."
CODES = ("utf-8", "utf-8-sig", "cp949", "euc-kr", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "txt"])
def test_text_is_read_in_the_encoding_that_it_is_in(tmp_path, ending, packing, code):
    record = json.dumps({"text": PROSE}, ensure_ascii=False)
    text = {"jsonl": f"{record}\n{record}\n", "json": f"[{record},\n{record}]", "txt": PROSE}.get(ending, f"text\n{PROSE}\n{PROSE}\n")
    path = tmp_path / f"a.{ending}{packing}"
    path.write_bytes(PACKERS[packing](text.encode(code)))
    rows = list(read_raw(path, tmp_path))
    assert [(row.value, row.problem) for row in rows] == [({"text": PROSE}, None)] * (1 if ending == "txt" else 2)


def test_one_paragraph_in_cp949_among_utf8_is_read_as_what_it_is(tmp_path):
    content = f"{PROSE}\n\n".encode() + f"{PROSE}\n\n".encode("cp949") + PROSE.encode()
    assert read(tmp_path / "a.txt", content) == [(1, {"text": f"{PROSE}\n\n{PROSE}\n\n{PROSE}"}, None)]
    lines_ = [json.dumps({"text": PROSE}, ensure_ascii=False).encode(code) for code in ("utf-8", "cp949", "utf-8")]
    assert [value for _, value, _ in read(tmp_path / "a.jsonl", b"\n".join(lines_))] == [{"text": PROSE}] * 3


FOREIGN = {
    **dict.fromkeys(("shift_jis", "euc_jp"), "日本語のテキストはこのように書かれています。患者は三十五歳の男性で、胸の痛みがあった。"),
    "gb18030": "患者男性，三十五岁，因胸痛入院。血压一百二十，心电图正常，给予药物治疗后症状好转，出院随访。",
    "big5": "患者男性，三十五歲，因胸痛入院。血壓一百二十，心電圖正常，給予藥物治療後症狀好轉。",
}


@pytest.mark.parametrize("code", FOREIGN)
@pytest.mark.parametrize("ending", ["jsonl", "txt", "csv"])
def test_another_encoding_is_named_and_never_taken_for_korean(tmp_path, code, ending):
    text = FOREIGN[code]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(((json.dumps({"text": text}, ensure_ascii=False)) if ending == "jsonl" else f"text\n{text}\n").encode(code))
    rows = list(read_raw(path, tmp_path))
    assert not any("가" <= sign <= "힣" for row in rows if row.problem is None for sign in row.value["text"])
    [row] = [row for row in rows if row.problem]
    assert "encoding" in row.problem or "seems to be" in row.value


@pytest.mark.parametrize("ending", ["jsonl", "txt", "csv", "json"])
def test_a_broken_byte_stays_a_sign_of_something_unknown(tmp_path, ending):
    whole = PROSE.encode()
    broken = whole[:40] + b"\xff" + whole[41:]
    head, tail = {"jsonl": (b'{"text": "', b'"}\n'), "json": (b'[{"text": "', b'"}]'), "csv": (b"text\n", b"\n")}.get(ending, (b"", b""))
    path = tmp_path / f"a.{ending}"
    path.write_bytes(head + broken + tail)
    [row] = read_raw(path, tmp_path)
    assert row.problem is None
    assert 1 <= row.value["text"].count("\ufffd") <= 3
    assert row.value["text"].replace("\ufffd", "")[:10] == PROSE[:10]


def test_utf16_without_a_mark_is_no_reason_to_cut_a_file_in_the_middle_of_a_sign(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES.decode().encode("utf-16-le"))
    (tmp_path / "b.jsonl").write_bytes(codecs.BOM_UTF8 + LINES)
    assert not encodings.cut_anywhere(tmp_path / "a.jsonl")
    assert encodings.cut_anywhere(tmp_path / "b.jsonl")


# ---- damage


def numbered(n):
    chosen = random.Random(3)
    return [json.dumps({"n": i, "text": f"{chosen.getrandbits(200):x}"}).encode() + b"\n" for i in range(n)]


def numbers(rows):
    return [row.value["n"] for row in rows if row.problem is None]


@pytest.mark.parametrize("lines", [100_000, 200], ids=["7 MB", "14 kB"])
@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_truncated_file_keeps_what_came_before_and_counts_the_rest(tmp_path, packing, lines):
    whole = PACKERS[packing](b"".join(numbered(lines)))
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    rows = list(read_raw(path, tmp_path))
    found = numbers(rows)
    assert found == list(range(len(found)))
    assert len(found) > lines // 2 or (lines == 200 and packing != ".gz")  # the others pack so little in one block
    assert [row.lost.bytes > 0 for row in rows if row.problem == "unreadable"] == [True]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_damaged_member_keeps_what_stands_before_and_after_it(tmp_path, packing):
    parts = [PACKERS[packing](b"".join(numbered(3000)[i : i + 1000])) for i in (0, 1000, 2000)]
    broken = bytearray(parts[1])
    at = 5 if packing == ".zst" else len(broken) // 2  # a zstd frame without a checksum may be wrong in the middle, and nobody can tell
    broken[at : at + 40] = bytes(255 - b for b in broken[at : at + 40])
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(parts[0] + bytes(broken) + parts[2])
    rows = list(read_raw(path, tmp_path))
    found = numbers(rows)
    assert set(range(1000)) | set(range(2000, 3000)) <= set(found)
    [lost] = [row for row in rows if row.problem == "unreadable"]
    assert 0 < lost.lost.bytes <= len(broken)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_bytes_between_members_are_counted_and_zeros_are_not(tmp_path, packing):
    parts = [PACKERS[packing](line) for line in numbered(2)]
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(parts[0] + b"garbage" + parts[1] + b"\0" * 100 * (packing != ".zst"))
    rows = list(read_raw(path, tmp_path))
    assert numbers(rows) == [0, 1]
    assert [row.lost.bytes for row in rows if row.problem] == [7]


def test_a_damaged_row_group_keeps_the_others(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pylist([{"n": i, "text": f"글 {i} " * 20} for i in range(300)])
    pq.write_table(table, path, row_group_size=100, compression="zstd")
    about = pq.ParquetFile(path).metadata.row_group(1).column(1)
    content = bytearray(path.read_bytes())
    start = about.data_page_offset
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    rows = list(read_raw(path, tmp_path))
    assert numbers(rows) == [*range(100), *range(200, 300)]
    [lost] = [row.lost for row in rows if row.problem]
    assert (lost.records, lost.bytes > 0) == (100, True)


@pytest.mark.parametrize("ending", ["arrow", "ipc"])
@pytest.mark.parametrize("end", [True, False], ids=["whole", "without its end"])
def test_a_damaged_record_batch_keeps_the_others(tmp_path, ending, end):
    path = tmp_path / f"a.{ending}"
    as_table(path, [{"n": i, "text": f"글 {i} " * 20} for i in range(300)], 100)
    content = bytearray(path.read_bytes())
    places = [i for i in range(0, len(content) - 8, 8) if content[i : i + 4] == b"\xff\xff\xff\xff" and content[i + 4 : i + 8] != bytes(4)]
    second = places[2]  # the schema's comes first
    content[second + 8 : second + 40] = b"\x7f" * 32
    path.write_bytes(content if end else content[:-40])
    rows = list(read_raw(path, tmp_path))
    assert numbers(rows)[:100] == list(range(100))
    assert not set(numbers(rows)) & set(range(100, 200))
    assert end is False or numbers(rows)[100:] == list(range(200, 300))
    assert any(row.lost for row in rows)


def test_a_damaged_batch_of_a_file_with_a_dictionary_keeps_the_others(tmp_path):
    path, subjects = tmp_path / "a.ipc", pa.array(["의사", "약사"] * 150).dictionary_encode()
    table = pa.table({"n": list(range(300)), "subject": subjects})
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=100)
    content = bytearray(path.read_bytes())
    places = [i for i in range(0, len(content) - 8, 8) if content[i : i + 4] == b"\xff\xff\xff\xff" and content[i + 4 : i + 8] != bytes(4)]
    content[places[3] + 8 : places[3] + 40] = b"\x7f" * 32  # the second batch: the schema and the dictionary come first
    path.write_bytes(content)
    rows = list(read_raw(path, tmp_path))
    assert numbers(rows) == [*range(100), *range(200, 300)]
    assert [bool(row.lost) for row in rows if row.problem] == [True]


def test_a_file_without_its_end_whose_name_is_padded_to_64_bytes(tmp_path):
    path = tmp_path / "a.ipc"
    as_table(path, [{"n": i} for i in range(20)], 10)
    path.write_bytes(b"ARROW1" + bytes(58) + path.read_bytes()[8:-40])
    assert numbers(list(read_raw(path, tmp_path))) == list(range(20))


def test_offsets_that_point_nowhere_lose_their_batch_alone(tmp_path):
    path = tmp_path / "a.arrow"
    as_table(path, [{"text": f"글 {i} " * 20} for i in range(20)], 10)
    content = bytearray(path.read_bytes())
    offsets = content.find(b"".join(i.to_bytes(4, "little") for i in (0, len("글 0 ".encode()) * 20)))
    content[offsets + 4 : offsets + 8] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    rows = list(read_raw(path, tmp_path))
    assert [row.value["text"][:3] for row in rows if not row.problem] == [f"글 {i}"[:3] for i in range(10, 20)]
    assert [row.lost.records for row in rows if row.problem] == [10]


def test_a_text_in_a_table_that_is_no_utf8_is_read_as_a_line_is(tmp_path):
    buffer = b"".join((PROSE.encode(), PROSE.encode("cp949")))
    offsets = pa.array([0, len(PROSE.encode()), len(buffer)], pa.int32()).buffers()[1]
    texts = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(buffer))
    batch = pa.record_batch([texts, pa.array([1, 2])], ["text", "n"])
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    assert [row.value for row in read_raw(tmp_path / "a.arrow", tmp_path)] == [{"text": PROSE, "n": 1}, {"text": PROSE, "n": 2}]


# ---- tables of text


FRAMES = {"jsonl": ("", "\n", ""), "json": ("[", ",\n", "]"), "csv": ("n,text\n", "\n", "\n")}


@pytest.mark.parametrize("at", [0, 10, 1998])
@pytest.mark.parametrize(
    ("kind", "good", "bad", "most"),
    [
        ("csv", '#,"글, #"', '#,"글 #', tables.ROW_MOST),
        ("csv", "#,글", '#,"글', 2000),  # in a file too large to be read to its end
        ("json", '{"n": #, "text": "글"}', '{"n": #, "text": 글}', 0),
        ("jsonl", '{"n": #, "text": "글"}', '{"n": #, "text": 글}', 0),
    ],
)
def test_a_broken_record_costs_itself_alone(tmp_path, monkeypatch, kind, good, bad, most, at):
    monkeypatch.setattr(tables, "ROW_MOST", most)
    records = [(bad if i == at else good).replace("#", str(i)) for i in range(2000)]
    head, between, end = FRAMES[kind]
    rows = read(tmp_path / f"a.{kind}", (head + between.join(records) + end).encode())
    assert [int(value["n"]) for _, value, problem in rows if not problem] == [i for i in range(2000) if i != at]
    [(value, problem)] = [(value, problem) for _, value, problem in rows if problem]
    assert value.startswith(records[at][:-1]) and problem in (("open_quote", "bad_quotes") if kind == "csv" else ("not_json",))


def test_one_bad_byte_costs_no_row(tmp_path):
    lines_ = [f"{i},{PROSE}".encode() for i in range(300)]
    lines_[9] = lines_[9][:50] + b"\xff" + lines_[9][51:]
    rows = read(tmp_path / "a.csv", b"n,text\n" + b"\n".join(lines_))
    assert [value["n"] for _, value, _ in rows] == [str(i) for i in range(300)]
    assert ["\ufffd" in value["text"] for _, value, _ in rows].index(True) == 9


# ---- odd records


@pytest.mark.parametrize(
    ("line", "value", "problem"),
    [
        (b'{"text": "a", "score": NaN}', "a", None),
        (b'{"text": "a", "score": -Infinity}', "a", None),
        (b'{"text": "a\\ud800"}', "a\ufffd", None),
        (b'{"text": "\\ud83d\\ude00", "n": NaN}', "😀", None),
        (b'{"text": "a", "year": ' + b"9" * 5000 + b"}", None, "not_json"),
        (b'{"text": "a", "deep": ' + b"[" * 3000 + b"]" * 3000 + b"}", None, "not_json"),
        (b'{"text": "a", "deep": ' + b"[" * 1000 + b"]" * 1000 + b"}", "a", None),
    ],
    ids=["nan", "infinity", "half a pair", "a pair", "5000 digits", "3000 deep", "1000 deep"],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_one_odd_record_is_one_record(tmp_path, name, line, value, problem):
    rows = read(tmp_path / name, b'{"text": "first"}\n' + line + b'\n{"text": "last"}\n')
    assert [row[1]["text"] for row in (rows[0], rows[-1])] == ["first", "last"]
    [(_, found, why)] = rows[1:-1]
    if name == "a.json" and b"deep" in line:
        assert why in (None, "nested_too_deep")  # Python's reader goes less deep
    elif problem:
        assert why in (problem, "nested_too_deep")
    else:
        assert (why, found["text"]) == (None, value)
    json.dumps(readers.shown(found), ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("n", [3, 20_000])
def test_a_json_of_any_size_is_read_record_by_record(tmp_path, indent, n):
    records = [{"n": i, "text": f"글 {i} [1], {{2}} ," + "가" * (i % 50)} for i in range(n)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records, ensure_ascii=False, indent=indent), encoding="utf-8")
    assert [row.value for row in read_raw(path, tmp_path)] == records


def test_a_json_that_breaks_off_keeps_what_came_before(tmp_path):
    whole = json.dumps([{"n": i} for i in range(5000)])
    rows = read(tmp_path / "a.json", whole[:-20].encode())
    assert [value["n"] for _, value, problem in rows if not problem][:4990] == list(range(4990))
    assert rows[-1][2] == "not_json"


@pytest.mark.parametrize("sign", ["가나다라마 ", "가나다라마"])
def test_a_line_without_end_is_a_text_of_several_pieces_and_none_of_it_is_lost(tmp_path, sign):
    text = sign * 300_000
    rows = read(tmp_path / "a.txt", text.encode())
    assert "".join(value["text"] for _, value, _ in rows).rstrip("\n") == text
    assert all(len(value["text"]) < 2_000_000 for _, value, _ in rows)
