"""Private words that must not come back in the pages, each with the field's own."""

import re

WORDS = {  # regular expression: what to write
    # ---- English
    r"\bgauges?\b": "evaluation suite",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bforet(?:old|ell(?:s|ing)?)\b": "predicted",
    r"\bbabbl(?:e|es|ed|ing)\b": "writes no meaningful text",
    r"\btaught\b": "seen, trained on (held out for not taught)",
    r"\btold from\b": "distinguished from",
    r"\b(?:gave|gives|given) up\b": "changed, reduced",
    r"\bthe price\b": "other measures that got worse",
    r"\bbought with\b": "at the cost of",
    r"\bplan calls\b": "the specification says",
    r"\b(?:tokens a row|rows? of (?:text|tokens|up to))\b": "sequence",
    r"\bof their spread\b": "relative to the standard deviation of the logits",
    r"\bsaid of\b": "about",
    r"\bmodel as it came\b": "the initial model",
    r"\bnot (?:its|their) mending\b|\bwhat mends\b": "the command that fixes it",
    # ---- Korean
    r"걸음": "스텝",
    r"일꾼": "워커",
    r"셈(?:으로|한|해|했|하[는면여고]|법)|어림셈": "계산, 추정",
    r"표본": "샘플",
    r"(?<!국가)시험(?:을 통과|했[다고으]|하지 못|해 보)|모든 시험|의 시험": "테스트",
    r"훈련": "학습",
    r"가르[치친쳐칠]": "학습하다",
    r"배[운울] (?:문제|것|적|때|말|글)": "학습한 …, 학습할 때",
    r"견[주준줘]|견줄": "비교",
    r"헤아[리려린]": "세다, 계산",
    r"까닭": "이유",
    r"꼴(?:의|로|을|이다)": "형식",
    r"앞뒤[로를] (?:재|잰|답|측정)": "학습 전후",
    r"따로 둔": "검증용으로 떼어 둔",
    r"한국어 글(?!자)|일반 글(?!자)": "텍스트",
    r"자료": "데이터",
    r"기반 모델": "베이스 모델",
    r"정답률": "정확도",
    r"되풀이": "반복",
    r"옹알이|옛것|옛 어휘": "뜻 없는 출력, 이전 …, 확장 전 어휘",
    r"다듬": "클리닝, 정제",
    r"전자우편": "이메일",
}


def hits(text: str) -> list[tuple[str, str]]:
    """(the word found, what to write) in `text`; code in backticks and blocks is not read: options and file names are no prose."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return [(found[0], better) for word, better in WORDS.items() for found in re.finditer(word, prose, re.IGNORECASE)]
