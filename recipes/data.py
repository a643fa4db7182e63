"""Fetch public Korean data from the Hugging Face hub into RAW. Stop it any time: what was fetched is kept.

\b
    make data                                    # KorMedMCQA, the Korean Wikipedia, some of the English one
    make data ARGS="--sets kormedmcqa,namuwiki"  # those named, of the table below

Licences are those that each set's own card or page named when this was written (Wikipedia's as others cite it); read them again.
The revision that is fetched, the columns and what is not verified are printed before each set. MedQA in Korean (ChuGyouk/MedQA,
CC BY 4.0) is not among them: its translated questions have four options, an exam question here has five. All exam questions go
through the leak check of `make refine`.
"""

import ast
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting


@dataclass(frozen=True)
class Source:
    """A public data set: where it is, where it goes, and what is known of it."""

    what: str
    size: str
    licence: str
    repository: str
    folder: str  # below RAW; a file of it for each split
    configurations: tuple[str, ...] = ("default",)  # for C4 and Wikipedia the language
    splits: tuple[str, ...] = ("train",)
    columns: str = "text"
    not_verified: str = ""  # what nobody here has seen at the source itself
    origin: str = ""  # of exam questions: native, written in Korean, or translated
    most: int = 0  # records that are enough of it; 0: all, up to --most


SOURCES = {
    "kormedmcqa": Source(
        "exam questions, four professions", "7,489 questions, about 5 MB", "CC BY-NC 2.0", "sean0042/KorMedMCQA", paths.RAW_EXAM,
        ("doctor", "nurse", "pharm", "dentist"), ("train", "dev", "test", "fewshot"),
        "subject, year, period, q_number, question, A to E, answer (1 to 5), cot", origin="native",
    ),
    "reasoning": Source(
        "reasonings of its train split", "8,750 rows", "not named on any page seen", "ChuGyouk/medical-reasoning-train-kormedmcqa",
        f"{paths.RAW_EXAM}/reasoning", columns="question, A to E, answer, thinking, response",
        not_verified="the licence (a list by others says CC BY-NC, as of the questions) and the columns (as others read them)",
        origin="native",
    ),
    "clinicalqa": Source(
        "Korean clinical questions", "1,045 questions, as others count", "Apache-2.0", "snuh/ClinicalQA", f"{paths.RAW_EXAM}/clinicalqa",
        columns="question, exam, options (a dictionary as text), answer (a letter), explanation, category",
        not_verified="the columns and the number of questions (as others read them); drafted by a language model, reviewed by physicians, "
        "they say",
        origin="native",
    ),
    "medexpqa": Source(
        "Spanish residency exam, translated", "about 500 questions", "CC BY 4.0", "ChuGyouk/MedExpQA-Kor", f"{paths.RAW_EXAM}/medexpqa",
        columns="question, options, correct_option, as in HiTZ/MedExpQA, of which it is a machine translation",
        not_verified="the columns, the names of the splits and the number of questions", origin="translated",
    ),
    "wikipedia": Source(
        "Korean Wikipedia, 1 Nov 2023", "1.4 GB, not verified", "CC BY-SA 3.0", "wikimedia/wikipedia", f"{paths.RAW_TEXT}/wikipedia",
        ("20231101.ko",),
    ),
    "english": Source(
        "English Wikipedia, its first pages", "against forgetting", "CC BY-SA 3.0", "wikimedia/wikipedia", f"{paths.REPLAY}/wikipedia",
        ("20231101.en",), most=20_000,
    ),
    "namuwiki": Source(
        "NamuWiki, already plain text", "565,000 pages, 2.6 GB", "CC BY-NC-SA 2.0", "heegyu/namuwiki-extracted",
        f"{paths.RAW_TEXT}/namuwiki",
    ),
    "c4": Source("Korean web pages (mC4)", "34 GB and more, not verified", "ODC-BY", "allenai/c4", f"{paths.RAW_TEXT}/c4", ("ko",)),
}  # fmt: skip

__doc__ = f"{__doc__}\n\b\n" + "\n".join(f"    {name:11} {one.what:35} {one.licence:27} {one.size}" for name, one in SOURCES.items())


@dataclass(frozen=True)
class Settings:
    raw: Path = setting(Path("data/01_raw"), "folder to write")
    sets: str = setting("kormedmcqa,wikipedia,english", f"which of {', '.join(SOURCES)}; the others are larger than one evening's work")
    most: int = setting(2_000_000, "records of one set at the most: as many pages of C4 are about 10 GB")
    revision: str = setting("", "a commit of the set, for a run that can be repeated; default: the newest, which is written down")


PIECE = 20_000  # records of a file: what an interrupted fetch may lose


def main(settings: Settings) -> None:
    from kmlite.files import lock

    names = [name.strip() for name in settings.sets.split(",")]
    if unknown := [name for name in names if name not in SOURCES]:
        raise click.ClickException(f"no set of the name {', '.join(unknown)}. There are: {', '.join(SOURCES)}")
    check_writable(settings.raw)
    with lock(settings.raw, "data"):
        for name in names:
            source = SOURCES[name]
            console.print(f"[bold]{name}[/]  {source.repository}: licence {source.licence}; columns {source.columns}")
            if source.not_verified:
                console.print(f"  not verified: {source.not_verified}. Read its card before you train on it")
            try:
                revision = settings.revision or newest(source.repository)
                console.print(f"  revision {revision}")
                for split in source.splits:
                    fetch(name, split, revision, settings)
            except (OSError, ConnectionError) as error:
                names_there = (
                    f"{{{','.join(source.splits)}}}.jsonl (or .csv, .parquet)" if source.origin else "train.jsonl (or .parquet, .txt)"
                )
                where = f"{settings.raw / source.folder}/{names_there}"
                raise click.ClickException(
                    f"{source.repository} can't be reached ({str(error).splitlines()[0][:100]}). Without a network download it elsewhere\n"
                    f"  and put it into {where}; then: make refine RAW={settings.raw}"
                ) from error
    console.print(f"  next: make refine RAW={settings.raw}")


def newest(repository: str) -> str:
    from huggingface_hub import HfApi

    return HfApi().dataset_info(repository).sha or "main"


def fetch(name: str, split: str, revision: str, settings: Settings) -> None:
    """Write a split of a set from where an earlier fetch of the same revision broke off; a note beside it says after each PIECE how far
    it got."""
    import os

    from kmlite import files

    source = SOURCES[name]
    most = min(settings.most, source.most or settings.most)
    file = settings.raw / source.folder / f"{split}.jsonl"
    note = file.with_name(f".{file.name}.fetched")  # refine reads no hidden file
    plan = {"repository": source.repository, "revision": revision, "split": split, "most": most}
    record = files.read_record(note, "plan", "records", "bytes", "done")
    if not record or record["plan"] != plan or not file.exists():
        record = {"records": 0, "bytes": 0, "done": False}
    if record["done"]:
        console.print(f"  {split}: there already, {record['records']:,} records")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    n = record["records"]
    with open(file, "ab") as out:
        out.truncate(record["bytes"])  # what stands behind the note may be half a line

        def keep(done: bool) -> None:
            out.flush()
            os.fsync(out.fileno())
            files.write_json(note, {"plan": plan, "records": n, "bytes": out.tell(), "done": done})

        for row in itertools.islice(rows(name, split, revision), n, most):
            out.write(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")
            n += 1
            if n % PIECE == 0:
                keep(done=False)
        keep(done=True)
    console.print(f"  {split}: {n:,} records → {file}")


def rows(name: str, split: str, revision: str) -> Iterator[dict]:
    """The records of a split, one by one."""
    from datasets import load_dataset

    source = SOURCES[name]
    for configuration in source.configurations:
        part = None if configuration == "default" else configuration
        for row in load_dataset(source.repository, part, split=split, revision=revision, streaming=True):
            yield exam_record(row, name, configuration) if source.origin else row


def exam_record(row: dict, name: str, configuration: str) -> dict:
    """A question in the columns of KorMedMCQA, with the set and whether it was translated; what has no five options stays as it is,
    and refine says which columns there are."""
    out = {**row, "source": name, "origin": SOURCES[name].origin}
    if configuration != "default":
        out["subject"] = row.get("subject") or configuration
    options = row if all(letter in row for letter in "ABCDE") else five_options(row.get("options"))
    if options:
        out |= {letter: options[letter] for letter in "ABCDE"}
    if answer := next((row[key] for key in ("answer", "answer_idx", "correct_option") if row.get(key) is not None), None):
        out["answer"] = answer
    if isinstance(findings := row.get("exam"), str) and findings.strip():
        out["question"] = f"{row.get('question', '')}\n{findings}"
    if cot := next((row[key] for key in ("cot", "response", "explanation") if isinstance(row.get(key), str) and row[key].strip()), ""):
        out["cot"] = cot
    return out


def five_options(options: Any) -> dict[str, Any] | None:
    """{"A" … "E"} from a list, a dictionary by letter or number, or the text of one; None where there are not five."""
    if isinstance(options, str):
        try:
            options = ast.literal_eval(options)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if isinstance(options, dict):
        options = [options[key] for key in sorted(options, key=str) if options[key] not in (None, "")]
    return dict(zip("ABCDE", options, strict=True)) if isinstance(options, list) and len(options) == 5 else None


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
