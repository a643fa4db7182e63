"""Every reason of refine: what record gets it, its words, and the tables of both pages."""

import json
import os
import re

import pytest
from refining import MEDICAL, funnel, in_lines, refined
from test_text_rules import STOPPED

from kmlite import paths
from kmlite.refine.judging import REASONS, in_words

STEM = "협심증으로 니트로글리세린 설하정을 쓰는 68세 환자가 함께 복용하면 심한 저혈압이 생길 수 있어 금기인 약물을 고르면?"
DRUGS = ("메트포르민", "오메프라졸", "실데나필", "세티리진", "로바스타틴")
IN_ENGLISH = ("Metformin", "Omeprazole", "Sildenafil", "Cetirizine", "Lovastatin")


def question(stem, options=DRUGS, **more):
    return {"question": stem, **dict(zip("ABCDE", options, strict=True)), "answer": 3, **more}


DEV, CASE = (
    question(STEM),
    question("다섯 약물 가운데 혈압이 높은 사람에게 먼저 쓰는 하나를 고르시오.", ("가", "나", "다", "라", "마")),
)
RAW = {  # a folder whose records get every reason
    f"{paths.RAW_TEXT}/a.jsonl": in_lines(
        *({"text": text} for text, _ in STOPPED), {"text": MEDICAL[1]}, {"text": MEDICAL[1]},
        {"text": MEDICAL[1].replace("다.", "다고 한다.", 1)}, {"text": f"{MEDICAL[2]} {STEM}"}, {"text": "가" * 2_000_001},
        {"body": "글"}, "{", [1], '{"deep": ' + "[" * 2000 + "NaN" + "]" * 2000 + "}",
    ),
    f"{paths.RAW_TEXT}/b.jsonl": json.dumps("日本語のテキストはこのように書かれています。", ensure_ascii=False).encode("shift_jis"),
    f"{paths.RAW_TEXT}/c.csv": '''n,text\n1,가, 나\n2,"가" 나\n3,"가\n'''.encode(),
    f"{paths.RAW_TEXT}/d.parquet": b"no parquet",
    f"{paths.RAW_TEXT}/e.txt": b"",
    f"{paths.RAW_DICTIONARY}/a.jsonl": in_lines(
        {"term": "폐", "definition": "숨을 쉬는 가슴 속 장기"}, {"term": "허파", "definition": "장기"},
        {"term": "혈액투석", "definition": "혈액투석 혈액투석 혈액투석"},
    ),
    f"{paths.RAW_EXAM}/dev.jsonl": in_lines(DEV, CASE),
    f"{paths.RAW_EXAM}/train.jsonl": in_lines(
        question(""), question("빈 것은?", ("", *DRUGS[1:])), question("답은?", answer=9), question("해는?", year=10**30),
        question("둘은?", (DRUGS[1], *DRUGS[1:])), CASE, question(f"다음 중 {STEM}"),
        question("A 68-year-old takes nitroglycerin. Which drug is contraindicated?", IN_ENGLISH),
    ),
    f"{paths.RAW_EXAM}/extra.jsonl": in_lines(CASE),
}  # fmt: skip


def test_every_reason_is_given_to_some_record_and_every_one_given_has_words(tmp_path):
    for name, content in RAW.items():
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(content)
    refined(tmp_path / "raw", tmp_path / "out", "--workers", 1)
    given = {reason for part in funnel(tmp_path / "out").values() for reason in part["rejected"]}
    families = tuple(reason[:-1] for reason in REASONS if reason.endswith("…"))
    assert {next((f"{name}…" for name in families if reason.startswith(name)), reason) for reason in given} == set(REASONS)
    assert all(in_words(reason) != (reason, reason) and "{" not in "".join(in_words(reason)) for reason in given)


@pytest.mark.parametrize(("page", "language"), [("docs/refine.md", 0), ("docs/ko/refine.md", 1)])
def test_the_pages_have_the_words_of_the_code(page, language):
    """KMLITE_DOCS=write writes them."""
    path = paths.ROOT / page
    text = path.read_text(encoding="utf-8")
    table = "".join(f"| `{reason}` | {words[language].replace('{}', '…')} |\n" for reason, words in REASONS.items())
    written = re.sub(r"(\| (?:reason|이유) \|[^\n]*\n\| --- \| --- \|\n)(?:\|[^\n]*\n)+", lambda found: found[1] + table, text)
    if os.environ.get("KMLITE_DOCS") == "write":
        path.write_text(written, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == written and table in written, "KMLITE_DOCS=write make test ARGS=tests/refine/test_reasons.py"
