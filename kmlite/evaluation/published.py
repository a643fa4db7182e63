"""KorMedMCQA test accuracy as others published it: the one place that these figures stand in.

A figure stands here only with its source, its prompt, its shots and its scorer; one without any of these compares with nothing.
Left out for that: the paper's own table (arXiv 2403.01469v3; shots not verified), hari-q3-8b's 76.9 and the 47.3 of medgemma-4b-it
(prompt and scorer not stated with the figure).
"""

LEAST = 2900  # questions: published figures are of all 3,009, of which refine sets a few aside; a figure of a sample is none beside them
LORA_CARD = {
    "prompt": ("its own prompt, direct answer", "자체 프롬프트, 바로 답하기"),
    "shots": 0,
    "scorer": ("letter extracted from the written answer", "쓴 답에서 글자를 읽음"),
    "source": ("model card of dhkim0324/WeIN_bio_Qwen3-8B", "dhkim0324/WeIN_bio_Qwen3-8B의 모델 카드"),
}
COUNTED = {"prompt": ("none", "없음"), "shots": 0, "scorer": ("counted", "직접 계산"), "source": ("KorMedMCQA test",) * 2}

PUBLISHED: list[dict] = [  # words in English and in Korean
    {"model": ("Qwen3-8B with a LoRA", "LoRA를 더한 Qwen3-8B"), "accuracy": 69.1, **LORA_CARD},
    {"model": ("Qwen3-8B",) * 2, "accuracy": 60.4, **LORA_CARD},
    {"model": ("always answering D", "늘 D라고 답하기"), "accuracy": 22.0, **COUNTED},
]


def nearest(accuracy: float) -> dict:
    """The published figure nearest to an accuracy in percent; the higher one of two as near."""
    return min(PUBLISHED, key=lambda row: (abs(row["accuracy"] - accuracy), -row["accuracy"]))


def in_words(row: dict) -> str:
    return f"{row['prompt'][0]}, {row['shots']}-shot, {row['scorer'][0]}; {row['source'][0]}"


def beside(accuracy: float) -> str:
    """Where an accuracy on dev stands among them, in a line: test is another split, so this is a direction and no comparison."""
    marks = [(row["accuracy"], row["model"][0]) for row in PUBLISHED] + [(accuracy, "this model on dev")]
    return "published on test: " + " < ".join(f"{name} {figure:.1f}%" for figure, name in sorted(marks))
