"""What the report calls things, in English and in Korean; kmlite/results.py names the measures, the template holds whole sentences."""

from kmlite import paths
from kmlite.results import Both, both

__all__ = ["both"]  # for the template

KINDS: dict[str, Both] = {"text": ("plain text", "텍스트"), "dictionary": ("dictionary", "사전"), "exam": ("exam questions", "시험 문제")}

REMOVED: dict[str, Both] = {  # from within texts that were kept
    "url": ("web addresses", "웹 주소"),
    "mail": ("e-mail addresses", "이메일 주소"),
    "phone": ("phone numbers", "전화번호"),
    "resident_number": ("resident registration numbers", "주민등록번호"),
}

STEPS: dict[str, Both] = {
    "refine": ("refine", "정제"),
    **{stage.name: (f"stage {n}: {stage.title[0]}", f"{n}단계: {stage.title[1]}") for n, stage in enumerate(paths.STAGES)},
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
