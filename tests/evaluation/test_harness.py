"""lm-eval itself on a small model: its own task word for word on local questions, and its figures in kmlite's records."""

import itertools
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmlite import files, paths, prompts, records
from kmlite.evaluation import harness as package
from kmlite.models import loading, tiny
from recipes import evaluate

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed (extra `eval`): make extras")


def in_its_words(question: dict) -> str:
    options = "\n".join(f"{letter}. {question[letter]}" for letter in prompts.LETTERS)
    return f"{question['question'].strip()}\n{options}\n정답："


@needs_lm_eval
def test_the_task_is_the_one_that_lm_eval_ships():
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    task = yaml.load((package.shipped() / "_template_yaml").read_text("utf-8"), Loader)
    assert str(task["metadata"]["version"]) == package.VERSION
    assert task["generation_kwargs"]["max_gen_toks"] == package.LONGEST_ANSWER
    assert task["fewshot_config"]["sampler"] == "first_n"


@pytest.fixture(scope="module")
def asked(tmp_path_factory, refined) -> Path:
    """Refined questions of two subjects, five few-shot rows each, and years."""
    pools = {s: [q for q in records.read_exam(refined, "train") if q["subject"] == s] for s in ("nurse", "doctor")}
    out = tmp_path_factory.mktemp("asked")
    rows = [q for pair in zip(*(pool[5:12] for pool in pools.values()), strict=True) for q in pair]  # the subjects take turns
    for i, row in enumerate(rows):
        row |= {"year": 2022 + i % 3}
    files.write_lines(paths.exam_split(out, "test"), rows)
    files.write_lines(paths.exam_split(out, "dev"), pools["nurse"][:6])
    files.write_lines(paths.exam_split(out, "fewshot"), [q for pool in pools.values() for q in pool[:5]])
    return out


@pytest.fixture(scope="module")
def writer(tmp_path_factory, refined) -> Path:
    """A small model that has learned to write a letter behind `정답：`, in some of the ways that a letter is written."""
    loading.fast_model()
    ways = itertools.cycle([" {}\n\n", " {}. {}\n\n", "은 {}입니다.\n\n", " 모름\n\n"])
    texts = [in_its_words(q) + next(ways).format(q["answer"], q[q["answer"]]) for q in records.read_exam(refined, "train")]
    folder = tmp_path_factory.mktemp("writer") / "base"
    tiny.build(folder, texts, [("혈압은?", "높다")], pieces=1500, hidden=64, layers=2, steps=60)
    return folder


WAYS = {"0-shot": [], "5-shot": ["--shots", "5"], "5-shot-in-chat": ["--shots", "5", "--chat"]}


@pytest.fixture(scope="module")
def by_lm_eval(plain, writer, asked, tmp_path_factory) -> Path:
    """What lm-eval makes of it, in a process of its own: with the model classes of plain transformers, and no network.

    "hub" is its own task untouched; `datasets` finds a folder of the data set's name where it runs, and takes it for the hub's.
    Of several questions at once lm-eval goes on to 1,024 tokens where their answers end by different stops: so one way alone does that.
    """
    out = tmp_path_factory.mktemp("by_lm_eval")
    as_on_the_hub(out / "sean0042/KorMedMCQA", asked)
    ways = {"hub": ["--hub"], **WAYS}
    calls = [
        ["--scorer", "lm-eval", "--base", str(writer), "--refined", str(asked), "--out", str(out / name), *way]
        for name, way in ways.items()
    ]
    for name, call in zip(ways, calls, strict=True):
        call += [] if name == "0-shot" else ["--batch", "1"]
    code = f"""
import functools, os
from torch.utils import collect_env
collect_env.get_pip_packages = functools.cache(collect_env.get_pip_packages)  # lm-eval asks pip at each call
os.chdir({str(out)!r})
from recipes.evaluate import command
for call in {calls!r}: command(call, standalone_mode=False)
"""
    status, said = plain.run(code)
    assert status == 0, said
    return out


def as_on_the_hub(folder: Path, asked: Path) -> None:
    """KorMedMCQA's shape: a configuration a subject, the splits test and fewshot, answers from 1 to 5."""
    head = ["---", "configs:"]
    for subject in ("doctor", "nurse", "pharm", "dentist"):
        head += [f"- config_name: {subject}", "  data_files:"]
        for split in ("test", "fewshot"):
            head += [f"  - split: {split}", f"    path: {subject}/{split}.jsonl"]
            rows = [q for q in records.read_exam(asked, split) if q["subject"] == subject]
            rows = rows or [{**q, "subject": subject} for q in records.read_exam(asked, split)[:1]]
            rows = [{k: v for k, v in q.items() if k != "cot"} | {"answer": "ABCDE".index(q["answer"]) + 1, "year": 2024} for q in rows]
            files.write_lines(folder / subject / f"{split}.jsonl", rows)
    files.write_text(folder / "README.md", "\n".join([*head, "---", ""]))


@needs_lm_eval
@pytest.mark.parametrize("way", WAYS)
def test_every_question_is_asked_and_scored_by_lm_eval_as_shipped(asked, by_lm_eval, way):
    folder = next((by_lm_eval / way).rglob(paths.HARNESS)).parent
    theirs = files.read_lines(folder / paths.HARNESS_PREDICTIONS)
    questions, fewshot = (records.read_exam(asked, split) for split in ("test", "fewshot"))
    shots = 5 if "--shots" in WAYS[way] else 0
    for question, their in zip(questions, theirs, strict=True):
        examples = [row for row in fewshot if row["subject"] == question["subject"]][:shots]
        text = "".join(f"{in_its_words(row)} {row['answer']}\n\n" for row in examples) + in_its_words(question)
        if "--chat" in WAYS[way]:
            text = f"<bos><start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n"
        assert their["prompt"] == text
        assert (their["expected"], their["subject"], their["year"]) == (question["answer"], question["subject"], question["year"])
        assert their["right"] == (their["answer"] == question["answer"])
    if way == "0-shot":  # the only way in which the small model has learned to answer
        assert len({one["answer"] for one in theirs}) > 2
        assert 0 < sum(one["right"] for one in theirs) < len(theirs)

    record = files.read_json(folder / paths.HARNESS)
    results = record["lm_eval"]["results"].values()
    assert sum(r["exact_match,extract_answer"] * r["sample_len"] for r in results) == pytest.approx(record["summary"]["right"])
    assert {str(v) for v in record["lm_eval"]["versions"].values()} == {package.VERSION}
    assert record["prompt"]["shots"] == shots
    assert set(record["summary"]["by_year"]) == {"2022", "2023", "2024"}
    assert len((folder / paths.TEST_LOG).read_text().splitlines()) == 1


@needs_lm_eval
def test_the_task_untouched_gives_the_same(by_lm_eval):
    def found(name: str) -> tuple[dict, list[dict]]:
        path = next((by_lm_eval / name).rglob(paths.HARNESS))
        return files.read_json(path), files.read_lines(path.parent / paths.HARNESS_PREDICTIONS)

    (hub, theirs), (_, local) = found("hub"), found("0-shot")
    written = {one["question"]: (one["prompt"], one["output"], one["answer"]) for one in local}
    mine = [one for one in theirs if one["subject"] in ("doctor", "nurse")]
    assert {one["question"]: (one["prompt"], one["output"], one["answer"]) for one in mine} == written
    assert hub["plan"]["data"] == "sean0042/KorMedMCQA"
    assert hub["summary"]["n"] == len(local) + 2
    group = hub["lm_eval"]["results"]["kormedmcqa"]
    assert group["exact_match,extract_answer"] == pytest.approx(hub["summary"]["right"] / hub["summary"]["n"])


@needs_lm_eval
def test_too_few_examples_are_named(base, refined, tmp_path):
    arguments = ["--scorer", "lm-eval", "--base", base, "--refined", refined, "--out", tmp_path, "--shots", "5"]
    done = CliRunner().invoke(evaluate.command, [str(a) for a in arguments])
    assert done.exit_code == 1 and "dentist has 1 few-shot rows" in done.output
    assert not list(tmp_path.rglob(paths.TEST_LOG))


@needs_lm_eval
def test_without_a_network_the_hub_error_says_what_to_do(base, tmp_path, monkeypatch):
    import lm_eval.tasks
    from click import ClickException

    class Manager:
        def __init__(self, **how):
            pass

        def load(self, names):
            assert names == ["kormedmcqa"]
            raise ConnectionError("Couldn't reach 'sean0042/KorMedMCQA' on the Hub")

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Manager)
    with pytest.raises(ClickException, match="make refine"):
        package.run(base, tmp_path, None, shots=0, chat=False)


def test_a_missing_lm_eval_names_the_command(monkeypatch):
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    done = CliRunner().invoke(evaluate.command, ["--scorer", "lm-eval", "--hub"])
    assert done.exit_code == 1 and "make extras" in done.output
