"""Refine raw data: plain Korean text, a medical dictionary, exam questions. What is dropped is kept, with its reason.

\b
    make refine RAW=data/01_raw REFINED=data/02_refined
"""

import functools
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmlite import paths
from kmlite.cli import check_writable, console, counted, recipe, setting, size_in_words, split_settings, table
from kmlite.files import fingerprint, read_record, write_json
from kmlite.records import CHARACTERS_A_TOKEN

if TYPE_CHECKING:
    from kmlite.refine.readers import Unread

PARTIAL = ".partial"  # below the refined folder, until all of it is there
SHARDS = "shards"  # below that: what a killed run has finished


@dataclass(frozen=True)
class Settings:
    raw: Path = setting(
        Path("data/01_raw"), "folder with 00_korean, 01_medical_dict and 02_kor_med_test; any one of them is enough", decides=False
    )
    refined: Path = setting(Path("data/02_refined"), "folder to write", decides=False)
    text_column: str = setting("text", "the field that holds a plain text; several, joined by an empty line: title,body")
    min_length: int = setting(100, "characters of the shortest text kept: less is mostly menus and captions")
    heldout_share: float = setting(0.01, "share of texts held out to measure stage 0, chosen by hash, so stable as data grows")
    heldout_most: int = setting(2000, "texts held out at the most: more would not measure better")
    rejected_most: int = setting(1000, "records written to rejected/ for each reason, to look at; refine.json counts all")
    workers: int = setting(0, "processes; 0: one for each core, each takes about 175 MB, at most 400", decides=False)
    shard_mb: int = setting(32, "raw megabytes that a worker refines at a time: what a killed run may lose")
    engine: str = setting("local", "processes of this machine, or Ray tasks (docs/refine.md)", choices=("local", "ray"), decides=False)
    address: str = setting("", "of a Ray cluster: auto, or ray://host:10001; without one --engine ray starts Ray here", decides=False)
    keep_shards: bool = setting(
        False, "keep finished shards beside the result (as large again), so that new data later redoes only its own", decides=False
    )
    term_least: int = setting(2, "characters of the shortest dictionary term kept; 1 keeps 간, 폐 and 뇌")
    definition_least: int = setting(10, "characters of the shortest definition kept")
    zero_based: bool = setting(False, "of an exam file that holds an answer 0 and no 5, read 0 as A and 4 as E")
    restart: bool = setting(False, "refine again even where nothing changed", decides=False)


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
        outputs.check_room(refined, refined / PARTIAL, [file for files in kinds.values() for file in files])
        work(settings, kinds, plan, unread)


def find(raw: Path) -> tuple[dict[str, list[Path]], list["Unread"]]:
    """The files of each kind of data, and what is not read."""
    from kmlite.refine.readers import Unread, path_name, size_of, survey

    paths.require(raw, "Put raw data there (README, “Your data”), or name its folder: make refine RAW=…")
    kinds: dict[str, list[Path]] = {}
    unread: list[Unread] = []
    for name in (paths.RAW_TEXT, paths.RAW_DICTIONARY, paths.RAW_EXAM, paths.REPLAY):
        kinds[name], others = survey(raw / name)
        unread += others
    beside = sorted(path for path in raw.iterdir() if path.name not in kinds and not path.name.startswith("."))
    unread += [Unread(path_name(path), size_of(path), f"not in {', '.join(kinds)}") for path in beside]
    if not any(kinds.values()):
        tell_unread(unread, most=5)
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
        console.print(f"  and {len(unread) - most:,} more files; after a run refine.json names all")


def plan_of(settings: Settings, kinds: dict[str, list[Path]]) -> dict:
    """All that the result depends on: rules and input. How fast and where is no rule: any engine gives the same bytes."""
    from kmlite import runs
    from kmlite.refine import batch, judging, readers, text

    rules, _ = split_settings(settings)
    versions = {module.__name__: module.VERSION for module in (text, judging, batch, readers)}
    inputs = {readers.path_name(f.relative_to(settings.raw)): fingerprint(f) for files in kinds.values() for f in files}
    return runs.as_stored({"rules": rules | {"versions": versions, "unicode": unicodedata.unidata_version}, "inputs": inputs})


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
    from kmlite.refine.corpus import refine_replay
    from kmlite.refine.dictionary import refine_dictionary
    from kmlite.refine.exam import refine_exam

    refined, partial = settings.refined, settings.refined / PARTIAL
    if settings.restart:
        clear(partial)
    partial.mkdir(exist_ok=True)
    write_json(partial / paths.PLAN, plan)
    for name in outputs.MADE:
        outputs.remove(partial / name)
    raw, most, funnel = settings.raw, settings.rejected_most, {}
    stems: list[str] = []  # the questions of dev and test
    if files := kinds[paths.RAW_EXAM]:
        splits, funnel["exam"] = refine_exam(files, raw, partial, most, settings.zero_based)
        stems = [question["question"] for split in ("dev", "test") for question in splits[split]]
    if files := kinds[paths.RAW_DICTIONARY]:
        least = settings.term_least, settings.definition_least
        funnel["dictionary"] = refine_dictionary(files, raw, partial, stems, most, least)
    if files := kinds[paths.RAW_TEXT]:
        funnel["text"] = refine_text(files, settings, partial, stems, plan["rules"])
    if files := kinds[paths.REPLAY]:
        funnel["replay"] = refine_replay(files, raw, partial, settings.text_column.split(","), settings.min_length, most)
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


def refine_text(files: list[Path], settings: Settings, out: Path, stems: list[str], rules: dict) -> dict:
    """Clean and judge shard by shard, then find duplicates over all of them and hold some texts out; the counts of refine's record."""
    from kmlite.progress import progress
    from kmlite.refine import corpus, engine, worker

    started = time.monotonic()
    size = sum(file.stat().st_size for file in files)
    workers = settings.workers or engine.cores()
    run = functools.partial(engine.run, workers=workers, engine=settings.engine, address=settings.address)
    finished = (out / SHARDS).absolute()
    finished.mkdir(exist_ok=True)
    write_json(finished / "stems.json", stems)
    prints = {str(file.relative_to(settings.raw)): fingerprint(file) for file in files}
    tasks = [
        worker.Task(
            pieces=shard,
            raw=str(settings.raw.absolute()),
            out=str(finished / worker.key(shard, prints, {**rules, "stems": stems})),
            columns=settings.text_column.split(","),
            min_length=settings.min_length,
            heldout_share=settings.heldout_share,
            rejected_most=settings.rejected_most,
            stems=str(finished / "stems.json"),
        )
        for shard in worker.plan_shards(files, settings.raw, settings.shard_mb << 20)
    ]
    drop_others(finished, {Path(task.out).name for task in tasks})
    there = sum(Path(f"{task.out}.json").exists() for task in tasks)
    console.print(f"  text: {counted(len(tasks), 'shard')}, {counted(workers, 'worker')}" + (f", {there} finished before" if there else ""))
    summaries: dict[int, dict] = {}
    done = 0
    with progress("text", size // 10**6, "MB") as show_done:
        for number, summary in run(worker.refine_shard, tasks):
            summaries[number] = summary
            done += sum(piece.size for piece in tasks[number].pieces)
            show_done(done // 10**6)
    counts = corpus.assemble(tasks, [summaries[i] for i in range(len(tasks))], out, settings.heldout_most, run)
    seconds, megabytes = time.monotonic() - started, size / 1e6
    rate = {"seconds": round(seconds, 2), "megabytes": round(megabytes, 1), "mb_per_second": round(megabytes / seconds, 2)}
    return counts | rate


def drop_others(folder: Path, keys: set[str]) -> None:
    """Delete the shards of inputs or rules that have changed, and what a killed worker left half written.

    Summaries go first: a shard whose summary stands is taken as done, and this too may be killed.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix != ".json"):
        if path.name != "stems.json" and (path.name.split(".")[0] not in keys or path.name.endswith(".partial")):
            path.unlink()


def show(funnel: dict, settings: Settings) -> None:
    rows = table("", "read", "kept", "set aside", "characters", "≈ tokens", "seconds", title="What went in and what was kept")
    for name, part in funnel.items():
        size = part["characters"]
        counts = part["read"], part["kept"], sum(part["rejected"].values()), size, round(size / CHARACTERS_A_TOKEN)
        rows.add_row(name, *(f"{value:,}" for value in counts), str(part["seconds"]))
    console.print(rows)
    for name, part in funnel.items():
        if part["rejected"]:
            console.print(f"  {name}, set aside: {listed(part['rejected'])}")
    for name, part in funnel.items():
        tell_losses(name, part, settings)
    if part := funnel.get("text"):
        # of less, the start of Python takes most of the time
        rate = f", {part['mb_per_second']:,} MB/s" if part["megabytes"] >= 10 else ""
        console.print(f"  text: {part['kept'] - part['heldout']:,} to train on, {part['heldout']:,} held out{rate}")
        if part["removed"]:
            console.print(f"  removed from texts: {listed(part['removed'])}")
    if part := funnel.get("dictionary"):
        console.print(f"  dictionary: {part['terms']:,} terms (several definitions of a term are joined)")
    if part := funnel.get("exam"):
        console.print(f"  exam: {listed(part['splits'])}")
        sources = part.get("sources", ())  # a record of an older version has none
        for one in sources if len(sources) > 1 else ():
            console.print(f"    {one['file']}: {one['read']:,} read, {one['kept']:,} to train on, {one['leaks']:,} stand in another split")
    if any(part["kept"] for part in funnel.values()):
        refined = settings.refined
        console.print(f"  written to {refined}; examples of what was set aside, with reason, file and line: {refined / paths.REJECTED}")


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def tell_losses(name: str, part: dict, settings: Settings) -> None:
    """What a setting would keep, which fields there are where the wanted ones are missing, and what could not be read."""
    if part["fields"]:
        wanted = {"dictionary": "term, definition", "exam": "question, A, B, C, D, E, answer"}.get(name, settings.text_column)
        there = "; ".join(f"{n:,} × {fields or 'none'}" for fields, n in part["fields"].items())
        how = " (--text-column names another)" if name == "text" else ""
        console.print(f"  {name}: missing_field: the fields should be {wanted}{how}; found: {there}")
    records, size = part["lost"]
    if records or size:
        known = f", among them {records:,} records" if records else ""
        console.print(f"  {name}: damaged files: {size:,} bytes could not be read{known}")
    terms, definitions = part["rejected"].get("short_term", 0), part["rejected"].get("short_definition", 0)
    if name == "dictionary" and (terms or definitions):
        console.print(
            f"  dictionary: {terms:,} terms under {settings.term_least} characters and {definitions:,} definitions under "
            f'{settings.definition_least} were set aside; to keep them: ARGS="--term-least 1 --definition-least 1"'
        )


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
