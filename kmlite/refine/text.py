"""Rules for plain text: the first half clean it (`cleaning` says when each is asked), `judge` keeps it or says why not.

Each rule can be read and tested alone.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

VERSION = 5  # goes into refine's record: raise it when a rule changes, and finished text is refined anew

# ---- cleaning: composed Hangul first, since every later rule counts syllables, and white space last, which the others leave

LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")  # known to be nothing: what they part is one word
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours of a terminal
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufff9-\ufffb]")
# What a control character stood for is unknown (`50\x01g`), so a blank keeps its two sides apart; those of Windows' Western code page
# are known: 10\x9620 is a range. U+FFFD and U+FFFC stand for what is lost and stay.
WINDOWS = {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}
# Names that a tokenizer of Gemma's takes for control tokens wherever they stand.
CONTROL_TOKEN = re.compile(
    r"</?(?:start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token|bos|eos|pad|unk|mask|unused\d+|2mass)>"
)
IN_BRACKETS = re.compile(r"\[multimodal\]|\[@BOS@\]")


def is_plain(text: str) -> bool:
    """Whether there is nothing but printable characters, blanks and line ends: str.isprintable costs 1 ms a MB, a regex 20."""
    return text.replace("\n", "").isprintable()


def strip_control_tokens(text: str) -> str:
    """A blank in the place of each: `<end_of_<bos>turn>`, closed up, would be one again. For texts, entries and questions alike;
    `cleaning` runs it again after any rule that removed something."""
    text = CONTROL_TOKEN.sub(" ", text) if "<" in text else text
    return IN_BRACKETS.sub(" ", text) if "[" in text else text


def compose(text: str) -> str:
    """NFC, so that decomposed Hangul counts as Hangul; without control and zero-width characters."""
    if not is_plain(text):
        text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
        text = CONTROL.sub(lambda sign: WINDOWS.get(ord(sign[0]), " "), ANSI.sub("", text))
    return unicodedata.normalize("NFC", text)


# ---- addresses

URL_SIGNS = r"[\w\-.~:/?#@!$&*+,;=%]+"
URL = re.compile(rf"https?://{URL_SIGNS}", re.ASCII)
FTP = re.compile(rf"ftp://{URL_SIGNS}", re.ASCII)
WWW = re.compile(r"www\.(?<![\w.]www\.)[A-Za-z0-9\-]+\.[\w\-.~/?#=&%]+", re.ASCII)
# Begins with a literal, which the engine skips to. A domain ends in letters: `lodash@4.17.21` and `root@10.0.0.5` do not.
AT_DOMAIN = re.compile(r"@((?:[\w\-]{1,63}\.){1,4})([A-Za-z]{2,24})(?![\w\-]|:[A-Za-z~/])", re.ASCII)
BEFORE_AT = re.compile(r"(?<![\w.])[\w.+\-]{1,64}\Z", re.ASCII)
# endings of files and units: `icon@2x.png`, `getty@tty1.service`
NO_DOMAIN = re.compile(r"png|jpe?g|gif|webp|svg|css|[jt]s|json|xml|html?|ya?ml|toml|service|socket|timer|target|mount|local|lan|internal")
# Each begins with a set of signs and looks back afterwards: the engine skips to that set five times faster than it tries.
RESIDENT_NUMBER = re.compile(
    r"\d(?<!\d\d)(?<!\d[.\-]\d)\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])( ?[-–] ?|(?<!\d \d{6}) (?!\d{7} \d)|)[1-8]\d{6}(?!\d|-\d)",
    re.ASCII,
)
# Business numbers (1588-1234) are no personal data, and their shape is that of years: 1592-1598.
AREA = r"(?:1[016-9]|2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|80|50\d)"  # after the zero; `08 120 1400 cc` has none of them
ABROAD = r"(?:1[016-9]|2|[3-6][1-5]|70)"
HYPHEN = r" ?[-–] ?"
PHONE = re.compile(
    r"[+(08](?<![0-9a-fA-F_][+08])(?<![0-9a-fA-F][.:/\-–][+08])(?:"
    rf"(?:(?<=\+) ?82|(?<=\()\+82\)|(?<=0)082)[ .\-–]?(?:\(0\)[ \-]?)?0?{ABROAD}[ .\-–]?\d{{3,4}}[ .\-–]?\d{{4}}"
    rf"|(?<=8)2-0?{ABROAD}-\d{{3,4}}-\d{{4}}"
    rf"|(?<=0){AREA}{HYPHEN}\d{{3,4}}{HYPHEN}\d{{4}}"
    rf"|(?:(?<=\()0|(?<=0)){AREA}\)[ \-–]{{0,2}}\d{{3,4}}(?:{HYPHEN}|[. ])\d{{4}}"
    r"|(?<=0)1[016-9]([. ])\d{3,4}\1\d{4}"
    r"|(?<=0)(?:10\d{8}|1[16-9]\d{7,8})"
    rf"|(?<=0)(?P<unsure>{AREA}([. ])\d{{3,4}}\3\d{{4}}))"
    r"(?![-–]?[0-9A-Za-z_])(?! ?(?:cc|m[lL]|mg|kg|mmHg|[gL%원명개회])\b)",
    re.ASCII,
)
PHONE_NAMED = re.compile(r"(?:전화|연락처|팩스|문의|핸드폰|휴대폰|☎|☏|(?i:tel|fax|phone|h\.?p))[^\w\n]{0,4}(?:번호)?[^\w\n]{0,4}\Z")
RESIDENT_NAMED = re.compile(r"주민[^\n]{0,12}\Z")
FULL_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)}  # each sign to one, so places stay
GONE = "\x00"  # stands for what was removed, until its surroundings are seen to; `compose` leaves none in a text
GAP = re.compile(r"\x00[\s,;:·/\x00]*")
OPENING, CLOSING = frozenset("([<（"), frozenset(")]>）")
BETWEEN = re.compile(r"\x00(?<=[0-9A-Za-z]\x00)\x00*(?=[0-9A-Za-z])")


def close_gaps(text: str) -> str:
    """Without GONE, the brackets and commas that held nothing else, and without joining a number or word to another."""
    if GONE not in text:
        return text
    if ")" in text or "]" in text or ">" in text or "）" in text:
        spans = [
            (start - 1, end + 1) for start, _, end in gaps(text) if text[start - 1 : start] in OPENING and text[end : end + 1] in CLOSING
        ]
        text = without(text, spans)
        spans = [
            (start, end)
            for start, first, end in gaps(text)
            if text[end : end + 1] in (")", "）") or (text[start - 1 : start] in ("(", "（") and ":" not in text[start:first])
        ]
        text = without(text, spans)
    return BETWEEN.sub(" ", text).replace(GONE, "")


def gaps(text: str) -> Iterator[tuple[int, int, int]]:
    """Of each GONE with the blanks, list signs and other GONE around it: where they begin, the first GONE, where they end."""
    for gap in GAP.finditer(text):
        start = gap.start()
        while start and (text[start - 1].isspace() or text[start - 1] in ",;:·/"):
            start -= 1
        yield start, gap.start(), gap.end()


def without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    parts: list[str] = []
    at = 0
    for start, end in spans:
        parts.append(text[at:start])
        at = end
    return "".join([*parts, text[at:]]) if parts else text


def cut(text: str, spans: Iterable[tuple[int, int]]) -> tuple[str, int]:
    parts: list[str] = []
    at = 0
    for start, end in spans:
        parts += [text[at:start], GONE]
        at = end
    return ("".join([*parts, text[at:]]), len(parts) // 2) if parts else (text, 0)


def narrow(text: str) -> str:
    """Full-width digits and signs as ASCII ones, each in its place."""
    return text.translate(FULL_WIDTH) if "０" in text or "＠" in text else text


def strip_urls(text: str) -> tuple[str, int]:
    total = 0
    for sign, expressions in (("://", (URL, FTP)), ("www.", (WWW,))):
        for expression in expressions if sign in text else ():
            text, found = expression.subn(GONE, text)
            total += found
    return text, total


def strip_mails(text: str) -> tuple[str, int]:
    spans: list[tuple[int, int]] = []
    if "@" not in text and "＠" not in text:
        return text, 0
    signs = narrow(text)
    for domain in AT_DOMAIN.finditer(signs):
        at = spans[-1][1] if spans else 0
        numbers = sum(label.isdecimal() for label in domain[1].split("."))
        if NO_DOMAIN.fullmatch(domain[2].lower()) or numbers > 1:
            continue
        if name := BEFORE_AT.search(signs, max(at, domain.start() - 64), domain.start()):
            spans.append((name.start(), domain.end()))
    return cut(text, spans)


def strip_resident_numbers(text: str) -> tuple[str, int]:
    signs = narrow(text)
    found = RESIDENT_NUMBER.finditer(signs)
    return cut(text, [n.span() for n in found if n[1] or is_resident_number(n[0], signs[max(0, n.start() - 20) : n.start()])])


def is_resident_number(digits: str, before: str) -> bool:
    """Of thirteen digits in a row: a bar code (880…) and a time in milliseconds (14…–17…) may hold a birthday, too."""
    weighted = sum(int(digit) * weight for digit, weight in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False))
    if (11 - weighted % 11) % 10 == int(digits[-1]) or RESIDENT_NAMED.search(before):
        return True
    bar_code = sum(int(digit) * (3 if i % 2 else 1) for i, digit in enumerate(digits)) % 10 == 0
    return not bar_code and not "14" <= digits[:2] <= "17"


def strip_phones(text: str) -> tuple[str, int]:
    signs = narrow(text)
    found = PHONE.finditer(signs)
    return cut(text, [n.span() for n in found if not n["unsure"] or PHONE_NAMED.search(signs, max(0, n.start() - 20), n.start())])


ADDRESSES: dict[str, Callable[[str], tuple[str, int]]] = {
    "url": strip_urls,
    "mail": strip_mails,
    "resident_number": strip_resident_numbers,
    "phone": strip_phones,
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
    return close_gaps(text) if removed else text


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
HANGUL_FEW, FEW_SHARE = 10, 0.25  # of a short text, a chart or formulas with a sentence, where a quarter of its prose is Korean
LATEX = re.compile(r"\\[a-zA-Z]+|\$[^$\n]{1,500}\$|\\[(\[][^\n]{1,500}?\\[)\]]")
CODE_SIGN = re.compile(r"[{};=<>$#]|\(\)|://|^[ \t]*(?:-|[\w.]+:)")
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
MOJIBAKE = "占쏙옙"  # EUC-KR read as UTF-8 and written again; one may be quoted, two are a broken page
MISREAD = "떎뒗뿉씠쓣"  # 다 는 에 이 을 in UTF-8, read as CP949: the commonest syllables turn into ones that no word has


def long_enough(text: str, least: int) -> tuple[bool, str]:
    return len(text) >= least, "too_short"


def is_unbroken(text: str) -> tuple[bool, str]:
    """A sign or two may be lost; more than one in 200 is a page that was read in the wrong encoding."""
    broken = text.count("\ufffd")
    return broken <= max(2, len(text) // 200), "broken_character"


class Counts(NamedTuple):
    """What `batch.measure` counted in a text, so that the slow rules are asked only where it matters."""

    hangul: int
    letters: int
    kana: int
    tokens: int
    repeated_words: int  # in runs of five that stood before
    sales: int  # places where an advertisement's term, offer or call may begin


def is_korean(text: str) -> tuple[bool, str]:
    return enough_hangul(text, len(HANGUL.findall(text)), len(LETTERS.findall(text)), len(KANA.findall(text)))


def enough_hangul(text: str, hangul: int, letters: int, kana: int) -> tuple[bool, str]:
    if hangul >= HANGUL_LEAST and hangul >= HANGUL_SHARE * letters:
        return hangul > kana, "not_korean"
    if hangul < HANGUL_FEW or hangul <= kana:
        return False, "not_korean"
    share = HANGUL_SHARE if hangul >= HANGUL_LEAST else FEW_SHARE
    return hangul >= share * prose_letters(text), "not_korean"


def prose_letters(text: str) -> int:
    """Letters outside formulas and lines of code: `\\mathrm{d}` is no English."""
    lines = LATEX.sub("", text).split("\n")
    return sum(len(LETTERS.findall(line)) for line in lines if HANGUL.search(line) or not CODE_SIGN.search(line))


def is_well_encoded(text: str) -> tuple[bool, str]:
    misread = [n for n in map(text.count, MISREAD) if n]  # any one of them may be noise, or quoted
    return text.count(MOJIBAKE) < 2 and (len(misread) < 3 or sum(misread) * 100 <= len(text)), "not_korean"


def is_no_advertisement(text: str) -> tuple[bool, str]:
    """Three different sales terms, one in every 60 characters, and an appeal: single words stand in technical prose too.

    Or an offer, a call to act and a raised voice, one word of either in every 40 characters: most trades have their own terms.
    """
    terms = ["".join(term.split()) for term in AD_TERMS.findall(text)]
    sells = len(set(terms)) >= SALES_LEAST and len(terms) * SALES_EVERY >= len(text) and APPEAL.search(text) is not None
    if not sells:
        calls = len(CALLS.findall(text)) if SHOUT.search(text) or PRICE.search(text) else 0
        offers = len(OFFERS.findall(text)) if calls else 0
        sells = offers > 0 and (calls + offers) * OFFERS_EVERY >= len(text)
    return not sells or PUBLIC.search(text) is not None or len(set(CIVIC.findall(text))) > 1, "advertisement"


def no_repeated_lines(text: str) -> tuple[bool, str]:
    """At most 30% of the characters in lines that stood before (Gopher's rule, arXiv 2112.11446, table A1); 40% below 1,000
    characters, where a refrain is as much."""
    if "\n" not in text:
        return True, "repeated_lines"
    lines = text.split("\n")
    if len(set(lines)) + max(lines.count("") - 1, 0) == len(lines):
        return True, "repeated_lines"
    repeated = sum(len(line) * (n - 1) for line, n in Counter(lines).items())
    return repeated <= (0.3 if len(text) >= 1000 else 0.4) * len(text), "repeated_lines"


WORD = re.compile(r"[^\W_]")
REPEATED_SHARE = 0.45


def no_repeated_ngrams(text: str) -> tuple[bool, str]:
    """Of the words at most 45% in a five-word sequence that stood before; in a short text, where two sentences share a phrase
    easily, a little more: 50% of 30 words. Laws, exam papers and lists of drugs reach 36%, reference pages 45% (Gopher's 30% for
    all lengths was wrong seven times out of eight on them)."""
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
    return repeated <= max(REPEATED_SHARE, 0.4 + 3 / len(words)) * len(words), "repeated_ngrams"


def judge(text: str, least: int, counts: Counts | None = None) -> tuple[bool, str]:
    """The first rule that drops a cleaned text, cheapest first; (True, "") when all keep it.

    Without `counts` the text is measured here; the verdict is the same.
    """
    keep, reason = long_enough(text, least)
    if keep:
        keep, reason = enough_hangul(text, counts.hangul, counts.letters, counts.kana) if counts else is_korean(text)
    if keep:
        keep, reason = is_well_encoded(text)
    if keep:
        keep, reason = is_unbroken(text)
    if keep and (counts is None or counts.sales * 2 * OFFERS_EVERY >= len(text)):  # an offer and a call may begin with the same words
        keep, reason = is_no_advertisement(text)
    if keep:
        keep, reason = no_repeated_lines(text)
    # what `batch` calls a word is a part of one here, so a word that is repeated here holds one that is repeated there
    if keep and (counts is None or counts.repeated_words > REPEATED_SHARE * counts.tokens):
        keep, reason = no_repeated_ngrams(text)
    return (True, "") if keep else (False, reason)
