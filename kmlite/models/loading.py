"""Load, adapt and save. The only file that imports unsloth, and only when a model is first asked for."""

import contextlib
import functools
import gc
import io
import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click

from kmlite.files import fingerprint, put_in_place
from kmlite.models.folders import readable
from kmlite.models.memory import LOSS_BUDGET, shape_of
from kmlite.models.new_rows import beside

# LoRA on the text tower alone. By regex: leaf names put it on the vision tower too, and on a CPU Unsloth ignores
# finetune_vision_layers=False. `model.layers` is the text-only classes' path (Gemma3ForCausalLM).
TEXT_PROJECTIONS = (
    r"^(?!.*(vision_tower|multi_modal)).*layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)$"
)

BESIDE = 4 << 30  # bytes beside the weights to evaluate: the logits of a batch, keys and values, CUDA itself
LARGE = 100 << 20  # bytes of a model from which bfloat16 can pay on a CPU
FAST = 1.3  # times as fast as float32, from which it does: casts and norms cost a part of the gain
PRECISIONS = ("auto", "4bit", "8bit", "16bit")
TOKENIZERS: dict[str, Any] = {}  # those read so far, by the fingerprint of their files


@functools.cache
def fast_model():
    """Unsloth's loader. Imported here, before trl and peft, whose classes it replaces; 10 s on a CPU."""
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    # else its compiled kernels land in a folder of the place where make was called
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path.home() / ".cache/kmlite/unsloth_compiled"))
    os.environ.setdefault("UNSLOTH_CE_LOSS_TARGET_GB", str(LOSS_BUDGET))  # else half of the free memory goes to the loss
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # an optional CPU kernel, not installed, warns
    with quiet():
        from unsloth import FastModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    return FastModel


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's greeting off the terminal; if the block fails, what it had printed comes out."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BaseException:
        click.echo(said.getvalue(), err=True)
        raise


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available() and os.environ.get("UNSLOTH_FORCE_CPU") != "1"


def bf16() -> bool:
    """Whether the card computes in bfloat16 by itself (Ampere and newer), not by emulation."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


@functools.cache
def cpu_bf16_gain() -> float:
    """How many times faster this CPU multiplies matrices in bfloat16 than in float32, timed once a process: 2.5 to 4 with AMX, 1.5 to 2
    with AVX512-BF16, 0.2 where torch emulates it. The least of five alternating times each, so that other programs do not decide."""
    import torch

    least = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(6):  # the first warms up and is rarely the least
        for dtype in least:
            states, weight = torch.ones(256, 640, dtype=dtype), torch.ones(2048, 640, dtype=dtype)
            started = time.perf_counter()
            torch.nn.functional.linear(states, weight)
            least[dtype] = min(least[dtype], time.perf_counter() - started)
    return least[torch.float32] / least[torch.bfloat16]


def cpu_dtype(folder: Path, precision: str):
    """What a CPU holds and multiplies a model's weights in: bfloat16, as they are stored, where that is clearly faster.

    A model of a few million parameters spends its time elsewhere, and quantised weights are computed in float32.
    """
    import torch

    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    fast = precision == "16bit" and size >= LARGE and cpu_bf16_gain() >= FAST
    return torch.bfloat16 if fast else torch.float32


def compute_dtype(model):
    """The dtype that the projections of a loaded model compute in."""
    import torch

    weight = next(weight for name, weight in model.named_parameters() if "q_proj" in name and "lora_" not in name)
    state = getattr(weight, "quant_state", None)
    dtype = state.dtype if state else weight.dtype
    return dtype if dtype.is_floating_point else torch.float16  # LLM.int8 multiplies the rest in float16


def computing(model):
    """A context for a forward pass outside the trainer: on a CPU in bfloat16, LoRA's float32 matrices are multiplied in bfloat16 too."""
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=not on_gpu() and compute_dtype(model) == torch.bfloat16)


def pick_precision(precision: str, folder: Path) -> str:
    """Resolve "auto" to evaluate a model in: 16-bit where its weights and BESIDE fit into the free GPU memory, else 4-bit."""
    import torch

    if precision != "auto":
        return precision
    fits = not on_gpu() or torch.cuda.mem_get_info()[0] >= 2 * shape_of(folder).parameters + BESIDE
    return "16bit" if fits else "4bit"


def recomputes(setting: str) -> bool:
    """Whether activations are recomputed in the backward pass: "on", "off", or "auto", on a GPU."""
    return setting == "on" or (setting == "auto" and on_gpu())


def load(folder: Path, precision: str, length: int, recompute: bool = False):
    """(model, tokenizer) of a local folder, ready to evaluate or to adapt.

    `precision` is "4bit" (NF4, double quantisation), "8bit" (GPU only; 16-bit on a CPU) or "16bit", which computes in bfloat16 on a GPU
    and on a CPU in what `cpu_dtype` finds faster; `length` the longest sequence in tokens; `recompute` for a model to be trained.
    """
    unsloth = fast_model()  # before transformers
    from transformers import AutoConfig, AutoTokenizer

    with readable(folder / "config.json"):
        AutoConfig.from_pretrained(folder, local_files_only=True)
    with quiet(), contextlib.ExitStack() as patched:
        if not on_gpu():  # Unsloth's CPU loader is given a tokenizer instead of reading one; on a GPU it changes what it reads
            known = load_tokenizer(folder)
            known.model_max_length = length
            patched.enter_context(mock.patch.object(AutoTokenizer, "from_pretrained", lambda *args, **kwargs: known))
        model, processor = unsloth.from_pretrained(
            model_name=str(folder),
            max_seq_length=length,
            dtype=None if on_gpu() else cpu_dtype(folder, precision),
            load_in_4bit=precision == "4bit",
            load_in_8bit=precision == "8bit",
            load_in_16bit=precision == "16bit",
            full_finetuning=False,
            use_exact_model_name=True,
            offload_embedding=False,  # once new rows train, Unsloth takes the tied pair for two and may move it to the CPU
            trust_remote_code=False,
            use_gradient_checkpointing="unsloth" if recompute else False,
            local_files_only=True,
        )
    if precision == "4bit" and not any(hasattr(weight, "quant_state") for weight in model.parameters()):
        raise click.ClickException(
            "4-bit weights were asked for and Unsloth loaded 16-bit ones, since bitsandbytes does not run here.\n"
            "  What it says: .venv/bin/python -m bitsandbytes   Without it: ARGS='--precision 16bit'"
        )
    if on_gpu() and not rewritten(model):
        click.echo("  Unsloth left the model's forward as it was: no fused loss, so it takes more memory than planned", err=True)
    tokenizer = getattr(processor, "tokenizer", processor)  # a processor on a GPU, a tokenizer on a CPU
    tokenizer.padding_side = "right"
    return model, with_one_bos(tokenizer)


def with_one_bos(tokenizer):
    """The tokenizer, or a click error where it does not put exactly one <bos> before a text: only the loaded one can tell."""
    ids = tokenizer("가")["input_ids"]
    if ids.count(tokenizer.bos_token_id) != 1 or ids[0] != tokenizer.bos_token_id:
        raise click.ClickException(
            f"the tokenizer of {tokenizer.name_or_path} writes {ids.count(tokenizer.bos_token_id)} <bos> before a text, one is needed.\n"
            '  Set "add_bos_token": true in its tokenizer_config.json, or take tokenizer.json as the model\'s maker published it.'
        )
    return tokenizer


def rewritten(model) -> bool:
    """Whether the model's class is the one that Unsloth writes anew for a GPU, with the fused loss.

    It is not on cards before Turing, and where an Auto class of transformers had looked the class up before Unsloth's first load.
    """
    return type(model).forward.__module__.startswith("unsloth_compiled")


def load_tokenizer(folder: Path):
    """The tokenizer of a local folder. Folders with the same tokenizer share one object: Gemma's 33 MB take 5 to 18 s to read."""
    found = sorted(path for path in folder.iterdir() if "token" in path.name or path.suffix == ".jinja" or path.name == "config.json")
    state = fingerprint(*found)
    if state not in TOKENIZERS:
        from transformers import AutoTokenizer

        if len(TOKENIZERS) == 4:  # a base and what was made of it
            del TOKENIZERS[next(iter(TOKENIZERS))]
        with readable(folder / "tokenizer_config.json"):
            read = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        TOKENIZERS[state] = with_one_bos(read)
    return TOKENIZERS[state]


def add_lora(
    model, *, r: int, alpha: int, dropout: float, seed: int, recompute: bool = False, embeddings: str = "none", new_ids: list | None = None
):
    """A PeftModel with LoRA on the seven projections of the text tower, and trained embedding rows: `embeddings` is "new" (`new_ids`
    alone), "all" or "none". They are float32 and tied: one copy serves as input and output embedding.
    """
    import torch

    extra: dict = {}
    if embeddings == "new" and new_ids:
        extra["trainable_token_indices"] = {"embed_tokens": list(new_ids)}
    elif embeddings == "all":
        # ensure_weight_tying: two copies of a tied matrix diverge, and a merge keeps one of them (logits off by their own size)
        extra.update(modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    if extra and on_gpu() and not bf16():
        raise click.ClickException(
            "this card has no bfloat16, and trained embedding rows would overflow in float16.\n"
            "  Add ARGS='--new-tokens 0 --embeddings none'."
        )
    with quiet():
        model = fast_model().get_peft_model(
            model,
            r=r,
            lora_alpha=alpha,
            lora_dropout=dropout,
            use_rslora=True,  # scale alpha / sqrt(r), so that a rank can be changed without the rate (arXiv 2312.03732)
            target_modules=TEXT_PROJECTIONS,
            bias="none",
            random_state=seed,
            use_gradient_checkpointing="unsloth" if recompute else False,
            **extra,
        )
    if "trainable_token_indices" in extra:
        beside(model)
    if not on_gpu() and compute_dtype(model) == torch.bfloat16:  # `computing`: no float32 copy of each LoRA's input
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False
    set_trainable(model, embeddings if extra else "none")
    return model


def is_embedding(name: str) -> bool:
    return "trainable_tokens_delta" in name or ".modules_to_save." in name


def set_trainable(model, embeddings: str) -> None:
    """Make exactly the LoRA matrices and the chosen embedding rows trainable, the latter in float32, and assert it.

    Unsloth's preparation on a GPU freezes all but lora_* and modules_to_save, after loading and after each reload.
    """
    import torch

    for name, weight in model.named_parameters():
        wanted = ".lora_" in name or (is_embedding(name) and embeddings != "none")
        if wanted and weight.dtype != torch.float32:
            weight.data = weight.data.float()  # bf16 rows at a low learning rate hardly move
        weight.requires_grad_(wanted)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any(".lora_A." in name for name in trained), "no LoRA matrix trains"
    assert not any("vision_tower" in name or "multi_modal" in name for name in trained), "the vision tower trains"
    rows = sum(is_embedding(name) for name in trained)
    assert rows == (embeddings != "none"), f"{rows} embedding matrices train, embeddings={embeddings}"


def trainable_summary(model) -> dict[str, int]:
    """Numbers of parameters: {"lora", "embeddings", "frozen"}."""
    count = {"lora": 0, "embeddings": 0, "frozen": 0}
    for name, weight in model.named_parameters():
        kind = ("embeddings" if is_embedding(name) else "lora") if weight.requires_grad else "frozen"
        count[kind] += weight.quant_state.shape.numel() if getattr(weight, "quant_state", None) else weight.numel()  # 4-bit: two a byte
    return count


def for_training(model, tokenizer) -> None:
    fast_model().for_training(model)
    tokenizer.padding_side = "right"


def for_inference(model, tokenizer) -> None:
    """Evaluation mode, key-value cache on, padding on the left, where a batch of prompts needs it."""
    fast_model().for_inference(model)
    tokenizer.padding_side = "left"


def save_adapter(model, folder: Path) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    (partial / "README.md").unlink(missing_ok=True)  # peft's empty model card
    put_in_place(partial, folder)


def load_adapter(model, folder: Path) -> None:
    """Put the weights of a saved adapter into a PeftModel of the same shape."""
    from peft import load_peft_weights, set_peft_model_state_dict

    result = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    assert not result.unexpected_keys, f"{folder} holds weights that the model has no place for: {result.unexpected_keys[:3]}"


def free() -> None:
    """Give dropped models' memory back; the caller must have dropped its names for them."""
    import torch

    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()
