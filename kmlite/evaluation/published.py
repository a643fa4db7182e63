"""KorMedMCQA test accuracy as others published it: the one place that these figures stand in.

A figure stands here only with its source, its prompt, its shots and its scorer; one without any of these compares with nothing.
Left out for that: the paper's own table (arXiv 2403.01469v3; shots not verified), hari-q3-8b's 76.9 and the 47.3 of medgemma-4b-it
(prompt and scorer not stated with the figure).
"""

LEAST = 2900  # questions: published figures are of all 3,009, of which refine sets a few aside; a figure of a sample is none beside them
LORA_CARD = "model card of dhkim0324/WeIN_bio_Qwen3-8B"
OWN_PROMPT = "its own prompt, direct answer"
READ = "letter extracted from the written answer"

PUBLISHED: list[dict] = [
    {"model": "Qwen3-8B with a LoRA", "accuracy": 69.1, "prompt": OWN_PROMPT, "shots": 0, "scorer": READ, "source": LORA_CARD},
    {"model": "Qwen3-8B", "accuracy": 60.4, "prompt": OWN_PROMPT, "shots": 0, "scorer": READ, "source": LORA_CARD},
    {"model": "always answering D", "accuracy": 22.0, "prompt": "none", "shots": 0, "scorer": "counted", "source": "KorMedMCQA test"},
]


def nearest(accuracy: float) -> dict:
    """The published figure nearest to an accuracy in percent; the higher one of two as near."""
    return min(PUBLISHED, key=lambda row: (abs(row["accuracy"] - accuracy), -row["accuracy"]))


def in_words(row: dict) -> str:
    return f"{row['prompt']}, {row['shots']}-shot, {row['scorer']}; {row['source']}"


def beside(accuracy: float) -> str:
    """Where an accuracy on dev stands among them, in a line: test is another split, so this is a direction and no comparison."""
    marks = [(row["accuracy"], row["model"]) for row in PUBLISHED] + [(accuracy, "this model on dev")]
    return "published on test: " + " < ".join(f"{name} {figure:.1f}%" for figure, name in sorted(marks))
