"""What this machine can do: Python, packages, card, disk, data, base; and the plan of every stage. Exit 1 where the next step can't run.

\b
    make doctor
    make doctor ARGS="--vram 12"       the plan of a card with 12 GiB alone, on any machine
"""

import importlib.metadata
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import console, recipe, setting, table
from kmlite.messages import localized
from kmlite.records import CHARACTERS_A_TOKEN

TURN_TOKENS = 20  # of the prompt and the chat template around a definition
QUESTION_TOKENS = 40  # the same around a question


# The two that kmlite was made for: one class, one tokenizer, one template. MedQA as published by Google, in English.
BASES = {
    "google/medgemma-4b-it": "MedQA 64.4, answers at once",
    "google/medgemma-1.5-4b-it": "MedQA 69, may think before it answers (read past, never trained on, up to 2,048 tokens an answer slower)",
}


@dataclass(frozen=True)
class Settings:
    base: str = setting("google/medgemma-4b-it", "the model that the run will start from")
    raw: Path = setting(Path("data/01_raw"), "folder of the raw data")
    refined: Path = setting(Path("data/02_refined"), "what make refine wrote")
    out: Path = setting(Path("model"), "folder of the trained models")
    vram: float = setting(0, "show the plan of a card with so many GiB, and check nothing; 0: check, and plan for this machine's card")


def main(settings: Settings) -> None:
    failed = [] if settings.vram else check(settings)
    show_plan(settings)
    if failed:
        console.print("\n[bold red]The next step can't run:[/]")
        for what, fix in failed:
            console.print(f"  {localized(what)}\n    {localized(fix)}")
        sys.exit(1)
    if not settings.vram:
        console.print(f"\n[bold]Ready.[/] The next step: make {next_step(settings)}")


def next_step(settings: Settings) -> str:
    """The first step whose result is missing."""
    if not (settings.refined / paths.REFINE_RECORD).exists():
        return "refine"
    missing = (stage.name for stage in paths.STAGES if not (settings.out / stage.folder / paths.RECORD).exists())
    return next(missing, "eval")


# ---- the machine


def check(settings: Settings) -> list[tuple[str, str]]:
    """Print what is found; return (what is wrong, the command that fixes it) for what stops the next step."""
    step = next_step(settings)
    failed: list[tuple[str, str]] = []

    def say(name: str, found: str, wrong: str = "", fix: str = "") -> None:
        console.print(f"  {'[red]✗[/]' if wrong else '[green]✓[/]'} {name:<12} {localized(found)}")
        if wrong:
            failed.append((wrong, fix))

    console.print("[bold]doctor[/]")
    say("Python", platform.python_version())
    versions(say)
    card(say)
    base = find_base(settings, say, needed=step == "stage0")
    if settings.base in BASES:
        for name, differs in BASES.items():
            say("bases", f"{name}: {differs}" + (" (chosen)" if name == settings.base else f"; take it with BASE={name}"))
    room(settings, say, base, step)
    data(settings, say, step)
    return failed


def versions(say) -> None:
    """The installed packages against the lock that setup used."""
    import torch

    lock = paths.ROOT / "requirements" / ("gpu.txt" if shutil.which("nvidia-smi") else "cpu.txt")
    wrong = []
    for line in lock.read_text().splitlines():
        name, _, wanted = line.partition("==")
        wanted = wanted.split(";")[0].rstrip(" \\")  # a marker, or the hashes on the lines below
        if not wanted or line.startswith(("#", " ")):
            continue
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found != wanted:
            wrong.append(f"{name} {found} (lock {wanted})")
    text = f"torch {torch.__version__}, the packages are those of {lock.name}" if not wrong else "; ".join(wrong[:4])
    say("packages", text, f"{len(wrong)} packages differ from {lock.name}" if wrong else "", "rm -r .venv && make setup")


def card(say) -> None:
    import torch

    driver = Path("/proc/driver/nvidia/version")
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            say("card", "nvidia-smi answers, torch sees no card", "torch is a CPU build", "rm -r .venv && make setup")
        else:
            say("card", "none: a CPU is enough for make demo, make refine and make report; MedGemma would train for months")
        return
    free, total = torch.cuda.mem_get_info()
    version = re.search(r"Module\s+([\d.]+)", driver.read_text()) if driver.exists() else None
    half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16: stage 0 trains no rows on it"
    text = f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {half}"
    say("card", f"{text}; CUDA {torch.version.cuda}, driver {version.group(1) if version else 'unknown'}")


def find_base(settings: Settings, say, needed: bool) -> Path | None:
    """The base's folder where it is at hand; else whether it could be fetched."""
    from kmlite.models import folders

    try:
        folder = folders.at_hand(settings.base)
        if not folder:
            folders.can_be_fetched(settings.base)
    except click.ClickException as error:
        what, _, fix = error.message.partition("\n")
        told = what if needed else f"{what} (needed by stage 0 alone)"
        say("base", told, what if needed else "", fix.strip() or "Name another one: BASE=…")
        return None
    stand_in = folder and folders.is_stand_in(folder)
    note = " (the embedded base: a stand-in)" if stand_in else ""
    say("base", f"{settings.base}{note}" if folder else f"{settings.base} can be fetched; stage 0 will do it")
    return folder


def room(settings: Settings, say, base: Path | None, step: str) -> None:
    """Disk for what the next stage writes, and main memory for its merge."""
    import psutil

    from kmlite.files import free_bytes
    from kmlite.models import memory
    from recipes import stage0

    shape = memory.shape_of(base) if base else memory.MEDGEMMA
    place, free = settings.out, free_bytes(settings.out)
    if step.startswith("stage"):
        rows = new_rows(tokens_of(settings)["text"]) if step == "stage0" else 0
        need = sum(memory.disk(shape, stage0.Settings.rank, new_rows=rows, extends=step == "stage0").values())
        text = f"{free / 1e9:.1f} GB free at {place}, {step} needs up to {need / 1e9:.1f} GB"
        say("disk", text, f"too little room for {step} at {place}" if free < need else "", "Free some space, or name another place: OUT=…")
    else:
        say("disk", f"{free / 1e9:.1f} GB free at {place}")
    ram, swap, wants = psutil.virtual_memory(), psutil.swap_memory(), memory.MERGE * shape.parameters
    has = ram.available + swap.free
    text = f"{has / 1e9:.1f} GB free with swap, a merge takes {wants / 1e9:.1f} GB"
    fix = (
        "Close other programs." if ram.total + swap.total >= wants else "Add swap space; in WSL raise memory= in .wslconfig (docs/help.md)."
    )
    say("main memory", text, "too little main memory to merge" if step.startswith("stage") and has < wants else "", fix)


def data(settings: Settings, say, step: str) -> None:
    if step == "refine":
        kinds = [name for name in (paths.RAW_TEXT, paths.RAW_DICTIONARY, paths.RAW_EXAM) if (settings.raw / name).is_dir()]
        wrong = "" if kinds else f"no raw data in {settings.raw}"
        say("data", f"{settings.raw}: {', '.join(kinds) or 'nothing there'}", wrong, "make data, or put yours there (README, “Your data”)")
        return
    held = counts(settings.refined)
    words = f"{held['text']:,} texts, {held['dictionary']:,} dictionary entries, questions: {held['train']:,} train, {held['test']:,} test"
    needs = next((stage.learns for stage in paths.STAGES if stage.name == step), "test")
    wrong = f"{settings.refined} holds no {needs} for {step}" if not held[needs] else ""
    say("data", words, wrong, f"Add it below {settings.raw} and run: make refine")
    if step == "stage0" and not (settings.refined / paths.REPLAY).exists():
        # measured on gemma-3-270m (docs/evidence.md): 20% English in the mix: English −20% bits, Korean −0.2%
        say("replay", f"none: without English text in {settings.raw / paths.REPLAY} stage 0 may forget English; make data fetches some")


def counts(refined: Path) -> dict[str, int]:
    """Records kept by refine: {"text", "dictionary", "train", "dev", "test"}, and "…_characters" of the first two and of the exam."""
    from kmlite.files import read_record

    funnel = (read_record(refined / paths.REFINE_RECORD) or {}).get("funnel", {})
    out = {name: funnel.get(name, {}).get("kept", 0) for name in ("text", "dictionary")}
    out |= {f"{name}_characters": funnel.get(name, {}).get("characters", 0) for name in ("text", "dictionary", "exam")}
    splits = funnel.get("exam", {}).get("splits", {})
    return out | {split: splits.get(split, 0) for split in ("train", "dev", "test")} | {"exam": sum(splits.values())}


# ---- the plan


def show_plan(settings: Settings) -> None:
    import torch

    from kmlite.models import folders, memory
    from recipes import of_stages

    base = folders.at_hand(settings.base)
    if base and folders.is_stand_in(base):
        console.print("\nNo plan: the embedded base fits any machine.")
        return
    shape = memory.shape_of(base) if base else memory.MEDGEMMA
    cards: list[tuple[str, float]] = [(memory.TYPICAL[size], size) for size in memory.SIZES]
    if settings.vram:
        near = max((size for size in memory.SIZES if size <= settings.vram), default=min(memory.SIZES))
        cards = [(memory.TYPICAL[near], settings.vram)]
    elif torch.cuda.is_available():
        cards = [(torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0] / memory.GIB)]
    tokens = tokens_of(settings)
    recipes = of_stages()
    console.print(f"\nPlan for {settings.base}, {shape.parameters / 1e9:.2f} billion parameters (calculated, not measured: docs/gpu.md)")
    rows = table("card", "stage", "weights", "batch", "GiB", "instead of", "tokens/s", "hours")
    parts = []
    for name, gib in cards:
        for stage in paths.STAGES:
            step, values = stage.name, recipes[stage.name].Settings()
            plan = plan_of(shape, gib, step, values, tokens[stage.learns])
            rate, measured = rate_of(settings.out / stage.folder, shape, name, plan.precision)
            hours = tokens[stage.learns] * values.epochs / rate / 3600 if rate else 0
            parts.append(f"  {step} in GiB: " + "; ".join(f"{part} {size / memory.GIB:.2f}" for part, size in plan.parts.items()))
            rows.add_row(
                f"{gib:.3g} GiB {name}" if stage is paths.STAGES[0] else "",
                step,
                plan.precision,
                f"{plan.batch} × {plan.accumulation}",
                f"{plan.total / memory.GIB:.1f}" + ("" if plan.fits else " [red]too much[/]"),
                ", ".join(given.partition(" →")[0] for given in plan.reduced),
                f"{'' if measured else '~'}{rate:,.0f}" if rate else "unknown",
                "–" if not hours else f"{hours:,.1f}" if hours >= 0.1 else "< 0.1",
            )
    console.print(rows)
    console.print("  ~ estimated from the card's published peak; after a stage has run here, the rate that it measured.")
    if len(cards) == 1:
        console.print("\n".join(parts))
    if not any(tokens.values()):
        console.print(f"  No hours: {settings.refined} holds no refined data yet.")
        return
    trained = {stage.title[0]: tokens[stage.learns] * recipes[stage.name].Settings.epochs for stage in paths.STAGES}
    listed = ", ".join(f"{count:,.0f} of {title}" for title, count in trained.items())
    console.print(f"  Tokens to train on (of exam questions in a loop), at {CHARACTERS_A_TOKEN} characters each: {listed}")
    if tokens["text"] < memory.LEAST_TOKENS:
        has, least = tokens["text"] / 1e6, memory.LEAST_TOKENS / 1e6
        console.print(
            f"  Text for stage 0: {has:,.2f} of the {least:,.0f} million tokens that EEVE-style training asks for; it runs on less"
        )


def new_rows(tokens: float) -> int:
    """The most new tokens that stage 0's own setting adds to `tokens` of text; where there is none yet, the most there are."""
    from kmlite.models import vocabulary

    return vocabulary.affordable(tokens)[0] if tokens else vocabulary.MOST


def plan_of(shape, gib: float, step: str, values, tokens: float = 0):
    """The plan of a stage's own settings on a card with `gib` GiB free, for `tokens` of data; 0: not known yet."""
    from kmlite.models import memory

    if step == "stage0":
        return memory.choose(shape, gib * memory.GIB, values, embeddings=values.embeddings, new_rows=new_rows(tokens))
    return memory.choose(shape, gib * memory.GIB, values)


def tokens_of(settings: Settings) -> dict[str, float]:
    """Tokens of the records that a stage learns from, seen once, estimated from the characters that refine counted."""
    held = counts(settings.refined)
    exam = held["exam_characters"] / max(1, held["exam"])
    return {
        "text": held["text_characters"] / CHARACTERS_A_TOKEN,
        "dictionary": held["dictionary_characters"] / CHARACTERS_A_TOKEN + TURN_TOKENS * held["dictionary"],
        "train": held["train"] * (exam / CHARACTERS_A_TOKEN + QUESTION_TOKENS),
    }


def rate_of(folder: Path, shape, card: str, precision: str) -> tuple[float | None, bool]:
    """(tokens per second, whether measured): of the stage in `folder` on the same card, else estimated from the card's published peak."""
    from kmlite.files import read_record
    from kmlite.models import memory

    record = read_record(folder / paths.RECORD)
    if record and record.get("device") == card:
        rates = [part["tokens_per_second"] for part in record.get("training", []) if part.get("tokens_per_second")]
        if rates:
            return rates[-1], True
    return memory.estimated_rate(shape, card, precision), False


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
