"""Files for llama.cpp and Ollama: a SentencePiece vocabulary made of tokenizer.json, the converter's run, the Modelfile.

llama.cpp's converter reads a Gemma 3 vocabulary from tokenizer.model where there is one. Without it, it takes tokenizer.json for a
byte-level BPE, which Gemma's is not, and stops. The base's own tokenizer.model has no new tokens. So one is made here.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from kmlite import prompts
from kmlite.cli import console
from kmlite.files import read_json, write_json, write_text
from kmlite.progress import progress

MAX_NEW_TOKENS = 32  # of the answers that an export is compared by
CONVERTER = "convert_hf_to_gguf.py"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # types of a piece; the same numbers in SentencePiece and in GGUF
# added tokens that llama.cpp's converter makes CONTROL by their name alone (conversion/base.py, does_token_look_special): Gemma's
# tokenizer.json calls `<mask>` and 6,242 `<unusedN>` ordinary
LOOKS_SPECIAL = re.compile(r"<(pad|mask|2mass|unused.*|\|.*\||｜.*｜)>|\[@BOS@\]")
MISSING = """\
llama.cpp's {name} is neither in {place} nor on PATH. Get it and run again:
  git clone --depth 1 https://github.com/ggml-org/llama.cpp && cmake -B llama.cpp/build llama.cpp && \
cmake --build llama.cpp/build -t llama-quantize llama-completion
  LLAMA_CPP=llama.cpp make export OUT={out} ARGS="--format gguf\""""

# Gemma's turns as its chat template writes them, for Go's text/template. Ollama adds <bos> itself. A system message, where there is
# one, opens the first user's turn; there is none by default, as in training.
TEMPLATE = """\
{{- $system := .System }}
{{- range $i, $message := .Messages }}
{{- if eq .Role "user" }}<start_of_turn>user
{{ if $system }}{{ $system }}

{{ $system = "" }}{{ end }}{{ .Content }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}<end_of_turn>
{{ end }}
{{- end }}<start_of_turn>model
"""


# ---- the vocabulary


def pieces(tokenizer: dict) -> list[tuple[str, float, int]]:
    """(text, score, type) of each id of a Gemma tokenizer.json, in order of the ids; a click error where ids are missing.

    A SentencePiece BPE joins the neighbours whose joint piece scores highest, tokenizer.json's those whose merge has the lowest rank:
    a piece's score is the negative rank of its first merge. It may be joined from other halves than its merge names, which a learned
    BPE never has side by side: 24,460 lines of Korean came out the same under two vocabularies with 5,000 and 15,000 new tokens.
    """
    model = tokenizer["model"]
    special = {token["content"]: token["special"] for token in tokenizer["added_tokens"]}
    ids = {**model["vocab"], **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}
    names = sorted(ids, key=lambda name: ids[name])
    if [ids[name] for name in names] != list(range(len(names))):
        raise click.ClickException("this tokenizer's ids are not 0, 1, 2, … without a gap, so no GGUF vocabulary can be made of them.")
    rank: dict[str, int] = {}
    for i, merge in enumerate(model["merges"]):
        rank.setdefault("".join(merge) if isinstance(merge, list) else merge.replace(" ", "", 1), i)

    def piece(name: str) -> tuple[str, float, int]:
        if name == model["unk_token"]:
            return name, 0.0, UNKNOWN
        if name in special:
            return name, 0.0, CONTROL if special[name] or LOOKS_SPECIAL.fullmatch(name) else USER_DEFINED
        if re.fullmatch("<0x[0-9A-F]{2}>", name):
            return name, 0.0, BYTE
        return name, -1.0 - rank.get(name, len(rank) + len(model["merges"])), NORMAL

    return [piece(name) for name in names]


def sentencepiece_model(tokenizer: dict) -> bytes:
    """A tokenizer.model that cuts text as the given tokenizer.json does: SentencePiece's ModelProto in protobuf's wire format, by hand
    in fifteen lines instead of a package. Numbers of fields as in sentencepiece_model.proto: 1 pieces, 2 trainer, 3 normalizer."""
    listed = pieces(tokenizer)
    names = [name for name, _, _ in listed]
    out = b"".join(field(1, field(1, name.encode()) + field(2, score) + field(3, kind)) for name, score, kind in listed)
    trainer = field(3, 2) + field(4, len(listed)) + field(35, 1)  # BPE, size, byte fallback
    for number, name in enumerate((tokenizer["model"]["unk_token"], "<bos>", "<eos>", "<pad>")):
        trainer += field(40 + number, names.index(name)) + field(45 + number, name.encode())
    normalizer = field(1, b"identity") + field(3, 0) + field(4, 0) + field(5, 1)  # no space in front, spaces kept, written as ▁
    return out + field(2, trainer) + field(3, normalizer)


def field(number: int, value: int | float | bytes) -> bytes:
    """One field of a protobuf message: an integer, a float32 or bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if isinstance(value, int) else varint(number << 3 | 5) + struct.pack("<f", value)


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def write_vocabulary(folder: Path, texts: list[str]) -> None:
    """Write tokenizer.model beside a folder's tokenizer.json; a click error where the two cut one of `texts` differently.

    A text in which a control token is spelled out is passed over: SentencePiece never reads one from text, tokenizer.json does.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    tokenizer = read_json(folder / "tokenizer.json")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(tokenizer))
    control = {i for i, (_, _, kind) in enumerate(pieces(tokenizer)) if kind == CONTROL}
    whole = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts, add_special_tokens=False)
    made = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(texts)
    apart = [text for text, a, b in zip(texts, whole, made, strict=True) if a.ids != b and not control & set(a.ids)]
    if apart:
        raise click.ClickException(
            f"a SentencePiece vocabulary of {folder / 'tokenizer.json'} cuts {len(apart)} of {len(texts)} texts otherwise, first:\n"
            f"  {apart[0][:100]!r}\n  llama.cpp and Ollama would read the model's prompts wrong, so nothing was exported. Please report it."
        )


# ---- the converter and its company


def find(name: str) -> Path | None:
    """A program of llama.cpp: in the folder LLAMA_CPP or its build, else on PATH."""
    home = os.environ.get("LLAMA_CPP")
    places = [home, f"{home}/build/bin", f"{home}/bin"] if home else []
    found = shutil.which(name, os.F_OK, os.pathsep.join([*places, os.environ.get("PATH", "")]))
    return Path(found).resolve() if found else None


def require(name: str, out: Path) -> Path:
    """`find(name)`, or a click error that says in three lines how to get it and what to run."""
    if found := find(name):
        return found
    place = f"LLAMA_CPP={os.environ['LLAMA_CPP']}" if "LLAMA_CPP" in os.environ else "the folder LLAMA_CPP (not set)"
    raise click.ClickException(MISSING.format(name=name, place=place, out=out))


def run(*command: object) -> str:
    """Run one of llama.cpp's programs; returns what it wrote to stdout, or raises a click error with its last words."""
    # FIT: newer ones load a model twice to see what fits on a card, a third of a short answer's time
    how: dict = {"stdin": subprocess.DEVNULL, "env": {"LLAMA_ARG_FIT": "off", **os.environ}}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **how)
    if done.returncode:
        last = "\n  ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-5:])
        raise click.ClickException(f"{' '.join(Path(str(part)).name for part in command[:2])} failed:\n  {last}")
    return done.stdout


def write(model: Path, target: Path, out: Path, texts: list[str], notice: str, asked: list[str], expected: list[str]) -> str:
    """Convert a folder of `export.write_merged`, ask the files what it was asked, write the Modelfile; returns what was found, in words.

    `texts`: on which the two vocabularies are compared; `asked`: prompts, and `expected` the model's greedy turns behind them.
    """
    from transformers import AutoTokenizer

    write_vocabulary(model, texts)
    weights, vision = convert(model, target, out)
    loaded = AutoTokenizer.from_pretrained(model, local_files_only=True)
    said = [f"The vocabulary is tokenizer.json's, {len(loaded):,} ids."]
    if len(weights) == 1:
        said.append("llama-quantize was not found, so there is no q4_k_m; with it in LLAMA_CPP or on PATH the same command makes one.")
    # q8_0 unless the smaller file is seen to answer alike: of a trained 270M q8_0 gave 10 of 10 answers, q4_k_m 1 (docs/evidence.md)
    chosen = weights[-1]
    if program := find("llama-completion") or find("llama-cli"):
        heads = [loaded.decode(prompts.conversation_ids(loaded, prompt)[0]).removeprefix("<bos>") for prompt in asked]
        wanted = [prompts.ENDS.split(turn)[0].strip() for turn in expected]
        same = {file: sum(a == b for a, b in zip(wanted, answers(program, file, heads), strict=True)) for file in weights}
        said += [f"{file.name}: {n} of {len(asked)} greedy answers of llama.cpp are those of the 16-bit model." for file, n in same.items()]
        chosen = next((file for file, n in same.items() if n == len(asked)), chosen)
    else:
        said.append("The answers of the GGUF files were not compared: neither llama-completion nor llama-cli was found.")
    write_modelfile(target, chosen.name, vision, notice)
    return " ".join([*said, f"The Modelfile takes {chosen.name}."])


def convert(model: Path, target: Path, out: Path) -> tuple[list[Path], bool]:
    """Write q8_0 and, where llama-quantize is found, q4_k_m, and the vision tower's file for a model that has one.

    The model's tokenizer_config.json is written anew: the converter takes the kind of an added token from added_tokens_decoder there,
    which transformers 5 no longer writes; without it `<end_of_turn>` would be an ordinary piece. It runs once for the language model,
    which takes longest; the vocabulary is checked while the other files are made.

    Returns:
        (the language model's files, the smallest first; whether there is one of a vision tower).
    """
    script, quantize = (sys.executable, require(CONVERTER, out), model), find("llama-quantize")
    config, tokenizer, side = (read_json(model / name) for name in ("config.json", "tokenizer.json", "tokenizer_config.json"))
    side["added_tokens_decoder"] = {str(t["id"]): {"content": t["content"], "special": t["special"]} for t in tokenizer["added_tokens"]}
    write_json(model / "tokenizer_config.json", side)
    first, kind = (model / "model-bf16.gguf", "bf16") if quantize else (target / "model-q8_0.gguf", "q8_0")
    console.print(f"  converting   to {kind}; minutes for a model of 4B", markup=False)
    run(*script, "--outtype", kind, "--outfile", first)
    others: list[tuple] = (
        [(quantize, first, target / f"model-{kind}.gguf", kind.upper()) for kind in ("q4_k_m", "q8_0")] if quantize else []
    )
    vision = "vision_config" in config
    if vision:
        others.append((*script, "--mmproj", "--outtype", "f16", "--outfile", target / "mmproj-f16.gguf"))
    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(lambda: [run(*command) for command in others])
        check_vocabulary(first, tokenizer, config)
        made.result()
    return sorted(target.glob("model-*.gguf")), vision


def check_vocabulary(file: Path, tokenizer: dict, config: dict) -> None:
    """Compare a GGUF file's vocabulary with a tokenizer.json, id by id: text, score and kind; a click error where one differs.

    A text-only Gemma's tokenizer has an image token behind its last embedding row; the converter leaves out ids without a row.
    """
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    tokens, scores, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type"))
    rows = config.get("text_config", config)["vocab_size"]
    if fields["tokenizer.ggml.model"].contents() != "llama" or len(tokens) != rows:
        raise click.ClickException(f"{file}: not a SentencePiece vocabulary of {rows:,} ids, so nothing was put in place.")
    for i, (name, score, kind) in enumerate(pieces(tokenizer)[:rows]):
        # spaces of user-defined tokens are plain in GGUF; unknown and control tokens carry no score that is used
        text = name.replace("▁", " ") if kind == USER_DEFINED else name
        same_kind = kinds[i] == kind or (kind == UNKNOWN and kinds[i] == CONTROL)
        if tokens[i] != text or not same_kind or (kind == NORMAL and scores[i] != score):
            raise click.ClickException(
                f"{file}: id {i} is {tokens[i]!r} (kind {kinds[i]}, score {scores[i]}), in tokenizer.json {text!r} ({kind}, {score}).\n"
                "  Its answers would be wrong, so nothing was put in place. Please report it with llama.cpp's version."
            )


def answers(program: Path, file: Path, heads: list[str]) -> list[str]:
    """llama.cpp's greedy turn behind each prompt in the chat template (without <bos>, which it adds), one run of the program each."""
    options = ("--temp", 0, "-n", MAX_NEW_TOKENS, "-c", 4096, "-no-cnv", "--no-display-prompt", "--no-escape")
    said = []
    with progress(file.name, len(heads), "answers") as done:
        for head in heads:
            said.append(run(program, "-m", file, *options, "-p", head))
            done(len(said))
    return [text.replace("[end of text]", "").split("<end_of_turn>")[0].strip() for text in said]


def write_modelfile(folder: Path, weights: str, vision: bool, notice: str) -> None:
    """Ollama's Modelfile: the weights, Gemma's template and stop token, greedy as the figures were measured, the terms."""
    lines = [
        "# ollama create NAME -f Modelfile",
        f"FROM ./{weights}",
        *(["# With images: llama.cpp takes mmproj-f16.gguf as --mmproj. Ollama was not tried with it."] if vision else []),
        f'TEMPLATE """{TEMPLATE}"""',
        "PARAMETER stop <end_of_turn>",
        "PARAMETER temperature 0",
        "PARAMETER num_ctx 4096",
        f'LICENSE """{notice}"""',
    ]
    write_text(folder / "Modelfile", "\n".join(lines) + "\n")
