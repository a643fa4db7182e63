"""Write docs/settings.md from the settings of the recipes: make docs."""

from dataclasses import MISSING, Field, fields
from importlib import import_module

from kmlite import files, paths

# recipe → the make target that runs it
RECIPES = {
    "demo": "demo",
    "doctor": "doctor",
    "data": "data",
    "refine": "refine",
    "stage0": "stage0",
    "stage1": "stage1",
    "stage2": "stage2",
    "evaluate": "eval",
    "harness": "eval HARNESS=1",
    "compare": "compare",
    "report": "report",
    "chat": "chat",
    "export": "export",
    "pipeline": "pipeline",
}
# settings that a variable of the Makefile hands over
VARIABLES = {"raw": "RAW=", "refined": "REFINED=", "out": "OUT=", "base": "BASE=", "model": "MODEL=", "a": "A=", "b": "B="}

HEAD = """# Every setting

Written by `make docs` from the recipes; the reasons are those of `--help`. A setting goes through make as
`ARGS="--rank 32 --no-shuffle"`; one with a variable beside it is better set by that: `make stage0 OUT=model/try`. What was changed
from its default stands in bold in the report.
"""


def page() -> str:
    parts = [HEAD]
    for name, target in RECIPES.items():
        module = import_module(f"recipes.{name}")
        summary = module.__doc__.split("\n\n")[0].replace("\n", " ").strip()
        rows = [row(item, target) for item in fields(module.Settings)]
        parts.append("\n".join([f"## make {target}", summary, "", "| setting | default | why |", "| --- | --- | --- |", *rows, ""]))
    return "\n".join(parts)


def row(item: Field, target: str) -> str:
    name = item.name.replace("_", "-")
    option = f"`--{name}`, `--no-{name}`" if isinstance(item.default, bool) else f"`--{name}`"
    if item.name in VARIABLES and target != "demo" and not (target == "export" and item.name == "base"):
        option += f" or `{VARIABLES[item.name]}`"
    why = item.metadata["why"].replace("|", "\\|")
    if choices := item.metadata["choices"]:
        why += f" ({', '.join(choices)})"
    return f"| {option} | {said(item.default)} | {why} |"


def said(default: object) -> str:
    if default is MISSING or default == "":
        return "–"
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"`{default}`"


if __name__ == "__main__":
    files.write_text(paths.ROOT / "docs/settings.md", page())
