"""The rules for plain text: what cleaning changes and what it must leave alone, and what judging drops."""

import unicodedata

import pytest

from kmlite import paths
from kmlite.refine import batch, judging
from kmlite.refine.cleaning import clean
from kmlite.refine.judging import judge
from kmlite.refine.markup import strip_html, strip_notes
from kmlite.refine.readers import raw_files, read_raw
from kmlite.refine.text import CONTROL_TOKEN, compose, squeeze, strip_addresses
from kmlite.refine.wiki import strip_wiki

KOREAN = (
    "고혈압은 동맥의 압력이 정상보다 높은 상태가 이어지는 병이다. 진료실에서 잰 수축기 혈압이 140 이상이면 고혈압으로 본다. "
    "대부분 뚜렷한 증상이 없어 건강 검진에서 우연히 발견된다. 싱겁게 먹고 꾸준히 운동하면 도움이 된다."
)

# ---- cleaning


def html(text):
    return squeeze(strip_html(text))


def wiki(text):
    return strip_wiki(strip_notes(text))


CHANGED = {
    compose: [
        (unicodedata.normalize("NFD", "혈압이 높다"), "혈압이 높다"),
        ("\u1112\u1161\u11ab글", "한글"),
        ("가\r\n나\r다\n라", "가\n나\n다\n라"),
        ("혈\u200b압\u00ad약\ufeff", "혈압약"),
        ("가\x00나\x07다", "가 나 다"),  # what stood there is unknown
        ("50\x01g, 1\ufffa0", "50 g, 1 0"),
        ("10\x9620 mg", "10–20 mg"),  # a dash of Windows' code page
        ("\x1b[31m빨강\x1b[0m", "빨강"),
        ("가\t나", "가\t나"),
        ("50 \ufffdg, 그림\ufffc", "50 \ufffdg, 그림\ufffc"),
        ("\u202a오른쪽\u202c", "오른쪽"),
        ("<boss>와 <eosinophil>", "<boss>와 <eosinophil>"),
        ("ﬁ ① ㎎ Ａ ½", "ﬁ ① ㎎ Ａ ½"),  # NFC, not NFKC: signs keep their shape
        ("가\u2028나", "가\n나"),
        ("가\x85나", "가\n나"),
    ],
    html: [
        ("H<sub>2</sub>O", "H2O"),
        ("1.73&nbsp;m<sup>2</sup>", "1.73 m2"),
        ("<b>고혈압</b>은", "고혈압은"),
        ('<a href="/drug/a.html" target="_blank">아스피린</a>을', "아스피린을"),
        ("<p>가</p><p>나</p>", "가\n\n나"),
        ("<p>가<p>나", "가\n\n나"),
        ("가<br>나<br/>다", "가\n\n나\n\n다"),
        ("<P ALIGN=CENTER><FONT COLOR='#0000FF'>가</FONT></P>", "가"),
        ("<ul><li>가<li>나</ul>", "가\n\n나"),
        ("<table><tr><th>가</th><th>나</th></tr><tr><td>1</td><td>2</td></tr></table>", "가 나\n\n1 2"),
        ("<h3>제목</h3>글", "제목\n\n글"),
        ('<img src="a.png" alt="그림"/>글', "글"),
        ("AST &amp; ALT", "AST & ALT"),
        ("5 &lt; 7 &gt; 3", "5 < 7 > 3"),
        ("38&deg;C &mdash; &#39;열&#39;", "38°C — '열'"),
        ("<p>5 &lt; 7</p>", "5 < 7"),
        ("&lt;p&gt;글&lt;/p&gt;", "<p>글</p>"),  # a text about HTML
        ('<script>if (a < b) { document.write("<p>광고</p>"); }</script>본문', "본문"),
        ("<style>p{color:red}</style>본문", "본문"),
        ("<head><title>제목</title></head><body>본문</body>", "본문"),
        ("<p>가</p><iframe>틀</iframe><svg><text>그림</text></svg>", "가"),
        ("<p>가</p><noscript>켜 주세요</noscript>", "가"),
        ("<noscript>켜 주세요</noscript><p>가</p>", "가"),
        ("<p>가</p><template>틀</template>", "가"),
        ("가<!-- 숨긴\n글 -->나", "가나"),
        ("가<!-- <p>댓글</p> -->나", "가나"),
        ("<p>영화 <기생충>과 List<T></p>", "영화 <기생충>과 List<T>"),
        ("<b>IL-6</b><TNF-a>CRP", "IL-6<TNF-a>CRP"),
        ("<p>글<o:p></o:p></p>", "글"),  # Word writes these; the sample holds one
        ("<p><dfn>가</dfn>는 <samp>나</samp>이다</p>", "가는 나이다"),
    ],
    wiki: [
        ("[[심장]]은 뛴다", "심장은 뛴다"),
        ("[[허파|폐]]와 [[세종 (조선)|세종]]", "폐와 세종"),
        ("[[욕창#단계|1단계 욕창]]", "1단계 욕창"),
        ("[[분류:의학]][[Category:Medicine]]글", "글"),
        ("[[en:Stroke]]글", "글"),
        ("[[파일:a.png|섬네일|[[심장]]의 그림]]글", "글"),
        ("{{토막글|음악}}글", "글"),
        ("{{정보\n| 이름 = [[심장]]\n| 과 = [[내과|심장내과]]\n}}\n글", "\n글"),
        ("{{가|{{나|다}} 라}}글", "글"),
        ("{{가|{{나|다}}}}글", "글"),
        ("{{가|{{나|{{다}}}}}}글", "글"),
        ("'''심근경색'''({{llang|en|infarction}})", "심근경색(infarction)"),
        ("'''굵게''' ''기울임''", "굵게 기울임"),
        ("{{{+1 큰 글}}} {{{#red 빨강}}}", "큰 글 빨강"),
        ("{{{#!folding [더 보기]\n속\n}}}", "속\n"),
        ("[[폐]]에 생긴다.[* 각주 [[링크]]가 든 것.] 뒤", "폐에 생긴다. 뒤"),
        ("[[폐]].[* 각주[* 속의 각주] 끝] 뒤", "폐. 뒤"),
        ("글<ref>출처</ref> 뒤", "글 뒤"),
        ('글<ref name="a" /> 뒤<ref group="주">말</ref>', "글 뒤"),
        ("글<ref>{{서적 인용|제목=신경학}}</ref>\n<references />", "글\n"),
        ("[목차]\n글[각주]", "\n글"),
        ("[include(틀:상위 문서, top1=감염병)]글 [clearfix]", "글 "),
        ("[anchor(첫머리)]글 [youtube(AbC-12)]", "글 "),
        ("== 개요 ==\n글\n=== 치료 ===\n약", "개요\n글\n치료\n약"),
        ("==# 접힌 제목 #==\n[[글]]", "접힌 제목\n글"),
        ("[[약]]을 먹는다. ~~약이 많다~~ --정말로--", "약을 먹는다.  "),
        ("||<-2><bgcolor=#eee> 나라 || [[조선]] ||", "  나라   조선  "),
        ('[[표]]\n{| class="wikitable"\n! 율명 !! 뜻\n|-\n| 黃 || 황종\n|}', "표\n\n율명   뜻\n\n黃   황종\n"),
        ('{| class="wikitable"\n! 율명 !! 뜻\n|-\n| 黃 || 황종\n|}', "\n율명   뜻\n\n黃   황종\n"),
        ("* [[가]]\n# 나\n; 다\n: 라\n> 마\n----", "가\n나\n다\n라\n마\n"),
        ("[[기후]] 1990--1995년, 2000--2005년, 30~~40%, 10~~20도", "기후 1990--1995년, 2000--2005년, 30~~40%, 10~~20도"),  # ranges
        ("[[가]]나[br]다", "가나\n다"),
    ],
    strip_addresses: [
        ("https://example.kr/a/b?c=d&e=f#g를 보라", "를 보라"),
        ("http://example.com에서", "에서"),
        ("ftp://example.com/x 뒤", " 뒤"),
        ("www.example.kr/adr 이름", " 이름"),
        ("누리집(https://a.kr/b)에 올린다", "누리집에 올린다"),
        ("누리집(www.a.co.kr, b@c.kr)이다", "누리집이다"),
        ("vaccine@example.kr로 묻는다", "로 묻는다"),
        ("a.b+c@d-e.co.kr 뒤", " 뒤"),
        ("전화 02-000-0000이다", "전화 이다"),
        ("010-1234-5678로", "로"),
        ("010-1234-5678 g, 02-123-4567 mL", " g,  mL"),
        ("010 1234 5678, 010.1234.5678", ", "),
        ("(02) 123-4567", ""),
        ("(02)123-4567", ""),
        ("02)123-4567", ""),
        ("01012345678로 연락", "로 연락"),
        ("+82-10-1234-5678 뒤", " 뒤"),
        ("1588-1234로", "1588-1234로"),  # a business number, in the shape of two years
        ("주민번호 900101-1234567이다", "주민번호 이다"),
        ("9001011234567 뒤", " 뒤"),
        ("f()를 부른다: https://a.kr", "f()를 부른다: "),
    ],
    squeeze: [
        ("  가   나 \n\n\n\n 다\t라 ", "가 나\n\n다 라"),
        ("가\u00a0나\u3000다", "가 나 다"),
        ("\n \n가\n \n \n나\n", "가\n\n나"),
        ("가\n나", "가\n나"),
        (" \n\t\n", ""),
    ],
    clean: [
        ("<p>{{틀}}<b>[[심장|염통]]</b>은&nbsp; 뛴다(https://a.kr).</p>", "염통은 뛴다."),
        ("<b>010</b>-1234-5678", ""),
        ("|| <b>가</b> || 나 ||", "가 나"),
        ("https://a.kr/?x=1&copy=2를 보라", "를 보라"),  # `&copy` of an address is no entity
        (unicodedata.normalize("NFD", "== 개요 ==\n가나다"), "개요\n가나다"),
        ("혈&#8203;압", "혈압"),
        ("[연결 개체](./connection-object.md)를 참조하세요.", "연결 개체를 참조하세요."),
        ('자세한 것은 [여기](https://a.kr/b_(c)?d=1 "제목")에 있다.', "자세한 것은 여기에 있다."),
        ("[목차로](#top) 돌아간다 ![그림 설명](img/a.png)끝", "목차로 돌아간다 끝"),
        ("[![배지](https://a.kr/b.svg)](https://a.kr) 문서", "문서"),
        ("[!INCLUDE[SQL Server](../../includes/sql.md)]에서", "SQL Server에서"),
        ("[a [b] c](d.md)", "a [b] c"),
        ("handlers[type](event.data)", "handlers[type](event.data)"),
        ("간격 [1](2)와 [가](나 다)", "간격 [1](2)와 [가](나 다)"),
        ("값 [표 1](2.5)", "값 표 1"),  # a number in the place of a path reads as one
        ('글.<sup id="c" class="reference"><a href="#n">[1]</a></sup> 10<sup>2</sup>', "글. 10²"),
        ("{{{#!folding [보기]\n두통이 흔하며 {{{+1 심하면}}} 병원에 간다.\n}}}", "두통이 흔하며 심하면 병원에 간다."),
        ("{{{#red 위험한 {{{+2 약물}}}}}}", "위험한 약물"),
        ("{{{#!html <b>글</b>}}}", "글"),
        ('{{{#!wiki style="a" 글}}}', "글"),
        ('{{{#!wiki style="a"\n{{{#!folding [더]\n{{{#blue,red 안의 {{{-1 작은 글}}} 끝}}}\n}}}}}}', "안의 작은 글 끝"),
        ('{{{#!wiki style="a"\n끊긴 쪽', "끊긴 쪽"),
        ("무게는 {{convert|70|kg|lb}}, {{formatnum:12345}}명, {{lang|en|heart}}, {{frac|1|2}}", "무게는 70 kg, 12345명, heart, 1/2"),
        ("{{ruby|漢字|한자}}, {{chem|H|2|O}}, {{val|1.5|u=kg}}, {{lang-la|cor}}", "漢字(한자), H2O, 1.5 kg, cor"),
        ("심장({{출처|a=1}}, {{주석|b=2}})과 폐({{출처|a}}, 허파)와 간(肝, {{출처|a}})", "심장과 폐(허파)와 간(肝)"),
        ("12{{출처|a}}34, 글{{출처|a}}이다", "12 34, 글이다"),
        ("[ruby(漢字, ruby=한자)]와 [math(\\frac{{a}}{b})]", "漢字(한자)와 \\frac{{a}}{b}"),
        ("[목차]\n## 메모\n||<nopad> 가 || 나 ||\nH,,2,,O", "가 나\nH2O"),
        ('{| class="wikitable"\n|+ 캡션\n! rowspan="2" | 이름 !! 값\n|-\n| colspan=2 | 가 || 나\n|}', "캡션\n이름 값\n\n가 나"),
        ('rowspan="2" | 값', "값"),
        ("<math>\\frac{{a}}{{b}}</math> 식, <gallery>\n파일:a.jpg|그림\n</gallery>", "\\frac{{a}}{{b}} 식,\n그림"),
        ('<doc id="1" url="https://a.kr" title="심장">\n글\n</doc>', "글"),
        (" = = 제목 = = \n글\n = 큰 제목 = ", "제목\n글\n큰 제목"),
        ("개요[편집]\n메뉴에서 [편집]을 누른다. 도구 [편집]", "개요\n메뉴에서 [편집]을 누른다. 도구 [편집]"),
        ("1\n00:00:01,000 --> 00:00:02,500\n안녕\n\n2\n00:00:03,000 --> 00:00:04,000\n또 봐", "안녕\n\n또 봐"),
        ("[00:12.34]첫 줄\n[00:15.00]둘째 줄\n[00:18.20]셋째 줄", "첫 줄\n둘째 줄\n셋째 줄"),
        ("<SYNC Start=1000><P Class=KRCC>안녕\n<SYNC Start=2000><P Class=KRCC>&nbsp;", "안녕"),
        ("[b]굵은 글[/b]과 [url=http://a.kr]고리[/url] a[b]", "굵은 글과 고리 a[b]"),
        ("150 × 10<sup>9</sup>/L, m<sup>2</sup>", "150 × 10⁹/L, m2"),
        ("<script src='a.js'></script>본문 <script>var a = 1;</script> 뒤", "본문 뒤"),
        ("글 <script>\nvar a = {};\nf(a);", "글"),
        ("82-10-1234-5678 +82 2 123 4567 (+82)10-1234-5678 +821012345678 ０１０－１２３４－５６７８", ""),
        ("Tel.02-123-4567, 전화:031-123-4567, 전화 02 123 4567", "Tel., 전화:, 전화"),
        ("900101 1234567, kim＠example.kr", ","),
        ("가<end_of_<b>turn>나 &lt;end_of_turn&gt;&lt;start_of_turn&gt;user <unused12>[multimodal]", "가 나 user"),
    ],
}
STAYS = {
    html: [
        "혈압 < 120 이고 맥박 > 80",
        "pH <7.35",
        "pH <7.35이면 산혈증, pH >7.45이면 알칼리혈증",
        "IL-6<TNF-a>CRP",
        "List<T>",
        "Map<String, Integer>와 <T extends Comparable<T>>",
        "영화 <기생충>",
        "a<b이고 b>c",
        "a < b > c",
        "a<b and b>c",
        "120 <= 수축기 < 130이고 이완기 >= 90",
        "p<q",
        "p <p 값> q",
        "가<!-- 닫지 않은 주석",
        "AT&T",
        "- 목록\n- 둘째",
    ],
    wiki: [
        "# 마크다운 제목\n* 목록\n> 인용",
        "~~취소선~~만 있는 글",
        "기온은 10~20도, 습도는 30~40%이다.",
        "if (a == b || c) {\n}",
        "{{ 닫지 않은 틀",
        "[[닫지 않은 고리",
        "배열 a[0]과 [목록]",
        "글<ref>닫지 않은 각주",
    ],
    strip_addresses: [
        "혈압 120-80 mmHg",
        "나트륨 135-145 mEq/L, 칼륨 3.5-5.0",
        "ISBN 978-89-01-12345-6",
        "ISBN 9788901123456",
        "900101-123456",
        "901301-1234567",  # no thirteenth month
        "900101-9234567",
        "2020-01-01부터 2020-12-31까지",
        "한국 전쟁(1950-1953)",
        "임진왜란(1592-1598)",
        "하루 1500-2000 mL를 마신다",
        "1600-1800년대",
        "119와 112, 1339에 전화한다",
        "계좌 110-123-456789",
        "a@b와 @이름",
        "http:// 로 시작한다",
        "빈 괄호 f()와 [ ]",
        "awww.example.kr",
    ],
    clean: [
        "- hosts: {{ ansible_host }}\n# 설치\n* 별표\n>>> print(1)\n::1 주소",
        "\\frac{{a}}{{b}} 값 x[[1]]\n# 설명\n>>> 코드",
        "'''\n# 주석이다\n* 가",
        "{{이름}}과 {{ 값 | default('x') }}, {{value|safe}}, {{{raw}}}, {% if a %}",
        '[[nodiscard]]를 붙인다. if [[ -f "파일" ]]; then\nx=[["이름", 1]], df[["나이"]]',
        "HTML에서 <script> 태그를 쓴다. <p> 태그와 <style> 요소도 있다. 뒤의 글",
        "<script>와 </script> 사이에 둔다. 뒤의 글",
        "a || b, a == b, **kwargs, f(*args)",
        "```python\n# 주석 <b>x</b> [[가]]\n'''문서'''\n```\n`<div>`로 쓴다",
        "소변량 08 120 1400 cc, 값 02 123 4567 mL",
        "Tue Feb 02 09:19:06 2009 -0700",
        "550e8400-e29b-0104-4567-446655440000 01012345-6789-0102-0304-010123456789",
        "lodash@4.17.21 root@10.0.0.5 git@github.com:user/repo.git icon@2x.png react@18.2.0-beta.1",
        "바코드 8801234567893, 시각 1510123456789",
        "50 \ufffdg, 37.5 °C, ±2 µg",
        "a&copy=1&lang=ko&section=2",
        "09:00 접수 --> 10:00 진료",
    ],
}


@pytest.mark.parametrize(("rule", "raw", "expected"), [(rule, *case) for rule, cases in CHANGED.items() for case in cases])
def test_what_a_rule_changes(rule, raw, expected):
    assert rule(raw) == expected


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in STAYS.items() for text in texts])
def test_what_only_looks_like_markup_or_an_address_stays(rule, text):
    assert rule(text) == text


@pytest.mark.parametrize("text", STAYS[html])
def test_text_that_only_looks_like_html_stays_in_a_page(text):
    assert html(f"<p>{text.replace('<!--', '')}</p>") == text.replace("<!--", "")


@pytest.mark.parametrize("raw", ["<start_of_turn>", "&lt;start_of_turn&gt;", "&#60;bos>", "<start_of_<bos>turn>", "<p>&lt;eos&gt;</p>"])
def test_no_chat_token_is_left_in_a_cleaned_text(raw):
    assert CONTROL_TOKEN.search(clean(f"가 {raw} 나")) is None


def test_the_sample_is_clean_after_one_cleaning():
    folder = paths.SAMPLE_RAW / paths.RAW_TEXT
    records = [raw.value for file in raw_files(folder) for raw in read_raw(file, folder) if raw.problem is None]
    texts = [clean(record["text"]) for record in records if isinstance(record.get("text"), str)]
    assert len(texts) > 300
    assert [clean(text) for text in texts] == texts
    assert not [text[:60] for text in texts if any(mark in text for mark in ("</", "[[", "{{", "'''", "&nbsp;", "://"))]


# ---- judging


def stopped_by(text, least=100):
    """The reasons of all rules that a text breaks; the first is what `judge` says."""
    [counts] = batch.counts(batch.measure([text]))
    found = ["too_short"] * (len(text) < least) + [reason for reason, stays in judging.RULES.items() if not stays(text, counts)]
    assert judge(text, least, counts) == (found[0] if found else "")
    return found


def words(n, start=0):
    """n different Korean words."""
    return [f"{chr(0xAC00 + 28 * i)}낱말" for i in range(start, start + n)]


def latin(n):
    return [f"{chr(ord('a') + i)}bcdefghij" for i in range(n)]


PHRASE = words(10)
FOUR = "가 나 다 라"
ADVERTISEMENT = (
    "오늘 하루만 열리는 큰 장터에 오시면 무료배송으로 보내 드리고 할인 쿠폰도 나누어 드립니다. "
    "가까운 벗과 함께 오시면 더 좋은 자리를 마련해 두었으니 잊지 말고 들러 주시기 바랍니다."
)
SHOUTED = (  # none of the sales terms: an offer, a call to act and a raised voice
    "누수 때문에 밤잠을 설치셨나요? 벽을 뜯지 않고 새는 곳을 찾아 드려요! 못 찾으면 한 푼도 받지 않고, "
    "오늘 맡기시면 방수까지 반값에 해 드려요. 사진만 보내 주세요, 바로 저렴한 값을 알려 드려요. 망설이는 동안 아래층 천장이 젖습니다!"
)
CHART = (
    "68세 남자, chest pain과 dyspnea로 ER 내원함. HTN, DM으로 amlodipine, metformin 복용 중. EKG에서 ST elevation 관찰되어 anterior "
    "wall STEMI로 진단하고 aspirin loading 후 coronary angiography 시행함."
)


STOPPED = [
    (KOREAN[:99], "too_short"),
    ("", "too_short, not_korean"),
    (
        "The heart pumps blood through the vessels of the circulatory system. Valves between its chambers keep that blood moving in "
        "one direction only.",
        "not_korean",
    ),
    ("糖尿病是一种以血糖升高为特征的慢性疾病患者应当控制饮食坚持运动并按照医生的建议用药和定期检查" * 3, "not_korean"),
    ("あいうえおかきくけこさしすせそたちつてと" * 4 + "가나다라마바사아자차카타파하" * 2, "not_korean"),
    ("가나다라마바사아자차카타파하거너더러머" + " ".join([" ", *latin(15)]), "not_korean"),  # 19 syllables of 169 letters
    (" ".join(["가나다라마바사아자차카타파하거너더러머버", *latin(19)]), "not_korean"),  # 20 of 210 letters
    (KOREAN.encode().decode("cp949", "ignore"), "not_korean"),
    (KOREAN.replace("다", "\ufffd"), "broken_character"),
    (ADVERTISEMENT, "advertisement"),
    (SHOUTED, "advertisement"),
    ("\n".join(["혈압약은아침마다같은시간에먹는다"] * 8), "repeated_lines"),
    (" ".join(PHRASE * 3), "repeated_ngrams"),
    (" ".join([*PHRASE, *words(12, 20), *PHRASE, *PHRASE]), "repeated_ngrams"),  # 20 of 42 words
]


@pytest.mark.parametrize(("text", "reason"), STOPPED)
def test_a_text_that_one_rule_alone_stops(text, reason):
    assert ", ".join(stopped_by(text)) == reason


def test_every_rule_has_a_text_that_it_alone_stops():
    assert {reason for _, reason in STOPPED} >= {"too_short", *judging.RULES}


@pytest.mark.parametrize(
    "text",
    [
        KOREAN[:100],
        clean(KOREAN.replace("고혈압은", "50 \ufffdg의")),
        CHART,
        " ".join(["가나다라마바사아자차카타파하거너더러머버", *latin(18)]),  # 20 of 200 letters
        "가나다라마바사아자차카타파하거너더러머버" + " 120/80" * 15,  # 20 syllables and numbers
        "あいうえおかきくけこさしすせそたちつてと" * 3 + "가나다라마바사아자차카타파하" * 5,
        # two kinds of sales words, often; three kinds in a long text
        "자바스크립트에서 단추를 클릭하면 브라우저는 클릭 이벤트를 만든다. 이벤트는 안쪽에서 바깥쪽으로 전해진다. "
        "클릭 이벤트를 처리하는 함수를 등록하면 클릭할 때마다 불린다. 이벤트 위임이라고도 한다.",
        ADVERTISEMENT + KOREAN,
        SHOUTED.replace("!", "."),
        SHOUTED + KOREAN,
        "\n".join(
            ["혈압약은아침마다같은시간에먹는다", "물을넉넉히마신다", *[w * 5 for w in words(10)], "혈압약은아침마다같은시간에먹는다"]
        ),
        " ".join([*PHRASE, *words(13, 20), *PHRASE, *PHRASE]),  # 20 of 43 words
        "가나다라마바사아자차카타파하거너더러머" + " 120/80" * 15,  # 19 syllables, and no other letter
        r"함수의 극한을 구하여라 $\mathrm{d}x$ " + r"\frac{\mathrm{d}}{\mathrm{d}t} " * 8,  # LaTeX is no English
        "가나다라마바사아자차카타파하거너더러머버\n" + "\n".join(f"{w} = {w}({w});" for w in latin(20)),  # nor is code
        " ".join(x for w in words(12, 40) for x in (FOUR, w, w + "도")),  # four words again and again, never five
        "\n".join(" ".join(words(9)) for _ in range(2)) + "\n" + " ".join(words(43, 20)),
    ],
)
def test_near_misses_are_kept(text):
    assert stopped_by(text) == []


def test_the_shortest_length_is_a_setting():
    assert (stopped_by(KOREAN, len(KOREAN)), stopped_by(KOREAN, len(KOREAN) + 1)) == ([], ["too_short"])
