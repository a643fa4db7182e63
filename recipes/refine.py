"""Refine raw data: plain Korean text, a medical dictionary, exam questions. What is dropped is kept, with its reason.

\b
    make refine RAW=data/01_raw REFINED=data/02_refined
"""

import dataclasses
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click

from kmlite import paths
from kmlite.cli import check_writable, console, recipe, setting

REJECTED_CHARACTERS = 2000  # of a rejected text: enough to see why


@dataclass(frozen=True)
class Settings:
    raw: Path = setting(Path("data/01_raw"), "folder with 00_korean, 01_medical_dict and 02_kor_med_test; any one of them is enough")
    refined: Path = setting(Path("data/02_refined"), "folder to write")
    text_column: str = setting("text", "the field that holds a plain text")
    min_length: int = setting(100, "characters of the shortest text kept: less is mostly menus and captions")
    heldout_share: float = setting(0.01, "share of texts held out to measure stage 0, chosen by hash, so stable as data grows")
    heldout_most: int = setting(2000, "texts held out at the most: more would not measure better")
    rejected_most: int = setting(1000, "records kept in rejected/ for each reason; refine.json has the true counts")
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
            shown = record[:REJECTED_CHARACTERS] if isinstance(record, str) else record
            row = {"reason": reason, "source": source, "line": line, "record": shown}
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
    from kmlite.records import raw_files
    from kmlite.refine.text import VERSION

    raw, refined = settings.raw, settings.refined
    paths.require(raw, "Put raw data there (README, “Your own data”), or name its folder: make refine RAW=…")
    kinds = {name: raw_files(raw / name) for name in (paths.RAW_TEXT, paths.RAW_DICTIONARY, paths.RAW_EXAM)}
    if not any(kinds.values()):
        raise click.ClickException(
            f"{raw} holds none of {', '.join(kinds)} with readable files in it.\n"
            f"  Put data there as the README says under “Your own data”, or try the sample: make refine RAW={paths.SAMPLE_RAW}"
        )
    check_writable(refined)
    console.print(f"[bold]refine[/]  {raw} → {refined}")
    for name, files in kinds.items():
        console.print(f"  {name}: {len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB" if files else f"  {name}: none")

    rules = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("raw", "refined", "restart")}
    plan = {
        "rules": {**rules, "version": VERSION},
        "inputs": {str(f.relative_to(raw)): runs.fingerprint(f) for files in kinds.values() for f in files},
    }
    record_path = refined / paths.REFINE_RECORD
    before = runs.read_record(record_path)
    if (
        before
        and not settings.restart
        and before["plan"] == runs.as_stored(plan)
        and all((refined / name).exists() for name in before["wrote"])
    ):
        console.print("  done before, nothing changed (ARGS=--restart refines again)")
        show(before["funnel"])
        return

    # Everything is written beside and moved in place at the end: a refine that was killed leaves the last one as it was.
    partial = refined / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    funnel = {}
    exam = refine_exam(kinds[paths.RAW_EXAM], settings, partial, funnel)
    stems = [question["question"] for split in ("dev", "test") for question in exam[split]]
    refine_dictionary(kinds[paths.RAW_DICTIONARY], settings, partial, stems, funnel)
    refine_text(kinds[paths.RAW_TEXT], settings, partial, stems, funnel)
    if not any(part["kept"] for part in funnel.values()):
        show(funnel)
        raise click.ClickException(f"nothing was kept. See why in {partial / paths.REJECTED}; {refined} is as it was.")
    record_path.unlink(missing_ok=True)
    wrote = sorted(path.name for path in partial.iterdir())
    for name in (paths.TEXT, paths.DICTIONARY, paths.EXAM, paths.REJECTED):
        old = refined / name
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        if name in wrote:
            (partial / name).rename(old)
    runs.write_json(record_path, {"plan": plan, "funnel": funnel, "wrote": wrote})
    partial.rmdir()
    show(funnel)
    console.print(f"  written to {refined}; what was set aside, with its reason, file and line: {refined / paths.REJECTED}")


def refine_exam(files: list[Path], settings: Settings, out: Path, funnel: dict) -> dict[str, list[dict]]:
    """Check questions, drop duplicates, and set aside a train question that stands in dev or test."""
    from kmlite import runs
    from kmlite.records import read_raw
    from kmlite.refine import mcq

    splits: dict[str, list[dict]] = {"train": [], "dev": [], "test": [], "fewshot": []}
    if not files:
        return splits
    counts = Funnel("exam", out / paths.REJECTED, settings.rejected_most)
    seen: dict[tuple, str] = {}
    order = {"test": 0, "dev": 1, "fewshot": 2, "train": 3}  # what must stay clean is read first
    known = [(mcq.SPLITS.get(f.name.split(".")[0].split("-")[0].lower()), f) for f in files]
    for _, file in [pair for pair in known if pair[0] is None]:
        counts.reject("unknown_split", str(file.relative_to(settings.raw)), 0, "name it train, dev, test or fewshot")
    for split, file in sorted([pair for pair in known if pair[0]], key=lambda pair: order[pair[0]]):
        for source, line, value, problem in read_raw(file, settings.raw):
            counts.read += 1
            question, reason = (None, problem) if problem else mcq.check(value)
            if question:
                key = mcq.stem_key(question)
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
            runs.write_lines(out / paths.EXAM / f"{split}.jsonl", questions)
    funnel["exam"] = {**counts.result(), "splits": {k: len(v) for k, v in splits.items()}}
    return splits


def refine_dictionary(files: list[Path], settings: Settings, out: Path, stems: list[str], funnel: dict) -> None:
    from kmlite import runs
    from kmlite.records import read_raw
    from kmlite.refine import dictionary
    from kmlite.refine.dedup import ExamStems

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
        runs.write_json(out / paths.DICTIONARY, joined)
    funnel["dictionary"] = {**counts.result(), "terms": len(joined)}


def refine_text(files: list[Path], settings: Settings, out: Path, stems: list[str], funnel: dict) -> None:
    """Clean, judge, drop duplicates and exam questions; hold some texts out."""
    import heapq
    import json

    import xxhash
    from rich.progress import track

    from kmlite import runs
    from kmlite.records import read_raw
    from kmlite.refine.dedup import Duplicates, ExamStems
    from kmlite.refine.text import clean, judge

    if not files:
        return
    counts = Funnel("text", out / paths.REJECTED, settings.rejected_most)
    seen, exam = Duplicates(), ExamStems(stems)
    heldout: list[tuple[int, str]] = []  # (-hash, text): the texts with the lowest hashes
    folder = out / paths.TEXT
    folder.mkdir(parents=True)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as train:
        for file in track(files, "  text", console=console, transient=True, disable=not console.is_terminal):
            for source, line, value, problem in read_raw(file, settings.raw):
                counts.read += 1
                if problem:
                    counts.reject(problem, source, line, value)
                    continue
                text = value.get(settings.text_column)
                if not isinstance(text, str):
                    counts.reject("missing_field", source, line, value)
                    continue
                cleaned = clean(text)
                keep, reason = judge(cleaned, settings.min_length)
                if keep and exam.stands_in(cleaned):
                    keep, reason = False, "exam_leak"
                if keep and (repeated := seen.reason(cleaned)):
                    keep, reason = False, repeated
                if not keep:
                    counts.reject(reason, source, line, text)
                    continue
                counts.keep(len(cleaned))
                # As data grows, an old text may move from held-out to train, never the other way: no model has seen one.
                key = xxhash.xxh3_64_intdigest(cleaned.encode())
                if key < settings.heldout_share * 2**64:
                    heapq.heappush(heldout, (-key, cleaned))
                    if len(heldout) <= settings.heldout_most:
                        continue
                    cleaned = heapq.heappop(heldout)[1]
                train.write(json.dumps({"text": cleaned}, ensure_ascii=False) + "\n")
    runs.write_lines(folder / "heldout.jsonl", [{"text": text} for _, text in sorted(heldout, reverse=True)])
    funnel["text"] = {**counts.result(), "heldout": len(heldout)}


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
        console.print(f"  text: {funnel['text']['kept'] - funnel['text']['heldout']:,} to train on, {funnel['text']['heldout']:,} held out")
    if "dictionary" in funnel:
        console.print(f"  dictionary: {funnel['dictionary']['terms']:,} terms (several definitions of a term are joined)")
    if "exam" in funnel:
        console.print("  exam: " + ", ".join(f"{split} {n:,}" for split, n in funnel["exam"]["splits"].items()))


command = recipe(Settings)(main)

if __name__ == "__main__":
    command()
