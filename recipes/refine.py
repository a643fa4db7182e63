"""Refine raw data: plain Korean text, a medical dictionary, exam questions. What is dropped is kept, with its reason.

\b
    make refine RAW=data/01_raw REFINED=data/02_refined
"""

import dataclasses
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmlite import paths
from kmlite.cli import check_writable, console, counted, recipe, setting, size_in_words
from kmlite.files import fingerprint, read_record, write_json, write_lines

if TYPE_CHECKING:
    from kmlite.refine.readers import Unread

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
    rejected_most: int = setting(1000, "records written to rejected/ for each reason, to look at; refine.json counts all")
    workers: int = setting(0, "processes; 0: one for each core, each takes about 175 MB, at most 400")
    shard_mb: int = setting(32, "raw megabytes that a worker refines at a time: what a killed run may lose")
    engine: str = setting("local", "processes of this machine, or Ray tasks (docs/refine.md)", choices=("local", "ray"))
    address: str = setting("", "of a Ray cluster: auto, or ray://host:10001; without one --engine ray starts Ray here")
    keep_shards: bool = setting(
        False, "keep finished shards beside the result (as large again), so that new data later redoes only its own"
    )
    term_least: int = setting(2, "characters of the shortest dictionary term kept; 1 keeps 간, 폐 and 뇌")
    definition_least: int = setting(10, "characters of the shortest definition kept")
    zero_based: bool = setting(False, "of an exam file that holds an answer 0 and no 5, read 0 as A and 4 as E")
    restart: bool = setting(False, "refine again even where nothing changed")


def main(settings: Settings) -> None:
    from kmlite.files import lock
    from kmlite.refine import outputs

    raw, refined = settings.raw, settings.refined
    kinds, unread = find(raw)
    outputs.check_apart(raw, refined, [file for files in kinds.values() for file in files])
    check_writable(refined)
    with lock(refined, "refine"):
        outputs.check_own(refined, refined / PARTIAL)
        console.print(f"[bold]refine[/]  {raw} → {refined}")
        for name, files in kinds.items():
            told = f"{counted(len(files), 'file')}, {size_in_words(sum(f.stat().st_size for f in files))}" if files else "none"
            console.print(f"  {name}: {told}")
        tell_unread(unread)
        plan = plan_of(settings, kinds)
        record = read_record(refined / paths.REFINE_RECORD)
        if record and not settings.restart and is_done(record, plan, refined):
            console.print("  done before, nothing changed (ARGS=--restart refines again)")
            show(record["funnel"], settings)
            return
        work(settings, kinds, plan, unread)


def find(raw: Path) -> tuple[dict[str, list[Path]], list["Unread"]]:
    """The files of each kind of data, and what is not read."""
    from kmlite.refine.readers import Unread, printable, size_of, survey

    paths.require(raw, "Put raw data there (README, “Your data”), or name its folder: make refine RAW=…")
    kinds: dict[str, list[Path]] = {}
    unread: list[Unread] = []
    for name in (paths.RAW_TEXT, paths.RAW_DICTIONARY, paths.RAW_EXAM, paths.REPLAY):
        kinds[name], others = survey(raw / name)
        unread += others
    beside = sorted(path for path in raw.iterdir() if path.name not in kinds and not path.name.startswith("."))
    unread += [Unread(printable(path), size_of(path), f"beside {', '.join(kinds)}, not in one of them") for path in beside]
    if not any(kinds.values()):
        tell_unread(unread)
        raise click.ClickException(
            f"{raw} holds none of {', '.join(kinds)} with readable files in it.\n"
            f"  Put data there as the README says under “Your data”, or try the sample: make refine RAW={paths.SAMPLE_RAW}"
        )
    return kinds, unread


def tell_unread(unread: list["Unread"], most: int = 20) -> None:
    """Name the files that are not read, the largest first."""
    for path, size, why in sorted(unread, key=lambda one: -one.bytes)[:most]:
        console.print(f"  [bold]not read[/]: {path} ({size:,} bytes): {why}")
    if len(unread) > most:
        console.print(f"  and {len(unread) - most:,} more that are not read: refine.json names all")


def plan_of(settings: Settings, kinds: dict[str, list[Path]]) -> dict:
    """All that the result depends on: rules and input. How fast and where is no rule: any engine gives the same bytes."""
    from kmlite import runs
    from kmlite.refine import batch, readers, text

    elsewhere = ("raw", "refined", "workers", "engine", "address", "keep_shards", "restart")
    rules = {k: v for k, v in dataclasses.asdict(settings).items() if k not in elsewhere}
    versions = {"text": text.VERSION, "batch": batch.VERSION, "readers": readers.VERSION, "unicode": unicodedata.unidata_version}
    inputs = {readers.printable(f.relative_to(settings.raw)): fingerprint(f) for files in kinds.values() for f in files}
    return runs.as_stored({"rules": rules | {"versions": versions}, "inputs": inputs})


def is_done(record: dict, plan: dict, refined: Path) -> bool:
    if record["plan"] != plan or not all((refined / name).exists() for name in record["wrote"]):
        return False
    if read_record(refined / PARTIAL / paths.PLAN) == plan:
        clear(refined / PARTIAL)  # killed after its last word
    return True


def work(settings: Settings, kinds: dict[str, list[Path]], plan: dict, unread: list["Unread"]) -> None:
    """Refine everything beside the last result and move it in place at the end: a run that is killed leaves the last one as it
    was, and the shards that it finished are found by the next."""
    from kmlite.refine import outputs

    refined, partial = settings.refined, settings.refined / PARTIAL
    if settings.restart:
        clear(partial)
    partial.mkdir(exist_ok=True)
    write_json(partial / paths.PLAN, plan)
    for name in outputs.MADE:
        outputs.remove(partial / name)
    funnel: dict[str, dict] = {}
    exam = refine_exam(kinds[paths.RAW_EXAM], settings, partial, funnel)
    stems = [question["question"] for split in ("dev", "test") for question in exam[split]]
    refine_dictionary(kinds[paths.RAW_DICTIONARY], settings, partial, stems, funnel)
    refine_text(kinds[paths.RAW_TEXT], settings, partial, stems, funnel, plan["rules"])
    refine_replay(kinds[paths.REPLAY], settings, partial, funnel)
    if not any(part["kept"] for part in funnel.values()):
        show(funnel, settings)
        raise click.ClickException(f"nothing was kept. See why in {partial / paths.REJECTED}; {refined} is as it was.")
    outputs.move_in(partial, refined, {"plan": plan, "funnel": funnel, "unread": [one._asdict() for one in unread]})
    clear(partial, settings.keep_shards)
    show(funnel, settings)


def clear(partial: Path, keep_shards: bool = False) -> None:
    """Delete what an unfinished run left, the plan last: where it stands, this was interrupted and is done again."""
    from kmlite.refine.outputs import remove

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


def refine_exam(files: list[Path], settings: Settings, out: Path, funnel: dict) -> dict[str, list[dict]]:
    """Check questions, drop duplicates, and set aside what stands in dev or test, as a copy or translated."""
    from kmlite.refine import exam
    from kmlite.refine.leakage import ExamGuard
    from kmlite.refine.outputs import Funnel
    from kmlite.refine.readers import Raw, printable, read_raw

    splits: dict[str, list[dict]] = {"train": [], "dev": [], "test": [], "fewshot": []}
    if not files:
        return splits
    folder = settings.raw / paths.RAW_EXAM
    counts = Funnel("exam", out / paths.REJECTED, settings.rejected_most)
    sources: list[dict] = []  # what each file adds to train
    guard = ExamGuard()
    order = {"test": 0, "dev": 1, "fewshot": 2, "train": 3}  # what must stay clean is read first
    known = [(exam.split_of(file.relative_to(folder)) or "", file) for file in files]
    for _, file in [pair for pair in known if not pair[0]]:
        source = printable(file.relative_to(settings.raw))
        counts.reject("unknown_split", Raw(source, 0, "name it, or a folder above it, after one split: train, dev, test or fewshot", None))
    for split, file in sorted([pair for pair in known if pair[0]], key=lambda pair: (order[pair[0]], len(pair[1].parts))):
        answers = (raw.value.get("answer") for raw in read_raw(file, settings.raw) if raw.problem is None)
        by_text = {question["question"]: question for question in splits[split]}
        first = exam.check_counting(answers, printable(file), settings.zero_based)
        if split == "train":
            sources.append({"file": printable(file.relative_to(folder)), "read": 0, "kept": 0, "leaks": 0})
        for raw in read_raw(file, settings.raw):
            counts.read += 1
            question, reason = (None, raw.problem) if raw.problem else exam.check(raw.value, first, file.relative_to(folder))
            found = guard.find(question, split) if question else None
            if question and found and found.reason == "duplicate":
                exam.take_reasoning(by_text, question)
            if split == "train":
                sources[-1]["read"] += 1
                sources[-1]["kept"] += bool(question and not found)
                sources[-1]["leaks"] += bool(found and found.reason != "duplicate")
            if question is None or found:
                counts.reject(found.reason if found else str(reason), raw, found.where if found else "")
                continue
            guard.add(question, split, f"{raw.source}, line {raw.line}")
            counts.keep(sum(len(question[k]) for k in ("question", *"ABCDE")))
            splits[split].append(question)
            by_text.setdefault(question["question"], question)
    for split, questions in splits.items():
        if questions:
            write_lines(out / paths.EXAM / f"{split}.jsonl", questions)
    funnel["exam"] = {**counts.result(), "splits": {k: len(v) for k, v in splits.items()}, "sources": sources}
    return splits


def refine_dictionary(files: list[Path], settings: Settings, out: Path, stems: list[str], funnel: dict) -> None:
    from kmlite.refine import dictionary
    from kmlite.refine.leakage import ExamStems
    from kmlite.refine.outputs import Funnel
    from kmlite.refine.readers import read_raw

    if not files:
        return
    counts = Funnel("dictionary", out / paths.REJECTED, settings.rejected_most)
    exam = ExamStems(stems)
    entries: dict[tuple, dict] = {}
    for raw in (raw for file in files for raw in read_raw(file, settings.raw)):
        counts.read += 1
        least = settings.term_least, settings.definition_least
        entry, reason = (None, raw.problem) if raw.problem else dictionary.check(raw.value, *least)
        if entry and (entry["term"], entry["definition"]) in entries:
            entry, reason = None, "duplicate"
        elif entry and exam.stands_in(entry["definition"]):
            entry, reason = None, "exam_leak"
        if entry is None:
            counts.reject(str(reason), raw)
            continue
        entries[entry["term"], entry["definition"]] = entry
        counts.keep(len(entry["term"]) + len(entry["definition"]))
    joined = dictionary.join_senses(list(entries.values()))
    if joined:
        write_json(out / paths.DICTIONARY, joined)
    funnel["dictionary"] = {**counts.result(), "terms": len(joined)}


def refine_replay(files: list[Path], settings: Settings, out: Path, funnel: dict) -> None:
    """Text of the base's own language, which stage 0 mixes in against forgetting: cleaned, without short ones and copies, not judged."""
    import xxhash

    from kmlite.refine.cleaning import clean
    from kmlite.refine.outputs import Funnel
    from kmlite.refine.readers import read_raw
    from kmlite.refine.worker import text_of

    if not files:
        return
    counts = Funnel("replay", out / paths.REJECTED, settings.rejected_most)
    known: set[int] = set()
    texts = []
    for raw in (raw for file in files for raw in read_raw(file, settings.raw)):
        counts.read += 1
        text = None if raw.problem else text_of(raw.value, settings.text_column.split(","))
        if text is None:
            counts.reject(raw.problem or "missing_field", raw)
            continue
        text = clean(text)
        key = xxhash.xxh3_64_intdigest(text.encode())
        if len(text) < settings.min_length or key in known:
            counts.reject("duplicate" if key in known else "too_short", raw)
            continue
        known.add(key)
        counts.keep(len(text))
        texts.append({"text": text})
    if texts:
        write_lines(out / paths.REPLAY / "train.jsonl", texts)
    funnel["replay"] = counts.result()


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
    console.print(f"  text: {counted(len(tasks), 'shard')}, {counted(workers, 'worker')}" + (f", {there} finished before" if there else ""))
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


def show(funnel: dict, settings: Settings) -> None:
    from rich.table import Table

    table = Table("", "read", "kept", "set aside", "characters", "≈ tokens", "seconds", title="What went in and what was kept")
    for name, part in funnel.items():
        # 1.86 characters a token: published for Gemma 3 on Korean; stage 0 counts with its own tokenizer
        row = (
            part["read"],
            part["kept"],
            sum(part["rejected"].values()),
            part["characters"],
            round(part["characters"] / 1.86),
            part["seconds"],
        )
        table.add_row(name, *(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    console.print(table)
    for name, part in funnel.items():
        if part["rejected"]:
            console.print(f"  {name}, set aside: " + ", ".join(f"{reason} {n:,}" for reason, n in part["rejected"].items()))
    for name, part in funnel.items():
        tell_losses(name, part, settings)
    if "text" in funnel:
        part = funnel["text"]
        # of less, the start of Python takes most of the time
        rate = f", {part['mb_per_second']:,} MB/s" if part["megabytes"] >= 10 else ""
        console.print(f"  text: {part['kept'] - part['heldout']:,} to train on, {part['heldout']:,} held out{rate}")
        if part["removed"]:
            console.print("  removed from texts: " + ", ".join(f"{kind} {n:,}" for kind, n in part["removed"].items()))
    if "dictionary" in funnel:
        console.print(f"  dictionary: {funnel['dictionary']['terms']:,} terms (several definitions of a term are joined)")
    if "exam" in funnel:
        console.print("  exam: " + ", ".join(f"{split} {n:,}" for split, n in funnel["exam"]["splits"].items()))
        if len(sources := funnel["exam"]["sources"]) > 1:
            for one in sources:
                console.print(
                    f"    {one['file']}: {one['read']:,} read, {one['kept']:,} to train on, {one['leaks']:,} stand in another split"
                )
    if any(part["kept"] for part in funnel.values()):
        refined = settings.refined
        console.print(f"  written to {refined}; examples of what was set aside, with reason, file and line: {refined / paths.REJECTED}")


def tell_losses(name: str, part: dict, settings: Settings) -> None:
    """What a setting would keep, which fields there are where the wanted ones are missing, and what could not be read."""
    wanted = {
        "text": settings.text_column,
        "replay": settings.text_column,
        "dictionary": "term, definition",
        "exam": "question, A, B, C, D, E, answer",
    }
    if part["fields"]:
        there = "; ".join(f"{n:,} × {fields or 'none'}" for fields, n in part["fields"].items())
        how = " (--text-column names another)" if name == "text" else ""
        console.print(f"  {name}: missing_field: the fields should be {wanted[name]}{how}; found: {there}")
    if any(part["lost"]):
        records, size = part["lost"]
        console.print(f"  {name}: damaged files: {size:,} bytes could not be read{f', among them {records:,} records' if records else ''}")
    terms, definitions = part["rejected"].get("short_term", 0), part["rejected"].get("short_definition", 0)
    if name == "dictionary" and (terms or definitions):
        console.print(
            f"  dictionary: {terms:,} terms under {settings.term_least} characters and {definitions:,} definitions under "
            f'{settings.definition_least} were set aside; to keep them: ARGS="--term-least 1 --definition-least 1"'
        )


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
