"""A finished stage's model for others: as a full folder or as an adapter, reloaded and asked again, put on the Hub. No unsloth here."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import click

from kmlite import files, paths, prompts, records
from kmlite.evaluation import generation
from kmlite.models import folders, loading, merging
from kmlite.sharing import gguf

STALE = {"tokenizer.model", "added_tokens.json", paths.RECORD}  # a base's own, without the new tokens


class Source(NamedTuple):
    """What is exported: a stage's folder, its finished model, the records it stands on (its own the last), the first base's name."""

    folder: Path
    final: Path
    records: list[dict]
    base_name: str
    stand_in: bool


def source(out: Path, stage: int) -> Source:
    """The finished model of a stage with the chain of records that led to it, or a click error."""
    final = folders.final_folder(out, stage, f"Run first: make stage{stage} OUT={out}   (or export another stage: ARGS='--stage …')")
    chain = [files.read_json(final.parent / paths.RECORD)]
    while (before := begun_from(chain[0])) in range(stage) and (record := files.read_record(record_of(out, before))):
        chain.insert(0, record)
    return Source(final.parent, final, chain, chain[0]["plan"]["base"]["name"], folders.is_stand_in(final))


def record_of(out: Path, stage: int) -> Path:
    return out / paths.STAGES[stage].folder / paths.RECORD


def begun_from(record: dict) -> int:
    """The number of the stage whose model a run began with, `stage 1` in its plan; -1 for a hub name or a folder."""
    found = re.fullmatch(r"stage (\d+)", record["plan"]["base"]["name"])
    return int(found[1]) if found else -1


def questions() -> list[str]:
    """The prompts of ten exam questions of the sample, which a model is asked before and after."""
    asked = files.read_lines(paths.SAMPLE_RAW / paths.RAW_EXAM / "dev.jsonl")[:10]
    return [prompts.exam_prompt(question) for question in asked]


def korean_texts(refined: Path) -> list[str]:
    """Lines of held-out text, at most 2,000, on which two readings of the vocabulary are compared."""
    held = paths.heldout_text(refined)
    lines = [line for text in records.read_texts([held]) for line in text.split("\n")] if held.exists() else []
    return [line for line in lines if line][:2000]


# ---- written


def write_merged(source: Source, target: Path) -> None:
    """Write the stage's model as a folder of 16-bit safetensors; weights and tokenizer.json keep their bytes, a vision tower has the
    published names, and a server finds where to stop: each end-of-sequence id once, <end_of_turn> among them."""
    folders.copy_side_files(source.final, target, without=STALE)
    for path in sorted(source.final.iterdir()):
        if path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
            shutil.copyfile(path, target / path.name)
    merging.publish_names(target)
    config = files.read_record(source.final / "generation_config.json") or {}
    ids, stops = config.get("eos_token_id", []), prompts.stop_ids(loading.load_tokenizer(target))
    config["eos_token_id"] = list(dict.fromkeys([*(ids if isinstance(ids, list) else [ids]), *stops]))
    files.write_json(target / "generation_config.json", config)


def stage_of(out: Path, format: str) -> int:
    """The last finished stage, of an adapter the last that keeps one."""
    keeps = [number for number in folders.finished(out) if "best_loop" in (files.read_record(record_of(out, number)) or {})]
    return keeps[0] if format == "adapter" and keeps else folders.last_stage(out)


def write_adapter(source: Source, target: Path, out: Path, base: str) -> tuple[Path, Path, str]:
    """Write the best loop's LoRA as a peft folder whose adapter_config.json names its base: by `base` its Hub name, else its folder.

    Returns (the adapter's folder in `out`, the local folder it stands on, the name). A click error where the stage keeps no adapter, no
    loop was better, or the base has changed since.
    """
    number = paths.stage_number(source.folder)
    merged = f"make export OUT={out} ARGS='--format merged --stage {number}'"
    if "best_loop" not in source.records[-1]:
        raise click.ClickException(
            f"{source.folder} holds no adapter: this stage's LoRA was merged into its model, {source.final}, and dropped.\n"
            f"  What there is, is that model: {merged}"
        )
    loop, plan = source.records[-1]["best_loop"], source.records[-1]["plan"]["base"]
    adapter = source.folder / f"loop_{loop}"
    if not loop:
        raise click.ClickException(
            f"no loop of stage {number} was better on dev than the model it began with, so {source.final} is that model and there is no "
            "adapter.\n"
            f"  What there is: {merged}"
        )
    paths.require(adapter / "adapter_model.safetensors", f"Run the stage again: make stage{number} OUT={out} ARGS=--restart")
    before = begun_from(source.records[-1])
    local = folders.final_folder(out, before, f"Its base is gone. {merged}") if before >= 0 else folders.resolve(plan["name"])
    if files.model_fingerprint(local) != plan["fingerprint"]:
        raise click.ClickException(
            f"{local} is not the model that {adapter} was trained on: it was made anew since.\n"
            f"  Run stage {number} again (make stage{number} OUT={out}), or export the merged model: {merged}"
        )
    target.mkdir(parents=True)
    shutil.copyfile(adapter / "adapter_model.safetensors", target / "adapter_model.safetensors")
    named = base or str(local.resolve())
    config = files.read_json(adapter / "adapter_config.json") | {"base_model_name_or_path": named, "revision": None}
    files.write_json(target / "adapter_config.json", config)
    return adapter, local, named


# ---- asked again


def answers(folder: Path, asked: list[str], adapter: Path | None = None) -> list[str]:
    """The greedy turns of a model folder, by plain transformers (and peft), in one batch, up to gguf.MAX_NEW_TOKENS each.

    In float32 without a card: few processors compute in bfloat16, and these ten answers took over 8 minutes in it, 23 s in float32.
    """
    import logging

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # an optional CPU kernel, not installed, warns
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    # not AutoModelForImageTextToText: that knows no text-only Gemma 3, and this gives the one with a tower where there is one
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
    model = model.eval().to(device)
    encoded = [prompts.conversation_ids(tokenizer, prompt)[0] for prompt in asked]
    batch = tokenizer.pad({"input_ids": encoded}, padding_side="left", return_tensors="pt").to(device)
    with torch.no_grad():
        turns = model.generate(**batch, **generation.writing(tokenizer, gguf.MAX_NEW_TOKENS))
    return [tokenizer.decode(turn).split("<pad>")[0] for turn in turns[:, batch["input_ids"].shape[1] :]]


def compare(expected: list[str], found: list[str], asked: list[str]) -> None:
    """A click error where an answer of the written model differs from its source's."""
    for question, a, b in zip(asked, expected, found, strict=True):
        if a != b:
            raise click.ClickException(
                f"the exported model answers otherwise than its source: {b!r}, not {a!r}, to\n  {' '.join(question.split())[:120]}\n"
                "  Nothing was put in place. Please report it with your versions."
            )


# ---- out


def push(folder: Path, repository: str) -> str:
    """Upload a folder to a private model repository of the Hub; returns its address.

    huggingface_hub finds the token by itself (HF_TOKEN or `hf auth login`); it is not read here. A click error where it may not, there
    is no network, or the repository is public.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, repo_type="model", private=True, exist_ok=True)
        if not api.repo_info(repository, repo_type="model").private:
            raise click.ClickException(
                f"{repository} is there already and is public. Name another one, or upload {folder} by: .venv/bin/hf upload"
            )
        return str(api.upload_folder(folder_path=str(folder), repo_id=repository, repo_type="model", commit_message="Export from kmlite"))
    except (OSError, HTTPError) as error:
        raise click.ClickException(
            f"{repository}: {str(error).strip() or type(error).__name__}\n"
            f"  {folder} is whole. Log in with a token that may write (.venv/bin/hf auth login) and run again."
        ) from error
