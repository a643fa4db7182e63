"""A finished stage's model for others: as a full folder or as an adapter, reloaded and asked again, put on the Hub. No unsloth here."""

import shutil
from pathlib import Path
from typing import NamedTuple

import click

from kmlite import files, paths, prompts, runs
from kmlite.models import folders, merging
from kmlite.sharing import gguf, model_card

RECORD = "export.json"  # written into the exported folder: what it is, and that it is ours to replace
QUESTIONS = 10
MAX_NEW_TOKENS = 32
STALE = {"tokenizer.model", "added_tokens.json", paths.RECORD}  # a base's own, without the new tokens


class Source(NamedTuple):
    """What is exported: a stage's folder, its finished model, its record, the records it stands on, the name of the first base."""

    folder: Path
    final: Path
    record: dict
    records: list[dict]
    base_name: str
    stand_in: bool


def source(out: Path, stage: int) -> Source:
    """The finished model of a stage with the chain of records that led to it, or a click error."""
    hint = f"Run first: make stage{stage} OUT={out}   (or export another stage: ARGS='--stage …')"
    final = folders.final_folder(out, stage, hint)
    records = [files.read_json(final.parent / paths.RECORD)]
    while (name := records[0]["plan"]["base"]["name"]) in [f"stage {n}" for n in range(stage)]:
        before = files.read_record(out / paths.STAGES[int(name[-1])] / paths.RECORD)
        if before is None:
            break
        records.insert(0, before)
    return Source(final.parent, final, records[-1], records, name, folders.is_stand_in(final))


def write_merged(source: Source, target: Path, texts: list[str]) -> dict:
    """Write the stage's model as a folder of 16-bit safetensors; weights and tokenizer.json keep their bytes, and a vision tower
    has the published names.

    Returns:
        {"weights": bytes, "vocabulary_compared": texts on which tokenizer.model and tokenizer.json agree}.

    Raises:
        click.ClickException: weights that are not 16-bit, or a vocabulary that no tokenizer.model can hold.
    """
    folders.copy_side_files(source.final, target, without=STALE)
    size = 0
    for path in sorted(source.final.iterdir()):
        if path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
            shutil.copyfile(path, target / path.name)
            size += path.stat().st_size
    check_sixteen_bit(target)
    merging.publish_names(target)
    config = files.read_json(target / "config.json")
    for part in (config, config.get("text_config", {})):
        if isinstance(part.get("eos_token_id"), list):
            part["eos_token_id"] = list(dict.fromkeys(part["eos_token_id"]))
    files.write_json(target / "config.json", config)
    write_generation_config(source.final, target)
    return {"weights": size, "vocabulary_compared": gguf.write_vocabulary(target, texts)}


def check_sixteen_bit(folder: Path) -> None:
    from safetensors import safe_open

    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            other = {file.get_slice(name).get_dtype() for name in file.keys()} - {"BF16", "F16"}  # noqa: SIM118
        if other:
            raise click.ClickException(f"{shard.name} holds {', '.join(sorted(other))} weights; a stage writes 16-bit ones. Run it again.")


def write_generation_config(final: Path, target: Path) -> None:
    """The model's generation settings with each end-of-sequence id once, <end_of_turn> among them: a server stops by these."""
    merging.restore_generation_config(final, target)
    path = target / "generation_config.json"
    config = files.read_record(path) or {}
    ids = config.get("eos_token_id", [])
    stops = prompts.stop_ids(plain_tokenizer(target))
    config["eos_token_id"] = list(dict.fromkeys([*(ids if isinstance(ids, list) else [ids]), *stops]))
    files.write_json(path, config)


def write_adapter(source: Source, target: Path, out: Path, base: str) -> dict:
    """Write the best loop's LoRA as a peft folder whose adapter_config.json names its base.

    Args:
        base: the Hub name under which others find that base; empty: the folder on this machine.

    Returns:
        {"loop", "adapter" (its folder here), "base" (the local folder it stands on), "named" (the base in adapter_config.json)}.

    Raises:
        click.ClickException: a stage that keeps no adapter, no loop that was better, or a base that has changed since.
    """
    merged = f"make export OUT={out} ARGS='--format merged --stage {paths.STAGES.index(source.folder.name)}'"
    if source.folder.name != paths.STAGES[2]:
        raise click.ClickException(
            f"{source.folder} holds no adapter: this stage's LoRA was merged into its model, {source.final}, and dropped.\n"
            f"  What there is, is that model: {merged}"
        )
    loop = source.record["best_loop"]
    adapter = source.folder / f"loop_{loop}"
    if not loop:
        raise click.ClickException(
            f"no loop of stage 2 was better on dev than the model it began with, so {source.final} is that model and there is no adapter.\n"
            f"  What there is: {merged}"
        )
    paths.require(adapter / "adapter_model.safetensors", f"Run the stage again: make stage2 OUT={out} ARGS=--restart")
    plan = source.record["plan"]["base"]
    local = folders.final_folder(out, 1, f"Its base is gone. {merged}") if plan["name"] == "stage 1" else folders.resolve(plan["name"])
    if files.model_fingerprint(local) != plan["fingerprint"]:
        raise click.ClickException(
            f"{local} is not the model that {adapter} was trained on: it was made anew since.\n"
            f"  Run stage 2 again (make stage2 OUT={out}), or export the merged model: {merged}"
        )
    target.mkdir(parents=True)
    shutil.copyfile(adapter / "adapter_model.safetensors", target / "adapter_model.safetensors")
    named = base or str(local.resolve())
    files.write_json(
        target / "adapter_config.json",
        {**files.read_json(adapter / "adapter_config.json"), "base_model_name_or_path": named, "revision": None},
    )
    return {"loop": loop, "adapter": adapter, "base": local, "named": named}


# ---- asked again


def plain_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def answers(folder: Path, asked: list[str], adapter: Path | None = None) -> list[str]:
    """The greedy turns of a model folder, by plain transformers (and peft), in one batch, up to MAX_NEW_TOKENS each.

    In float32 without a card: few processors compute in bfloat16, and these ten answers took over 8 minutes in it, 23 s in float32.
    """
    import logging

    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # an optional CPU kernel, not installed, warns
    tokenizer = plain_tokenizer(folder)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    # not AutoModelForImageTextToText: that knows no text-only Gemma 3, and this gives the one with a tower where there is one
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, trust_remote_code=False)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu")
    model = model.eval().to(device)
    encoded = [prompts.conversation_ids(tokenizer, prompt)[0] for prompt in asked]
    batch = tokenizer.pad({"input_ids": encoded}, padding_side="left", return_tensors="pt").to(device)
    with torch.no_grad():
        turns = model.generate(
            **batch,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            top_p=None,
            top_k=None,
            eos_token_id=prompts.stop_ids(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            cache_implementation=None,
        )
    return [tokenizer.decode(turn).split("<pad>")[0] for turn in turns[:, batch["input_ids"].shape[1] :]]


def check_tokens(first: Path, second: Path, texts: list[str]) -> None:
    """Raise a click error where two folders' tokenizers, as transformers loads them, differ in a token's id or on a text."""
    a, b = plain_tokenizer(first), plain_tokenizer(second)
    if a.get_vocab() != b.get_vocab() or a(texts)["input_ids"] != b(texts)["input_ids"]:
        raise click.ClickException("the tokenizer of the exported folder is not the model's. Nothing was put in place; please report it.")


def compare(expected: list[str], found: list[str], asked: list[str]) -> None:
    """Raise a click error where an answer of the written model differs from its source's."""
    for question, a, b in zip(asked, expected, found, strict=True):
        if a != b:
            raise click.ClickException(
                f"the exported model answers otherwise than its source: {b!r}, not {a!r}, to\n  {' '.join(question.split())[:120]}\n"
                "  Nothing was put in place. Please report it with your versions."
            )


# ---- in place, and out


def check_target(target: Path) -> None:
    """Refuse a folder that holds something else than an earlier export: it would be replaced."""
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / RECORD).exists()):
        raise click.ClickException(f"{target} holds something that make export did not write. Name another place: ARGS='--to …'")


def write_papers(source: Source, target: Path, kind: str, done: dict) -> None:
    """The model card, the notice that the licences ask for, and the record; then put the folder in place."""
    partial = target.with_name(target.name + ".partial")
    files.write_text(partial / "README.md", model_card.text(source, kind, done))
    files.write_text(partial / "NOTICE", model_card.notice(source.base_name) + "\n")
    files.write_json(
        partial / RECORD, {"kmlite_export": kind, "stage": source.folder.name, "stand_in": source.stand_in, **done, **runs.environment()}
    )
    files.put_in_place(partial, target)


def files_of(folder: Path) -> list[tuple[str, int]]:
    """(name, bytes) of a folder's files, in order of their names."""
    return [(str(path.relative_to(folder)), path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()]


def check_repository(name: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise click.ClickException(f"--push {name}: {error}") from error
    if "/" not in name:
        raise click.ClickException(f"--push {name}: name the owner too, as in your-name/{name}.")


def push(folder: Path, repository: str, public: bool) -> str:
    """Upload a folder to a model repository of the Hub, private unless `public`; returns its address.

    huggingface_hub finds the token by itself (HF_TOKEN or `hf auth login`); it is not read here.

    Raises:
        click.ClickException: no token, no permission, no network, or a repository whose visibility is not the one asked for.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, repo_type="model", private=not public, exist_ok=True)
        private = bool(api.repo_info(repository, repo_type="model").private)
        if private == public:
            raise click.ClickException(
                f"{repository} is there already and is {'private' if private else 'public'}. "
                + ("Make it public on its page, or leave --public out." if private else "Name another one, or add --public.")
            )
        done = api.upload_folder(folder_path=str(folder), repo_id=repository, repo_type="model", commit_message="Export from kmlite")
    except LocalTokenNotFoundError as error:
        raise click.ClickException("the Hub asks for a token with write access. Run: .venv/bin/hf auth login") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        why = {401: "your token is not valid", 403: "your token may not write there", 404: "your token may not see it"}.get(status)
        raise click.ClickException(
            f"{repository}: {why or f'the Hub answered with status {status}'}. {folder} is whole; log in with a token that may write "
            "(.venv/bin/hf auth login) and run again."
        ) from error
    except OSError as error:
        raise click.ClickException(
            f"{repository}: no connection to the Hub ({type(error).__name__}). {folder} is whole; run again, files that arrived are kept."
        ) from error
    return str(done)
