"""What the report calls things, in English and in Korean; kmlite/results.py names the measures, the template holds whole sentences."""

from kmlite.evaluation import published
from kmlite.results import Both

KINDS: dict[str, Both] = {"text": ("plain text", "텍스트"), "dictionary": ("dictionary", "사전"), "exam": ("exam questions", "시험 문제")}

REASONS: dict[str, Both] = {  # of refine, docs/refine.md
    "too_short": ("shorter than --min-length after cleaning", "정제 후 --min-length보다 짧다"),
    "not_korean": ("not enough Korean, or a broken encoding", "한국어가 너무 적거나 인코딩이 깨졌다"),
    "advertisement": ("an advertisement", "광고"),
    "repeated_lines": ("the same lines again and again", "같은 줄이 반복된다"),
    "repeated_ngrams": ("the same words again and again", "같은 말이 반복된다"),
    "exam_leak": ("holds a dev or test question", "dev나 test 문제가 들어 있다"),
    "duplicate": ("stood before, word for word", "앞에 똑같은 것이 있다"),
    "near_duplicate": ("almost the same as an earlier text", "앞의 글과 거의 같다"),
    "too_long": ("too long to be one text", "한 편의 글이라기에는 너무 길다"),
    "not_json": ("the line is not JSON", "JSON이 아닌 줄"),
    "not_an_object": ("the record is not an object", "객체가 아닌 기록"),
    "missing_field": ("a field is missing", "빠진 항목이 있다"),
    "nested_too_deep": ("JSON nested deeper than it can be read", "너무 깊이 겹쳐 읽을 수 없는 JSON"),
    "too_many_cells": ("more cells than columns: commas without quotes", "열보다 칸이 많다: 따옴표 없는 쉼표"),
    "open_quote": ("a quote that is never closed", "닫히지 않은 따옴표"),
    "bad_quotes": ("quotes in the middle of a cell", "칸 한가운데의 따옴표"),
    "broken_character": ("characters that were lost in an encoding", "인코딩에서 잃어버린 글자가 있다"),
    "bad_number": ("a year or number that is none", "연도나 번호가 숫자가 아니다"),
    "unreadable": ("the file breaks off here", "파일이 여기서 깨졌다"),
    "empty_file": ("an empty file", "빈 파일"),
    "short_term": ("the term has under two characters", "표제어가 두 글자보다 짧다"),
    "short_definition": ("the definition has under ten characters", "뜻풀이가 열 글자보다 짧다"),
    "repeats_term": ("the definition only repeats the term", "뜻풀이가 표제어를 반복할 뿐이다"),
    "empty_question": ("the question is empty", "문제가 비어 있다"),
    "empty_option": ("an option is empty", "빈 선택지가 있다"),
    "bad_answer": ("the answer is none of A–E or 1–5", "정답이 A–E나 1–5가 아니다"),
    "duplicate_options": ("two options are the same", "같은 선택지가 둘 있다"),
    "exam_leak_dev": ("a train question that stands in dev", "dev에 있는 train 문제"),
    "exam_leak_test": ("a train question that stands in test", "test에 있는 train 문제"),
    "exam_leak_fewshot": ("a train question that stands in fewshot", "fewshot에 있는 train 문제"),
}

for _split in ("dev", "test", "fewshot"):
    REASONS[f"exam_near_{_split}"] = (f"a train question almost the same as one of {_split}", f"{_split} 문제와 거의 같은 train 문제")
    REASONS[f"exam_translated_{_split}"] = (f"a translation of a {_split} question", f"{_split} 문제를 번역한 것")

REMOVED: dict[str, Both] = {  # from within texts that were kept
    "url": ("web addresses", "웹 주소"),
    "mail": ("e-mail addresses", "이메일 주소"),
    "phone": ("phone numbers", "전화번호"),
    "resident_number": ("resident registration numbers", "주민등록번호"),
}

STEPS: dict[str, Both] = {
    "refine": ("refine", "정제"),
    "stage0": ("stage 0: Korean text", "0단계: 한국어 텍스트"),
    "stage1": ("stage 1: dictionary", "1단계: 의학 사전"),
    "stage2": ("stage 2: exam", "2단계: 시험 문제"),
    "eval": ("evaluation", "평가"),
}

STATES: dict[str, Both] = {"done": ("done", "완료"), "unfinished": ("begun, not finished", "미완료"), "missing": ("not yet", "시작 전")}

MOMENTS: dict[str, Both] = {
    "before": ("before", "학습 전"),
    "extended": ("with new tokens, untrained", "토큰 추가 직후"),
    "after": ("after", "학습 뒤"),
}

HEADLINES = (  # (measure, data) of the cards, where they were measured
    ("accuracy", "test"),
    ("accuracy", "dev"),
    ("bits_per_character", "korean"),
    ("bits_per_character", "seen definitions"),
    ("definition_choice", "held-out definitions"),
    ("tokens_per_character", "korean"),
)

PUBLISHED: dict[str, Both] = {  # model, how and source of kmlite/evaluation/published.py
    "Qwen3-8B with a LoRA": ("Qwen3-8B with a LoRA", "LoRA를 더한 Qwen3-8B"),
    "always answering D": ("always answering D", "늘 D라고 답하기"),
    published.LORA_CARD: (published.LORA_CARD, "dhkim0324/WeIN_bio_Qwen3-8B의 모델 카드"),
    published.OWN_PROMPT: (published.OWN_PROMPT, "자체 프롬프트, 바로 답하기"),
    published.READ: (published.READ, "쓴 답에서 글자를 읽음"),
    "none": ("none", "없음"),
    "counted": ("counted", "직접 계산"),
    "KorMedMCQA test": ("KorMedMCQA test", "KorMedMCQA test"),
}

SUBJECTS: dict[str, Both] = {  # of KorMedMCQA
    "doctor": ("doctor", "의사"),
    "nurse": ("nurse", "간호사"),
    "pharm": ("pharm", "약사"),
    "dentist": ("dentist", "치과의사"),
}


def both(table: dict[str, Both], key: str) -> Both:
    """The words for `key`, or the key itself in both languages where the table has none."""
    return table.get(key, (key, key))
