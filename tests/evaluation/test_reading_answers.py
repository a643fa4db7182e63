"""What is said to a model, and how its answer is read back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmlite import prompts
from kmlite.prompts import read_answer

OPTIONS = "A) 폐렴\nB) 결핵\nC) 천식\nD) 기흉\nE) 폐암"


# The letter that is read, or - where it can't be told, and what a model wrote: ¦ between two, ⏎ for a new line.
READ = """
# a letter alone, however it is dressed
B: B ¦ b ¦ B) ¦ (B) ¦ (b) ¦ b. ¦ B. ¦ [B] ¦ "B" ¦ Ｂ ¦ （Ｂ） ¦ - B
C: **C**
D: `D` ¦ D<end_of_turn> ¦ D<eos> ¦ D<end_of_turn>⏎<start_of_turn>user⏎A
# a letter with its option's text
A: A. 비타민 D 결핍
B: B) 항문열창 ¦ B. 항문열창 ¦ B: 항문열창 ¦ B 항문열창 ¦ B) 비타민 C ¦ 항문열창(B) ¦ B⏎⏎해설: A는 틀린 보기이다.
C: C) E. coli
# a sentence
A: 정답 : A ¦ 답: A ¦ 답은 A이다
B: 정답은 B입니다 ¦ 정답은 B ¦ 정답은 **(B)** 입니다. ¦ 정답은 항문열창(B)입니다. ¦ B가 가장 적절합니다. ¦ B가 맞습니다 ¦ the answer is b
B: ANSWER: B
C: C 입니다 ¦ C입니다. ¦ C이다. ¦ C예요 ¦ C번 ¦ **정답: C** ¦ 정답은 보기 C입니다 ¦ 정답은 C) 비타민 A 결핍입니다.
C: The correct answer is (C). ¦ Final answer: C
D: 따라서 D이다. ¦ 정답: D번 ¦ 정답은 "D" 입니다 ¦ 정답은 'D' ¦ 정답은 d입니다 ¦ 보기 D가 정답입니다. ¦ Answer: D ¦ answer: d
E: 정답은 (E) 입니다. ¦ The answer is E
# several letters, one of them chosen
B: A와 B 중 B가 정답 ¦ A가 아니다. B가 맞다. ¦ 정답은 B이며, A와 C는 틀렸다.
C: 정답은 A가 아니라 C입니다 ¦ 정답은 A가 아닌 C입니다. ¦ A가 아니라 C입니다. ¦ A is wrong. The answer is C. ¦ The answer is not A but C.
D: B가 아니라 정답은 D ¦ A가 오답이고 D가 정답이다. ¦ 처음에는 정답은 A라고 생각했으나, 정답은 D입니다.
# behind a reasoning
B: <reasoning>⏎첫째: A) 20%, B) 70%⏎</reasoning>B ¦ <reasoning>A</reasoning>정답은 B입니다.<end_of_turn>
C: </reasoning>C ¦ </reasoning>⏎C
D: <reasoning>⏎정답은 A입니다.⏎</reasoning>D
E: <reasoning>A</reasoning>⏎<reasoning>B</reasoning>E
-: <reasoning>⏎첫째: A는 틀리고 B가 정답 ¦ <reasoning>A</reasoning>
# it cannot be told
-: 모르겠습니다 ¦ 정답을 알 수 없습니다. ¦ A, B ¦ A와 B ¦ A 또는 B ¦ A/B ¦ A and B ¦ A or C ¦ 정답은 A와 B입니다. ¦ 정답은 A 또는 C입니다.
-: 정답: A, B
-: 정답은 A일 수도 있고 B일 수도 있다 ¦ 정답은 A가 아닙니다. ¦ B는 정답이 아닙니다. ¦ B가 정답이 아닙니다. ¦ The answer is not A. ¦ ABCDE
-: A~E ¦ A ~ E 중 하나 ¦ ① ¦ 2
-: 정답: ② ¦ F ¦ 정답은 F입니다
# letters that stand for no option
-: Because ¦ CABG ¦ AST 상승 ¦ A patient should rest ¦ A 65-year-old man has a fever ¦ E. coli 감염 ¦ 정답은 E. coli입니다.
-: 비타민 C가 부족
-: 비타민C 결핍 ¦ 정답은 비타민 C입니다. ¦ B형 간염 ¦ 정답은 B형 간염입니다. ¦ A군 사슬알균 ¦ B세포 림프종 ¦ C반응단백 상승 ¦ 인플루엔자 A
-: Hepatitis B ¦ B12 결핍 ¦ D-dimer 상승
-: IgA 신병증 ¦ HbA1c ¦ A+
"""
rows = [line.split(": ", 1) for line in READ.splitlines() if line and not line.startswith("#")]
TABLE = [(text.replace("⏎", "\n"), None if letter == "-" else letter) for letter, texts in rows for text in texts.split(" ¦ ")]
TABLE += [(" \n B \n", "B"), ("", None), ("  \n", None), (prompts.SHORT, None), (OPTIONS, None)]


@pytest.mark.parametrize(("text", "letter"), TABLE)
def test_read_answer(text, letter):
    assert read_answer(text) == letter


THOUGHT = "<unused94>thought\n환자는 열이 있다. A는 아니다. 정답은 C로 보인다.\n<unused95>"
WITH_THOUGHTS = [
    # read past it
    (THOUGHT + "B", "B", ""),
    (THOUGHT + "\nB<end_of_turn>", "B", ""),
    (THOUGHT + "정답은 D입니다.", "D", ""),
    (THOUGHT + "**E**", "E", ""),
    (THOUGHT + "B) 항문열창", "B", ""),
    (THOUGHT + "<reasoning>\n첫째: A는 아니다.\n</reasoning>B", "B", ""),
    (THOUGHT + THOUGHT + "B", "B", ""),
    (" \n" + THOUGHT + "B", "B", ""),
    ("<unused94><unused95>A", "A", ""),
    ("<unused94>thought<end_of", None, "thought never ends"),
    ("생각해 보겠습니다.\n" + THOUGHT + "정답은 B", "B", ""),
    ("환자는 열이 있다. 정답은 C로 보인다.\n<unused95>B", "B", ""),  # the template opened it
    ("B\n" + THOUGHT, "B", ""),
    ("B\n<unused94>thought\n다시", "B", ""),
    # nothing behind it
    (THOUGHT, None, "no option chosen"),
    (THOUGHT + "모르겠습니다", None, "no option chosen"),
    (THOUGHT + "A와 B", None, "no option chosen"),
    (THOUGHT + "<reasoning>\n첫째: A", None, "reasoning never ends"),
    (THOUGHT + prompts.SHORT + "\n\n금기인", None, "repeats the question"),
    # never ends
    ("<unused94>", None, "thought never ends"),
    ("<unused94>thought\n정답은 B입니다", None, "thought never ends"),
    ("<unused94>thought\nB<end_of_turn>", None, "thought never ends"),
    ("<unused94>thought\nB<eos>\n<unused95>B", None, "thought never ends"),
    (THOUGHT + "<unused94>thought\nB", None, "thought never ends"),
    ("정답은 A<unused94>thought\n아니, B", None, "thought never ends"),
]


@pytest.mark.parametrize(("text", "letter", "why"), WITH_THOUGHTS)
def test_a_thought_is_read_past_and_one_that_never_ends_is_said(text, letter, why):
    assert read_answer(text) == letter
    if letter is None:
        assert prompts.why_unreadable(text) == why


def test_what_a_model_thought_does_not_stand_in_what_it_said():
    assert prompts.without_thought(THOUGHT + "\n혈압이 높습니다.") == "혈압이 높습니다."
    assert prompts.without_thought("혈압이 높습니다.") == "혈압이 높습니다."
    assert prompts.without_thought("<unused94>thought\n혈압") is None


FIRST_LINE = [
    ("B\n정답은 C입니다.", "B"),
    ("정답: B\n\n문제 2. …\n정답: D", "B"),
    ("정답은 (B)입니다.\n정답: D", "B"),
    ("**B**\nA, C는 틀렸다", "B"),
    ("Answer: E\nQ: next", "E"),
    ("B)\nC)\nD)", None),  # a list
    ("(A)\n(B)", None),
    ("정답은 A라고 생각했으나\n정답은 D입니다.", "D"),  # a sentence that goes on
    ("A는 아니다.\nB가 정답", "B"),
    (prompts.SHORT + "\n\n옳은 것은?\nA", None),  # cut off before the other options: no answer A
    ("정답 알파벳만 답하세요 (A", None),
    ("정답 알파벳은 B입니다", "B"),
]


@pytest.mark.parametrize(("text", "letter"), FIRST_LINE)
def test_a_first_line_that_is_nothing_but_the_answer_decides(text, letter):
    assert read_answer(text) == letter


def test_an_answer_is_settled_by_its_end_its_first_line_or_its_echo():
    """Nor is one settled that could still become another: a letter, a statement, a thought, an unfinished reasoning."""
    settled = ["B\n", "정답: B\n", "B<end_of_turn>", "모름<start_of_turn>", prompts.SHORT, THOUGHT + "B\n", "<unused94>생각<eos>"]
    open_ended = ["", "B", "B)", "정답은 B", "정답은 B입니다.", "정답 알파벳만 답하세요", "A)\n", THOUGHT]
    open_ended += ["<unused94>thought\nB\n", "<reasoning>\nB\n"]
    assert [prompts.settled(text) for text in settled] == [True] * len(settled)
    assert [prompts.settled(text) for text in open_ended] == [False] * len(open_ended)


PARTS = [*"ABE).\n ", "\n\n", "정답은 ", "정답: ", "입니다", "아니라 ", "**", "<reasoning>", "</reasoning>", "<end_of_turn>"]
PARTS += ["<start_of_turn>", "<unused94>", "<unused95>", "\u0338", "\u0307", "\u11a8", "형 간염", "가 정답", *prompts.ECHOES]


@settings(deadline=None, max_examples=600)
@given(st.lists(st.sampled_from(PARTS), max_size=7), st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=4)), max_size=7))
def test_nothing_behind_a_settled_answer_changes_its_reading(before, behind):
    text = "".join(before)
    if prompts.settled(text):
        longer = text + "".join(behind)
        assert read_answer(longer) == read_answer(text)
        assert prompts.settled(longer)


@pytest.mark.parametrize("text", [*(case[0] for case in WITH_THOUGHTS), *(case[0] for case in FIRST_LINE), *(case[0] for case in TABLE)])
def test_each_answer_of_the_tables_may_stop_where_it_is_settled(text):
    for end in range(len(text)):
        if prompts.settled(text[:end]):
            assert read_answer(text[:end]) == read_answer(text)


QUESTION = {"question": "금기인 약물은?\n혈압 < 90", "A": "가", "B": "나 다", "C": "다", "D": "라", "E": "마", "answer": "B"}


def test_dictionary_prompt():
    assert prompts.dictionary_prompt("조/치조/폐포") == "Meaning of word 조/치조/폐포:"


def test_exam_prompt():
    body = "\n\n금기인 약물은?\n혈압 < 90\nA) 가\nB) 나 다\nC) 다\nD) 라\nE) 마"
    assert prompts.exam_prompt(QUESTION) == "정답 알파벳만 답하세요 (A, B, C, D, E 중 하나)." + body
    assert prompts.exam_prompt(QUESTION, reasoned=True) == "Reasoning 후 정답 알파벳 하나만 답하세요." + body


def test_the_prompt_does_not_give_the_answer_away():
    assert prompts.exam_prompt(QUESTION) == prompts.exam_prompt(QUESTION | {"answer": "E", "cot": "까닭"})


def test_short_exam_answer():
    assert prompts.exam_answer(QUESTION) == "B"
    assert prompts.exam_answer(QUESTION | {"cot": "까닭이다."}) == "B"


@pytest.mark.parametrize(
    ("sentences", "lines"),
    [
        (1, ["첫째: 말0이다."]),
        (2, ["첫째: 말0이다.", "둘째: 말1이다."]),
        (4, ["첫째: 말0이다.", "둘째: 말1이다.", "셋째: 말2이다.", "넷째: 말3이다."]),
        (5, ["첫째: 말0이다. 말1이다.", "둘째: 말2이다. 말3이다.", "셋째: 말4이다."]),
        (8, ["첫째: 말0이다. 말1이다.", "둘째: 말2이다. 말3이다.", "셋째: 말4이다. 말5이다.", "넷째: 말6이다. 말7이다."]),
    ],
)
def test_reasoned_exam_answer(sentences, lines):
    cot = "차근차근 생각해봅시다. " + " ".join(f"말{i}이다." for i in range(sentences)) + " 따라서, 정답은 (B) 입니다."
    expected = "<reasoning>\n" + "\n".join(lines) + "\n</reasoning>B"
    assert prompts.exam_answer(QUESTION | {"cot": cot}, reasoned=True) == expected


@pytest.mark.parametrize("reasoned", [False, True])
@pytest.mark.parametrize("letter", prompts.LETTERS)
def test_the_answer_written_is_the_answer_read(letter, reasoned):
    question = QUESTION | {"answer": letter, "cot": "A는 아니다. 정답은 C라고 볼 수도 있다. B가 적절하다."}
    assert read_answer(prompts.exam_answer(question, reasoned)) == letter


@pytest.mark.parametrize(
    ("cot", "sentences"),
    [
        ("차근차근 생각해봅시다. 혈압이 높습니다. 약을 씁니다. 따라서, 정답은 (E) 입니다.", ["혈압이 높습니다.", "약을 씁니다."]),
        ("차근차근 생각해 봅시다\n혈압이 높다.\n약을 쓴다", ["혈압이 높다.", "약을 쓴다"]),
        ("혈색소는 8.2 g/dL이다. E. coli가 자랐다.", ["혈색소는 8.2 g/dL이다.", "E. coli가 자랐다."]),
        ("열이 남. 기침을 함. 폐렴임. 그래요. 끝", ["열이 남. 기침을 함. 폐렴임.", "그래요.", "끝"]),
        ("산증입니다. 따라서 pH 7.25이므로 정답은 (B) 입니다.", ["산증입니다."]),
        ("차근차근 생각해봅시다. 따라서, 정답은 (B) 입니다.", []),
        ("", []),
    ],
)
def test_reasoning_sentences(cot, sentences):
    assert prompts.reasoning_sentences(cot) == sentences


@pytest.mark.parametrize(
    ("cot", "letter"),
    [
        ("혈압이 높습니다. 따라서, 정답은 (E) 입니다.", "E"),
        ("정답은 E입니다", "E"),
        ("정답은 A이다.\n", "A"),
        ("정답은 (A) 입니다. 그러나 정답은 (C) 입니다.", "C"),
        ("정답은 (A) 입니다. 까닭은 다음과 같습니다.", None),
        ("정답은 (F) 입니다.", None),
        ("A가 좋습니다.", None),
        ("", None),
    ],
)
def test_conclusion_letter(cot, letter):
    assert prompts.conclusion_letter(cot) == letter
