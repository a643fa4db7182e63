"""Model folders: find or fetch the one to start from, say what it lacks, copy what stands beside its weights."""

import shutil
from collections.abc import Set
from pathlib import Path

import click

from kmlite import paths
from kmlite.files import read_json

NOT_COPIED = {".safetensors", ".py", ".bin", ".pt", ".pth", ".gguf", ".md", ".msgpack", ".h5", ".onnx"}
DOWNLOADED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]  # no pickles


def resolve(base: str, named: str = "BASE") -> Path:
    """The local folder of a base: a path as it stands, a hub name downloaded into the Hugging Face cache.

    Args:
        base: a folder, or a hub name, which may name a commit or branch: google/medgemma-4b-it@main.
        named: the variable that the user named it by, for the messages.

    Raises:
        click.ClickException: neither a model folder nor a repository that can be fetched, or one that lacks what
            training needs (safetensors, a tokenizer.json, a chat template, a Gemma 3 configuration).
    """
    folder = Path(base)
    if not folder.is_dir():
        if base.count("/") != 1 or base.startswith((".", "/", "~")):
            raise click.ClickException(f"{named}={base} is neither a folder nor a hub name like google/medgemma-4b-it.")
        name, _, revision = base.partition("@")
        folder = download(name, revision or "main", named)
    config = folder / "config.json"
    if not config.exists():
        raise click.ClickException(f"{folder} holds no model: config.json is missing. Name a model folder or a hub name as {named}=…")
    for file in folder.glob("*.json"):
        if file.name.endswith("config.json") and "auto_map" in read_json(file):
            raise click.ClickException(
                f"{file} asks for code of its own (auto_map). kmlite runs no code out of a model folder.\n"
                "  Take the model as its maker published it; Gemma 3 needs none."
            )
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
    name, _, revision = base.partition("@")
    cached = try_to_load_from_cache(name, "config.json", revision=revision or None)
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
        auth_check(base.partition("@")[0])
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


def download(name: str, revision: str, named: str = "BASE") -> Path:
    """Fetch a repository of the Hugging Face hub at a commit or branch; only safetensors, JSON and the template."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=DOWNLOADED))
    except GatedRepoError as error:
        raise click.ClickException(
            f"{name} is gated. Accept its terms at https://huggingface.co/{name}, then run: .venv/bin/hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise click.ClickException(f"{name} has no commit or branch {revision}. Leave @{revision} out for the newest.") from error
    except RepositoryNotFoundError as error:
        raise click.ClickException(f"the hub knows no {name}, or your token may not see it. Check the spelling of {named}=…") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise click.ClickException(
            f"{name} can't be fetched (no connection to the hub?) and is not in the local cache.\n"
            f"  With a network: .venv/bin/hf download {name}   Without one: {named}=a/local/folder, or make demo."
        ) from error


def commit_of(folder: Path) -> str | None:
    """The commit that a downloaded base was resolved to (the cache names its folders by it); None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def copy_side_files(source: Path, target: Path, without: Set[str] = frozenset()) -> None:
    """Copy tokenizer, template, processor and generation files, byte for byte, and no weights."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        skip = path.suffix in NOT_COPIED or path.name in without or path.name.endswith(".index.json") or path.name.startswith(".")
        if path.is_file() and not skip:
            shutil.copyfile(path, target / path.name)


def is_stand_in(folder: Path) -> bool:
    """Whether a model folder descends from the embedded base, whose figures say nothing about MedGemma."""
    return "kmlite" in read_json(folder / "config.json")


def said_of(folder: Path) -> str:
    """What is printed behind a model's name: nothing, or that it descends from the embedded base."""
    return " (from the embedded base: its figures say nothing about MedGemma)" if is_stand_in(folder) else ""


def final_folder(out: Path, stage: int, hint: str) -> Path:
    """The finished model of a stage, or a click error with the command that makes it."""
    folder = out / paths.STAGES[stage]
    if not (folder / paths.RECORD).exists() or not (folder / paths.FINAL).is_dir():
        raise click.ClickException(f"{folder} holds no finished model.\n  {hint}")
    return folder / paths.FINAL
