"""Load, adapt, save and merge. The only file that imports unsloth, and only when a model is first asked for."""

import contextlib
import functools
import gc
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import click

from kmlite import paths
from kmlite.runs import put_in_place, read_json, write_json

# LoRA on the text tower alone. By regex: leaf names put it on the vision tower too, and on a CPU Unsloth ignores
# finetune_vision_layers=False. `model.layers` is the text-only classes' path (Gemma3ForCausalLM).
TEXT_PROJECTIONS = (
    r"^(?!.*(vision_tower|multi_modal)).*layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)$"
)

PRECISIONS = ("auto", "4bit", "8bit", "16bit")
EMBEDDINGS = ("new", "all", "none")
CHECKPOINTING = ("auto", "on", "off")
NOT_COPIED = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".md", ".msgpack", ".h5", ".onnx"}
DOWNLOADED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]  # no pickles


@functools.cache
def fast_model():
    """Unsloth's loader. Imported here, before trl and peft, whose classes it replaces; 10 s on a CPU."""
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
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


def resolve(base: str) -> Path:
    """The local folder of a base: a path as it stands, a hub name downloaded into the Hugging Face cache.

    Raises:
        click.ClickException: neither a model folder nor a repository that can be fetched, or one that lacks what
            training needs (safetensors, a tokenizer.json, a chat template, a Gemma 3 configuration).
    """
    folder = Path(base)
    if not folder.is_dir():
        if base.count("/") != 1 or base.startswith((".", "/", "~")):
            raise click.ClickException(f"BASE={base} is neither a folder nor a hub name like google/medgemma-4b-it.")
        folder = download(base)
    config = folder / "config.json"
    if not config.exists():
        raise click.ClickException(f"{folder} holds no model: config.json is missing. Name a model folder or a hub name as BASE=…")
    kind = read_json(config).get("model_type", "")
    if not kind.startswith("gemma3"):
        raise click.ClickException(f"{base} is a {kind or 'nameless'} model; kmlite works with Gemma 3 ones (MedGemma, gemma-3-*).")
    if not list(folder.glob("*.safetensors")):
        raise click.ClickException(f"{folder} has no .safetensors weights. Pickled weights are never loaded; save it with save_pretrained.")
    if not (folder / "tokenizer.json").exists():
        raise click.ClickException(f"{folder} has no tokenizer.json. Copy it from the model's repository.")
    if not (folder / "chat_template.jinja").exists() and "chat_template" not in read_json(folder / "tokenizer_config.json"):
        raise click.ClickException(
            f"{folder} has no chat template, so it was not taught to answer.\n  Take the instruction-tuned one: a name that ends in -it."
        )
    return folder


def download(name: str) -> Path:
    """Fetch a repository of the Hugging Face hub; only safetensors, JSON and the template."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED))
    except GatedRepoError as error:
        raise click.ClickException(
            f"{name} is gated. Accept its terms at https://huggingface.co/{name}, then run: .venv/bin/hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise click.ClickException(f"the hub knows no {name}, or your token may not see it. Check the spelling of BASE=…") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise click.ClickException(
            f"{name} can't be fetched (no connection to the hub?) and is not in the local cache.\n"
            f"  With a network: .venv/bin/hf download {name}   Without one: BASE=a/local/folder, or make demo."
        ) from error


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available() and os.environ.get("UNSLOTH_FORCE_CPU") != "1"


def pick_precision(precision: str) -> str:
    """Resolve "auto" by free GPU memory: calculated for a 4B model, 8.0 GiB of weights in 16-bit, 5.0 in 8, 3.6 in 4."""
    import torch

    if precision != "auto":
        return precision
    if not on_gpu():
        return "16bit"
    free = torch.cuda.mem_get_info()[0] / 2**30
    return "16bit" if free >= 22 else "8bit" if free >= 15 else "4bit"


def recomputes(setting: str) -> bool:
    """Whether activations are recomputed in the backward pass: "on", "off", or "auto", on a GPU."""
    return setting == "on" or (setting == "auto" and on_gpu())


def load(folder: Path, precision: str, length: int, recompute: bool = False):
    """(model, tokenizer) of a local folder, ready to evaluate or to adapt.

    Args:
        precision: "4bit" (NF4, double quantisation), "8bit" (GPU only; 16-bit on a CPU) or "16bit". A 16-bit model
            computes in bfloat16 on a GPU and in float32 on a CPU.
        length: the longest sequence, in tokens.
        recompute: activations in the backward pass, for memory; only where the model is to be trained.
    """
    import torch

    with quiet():
        model, processor = fast_model().from_pretrained(
            model_name=str(folder),
            max_seq_length=length,
            dtype=None if on_gpu() else torch.float32,
            load_in_4bit=precision == "4bit",
            load_in_8bit=precision == "8bit",
            load_in_16bit=precision == "16bit",
            full_finetuning=False,
            use_exact_model_name=True,
            trust_remote_code=False,
            use_gradient_checkpointing="unsloth" if recompute else False,
            local_files_only=True,
        )
    tokenizer = getattr(processor, "tokenizer", processor)  # a processor on a GPU, a tokenizer on a CPU
    tokenizer.padding_side = "right"
    return model, tokenizer


def load_tokenizers(*folders: Path) -> list:
    from transformers import AutoTokenizer

    return [AutoTokenizer.from_pretrained(folder, local_files_only=True) for folder in folders]


def add_lora(
    model,
    *,
    r: int,
    alpha: int,
    dropout: float,
    rslora: bool,
    seed: int,
    recompute: bool = False,
    embeddings: str = "none",
    new_ids: list[int] | None = None,
):
    """A PeftModel with LoRA on the seven projections of the text tower, and the embedding rows that `embeddings` names.

    Args:
        embeddings: "new" trains the rows `new_ids` alone, "all" the whole matrix, "none" neither. Trained rows are float32
            and tied: one copy serves as input and output embedding.
    """
    extra: dict = {}
    if embeddings == "new" and new_ids:
        extra["trainable_token_indices"] = {"embed_tokens": list(new_ids)}
    elif embeddings == "all":
        # ensure_weight_tying: two copies of a tied matrix diverge, and a merge keeps one of them (logits off by their own size)
        extra.update(modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    if "trainable_token_indices" in extra:
        # trl asks the wrapper of the rows for the .bias of the head it wraps
        from peft.utils.other import TrainableTokensWrapper

        TrainableTokensWrapper.bias = None
    with quiet():
        model = fast_model().get_peft_model(
            model,
            r=r,
            lora_alpha=alpha,
            lora_dropout=dropout,
            use_rslora=rslora,
            target_modules=TEXT_PROJECTIONS,
            bias="none",
            random_state=seed,
            use_gradient_checkpointing="unsloth" if recompute else False,
            **extra,
        )
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
        count[kind] += weight.numel()
    return count


def weight_sums(model, frozen: int = 12) -> dict[str, float]:
    """A checksum of every trainable weight and of up to `frozen` frozen ones, the embedding matrix among them."""
    import torch

    still = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    every = max(1, len(still) // frozen)
    watched = set(still[::every]) | {name for name in still if "embed_tokens" in name}
    sums = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad or name in watched:
            values = weight.detach()
            sums[name] = float(values.double().abs().sum() if values.is_floating_point() else values.sum(dtype=torch.int64))
    return sums


def check_movement(before: dict[str, float], after: dict[str, float], trained: set[str]) -> None:
    """Assert that all trained weights moved and no watched frozen one did."""
    stuck = [name for name in before if name in trained and before[name] == after[name]]
    moved = [name for name in before if name not in trained and before[name] != after[name]]
    assert not stuck, f"{len(stuck)} trainable weights did not move in ten steps: {stuck[:3]}"
    assert not moved, f"{len(moved)} frozen weights moved: {moved[:3]}"


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


def free(*models) -> None:
    """Give a dropped model's memory back. The caller must drop its own names."""
    import torch

    del models
    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()


def copy_side_files(source: Path, target: Path, without: set[str] = frozenset()) -> None:
    """Copy tokenizer, template, processor and generation files, byte for byte, and no weights."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        skip = path.suffix in NOT_COPIED or path.name in without or path.name.endswith(".index.json") or path.name.startswith(".")
        if path.is_file() and not skip:
            shutil.copyfile(path, target / path.name)


# Two ways to the same logits differ by bfloat16's rounding: weights that carry the adapter are rounded once more. On the embedded
# base that was under 0.02 of the logits' spread, and 0.09 for an adapter that had blown them up. A merge that went wrong is
# off by what the adapter does, or by more.
ROUNDING = 0.05


def merge(base: Path, adapter: Path, final: Path, texts: list[str]) -> float:
    """Write `base` with `adapter` merged in as a full 16-bit folder that plain transformers loads.

    The base's 16-bit weights are used, also where training saw them in 4-bit: outputs move a little, so what is evaluated
    is this folder. Weights without LoRA (the vision tower) keep their bytes. Needs the 16-bit model's size in memory.

    Returns:
        The root mean square difference, on `texts`, between the logits of the written folder and those of base and
        adapter side by side, as a share of the logits' spread.

    Raises:
        click.ClickException: it is over ROUNDING and over a quarter of what the adapter changes; nothing was put in place.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True)
        adapted = PeftModel.from_pretrained(model, str(adapter))
        expected = logits_of(adapted, base, texts)
        with adapted.disable_adapter():
            effect = spread_of(logits_of(adapted, base, texts) - expected, expected)
        merged = adapted.merge_and_unload()
        # files first: save_pretrained then writes its config over the base's
        copy_side_files(base, partial)
        merged.save_pretrained(partial)
        restore_generation_config(base, partial)
        del model, adapted, merged
        free()
        written = AutoModelForCausalLM.from_pretrained(partial, dtype=torch.bfloat16, local_files_only=True)
        found = logits_of(written, partial, texts)
        assert written.get_input_embeddings().weight.data_ptr() == written.get_output_embeddings().weight.data_ptr(), "the tie is lost"
        del written
    difference = spread_of(found - expected, expected)
    if not difference <= max(ROUNDING, effect / 4):
        raise click.ClickException(
            f"the merged model does not do what the adapter does: their logits differ by {difference:.3f} of their spread "
            f"(up to {ROUNDING} is rounding; the adapter changes them by {effect:.3f}).\n"
            f"  Nothing was put in place; the adapter is in {adapter}. Please report this with your versions."
        )
    put_in_place(partial, final)
    return difference


def spread_of(difference, logits) -> float:
    """Root mean square of a difference as a share of the logits' standard deviation."""
    return float(difference.pow(2).mean().sqrt() / logits.std())


def logits_of(model, folder: Path, texts: list[str]):
    """Logits of all positions of a few texts (64 tokens each at the most), float32 [tokens, rows]."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model.eval()
    out = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"][:64]])
            out.append(model(input_ids=ids, use_cache=False).logits[0].float())
    return torch.cat(out)


def restore_generation_config(source: Path, target: Path) -> None:
    """The source's generation settings with each end-of-sequence id once: loading and saving lengthen that list."""
    path = source / "generation_config.json"
    if not path.exists():
        (target / "generation_config.json").unlink(missing_ok=True)
        return
    config = json.loads(path.read_text())
    if isinstance(config.get("eos_token_id"), list):
        config["eos_token_id"] = list(dict.fromkeys(config["eos_token_id"]))
    write_json(target / "generation_config.json", config)


def is_stand_in(folder: Path) -> bool:
    """Whether a model folder descends from the embedded base, whose figures say nothing about MedGemma."""
    return "kmlite" in read_json(folder / "config.json")


def final_folder(out: Path, stage: int, hint: str) -> Path:
    """The finished model of a stage, or a click error with the command that makes it."""
    folder = out / paths.STAGES[stage]
    if not (folder / paths.RECORD).exists() or not (folder / paths.FINAL).is_dir():
        raise click.ClickException(f"{folder} holds no finished model.\n  {hint}")
    return folder / paths.FINAL
