"""What new tokens are worth on the embedded base: how they are chosen, how their rows start, which rows train.

    .venv/bin/python -m benchmarks.vocabulary speed      how long 10,000 merges over a million distinct words take
    .venv/bin/python -m benchmarks.vocabulary starts     bits per character right after extension, by start
    .venv/bin/python -m benchmarks.vocabulary study      five ways, three seeds each; about 20 minutes on two cores
    .venv/bin/python -m benchmarks.vocabulary plot       docs/vocabulary.svg from the study (needs matplotlib)

Needs `make demo` before: its refined sample and its embedded base. Results go to model/benchmarks/vocabulary.
"""

import random
import resource
import statistics
import sys
import time
from pathlib import Path

from kmlite import files, paths

REFINED, BASE, OUT = Path("data/demo/02_refined"), Path("model/demo/base"), Path("model/benchmarks/vocabulary")
TOKENS, SEEDS, STEPS = 256, (0, 1, 2), 20
WAYS = {
    "no new tokens": {"new_tokens": "0"},
    "continued BPE, mean start, new rows": {},
    "continued BPE, random start, new rows": {"start": "random"},
    "continued BPE, mean start, all rows": {"embeddings": "all"},
    "add_tokens, mean start, new rows": {},
}


def speed() -> None:
    """Time and memory of 10,000 merges over 1,000,000 distinct words made of the sample's stems and endings."""
    from transformers import AutoTokenizer

    from kmlite import records
    from kmlite.models import vocabulary

    chance = random.Random(0)
    words = list(vocabulary.count_words(records.read_texts(paths.text_shards(REFINED))))
    starts = [w[: 1 + chance.randint(1, 4)] for w in words if len(w) > 2]
    ends = [w[-chance.randint(1, 4) :] for w in words if len(w) > 2]
    made: dict[str, int] = {}
    while len(made) < 1_000_000:
        made[chance.choice(starts) + chance.choice(ends).lstrip("▁")] = int(1 / (1e-6 + chance.random() ** 2)) % 10_000 + 1
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    started = time.process_time()
    merges = vocabulary.choose_merges(made, tokenizer, 10_000)
    seconds = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(merges):,} merges over {len(made):,} distinct words: {seconds:.0f} core-seconds, {memory:.2f} GiB at the most")


def starts() -> None:
    """Bits per character on held-out text right after extension, before any training."""
    from kmlite import records
    from kmlite.evaluation import suite
    from kmlite.models import loading, vocabulary

    measured_on = suite.prepare(REFINED, texts=200, entries=0, questions=0, length=128)
    base, tokenizer = loading.load(BASE, "16bit", 128)
    before = suite.bits(base, tokenizer, measured_on)["korean"]
    print(f"base {before:.4f}")
    counted = vocabulary.count_words(records.read_texts(paths.text_shards(REFINED)))
    for count in (TOKENS, 1000):
        merges = vocabulary.choose_merges(counted, tokenizer, count)
        for start in vocabulary.STARTS:
            folder = OUT / "starts" / start
            vocabulary.extend_model(BASE, folder, merges, tokenizer, start)
            after = suite.bits(*loading.load(folder, "16bit", 128), measured_on)["korean"]
            print(f"{len(merges):5} new tokens, {start:8} {after:.4f}  {after / before - 1:+.2%}")


def add_words(base: Path, target: Path, merges, tokenizer, start: str) -> list[int]:
    """As many of the most frequent words as there are merges, by `add_tokens`: the nearest rival's way."""
    from transformers import AutoTokenizer

    from kmlite import records
    from kmlite.models import vocabulary

    counted = vocabulary.count_words(records.read_texts(paths.text_shards(REFINED)))
    korean = [w.lstrip("▁") for w, _ in counted.most_common() if any("가" <= c <= "힣" for c in w) and len(w) > 2]
    known = tokenizer.get_vocab()
    chosen = [w for w in dict.fromkeys(korean) if w not in known][: len(merges)]
    ids = original_extend(base, target, [vocabulary.Merge("", word, 0) for word in chosen], tokenizer, start)
    # that has made the rows; now the tokenizer as add_tokens makes it
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (target / file).write_bytes((base / file).read_bytes())
    changed = AutoTokenizer.from_pretrained(target)
    changed.add_tokens(chosen)
    changed.save_pretrained(target)
    assert changed.convert_tokens_to_ids(chosen) == ids
    return ids


def study() -> None:
    """Each way and seed through stage 0: the same text, the same settings; held-out bits on the way and at the end."""
    global original_extend
    from kmlite.models import vocabulary
    from recipes import stage0

    original_extend = vocabulary.extend_model
    for seed in SEEDS:
        for name, change in WAYS.items():
            vocabulary.extend_model = add_words if name.startswith("add_tokens") else original_extend
            result = OUT / "study" / f"{name}-{seed}.json"
            if result.exists():
                continue
            settings = {
                **{"base": str(BASE), "refined": REFINED, "out": OUT / "work", "new_tokens": str(TOKENS), "dictionary_weight": 0},
                **{"length": 128, "batch": 4, "accumulation": 2, "epochs": 2, "learning_rate": 3e-4, "embedding_learning_rate": 1e-3},
                **{"gauge_every": STEPS, "log_every": 1000, "entries": 0, "questions": 0, "seed": seed, "restart": True},
                **{"accept_regression": True, **change},
            }
            stage0.main(stage0.Settings(**settings))
            metrics = files.read_json(OUT / "work" / paths.STAGES[0] / paths.RECORD)["metrics"]
            curve = {0: metrics["gauge"]["extended"]["bits"]["korean"]}
            curve |= {int(step): point["korean"] for step, point in metrics["training"]["measured"].items()}
            curve[metrics["training"]["steps"]] = metrics["gauge"]["after"]["bits"]["korean"]
            tokens = metrics["gain"]["by_text"]["held-out Korean"]
            files.write_json(
                result, {"way": name, "seed": seed, "base": metrics["gauge"]["base"]["bits"]["korean"], "curve": curve, **tokens}
            )
    table()


def results() -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for path in sorted((OUT / "study").glob("*.json")):
        result = files.read_json(path)
        found.setdefault(result["way"], []).append(result)
    return {way: found[way] for way in WAYS if way in found}


def table() -> None:
    """Means over seeds with their spread: after the same text (two epochs) and after the same steps (the last all ways have)."""
    found = results()
    shared = min(max(int(s) for s in list(r["curve"])[:-1]) for runs_ in found.values() for r in runs_)
    print(f"| way | tokens of held-out text | right after extension | after {shared} steps | after two epochs |")
    print("| --- | --- | --- | --- | --- |")
    for way, runs_ in found.items():
        saved = runs_[0]["tokens_after"] / runs_[0]["tokens_before"]
        cells = [[r["curve"]["0"] for r in runs_], [r["curve"][str(shared)] for r in runs_], [list(r["curve"].values())[-1] for r in runs_]]
        said = " | ".join(f"{statistics.mean(c):.3f} ± {statistics.stdev(c):.3f}" if len(c) > 1 else f"{c[0]:.3f}" for c in cells)
        print(f"| {way} | {saved:.1%} | {said} |")


def plot() -> None:
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "kmlite", "font.size": 10})
    _, axis = plt.subplots(figsize=(8, 4.5))
    for way, runs_ in results().items():
        steps = [int(step) for step in runs_[0]["curve"]]
        curves = [list(r["curve"].values()) for r in runs_]
        means = [statistics.mean(points) for points in zip(*curves, strict=True)]
        axis.plot(steps, means, marker="o", markersize=3, label=way)
        low, high = ([pick(points) for points in zip(*curves, strict=True)] for pick in (min, max))
        axis.fill_between(steps, low, high, alpha=0.15)
    axis.axhline(runs_[0]["base"], color="gray", linestyle=":", label="the base, before extension")
    axis.set(
        xlabel="optimizer steps",
        ylabel="bits per character, held-out Korean",
        title="Embedded base, 256 new tokens, 3 seeds (band: least to most)",
    )
    axis.legend(fontsize=8)
    plt.savefig(paths.ROOT / "docs/vocabulary.svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    names = {"speed": speed, "starts": starts, "study": study, "table": table, "plot": plot}
    if len(sys.argv) != 2 or sys.argv[1] not in names:
        sys.exit(__doc__)
    names[sys.argv[1]]()
