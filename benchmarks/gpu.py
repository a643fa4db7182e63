"""What a CUDA card makes of each stage: fits or not, peak memory against the plan, tokens per second, against plain transformers.

\b
    python -m benchmarks.gpu --minutes 8              # on a card; no download, 9 GB of disk for a random model of MedGemma's shape
    python -m benchmarks.gpu --table                  # write what was measured into docs/gpu.md once more
    python -m benchmarks.gpu --rehearse               # the same on a CPU with a tiny shape: that it runs, no figure worth a look

Cases run in order of importance in processes of their own kind (with Unsloth, and without); one that fails ends its process and
is a result. Each is printed and saved as it comes; those that the time did not reach are listed. A cap is a card's size: torch
may take that much less the CUDA context (kmlite/models/memory.py).
"""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import click

from kmlite import files, paths
from kmlite.models import memory

OUT = Path("model/benchmarks/gpu.json")
DOC = paths.ROOT / "docs/gpu.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STAGES = {  # the recipes' settings that decide memory and speed
    0: {"length": 512, "batch": 2, "accumulation": 16},
    1: {"length": 512, "batch": 4, "accumulation": 8},
    2: {"length": 1024, "batch": 2, "accumulation": 16},
}
CASE_SECONDS = 150  # a case that takes longer is ended


# ---- the cases


def case(name: str, **given) -> dict:
    """A case: `name` of what it answers, and what differs from stage 0's recipe in 4-bit with Unsloth."""
    whole = {"name": name, "kind": "train", "with": "kmlite", "stage": 0, "precision": "4bit", "embeddings": "none", "cap": None}
    whole |= {"padded": False, "scorer": None, "as_planned": False} | STAGES[given.get("stage", 0)]
    return whole | given


def cases() -> list[dict]:
    """All cases, the most important first."""
    out = [case(f"target: stage 0 with new rows in {cap} GB", embeddings="new", cap=cap, as_planned=True) for cap in (8, 12)]
    out += [case(f"target: stage {stage} in 8 GB", stage=stage, cap=8, as_planned=True) for stage in (1, 2)]
    for kind in ("kmlite", "plain"):  # one kind after the other: a process of the other kind starts anew
        new = "against plain transformers + peft: stage 0 with new rows"
        out.append(case(new, **{"with": kind}, embeddings="new"))
        for stage, precision in ((0, "4bit"), (2, "16bit"), (1, "4bit")):
            out.append(case(f"against plain transformers + peft: stage {stage}", **{"with": kind}, stage=stage, precision=precision))
    for stage in (1, 2):
        for padded in (True, False):
            out.append(case("padding", stage=stage, padded=padded))
    for scorer in ("letter", "generate"):
        out.append(case("evaluation", kind="eval", scorer=scorer, batch=8))
    for cap in (16, 24):
        out.append(case("cap", cap=cap, embeddings="auto", as_planned=True))
    for cap in (12, 16, 24):
        out += [case("cap", cap=cap, stage=stage, as_planned=True) for stage in (1, 2)]
    for embeddings in ("new", "none", "all"):
        for precision in ("4bit", "8bit", "16bit"):
            for length in (512, 1024):
                out.append(case("matrix", precision=precision, embeddings=embeddings, length=length))
    for scorer in ("letter", "generate"):
        out.append(case("evaluation", kind="eval", scorer=scorer, precision="16bit", batch=8))
    return out


def label(asked: dict) -> str:
    what = f"stage {asked['stage']}" if asked["kind"] == "train" else f"eval by {asked['scorer']}"
    rows = f", rows {asked['embeddings']}" if asked["kind"] == "train" and asked["stage"] == 0 else ""
    parts = [what + rows, asked["precision"], f"{asked['batch']} × {asked['length']}"]
    parts += ["padded as given"] if asked["padded"] else []
    parts += ["plain"] if asked["with"] == "plain" else []
    return ", ".join(parts + ([f"cap {asked['cap']} GB"] if asked["cap"] else []))


# ---- the processes that run them


class Workers:
    """One process at a time: of the kind that the case needs, with the model of the last case freed."""

    def __init__(self, model: Path, refined: Path, log: Path) -> None:
        self.command = [sys.executable, "-m", "benchmarks.gpu_case", str(model), str(refined)]
        self.log, self.process, self.kind = log, None, ""

    def run(self, asked: dict, seconds: float) -> dict:
        """The case's result, or why there is none."""
        if self.process is None or self.kind != asked["with"]:
            self.stop()
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    start_new_session=True,
                    cwd=paths.ROOT,
                )
            self.kind = asked["with"]
        self.process.stdin.write((json.dumps(asked) + "\n").encode())
        end, buffer = time.monotonic() + seconds, b""
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            buffer += chunk
            _, mark, rest = buffer.partition(b"\n@@")
            if mark and b"\n" in rest:
                result = json.loads(rest.split(b"\n")[0])
                if result.get("broken"):
                    self.stop()
                return result
            if not chunk:
                why = (
                    f"took over {seconds:.0f} s" if not ready else f"its process ended with status {self.process.wait(30)}, see {self.log}"
                )
                self.stop()
                return {**asked, "fits": None, "error": why}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


def in_words(result: dict) -> str:
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    if result.get("error"):
        return f"DOES NOT FIT: {result['error']}" if result["fits"] is False else f"failed: {result['error']}"
    parts = [] if result["fits"] else [f"does not fit; went on at batch {result['batch_in_the_end']}"]
    if "peak_bytes" in result:
        parts.append(f"peak {result['peak_bytes'] / memory.GIB:.2f} GiB")
    if "planned_bytes" in result:
        parts.append(f"planned {result['planned_bytes'] / memory.GIB:.2f} ({result['planned_bytes'] / result['peak_bytes'] - 1:+.0%})")
    if "tokens_per_second" in result:
        parts.append(f"{result['useful_tokens_per_second']:,.0f} tokens/s, padding {result['padding']:.0%}")
    if "utilisation" in result:
        parts.append(f"{result['utilisation']:.1%} of the card's peak")
    if "questions_per_second" in result:
        parts.append(f"{result['questions_per_second']:.1f} questions/s")
    return ", ".join(parts)


def answers(results: list[dict]) -> list[str]:
    """What the targets of this benchmark come to, said plainly; what was not measured is said so."""
    out = []
    for result in results:
        if result["name"].startswith("target: "):
            verdict = {True: "yes", False: "NO"}.get(result.get("fits"), "not known")
            out.append(f"{result['name'].removeprefix('target: ')} ({result['precision']}, batch {result['batch']}): {verdict}")
    pairs: dict[str, dict] = {}
    for result in results:
        if result["name"].startswith("against plain"):
            pairs.setdefault(result["name"], {})[result["with"]] = result
    for name, pair in pairs.items():
        ours, plain = pair.get("kmlite", {}), pair.get("plain", {})
        if not (ours.get("fits") and plain.get("fits")):
            out.append(f"{name}: not known")
            continue
        ratio = ours["useful_tokens_per_second"] / plain["useful_tokens_per_second"]
        held = f", {ours['peak_bytes'] / plain['peak_bytes']:.2f}× its memory" if "peak_bytes" in ours else ", memory not measured"
        out.append(f"{name} ({ours['precision']}): {ratio:.2f}× its tokens/s{held} (aim: 1.8× at equal memory, or 0.6× its memory)")
    for stage in (1, 2):
        both = {r["padded"]: r for r in results if r["name"] == "padding" and r["stage"] == stage and r.get("fits")}
        if len(both) == 2:
            ratio = both[False]["useful_tokens_per_second"] / both[True]["useful_tokens_per_second"]
            out.append(f"padding, stage {stage}: {ratio:.1f}× the useful tokens/s of rows padded to the full length")
    return out


def table(record: dict) -> str:
    """The record as markdown."""
    lines = [f"Measured on {record['card']}, {record['date']}, commit {record['commit']}; shape: {record['shape']}.", ""]
    lines += [f"- {line}" for line in answers(record["results"])]
    lines += ["", "| case | fits | peak, GiB | planned | useful tokens/s | of the card's peak | padding |", "| --- " * 7 + "|"]
    for result in record["results"]:
        fits = {True: "yes", False: "no", None: result.get("error", result.get("skipped", ""))}.get(result.get("fits"), "not measured")
        size = [f"{result[key] / memory.GIB:.2f}" if key in result else "–" for key in ("peak_bytes", "planned_bytes")]
        rate = f"{result['useful_tokens_per_second']:,.0f}" if "useful_tokens_per_second" in result else "–"
        if "questions_per_second" in result:
            rate = f"{result['questions_per_second']:.1f} questions/s"
        share = [f"{result[key]:.0%}" if key in result else "–" for key in ("utilisation", "padding")]
        lines.append(f"| {label(result)} | {fits} | {size[0]} | {size[1]} | {rate} | {share[0]} | {share[1]} |")
    if record["not_run"]:
        lines += ["", "Not run, for want of time: " + "; ".join(record["not_run"]) + "."]
    return "\n".join(lines)


def write_table(record: dict) -> None:
    """Put the table into docs/gpu.md, between its two marks. Only what a card measured on the real shape goes there."""
    if record["card"].startswith("CPU") or record["shape"] != "medgemma":
        raise click.ClickException(
            "that is a rehearsal or another shape: docs/gpu.md takes what a card measured on MedGemma's. Run: make bench-gpu"
        )
    text = DOC.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    files.write_text(DOC, f"{head}{BEGIN}\n{table(record)}\n{END}{tail}")
    click.echo(f"written to {DOC}")


def apart(code: str) -> str:
    """What a process of its own prints: this one never touches the card, where its context would take from what is measured."""
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip()[-2000:])
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def refined_sample(folder: Path) -> Path:
    """The refined sample, made anew where it is not there."""
    from click.testing import CliRunner

    from recipes import refine

    if not (folder / paths.REFINE_RECORD).exists():
        result = CliRunner().invoke(refine.command, ["--raw", str(paths.SAMPLE_RAW), "--refined", str(folder), "--heldout-share", "0.1"])
        if result.exit_code:
            raise click.ClickException(result.output)
    return folder


@click.command(help=__doc__)
@click.option("--minutes", default=8.0, help="time for all cases; those that are left are listed")
@click.option("--shape", type=click.Choice(("medgemma", "tiny")), default="medgemma")
@click.option("--rehearse", is_flag=True, help="tiny shape on the CPU")
@click.option("--only", default="", help="cases whose name holds this")
@click.option("--out", type=click.Path(path_type=Path), default=None, help=f"default {OUT}; of a rehearsal its own")
@click.option("--table", "as_table", is_flag=True, help=f"write {OUT} into docs/gpu.md")
def main(minutes, shape, rehearse, only, out, as_table) -> None:
    out = out or (OUT.with_name("rehearsal.json") if rehearse else OUT)
    if as_table:
        return write_table(files.read_json(paths.require(out, "Run first: make bench-gpu")))
    if rehearse:
        shape = "tiny"
        os.environ |= {"UNSLOTH_FORCE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    found = json.loads(apart("import json; from kmlite import runs; print(json.dumps(runs.environment()))"))
    if found["device"].startswith("CPU") and not rehearse:
        raise click.ClickException("no CUDA card is seen here (nvidia-smi?). On a CPU: python -m benchmarks.gpu --rehearse")
    started = time.monotonic()
    refined = refined_sample(out.parent / "sample").resolve()
    model = (out.parent / f"random-{shape}").resolve()
    if not model.exists():
        click.echo(f"building a random model of the shape {shape} in {model}")
        build = f"build(Path({str(model)!r}), {shape!r}, Path({str(refined)!r}))"
        apart(f"from pathlib import Path; from benchmarks.random_model import build; {build}")
        click.echo(f"  built in {time.monotonic() - started:.0f} s")
    card = "CPU (a rehearsal: its figures mean nothing)" if rehearse else found["device"]
    record = {"card": card, "date": time.strftime("%Y-%m-%d"), "commit": found["commit"], "versions": found["versions"], "shape": shape}
    record |= {"results": [], "not_run": []}
    workers = Workers(model, refined, out.with_suffix(".log"))
    wanted = [asked for asked in cases() if only in asked["name"]]
    try:
        for number, asked in enumerate(wanted):
            left = 60 * minutes - (time.monotonic() - started)
            if left < 15:
                record["not_run"] = [f"{part['name']}: {label(part)}" for part in wanted[number:]]
                break
            begun = time.monotonic()
            result = workers.run(asked, min(left, CASE_SECONDS))
            result["whole_seconds"] = round(time.monotonic() - begun, 1)
            record["results"].append(result)
            files.write_json(out, record)
            click.echo(f"{result['name']} | {label(result)} | {in_words(result)} | {result['whole_seconds']:.0f} s")
    finally:
        workers.stop()
        files.write_json(out, record)
    click.echo("\n" + "\n".join(answers(record["results"])))
    for line in record["not_run"]:
        click.echo(f"not run: {line}")
    if rehearse:
        click.echo(table(record))
        click.echo("a rehearsal on a CPU: memory was not measured, and no figure above says anything about a card")
    click.echo(f"saved to {out}")
    if not rehearse and shape == "medgemma" and not only:
        write_table(record)


if __name__ == "__main__":
    main()
