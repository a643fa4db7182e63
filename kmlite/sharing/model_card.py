"""The model card of an exported model: what was trained on what, the figures with their intervals, the terms, the warning."""

import json
import re
from pathlib import Path

from kmlite import files, paths, results
from kmlite.evaluation import voting
from kmlite.sharing.report import words

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

base = AutoModelForCausalLM.from_pretrained({named}, dtype="bfloat16")
model = PeftModel.from_pretrained(base, FOLDER)
tokenizer = AutoTokenizer.from_pretrained({named})
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


def notice(base_name: str) -> str:
    """The sentence that the base's terms ask to travel with every copy; both where the base's name does not tell."""
    foundations = f"HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of Use found at {HAI_DEF}"
    gemma = f"Gemma is provided under and subject to the Gemma Terms of Use found at {GEMMA}"
    known_gemma = base_name.lower().startswith("google/gemma")
    return "\n".join(([] if known_gemma else [foundations]) + [gemma])


def text(source, kind: str, checked: str, named: str) -> str:
    """The README.md of an export of an `export.Source` as "merged", "adapter" or "gguf".

    `checked`: what was compared after writing, in words; `named`: of an adapter the base in its adapter_config.json.
    """
    # a stand-in says so in the first line; it never reaches the Hub, so it needs no front matter
    parts = [STAND_IN if source.stand_in else front_matter(source.base_name, kind)]
    parts += [
        f"# {escaped(source.base_name)} trained on Korean medicine" if not source.stand_in else "# A stand-in, exported to try the steps",
        f"Made by kmlite, {words.STEPS[source.records[-1]['plan']['step']][0]}; {kind} format.",
        WARNING,
        "## Use",
        USE[kind].replace("{named}", json.dumps(named, ensure_ascii=False)).replace("FOLDER", '"this/folder"'),
        "## What was trained on what",
        training(source),
        "## Figures, before and after",
        figures(source),
        "## Checked after writing",
        checked,
        "## Terms",
        terms(source),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(base_name: str, kind: str) -> str:
    """The YAML head that the Hub reads."""
    known = "medgemma" in base_name.lower()
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
        plan, trained = record["plan"], record["training"]
        settings, step = plan["settings"], words.STEPS[plan["step"]][0]
        start = f"{escaped(plan['base']['name'])} ({plan['base'].get('commit') or plan['base']['fingerprint']})"
        used = {name: value for name, value in plan["data"].items() if name != "replay" or settings.get("replay")}
        data = ", ".join(f"{name} {value}" for name, value in used.items())
        lora = f"rank {settings['rank']}, alpha {settings['alpha']}"
        rows = f"{sum(part['rows'] for part in trained):,} in {len(trained)} runs" if len(trained) != 1 else f"{trained[0]['rows']:,}"
        cells = (step, start, data, lora, f"{settings['learning_rate']:g}", f"{rows} × {settings['epochs']:g}")
        lines.append("| " + " | ".join([*cells, record["precision"], str(record.get("commit"))]) + " |")
    if new_tokens := source.records[0].get("vocabulary", {}).get("new_tokens"):
        lines += ["", f"Stage 0 added {new_tokens:,} Korean tokens to the vocabulary; all older tokens keep their ids."]
    versions = source.records[-1]["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft", "unsloth"))
    return "\n".join([*lines, "", f"Versions: {named}."])


def figures(source) -> str:
    """All that the stages, `make eval` and lm-eval measured, of this model and of the first base, with 95% intervals and n."""
    lines = table([one for record in source.records for one in record["results"]])
    lines += [
        "",
        "In brackets the 95% interval (Wilson). Exam questions of the stages: kmlite's short prompt, answers written greedily and read by "
        "`read_answer` (scorer `generate`). Dev steered the training and test did not; seen questions were learned from.",
    ]
    base = source.folder.parent / "eval" / source.base_name.strip("/").replace("/", "--")
    for name, folder in (("this model", source.folder), (escaped(source.base_name), base)):
        for file in (paths.EVALUATION, paths.HARNESS):
            if not (record := files.read_record(folder / file)):
                continue
            settings, prompt = record["plan"]["settings"], record["prompt"]
            asked = f"{settings['split']} split, prompt {prompt['name']} version {prompt['version']}, scorer {settings['scorer']}"
            asked += f", {voting.in_words(settings.get('vote', 1), bool(settings.get('prior')))}"
            lines += ["", f"`make eval` of {name}: {asked}:", "", *table(record["results"])]
            if record.get("test_openings"):
                lines += ["", f"Test had been scored {record['test_openings']}× for this model by then."]
    return "\n".join(lines)


def table(found: list[dict]) -> list[str]:
    """The results as a Markdown table: a row for each measure, a column for each moment."""
    columns, rows = results.table(found)
    lines = [f"| stage | measure | {' | '.join(columns)} | n |", "| --- " * (3 + len(columns)) + "|"]
    for row in rows:
        name = escaped(row["name"][0]) + ("", "", " (less is better)")[row["better"]]
        lines.append(f"| {row['stage']} | {name} | {' | '.join(row['cells'])} | {row['n']:,} |")
    return lines


def escaped(text: str) -> str:
    """Text from data as text in Markdown: no table cell, link, tag or emphasis of its own."""
    return re.sub(r"([\\`*_{}\[\]<>()#|!~])", r"\\\1", " ".join(text.split()))


def terms(source) -> str:
    base = "" if source.stand_in else f" The base is {escaped(source.base_name)}."
    return (
        f"- Weights that descend from MedGemma are under the [Health AI Developer Foundations terms]({HAI_DEF}), those of Gemma under "
        f"[Gemma's terms]({GEMMA}); both bind whoever passes them on (see NOTICE).{base}\n"
        "- KorMedMCQA, where the exam questions are its, is CC BY-NC 2.0: no commercial use.\n"
        "- Under which licences the Korean text and the dictionary were published, kmlite does not know. Whoever passes this model on must."
    )
