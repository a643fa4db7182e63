"""What the pages name exists: paths, targets, options with values that parse, files, headings."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest
from words import hits

from kmlite import paths

NOTEBOOK = paths.ROOT / "docs/colab.ipynb"
READMES = [paths.ROOT / "README.md", paths.ROOT / "README.ko.md"]
PAGES = [*READMES, *(paths.ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "model/README.md"))]
PAGES += sorted((paths.ROOT / "docs").rglob("*.md"))
RECIPES = [p.stem for p in (paths.ROOT / "recipes").glob("[a-z]*.py")]
MADE_BY_USE = ("data/01_raw", "data/02_refined", "data/demo", "model/")  # of a user's own runs
NOT_OURS = ("help", "head", "shutdown")  # --head is Ray's, --shutdown WSL's
FENCED = re.compile(r"(?:^(?P<above>[^\n]*)\n)?^ *```(?P<kind>\w*)\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its blocks."""
    return FENCED.sub(lambda block: f"{block['above'] or ''}\n", text)


def name_of(page: Path) -> str:
    return str(page.relative_to(paths.ROOT))


def text_of(page: Path) -> str:
    """A page's text; of a notebook its Markdown, and its code in blocks of sh without the `!` of each line."""
    if page != NOTEBOOK:
        return page.read_text(encoding="utf-8")
    parts = []
    for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else "```sh\n" + re.sub(r"^!", "", source, flags=re.MULTILINE) + "\n```")
    return "\n\n".join(parts)


def code_lines(text: str) -> list[str]:
    """The lines of a page's blocks, a continued line as one, and the pieces in backticks of its running text."""
    lines = [line.strip() for block in FENCED.finditer(text) for line in block["body"].replace("\\\n", " ").splitlines()]
    return lines + [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", prose(text))]


def make_commands(text: str) -> list[str]:
    """Every make command of a page, without what is said behind it: a comment, or words after two blanks."""
    found = (re.search(r"(?:^|\| )(?:[A-Z_]+=\S+ )*(make [^|]+)", line) for line in code_lines(text))
    return [re.split(r"\s{2,}|\s[#<>]", match[1])[0].strip() for match in found if match]


@cache
def what_make_runs(command: str) -> list[str]:
    """The lines that make would run, without running them.

    Nothing of this process's own make may reach it: `make test ARGS=…` hands its variables on.
    """
    arguments = shlex.split(command)[1:]
    known = set(re.findall(r"^([A-Z_]+) [?:]?=|\$\(([A-Z])\)", MAKEFILE, re.MULTILINE))
    for name in [argument.partition("=")[0] for argument in arguments if "=" in argument]:
        assert any(name in pair for pair in known), f"the Makefile has no variable {name}: {command}"
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.done", "-o", ".venv/.extras", *arguments],
        cwd=paths.ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.splitlines()


MAKEFILE = (paths.ROOT / "Makefile").read_text(encoding="utf-8")


def check_line(line: str) -> None:
    """Parse the options of `python -m recipes.X …` as that recipe would; those of its …-args settings as theirs."""
    found = re.search(r"-m (recipes|benchmarks)\.(\w+)(.*)", line)
    if not found:
        return
    if found[1] == "benchmarks":
        assert (paths.ROOT / "benchmarks" / f"{found[2]}.py").exists(), line
        return
    check_options(found[2], shlex.split(found[3], comments=True))


def check_options(recipe: str, arguments: list[str]) -> None:
    command = importlib.import_module(f"recipes.{recipe}").command
    if "--help" in arguments:
        return
    try:
        context = command.make_context(recipe, list(arguments))
    except click.UsageError as error:
        pytest.fail(f"{recipe} {shlex.join(arguments)}: {error.format_message()}")
    for name, value in context.params.items():
        if name.endswith("_args"):
            check_options({"eval": "evaluate"}.get(name.removesuffix("_args"), name.removesuffix("_args")), shlex.split(value))


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=name_of)
def test_every_command_is_one_that_make_and_the_recipe_take(page):
    text = text_of(page)
    for command in make_commands(text):
        for line in what_make_runs(command):
            check_line(line)
    for line in code_lines(text):
        if line.startswith(".venv/bin/python -m "):
            check_line(line)


@pytest.mark.parametrize(
    "command",
    ["make nothing", "make stage0 RAWS=x", 'make stage0 ARGS="--max-stepps 2"', 'make stage0 ARGS="--max-steps two"',
     'make eval ARGS="--scorer word"', "make pipeline ARGS=\"--stage1-args '--ranks 2'\""],
)  # fmt: skip
def test_a_wrong_command_is_seen(command):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        for line in what_make_runs(command):
            check_line(line)


# ---- what a command needs: a block of kind `sh` runs in a fresh clone, unless the line above says that it takes more

GPU_TARGETS = ("stage0", "stage1", "stage2", "pipeline", "eval", "export", "chat", "bench-gpu", "test-gpu")
NETWORK = re.compile(r"make (?:setup|extras|data|lock)\b|\bhf auth|\bhf download|git clone|pip install|--hub\b|--push(?!.*--dry-run)")
MARKS = {"a GPU": re.compile(r"^\*.*GPU.*\*$"), "a network": re.compile(r"^\*.*(?:network|네트워크).*\*$")}


def needs(line: str) -> set[str]:
    """What a line takes besides the clone: "a GPU" to train or ask a model of MedGemma's size, "a network"."""
    found = {"a network"} if NETWORK.search(line) else set()
    target = re.match(r"(?:[A-Z_]+=\S+ )*make ([a-z0-9-]+)", line)
    if target and target[1] in GPU_TARGETS and "demo" not in line and "--rehearse" not in line:
        found.add("a GPU")
    return found


def sh_blocks(text: str) -> list[tuple[str, list[str]]]:
    """(the line above, the lines) of each block of kind sh."""
    found = [block for block in FENCED.finditer(text) if block["kind"] == "sh"]
    return [((block["above"] or "").strip(), block["body"].replace("\\\n", " ").splitlines()) for block in found]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_that_need_a_gpu_or_a_network_say_so(page):
    for above, lines in sh_blocks(text_of(page)):
        for what in set().union(*(needs(line.strip()) for line in lines)):
            assert MARKS[what].match(above), f"needs {what}: {lines}"


# ---- paths, links, options in running text


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=name_of)
def test_paths_and_links_exist(page):
    text = text_of(page)
    named = re.findall(r"`((?:kmlite|recipes|tests|data|docs|model|requirements)/[\w./\-]*)", text)
    without_code = re.sub(r"`[^`]+`", "", prose(text))
    linked = [link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", without_code) if not link.startswith("http")]
    for path in named:
        assert path.startswith(MADE_BY_USE) or (paths.ROOT / path).exists(), path
    for path, _, anchor in linked:
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or target.suffix != ".md" or anchor in headings(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", READMES, ids=name_of)
def test_the_tree_is_the_tree(page):
    block = page.read_text(encoding="utf-8").split("```\nMakefile")[1].split("```")[0]
    named = set(re.findall(r"^  (\w+/|\w+\.py(?:  \w+\.py)*)", block, re.MULTILINE))
    shown = {name for line in named for name in line.split()}
    there = {p.name for p in (paths.ROOT / "kmlite").glob("[a-z]*.py")}
    there |= {f"{p.name}/" for p in (paths.ROOT / "kmlite").glob("[a-z]*") if (p / "__init__.py").exists()}
    assert shown == there


def test_both_languages_show_the_same_figures_and_commands():
    """Tables of figures and commands: a Korean page may say it in other words, not with other figures."""
    pairs = [tuple(READMES), *((paths.ROOT / "docs" / page.name, page) for page in sorted((paths.ROOT / "docs/ko").glob("*.md")))]
    assert len(pairs) >= 8
    for english, korean in pairs:
        found = []
        for page in (english, korean):
            text = page.read_text(encoding="utf-8")
            blocks = [re.split(r"\s+#", line)[0] for line in code_lines(text) if line.startswith(("make ", ".venv/bin/"))]
            rows = [re.findall(r"\d+\.\d+", line) for line in prose(text).splitlines() if line.startswith("|")]
            cells = [row for row in rows if len(row) > 2]  # rows of figures; words may hold a number more
            found.append((blocks, cells))
        assert set(found[0][0]) <= set(found[1][0]), korean  # a Korean page may show more
        assert found[0][1] == found[1][1], korean


READ = [paths.ROOT / "kmlite/messages.ko.txt", paths.ROOT / "kmlite/sharing/report/report.html.j2"]  # what a user reads beside the pages
READ += [page for page in PAGES if page.name not in ("CHANGELOG.md", "log.md")]


@pytest.mark.parametrize("page", READ, ids=name_of)
def test_pages_speak_the_fields_language(page):
    assert not hits(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in (*PAGES, NOTEBOOK) if page.name != "CHANGELOG.md"], ids=name_of)
def test_options_in_running_text_exist(page):
    known = {item.name for recipe in RECIPES for item in fields(import_module(f"recipes.{recipe}").Settings)}
    known |= set(re.findall(r'click.option\("--([a-z]+)"', (paths.ROOT / "benchmarks/gpu.py").read_text()))
    for option in re.findall(r"(?<![\w\-])--([a-z][a-z\-]*[a-z])(?!\w)", text_of(page)):
        name = option.removeprefix("no-").replace("-", "_")
        assert name in known or option in NOT_OURS, option


def test_the_notebook_is_one():
    """The parts of the nbformat 4.5 schema that Jupyter and Colab refuse a file for; it is kept without outputs."""
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and isinstance(book["metadata"], dict)
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", one) for one in ids)
    for cell in book["cells"]:
        code = cell["cell_type"] == "code"
        assert {key: cell[key] for key in ("execution_count", "outputs") if key in cell} == (
            {"execution_count": None, "outputs": []} if code else {}
        )
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if code:
            compile("".join(line for line in cell["source"] if not line.startswith(("!", "%"))), "colab.ipynb", "exec")


def test_help_answers_without_loading_the_stack():
    """Heavy imports wait until a recipe has work to do; torch alone takes longer to import than a person waits."""
    code = (
        "import importlib, sys\nfrom click.testing import CliRunner\n"
        f"for name in {sorted(RECIPES)}:\n"
        "    result = CliRunner().invoke(importlib.import_module(f'recipes.{name}').command, ['--help'])\n"
        "    assert result.exit_code == 0 and '--' in result.output, result.output\n"
        "    heavy = {'torch', 'transformers', 'unsloth', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lock", ["cpu", "gpu"])
def test_locks_hold_what_the_in_files_ask_for(lock):
    def blocks(file: str) -> dict[str, str]:
        text = (paths.ROOT / "requirements" / file).read_text()
        found = [block for block in re.split(r"\n(?=[A-Za-z])", text) if re.match(r"[A-Za-z]", block)]
        return {re.match(r"[\w.\-]+", block)[0].lower().replace("_", "-"): block for block in found}

    locked, asked = blocks(f"{lock}.txt"), {**blocks("cpu.in"), **blocks("unsloth.in"), **(blocks("gpu.in") if lock == "gpu" else {})}
    for name, block in asked.items():
        version = re.match(r"[\w.\-]+(==\S+)?", block)[1] or "=="
        assert version in locked[name], name
    for name, block in locked.items():
        assert "==" in block and "--hash=sha256:" in block, name
    assert "torch" not in locked  # a CPU or a CUDA build, by what the index gives
    assert {"sympy", "networkx", "jinja2", "setuptools"} <= set(locked)  # torch's own dependencies
    assert any(name.startswith("nvidia") for name in locked) == (lock == "gpu")
