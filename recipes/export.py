"""Export a finished stage for transformers, vLLM, peft, llama.cpp or Ollama; ask it ten questions again; put it on the Hub.

\b
    make export OUT=model                                             a full 16-bit folder: model/export/stage2-merged
    make export OUT=model ARGS="--format adapter"                     stage 2's LoRA alone
    LLAMA_CPP=llama.cpp make export OUT=model ARGS="--format gguf"    q8_0, q4_k_m and a Modelfile for Ollama
    make export OUT=model ARGS="--push you/name"                      and upload it to the Hub, in private

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
    out: Path = setting(Path("model"), "folder of the trained models; the export goes to export/stageN-FORMAT in it")
    refined: Path = setting(
        Path("data/02_refined"), "what make refine wrote: GGUF's vocabulary is compared with the model's on its held-out text"
    )
    format: str = setting("merged", "a full 16-bit folder, stage 2's LoRA alone, or GGUF files by llama.cpp's converter", FORMATS)
    stage: int = setting(-1, f"whose model, 0 to {len(paths.STAGES) - 1}; -1: of the last finished stage that has what is asked for")
    base: str = setting("", "adapter only: the Hub name under which others find its base; empty names the folder on this machine")
    push: str = setting("", "repository of the Hub to upload to, as owner/name, in private; mind the terms of the base and of your data")


def main(settings: Settings) -> None:
    from kmlite import files
    from kmlite.models import folders
    from kmlite.sharing import export, gguf, model_card

    stage = export.stage_of(settings.out, settings.format) if settings.stage == -1 else settings.stage
    if stage not in range(len(paths.STAGES)):
        listed = ", ".join(f"{number} ({there.title[0]})" for number, there in enumerate(paths.STAGES))
        raise click.ClickException(f"--stage {stage}: there are {listed}.")
    target = settings.out / "export" / f"stage{stage}-{settings.format}"
    console.print(f"[bold]export[/]  stage {stage}, {settings.format} → {target}")
    started = time.time()

    # ---- refuse early
    source = export.source(settings.out, stage)
    console.print(f"  model        {source.final}{folders.stand_in_note(source.final)}")
    if settings.push:
        check_push(settings, source)
    if settings.format == "gguf":
        gguf.require(gguf.CONVERTER, settings.out)
    check_writable(target.parent)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)

    # ---- write, and ask again what was written
    questions, named = export.questions(), ""
    if settings.format == "adapter":
        before, local, named = export.write_adapter(source, partial, settings.out, settings.base)
        expected, found = (export.answers(local, questions, adapter) for adapter in (before, partial))
    else:
        folder = partial / "model" if settings.format == "gguf" else partial
        export.write_merged(source, folder)
        expected, found = (export.answers(model, questions) for model in (source.final, folder))
    export.compare(expected, found, questions)
    how = "over its base with plain peft" if settings.format == "adapter" else "with plain transformers"
    checked = f"Reloaded {how}: {len(questions)} of {len(questions)} greedy answers are the trained model's."
    if settings.format == "gguf":
        texts, notice = [*questions, *export.korean_texts(settings.refined)], model_card.notice(source.base_name)
        checked += " " + gguf.write(folder, partial, settings.out, texts, notice, questions, expected)
        shutil.rmtree(folder)
    console.print(f"  checked      {checked}")
    files.write_text(partial / "README.md", model_card.text(source, settings.format, checked, named))
    files.write_text(partial / "NOTICE", model_card.notice(source.base_name) + "\n")
    files.put_in_place(partial, target)
    sizes = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
    for name, size in sizes.items():
        console.print(f"    {size:>14,}  {name}")
    console.print(f"  written to {target}, {sum(sizes.values()) / 1e6:,.0f} MB, {time.time() - started:.0f} s")

    # ---- out
    if settings.push:
        console.print(f"  uploaded to {export.push(target, settings.push)}, private: its page can make it public")


def check_push(settings: Settings, source) -> None:
    """Refuse what must not or can't be uploaded, before anything is written."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    from kmlite.sharing import export

    try:
        validate_repo_id(settings.push)
    except HFValidationError as error:
        raise click.ClickException(f"--push {settings.push}: {error}") from error
    if "/" not in settings.push:
        raise click.ClickException(f"--push {settings.push}: name the owner too, as in your-name/{settings.push}.")
    if source.stand_in:
        raise click.ClickException(
            "this model descends from the embedded base: a stand-in is not uploaded, it would be taken for a medical model.\n"
            "  Train on MedGemma first: README.md, On your GPU."
        )
    if settings.format == "adapter" and not settings.base:
        base = source.records[-1]["plan"]["base"]["name"]
        before = export.begun_from(source.records[-1])
        if before < 0:
            raise click.ClickException(f"an adapter is of no use without its base.\n  Name it as others find it: --base {base}")
        raise click.ClickException(
            f"an adapter is of no use without its base, and only this machine has this one's: the model of {base}.\n"
            f"  Upload that first: make export ARGS='--stage {before} --push you/base', then add --base you/base here."
        )


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
