"""How fast refine is, where the time goes, and how it compares: ratios of medians, all measured in one run.

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
@click.option("--one", default="", hidden=True)
def main(raw: Path | None, megabytes: int, repeats: int, memory: bool, one: str) -> None:
    if one:
        measure_one(*one.split(":"))
        return
    source = raw or (OWN if OWN.exists() else paths.SAMPLE_RAW)
    with tempfile.TemporaryDirectory() as folder:
        if memory:
            for times in (1, 2, 4):
                corpus = make_corpus(source, Path(folder) / f"{times}", megabytes * times)
                click.echo(f"{times} × {megabytes} MB: {alone('refine', corpus)}")
            return
        corpus = make_corpus(source, Path(folder) / "raw", megabytes)
        size = sum(file.stat().st_size for file in corpus.rglob("*.jsonl")) / 1e6
        click.echo(f"{size:.0f} MB of raw JSON lines made of {source.name}; one core each, medians of {repeats}")
        names = ["refine", "worker", "naive", *(["datatrove"] if has_datatrove() else [])]
        taken: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in names:  # in turn, so that whatever else the machine does falls on all of them
                told = alone(name, corpus)
                taken[name].append(told["cpu"])
        rates = {name: size / statistics.median(seconds) for name, seconds in taken.items()}
        for name, what in CHAINS.items():
            if name in rates:
                click.echo(f"  {what:64} {rates[name]:6.2f} MB/s per core-second ({min(taken[name]):.1f}–{max(taken[name]):.1f} s)")
        click.echo(f"  whole refine to the naive chain without near-duplicates: {rates['refine'] / rates['naive']:.1f}×")
        if "datatrove" in rates:
            click.echo(f"  whole refine to datatrove's equivalent: {rates['refine'] / rates['datatrove']:.1f}×")
        click.echo("\nWhere the time goes, ms per MB of raw JSON lines")
        for name, milliseconds in sorted(stages(corpus, size).items(), key=lambda item: -item[1]):
            click.echo(f"  {name:44} {milliseconds:6.1f}")


CHAINS = {
    "refine": "whole refine: rules, near-duplicates, corpus, rejected",
    "worker": "its worker alone: rules, hashes, signatures",
    "naive": "the same rules one text at a time in datasets.map, exact only",
    "datatrove": "datatrove: filters, MinHash in four steps",
}


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


def alone(name: str, corpus: Path) -> dict:
    """Run one chain in a process of its own: {cpu: seconds of the process and its children, memory: peak MB}."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.refine", "--one", f"{name}:{corpus}"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_one(name: str, corpus: str) -> None:
    with tempfile.TemporaryDirectory() as out:
        extra = {"refine": refine_all, "worker": worker, "naive": naive, "datatrove": datatrove}[name](Path(corpus), Path(out)) or {}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    print(json.dumps({"cpu": round(cpu, 2), "memory": round(max(usage.ru_maxrss for usage in used) / 1024), **extra}))


def refine_all(corpus: Path, out: Path) -> dict:
    from kmlite.cli import console
    from recipes import refine

    console.file = sys.stderr
    refine.main(refine.Settings(raw=corpus, refined=out / "refined", workers=1))
    funnel = json.loads((out / "refined" / paths.REFINE_RECORD).read_text())["funnel"]["text"]
    return {"documents": funnel["read"], "kept": funnel["kept"]}


def tasks_of(corpus: Path, out: Path) -> list:
    from kmlite.refine import shards
    from kmlite.refine.worker import Task

    files = readers.raw_files(corpus / paths.RAW_TEXT)
    (out / "stems.json").write_text("[]")
    return [
        Task(shard, str(corpus), str(out / str(i)), ["text"], 100, 0.01, 1000, str(out / "stems.json"))
        for i, shard in enumerate(shards.plan(files, corpus, 32 << 20))
    ]


def worker(corpus: Path, out: Path) -> None:
    from kmlite.refine.worker import refine_shard

    for task in tasks_of(corpus, out):
        refine_shard(task)


def naive(corpus: Path, out: Path) -> None:
    """What one writes first: the same rules as plain expressions, one text at a time in `datasets.map`; no near-duplicates."""
    import hashlib
    import html
    import os
    import unicodedata
    from collections import Counter

    os.environ.update(HF_HOME=str(out / "hf"), HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    from datasets import Dataset, load_dataset

    hidden = re.compile(r"<(script|style|noscript|head|title|template|svg|iframe)\b[^<>]*>.*?</\1>", re.DOTALL | re.IGNORECASE)
    tag, comment, block = (
        re.compile(r"</?[a-zA-Z][^<>]*>"),
        re.compile(r"<!--.*?-->", re.DOTALL),
        re.compile(r"</?(?:p|div|br|li|h\d)\b[^<>]*>"),
    )
    url, mail = re.compile(r"(?:https?|ftp)://\S+|www\.\S+"), re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
    phone, resident = re.compile(r"0\d{1,2}[-. )]\d{3,4}[-. ]\d{4}"), re.compile(r"\d{6}-?[1-8]\d{6}")
    wiki = [
        (re.compile(r"\[\[(?:분류|파일|그림|이미지|Category|File|Image):[^\[\]]*\]\]"), ""),
        (re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]"), r"\1"),
        (re.compile(r"\{\{[^{}]*\}\}|<ref[^<>]*>.*?</ref>|\[\*[^\[\]]*\]|\[(?:목차|각주)\]"), ""),
        (re.compile(r"^==+ *(.*?) *==+ *$", re.MULTILINE), r"\1"),
        (re.compile(r"\'\'\'?|~~.*?~~|\|\|"), ""),
    ]
    control, blanks, lines = re.compile(r"[\x00-\x08\x0b-\x1f\u200b-\u200f\ufeff]"), re.compile(r"[^\S\n]+"), re.compile(r"\s*\n\s*\n\s*")
    hangul, letters, kana = re.compile(r"[가-힣]"), re.compile(r"[^\W\d_]"), re.compile(r"[\u3040-\u30ff]")
    ads = re.compile("무료 ?배송|할인|쿠폰|특가|이벤트|최저가|적립금|클릭|사은품|구매 ?문의|상담 ?문의|선착순|공짜|보장|증정|매입")

    def clean(row: dict) -> dict:
        text = unicodedata.normalize("NFC", row["text"])
        text = block.sub("\n\n", hidden.sub("", comment.sub("", control.sub("", text))))
        text = html.unescape(tag.sub("", text))
        for expression in (url, mail, resident, phone):
            text = expression.sub("", text)
        for expression, kept in wiki:
            text = expression.sub(kept, text)
        return {"text": lines.sub("\n\n", blanks.sub(" ", text)).strip()}

    seen: set[bytes] = set()

    def keep(row: dict) -> bool:
        text = row["text"]
        korean = len(hangul.findall(text))
        if len(text) < 100 or korean < 20 or korean < 0.1 * len(letters.findall(text)) or korean <= len(kana.findall(text)):
            return False
        terms = ads.findall(text)
        if len(set(terms)) >= 3 and len(terms) * 60 >= len(text):
            return False
        rows, words = Counter(row for row in text.split("\n") if row), text.split()
        runs = Counter(tuple(words[i : i + 5]) for i in range(len(words) - 4))
        if sum(len(row) * (n - 1) for row, n in rows.items()) > 0.3 * len(text) or sum(n - 1 for n in runs.values()) > 0.3 * len(words):
            return False
        key = hashlib.md5(text.encode()).digest()
        if key in seen:
            return False
        seen.add(key)
        return True

    files = [str(file) for file in readers.raw_files(corpus / paths.RAW_TEXT)]
    data = load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    assert isinstance(data, Dataset)
    data.map(clean).filter(keep).to_json(out / "train.jsonl", force_ascii=False)


def has_datatrove() -> bool:
    import importlib.util

    return importlib.util.find_spec("datatrove") is not None


def datatrove(corpus: Path, out: Path) -> None:
    """The same cleaning and language and ad rules inside it, its Gopher repetition filter, its MinHash with 14 bands of 8.

    Its Korean word splitter is a morphological analyser that takes longer than all the rest: words are split at blanks here, as
    in kmlite, which is in its favour.
    """
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature, minhash
    from datatrove.pipeline.filters import GopherRepetitionFilter, LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils import word_tokenizers

    from kmlite.refine.cleaning import clean
    from kmlite.refine.text import is_korean, is_no_advertisement

    word_tokenizers.KiwiTokenizer.word_tokenize = lambda _self, text: text.split()

    def cleaned(documents, rank=0, world_size=1):
        for document in documents:
            document.text = clean(document.text)
            yield document

    config = minhash.MinhashConfig(n_grams=3, num_buckets=14, hashes_per_bucket=8)
    step = [str(out / name) for name in ("kept", "signatures", "buckets", "remove", "final")]
    pipelines = [
        [
            JsonlReader(str(corpus / paths.RAW_TEXT)),
            cleaned,
            LambdaFilter(
                lambda document: len(document.text) >= 100 and is_korean(document.text)[0] and is_no_advertisement(document.text)[0]
            ),
            GopherRepetitionFilter(language="ko"),
            JsonlWriter(step[0], compression=None),
        ],
        [JsonlReader(step[0]), MinhashDedupSignature(step[1], config=config, language="ko")],
        [MinhashDedupBuckets(step[1], step[2], config=config)],
        [MinhashDedupCluster(step[2], step[3], config=config)],
        [JsonlReader(step[0]), MinhashDedupFilter(step[3]), JsonlWriter(step[4], compression=None)],
    ]
    for number, pipeline in enumerate(pipelines):
        tasks = config.num_buckets if number == 2 else 1
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(out / f"log{number}")).run()


def stages(corpus: Path, size: float) -> dict[str, float]:
    """Milliseconds per MB of each step of refine on the same texts, one step after the other."""
    import orjson

    from kmlite.refine import batch, cleaning, markup, text, wiki, worker

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
    timed("clean: white space, if all texts needed it", text.squeeze, texts)
    timed("clean: addresses, if all texts needed it", text.strip_addresses, texts)
    timed("clean: wiki, if all texts needed it", wiki.strip_wiki, texts)
    timed("clean: HTML, if all texts needed it", markup.strip_html, texts)
    measured = timed("measure (letters, words, exact hash)", batch.measure, cleaned)
    timed("repeated five-word runs", batch.repeated_words, measured)
    timed("MinHash signatures", batch.signatures, measured)
    texts = [one for some in cleaned for one in some]
    timed("repeated lines", text.no_repeated_lines, texts)
    timed("write JSON", orjson.dumps, texts)
    return taken


if __name__ == "__main__":
    main()
