"""The settings that every stage shares. A recipe inherits them, gives its own defaults with their reasons, and adds what is its own."""

from dataclasses import dataclass
from pathlib import Path

from kmlite.cli import setting
from kmlite.models.loading import PRECISIONS

TRACKERS = ("none", "trackio", "tensorboard", "wandb")
CHECKPOINTING = ("auto", "on", "off")
OPTIMIZERS = ("auto", "adamw_8bit", "adamw_torch")


@dataclass(frozen=True)
class TrainingSettings:
    """`decides=False` marks what leaves the trained weights as they are: such a setting may differ between two calls of one run."""

    base: str = setting("", "model to start from; empty: the final model of the stage before, in OUT", decides=False)
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote", decides=False)
    out: Path = setting(Path("model"), "folder of the trained models; the stage writes a folder of its own below it", decides=False)
    precision: str = setting("auto", "weights while training; auto takes what the free GPU memory holds", PRECISIONS)
    checkpointing: str = setting(
        "auto", "recompute activations in the backward pass: less memory, a third slower; auto on a GPU", CHECKPOINTING
    )
    rank: int = setting(64, "LoRA rank")
    alpha: int = setting(128, "LoRA alpha; the scale is alpha / sqrt(rank) = 16, rank-stabilised (arXiv 2312.03732)")
    dropout: float = setting(0.05, "LoRA dropout; 0 is Unsloth's fast path on a GPU")
    length: int = setting(512, "tokens of the longest sequence; longer ones are left out and counted")
    batch: int = setting(4, "sequences at once on the card")
    accumulation: int = setting(8, "batches an optimizer step: 32 sequences")
    learning_rate: float = setting(2e-5, "of the LoRA")
    schedule: str = setting("cosine", "of the learning rate")
    warmup: float = setting(0.1, "share of the steps (or, from 1 on, a number of steps)")
    weight_decay: float = setting(0.01, "of the LoRA, little: its matrices start at zero and stay small; new rows have none")
    clip: float = setting(1.0, "norm that a step's gradient is clipped to: one odd record must not undo the others")
    optimizer: str = setting("auto", "auto: adamw_8bit on a GPU, a quarter of the state at the same loss; adamw_torch on a CPU", OPTIMIZERS)
    epochs: float = setting(1, "over the data")
    max_steps: int = setting(-1, "stop after so many optimizer steps; -1 for all epochs")
    save_every: int = setting(0, "steps between checkpoints; 0 for one an epoch", decides=False)
    log_every: int = setting(10, "steps between lines of the log", decides=False)
    eval_every: int = setting(100, "steps between measurements on held-out data while training; 0 for none", decides=False)
    heldout: int = setting(200, "held-out texts measured before and after, at the most", decides=False)
    entries: int = setting(200, "dictionary entries measured before and after, at the most", decides=False)
    questions: int = setting(200, "exam questions asked before and after, at the most, spread over the subjects", decides=False)
    max_new_tokens: int = setting(32, "tokens of an answer to an exam question: a letter, or a short sentence around it")
    seed: int = setting(0, "of LoRA, order of data and dropout")
    report_to: str = setting("none", "a tracker that gets each step's loss; to be installed beside kmlite", TRACKERS, decides=False)
    accept_regression: bool = setting(False, "go on where the stage made the model worse, instead of leaving with status 3", decides=False)
    restart: bool = setting(False, "drop an unfinished run, or redo a finished one", decides=False)
