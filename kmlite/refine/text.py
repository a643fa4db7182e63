"""Rules for plain text: the first half mend it (`cleaning` says when each is asked), `judge` keeps it or says why not.

Each rule can be read and tested alone.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

VERSION = 4  # goes into refine's record: raise it when a rule changes, and finished text is refined anew

# ---- cleaning: composed Hangul first, since every later rule counts syllables, and white space last, which the others leave

LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufff9-\ufffd]")
CHAT_TOKENS = re.compile(r"</?(?:start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token|bos|eos|pad|unk|mask)>")


def is_plain(text: str) -> bool:
    """Whether there is nothing but printable characters, blanks and line ends: str.isprintable costs 1 ms a MB, a regex 20."""
    return text.replace("\n", "").isprintable() and "\ufffd" not in text and "\ufffc" not in text


def holds_chat_token(text: str) -> bool:
    return CHAT_TOKENS.search(text) is not None


def compose(text: str) -> str:
    """NFC, so that decomposed Hangul counts as Hangul; without control and zero-width characters and chat tokens."""
    if not is_plain(text):
        text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
    text = unicodedata.normalize("NFC", text)
    for _ in range(4):  # one token may hide in another: <start_of_<bos>turn>
        if "<" not in text:
            return text
        text, found = CHAT_TOKENS.subn("", text)
        if not found:
            return text
        text = unicodedata.normalize("NFC", text)  # a token may have stood between two parts of a syllable
    return unicodedata.normalize("NFC", text.replace("<", "")) if CHAT_TOKENS.search(text) else text  # nested on purpose


URL_SIGNS = r"[\w\-.~:/?#@!$&*+,;=%]+"
URL = re.compile(rf"https?://{URL_SIGNS}", re.ASCII)
FTP = re.compile(rf"ftp://{URL_SIGNS}", re.ASCII)
WWW = re.compile(r"www\.(?<![\w.]www\.)[A-Za-z0-9\-]+\.[\w\-.~/?#=&%]+", re.ASCII)
AT_DOMAIN = re.compile(r"@[\w\-]{1,63}(?:\.[\w\-]{1,63}){1,4}", re.ASCII)  # begins with a literal, which the engine skips to
BEFORE_AT = re.compile(r"(?<![\w.])[\w.+\-]{1,64}\Z", re.ASCII)
# Each begins with a set of signs and looks back afterwards: the engine skips to that set five times faster than it tries.
RESIDENT_NUMBER = re.compile(r"\d(?<!\d\d)\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?: ?[-–－] ?)?[1-8]\d{6}(?!\d)")
# Business numbers (1588-1234) are no personal data, and their shape is that of years: 1592-1598.
SEP = r"(?: ?[-–－.] ?| )"
PHONE = re.compile(
    rf"[+(0０](?<![\d\-.][+(0０])(?:(?:(?<=\+)82{SEP}?(?:\(0\))?\d{{1,2}}|(?<=\()0\d{{1,2}}\)|(?<!\()(?:(?<=[0０])\d{{1,2}}|(?<=0)50\d)\)?)"
    rf"{SEP}?(?<=[-–－). ])\d{{3,4}}{SEP}\d{{4}}|(?<=[0０])[1１][016-9０１６-９]\d{{7,8}})(?![\d\-])"
)
GONE = "\x00"  # stands for what was removed, until the brackets around it are seen to; `compose` leaves none in a text
CLOSED = re.compile(r"\x00[\s,;:·/\x00]*[)\]>]")  # gates the next
IN_BRACKETS = re.compile(r"[(\[<][\s,;:·/]*\x00[\s,;:·/\x00]*[)\]>]")


def strip_urls(text: str) -> tuple[str, int]:
    total = 0
    for sign, expression in (("://", URL), ("ftp://", FTP), ("www.", WWW)):
        if sign in text:
            text, found = expression.subn(GONE, text)
            total += found
    return text, total


def strip_mails(text: str) -> tuple[str, int]:
    parts: list[str] = []
    at = 0
    for domain in AT_DOMAIN.finditer(text):
        if name := BEFORE_AT.search(text, max(at, domain.start() - 64), domain.start()):
            parts += [text[at : name.start()], GONE]
            at = domain.end()
    return ("".join([*parts, text[at:]]), len(parts) // 2) if parts else (text, 0)


ADDRESSES: dict[str, Callable[[str], tuple[str, int]]] = {
    "url": strip_urls,
    "mail": strip_mails,
    "resident_number": partial(RESIDENT_NUMBER.subn, GONE),
    "phone": partial(PHONE.subn, GONE),
}


def strip_addresses(text: str, kinds: Iterable[str] = ADDRESSES, counts: Counter | None = None) -> str:
    """Without URLs, and without personal data: e-mail addresses, resident registration and phone numbers.

    `kinds`: which of them may be there. `counts` is added to: how many of each were removed.
    """
    removed = False
    for kind in kinds:
        text, found = ADDRESSES[kind](text)
        if found:
            removed = True
            if counts is not None:
                counts[kind] += found
    if removed and CLOSED.search(text):
        text = IN_BRACKETS.sub("", text)
    return text.replace(GONE, "") if removed else text


BLANKS = re.compile(r"  +")
EMPTY_LINES = re.compile(r"\n\n\n+")


def squeeze(text: str) -> str:
    """One blank between words, no blanks at the ends of lines, at most one empty line between paragraphs."""
    for odd in ("\t", "\u00a0", "\u3000"):  # the usual ones; to split and join takes four times as long
        text = text.replace(odd, " ")
    return squeeze_plain(text if is_plain(text) else "\n".join([" ".join(line.split()) for line in text.split("\n")]))


def squeeze_plain(text: str) -> str:
    """The same where blanks and line ends are the only white space."""
    if "  " in text:
        text = BLANKS.sub(" ", text)
    if " \n" in text or "\n " in text:
        text = text.replace(" \n", "\n").replace("\n ", "\n")
    return (EMPTY_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


# ---- judging a cleaned text: (keep, reason)

HANGUL = re.compile(r"[가-힣]")
KANA = re.compile(r"[\u3040-\u30ff]")
LETTERS = re.compile(r"[^\W\d_]")
HANGUL_SHARE = 0.10  # of letters: Korean charts full of English terms stay; a 30% rule kept 2.5% of such text
HANGUL_LEAST = 20
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
    r"보내\s?주세|남겨\s?주시|서두르|서둘러|놓치지\s?마|망설이"
)
SHOUT = re.compile(r"[!★☆♥♡▶◆■]")  # notices of offices and clinics offer and call as well, but in an even voice
# The first two signs of all of these: `batch` counts where they stand, so that the expressions are asked of few texts. A blank may
# be left out between any two words, so `만 원` has three of them.
OPENINGS = (
    "최저 무료 할인 세일 쿠폰 적립 사은 특가 파격 반값 증정 덤으 경품 공짜 공구 1+ 저렴 혜택 이벤 무이 환불 매입 땡처 대방 만원 0원 "
    "선착 마감 한정 오늘 이번 지금 당일 24 품절 소진 늦기 오픈 보장 10 전액 업계 1위 1등 전문 책임 안심 걱정 비밀 누구 무관 무직 "
    "신용 부담 정품 직접 직송 평생 최고 고급 품격 완판 전국 상담 문의 신청 예약 주문 구매 등록 가입 결제 계약 전화 연락 카톡 카카 "
    "텔레 친구 링크 클릭 받아 보내 남겨 서두 서둘 놓치 망설"
)
SALES_OPENINGS = [*OPENINGS.split(), *(term[:2] for term in SALES), "만 ", "만\n", "0 ", "0\n"]
OFFERS_EVERY = 40  # characters for each offer or call
# An advertisement speaks to its reader; an article about advertisements does not.
APPEAL = re.compile(r"[!★☆♥♡▶◆■]|세요|십시오|드립|드려|드리|바랍니다|합니다|됩니다|해요|예요|고객님")
MOJIBAKE = "占쏙옙"  # EUC-KR read as UTF-8 and written again; one may be quoted, two are a broken page
MISREAD = "떎뒗뿉씠쓣"  # 다 는 에 이 을 in UTF-8, read as CP949: the commonest syllables turn into ones that no word has


def long_enough(text: str, least: int) -> tuple[bool, str]:
    return len(text) >= least, "too_short"


class Counts(NamedTuple):
    """What `batch.measure` counted in a text, so that the slow rules are asked only where it matters."""

    hangul: int
    letters: int
    kana: int
    tokens: int
    repeated_words: int  # in runs of five that stood before
    sales: int  # places where an advertisement's term, offer or call may begin


def is_korean(text: str) -> tuple[bool, str]:
    return enough_hangul(len(HANGUL.findall(text)), len(LETTERS.findall(text)), len(KANA.findall(text)))


def enough_hangul(hangul: int, letters: int, kana: int) -> tuple[bool, str]:
    return hangul >= HANGUL_LEAST and hangul >= HANGUL_SHARE * letters and hangul > kana, "not_korean"


def is_well_encoded(text: str) -> tuple[bool, str]:
    misread = [n for n in map(text.count, MISREAD) if n]  # any one of them may be noise, or quoted
    return text.count(MOJIBAKE) < 2 and (len(misread) < 3 or sum(misread) * 100 <= len(text)), "not_korean"


def is_no_advertisement(text: str) -> tuple[bool, str]:
    """Three different sales terms, one in every 60 characters, and an appeal: single words stand in technical prose too.

    Or an offer, a call to act and a raised voice, one word of either in every 40 characters: most trades have their own terms.
    """
    terms = ["".join(term.split()) for term in AD_TERMS.findall(text)]
    if len(set(terms)) >= SALES_LEAST and len(terms) * SALES_EVERY >= len(text) and APPEAL.search(text):
        return False, "advertisement"
    calls = len(CALLS.findall(text)) if SHOUT.search(text) else 0
    offers = len(OFFERS.findall(text)) if calls else 0
    return not offers or (calls + offers) * OFFERS_EVERY < len(text), "advertisement"


def no_repeated_lines(text: str) -> tuple[bool, str]:
    """At most 30% of the characters in lines that stood before (Gopher's rule, arXiv 2112.11446, table A1)."""
    if "\n" not in text:
        return True, "repeated_lines"
    lines = text.split("\n")
    if len(set(lines)) + max(lines.count("") - 1, 0) == len(lines):
        return True, "repeated_lines"
    repeated = sum(len(line) * (n - 1) for line, n in Counter(lines).items())
    return repeated <= 0.3 * len(text), "repeated_lines"


WORD = re.compile(r"[^\W_]")


def no_repeated_ngrams(text: str) -> tuple[bool, str]:
    """At most 30% of the words in a five-word sequence that stood before, in texts of 20 words and more."""
    words = [word for word in text.split() if word.isalpha() or WORD.search(word)]
    if len(words) < 20:
        return True, "repeated_ngrams"
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
    return repeated <= 0.3 * len(words), "repeated_ngrams"


def judge(text: str, least: int, counts: Counts | None = None) -> tuple[bool, str]:
    """The first rule that drops a cleaned text, cheapest first; (True, "") when all keep it.

    Without `counts` the text is measured here; the verdict is the same.
    """
    keep, reason = long_enough(text, least)
    if keep:
        keep, reason = enough_hangul(counts.hangul, counts.letters, counts.kana) if counts else is_korean(text)
    if keep:
        keep, reason = is_well_encoded(text)
    if keep and (counts is None or counts.sales * 2 * OFFERS_EVERY >= len(text)):  # an offer and a call may begin with the same words
        keep, reason = is_no_advertisement(text)
    if keep:
        keep, reason = no_repeated_lines(text)
    # what `batch` calls a word is a part of one here, so a word that is repeated here holds one that is repeated there
    if keep and (counts is None or counts.repeated_words > 0.3 * counts.tokens):
        keep, reason = no_repeated_ngrams(text)
    return (True, "") if keep else (False, reason)
