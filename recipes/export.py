"""Export a finished stage for transformers, vLLM, peft, llama.cpp or Ollama; ask it ten questions again; put it on the Hub.

\b
    make export OUT=model                                             a full 16-bit folder: model/export/stage2-merged
    make export OUT=model ARGS="--format adapter"                     stage 2's LoRA alone
    LLAMA_CPP=llama.cpp make export OUT=model ARGS="--format gguf"    q8_0, q4_k_m and a Modelfile for Ollama
    make export OUT=model ARGS="--push you/name --dry-run"            what would go to the Hub

Each run writes anew, into a folder beside the last one, which it replaces at the end.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting

FORMATS = ("merged", "adapter", "gguf")


@dataclass(frozen=True)
class Settings:
    out: Path = setting(Path("model"), "folder of the trained models")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote: its first ten dev questions are asked again")
    format: str = setting("merged", "a full 16-bit folder, stage 2's LoRA alone, or GGUF files by llama.cpp's converter", FORMATS)
    stage: int = setting(2, "whose model: 0, 1 or 2")
    to: str = setting("", "folder to write; empty: export/stageN-FORMAT in OUT")
    base: str = setting("", "adapter only: the Hub name under which others find its base; empty names the folder on this machine")
    push: str = setting("", "repository of the Hub to upload to, as owner/name; private unless --public")
    public: bool = setting(False, "with --push: a public repository; mind the terms of the base and of your data")
    dry_run: bool = setting(False, "with --push: list what would be uploaded, and upload nothing")


def main(settings: Settings) -> None:
    from kmlite import prompts, records
    from kmlite.models import folders
    from kmlite.sharing import export, gguf

    if settings.stage not in range(len(paths.STAGES)):
        raise click.ClickException(f"--stage {settings.stage}: there are 0 (Korean text), 1 (dictionary) and 2 (exam questions).")
    if settings.dry_run and not settings.push:
        raise click.ClickException("--dry-run lists what --push would upload. Name the repository: --push owner/name --dry-run")
    target = Path(settings.to) if settings.to else settings.out / "export" / f"stage{settings.stage}-{settings.format}"
    console.print(f"[bold]export[/]  stage {settings.stage}, {settings.format} → {target}")
    started = time.time()

    # ---- refuse early
    source = export.source(settings.out, settings.stage)
    console.print(f"  model        {source.final}{folders.stand_in_note(source.final)}")
    if settings.push:
        check_push(settings, source)
    if settings.format == "gguf":
        gguf.require(gguf.CONVERTER, settings.out)
    export.check_target(target)
    check_writable(target.parent)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    has_dev = paths.exam_split(settings.refined, "dev").exists()
    questions = records.read_exam(settings.refined, "dev")[: export.QUESTIONS] if has_dev else sample_questions()
    console.print(f"  asked again  {len(questions)} {'dev questions' if has_dev else 'questions of the sample: REFINED has no dev.jsonl'}")
    asked = [prompts.exam_prompt(question) for question in questions]
    texts = [*asked, *korean_texts(settings.refined)]

    # ---- write, and ask again what was written
    done = write(settings, source, partial, asked, texts)
    console.print(f"  checked      {done['compared']}")
    export.write_papers(source, target, settings.format, done)
    files = export.files_of(target)
    for name, size in files:
        console.print(f"    {size:>14,}  {name}")
    console.print(f"  written to {target}, {sum(size for _, size in files) / 1e9:.2f} GB, {time.time() - started:.0f} s")

    # ---- out
    if settings.push:
        console.print(f"  repository   {settings.push}, {'public' if settings.public else 'private'}")
    if settings.dry_run:
        stand_in = folders.is_stand_in(source.final)
        said = "A stand-in is not uploaded: without --dry-run this is refused." if stand_in else "Nothing was uploaded."
        console.print(f"  dry run      {len(files)} files, {sum(size for _, size in files):,} bytes. {said}")
    elif settings.push:
        console.print(f"  uploaded to {export.push(target, settings.push, settings.public)}")


def write(settings: Settings, source, partial: Path, asked: list[str], texts: list[str]) -> dict:
    """Write the format into `partial` and compare its answers with the trained model's; what the card says of it."""
    from kmlite.sharing import export

    if settings.format == "adapter":
        done = export.write_adapter(source, partial, settings.out, settings.base)
        expected = export.answers(done["base"], asked, done["adapter"])
        export.compare(expected, export.answers(done["base"], asked, partial), asked)
        compared = f"Reloaded over its base with plain peft: {len(asked)} of {len(asked)} greedy answers are the trained adapter's."
        return {"loop": done["loop"], "named": done["named"], "compared": compared}
    folder = partial / "model" if settings.format == "gguf" else partial
    done = export.write_merged(source, folder, texts)
    export.check_tokens(source.final, folder, texts)
    written = convert(folder, partial, settings.out) if settings.format == "gguf" else []
    expected = export.answers(source.final, asked)
    export.compare(expected, export.answers(folder, asked), asked)
    if settings.format == "gguf":
        return {**done, "compared": finish_gguf(source, partial, written, asked, expected)}
    return {**done, "compared": f"Reloaded with plain transformers: {len(asked)} of {len(asked)} greedy answers are the trained model's."}


def check_push(settings: Settings, source) -> None:
    """Refuse what must not or can't be uploaded, before anything is written."""
    from kmlite.sharing import export

    export.check_repository(settings.push)
    if source.stand_in and not settings.dry_run:
        raise click.ClickException(
            "this model descends from the embedded base: a stand-in is not uploaded, it would be taken for a medical model.\n"
            "  Train on MedGemma first (README.md, On your GPU), or look at what would go: add --dry-run."
        )
    if settings.format == "adapter" and not settings.base:
        raise click.ClickException(
            "an adapter is of no use without its base, and this one's base is stage 1's model, which only this machine has.\n"
            "  Upload that first: make export ARGS='--stage 1 --push you/base', then add --base you/base here."
        )


def convert(model: Path, target: Path, out: Path) -> list[Path]:
    """The merged folder as GGUF files with the model's vocabulary; returns their paths, the smallest language model's first."""
    from kmlite import files
    from kmlite.sharing import gguf

    if not gguf.layers_fit(files.read_json(model / "config.json")):
        console.print(
            "  note         llama.cpp takes each sixth layer for a global one, as Gemma's are; this model's are others: answers differ"
        )
    started = time.time()
    written = gguf.convert(model, target, out)
    console.print(f"  converted    {', '.join(file.name for file in written)}, {time.time() - started:.0f} s")
    return written


def finish_gguf(source, partial: Path, written: list[Path], asked: list[str], expected: list[str]) -> str:
    """Ask the GGUF files what the 16-bit folder was asked, write the Modelfile; returns what was found, in words."""
    from kmlite import prompts
    from kmlite.sharing import export, gguf, model_card

    model = partial / "model"
    vision = written[-1].name.startswith("mmproj")
    weights = written[:-1] if vision else written
    loaded = export.plain_tokenizer(model)
    said = [f"The vocabulary is tokenizer.json's, {len(loaded):,} ids."]
    if len(weights) == 1:
        said.append("llama-quantize was not found, so there is no q4_k_m; with it in LLAMA_CPP or on PATH the same command makes one.")
    if program := gguf.find("llama-completion") or gguf.find("llama-cli"):
        heads = [loaded.decode(prompts.conversation_ids(loaded, prompt)[0]).removeprefix("<bos>") for prompt in asked]
        wanted = [prompts.ENDS.split(turn)[0].strip() for turn in expected]
        for file in weights:
            found = gguf.answers(program, file, heads, export.MAX_NEW_TOKENS)
            same = sum(a == b for a, b in zip(wanted, found, strict=True))
            said.append(
                f"{file.name}: {same} of {len(asked)} greedy answers are those of the 16-bit model; rounded weights may answer otherwise."
            )
    else:
        said.append("The answers of the GGUF files were not compared: neither llama-completion nor llama-cli was found.")
    gguf.write_modelfile(partial, weights[0].name, vision, model_card.notice(source.base_name))
    shutil.rmtree(model)
    return " ".join(said)


def sample_questions() -> list[dict]:
    """Ten questions of the sample, for who trained on text alone."""
    from kmlite import files, prompts

    raw = files.read_lines(paths.SAMPLE_RAW / paths.RAW_EXAM / "dev.jsonl")
    return [q for q in raw if all(isinstance(q.get(key), str) and q[key] for key in ("question", *prompts.LETTERS))][:10]


def korean_texts(refined: Path) -> list[str]:
    """Lines of held-out text and of all dev questions, at most 2,000, on which two readings of the vocabulary are compared."""
    from kmlite import prompts, records

    held = paths.heldout_text(refined)
    lines = [line for text in records.read_texts([held]) for line in text.split("\n")] if held.exists() else []
    if paths.exam_split(refined, "dev").exists():
        lines += [line for q in records.read_exam(refined, "dev") for line in prompts.exam_prompt(q).split("\n")]
    return [line for line in lines if line][:2000]


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
