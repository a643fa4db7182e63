"""Rules that set a cleaned text aside, and why refine sets any record aside, in words.

A rule for text is a function and its line in RULES; its reason is a line in REASONS, which the report and docs/refine.md print.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from kmlite.refine.text import HANGUL, LETTERS
from kmlite.results import Both

VERSION = 1  # goes into refine's record: raise it when a rule changes, and finished text is judged anew

REASONS: dict[str, Both] = {  # `…` and {}: what a reason ends with
    # a text
    "too_short": ("shorter than --min-length after cleaning", "클리닝 후 --min-length 미만이다"),
    "too_long": ("over two million characters: not one text", "200만 자가 넘어 한 편의 글이 아니다"),
    "not_korean": (
        "too little Hangul among its letters, where formulas and code do not count; or a broken encoding",
        "글자 가운데 한글이 너무 적거나(수식과 코드는 세지 않는다) 인코딩이 깨졌다",
    ),
    "broken_character": (
        "characters that were lost in an encoding (U+FFFD): many in a text, one in an entry or a question",
        "인코딩에서 잃어버린 글자(U+FFFD)가 텍스트에 많거나 사전·시험 문제에 있다",
    ),
    "advertisement": (
        "it offers, urges and calls to act; notices of offices stay",
        "상품을 권하고 구매나 연락을 재촉한다. 기관의 공지는 남긴다",
    ),
    "repeated_lines": ("too much of it is lines that stood before", "같은 줄이 너무 많이 반복된다"),
    "repeated_ngrams": ("too much of it is runs of five words that stood before", "같은 다섯 단어가 너무 많이 반복된다"),
    "exam_leak": (
        "it holds 13 words in a row of a dev or test question, or the whole of a shorter one",
        "dev나 test 문제와 연속된 13단어가 같거나, 그보다 짧은 문제가 통째로 들어 있다",
    ),
    "duplicate": ("the same as an earlier one", "앞에 똑같은 것이 있다"),
    "near_duplicate": (
        "almost the same as an earlier text: a Jaccard similarity of 0.8 of their three-word runs",
        "앞의 텍스트와 거의 같다(3단어 조각의 자카드 유사도 0.8 이상)",
    ),
    # a record or a file
    "missing_field": ("a field is missing; those that are there are named", "빠진 필드가 있다. 실제로 있는 필드 이름을 알려 준다"),
    "not_json": ("the line is not JSON", "JSON이 아닌 줄"),
    "not_an_object": ("the record is not an object", "객체가 아닌 레코드"),
    "nested_too_deep": ("JSON nested deeper than it can be read", "너무 깊이 겹쳐 읽을 수 없는 JSON"),
    "encoding_…": (
        "neither UTF-8 nor CP949 (a file may be UTF-16): it seems to be {}",
        "UTF-8도 CP949도 아니다(파일 전체라면 UTF-16도 읽는다). {}로 보인다",
    ),
    "too_many_cells": ("a .csv row with more cells than columns: commas without quotes", "열보다 칸이 많은 .csv 행: 따옴표 없는 쉼표"),
    "open_quote": ("a .csv row whose quote never closes", "따옴표를 닫지 않은 .csv 행"),
    "bad_quotes": ("a .csv row with quotes in the middle of a cell", "칸 한가운데에 따옴표가 있는 .csv 행"),
    "unreadable": (
        "a stretch of a damaged file; what stands before and after it is kept",
        "손상된 파일의 읽을 수 없는 구간. 그 앞뒤의 데이터는 남긴다",
    ),
    "empty_file": ("an empty file", "빈 파일"),
    # a dictionary entry
    "short_term": ("the term is shorter than --term-least", "표제어가 --term-least 미만이다"),
    "short_definition": ("the definition is shorter than --definition-least", "뜻풀이가 --definition-least 미만이다"),
    "repeats_term": ("the definition only repeats the term", "뜻풀이가 표제어를 반복할 뿐이다"),
    # an exam question
    "unknown_split": (
        "neither the file nor a folder above it is named after one split",
        "파일이나 상위 폴더 이름에 split이 없거나 둘이다",
    ),
    "empty_question": ("the question is empty", "문제가 비어 있다"),
    "empty_option": ("an option is empty", "빈 선택지가 있다"),
    "bad_answer": ("the answer is none of A–E or 1–5", "정답이 A–E나 1–5가 아니다"),
    "bad_number": ("a year, period or number that is none", "연도나 교시, 번호가 숫자가 아니다"),
    "duplicate_options": ("two options are the same", "같은 선택지가 둘 있다"),
    "exam_leak_…": ("it stands in {} as well", "{}에도 있는 문제"),
    "exam_near_…": ("almost the same as a question of {}", "{} 문제와 거의 같다"),
    "exam_translated_…": ("a translation of a question of {}", "{} 문제를 번역한 것"),
}


def in_words(reason: str) -> Both:
    """A reason in English and in Korean; of one that an older version gave, its name."""
    if reason in REASONS:
        return REASONS[reason]
    for family, (english, korean) in REASONS.items():
        if family.endswith("…") and reason.startswith(family[:-1]):
            return english.format(reason[len(family) - 1 :]), korean.format(reason[len(family) - 1 :])
    return reason, reason


class Counts(NamedTuple):
    """What `batch` counted in a text, so that the slow rules are asked only where it matters."""

    hangul: int  # syllables
    letters: int
    kana: int
    tokens: int  # what blanks hold apart and holds a letter or digit
    repeated_words: int  # in runs of five that stood before
    sales: int  # places where an advertisement's term, offer or call may begin


# ---- Korean

KANA = re.compile(r"[\u3040-\u30ff]")
HANGUL_SHARE = 0.10  # of letters: Korean charts full of English terms stay; a 30% rule kept 2.5% of such text
HANGUL_LEAST = 20
HANGUL_FEW, FEW_SHARE = 10, 0.25  # of a short text, a chart or formulas with a sentence, where a quarter of its prose is Korean
LATEX = re.compile(r"\\[a-zA-Z]+|\$[^$\n]{1,500}\$|\\[(\[][^\n]{1,500}?\\[)\]]")
CODE_SIGN = re.compile(r"[{};=<>$#]|\(\)|://|^[ \t]*(?:-|[\w.]+:)")
MOJIBAKE = "占쏙옙"  # EUC-KR read as UTF-8 and written again; one may be quoted, two are a broken page
MISREAD = "떎뒗뿉씠쓣"  # 다 는 에 이 을 in UTF-8, read as CP949: the commonest syllables turn into ones that no word has


def is_korean(text: str, counts: Counts) -> bool:
    """Enough Hangul, and no sign of text that was read in the wrong encoding."""
    if counts.hangul < HANGUL_FEW or counts.hangul <= counts.kana:
        return False
    if counts.hangul < HANGUL_LEAST or counts.hangul < HANGUL_SHARE * counts.letters:
        # letters outside formulas and lines of code: `\mathrm{d}` is no English
        lines = LATEX.sub("", text).split("\n")
        prose = sum(len(LETTERS.findall(line)) for line in lines if HANGUL.search(line) or not CODE_SIGN.search(line))
        if counts.hangul < (HANGUL_SHARE if counts.hangul >= HANGUL_LEAST else FEW_SHARE) * prose:
            return False
    misread = [n for n in map(text.count, MISREAD) if n]  # any one of them may be noise, or quoted
    return text.count(MOJIBAKE) < 2 and (len(misread) < 3 or sum(misread) * 100 <= len(text))


def is_unbroken(text: str, _counts: Counts) -> bool:
    """A sign or two may be lost; more than one in 200 is a page that was read in the wrong encoding."""
    return text.count("\ufffd") <= max(2, len(text) // 200)


# ---- advertisements

# a blank may stand or not
SALES_TERMS = (
    "최저가|무료 배송|지금 구매|구매 문의|카톡 문의|카카오톡 문의|상담 문의|할인|쿠폰|적립금|사은품|특가|파격|대방출|땡처리|이벤트|"
    "선착순|클릭|공짜|당일 입금|당일 개통|당일 배송|한정 수량|정품 보장|보장|증정|공구|무료 체험|신용 불량|무직자|매입|오픈 기념|"
    "1+1|지금 예약|마감 임박"
)
SALES = SALES_TERMS.split("|")
AD_TERMS = re.compile("|".join(re.escape(term).replace(r"\ ", r"\s?") for term in SALES))
SALES_LEAST, SALES_EVERY = 3, 60  # different terms; characters for each
OFFERS = re.compile(
    r"최저|무료|할인|세일|쿠폰|적립금|사은|특가|파격|반값|증정|덤으로|경품|공짜|공구|1\+1|저렴|혜택|이벤트|무이자|환불|매입|땡처리|대방출|만\s?원|0\s?원|"
    r"선착순|마감|한정|오늘만|이번\s?[주달]|지금\s?(?:바로|결제|가입|주문)|당일|24시간|품절|소진|늦기\s?전|오픈\s?기념|보장|100%|전액|업계|1[위등]|전문|책임|"
    r"안심|걱정\s?마|비밀|누구나|무관|무직자|신용\s?불량|부담\s?없|정품|직접|직송|평생|최고|고급|품격|완판|전국"
)
CALLS = re.compile(
    r"상담\s?(?:문의|주|받|신청|예약|가능)|문의(?:\s?주|하|는)|(?:신청|예약|주문|구매|등록|가입)하[세시]|(?:신청|예약|주문)해\s?주|(?:결제|계약|전화)하시|"
    r"지금\s?(?:예약|구매)|구매\s?문의|가입하면|(?:연락|전화)\s?주|전화\s?상담|카톡|카카오톡|오픈\s?채팅|텔레그램|친구\s?추가|링크|클릭|받아\s?보세|"
    r"보내\s?주세|남겨\s?주시|서두르|서둘러|놓치지\s?마|망설이|방문\s?예약|만나\s?보세|눌러|맡기세|맡겨|부르세|담아\s?가|들어오세|시작하세|말씀만|견적|DM|"
    r"오시면|하시면|받아\s?보"
)
PRICE = re.compile(r"\d\s?(?:만|천)?\s?원")
# Offices, schools and clinics offer and call as well: two of their words, or one that no seller uses, make a notice.
PUBLIC = re.compile(
    r"주민센터|보건소|복지로|구청|시청|군청|교육청|질병관리청|예방\s?접종|신분증|보건복지부|공단|학부모|총학생회|관리사무소|도서관|기준\s?중위소득|국번\s?없이|"
    r"의료급여|헌혈|사기입니다|신고하십시오|신고해\s?주|임상시험|부녀회|입주민|초록집|과태료|국가\s?암|자원봉사|수익금|학회|경로당|기초생활|무주택|"
    r"(?:시|구|군|주)민\s(?:여러분|건강)"
)
CIVIC = re.compile(
    r"어르신|임신부|누리집|대강당|지원\s?사업|수료증|신청서|접수처|일시\s?:|장소\s?:|대상\s?:|무료입니다|증명서|자격\s?:|강당|운동장|학년|시민|"
    r"구민|군민|입장료|휴관|박물관|문화원"
)
SHOUT = re.compile(r"[!★☆♥♡▶◆■]")  # notices of offices and clinics offer and call as well, but in an even voice
# The first two signs of all of these: `batch` counts where they stand, so that the expressions are asked of few texts. A blank may
# be left out between any two words, so `만 원` has three of them.
OPENINGS = (
    "최저 무료 할인 세일 쿠폰 적립 사은 특가 파격 반값 증정 덤으 경품 공짜 공구 1+ 저렴 혜택 이벤 무이 환불 매입 땡처 대방 만원 0원 "
    "선착 마감 한정 오늘 이번 지금 당일 24 품절 소진 늦기 오픈 보장 10 전액 업계 1위 1등 전문 책임 안심 걱정 비밀 누구 무관 무직 "
    "신용 부담 정품 직접 직송 평생 최고 고급 품격 완판 전국 상담 문의 신청 예약 주문 구매 등록 가입 결제 계약 전화 연락 카톡 카카 "
    "텔레 친구 링크 클릭 받아 보내 남겨 서두 서둘 놓치 망설 방문 만나 눌러 맡기 맡겨 부르 담아 들어 시작 말씀 견적 DM 오시 하시"
)
SALES_OPENINGS = [*OPENINGS.split(), *(term[:2] for term in SALES), "만 ", "만\n", "0 ", "0\n"]
OFFERS_EVERY = 40  # characters for each offer or call
# An advertisement speaks to its reader; an article about advertisements does not.
APPEAL = re.compile(r"[!★☆♥♡▶◆■]|세요|십시오|드립|드려|드리|바랍니다|합니다|됩니다|해요|예요|고객님")


def is_no_advertisement(text: str, counts: Counts) -> bool:
    """Three different sales terms, one in every 60 characters, and an appeal: single words stand in technical prose too.

    Or an offer, a call to act and a raised voice, one word of either in every 40 characters: most trades have their own terms.
    """
    if counts.sales * 2 * OFFERS_EVERY < len(text):  # an offer and a call may begin with the same words
        return True
    terms = ["".join(term.split()) for term in AD_TERMS.findall(text)]
    sells = len(set(terms)) >= SALES_LEAST and len(terms) * SALES_EVERY >= len(text) and APPEAL.search(text) is not None
    if not sells:
        calls = len(CALLS.findall(text)) if SHOUT.search(text) or PRICE.search(text) else 0
        offers = len(OFFERS.findall(text)) if calls else 0
        sells = offers > 0 and (calls + offers) * OFFERS_EVERY >= len(text)
    return not sells or PUBLIC.search(text) is not None or len(set(CIVIC.findall(text))) > 1


# ---- repetition

WORD = re.compile(r"[^\W_]")
REPEATED_SHARE = 0.45


def no_repeated_lines(text: str, _counts: Counts) -> bool:
    """At most 30% of the characters in lines that stood before (Gopher's rule, arXiv 2112.11446, table A1); 40% below 1,000
    characters, where a refrain is as much."""
    lines = text.split("\n")
    if len(set(lines)) + max(lines.count("") - 1, 0) == len(lines):
        return True
    repeated = sum(len(line) * (n - 1) for line, n in Counter(lines).items())
    return repeated <= (0.3 if len(text) >= 1000 else 0.4) * len(text)


def no_repeated_ngrams(text: str, counts: Counts) -> bool:
    """Of the words at most 45% in a five-word sequence that stood before; in a short text, where two sentences share a phrase
    easily, a little more: 50% of 30 words. Laws, exam papers and lists of drugs reach 36%, reference pages 45% (Gopher's 30% for
    all lengths was wrong seven times out of eight on them)."""
    # what `batch` calls a word is a part of one here, so a word that is repeated here holds one that is repeated there
    if counts.repeated_words <= REPEATED_SHARE * counts.tokens:
        return True
    words = [word for word in text.split() if word.isalpha() or WORD.search(word)]
    if len(words) < 20:
        return True
    seen: set[tuple[str, ...]] = set()
    covered = -1  # last word known to be part of a repetition
    repeated = 0
    for i in range(len(words) - 4):
        ngram = tuple(words[i : i + 5])
        if ngram in seen:
            repeated += i + 4 - max(covered, i - 1)
            covered = i + 4
        else:
            seen.add(ngram)
    return repeated <= max(REPEATED_SHARE, 0.4 + 3 / len(words)) * len(words)


RULES: dict[str, Callable[[str, Counts], bool]] = {  # reason: whether a text stays; the cheapest first
    "not_korean": is_korean,
    "broken_character": is_unbroken,
    "advertisement": is_no_advertisement,
    "repeated_lines": no_repeated_lines,
    "repeated_ngrams": no_repeated_ngrams,
}


def judge(text: str, least: int, counts: Counts) -> str:
    """The reason of the first rule that sets a cleaned text aside; "" where all keep it."""
    if len(text) < least:
        return "too_short"
    return next((reason for reason, stays in RULES.items() if not stays(text, counts)), "")
