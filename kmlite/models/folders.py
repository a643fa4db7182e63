"""Model folders: find or fetch the one to start from, say what it lacks, copy what stands beside its weights."""

import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Set
from pathlib import Path

import click

from kmlite import paths
from kmlite.files import read_json
from kmlite.models import rendering, weights

NOT_COPIED = {".safetensors", ".py", ".bin", ".pt", ".pth", ".gguf", ".md", ".msgpack", ".h5", ".onnx"}
DOWNLOADED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]  # no pickles
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?", re.ASCII)
ADAPTER = "adapter_config.json"
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
READ = {"config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", *PROCESSOR}
READ |= {"chat_template.json", weights.INDEX}  # what transformers and kmlite read of a folder, beside tokenizer.json
CONTROL = ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>")
IMAGE = "<image_soft_token>"
PUBLISHED = "Take the model as its maker published it."
SPARE = 1024  # rows that no token has: padding to a multiple of 64, as published; some pad to more


def resolve(base: str, named: str = "BASE") -> Path:
    """The local folder of a base: a folder that `check` accepts, or a hub name, maybe with a commit or branch
    (google/medgemma-4b-it@main), downloaded into the Hugging Face cache; else a click error that calls it as the user did, `named`.
    """
    folder = Path(base)
    if not base or not os.path.isdir(base):  # Path.is_dir raises where a name is too long
        from huggingface_hub import snapshot_download

        name, _, revision = hub_name(base, named).partition("@")
        with hub_errors(name, revision or "main", named):
            folder = Path(snapshot_download(name, revision=revision or "main", allow_patterns=DOWNLOADED))
    check(folder)
    return folder


def hub_name(base: str, named: str) -> str:
    """`base` where it can name a repository of the hub; else a click error that says what it is."""
    if HUB_NAME.fullmatch(base):
        return base
    told = f"{named}={base} is neither a folder nor a hub name."
    if base != base.strip() or not base:
        told = f"{named}={base!r} is empty or has blanks around it."
    elif base.endswith(".gguf"):
        told = f"{named}={base} is a GGUF file, which can be run and not trained; name the folder of safetensors that it was made of."
    elif os.path.isfile(base):
        told = f"{named}={base} is a file; name the model's folder: {named}={Path(base).parent}"
    elif os.path.islink(base):
        told = f"{named}={base} is a link to {os.readlink(base)}, which leads to no folder."
    raise click.ClickException(f"{told}\n  Name a folder, or a hub name: {named}=google/medgemma-4b-it")


def at_hand(base: str) -> Path | None:
    """The checked folder of a base that is on this machine whole, or None; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    if base and os.path.isdir(base):
        return resolve(base)
    name, _, revision = hub_name(base, "BASE").partition("@")
    cached = try_to_load_from_cache(name, "config.json", revision=revision or None)
    if not isinstance(cached, str):
        return None
    snapshot = Path(cached).parent
    try:
        weights.files_of(snapshot)
    except click.ClickException:
        return None  # an interrupted download
    return resolve(str(snapshot)) if (snapshot / "tokenizer.json").is_file() else None


# ---- the one look at a folder, before any work


def check(folder: Path) -> None:
    """Refuse a model folder that would end in a traceback later, or in silence in another model: a click error says what is wrong, in
    which file, and how to get it right.

    Reads every JSON file and every header of the weights, the tokenizer and its template, but no weights: a few seconds.
    """
    try:
        config = check_config(folder)
        rows = weights.check(folder, config)
        check_tokenizer(folder, config, rows)
        check_template(folder)
    except OSError as error:
        raise click.ClickException(f"{error.filename or folder} can't be read: {error.strerror}.\n  {again(folder)}") from error
    except click.ClickException as error:
        raise error if "\n" in error.message else click.ClickException(f"{error.message}\n  {again(folder)}") from None


def again(folder: Path) -> str:
    """How to get a damaged folder anew: by its hub name where the hub's cache holds it."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        name = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        return f"Fetch what is missing or damaged: .venv/bin/hf download {name} --revision {folder.name}   (--force-download replaces all)"
    stage = paths.stage_number(folder.parent)
    if stage is not None:
        return f"Make it anew: make stage{stage} OUT={folder.parent.parent} ARGS=--restart"
    return f"Fetch or copy it anew, for example: .venv/bin/hf download google/medgemma-4b-it --local-dir {shlex.quote(str(folder))}"


@contextlib.contextmanager
def readable(file: Path) -> Iterator[None]:
    """What transformers refuses in a file of a model folder, in a sentence: it must not be asked before Unsloth is there, so by `check`."""
    try:
        yield
    except Exception as error:  # each of its validations raises a kind of its own
        raise click.ClickException(f"{file} can't be used: {str(error)[:200]}.\n  {again(file.parent)}") from error


def check_config(folder: Path) -> dict:
    """config.json, of a plain Gemma 3 and with nothing in it, or beside it, that leads elsewhere."""
    file, beside = folder / "config.json", (folder / ADAPTER).exists()
    if not file.is_file() and beside:
        raise click.ClickException(
            f"{folder} holds an adapter and no model: {ADAPTER} without config.json.\n"
            "  Merge it into its base first (peft: merge_and_unload, then save_pretrained), and name the merged folder."
        )
    if not file.is_file():
        raise click.ClickException(f"{folder} holds no model: config.json is missing.\n  Name a model folder or a hub name.")
    if beside:
        raise click.ClickException(
            f"{folder / ADAPTER} stands beside a model: transformers would load the base that it names instead of this one.\n"
            f"  Move it away, with the adapter's weights: mv {shlex.quote(str(folder))}/adapter_* somewhere/else"
        )
    found = {file.name: weights.parsed(file) for file in sorted(folder.glob("*.json")) if file.name in READ}
    for name, values in found.items():
        if "auto_map" in values:
            raise click.ClickException(f"{folder / name} asks for code of its own (auto_map), and none is run. {PUBLISHED}")
    config = found["config.json"]
    kind = config.get("model_type", "")
    if kind not in ("gemma3", "gemma3_text"):
        why = " Gemma 4 has other classes and another turn format, and no MedGemma stands on it." if str(kind).startswith("gemma4") else ""
        raise click.ClickException(
            f"{folder} is a {kind or 'nameless'} model; kmlite works with Gemma 3 ones.{why}\n  Name MedGemma or a gemma-3-*."
        )
    if "transformers_weights" in config:
        raise click.ClickException(f"{file} names weights elsewhere (transformers_weights).\n  Take that line out.")
    for part in [config, *(config[name] for name in ("text_config", "vision_config") if config.get(name))]:
        if not isinstance(part, dict):
            raise click.ClickException(f"{file}: text_config and vision_config must be objects.")
        if key := next((key for key in ("quantization_config", "compression_config") if part.get(key)), ""):
            raise click.ClickException(
                f"{folder} is quantised already ({key} in config.json). kmlite quantises the 16-bit model by itself.\n"
                "  Take the model as its maker published it, without -bnb-4bit, -GPTQ, -AWQ or -FP8 in its name."
            )
        if part.get("tie_word_embeddings") is False:
            raise click.ClickException(
                f"{file} says tie_word_embeddings=false. In Gemma 3 the head is the embedding matrix, and kmlite trains them as one.\n"
                "  Take a model that keeps the tie."
            )
    text = config.get("text_config") or config
    types, layers = text.get("layer_types"), weights.numbers(text, weights.TEXT, "config.json")["num_hidden_layers"]
    if types is not None and (not isinstance(types, list) or len(types) != layers):
        raise click.ClickException(f"{file}: layer_types must name {layers} layers.")
    if kind == "gemma3" and not any((folder / name).is_file() for name in PROCESSOR):
        raise click.ClickException(
            f"{folder} has a vision tower and no {PROCESSOR[0]}: its tokenizer would be looked for elsewhere.\n"
            f"  Copy {' and '.join(PROCESSOR)} from the model's repository."
        )
    return config


def check_tokenizer(folder: Path, config: dict, rows: int) -> None:
    """tokenizer.json: Gemma 3's control tokens, at the ids that config.json names, and a row for every id."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise click.ClickException(f"{folder} has no tokenizer.json.\n  Copy it from the model's repository.")
    try:
        vocabulary = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    except Exception as error:  # tokenizers raises plain Exception
        raise click.ClickException(f"{file} is no tokenizer: {str(error)[:100]}.") from error
    if absent := [token for token in CONTROL if token not in vocabulary]:
        raise click.ClickException(f"{file} has no {absent[0]}: it is not Gemma 3's tokenizer.")
    image = IMAGE if config["model_type"] == "gemma3_text" else ""  # on the hub the text-only models' tokenizers have it too
    over = [token for token, number in vocabulary.items() if number >= rows and not (token == image and number == rows)]
    if over or len(set(vocabulary.values())) < len(vocabulary):
        what = f"{len(over)} tokens without a row, {over[0]!r} among them" if over else "two tokens of one id"
        raise click.ClickException(f"{file} does not fit the embedding of {rows:,} rows: it has {what}.")
    if rows > max(vocabulary.values()) + SPARE:
        raise click.ClickException(
            f"{file} has {len(vocabulary):,} ids and the embedding {rows:,} rows: the tokenizer is of another model."
        )
    named = {"bos_token_id": "<bos>", "pad_token_id": "<pad>"}
    if not image:
        named |= {"image_token_id": IMAGE, "image_token_index": IMAGE}
        named |= {"boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>"}
    for key, token in named.items():
        said = config.get(key, (config.get("text_config") or {}).get(key))
        if said is not None and vocabulary.get(token) not in (said if isinstance(said, list) else [said]):
            raise click.ClickException(f"{file} has {token} at {vocabulary.get(token)}, config.json says {key}={said}.")


def check_template(folder: Path) -> None:
    """The chat template: Gemma's turns behind exactly one <bos>, rendered under a limit of time and memory."""
    names, template = names_and_template(folder)
    if not template:
        raise click.ClickException(
            f"{folder} has no chat template, so it was not trained to answer.\n  Take the instruction-tuned one: a name that ends in -it."
        )
    if names.get("bos_token") != "<bos>":
        raise click.ClickException(
            f"{folder / 'tokenizer_config.json'} says bos_token={names.get('bos_token')!r}, and Gemma answers worse without its <bos>.\n"
            '  Add the line "bos_token": "<bos>".'
        )
    user, model = {"role": "user", "content": "가"}, {"role": "assistant", "content": "나"}
    try:
        asked, answered, further = rendering.render(template, [[user], [user, model], [user, model, user]], names)
    except click.ClickException as error:
        raise click.ClickException(f"{folder}: its chat template {error.message}.\n  {again(folder)}") from error
    wrong = ""
    if any(text.count("<bos>") != 1 or not text.startswith("<bos>") for text in (asked, answered, further)):
        wrong = f"writes {asked.count('<bos>')} <bos>, not one at the start"
    elif not asked.startswith("<bos><start_of_turn>user\n가<end_of_turn>") or "<end_of_turn>" not in further.rpartition("나")[2]:
        wrong = "does not write Gemma's turns, <start_of_turn>user … <end_of_turn>"
    elif not answered.startswith(asked) or answered[len(asked) :].rstrip("\n") != "나<end_of_turn>":
        wrong = "does not end the model's turn in <end_of_turn>, or not behind its own generation prompt"
    if wrong:
        raise click.ClickException(f"{folder}: its chat template {wrong}.\n  Take chat_template.jinja as the model's maker published it.")


def names_and_template(folder: Path) -> tuple[dict[str, str], str]:
    """(the special tokens that a template may use, the template), from the files that transformers takes them from."""
    settings: dict = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= weights.parsed(folder / name)
    tokens = {key: value for key, value in settings.items() if key.endswith("_token")}
    names = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    file, template = folder / "chat_template.jinja", settings.get("chat_template")
    if file.is_file():
        if kind := weights.other_kind(file.read_bytes()[:8].replace(b"<", b"")):
            raise click.ClickException(f"{file} is {kind}.\n  {again(folder)}")
        template = file.read_text(encoding="utf-8", errors="replace")
    if isinstance(template, list):  # several, each with its name
        template = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return {key: value for key, value in names.items() if isinstance(value, str)}, str(template or "")


def can_be_fetched(base: str) -> None:
    """Ask the hub whether this machine may download a repository; a click error if not, whose second line says what to do."""
    from huggingface_hub import auth_check

    with hub_errors(base.partition("@")[0], "", "BASE"):
        auth_check(base.partition("@")[0])


@contextlib.contextmanager
def hub_errors(name: str, revision: str, named: str) -> Iterator[None]:
    """What the hub refuses, in a sentence, with the command that helps."""
    from httpx import HTTPError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise click.ClickException(
            f"{name} is gated, and this machine may not read it: licence not accepted, or no token.\n"
            f"  Accept its terms at https://huggingface.co/{name}, then run: .venv/bin/hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise click.ClickException(f"{name} has no commit or branch {revision}.\n  Leave @{revision} out for the newest.") from error
    except RepositoryNotFoundError as error:
        raise click.ClickException(
            f"the hub knows no {name}, or this machine's token may not see it.\n  Check the spelling of {named}=…"
        ) from error
    except (HTTPError, OSError) as error:
        raise click.ClickException(
            f"{name} is not on this machine, and the hub does not answer.\n"
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


def stand_in_note(folder: Path) -> str:
    """What is printed behind a model's name: nothing, or that it descends from the embedded base."""
    return " (from the embedded base: its figures say nothing about MedGemma)" if is_stand_in(folder) else ""


def finished(out: Path) -> list[int]:
    """The stages in `out` that have a final model, the last first."""
    there = [all((out / stage.folder / name).exists() for name in (paths.RECORD, paths.FINAL)) for stage in paths.STAGES]
    return [number for number in reversed(range(len(there))) if there[number]]


def last_stage(out: Path) -> int:
    """The stage whose model eval and export take unasked: the last finished one; where none is, the last, for the error to name."""
    return next(iter(finished(out)), len(paths.STAGES) - 1)


def final_folder(out: Path, stage: int, hint: str) -> Path:
    """The finished model of a stage, or a click error with the command that makes it."""
    folder = out / paths.STAGES[stage].folder
    if stage not in finished(out):
        raise click.ClickException(f"{folder} holds no finished model.\n  {hint}")
    check(folder / paths.FINAL)
    return folder / paths.FINAL
