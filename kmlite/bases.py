"""Model folders: find or fetch the one to start from, say what it lacks, copy what stands beside its weights."""

import shutil
from pathlib import Path

import click

from kmlite import paths
from kmlite.runs import read_json

NOT_COPIED = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".md", ".msgpack", ".h5", ".onnx"}
DOWNLOADED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]  # no pickles


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
    if kind not in ("gemma3", "gemma3_text"):
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


def at_hand(base: str) -> Path | None:
    """The folder of a base that is on this machine, or None; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    if Path(base).is_dir():
        return resolve(base)
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise click.ClickException(f"BASE={base} is neither a folder nor a hub name like google/medgemma-4b-it.\nName another one: BASE=…")
    cached = try_to_load_from_cache(base, "config.json")
    if isinstance(cached, str) and list(Path(cached).parent.glob("*.safetensors")):
        return resolve(str(Path(cached).parent))
    return None


def can_be_fetched(base: str) -> None:
    """Ask the hub whether this machine may download a repository.

    Raises:
        click.ClickException: it may not, or the hub does not answer; the message's second line says what to do.
    """
    from httpx import HTTPError
    from huggingface_hub import auth_check
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        auth_check(base)
    except GatedRepoError as error:
        raise click.ClickException(
            f"{base} is gated, and this machine may not read it: licence not accepted, or no token.\n"
            f"Accept its terms at https://huggingface.co/{base}, then run: .venv/bin/hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise click.ClickException(
            f"the hub knows no {base}, or this machine's token may not see it.\nCheck the spelling of BASE=…"
        ) from error
    except (HTTPError, OSError) as error:
        raise click.ClickException(
            f"{base} is not on this machine, and the hub does not answer.\n"
            f"With a network: .venv/bin/hf download {base}   Without one: BASE=a/local/folder"
        ) from error


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


def copy_side_files(source: Path, target: Path, without: set[str] = frozenset()) -> None:
    """Copy tokenizer, template, processor and generation files, byte for byte, and no weights."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        skip = path.suffix in NOT_COPIED or path.name in without or path.name.endswith(".index.json") or path.name.startswith(".")
        if path.is_file() and not skip:
            shutil.copyfile(path, target / path.name)


def is_stand_in(folder: Path) -> bool:
    """Whether a model folder descends from the embedded base, whose figures say nothing about MedGemma."""
    return "kmlite" in read_json(folder / "config.json")


def final_folder(out: Path, stage: int, hint: str) -> Path:
    """The finished model of a stage, or a click error with the command that makes it."""
    folder = out / paths.STAGES[stage]
    if not (folder / paths.RECORD).exists() or not (folder / paths.FINAL).is_dir():
        raise click.ClickException(f"{folder} holds no finished model.\n  {hint}")
    return folder / paths.FINAL
