"""The lm-eval prompt against lm-eval itself: the same texts, the same generations, the same scores, question by question."""

import itertools
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmlite import files, paths, prompts, records
from kmlite.models import loading, tiny
from recipes import evaluate, harness

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed (extra `eval`): make extras")

QUESTION = {"question": " 옳은 것은?\n", **{letter: f"보기 {letter}" for letter in "ABCDE"}, "answer": "B"}
WRITTEN = [
    *("B", " b", "정답: C", "정답 : c", "정답은 D 입니다", "정답은 D입니다", "답은 A", "A. 혈압", "E) 열", "B형 간염", "A와 B", "", "모름"),
    *("정답: A 아니고 정답: B", "C. 그리고 D. ", "vitamin C", "Because", "a patient", "정답\nE", "정답은 B입니다", "(C)", "ABC", "정답：D"),
]


def test_prompt_and_examples_as_the_task_writes_them():
    body = "옳은 것은?\nA. 보기 A\nB. 보기 B\nC. 보기 C\nD. 보기 D\nE. 보기 E\n정답："
    assert prompts.harness_prompt(QUESTION) == body
    assert prompts.harness_prompt(QUESTION, [QUESTION, {**QUESTION, "answer": "E"}]) == f"{body} B\n\n{body} E\n\n{body}"


@pytest.mark.parametrize(
    ("text", "output"),
    [("B.\nC", "B"), ("B\n\nQ: 다음", "B"), ("값은 2.5", "값은 2"), ("B\nC", "B\nC"), ("가</s>나<|im_end|>", "가"), ("", "")],
)
def test_output_ends_before_the_first_stop(text, output):
    assert prompts.harness_output(text) == output


@needs_lm_eval
def test_letters_are_read_as_lm_eval_reads_them():
    from lm_eval.tasks.kormedmcqa.utils import CHOICE_PATTERNS, extract_choice

    assert [(p.pattern, p.flags) for p in prompts.HARNESS_CHOICES] == [(p.pattern, p.flags) for p in CHOICE_PATTERNS]
    assert {text: prompts.harness_answer(text) for text in WRITTEN} == {text: extract_choice(text) or None for text in WRITTEN}
    assert len({prompts.harness_answer(text) for text in WRITTEN}) == 6


@needs_lm_eval
def test_the_task_is_the_one_that_lm_eval_ships():
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    task = yaml.load((Path(find_spec("lm_eval").origin).parent / "tasks/kormedmcqa/_template_yaml").read_text("utf-8"), Loader)
    assert str(task["metadata"]["version"]) == prompts.HARNESS["version"]
    assert tuple(task["generation_kwargs"]["until"]) == prompts.HARNESS_STOPS
    assert task["generation_kwargs"]["max_gen_toks"] == prompts.TOKENS["lm-eval"]
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
    texts = [prompts.harness_prompt(q) + next(ways).format(q["answer"], q[q["answer"]]) for q in records.read_exam(refined, "train")]
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
    calls = [["--base", str(writer), "--refined", str(asked), "--out", str(out / name), *way] for name, way in ways.items()]
    for name, call in zip(ways, calls, strict=True):
        call += [] if name == "0-shot" else ["--batch", "1"]
    code = f"""
import functools, os
from torch.utils import collect_env
collect_env.get_pip_packages = functools.cache(collect_env.get_pip_packages)  # lm-eval asks pip at each call
os.chdir({str(out)!r})
from recipes.harness import command
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
def test_every_question_as_lm_eval_itself(writer, asked, by_lm_eval, way):
    arguments = WAYS[way]
    common = ["--base", str(writer), "--refined", str(asked), "--out", str(by_lm_eval / way), *arguments]
    mine = CliRunner().invoke(evaluate.command, [*common, "--prompt", "lm-eval", "--batch", "3"])
    assert mine.exit_code == 0, mine.output
    folder = next((by_lm_eval / way).rglob(paths.EVALUATION)).parent

    theirs = files.read_lines(folder / paths.HARNESS_PREDICTIONS)
    ours = files.read_lines(folder / paths.PREDICTIONS)
    questions, fewshot = (records.read_exam(asked, split) for split in ("test", "fewshot"))
    examples = {s: [row for row in fewshot if row["subject"] == s] if "--shots" in arguments else [] for s in ("nurse", "doctor")}
    for question, their, our in zip(questions, theirs, ours, strict=True):
        text = prompts.harness_prompt(question, examples[question["subject"]])
        if "--chat" in arguments:
            text = f"<bos><start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n"
        assert their.pop("prompt") == text
        assert our == their
    if way == "0-shot":  # the only way in which the small model has learned to answer
        assert len({one["answer"] for one in ours}) > 2
        assert 0 < sum(one["right"] for one in ours) < len(ours)
    assert len({one["output"] for one in ours}) > 1

    record, own = (files.read_json(folder / name) for name in (paths.HARNESS, paths.EVALUATION))
    assert record["summary"] == own["summary"]
    assert record["prompt"] == own["prompt"]
    results = record["lm_eval"]["results"].values()
    assert sum(r["exact_match,extract_answer"] * r["sample_len"] for r in results) == pytest.approx(record["summary"]["right"])
    assert {str(v) for v in record["lm_eval"]["versions"].values()} == {prompts.HARNESS["version"]}
    assert set(record["summary"]["by_year"]) == {"2022", "2023", "2024"}
    assert len((folder / paths.TEST_LOG).read_text().splitlines()) == 2


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


def test_few_shot_rows_of_dev_are_not_asked(writer, asked, tmp_path):
    """Five of the six dev questions are the examples themselves, as KorMedMCQA's are: their answers would stand before them."""
    arguments = ["--base", writer, "--refined", asked, "--out", tmp_path, "--split", "dev", "--prompt", "lm-eval", "--shots", "5"]
    done = CliRunner().invoke(evaluate.command, [str(a) for a in [*arguments, "--max-new-tokens", "4"]])
    assert done.exit_code == 0, done.output
    assert "5 questions that are few-shot examples" in done.output
    assert files.read_json(next(tmp_path.rglob(paths.EVALUATION)))["summary"]["n"] == 1


@pytest.mark.parametrize("recipe", [evaluate, pytest.param(harness, marks=needs_lm_eval)])
def test_too_few_examples_are_named(recipe, base, refined, tmp_path):
    arguments = ["--base", base, "--refined", refined, "--out", tmp_path, "--shots", "5"]
    arguments += ["--prompt", "lm-eval"] if recipe is evaluate else []
    done = CliRunner().invoke(recipe.command, [str(a) for a in arguments])
    assert done.exit_code == 1
    assert "dentist has 1 few-shot rows" in done.output
    assert not list(tmp_path.rglob(paths.TEST_LOG))


@needs_lm_eval
def test_without_a_network_the_hub_error_says_what_to_do(base, tmp_path, monkeypatch):
    import lm_eval.tasks
    from click import ClickException

    from kmlite.evaluation import harness as package

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
    from kmlite.evaluation import harness as package

    monkeypatch.setattr(package, "find_spec", lambda name: None)
    done = CliRunner().invoke(harness.command, [])
    assert done.exit_code == 1
    assert "make extras" in done.output
