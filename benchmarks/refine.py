"""How fast refine is and where the time goes: processor time of one core, medians, all measured in one run.

\b
    python -m benchmarks.refine                            # a corpus made of data/01_raw where it is, else of the sample
    python -m benchmarks.refine --raw FOLDER --megabytes 150 --repeats 3
    python -m benchmarks.refine --memory                   # peak memory at 1, 2 and 4 times the corpus
"""

import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from kmlite import paths
from kmlite.refine import readers

OWN = paths.ROOT / "data/01_raw"
SENTENCE = re.compile(r"(?<=[.!?다])\s+")


@click.command(help=__doc__)
@click.option("--raw", type=click.Path(path_type=Path), default=None, help="a raw folder with 00_korean in it")
@click.option("--megabytes", default=150, help="of the corpus that is made")
@click.option("--repeats", default=3, help="medians of this many runs")
@click.option("--memory", is_flag=True, help="measure memory at 1, 2 and 4 times the corpus instead")
@click.option("--one", type=click.Path(path_type=Path), default=None, hidden=True)
def main(raw: Path | None, megabytes: int, repeats: int, memory: bool, one: Path | None) -> None:
    if one:
        measure_one(one)
        return
    source = raw or (OWN if OWN.exists() else paths.SAMPLE_RAW)
    with tempfile.TemporaryDirectory() as folder:
        if memory:
            for times in (1, 2, 4):
                corpus = make_corpus(source, Path(folder) / f"{times}", megabytes * times)
                click.echo(f"{times} × {megabytes} MB: {alone(corpus)}")
            return
        corpus = make_corpus(source, Path(folder) / "raw", megabytes)
        size = sum(file.stat().st_size for file in corpus.rglob("*.jsonl")) / 1e6
        taken = [alone(corpus)["cpu"] for _ in range(repeats)]
        rate = size / statistics.median(taken)
        click.echo(f"{size:.0f} MB of raw JSON lines made of {source.name}, median of {repeats} ({min(taken):.1f} to {max(taken):.1f} s)")
        click.echo(f"  whole refine: {rate:.2f} MB/s per core-second\n\nWhere the time goes, ms per MB of raw JSON lines")
        for name, milliseconds in sorted(stages(corpus, size).items(), key=lambda item: -item[1]):
            click.echo(f"  {name:44} {milliseconds:6.1f}")


def make_corpus(source: Path, out: Path, megabytes: int) -> Path:
    """A raw folder of that size: new documents put together from the source's sentences, dirty in the usual ways.

    Nine in a hundred repeat an earlier document exactly or but for a word; a few are English, advertisements or noise.
    """
    chosen = random.Random(1)
    texts = [
        raw.value["text"]
        for file in readers.raw_files(source / paths.RAW_TEXT)
        for raw in readers.read_raw(file, source)
        if raw.problem is None and isinstance(raw.value.get("text"), str)
    ]
    pools = [[s for s in SENTENCE.split(text) if 10 < len(s) < 400] for text in texts]
    pools = [pool for pool in pools if pool]
    folder = out / paths.RAW_TEXT
    folder.mkdir(parents=True)
    earlier: list[str] = []
    size = number = 0
    file = None
    while size < megabytes * 1e6:
        if file is None or file.tell() > 40e6:
            file = open(folder / f"{number:03}.jsonl", "w", encoding="utf-8")  # noqa: SIM115 -- the next takes its place
            number += 1
        kind = chosen.random()
        if kind < 0.05 and earlier:
            text = chosen.choice(earlier)
        elif kind < 0.09 and earlier:
            words = chosen.choice(earlier).split(" ")
            words[chosen.randrange(len(words))] = "바뀐말"
            text = " ".join(words)
        elif kind < 0.12:
            text = chosen.choice(texts)
        else:
            sentences = [s for pool in chosen.choices(pools, k=chosen.choice((3, 6, 12))) for s in chosen.sample(pool, min(4, len(pool)))]
            chosen.shuffle(sentences)
            text = "".join(s + chosen.choice((" ", " ", " ", "\n\n")) for s in sentences)
            if kind < 0.30:
                text = "<div><p>" + text.replace("\n\n", "</p>\n<p>") + "</p> &nbsp;<a href='https://example.kr/a'>더 보기</a></div>"
            elif kind < 0.36:
                text = f"== 개요 ==\n[[의학|{text[:10]}]] {text[10:]}[* 각주이다.]\n[[분류:의학]]"
            elif kind < 0.42:
                text += " 문의: help@example.kr 010-1234-5678 https://example.kr/?q=1"
            if len(earlier) < 5000:
                earlier.append(text)
            elif chosen.random() < 0.1:
                earlier[chosen.randrange(5000)] = text
        line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
        file.write(line)
        size += len(line.encode())
    file.close()
    return out


def alone(corpus: Path) -> dict:
    """Refine in a process of its own: {cpu: seconds of the process and its children, memory: peak MB, documents, kept}."""
    command = [sys.executable, "-m", "benchmarks.refine", "--one", str(corpus)]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_one(corpus: Path) -> None:
    from kmlite.cli import console
    from recipes import refine

    console.file = sys.stderr
    with tempfile.TemporaryDirectory() as out:
        refine.main(refine.Settings(raw=corpus, refined=Path(out) / "refined", workers=1))
        funnel = json.loads((Path(out) / "refined" / paths.REFINE_RECORD).read_text())["funnel"]["text"]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu, memory = sum(usage.ru_utime + usage.ru_stime for usage in used), max(usage.ru_maxrss for usage in used)
    print(json.dumps({"cpu": round(cpu, 2), "memory": round(memory / 1024), "documents": funnel["read"], "kept": funnel["kept"]}))


def stages(corpus: Path, size: float) -> dict[str, float]:
    """Milliseconds per MB of each step of refine on the same texts, one step after the other."""
    import orjson

    from kmlite.refine import batch, cleaning, judging, text, worker
    from kmlite.refine.markup import strip_html
    from kmlite.refine.wiki import strip_wiki

    taken: dict[str, float] = {}

    def timed(name: str, step: Callable, items: list) -> list:
        started = time.process_time()
        out = [step(item) for item in items]
        taken[name] = (time.process_time() - started) * 1000 / size
        return out

    def batches(texts: list[str]) -> list[list[str]]:
        out, size = [[]], 0
        for one in texts:
            out[-1].append(one)
            size += len(one)
            if size > worker.BATCH:
                out, size = [*out, []], 0
        return out

    batch.signatures(batch.measure(cleaning.clean_all(["의학"])))  # their tables are made once a process
    files = readers.raw_files(corpus / paths.RAW_TEXT)
    found = timed("read JSON lines", lambda file: [raw.value["text"] for raw in readers.read_raw(file, corpus)], files)
    raw = [some for file in found for some in batches(file)]
    timed("clean: look at the signs", cleaning.look, raw)
    cleaned = [[one for one in some if len(one) >= 100] for some in timed("clean: all of it", cleaning.clean_all, raw)]
    texts = [one for some in raw for one in some]
    for name, rule in (("white space", text.squeeze), ("addresses", text.strip_addresses), ("wiki", strip_wiki), ("HTML", strip_html)):
        timed(f"clean: {name}, if all texts needed it", rule, texts)
    measured = timed("measure (letters, words, exact hash)", batch.measure, cleaned)
    timed("repeated five-word runs", batch.repeated_words, measured)
    timed("MinHash signatures", batch.signatures, measured)
    texts = [one for some in cleaned for one in some]
    counts = judging.Counts(0, 0, 0, 0, 0, 0)
    timed("repeated lines", lambda one: judging.no_repeated_lines(one, counts), texts)
    timed("write JSON", orjson.dumps, texts)
    return taken


if __name__ == "__main__":
    main()
