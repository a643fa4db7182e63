"""The model card of an exported model: what was trained on what, the figures with their intervals, the terms, the warning."""

import re
from pathlib import Path

from kmlite import files, paths

HAI_DEF = "https://developers.google.com/health-ai-developer-foundations/terms"
GEMMA = "https://ai.google.dev/gemma/terms"
STAND_IN = (
    "**This is a stand-in, not a medical model: it descends from kmlite's embedded base of about a million parameters. "
    "Its figures say nothing about MedGemma.**"
)
WARNING = (
    "**Not for the care of patients.** This is a language model that was asked exam questions. It can be wrong in every sentence and sound "
    "sure. It was not tested in a clinic, and nobody has approved it as a medical device. Do not diagnose, treat or advise anyone by it."
)
NAMES = {"korean": "held-out Korean", "english": "English medicine", "dictionary": "dictionary"}
STEPS = ("Korean text", "medical dictionary", "exam questions")
USE = {
    "merged": """\
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype="bfloat16")
processor = AutoProcessor.from_pretrained(FOLDER)
```

vLLM reads the same folder; that was not run by kmlite.""",
    "adapter": """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{named}", dtype="bfloat16")
model = PeftModel.from_pretrained(base, FOLDER)
tokenizer = AutoTokenizer.from_pretrained("{named}")
```

It fits no other base: the tokens and weights of that one were trained too.""",
    "gguf": """\
```
llama-completion -m model-q8_0.gguf --temp 0 -p "<start_of_turn>user
QUESTION<end_of_turn>
<start_of_turn>model
"
ollama create NAME -f Modelfile
```""",
}


def is_medgemma(base_name: str) -> bool:
    return "medgemma" in base_name.lower()


def notice(base_name: str) -> str:
    """The sentence that the base's terms ask to travel with every copy; both where the base's name does not tell."""
    foundations = f"HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of Use found at {HAI_DEF}"
    gemma = f"Gemma is provided under and subject to the Gemma Terms of Use found at {GEMMA}"
    known_gemma = base_name.lower().startswith("google/gemma")
    return "\n".join(([] if known_gemma else [foundations]) + [gemma])


def text(source, kind: str, done: dict) -> str:
    """The README.md of an export.

    Args:
        source: `export.Source`.
        kind: "merged", "adapter" or "gguf".
        done: what the export found out: "compared" in words, for an adapter also "loop" and "named".
    """
    # a stand-in says so in the first line; it never reaches the Hub, so it needs no front matter
    parts = [STAND_IN if source.stand_in else front_matter(source.base_name, kind)]
    stage = paths.STAGES.index(source.folder.name)
    parts += [
        f"# {source.base_name} taught Korean medicine" if not source.stand_in else "# A stand-in, exported to try the steps",
        f"Made by kmlite: stage {stage}, {STEPS[stage]}; {kind} format.",
        WARNING,
        "## Use",
        USE[kind].replace("{named}", done.get("named", "")).replace("FOLDER", "folder" if source.stand_in else '"this/repository"'),
        "## What was trained on what",
        training(source),
        "## Figures, before and after",
        figures(source),
        "## Checked after writing",
        done["compared"],
        "## Terms",
        terms(source),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(base_name: str, kind: str) -> str:
    """The YAML head that the Hub reads."""
    known = is_medgemma(base_name)
    lines = ["---", "language: [ko, en]", "license: other"]
    lines += [f"license_name: {'health-ai-developer-foundations' if known else 'gemma'}", f"license_link: {HAI_DEF if known else GEMMA}"]
    base_name = base_name.partition("@")[0]
    if re.fullmatch(r"[\w.\-]+/[\w.\-]+", base_name) and not Path(base_name).exists():
        lines.append(f"base_model: {base_name}")
    if kind != "gguf":
        lines.append(f"library_name: {'peft' if kind == 'adapter' else 'transformers'}")
    return "\n".join([*lines, "tags: [medical, korean, kmlite]", "---"])


def training(source) -> str:
    """A table row for each stage that led to this model: base, data, settings, versions."""
    lines = ["| step | started from | data (fingerprints) | LoRA | rate | rows × epochs | precision | kmlite |", "| --- " * 8 + "|"]
    for record in source.records:
        plan, metrics = record["plan"], record["metrics"]
        settings, step = plan["settings"], int(plan["step"][-1])
        start = f"{plan['base']['name']} ({plan['base'].get('commit') or plan['base']['fingerprint']})"
        used = {name: value for name, value in plan["data"].items() if name != "replay" or settings.get("replay")}
        data = ", ".join(f"{name} {value}" for name, value in used.items())
        lora = f"rank {settings['rank']}, alpha {settings['alpha']}"
        rows = f"{metrics['training']['rows']:,}" if "training" in metrics else f"{len(metrics['loops'])} loops"
        cells = (f"{step}, {STEPS[step]}", start, data, lora, f"{settings['learning_rate']:g}", f"{rows} × {settings['epochs']:g}")
        lines.append("| " + " | ".join([*cells, metrics["precision"], str(record.get("commit"))]) + " |")
    first = source.records[0]["metrics"]
    if first.get("new_tokens"):
        lines += ["", f"Stage 0 added {first['new_tokens']:,} Korean tokens to the vocabulary; all older tokens keep their ids."]
    versions = source.record["versions"]
    lines += [
        "",
        "Versions: " + ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft", "unsloth")) + ".",
    ]
    return "\n".join(lines)


def in_words(part: dict) -> str:
    low, high = part["interval"]
    return f"{part['accuracy']:.1f}% ({low:.1f}–{high:.1f})"


def figures(source) -> str:
    """All that the stages measured before and after themselves, and what `make eval` found, with 95% intervals and n."""
    lines = ["| stage | measure | before | after | n |", "| --- | --- | --- | --- | --- |"]

    def row(stage: int, measure: str, before: str, after: str, n: object = "") -> None:
        lines.append(f"| {stage} | {measure} | {before} | {after} | {n} |")

    def cost(stage: int, measure: str, before: float | None, after: float | None) -> None:
        if before is not None and after is not None:
            row(stage, f"bits per character, {measure} (less is better)", f"{before:.3f}", f"{after:.3f}")

    for record in source.records:
        step, metrics = int(record["plan"]["step"][-1]), record["metrics"]
        if gauge := metrics.get("gauge"):
            before, after = gauge["base" if step == 0 else "before"], gauge["after"]
            for name, value in before["bits"].items():
                cost(step, NAMES.get(name, name), value, after["bits"].get(name))
            if step == 0 and "dev" in before:
                row(0, "accuracy on dev questions", in_words(before["dev"]), in_words(after["dev"]), before["dev"]["n"])
        if step == 1:
            before, after = metrics["before"], metrics["after"]
            cost(1, "taught definitions", before["taught"], after["taught"])
            cost(1, "held-out definitions", before["heldout"], after["heldout"])
            if after["recall"]:
                n = after["recall"]["n"]
                row(1, "definitions from memory, character F1", f"{before['recall']['f1']:.1%}", f"{after['recall']['f1']:.1%}", n)
            for name, chosen in after["choice"].items():
                if chosen and before["choice"][name]:
                    row(1, f"right definition of five, {name}", in_words(before["choice"][name]), in_words(chosen), chosen["n"])
        if step == 2:
            for name, part in metrics["after"].items():
                before = metrics["before"].get(name)
                row(2, f"accuracy on {name} questions", in_words(before) if before else "not asked", in_words(part), part["n"])
    lines += [
        "",
        "In brackets the 95% interval (Wilson). Exam questions of the stages: kmlite's short prompt, answers written greedily and read by "
        "`read_answer` (scorer `generate`). Dev steered the training and test did not; taught questions were learned from.",
    ]
    return "\n".join([*lines, *evaluations(source)])


def evaluations(source) -> list[str]:
    """What `make eval` wrote of this model and of the first base, by subject, where it is there."""
    out = source.folder.parent
    places = {
        "this model": source.folder / paths.EVALUATION,
        source.base_name: out / "eval" / source.base_name.strip("/").replace("/", "--") / paths.EVALUATION,
    }
    lines = []
    for name, path in places.items():
        if not (record := files.read_record(path)):
            continue
        settings, summary = record["plan"]["settings"], record["summary"]
        prompt = f"prompt {record['prompt']['name']} version {record['prompt']['version']}"
        lines += ["", f"`make eval` of {name}: {settings['split']} split, {prompt}, scorer {settings['scorer']}:", ""]
        lines += ["| subject | accuracy | n |", "| --- | --- | --- |"]
        lines += [f"| {subject} | {in_words(part)} | {part['n']} |" for subject, part in [*summary["by_subject"].items(), ("all", summary)]]
        if record.get("test_openings"):
            lines += ["", f"Test had been scored {record['test_openings']} times for this model by then."]
    return lines


def terms(source) -> str:
    base = "" if source.stand_in else f" The base is {source.base_name}."
    return (
        f"- Weights that descend from MedGemma are under the [Health AI Developer Foundations terms]({HAI_DEF}), those of Gemma under "
        f"[Gemma's terms]({GEMMA}); both bind whoever passes them on (see NOTICE).{base}\n"
        "- KorMedMCQA, where the exam questions are its, is CC BY-NC 2.0: no commercial use.\n"
        "- Under which licences the Korean text and the dictionary were published, kmlite does not know. Whoever passes this model on must."
    )
