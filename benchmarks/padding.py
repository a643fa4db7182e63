"""Padding to a fixed length against length-grouped batches, in stages 1 and 2: useful tokens per second of the same trainer.

\b
    python -m benchmarks.padding                        # needs `make demo` before: its refined sample, its embedded base
    python -m benchmarks.padding --base FOLDER --refined FOLDER

The plain way pads each row on the left to the stage's length (512 and 1,024) and takes rows in random order; ours pads a
batch on the right to its longest row and puts rows of similar length together. Model, LoRA, rows, batch and optimizer are
the same, and both run in turn in this process. A useful token is one that is no padding.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import click

STEPS, REPEATS = {1: 3, 2: 2}, 3  # optimizer steps of 32 rows each; runs of which the median counts


def fixed(rows: list[dict], tokenizer, length: int) -> dict:
    """A batch padded on the left to `length`."""
    import torch

    from kmlite import prompts

    gaps = [length - len(row["input_ids"]) for row in rows]
    padded = {
        "input_ids": [[tokenizer.pad_token_id] * gap + row["input_ids"] for gap, row in zip(gaps, rows, strict=True)],
        "attention_mask": [[0] * gap + [1] * len(row["input_ids"]) for gap, row in zip(gaps, rows, strict=True)],
        "labels": [[prompts.IGNORED] * gap + row["labels"] for gap, row in zip(gaps, rows, strict=True)],
    }
    return {name: torch.tensor(values) for name, values in padded.items()}


def rows_of(stage: int, tokenizer, refined: Path, settings) -> list[dict]:
    """The rows of STEPS optimizer steps, numbered."""
    from kmlite import records
    from kmlite.evaluation import dictionary
    from kmlite.training import examples

    pairs = (
        dictionary.pairs(records.read_dictionary(refined))
        if stage == 1
        else examples.turns(records.read_exam(refined, "train"), 0.05, 0)[0]
    )
    rows, _ = examples.conversation_rows(tokenizer, pairs, settings.length)
    wanted = STEPS[stage] * settings.batch * settings.accumulation
    return [{**row, "record": number} for number, row in enumerate((rows * (wanted // len(rows) + 1))[:wanted])]


def run(stage: int, adapted, tokenizer, rows: list[dict], settings, padded: bool) -> dict:
    """{"tokens_per_second": useful ones from the first batch to the end of the last step, "padding": its share}."""
    from kmlite.training import examples, trainer

    begun: list[float] = []
    ours = trainer.collate

    def collate(batch, tokenizer, multiple, apart):
        begun.append(time.perf_counter())
        return fixed(batch, tokenizer, settings.length) if padded else ours(batch, tokenizer, multiple, apart)

    order = "random" if padded else "group_by_length"
    if stage == 2 and not padded:
        rows, order = examples.in_order([rows], settings.batch, settings.seed), "sequential"
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(trainer, "collate", collate):
        result = trainer.train(adapted, tokenizer, rows, Path(folder), settings, trainer.Task(order=order))
        seconds = time.perf_counter() - begun[0]
    useful = sum(len(row["input_ids"]) for row in rows)
    return {"tokens_per_second": useful / seconds, "padding": result["padding"]}


@click.command(help=__doc__)
@click.option("--base", type=click.Path(path_type=Path), default=Path("model/demo/base"))
@click.option("--refined", type=click.Path(path_type=Path), default=Path("data/demo/02_refined"))
def main(base: Path, refined: Path) -> None:
    from kmlite import paths
    from kmlite.models import loading
    from recipes import stage1, stage2

    for path in (base / "config.json", refined / paths.DICTIONARY):
        paths.require(path, "Run first: make demo   (or name another model and other data: --base, --refined)")
    found = []
    for stage, recipe in ((1, stage1), (2, stage2)):
        settings = replace(recipe.Settings(), log_every=1000, base=str(base), refined=refined, epochs=1, save_every=10**9)
        loaded, tokenizer = loading.load(base, "16bit", settings.length)
        how = {"r": settings.rank, "alpha": settings.alpha, "dropout": settings.dropout}
        adapted = loading.add_lora(loaded, seed=settings.seed, **how)
        rows = rows_of(stage, tokenizer, refined, settings)
        lengths = sorted(len(row["input_ids"]) for row in rows)
        run(stage, adapted, tokenizer, rows[: settings.batch * settings.accumulation], settings, False)  # warms up
        runs = [
            (run(stage, adapted, tokenizer, rows, settings, True), run(stage, adapted, tokenizer, rows, settings, False))
            for _ in range(REPEATS)
        ]
        plain, ours = ({key: statistics.median(part[i][key] for part in runs) for key in runs[0][0]} for i in (0, 1))
        ratios = sorted(b["tokens_per_second"] / a["tokens_per_second"] for a, b in runs)
        found.append((stage, len(rows), statistics.median(lengths), lengths[-1], settings, plain, ours, ratios))
        del loaded, adapted
        loading.free()
    click.echo(
        "| stage | rows: number, median and longest tokens | padded to | useful tokens/s, share of padding | ours | ratio |\n"
        + "| --- " * 6
        + "|"
    )
    for stage, n, median, longest, settings, plain, ours, ratios in found:
        cells = [f"{part['tokens_per_second']:,.0f}, {part['padding']:.1%}" for part in (plain, ours)]
        times = f"{statistics.median(ratios):.1f}× ({ratios[0]:.1f}–{ratios[-1]:.1f})"
        click.echo(f"| {stage} | {n}, {median:.0f}, {longest} | {settings.length} | {cells[0]} | {cells[1]} | {times} |")


if __name__ == "__main__":
    main()
