"""What fits a card: the bytes of a stage by part, and the settings that fit, with what they give up.

Calculated from the model's shape. The weights, adapters and optimizer state are exact (tested against tensors); activations are
read off a count of a whole step without a card (benchmarks/peak.py); what the loss and trained rows need for a moment was read in
the locked libraries. docs/gpu.md says what has been compared with a card.
"""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmlite.files import read_json
from kmlite.models import weights
from kmlite.training.loss import CHUNK, MANY, TILE

if TYPE_CHECKING:
    from kmlite.training.settings import TrainingSettings

GIB = 2**30
SIZES = (8, 12, 16, 24, 48, 80)  # GiB of the cards that `make doctor` shows where there is none
PRECISION_BYTES = {
    "16bit": 2.0,
    "8bit": 1.0,  # LLM.int8 (arXiv 2208.07339); its scale a row is counted apart
    "4bit": 0.5 + 1 / 64 + 4 / (64 * 256),  # NF4 in blocks of 64, their scales in 8 bit in blocks of 256 (arXiv 2305.14314)
}
CONTEXT = 0.6 * GIB  # CUDA context and libraries, outside torch's allocator; not measured here
PROCESS = 0.8 * GIB  # Python, torch, transformers, trl and Unsloth without a GPU (2026-11)
TOKENIZER = 1250  # bytes a token of the vocabulary takes in memory (2026-11: 0.32 GB of Gemma 3's)
MERGE = 2.8  # bytes a parameter that a merge takes at its peak (2026-11: 12 GB of 4.3 billion)
LOSS_BUDGET = 0.5  # GiB that Unsloth's chunked loss may take at a time: kmlite.model pins it, else it takes half of what is free
LOGIT_BYTES = 16  # of a logit while its loss and gradient are made (unsloth_zoo/fused_losses/cross_entropy_loss.py)
OFFLOADED = 2 << 20  # layer inputs from this size on wait in main memory (unsloth_zoo/gradient_checkpointing.py)
ROOM = 0.1  # share of the card left free: the allocator's gaps, a desktop, and a plan that no card has confirmed yet
TOLERANCE = 0.15  # a plan further off than this is a defect
LEAST_TOKENS = 2e9  # of Korean text that continued pretraining needs, as the plan of this project has it

# Dense peak in 1e12 operations/s, 16-bit inputs summed in 32 bit, as NVIDIA's architecture papers give it (Turing, Ampere, Ada, Hopper).
CARDS = {"RTX 3060": 25, "RTX 4060": 30, "RTX 3090": 71, "RTX 4070": 58, "RTX 4080": 97, "RTX 4090": 165, "A6000": 155, "T4": 65, "L4": 121}
CARDS |= {"A100": 312, "H100": 989, "H200": 989}
TYPICAL = {8: "RTX 4060", 12: "RTX 4070", 16: "RTX 4080", 24: "RTX 4090", 48: "A6000", 80: "A100"}
UTILISATION = {"16bit": 0.35, "4bit": 0.30, "8bit": 0.15}  # assumed share of that peak, until a stage has been measured


@dataclass(frozen=True)
class Shape:
    """The sizes of a Gemma 3 that decide its memory. `rows`: of the embedding; `kept`: parameters that stay in 16-bit
    beside it (vision tower, projector, norms)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    rows: int
    kept: int = 0

    @property
    def projections(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a layer's seven projections."""
        h, q, kv, i = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim, self.intermediate
        return [(h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)]

    @property
    def linear(self) -> int:
        """Parameters of the text tower's projections."""
        return self.layers * sum(a * b for a, b in self.projections)

    @property
    def parameters(self) -> int:
        return self.linear + self.rows * self.hidden + self.kept


# google/medgemma-4b-it, so that a plan needs no download: Gemma 3 4B (4,300,079,472 parameters; its tower has no pooling head)
MEDGEMMA = Shape(2560, 34, 8, 4, 256, 10240, 262_208, 416_866_032 + 2_950_272 + 368_128)


def shape_of(folder: Path) -> Shape:
    """The shape of a model folder that was checked, from its config.json and the headers of its weights."""
    config = read_json(folder / "config.json")
    has = weights.numbers(config.get("text_config") or config, weights.TEXT, "config.json")
    names = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size vocab_size"
    bare = Shape(*(has[name] for name in names.split()))
    # a tied head may be stored beside the embedding
    whole = sum(math.prod(tensor.shape) for tensor in weights.headers(folder) if not tensor.name.endswith("lm_head.weight"))
    return replace(bare, kept=whole - bare.parameters)


def lora_parameters(shape: Shape, rank: int) -> int:
    return shape.layers * rank * sum(a + b for a, b in shape.projections)


def layer_bytes(shape: Shape, tokens: int, precision: str, dropout: float, recompute: bool, gpu: bool, each: int = 4) -> int:
    """Bytes that decoder layers keep for the backward pass, and what that pass makes in one of them at its worst: of one layer
    where they are recomputed, else of all. Their inputs are not in it.

    `each`: bytes of a number that a CPU computes with.
    Read off the storages of a whole step of the real shape (benchmarks/peak.py, which compares it).
    """
    hidden, wide, queries, keys = shape.hidden, shape.intermediate, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layers = 1 if recompute else shape.layers
    if not gpu:  # tensors kept for the backward pass by layers of the 270M (2026-11), and half a layer that is made in it
        dropped = 1.4 * each * (5 * hidden + queries + wide) if dropout else 0
        return round((layers + 0.5) * tokens * ((24 + 7 * each) * hidden + 4 * each * wide + dropped))
    kept = 4 * (4 * hidden + queries + keys)  # float32 inputs of the six norms
    kept += 2 * 4 * queries  # queries, keys, values and result of attention; padding's mask has keys and values repeated for each head
    kept += 2 * 3 * wide  # gate, its activation, up
    # inputs of the LoRAs: each a copy of its own with a mask of bytes, or shared where nothing is dropped
    kept += (2 + 1) * (5 * hidden + queries + wide) if dropout else 2 * (2 * hidden + wide)
    norm = tokens * 26 * hidden  # the backward pass of a norm: five float32 arrays, gradients before and after, the layer's result
    # a quantised matrix written out in 16 bits, in the backward pass of the widest projection
    widest = 0 if precision == "16bit" else 2 * hidden * wide + 10 * tokens * hidden
    return layers * tokens * kept + max(norm, widest)


def parts(
    shape: Shape,
    *,
    precision: str,
    rank: int,
    batch: int,
    length: int,
    embeddings: str = "none",
    new_rows: int = 0,
    dropout: float = 0.05,
    recompute: bool = True,
    gpu: bool = True,
    half: bool = False,
) -> dict[str, int]:
    """Bytes of a training step by part, at the moment of its peak.

    Args:
        batch, length: sequences at once, and tokens of each; padding counts like text.
        embeddings: "new" (`new_rows` of them), "all" or "none" train.
        gpu: False for the CPU's path: 32-bit optimizer state, the loss in tiles, no CUDA, and the process with its libraries.
        half: a CPU that computes in bfloat16, and so holds the weights in 16 bits.
    """
    hidden, tokens = shape.hidden, batch * length
    wide = 2 if gpu or half else 4  # bytes of a weight that is not quantised
    lora = lora_parameters(shape, rank)
    quantised = 4 * shape.layers * sum(b for _, b in shape.projections) if precision == "8bit" and gpu else 0
    each = PRECISION_BYTES[precision] if precision == "4bit" or gpu else wide
    out = {
        "weights": round(shape.linear * each) + quantised,
        "embedding": shape.rows * hidden * wide,
        "vision tower and norms": shape.kept * wide,
        "LoRA, gradients, optimizer": lora * (4 + 4 + (2 if gpu else 8)),  # two moments: 8 bits each on a GPU
    }
    matrix = shape.rows * hidden
    if embeddings == "new" and new_rows:
        out["new rows, gradients, optimizer"] = new_rows * hidden * (4 + 4 + 8)
    elif embeddings == "all":
        out["trained embedding, gradient, optimizer"] = matrix * (4 + 4 + 8)
        out["copies of the embedding for a moment"] = 2 * matrix * wide
    inputs = tokens * hidden * wide  # of a decoder layer
    out["activations"] = layer_bytes(shape, tokens, precision, dropout, recompute, gpu, wide)
    if not recompute:
        out["activations"] += 2 * lora if gpu else 0  # autocast's copies of the LoRA, which the backward pass needs
    elif gpu and inputs >= OFFLOADED:
        out["activations"] += inputs  # those of the layer at work
    else:
        out["activations"] += shape.layers * inputs
    if not gpu and embeddings != "all" and shape.rows >= MANY:  # a tile's logits, and the likely columns with their rows of the matrix
        likely = shape.rows // 6
        out["loss"] = min(tokens, CHUNK) * (12 * TILE + 8 * likely) + likely * hidden * wide + 8 * tokens * hidden + 10 * new_rows * hidden
    elif embeddings == "new" and new_rows:  # kmlite/training/loss.py: besides the logits, states and rows with their gradients in 32 bits
        out["loss"] = min(tokens, CHUNK) * shape.rows * 6 + 12 * tokens * hidden + 10 * new_rows * hidden
    else:
        logits = tokens * shape.rows * LOGIT_BYTES
        out["loss"] = min(logits, round(LOSS_BUDGET * GIB)) if gpu else logits
    out["CUDA" if gpu else "process"] = round(CONTEXT if gpu else PROCESS + TOKENIZER * shape.rows)
    return out


@dataclass(frozen=True)
class Plan:
    """The settings that a stage takes on a card, and what they cost. `fits` is False where nothing fitted: then it is the smallest."""

    precision: str
    batch: int
    accumulation: int
    embeddings: str
    length: int
    parts: dict[str, int]
    reduced: list[str]
    fits: bool

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def choose(
    shape: Shape,
    room: float,
    settings: "TrainingSettings",
    *,
    embeddings: str = "none",
    new_rows: int = 0,
    gpu: bool = True,
    half: bool = False,
) -> Plan:
    """The first settings that fit into `room` bytes: a smaller batch gives way first, then precision, trained rows last. Where there
    is room, up to four times the recipe's batch goes through a card at once: fewer passes over the weights.

    batch × accumulation, and with them what is learned from a step, stay as the recipe has them; so does the length. What the user set
    (precision, batch, a mode of the embeddings) is never changed but for "auto" and a batch that is too large.
    """
    # 8-bit is left to those who ask for it: LLM.int8 is about half as fast as either of the others
    precisions = ("16bit", "4bit") if settings.precision == "auto" else (settings.precision,)
    modes = ("new", "none") if embeddings == "auto" else (embeddings,)
    batches = [settings.batch * more for more in (4, 2) if gpu and settings.accumulation % more == 0] + [settings.batch]
    while batches[-1] > 1 and batches[-1] % 2 == 0:
        batches.append(batches[-1] // 2)
    recompute = settings.checkpointing == "on" or (gpu and settings.checkpointing == "auto")
    for mode, precision, batch in itertools.product(modes, precisions, batches):
        size: dict[str, Any] = {"precision": precision, "batch": batch, "rank": settings.rank}
        size |= {"length": settings.length, "dropout": settings.dropout}
        found = parts(shape, **size, embeddings=mode, new_rows=new_rows, recompute=recompute, gpu=gpu, half=half)
        given = {"new tokens": mode != modes[0], f"{precisions[0]} → {precision}": precision != precisions[0]}
        given[f"batch {settings.batch} → {batch}"] = batch < settings.batch
        accumulation, fits = settings.accumulation * settings.batch // batch, sum(found.values()) <= room * (1 - ROOM)
        reduced = [what for what, was in given.items() if was]
        tried = Plan(precision, batch, accumulation, mode, settings.length, found, reduced, fits)
        if fits:
            break
    return tried


def estimated_rate(shape: Shape, card: str, precision: str) -> float | None:
    """Tokens per second on a card by its published peak and an assumed utilisation: an estimate. None for an unknown card.

    A token costs 2 operations a weight (arXiv 2001.08361) forward, once more to recompute, and back to the activations; the frozen
    weights get no gradient."""
    known = [peak for name, peak in CARDS.items() if name in card.replace("GeForce ", "").replace("NVIDIA ", "")]
    operations = 6.0 * (shape.linear + shape.rows * shape.hidden)
    return UTILISATION[precision] * max(known) * 1e12 / operations if known else None


def disk(shape: Shape, rank: int, *, new_rows: int = 0, extends: bool = False) -> dict[str, int]:
    """Bytes that a stage needs on the disk of OUT at the most, by part."""
    trained = lora_parameters(shape, rank) + new_rows * shape.hidden
    model = 2 * shape.parameters
    return {
        "checkpoints": 3 * 12 * trained,  # two are kept while a third is written; float32 weights and two moments each
        "adapter": 4 * trained,
        "merged model": model,
        **({"extended base": model} if extends else {}),
    }
