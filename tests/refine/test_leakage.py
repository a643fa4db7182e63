"""Copies and translations of guarded questions are found, and other questions are not."""

import functools

import pytest

from kmlite.refine import leakage


def question(stem, options, answer="A"):
    return {"question": stem, **dict(zip("ABCDE", options.split(" / "), strict=True)), "answer": answer}


TEST = question(
    "협심증으로 니트로글리세린 설하정을 쓰는 68세 환자가 함께 복용하면 심한 저혈압이 생길 수 있어 금기인 약물을 고르면?",
    "메트포르민 / 오메프라졸 / 실데나필 / 세티리진 / 로바스타틴",
    "C",
)
CASE = question(
    "47세 여자가 2주 전부터 열이 나서 왔다. 혈압 118/72 mmHg, 맥박 96회/분, 체온 38.4℃, 백혈구 13,400/mm3였다. 진단은?",
    "급성 신우신염 / 세균성 수막염 / 감염성 심내막염 / 폐결핵 / 장티푸스",
    "A",
)
WARFARIN = question(
    "와파린을 하루 5 mg씩 복용하는 72세 남자가 아미오다론 200 mg을 추가로 처방받은 뒤 INR이 6.8로 올랐다. 기전은?",
    "CYP2C9 억제 / 비타민 K 흡수 증가 / 알부민 합성 증가 / 위 배출 지연 / 콩팥 배설 증가",
    "A",
)


@pytest.fixture
def guard():
    made = leakage.ExamGuard()
    for i, guarded in enumerate((TEST, CASE, WARFARIN)):
        made.add(guarded, "test", f"test.jsonl, line {i + 1}")
    return made


@pytest.mark.parametrize("guarded", [TEST, CASE, WARFARIN], ids=["drugs", "case", "warfarin"])
@pytest.mark.parametrize(
    "change",
    [
        lambda q: q | {"A": q["A"] + "은"},
        lambda q: q | {"question": q["question"].replace("자가 ", "자는 ")},
        lambda q: q | {"question": q["question"].rstrip("?") + " 것은."},
        lambda q: q | {"question": "다음 중 " + q["question"]},
        lambda q: q | {"A": q["B"], "B": q["C"], "C": q["D"], "D": q["E"], "E": q["A"] + "이다"},
        lambda q: q | {"E": "해당 없음"},
        lambda q: q | {"question": q["question"].replace(" ", ""), "C": q["C"] + "."},
    ],
    ids=["particle in an option", "particle in the stem", "punctuation", "an opening", "order", "one option", "blanks"],
)
def test_a_near_copy_is_found(guard, guarded, change):
    found = guard.find(change(guarded), "train")
    assert found and found.reason in ("exam_near_test", "exam_leak_test", "exam_translated_test")


TRANSLATIONS = [
    question(
        "A 68-year-old patient with angina takes sublingual nitroglycerin. Which drug is contraindicated?",
        "Metformin / Omeprazole / Sildenafil / Cetirizine / Lovastatin",
        "C",
    ),
    question(
        "Which of the following must not be taken together with nitroglycerin?",
        "Lovastatin / Cetirizine / Metformin / Sildenafil / Omeprazole",
        "D",
    ),
    question(
        "A 47-year-old woman has had fever for 2 weeks. Blood pressure is 118/72 mm Hg, pulse 96/min, temperature 38.4°C "
        "and leukocytes 13,400/mm3. What is the diagnosis?",
        "Acute pyelonephritis / Bacterial meningitis / Infective endocarditis / Pulmonary tuberculosis / Typhoid fever",
        "A",
    ),
    question(
        "A 72-year-old man on warfarin 5 mg daily is given amiodarone 200 mg, and his INR rises to 6.8. What is the mechanism?",
        "Inhibition of CYP2C9 / Increased absorption of vitamin K / Increased synthesis of albumin / "
        "Delayed gastric emptying / Increased renal excretion",
        "A",
    ),
    question(
        "혈압이 118/72 mmHg, 맥박 분당 96회, 체온 38.4도, 백혈구 13400인 47세 여성이 2주간 발열을 보였다. 진단은?",
        "장티푸스 / 급성 신우신염 / 감염성 심내막염 / 세균성 수막염 / 결핵",
        "B",
    ),
]  # the last one translated back into Korean, by another hand


@pytest.mark.parametrize(
    "translated", TRANSLATIONS, ids=["drugs", "options alone", "numbers alone", "numbers and names", "back into Korean"]
)
def test_every_planted_translation_is_found(guard, translated):
    found = guard.find(translated, "train")
    assert found and found.reason == "exam_translated_test", translated["question"]
    assert found.where.startswith("test.jsonl, line ")


PATIENTS = {"47세": "23세", "118/72": "90/60", "96회": "120회", "38.4": "36.2", "13,400": "4,200", "열이 나서": "다리가 부어"}


@pytest.mark.parametrize(
    "other",
    [
        CASE | {"question": functools.reduce(lambda stem, pair: stem.replace(*pair), PATIENTS.items(), CASE["question"])},
        question("니트로글리세린이 주로 대사되는 장기는?", "간 / 콩팥 / 지라 / 허파 / 심장", "C"),
        question("A 47-year-old man has chest pain. Which drug is given first?", "Aspirin / Heparin / Digoxin / Furosemide / Atropine"),
        question("와파린의 작용 기전은?", "비타민 K 길항 / 트롬빈 억제 / 혈소판 억제 / 섬유소 용해 / 칼슘 통로 차단"),
    ],
    ids=["another patient", "another question on the drug", "English", "the same drug"],
)
def test_another_question_stays(guard, other):
    assert guard.find(other, "train") is None


def test_splits_are_told_apart(guard):
    guard.add(CASE | {"question": "훈련용 물음은?"}, "train", "train.jsonl, line 1")
    assert guard.find(CASE | {"question": "훈련용 물음은?"}, "train").reason == "duplicate"
    assert guard.find(CASE | {"question": "훈련용 물음은"}, "train").reason == "duplicate"
    assert guard.find(TEST | {"A": TEST["A"] + "은"}, "test") is None  # a copy within one split is that split's own affair
    dev = TEST | {"question": "다른 물음이 여기 있다, 무엇을 고르면?"}
    guard.add(dev, "dev", "dev.jsonl, line 1")
    assert guard.find(dev, "fewshot") is None
    assert guard.find(dev, "train").reason == "exam_leak_dev"


NAMES = (
    "메트포르민 metformin, 니트로글리세린 nitroglycerin, 와파린 warfarin, 아목시실린 amoxicillin, 레보티록신 levothyroxine, "
    "세프트리악손 ceftriaxone, 반코마이신 vancomycin, 에피네프린 epinephrine, 리시노프릴 lisinopril, "
    "하이드로클로로티아지드 hydrochlorothiazide, "
    "프레드니솔론 prednisolone, 아세트아미노펜 acetaminophen"
)


@pytest.mark.parametrize("pair", NAMES.split(", "))
def test_a_name_has_the_same_consonants_in_both_scripts(pair):
    hangul, latin = pair.split()
    assert leakage.consonants_of_hangul(hangul) in leakage.consonants_of_latin(latin)
