"""The report: what the records say is on the page, what is missing is named, and text from data stays text."""

import base64
import hashlib
import html
import json
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from click.testing import CliRunner

from kmlite import files, paths, results
from kmlite.evaluation import published, scoring
from kmlite.sharing.report import answers, plots
from kmlite.sharing.report import page as report
from recipes import report as recipe

HOSTILE = "<script>window.ran = 1</script></script><!-- <img src=x onerror='ran=1'> \"&amp;' \u2028\u2029 $x_1$ @0@ {{ 7*7 }}"
SUBJECTS = ("doctor", "nurse", "pharm", "dentist")
STAGE0 = {"settings": {"new_tokens": "256", "rank": 64}, "cosmetic": {"save_every": 20}}
STAGE0 |= {"base": {"name": "google/medgemma-4b-it", "fingerprint": "aa00"}}
REASONS = {"questions": 12, "texts": 36, "kept": 5, "dropped": {"wrong letter": 31}}
GENERATE = {"scorer": "generate", "prompt": "kmlite", "orders": 1, "precision": "16bit"}


def question(number: int, text: str | None = None) -> dict:
    options = {letter: f"{number}번의 선택지 {letter}" for letter in "ABCDE"}
    return {"question": text or f"{number}번 문제: 옳은 것은?", **options, "answer": "ABCDE"[number % 5], "subject": SUBJECTS[number % 4]}


def predictions(questions: list[dict], right: set[int]) -> list[dict]:
    """Answers of which those at the places `right` are right; each tenth of the others is unreadable."""
    out = []
    for place, asked in enumerate(questions):
        letter = asked["answer"] if place in right else None if place % 10 == 9 else "ABCDE"["ABCDE".index(asked["answer"]) - 1]
        keys = {"number": place + 1, "question": asked["question"], "subject": asked["subject"], "expected": asked["answer"]}
        out.append({**keys, "answer": letter, "right": place in right, "output": f"{letter or '모르겠다'}<end_of_turn>"})
    return out


def curve(steps: int, start: float) -> list[dict]:
    logged = [{"step": step, "loss": start - step / steps, "learning_rate": 1e-4} for step in range(1, steps + 1, 4)]
    return [*logged, {"step": steps, "eval_loss": start - 0.5}]


def training(steps: int, start: float, **more) -> dict:
    return {"steps": steps, "rows": 80, "loss": start - 0.5, "seconds": 12.0, "curve": curve(steps, start), **more}


def record(folder: Path, plan: dict, found: list[dict], runs: list[dict], **more) -> None:
    made: dict = {"versions": {"torch": "2.13.0", "peft": "0.21.2"}, "python": "3.11.9", "commit": "abc1234", "device": "NVIDIA H999"}
    made |= {"threads": 4, "worse": [], "also_worse": [], "stand_in": False}
    content = {"plan": plan, "results": found, "training": runs, "seconds": 75.0, "finished": "2026-11-22T09:10:11+0000", **made, **more}
    files.write_json(folder / paths.RECORD, content)


def bits(stage: str, **moments: dict) -> list[dict]:
    """Results of bits per character: bits("stage0", before={"korean": 2.5, …}, after=…); `step_4` is the moment "step 4"."""
    out = []
    for when, costs in moments.items():
        found = [results.result("bits_per_character", data, value, 20) for data, value in costs.items()]
        out += results.stamped(found, stage, when.replace("_", " "))
    return out


def suite(korean: float) -> dict:
    return {"korean": korean, "dictionary": korean - 1, "english": korean - 2}


def asked(stage: str, when: str, data: str, given: list[dict]) -> list[dict]:
    return results.stamped(results.of_answers(scoring.summarise(given), data, **GENERATE), stage, when)


def evaluation(folder: Path, questions: list[dict], right: set[int], openings: int = 2) -> None:
    given = predictions(questions, right)
    summary = scoring.summarise(given)
    settings = {"split": "test", "scorer": "generate", "vote": 1}
    plan = {"settings": settings, "model": {"folder": str(folder / paths.FINAL), "fingerprint": "ee55"}, "data": "dd44"}
    files.write_lines(folder / paths.PREDICTIONS, given)
    for _ in range(openings):
        scoring.log_opening(folder, "eval", summary)
    found = asked("eval", "after", "test", given)
    files.write_json(folder / paths.EVALUATION, {"plan": plan, "summary": summary, "results": found, "stand_in": False})


def choice(when: str, right: int) -> dict:
    return results.stamped([results.of_score(scoring.score(right, 50), "definition_choice", "seen definitions")], "stage1", when)[0]


def finished_out(out: Path, refined: Path, *, test: int = 60, text: str | None = None) -> Path:
    """An OUT as the three stages and eval leave it, with records of their shape; the first question may be given."""
    exam = {split: [question(i, text if i == 0 else None) for i in range(n)] for split, n in (("dev", 40), ("test", test))}
    for split, listed in exam.items():
        files.write_lines(paths.exam_split(refined, split), listed)
    found = bits("stage0", before=suite(2.5), extended=suite(2.6), step_40=suite(2.4), after=suite(2.25))
    for when, right in (("before", 8), ("after", 20)):
        found += results.stamped([results.of_score(scoring.score(right, 40), "accuracy", "dev")], "stage0", when)
    memory = {"planned_bytes": 6 << 30, "measured_bytes": 5 << 30}
    vocabulary = {"new_tokens": 256, "used_share": 0.75, "most_used": [["혈압", 31], ["환자", 22]]}
    facts = {"vocabulary": vocabulary, "trainable": {"lora": 1000, "embeddings": 200, "frozen": 9000}, "memory": memory}
    facts["precision"] = "4bit"
    record(out / paths.STAGES[0].folder, {"step": "stage0", **STAGE0, "data": {"text": "bb11"}}, found, [training(80, 3.0)], **facts)
    found = bits("stage1", before={"seen definitions": 4.9}, after={"seen definitions": 4.3})
    found += [choice("before", 11), choice("after", 33)]
    worse = ["bits per character, dictionary: cost more"]
    plan = {"step": "stage1", "settings": {"batch": 4, "accumulation": 1}}
    record(out / paths.STAGES[1].folder, plan, found, [training(60, 2.0)], worse=worse)

    folder = out / paths.STAGES[2].folder
    dev = {when: predictions(exam["dev"], right) for when, right in (("before", set(range(8))), ("after", set(range(4, 20))))}
    files.write_lines(folder / paths.DEV_BEFORE, dev["before"])
    files.write_lines(folder / paths.DEV_AFTER, dev["after"])
    files.write_lines(folder / "loop_1/dev_predictions.jsonl", predictions(exam["dev"], set(range(4, 18))))
    loop = {"loop": 1, "results": asked("stage2", "loop 1", "dev", dev["after"])}
    loop["training"] = {"loop": 1, **training(50, 1.5), "self_reasons": REASONS}
    found = asked("stage2", "before", "dev", dev["before"]) + bits("stage2", before=suite(2.25), after=suite(2.4))
    found += loop["results"] + asked("stage2", "after", "dev", dev["after"])
    facts = {"best_loop": 1, "stopped": "1 loops done", "target_reached": False, "also_worse": ["Korean costs more"]}
    plan = {"step": "stage2", "settings": {"target": 90.0}, "cosmetic": {"save_every": 25}}
    record(folder, plan, found, [loop["training"]], **facts)
    files.write_json(folder / "loop_1" / paths.RECORD, loop)
    evaluation(folder, exam["test"], set(range(0, test, 2)))
    evaluation(out / "eval/google--medgemma-4b-it", exam["test"], set(range(0, test, 3)), openings=0)
    return out


@pytest.fixture(scope="module")
def made(refined, tmp_path_factory) -> tuple[Path, Path]:
    """(REFINED, OUT): the refined sample with other questions, and a finished OUT whose first question is hostile."""
    root = tmp_path_factory.mktemp("report")
    mine = shutil.copytree(refined, root / "refined")
    row = {"reason": "advertisement", "source": "00_korean/<b>web</b>.jsonl", "line": 7, "record": HOSTILE}
    kept = (mine / paths.REJECTED / "text.jsonl").read_text(encoding="utf-8")
    files.write_text(mine / paths.REJECTED / "text.jsonl", json.dumps(row, ensure_ascii=False) + "\n" + kept)
    return mine, finished_out(root / "모델", mine, text=HOSTILE)


@pytest.fixture(scope="module")
def page(made) -> str:
    return report.build(*made, "en", recipe.defaults())


def elements(page: str) -> list[tuple[str, dict]]:
    """Every element of the page with its attributes."""
    listed: list[tuple[str, dict]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            listed.append((tag, dict(attrs)))

    Parser().feed(page)
    return listed


def english(page: str) -> str:
    """The page's text in English."""
    for pattern, left in (
        (r"<(script|style).*?</\1>", " "),
        (r'<(span|tspan) class="ko".*?</\1>', ""),
        (r"</?(?:span|b|small|code)\b[^>]*>", ""),
        (r"<[^>]+>", " "),
    ):
        page = re.sub(pattern, left, page, flags=re.DOTALL)
    return " ".join(html.unescape(page).split())


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


# ---- what is there


def test_the_figures_of_the_records_are_on_the_page(made, page):
    text = english(page)
    for said in (
        "accuracy: test 50.0% 95% interval 37.7–62.3",  # 30 of 60
        "test scored 2×",
        "20.0% → 40.0%",  # dev before stage 0 and after stage 2
        "2.5000 → 2.4000",
        "−4.0%",
        "4.9000 → 4.3000",
        "it ended worse than it began",
        "dictionary: cost more",
        "other measures got worse. Korean costs more",
        "NVIDIA H999",
        "6.00 GiB",
        "5.00 GiB",
        "google/medgemma-4b-it",
        "2.13.0",
        "bb11",
        "256 new tokens; 75% of them stand in the texts",
        "right definition of five (chance 20%): definitions, seen 22.0% (12.8–35.2) 66.0% (52.1–77.6) +44.0 50",
        "bits per character: Korean, held out 2.2500 2.4000 +6.7% 20",
        "Loop 1: of 36 reasonings that the model wrote itself 5 were kept. wrong letter 31",
    ):
        assert " ".join(said.split()) in text, said
    assert "글자당 비트, 사전: cost more" in page
    funnel = files.read_json(made[0] / paths.REFINE_RECORD)["funnel"]
    for part in funnel.values():
        for reason in part["rejected"]:
            assert f"<code>{reason}</code>" in page


def test_published_figures_stand_beside_ours_where_the_whole_of_test_was_asked(made, page, monkeypatch):
    assert "Beside published figures" not in page  # 60 questions are none of theirs
    monkeypatch.setattr(published, "LEAST", 60)
    page = report.build(*made, "en", {})
    table = page[page.index("Beside published figures") :].split("</table>")[0]
    shares = [float(found) for found in re.findall(r'<td class="n">(\d+\.\d)%', table)]
    assert shares == sorted(shares, reverse=True)
    assert {row["accuracy"] for row in published.PUBLISHED} <= set(shares)
    assert table.count('class="ours"') == 2


def test_settings_that_differ_from_their_default_are_marked(page):
    changed = re.findall(r'<tr class="changed"><td><code>--([a-z-]+)', page)
    assert changed == ["new-tokens", "save-every", "accumulation", "save-every"]  # rank, batch and target are the defaults


def test_a_stand_in_is_said_first_and_only_of_a_stand_in(made, page, base, tmp_path):
    assert "A stand-in, not MedGemma." not in page
    out = tmp_path / "out"
    shutil.copytree(made[1], out)
    path = out / paths.STAGES[1].folder / paths.RECORD
    marked = files.read_json(path)
    marked["stand_in"] = True
    files.write_json(path, marked)
    body = report.build(made[0], out, "en", {}).split("<body>")[1]
    assert body.lstrip().startswith('<div class="stand-in"')
    # nothing finished yet: the folder that stage 0 starts from says it
    begun = tmp_path / "begun"
    files.write_json(
        begun / paths.STAGES[0].folder / paths.PLAN, {"step": "stage0", "settings": {}, "base": {"name": str(base)}, "data": {}}
    )
    assert "A stand-in, not MedGemma." in report.build(made[0], begun, "en", {})


def test_curves_hold_loops_and_what_was_measured_on_the_way(made):
    given = report.gather(*made)
    assert [given["loops"].count(f">{label}<") for label in ("before", "1", "final")] == [1, 1, 1]  # stage 2's alone
    assert [stage["loss"]["steps"] for stage in given["stages"]] == [80, 60, 50]
    assert [name for name, _ in given["stages"][0]["measured"]["data"]] == ["Korean, held out", "dictionary", "English medicine"]
    assert given["stages"][1]["measured"] is None
    two = plots.loss("x", [training(50, 1.5), training(30, 1.0)])
    assert (two["steps"], two["runs"], two["watched"]) == (80, 2, 0.5)
    long = [{"step": step, "loss": 2.0} for step in range(1, 5001)]
    assert plots.loss("x", [{"curve": long, "steps": 5000}])["svg"].count("L ") < 2 * plots.POINTS


def test_pairs_are_compared_and_flips_counted(made):
    found, problems = answers.found(made[1])
    assert not problems
    pairs = {(c["split"], c["from"][0], c["to"][0]): c for c in answers.comparisons(found)}
    dev = pairs["dev", "before stage 2", "after stage 2"]
    assert (dev["n"], dev["difference"], len(dev["gained"]), len(dev["lost"])) == (40, 20.0, 12, 4)
    assert ("test", "google/medgemma-4b-it", "after stage 2") in pairs
    assert [(a.split, a.name[0]) for a in found] == [  # what was asked twice stands once
        ("test", "google/medgemma-4b-it"),
        ("dev", "before stage 2"),
        ("dev", "loop 1"),
        ("dev", "after stage 2"),
        ("test", "after stage 2"),
    ]


def test_the_option_chosen_in_each_order_is_shown(made, tmp_path):
    asked = [question(i) for i in range(3)]
    voted = predictions(asked, {0, 1, 2})
    for letter, given in zip("ABC", voted, strict=True):
        given |= {"chosen_in": [letter, "C"], "probabilities": [0.1, 0.2, 0.3, 0.4, 0.0]}
    evaluation(tmp_path / paths.STAGES[2].folder, asked, {0, 1, 2})
    files.write_lines(tmp_path / paths.STAGES[2].folder / paths.PREDICTIONS, voted)
    found, _ = answers.found(tmp_path)
    shown = answers.browser(found, made[0])["sets"][0]["answers"]
    assert shown == [[letter, 1, [0.1, 0.2, 0.3, 0.4, 0.0], None, [letter, "C"]] for letter in "ABC"]


# ---- what is not there


def test_every_half_finished_folder_makes_a_page(made, tmp_path, make_checkpoint):
    refined, out = made
    empty = tmp_path / "empty"
    text = english(report.build(refined, empty, "en", {}))
    assert text.count("not yet") == len(paths.STAGES) + 1 and f"make stage0 REFINED={refined} OUT={empty}" in text

    # a stage 0 that was killed: its plan, what it measured before, and a whole checkpoint behind a half written one
    half = tmp_path / "half"
    kept = half / paths.STAGES[0].folder / paths.CHECKPOINTS
    files.write_json(half / paths.STAGES[0].folder / paths.PLAN, {"step": "stage0", **STAGE0, "data": {}})
    files.write_json(kept / "results.json", {"before": {"results": bits("stage0", before=suite(2.5))}})
    state = {"global_step": 40, "max_steps": 160, "log_history": curve(40, 3.0)}
    make_checkpoint(kept / "checkpoint-40", state)
    files.write_text(kept / "checkpoint-60/trainer_state.json", '{"global_st')
    text = english(report.build(tmp_path / "nowhere", half, "en", {}))
    assert "begun, not finished at step 40 / 160" in text
    assert "40 steps, from 2.975 to 2.075" in text and "Not finished." in text
    assert "bits per character: Korean, held out 2.5000" in text
    assert "make refine REFINED=" in text

    # a stage 2 in its second loop
    folder = half / paths.STAGES[2].folder
    files.write_json(folder / paths.PLAN, {"step": "stage2", "settings": {"target": 90.0}, "data": {}})
    found = files.read_json(out / paths.STAGES[2].folder / paths.RECORD)["results"]
    before = [one for one in found if one["when"] == "before"]
    files.write_json(folder / paths.CHECKPOINTS / "results.json", {"before": {"results": before}})
    shutil.copytree(out / paths.STAGES[2].folder / "loop_1", folder / "loop_1")
    make_checkpoint(folder / paths.CHECKPOINTS / "loop_2/checkpoint-10", {"global_step": 10, "log_history": curve(10, 1.0)})
    given = report.gather(refined, half)
    assert given["stages"][2]["loss"]["steps"] == 60
    assert given["loops"]
    report.build(refined, half, "en", recipe.defaults())


def test_damaged_predictions_are_named_and_the_rest_goes_on(made, tmp_path):
    out = shutil.copytree(made[1], tmp_path / "out")
    path = out / paths.STAGES[2].folder / paths.DEV_BEFORE
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    page = report.build(made[0], out, "en", {})
    assert "A file could not be read and is left out:" in page and paths.DEV_BEFORE in english(page)
    assert len(data_of(page)["sets"]) == 4


def test_a_damaged_line_of_what_was_set_aside_costs_no_more_than_itself(made, tmp_path):
    refined = shutil.copytree(made[0], tmp_path / "refined")
    path = refined / paths.REJECTED / "text.jsonl"
    first, others = path.read_text(encoding="utf-8").split("\n", 1)
    path.write_text(first + '\n{"reason": "too_sh\n[]\n{}\n' + others, encoding="utf-8")
    assert report.gather(refined, made[1])["examples"] == report.gather(*made)["examples"]


def test_the_command_writes_the_page_in_the_language_asked_for_or_says_that_there_is_nothing(made, tmp_path):
    def run(refined: Path, out: Path, *more: str):
        return CliRunner().invoke(recipe.command, ["--refined", str(refined), "--out", str(out), *more])

    nothing = run(tmp_path / "a", tmp_path / "b")
    assert nothing.exit_code == 1 and "make demo" in nothing.output and not (tmp_path / "b").exists()
    out = shutil.copytree(made[1], tmp_path / "out")
    result = run(made[0], out, "--language", "ko")
    assert result.exit_code == 0, result.output
    assert '<html lang="ko">' in (out / paths.REPORT).read_text(encoding="utf-8")


# ---- what must hold of any page


def test_the_same_folders_give_the_same_bytes(made, page):
    assert report.build(*made, "en", recipe.defaults()) == page


def test_hostile_text_is_text(made, page):
    kinds = [tag for tag, _ in elements(page)]
    assert kinds.count("script") == 2 and "img" not in kinds
    assert data_of(page)["splits"]["test"][0][0] == HOSTILE
    block = page[page.index('id="data">') :].split("</script>")[0]
    assert not set("<&\u2028\u2029") & set(block[len('id="data">') :])
    assert HOSTILE.split("\u2028")[0].strip() in english(page)  # the rejected record, as it stood
    assert "{{ 7*7 }}" in english(page)  # and is no template of its own


def test_words_in_plots_are_escaped_and_never_reach_mathtext():
    found = [results.of_score(scoring.score(4, 10), "accuracy", "test", subject=name) for name in ("<b>$\\frac", "나&다")]
    svg = plots.by_subject(results.stamped(found, "eval", "after"))["svg"]
    assert "&lt;b&gt;$\\frac" in svg and "나&amp;다" in svg and "<b>" not in svg


def test_half_a_surrogate_and_a_number_that_is_none_do_no_harm(made, tmp_path):
    out = shutil.copytree(made[1], tmp_path / "out")
    path = out / paths.STAGES[2].folder / paths.PREDICTIONS
    lines = files.read_lines(path)
    lines[0] |= {"output": "\ud83d", "probabilities": [float("nan")] * 5}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report.build(made[0], out, "en", {})
    page.encode()
    assert data_of(page)["sets"][-1]["answers"][0][2] is None


def test_nothing_is_loaded_from_anywhere(page):
    for tag, attributes in elements(page):
        assert "src" not in attributes and "style" not in attributes.get("href", ""), tag
        for name, value in attributes.items():
            if name in ("href", "action", "data", "poster", "srcset", "background"):
                link = tag == "a" and value.startswith(("#", "https://"))
                assert link or (tag == "use" and value.startswith("#")) or value == "data:,", (tag, value)
            assert not name.startswith("on"), (tag, name)
    assert "@import" not in page and not re.findall(r"url\((?!#)", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"'sha256-{digest}'" in policy


def test_all_words_are_in_both_languages(page):
    pairs = re.findall(r'<(span|tspan) class="en"[^>]*>(.*?)</\1><\1 class="ko"[^>]*>(.*?)</\1>', page, re.DOTALL)
    assert len(pairs) == page.count('class="en"') == page.count('class="ko"') > 120
    for _, english, korean in pairs:
        assert english.strip() and korean.strip()
        assert not re.search("[가-힣]", english), english
        assert re.search("[가-힣]", korean), korean


def test_ten_thousand_questions_with_long_answers_are_15_mb(tmp_path):
    """Questions of the length of KorMedMCQA's longer ones, answered by two models, each with 1,000 characters."""
    chance, n = random.Random(0), 10_000
    syllables = "가나다라마바사아자차카타파하혈압환자진단검사치료 "
    listed = []
    for i in range(n):
        options = {letter: "".join(chance.choices(syllables, k=18)) for letter in "ABCDE"}
        listed.append({**question(i, f"{i}: " + "".join(chance.choices(syllables, k=150))), **options})
    files.write_lines(paths.exam_split(tmp_path / "refined", "test"), listed)
    for name, step in (("eval/google--medgemma-4b-it", 3), (paths.STAGES[2].folder, 2)):
        evaluation(tmp_path / "out" / name, listed, set(range(0, n, step)))
        given = files.read_lines(tmp_path / "out" / name / paths.PREDICTIONS)
        long = {"probabilities": [0.123456, 0.2, 0.3, 0.176544, 0.2]}
        files.write_lines(tmp_path / "out" / name / paths.PREDICTIONS, [{**p, **long, "output": "가" * 1000 + p["output"]} for p in given])
    page = report.build(tmp_path / "refined", tmp_path / "out", "en", {})
    assert len(page.encode()) < 15_000_000
    assert [len(part["answers"]) for part in data_of(page)["sets"]] == [n] * 2
    assert data_of(page)["sets"][0]["answers"][0][3] == "가" * 100 + "…"


# ---- in a browser


def choose(tab: browser.Page, name: str, value: str) -> None:
    tab.run(
        f"(() => {{ const s = document.getElementById('{name}'); s.value = {json.dumps(value)}; s.dispatchEvent(new Event('change')); }})()"
    )


def shown(tab: browser.Page) -> list[str]:
    return tab.run("[...document.querySelectorAll('.question .text')].map(p => p.textContent)")


def count(tab: browser.Page) -> str:
    return tab.run("document.querySelector('#found .en').textContent")


@browser.needed
def test_the_page_in_a_browser(made, page, tmp_path):
    target = tmp_path / paths.REPORT
    target.write_text(page, encoding="utf-8")
    with browser.page() as tab:
        tab.open(target.as_uri())
        assert tab.run("document.querySelectorAll('.plot svg').length") == 6
        assert tab.run("[...document.querySelectorAll('.plot svg')].every(s => s.getBoundingClientRect().width > 200)")

        # text from data is text, and no script of it ran
        assert shown(tab)[0] == HOSTILE
        assert tab.run("document.images.length") == 0 and tab.run("typeof window.ran") == "undefined"

        # filters: the last model's answers, against the base's; gained: even places that are not divisible by three
        wanted = {"all": (60, 30), "wrong": (30, 0), "gained": (20, 20), "lost": (10, 0), "unreadable": (6, 0)}
        for verdict, (n, right) in [*wanted.items(), ("all", (60, 30))]:
            choose(tab, "verdict", verdict)
            assert count(tab) == f"{n} of 60 questions, {right} of them right"
        choose(tab, "subject", "=nurse")
        assert count(tab) == "15 of 60 questions, 0 of them right"
        choose(tab, "subject", "")
        tab.click("#search")
        tab.type("17번 선택지")
        tab.wait("document.querySelectorAll('.question').length === 1")
        assert shown(tab) == ["17번 문제: 옳은 것은?"]
        tab.run("(() => { const s = document.getElementById('search'); s.value = ''; s.dispatchEvent(new Event('input')); })()")
        tab.wait("document.querySelectorAll('.question').length === 20")
        tab.click("#pages button:nth-of-type(2)")
        assert shown(tab)[0].startswith("20번 문제")
        before = tab.run("[...document.getElementById('set').options].findIndex(o => o.textContent === 'dev: before stage 2')")
        choose(tab, "set", str(before))
        assert count(tab) == "40 of 40 questions, 8 of them right"

        # the language
        seen = "getComputedStyle(document.querySelector('h2 .%s')).display !== 'none'"
        assert tab.run(seen % "en") and not tab.run(seen % "ko")
        tab.click("[data-language=ko]")
        assert tab.run(seen % "ko") and not tab.run(seen % "en")
        assert tab.run("document.querySelector('#verdict option').textContent") == "모두"
        made_here = (
            "[...document.querySelectorAll('#found, #pages, .verdict, .marks, #verdict, #filters label')].map(e => e.innerText).join(' ')"
        )
        choose(tab, "set", str(tab.run("document.getElementById('set').options.length - 1")))
        left = re.sub("google/medgemma-4b-it|make eval|test|dev", "", tab.run(made_here))
        assert "정답" in left and "쪽 가운데" in left and not re.search("[a-z]", left), left
        assert tab.run("document.body.innerText.includes('핵심 수치') && !document.body.innerText.includes('Key figures')")

        # no size makes the page scroll sideways, and light is not dark
        grounds = set()
        for width in (360, 1280, 1920):
            for dark in (False, True):
                tab.size(width, 800)
                tab.dark(dark)
                assert tab.overflow() == 0, width
                grounds.add(tab.run("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2

        assert len(tab.send("Page.printToPDF")["data"]) > 100_000
        assert tab.errors == []
        assert tab.requests == [target.as_uri()]
