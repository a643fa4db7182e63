"""Fetch public Korean data from the Hugging Face hub into RAW. Stop it any time: what was fetched is kept.

\b
    make data                                    # KorMedMCQA, the Korean Wikipedia, some of the English one
    make data ARGS="--sets kormedmcqa,namuwiki"  # those named, of the table below

\b
    name        what                                licence          size
    kormedmcqa  exam questions, four professions    CC BY-NC 2.0     7,489 questions, about 5 MB
    reasoning   reasonings of its train split       not verified     8,750 rows
    clinicalqa  Korean clinical questions           Apache-2.0       1,045 questions, as others count
    medexpqa    Spanish residency exam, translated  CC BY 4.0        about 500 questions, not verified
    wikipedia   Korean Wikipedia, 1 Nov 2023        CC BY-SA 3.0     1.4 GB, not verified
    namuwiki    NamuWiki, already plain text        CC BY-NC-SA 2.0  565,000 pages, 2.6 GB of parquet
    english     English Wikipedia, its first pages  CC BY-SA 3.0     20,000 pages, against forgetting (03_replay)
    c4          Korean web pages (mC4)              ODC-BY           34 GB and more, not verified; cut at --most

Licences are those that each set's own card or page named when this was written (Wikipedia's as others cite it); read them again.
The revision that is fetched, the columns and what is not verified are printed before each set. MedQA in Korean (ChuGyouk/MedQA,
CC BY 4.0) is not among them: its translated questions have four options, an exam question here has five. All exam questions go
through the leak check of `make refine`.
"""

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting


@dataclass(frozen=True)
class Source:
    """A public data set: where it is, at which revision, and where it goes."""

    repository: str
    configurations: tuple[str, ...]  # for C4 and Wikipedia the language
    splits: dict[str, str]  # split there: file here, below RAW
    licence: str = ""
    columns: str = "text"
    not_verified: str = ""  # what nobody here has seen at the source itself
    origin: str = ""  # of exam questions: native, written in Korean, or translated
    most: int = 0  # records that are enough of it; 0: all, up to --most


SOURCES = {
    "kormedmcqa": Source(
        "sean0042/KorMedMCQA",
        ("doctor", "nurse", "pharm", "dentist"),
        {split: f"{paths.RAW_EXAM}/{split}.jsonl" for split in ("train", "dev", "test", "fewshot")},
        "CC BY-NC 2.0",
        "subject, year, period, q_number, question, A to E, answer (1 to 5), cot",
        origin="native",
    ),
    "reasoning": Source(
        "ChuGyouk/medical-reasoning-train-kormedmcqa",
        ("default",),
        {"train": f"{paths.RAW_EXAM}/reasoning/train.jsonl"},
        "not named on any page seen",
        "question, A to E, answer, thinking, response",
        "the licence (a list by others says CC BY-NC, as of the questions) and the columns (as others read them)",
        "native",
    ),
    "clinicalqa": Source(
        "snuh/ClinicalQA",
        ("default",),
        {"train": f"{paths.RAW_EXAM}/clinicalqa/train.jsonl"},
        "Apache-2.0",
        "question, exam, options (a dictionary as text), answer (a letter), explanation, category",
        "the columns and the number of questions (as others read them); drafted by a language model, reviewed by physicians, they say",
        "native",
    ),
    "medexpqa": Source(
        "ChuGyouk/MedExpQA-Kor",
        ("default",),
        {"train": f"{paths.RAW_EXAM}/medexpqa/train.jsonl"},
        "CC BY 4.0",
        "question, options, correct_option, as in HiTZ/MedExpQA, of which it is a machine translation",
        "the columns, the names of the splits and the number of questions",
        "translated",
    ),
    "wikipedia": Source("wikimedia/wikipedia", ("20231101.ko",), {"train": f"{paths.RAW_TEXT}/wikipedia/train.jsonl"}, "CC BY-SA 3.0"),
    "english": Source(
        "wikimedia/wikipedia", ("20231101.en",), {"train": f"{paths.REPLAY}/wikipedia/train.jsonl"}, "CC BY-SA 3.0", most=20_000
    ),
    "namuwiki": Source("heegyu/namuwiki-extracted", ("default",), {"train": f"{paths.RAW_TEXT}/namuwiki/train.jsonl"}, "CC BY-NC-SA 2.0"),
    "c4": Source("allenai/c4", ("ko",), {"train": f"{paths.RAW_TEXT}/c4/train.jsonl"}, "ODC-BY"),
}


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
            fetch(name, settings)
    console.print(f"  next: make refine RAW={settings.raw}")


def fetch(name: str, settings: Settings) -> None:
    """Write all splits of one set. A split that is there whole, at the same revision, is left as it is."""
    from kmlite import files

    source = SOURCES[name]
    try:
        revision = settings.revision or newest(source.repository)
        console.print(f"  revision {revision}")
        most = min(settings.most, source.most or settings.most)
        for split, target in source.splits.items():
            file = settings.raw / target
            note = file.with_name(f".{file.name}.fetched")  # beside it; refine reads no hidden file
            plan = {"repository": source.repository, "revision": revision, "split": split, "most": most}
            record = files.read_record(note) or {}
            if record.get("plan") == plan and record.get("done"):
                console.print(f"  {split}: there already, {record['records']:,} records")
                continue
            start = record["records"] if record.get("plan") == plan else 0
            n = write(file, note, plan, rows(name, split, revision), start, most)
            console.print(f"  {split}: {n:,} records → {file}")
    except (OSError, ConnectionError) as error:
        where = f"{settings.raw / paths.RAW_EXAM}/{{{','.join(source.splits)}}}.jsonl (or .csv, .parquet)"
        if paths.RAW_EXAM not in next(iter(source.splits.values())):
            where = f"{settings.raw / next(iter(source.splits.values()))} (or any .parquet, .jsonl or .txt beside it)"
        raise click.ClickException(
            f"{source.repository} can't be reached ({str(error).splitlines()[0][:100]}). Without a network download it elsewhere\n"
            f"  and put it into {where}; then: make refine RAW={settings.raw}"
        ) from error


def newest(repository: str) -> str:
    from huggingface_hub import HfApi

    return HfApi().dataset_info(repository).sha or "main"


def rows(name: str, split: str, revision: str) -> Callable[[int], Iterator[dict]]:
    """A function that gives the records of a split from the n-th on, one by one."""
    from datasets import load_dataset

    source = SOURCES[name]

    def from_(start: int) -> Iterator[dict]:
        for configuration in source.configurations:
            part = None if configuration == "default" else configuration
            data = load_dataset(source.repository, part, split=split, revision=revision, streaming=True)
            for row in data:
                if start:
                    start -= 1
                    continue
                yield exam_record(row, name, configuration) if source.origin else row

    return from_


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


def write(file: Path, note: Path, plan: dict, records: Callable[[int], Iterator[dict]], start: int, most: int) -> int:
    """Append records to `file` from number `start` on, and note after each PIECE how far it got; the number in the end."""
    import os

    from kmlite import files

    file.parent.mkdir(parents=True, exist_ok=True)
    if start == 0:
        file.unlink(missing_ok=True)
    size = (files.read_record(note) or {}).get("bytes", 0) if start else 0
    n = start
    with open(file, "ab") as out:
        out.truncate(size)  # what stands behind the note may be half a line

        def keep(done: bool) -> None:
            out.flush()
            os.fsync(out.fileno())
            files.write_json(note, {"plan": plan, "records": n, "bytes": out.tell(), "done": done})

        for row in records(start):
            if n >= most:
                break
            out.write(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")
            n += 1
            if n % PIECE == 0:
                keep(done=False)
        keep(done=True)
    return n


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
