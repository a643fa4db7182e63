"""Refine raw data: plain Korean text, a medical dictionary, exam questions. What is dropped is kept, with its reason.

\b
    make refine RAW=data/01_raw REFINED=data/02_refined
"""

import dataclasses
import shutil
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting
from kmlite.files import fingerprint, read_record, write_json, write_lines

PARTIAL = ".partial"  # below the refined folder, until all of it is there
SHARDS = "shards"  # below that: what a killed run has finished


@dataclass(frozen=True)
class Settings:
    raw: Path = setting(Path("data/01_raw"), "folder with 00_korean, 01_medical_dict and 02_kor_med_test; any one of them is enough")
    refined: Path = setting(Path("data/02_refined"), "folder to write")
    text_column: str = setting("text", "the field that holds a plain text; several, joined by an empty line: title,body")
    min_length: int = setting(100, "characters of the shortest text kept: less is mostly menus and captions")
    heldout_share: float = setting(0.01, "share of texts held out to measure stage 0, chosen by hash, so stable as data grows")
    heldout_most: int = setting(2000, "texts held out at the most: more would not measure better")
    rejected_most: int = setting(1000, "records kept in rejected/ for each reason; refine.json has the true counts")
    workers: int = setting(0, "processes; 0: one for each core, and each needs up to 400 MB")
    shard_mb: int = setting(32, "raw megabytes that a worker refines at a time: what a killed run may lose")
    engine: str = setting("local", "processes of this machine, or Ray tasks (docs/scale.md)", choices=("local", "ray"))
    address: str = setting("", "of a Ray cluster: auto, or ray://host:10001; without one --engine ray starts Ray here")
    keep_shards: bool = setting(
        False, "keep finished shards beside the result (as large again), so that new data later redoes only its own"
    )
    restart: bool = setting(False, "refine again even where nothing changed")


class Funnel:
    """Counts what came in and where it went, and writes what was set aside."""

    def __init__(self, name: str, folder: Path, most: int) -> None:
        self.name, self.most = name, most
        self.read = self.kept = self.characters = 0
        self.reasons: Counter = Counter()
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / f"{name}.jsonl", "w", encoding="utf-8")  # noqa: SIM115 -- closed by `result`
        self.started = time.monotonic()

    def reject(self, reason: str, source: str, line: int, record: object) -> None:
        import json

        self.reasons[reason] += 1
        if self.reasons[reason] <= self.most:
            from kmlite.refine.readers import shown

            row = {"reason": reason, "source": source, "line": line, "record": shown(record)}
            self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def keep(self, characters: int) -> None:
        self.kept += 1
        self.characters += characters

    def result(self) -> dict:
        self.file.close()
        return {
            "read": self.read,
            "kept": self.kept,
            "rejected": dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))),
            "characters": self.characters,
            "seconds": round(time.monotonic() - self.started, 2),
        }


def main(settings: Settings) -> None:
    from kmlite import runs
    from kmlite.refine import batch, text
    from kmlite.refine.readers import JSON_MOST, raw_files

    raw, refined = settings.raw, settings.refined
    paths.require(raw, "Put raw data there (README, “Your own data”), or name its folder: make refine RAW=…")
    kinds = {name: raw_files(raw / name) for name in (paths.RAW_TEXT, paths.RAW_DICTIONARY, paths.RAW_EXAM)}
    if not any(kinds.values()):
        raise click.ClickException(
            f"{raw} holds none of {', '.join(kinds)} with readable files in it.\n"
            f"  Put data there as the README says under “Your own data”, or try the sample: make refine RAW={paths.SAMPLE_RAW}"
        )
    files = [file for found in kinds.values() for file in found]
    if large := next((file for file in files if file.suffix == ".json" and file.stat().st_size > JSON_MOST), None):
        raise click.ClickException(
            f"{large} is a .json of {large.stat().st_size >> 20} MB; it is read whole, so {JSON_MOST >> 20} MB is the most.\n"
            f"  Write one record a line: jq -c '.[]' {large} > {large}l && rm {large}"
        )
    check_writable(refined)
    console.print(f"[bold]refine[/]  {raw} → {refined}")
    for name, files in kinds.items():
        console.print(f"  {name}: {len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB" if files else f"  {name}: none")

    # how fast and where is no rule: any engine with any number of workers gives the same bytes
    rules = {
        k: v
        for k, v in dataclasses.asdict(settings).items()
        if k not in ("raw", "refined", "workers", "engine", "address", "keep_shards", "restart")
    }
    rules["versions"] = {"text": text.VERSION, "batch": batch.VERSION, "unicode": unicodedata.unidata_version}
    plan = {
        "rules": rules,
        "inputs": {str(f.relative_to(raw)): fingerprint(f) for files in kinds.values() for f in files},
    }
    record_path = refined / paths.REFINE_RECORD
    before = read_record(record_path)
    if (
        before
        and not settings.restart
        and before["plan"] == runs.as_stored(plan)
        and all((refined / name).exists() for name in before["wrote"])
    ):
        if read_record(refined / PARTIAL / paths.PLAN) == before["plan"]:
            clear(refined / PARTIAL)  # killed after its last word
        console.print("  done before, nothing changed (ARGS=--restart refines again)")
        show(before["funnel"])
        return

    # Everything is written beside and moved in place at the end: a refine that was killed leaves the last one as it was, and
    # the shards that it finished are found by the next.
    partial = refined / PARTIAL
    if settings.restart:
        clear(partial)
    partial.mkdir(exist_ok=True)
    write_json(partial / paths.PLAN, plan)
    for name in (paths.TEXT, paths.DICTIONARY, paths.EXAM, paths.REJECTED):
        remove(partial / name)
    funnel: dict[str, dict] = {}
    exam = refine_exam(kinds[paths.RAW_EXAM], settings, partial, funnel)
    stems = [question["question"] for split in ("dev", "test") for question in exam[split]]
    refine_dictionary(kinds[paths.RAW_DICTIONARY], settings, partial, stems, funnel)
    refine_text(kinds[paths.RAW_TEXT], settings, partial, stems, funnel, rules)
    if not any(part["kept"] for part in funnel.values()):
        show(funnel)
        raise click.ClickException(f"nothing was kept. See why in {partial / paths.REJECTED}; {refined} is as it was.")
    record_path.unlink(missing_ok=True)
    made = (paths.TEXT, paths.DICTIONARY, paths.EXAM, paths.REJECTED)
    wrote = sorted(name for name in made if (partial / name).exists())
    for name in made:
        remove(refined / name)
        if name in wrote:
            (partial / name).rename(refined / name)
    write_json(record_path, {"plan": plan, "funnel": funnel, "wrote": wrote})
    clear(partial, settings.keep_shards)
    show(funnel)
    console.print(f"  written to {refined}; what was set aside, with its reason, file and line: {refined / paths.REJECTED}")


def clear(partial: Path, keep_shards: bool = False) -> None:
    """Delete what an unfinished run left, the plan last: where it stands, this was interrupted and is done again."""
    if not partial.exists():
        return
    if not keep_shards and (partial / SHARDS).exists():
        drop_others(partial / SHARDS, set())
        remove(partial / SHARDS)
    for path in partial.iterdir():
        if path.name not in (SHARDS, paths.PLAN):
            remove(path)
    (partial / paths.PLAN).unlink(missing_ok=True)
    if not keep_shards:
        partial.rmdir()


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def refine_exam(files: list[Path], settings: Settings, out: Path, funnel: dict) -> dict[str, list[dict]]:
    """Check questions, drop duplicates, and set aside a train question that stands in dev or test."""
    from kmlite.refine import exam
    from kmlite.refine.readers import read_raw

    splits: dict[str, list[dict]] = {"train": [], "dev": [], "test": [], "fewshot": []}
    if not files:
        return splits
    counts = Funnel("exam", out / paths.REJECTED, settings.rejected_most)
    seen: dict[tuple, str] = {}
    order = {"test": 0, "dev": 1, "fewshot": 2, "train": 3}  # what must stay clean is read first
    known = [(exam.SPLITS.get(f.name.split(".")[0].split("-")[0].lower()), f) for f in files]
    for _, file in [pair for pair in known if pair[0] is None]:
        counts.reject("unknown_split", str(file.relative_to(settings.raw)), 0, "name it train, dev, test or fewshot")
    for split, file in sorted([(split, file) for split, file in known if split], key=lambda pair: order[pair[0]]):
        for source, line, value, problem in read_raw(file, settings.raw):
            counts.read += 1
            question, reason = (None, problem) if problem else exam.check(value)
            if question:
                key = exam.stem_key(question)
                earlier = seen.get(key)
                # few-shot examples stand in dev as well in KorMedMCQA: they are examples, never trained on
                if earlier and not (split == "fewshot" and earlier == "dev"):
                    question, reason = None, "duplicate" if earlier == split else f"exam_leak_{earlier}"
                else:
                    seen.setdefault(key, split)
            if question is None:
                counts.reject(reason, source, line, value)
                continue
            counts.keep(sum(len(question[k]) for k in ("question", *"ABCDE")))
            splits[split].append(question)
    for split, questions in splits.items():
        if questions:
            write_lines(out / paths.EXAM / f"{split}.jsonl", questions)
    funnel["exam"] = {**counts.result(), "splits": {k: len(v) for k, v in splits.items()}}
    return splits


def refine_dictionary(files: list[Path], settings: Settings, out: Path, stems: list[str], funnel: dict) -> None:
    from kmlite.refine import dictionary
    from kmlite.refine.duplicates import ExamStems
    from kmlite.refine.readers import read_raw

    if not files:
        return
    counts = Funnel("dictionary", out / paths.REJECTED, settings.rejected_most)
    exam = ExamStems(stems)
    entries: dict[tuple, dict] = {}
    for file in files:
        for source, line, value, problem in read_raw(file, settings.raw):
            counts.read += 1
            entry, reason = (None, problem) if problem else dictionary.check(value)
            if entry and (entry["term"], entry["definition"]) in entries:
                entry, reason = None, "duplicate"
            elif entry and exam.stands_in(entry["definition"]):
                entry, reason = None, "exam_leak"
            if entry is None:
                counts.reject(reason, source, line, value)
                continue
            entries[entry["term"], entry["definition"]] = entry
            counts.keep(len(entry["term"]) + len(entry["definition"]))
    joined = dictionary.join_senses(list(entries.values()))
    if joined:
        write_json(out / paths.DICTIONARY, joined)
    funnel["dictionary"] = {**counts.result(), "terms": len(joined)}


def refine_text(files: list[Path], settings: Settings, out: Path, stems: list[str], funnel: dict, rules: dict) -> None:
    """Clean and judge shard by shard, then find duplicates over all of them and hold some texts out."""
    from functools import partial

    from kmlite.refine import corpus, engine, shards
    from kmlite.refine.worker import Task, refine_shard

    if not files:
        return
    started = time.monotonic()
    size = sum(file.stat().st_size for file in files)
    planned = shards.plan(files, settings.raw, settings.shard_mb << 20)
    workers = settings.workers or engine.cores()
    run = partial(engine.run, workers=workers, engine=settings.engine, address=settings.address)
    finished = out / SHARDS
    finished.mkdir(exist_ok=True)
    write_json(finished / "stems.json", stems)
    told = {**rules, "stems": stems}
    prints = {str(file.relative_to(settings.raw)): fingerprint(file) for file in files}
    raw, columns = str(settings.raw.absolute()), settings.text_column.split(",")
    tasks = [
        Task(
            shard,
            raw,
            str(finished.absolute() / shards.key(shard, prints, told)),
            columns,
            settings.min_length,
            settings.heldout_share,
            settings.rejected_most,
            str(finished.absolute() / "stems.json"),
        )
        for shard in planned
    ]
    drop_others(finished, {Path(task.out).name for task in tasks})
    there = sum(Path(f"{task.out}.json").exists() for task in tasks)
    console.print(f"  text: {len(tasks)} shards, {workers} workers" + (f", {there} shards finished before" if there else ""))
    summaries: dict[int, dict] = {}
    with progress(size) as advance:
        for number, summary in run(refine_shard, tasks):
            summaries[number] = summary
            advance(sum(piece.size for piece in tasks[number].pieces))
    counts = corpus.assemble(tasks, [summaries[i] for i in range(len(tasks))], out, settings.heldout_most, run)
    seconds = time.monotonic() - started
    funnel["text"] = {
        **counts,
        "seconds": round(seconds, 2),
        "megabytes": round(size / 1e6, 1),
        "mb_per_second": round(size / 1e6 / seconds, 2),
    }


def drop_others(folder: Path, keys: set[str]) -> None:
    """Delete the shards of inputs or rules that have changed, and what a killed worker left half written.

    Summaries go first: a shard whose summary stands is taken as done, and this too may be killed.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix != ".json"):
        if path.name != "stems.json" and (path.name.split(".")[0] not in keys or path.name.endswith(".partial")):
            path.unlink()


@contextmanager
def progress(size: int) -> Iterator[Callable]:
    """A bar over `size` bytes with its rate and the time that remains; nothing where there is no terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("  text"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("text", total=size)
        yield lambda done: bar.update(task, advance=done)


def show(funnel: dict) -> None:
    from rich.table import Table

    table = Table("", "read", "kept", "set aside, by reason", "characters", "≈ tokens", "seconds", title="What went in and what was kept")
    for name, part in funnel.items():
        reasons = ", ".join(f"{reason} {n}" for reason, n in part["rejected"].items()) or "none"
        # 1.86 characters a token: published for Gemma 3 on Korean; stage 0 counts with its own tokenizer
        row = (part["read"], part["kept"], reasons, part["characters"], round(part["characters"] / 1.86), part["seconds"])
        table.add_row(name, *(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    console.print(table)
    if "text" in funnel:
        part = funnel["text"]
        console.print(f"  text: {part['kept'] - part['heldout']:,} to train on, {part['heldout']:,} held out, {part['mb_per_second']} MB/s")
        if part["removed"]:
            console.print("  removed from texts: " + ", ".join(f"{kind} {n:,}" for kind, n in part["removed"].items()))
    if "dictionary" in funnel:
        console.print(f"  dictionary: {funnel['dictionary']['terms']:,} terms (several definitions of a term are joined)")
    if "exam" in funnel:
        console.print("  exam: " + ", ".join(f"{split} {n:,}" for split, n in funnel["exam"]["splits"].items()))


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
