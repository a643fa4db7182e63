"""KorMedMCQA test accuracy as others published it: the one place that these figures stand in.

Collected, not measured here: where it is not known how a model was asked, "how" says so. Checked against their source were
Qwen2.5-72B (the paper) and Qwen3-8B with a LoRA (its model card, whose own Qwen3-8B stands at 60.4).
"""

PAPER = "KorMedMCQA paper, arXiv 2403.01469v3"
ASKED_IN_PAPER = "the paper's own prompt; letter extracted by its appendix B, as lm-eval's task does since v3.0"
LORA_CARD = "model card of dhkim0324/WeIN_bio_Qwen3-8B"
NOT_KNOWN = "prompt and scorer not stated with the figure"
COLLECTED = "collected from public reports; original not named"

PUBLISHED: list[dict] = [
    {"model": "o1-preview", "accuracy": 92.7, "how": NOT_KNOWN, "source": COLLECTED},
    {"model": "GPT-4o", "accuracy": 85.6, "how": NOT_KNOWN, "source": COLLECTED},
    {"model": "Qwen2.5-72B", "accuracy": 78.9, "how": ASKED_IN_PAPER, "source": PAPER},
    {"model": "people", "accuracy": 77.1, "how": "those who sat the exams", "source": COLLECTED},
    {"model": "Qwen3-8B with a LoRA", "accuracy": 69.1, "how": "direct answer, 0-shot, its own prompt", "source": LORA_CARD},
    {"model": "gemma-2-27B", "accuracy": 68.9, "how": NOT_KNOWN, "source": COLLECTED},
    {"model": "Qwen3-8B", "accuracy": 54.9, "how": NOT_KNOWN, "source": COLLECTED},
    {"model": "EEVE-10.8B", "accuracy": 54.9, "how": NOT_KNOWN, "source": COLLECTED},
    {"model": "medgemma-4b-it", "accuracy": 47.3, "how": NOT_KNOWN, "source": COLLECTED},
    {"model": "gemma-3-4b", "accuracy": 43.5, "how": NOT_KNOWN, "source": COLLECTED},
    {"model": "always answering D", "accuracy": 22.0, "how": "counted on the test split", "source": "KorMedMCQA test"},
]


def nearest(accuracy: float) -> dict:
    """The published figure nearest to an accuracy in percent; the higher one of two as near."""
    return min(PUBLISHED, key=lambda row: (abs(row["accuracy"] - accuracy), -row["accuracy"]))
