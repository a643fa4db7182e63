"""What the pages name exists: paths, targets, options, files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kmlite import paths
from kmlite.published import PUBLISHED

PAGES = [paths.ROOT / "README.md", paths.ROOT / "README.ko.md", *sorted((paths.ROOT / "docs").glob("*.md"))]
MADE_BY_USE = ("data/01_raw", "data/02_refined", "model/")  # of a user's own runs


@pytest.fixture(scope="module")
def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (paths.ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_make_targets_exist(page, targets):
    named = re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_and_links_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:kmlite|recipes|tests|data|docs|model|requirements)/[\w./\-]*)", text)
    linked = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    for path in named:
        assert path.startswith(MADE_BY_USE) or (paths.ROOT / path).exists(), path
    for path in linked:
        assert (page.parent / path).exists(), path


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda p: p.name)
def test_the_tree_is_the_tree(page):
    block = page.read_text(encoding="utf-8").split("```\nMakefile")[1].split("```")[0]
    for name in re.findall(r"[\w/]+\.py", block):
        assert any((paths.ROOT / folder / name).exists() for folder in ("kmlite", "recipes")), name
    for file in (*(paths.ROOT / "kmlite").glob("[a-z]*.py"), *(paths.ROOT / "recipes").glob("[a-z]*.py")):
        assert file.name in block, file.name


def test_both_readmes_show_the_same_figures():
    tables = [re.findall(r"^[012]  .*$", page.read_text(encoding="utf-8"), re.MULTILINE) for page in PAGES[:2]]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 5


def test_the_published_table_is_the_one_in_code():
    page = (paths.ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| (.+?) \| (.+?) \|$", page.split("## Published figures")[1], re.MULTILINE)
    assert rows == [(row["model"], f"{row['accuracy']:.1f}", row["how"], row["source"]) for row in PUBLISHED]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_options_in_commands_exist(page):
    known = "".join(p.read_text(encoding="utf-8") for p in (paths.ROOT / "recipes").glob("*.py"))
    of_benchmark = re.findall(r'click.option\("--([a-z]+)"', (paths.ROOT / "benchmarks/gpu.py").read_text())
    known += "".join(f"    {name}: " for name in of_benchmark)
    for option in re.findall(r"(?<![\w\-])--([a-z][a-z\-]*[a-z])", page.read_text(encoding="utf-8")):
        name = option.removeprefix("no-").replace("-", "_")
        assert f"    {name}: " in known or option in ("help", "head"), option  # --head is Ray's


@pytest.mark.parametrize("recipe", sorted(p.stem for p in (paths.ROOT / "recipes").glob("[a-z]*.py")))
def test_help_answers_without_loading_the_stack(recipe):
    """Heavy imports wait until a recipe has work to do; torch alone takes longer to import than a person waits."""
    code = (
        "import sys\nfrom click.testing import CliRunner\n"
        f"from recipes.{recipe} import command\n"
        "result = CliRunner().invoke(command, ['--help'])\n"
        "assert result.exit_code == 0 and '--' in result.output, result.output\n"
        "heavy = {'torch', 'transformers', 'unsloth', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_model_py_imports_unsloth():
    files = [p for folder in ("kmlite", "recipes") for p in (paths.ROOT / folder).rglob("*.py")]
    importing = {p.relative_to(paths.ROOT) for p in files if re.search(r"^\s*(?:from|import) unsloth", p.read_text(), re.MULTILINE)}
    assert importing == {Path("kmlite/model.py")}


@pytest.mark.parametrize("lock", ["cpu", "gpu"])
def test_locks_hold_what_the_in_files_ask_for(lock):
    def names(file: str) -> dict[str, str]:
        found = {}
        for line in (paths.ROOT / "requirements" / file).read_text().splitlines():
            if match := re.match(r"([A-Za-z0-9_.\-]+)(?:==(\S+))?$", line):
                found[match[1].lower().replace("_", "-")] = match[2]
        return found

    locked, asked = names(f"{lock}.txt"), {**names("cpu.in"), **names("unsloth.in"), **(names("gpu.in") if lock == "gpu" else {})}
    assert all(locked.values())
    for name, version in asked.items():
        assert version in (None, locked[name]), name
    assert not [name for name in locked if name == "torch" or name.startswith(("nvidia", "cuda", "triton"))]
