"""Every folder and file name of the project, and `require` for those that must be there."""

from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_RAW = ROOT / "data/sample/01_raw"
ENGLISH = ROOT / "data/sample/suite/english_medical.jsonl"

# raw, below RAW (data/01_raw)
RAW_TEXT = "00_korean"
RAW_DICTIONARY = "01_medical_dict"
RAW_EXAM = "02_kor_med_test"
REPLAY = "03_replay"  # text in the base's own language, below RAW and below REFINED

# refined, below REFINED (data/02_refined)
TEXT = "00_plain_text"
DICTIONARY = "01_medical_dict.json"
EXAM = "02_kor_med_test"
REJECTED = "rejected"
REFINE_RECORD = "refine.json"

# trained, below OUT (model)


class Stage(NamedTuple):
    """A stage of training: recipes/<name>.py. Whoever lists the stages goes through STAGES, whose places are their numbers."""

    name: str
    folder: str  # below OUT
    title: tuple[str, str]  # what it teaches, in English and Korean
    learns: str  # the records that it trains on, as refine counts them


STAGES = (
    Stage("stage0", "00_trained", ("Korean text", "한국어 텍스트"), "text"),
    Stage("stage1", "01_trained", ("medical dictionary", "의학 사전"), "dictionary"),
    Stage("stage2", "02_trained", ("exam questions", "시험 문제"), "train"),
)
FINAL = "final"
EXTENDED = "extended"  # stage 0: the base with its new tokens, before training
CHECKPOINTS = "checkpoints"
RECORD = "run.json"
PLAN = "plan.json"  # what a run that has begun was asked to do
EVALUATION = "eval.json"
ON_DEV = "eval_dev"  # folder of an evaluation on dev, so that it takes no test result's place
PREDICTIONS = "eval_predictions.jsonl"
SELF_REASONS = "self_reasons.jsonl"
TEST_LOG = "test_openings.jsonl"
HARNESS = "harness.json"  # what lm-eval itself finds
HARNESS_PREDICTIONS = "harness_predictions.jsonl"
DEV_BEFORE = "dev_predictions_before.jsonl"  # stage 2: of the initial model, and of the one handed over
DEV_AFTER = "dev_predictions.jsonl"
REPORT = "report.html"


def stage_number(folder: Path) -> int | None:
    """Which stage's folder it is, or None."""
    return next((number for number, stage in enumerate(STAGES) if stage.folder == folder.name), None)


def text_shards(refined: Path) -> list[Path]:
    """The training text: train.jsonl or train-00000.jsonl …, in order."""
    return sorted((refined / TEXT).glob("train*.jsonl"))


def heldout_text(refined: Path) -> Path:
    return refined / TEXT / "heldout.jsonl"


def exam_split(refined: Path, split: str) -> Path:
    return refined / EXAM / f"{split}.jsonl"


def require(path: Path, hint: str) -> Path:
    """`path`, or a click error that names what is missing and the command that makes it."""
    if not path.exists():
        raise click.ClickException(f"{path} does not exist.\n  {hint}")
    return path
