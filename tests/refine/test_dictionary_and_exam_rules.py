"""The rules for dictionary entries and for exam questions."""

from decimal import Decimal

import pytest

from kmlite.refine import dictionary, exam, leakage

# ---- dictionary


SAME = (  # terms that are one name
    "고혈압;쓸개/담낭;고혈압(高血壓);심근경색(증);1차 진료;5-HT;제1형 당뇨병;2.5차 병원;2,3-DPG;2. 둘;;A/G 비;"
    "척수, 뇌신경 및 중추신경계통의 악성 신생물;N,N-디메틸트립타민;당뇨병, 제2형;빈혈, 재생불량성;Anemia, aplastic"
)
TERMS = {
    "  천식 ": "천식",
    "대사  증후군": "대사 증후군",
    "1. 조 치조 2. 폐포": "조/치조/폐포",
    "1.분만 2.전달": "분만/전달",
    "1. 결절 2. 림프절 3. 마디": "결절/림프절/마디",
    "①흡인 ②천자흡인": "흡인/천자흡인",
    "1. 하나": "하나",
    "허파, 폐": "허파/폐",
    "맹장염; 충수염": "맹장염/충수염",
    "폐, 폐": "폐",
    "/폐/": "폐",
    "(골)수강": "골수강/수강",
    "골(수)강": "골수강/골강",
    "(급성)심근경색, 심장마비": "급성심근경색/심근경색/심장마비",
    "(Lactic dehydrogenase LDH)": "Lactic dehydrogenase LDH",
    "<b>간염</b>": "간염",
    "가\n나": "가 나",
    "허파,폐": "허파/폐",
    "1. 심방 세동 2. 조동": "심방 세동/조동",
    "(1) 가슴 (2) 흉곽": "가슴/흉곽",
    "1) 가슴 2) 흉곽": "가슴/흉곽",
    "①": "",
}


@pytest.mark.parametrize(("raw", "expected"), [*TERMS.items(), *((term, term) for term in SAME.split(";"))])
def test_clean_term(raw, expected):
    assert dictionary.clean_term(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Hypertension\n 세부설명 : 혈압이 높다", "Hypertension - 혈압이 높다"),
        ("Hypertension 세부설명:혈압이 높다", "Hypertension - 혈압이 높다"),
        ("\n 세부설명 : 혈압이 높다", "혈압이 높다"),
        ("Hypertension\n 세부설명 : ", "Hypertension"),
        ("Tonsil\n 세부설명 : 가\n 세부설명 : 나", "Tonsil - 가 - 나"),
        ("Knee  Arthrocentesis\n\n 세부설명 : 무릎   관절\n\n", "Knee Arthrocentesis - 무릎 관절"),
        ("한\n두\n\n세 줄", "한 두 세 줄"),
        ("<b>B형간염</b>은 O<sub>2</sub>", "B형간염은 O2"),
        ("산혈증(pH < 7.35)과 <  60회", "산혈증(pH < 7.35)과 < 60회"),
        ("", ""),
    ],
)
def test_clean_definition(raw, expected):
    assert dictionary.clean_definition(raw) == expected


LUNG = "가슴 안의 양쪽에 있는 장기"


@pytest.mark.parametrize(
    ("term", "definition", "becomes"),
    [
        (..., LUNG, "missing_field"),
        ("허파", ..., "missing_field"),
        (None, LUNG, "missing_field"),
        ("안압", 15, "missing_field"),
        (["허파"], LUNG, "missing_field"),
        (..., ..., "missing_field"),
        ("폐", LUNG, "short_term"),
        (" (폐) ", LUNG, "short_term"),
        ("", LUNG, "short_term"),
        ("두통", "머리가 아픈 증상", "short_definition"),  # 9 characters
        ("두통", "머리가 아픈 증상.", ("두통", "머리가 아픈 증상.")),  # 10
        ("기침", "Cough\n 세부설명 : ", "short_definition"),
        ("혈액투석", "혈액투석 혈액투석 혈액투석", "repeats_term"),
        ("혈액투석", "혈액투석, 콩팥 대신", ("혈액투석", "혈액투석, 콩팥 대신")),
        ("흉부촬영", "흉부촬영\n 세부설명 : 흉부촬영 흉부촬영", "repeats_term"),
        ("Aspirin", "aspirin, ASPIRIN", "repeats_term"),
        ("심부전", "- - - - - -", "repeats_term"),
        ("허파, 폐", "Lung\n 세부설명 : 숨 쉬는 장기", ("허파/폐", "Lung - 숨 쉬는 장기")),
    ],
)
def test_what_becomes_of_an_entry(term, definition, becomes):
    record = {key: value for key, value in {"term": term, "definition": definition, "note": 1}.items() if value is not ...}
    entry, reason = dictionary.check(record)
    assert (reason if entry is None else tuple(entry.values())) == becomes


def test_several_senses_of_a_term_are_numbered_in_one_entry():
    found = [("기관", "몸의 단위"), ("이명", "귀울림"), ("기관", "공기의 통로")]
    joined = dictionary.join_senses([{"term": term, "definition": definition} for term, definition in found])
    assert [tuple(entry.values()) for entry in joined] == [("기관", "1. 몸의 단위 2. 공기의 통로"), ("이명", "귀울림")]


# ---- exam questions


READ = [*enumerate("ABCDE", 1), *((letter, letter) for letter in "ABCDE"), ("b", "B")]
AS_C = ["3", " c\n", 3.0, "③", "Ｃ", "３", "3번", "(3)", "정답: C", "정답은 3번입니다", "C.", "Ⓒ", Decimal(3)]
NO_ANSWER = [
    0,
    6,
    -1,
    2.5,
    float("nan"),
    float("inf"),
    None,
    True,
    False,
    [1],
    {"A": 1},
    *["0", "6", "F", "AB", "ABCDE", "", "²", "-1", "모름"],
]


@pytest.mark.parametrize(
    ("answer", "letter"), [*READ, *((answer, "C") for answer in AS_C), *((answer, None) for answer in (*NO_ANSWER, "9" * 5000))]
)
def test_read_letter(answer, letter):
    assert exam.read_letter(answer) == letter


OWN_TEXTS = {"나": "B", "B) 나": "B", "2. 나": "B", "B) 다": None, "나 또는 다": None, "바": None, "AA": "D", "aa": "D", "3": "C"}


@pytest.mark.parametrize(("answer", "letter"), OWN_TEXTS.items())
def test_an_answer_may_be_an_options_own_text(answer, letter):
    assert exam.read_letter(answer, ["가", "나", "다", "AA", "마"]) == letter


RAW = {"question": "금기인 약물은?", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마", "answer": 2}
REFINED = RAW | {"answer": "B"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *[({key: ...}, "missing_field") for key in ("question", "A", "B", "C", "D", "E", "answer")],
        ({"question": ""}, "empty_question"),
        ({"question": " \n"}, "empty_question"),
        ({"question": None}, "empty_question"),
        ({"E": ""}, "empty_option"),
        ({"A": None}, "empty_option"),
        ({"A": True}, "empty_option"),
        ({"A": float("nan")}, "empty_option"),
        ({"answer": 9}, "bad_answer"),
        ({"answer": None}, "bad_answer"),
        ({"answer": "B, C"}, "bad_answer"),
        ({"B": "가"}, "duplicate_options"),
        ({"question": "50 \ufffdg을 쓰는 약물은?"}, "broken_character"),
        ({"year": "9" * 5000}, "bad_number"),
        ({"year": 10**30}, "bad_number"),
        ({"B": " 가 "}, "duplicate_options"),
        ({"A": "Aspirin", "B": "aspirin"}, "duplicate_options"),
    ],
)
def test_why_a_question_is_set_aside(change, reason):
    record = {key: value for key, value in (RAW | change).items() if value is not ...}
    assert exam.check(record) == (None, reason)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"answer": "b"}, {}),
        ({"question": "금기인\u200b  약물은? "}, {}),
        ({"question": "결과는?\n혈압 < 90"}, {"question": "결과는?\n혈압 < 90"}),
        ({"A": 1, "B": 2.5}, {"A": "1", "B": "2.5"}),
        ({"A": "AA", "B": "Aa", "C": "aa"}, {"A": "AA", "B": "Aa", "C": "aa"}),  # genotypes differ by case alone
        ({"year": 2020, "q_number": 3}, {"year": 2020, "q_number": 3}),
        ({"year": "2020", "period": 1.0}, {"year": 2020, "period": 1}),
        ({"year": float("nan"), "period": "", "q_number": None}, {}),
        ({"year": True, "period": "1교시", "q_number": 2.5}, {}),
        ({"subject": "doctor"}, {"subject": "doctor"}),
        ({"exam_type": "nurse"}, {"subject": "nurse"}),
        ({"subject": "", "exam_type": "nurse"}, {"subject": "nurse"}),
        ({"subject": "doctor", "exam_type": "nurse"}, {"subject": "doctor"}),
        ({"cot": ""}, {}),
        ({"cot": None}, {}),
    ],
)
def test_a_good_question(change, expected):
    assert exam.check(RAW | change) == (REFINED | expected, "")


@pytest.mark.parametrize(
    ("cot", "kept"),
    [
        ("차근차근 생각해봅시다. 혈압을 떨어뜨립니다. 따라서, 정답은 (B) 입니다.", True),
        ("혈압을 떨어뜨립니다. 정답은 B이다.", True),
        ("혈압을 떨어뜨립니다.", True),  # no conclusion to disagree with
        ("혈압을 떨어뜨립니다. 따라서, 정답은 (C) 입니다.", False),
        ("차근차근 생각해봅시다. 혈압을 떨어뜨립니다. 정답은 E입니다.", False),
        ("혈압을 떨어뜨립니다. 따라서 정답은 C번입니다.", False),
        ("혈압을 떨어뜨립니다. 따라서 정답은 (C) 다입니다.", False),
        ("차근차근 생각해봅시다. 따라서, 정답은 (B) 입니다.", False),  # nothing between opening and conclusion
    ],
)
def test_a_reasoning_that_ends_in_another_letter_is_dropped_the_question_stays(cot, kept):
    question, reason = exam.check(RAW | {"cot": cot})
    assert reason == ""
    assert question == (REFINED | {"cot": cot} if kept else REFINED)


@pytest.mark.parametrize(
    "change", [{"question": "금기인  약물은"}, {"question": "금기인약물은 ?"}, {"A": "마", "E": "가"}, {"answer": "C"}]
)
def test_the_same_question_has_the_same_key(change):
    assert leakage.exact_key(REFINED) == leakage.exact_key(REFINED | change)


@pytest.mark.parametrize("change", [{"question": "적절한 약물은?"}, {"A": "바"}])
def test_another_question_has_another_key(change):
    assert leakage.exact_key(REFINED) != leakage.exact_key(REFINED | change)
