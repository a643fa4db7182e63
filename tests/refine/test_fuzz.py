"""The cleaners on anything: they never raise, clean once and for all, and keep to a bound."""

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kmlite.refine import batch, cleaning  # noqa: E402
from kmlite.refine.cleaning import clean, clean_all, look  # noqa: E402
from kmlite.refine.judging import AD_TERMS, CALLS, KANA, OFFERS, judge  # noqa: E402
from kmlite.refine.markup import strip_forum_tags, strip_html, strip_links, strip_notes, strip_time_codes  # noqa: E402
from kmlite.refine.text import (  # noqa: E402
    CONTROL_TOKEN,
    HANGUL,
    IN_BRACKETS,
    LETTERS,
    compose,
    squeeze,
    strip_addresses,
    strip_mails,
    strip_urls,
)
from kmlite.refine.wiki import strip_wiki  # noqa: E402

SIGNS = (
    "`¦```\n¦<math>¦</math>¦<code>¦</code>¦[math(¦)]¦{{{#!syntax python ¦{{{+1 ¦{{{#red ¦{{lang|en|¦{{formatnum:¦{{틀|¦({{틀}}, ¦"
    "[ruby(가, ruby=¦= = 가 = =¦[편집]¦00:00:01,000 --> 00:00:02,000¦[00:01.00]¦<unused1>¦<end_of_<b>turn>¦[multimodal]¦&lt;eos&gt;¦"
    '[b]¦[/b]¦<sup>2</sup>¦<gallery>¦" |¦＠¦82-10-¦<¦>¦</¦<p>¦<br/>¦</p>¦<b¦<td>¦</td>¦<!--¦-->¦<script>¦</script>¦<title>¦<기생충>¦'
    "<ref>¦&¦&lt;¦&gt;¦&amp;¦&#60;¦&#38;¦&nbsp;¦amp;¦lt;¦[[¦]]¦{{¦}}¦{{{¦}}}¦|¦||¦{|¦|}¦==¦== ¦ ==¦=¦~~¦--¦'''¦''¦[*¦]¦[목차]¦"
    "[include(¦[anchor(¦분류:¦\n¦\n\n¦\r¦ ¦  ¦\t¦\xa0¦http://¦https://a.kr¦www.¦www.a.kr¦@¦a@b.kr¦010-1234-5678¦010 - 1234 - 5678¦"
    "900101 - 1234567¦010¦1234¦5678¦-¦900101-1234567¦(¦)¦０¦<bos>¦<start_of_turn>¦<bo¦s>¦\x00¦\u200b¦\ufeff¦\ufffd¦\u1112¦\u1161¦"
    '\u11ab¦가¦나다¦a¦x=¦할인¦무료 ¦배송¦1+1¦지금구매¦\t¦\u3000¦\u2028¦ftp://a.kr¦](¦[¦![¦[!INCLUDE ¦a.md)¦<sup class="reference">¦'
    "</sup>¦．¦０１０¦１２３４"
)  # apart by ¦
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(SIGNS.split("¦")), max_size=30).map("".join))
many = settings(max_examples=400, deadline=None)
few = settings(max_examples=100, deadline=None)


@many
@given(texts)
def test_a_cleaned_text_is_clean_and_no_longer_than_three_times_the_raw(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert len(cleaned) <= 3 * len(text)
    assert not CONTROL_TOKEN.search(cleaned) and not IN_BRACKETS.search(cleaned)


@many
@given(texts)
def test_single_cleaners(text):
    for cleaner in (compose, squeeze):
        once = cleaner(text)
        assert cleaner(once) == once
    assert len(strip_addresses(text)) <= len(text)


words = st.text("가나다라a1 ", min_size=1, max_size=12).map(str.strip).filter(bool)


@few
@given(st.lists(words, min_size=1, max_size=5), st.integers(1, 60), st.sampled_from(["+1 ", "#red ", "-2 ", '#!wiki style="a"\n']))
def test_triple_braces_keep_their_prose_at_any_depth(found, depth, opened):
    assert clean("가 " + ("{{{" + opened) * depth + " ".join(found) + "}}}" * depth + " 나").split() == [
        "가",
        *" ".join(found).split(),
        "나",
    ]


REMOVED = [
    "https://a.kr/b",
    "a@b.kr",
    "010-1234-5678",
    "900101-1234567",
    "<bos>",
    "<unused7>",
    "\x07",
    "<!-- x -->",
    "{{각주}}",
    "{{틀|a=1}}",
]


@few
@given(
    st.from_regex(r"[0-9]{1,3}|[a-z]{1,8}", fullmatch=True),
    st.sampled_from(REMOVED),
    st.from_regex(r"[0-9]{1,3}|[a-z]{1,8}", fullmatch=True),
)
def test_no_rule_joins_what_stood_on_both_sides_of_what_it_removed(left, removed, right):
    cleaned = clean(f"약 {left} {removed} {right} 글")
    assert cleaned.split() == ["약", left, right, "글"]
    if removed in ("<bos>", "<unused7>", "\x07", "{{각주}}", "{{틀|a=1}}"):
        assert clean(f"약 {left}{removed}{right} 글").split() == ["약", left, right, "글"]


@few
@given(
    words,
    st.lists(st.sampled_from(["{{각주}}", "{{출처|a=1}}", "{{틀|b=2}}", ", ", " ", "; "]), min_size=1, max_size=6).map("".join),
    words,
)
def test_a_removed_template_leaves_no_empty_brackets(before, templates, after):
    cleaned = clean(f"[[분류:의학]]\n{before} ({{{{각주}}}}{templates}) {after}")
    assert "(" not in cleaned and ")" not in cleaned and "," not in cleaned


@few
@given(
    st.lists(st.text("가나다라abc.,!?%()·~", min_size=1, max_size=10).filter(lambda word: "~~" not in word), max_size=40),
    st.sampled_from([" ", "\n"]),
)
def test_a_text_without_markup_is_left_alone(found, between):
    text = between.join(found)
    assert clean(text) == text


RULES = {
    cleaning.ADDRESS: lambda text: strip_mails(strip_urls(text)[0])[0],
    cleaning.NUMBER: lambda text: strip_addresses(text, ["resident_number", "phone"]),
    cleaning.WIKI: strip_wiki,
    cleaning.HTML: lambda text: strip_html(strip_notes(text)),
    cleaning.LINK: strip_links,
    cleaning.TIME: strip_time_codes,
    cleaning.FORUM: strip_forum_tags,
}


@many
@given(texts)
def test_a_rule_that_is_not_asked_would_change_nothing(text):
    [needs] = look([text])
    if not needs & (cleaning.COMPOSE | cleaning.HTML):
        assert compose(text) == text
    if not needs & (cleaning.COMPOSE | cleaning.TABS | cleaning.BLANKS):
        assert squeeze(text) == text
    text, needs = cleaning.tidy(text, needs)
    for bits, rule in RULES.items():
        if not needs & bits:
            assert rule(text) == text, rule


@few
@given(st.lists(texts, max_size=8))
def test_texts_are_cleaned_together_as_alone(found):
    assert clean_all(found) == [clean(text) for text in found]


@few
@given(
    st.lists(
        st.one_of(texts, st.lists(st.sampled_from(["가", "나다 ", "라마바 ", "- ", "a, ", "\n"]), max_size=150).map("".join)),
        min_size=1,
        max_size=8,
    )
)
def test_a_text_is_judged_in_a_batch_as_alone(found):
    cleaned = [clean(text) for text in found]
    for text, counts in zip(cleaned, batch.counts(batch.measure(cleaned)), strict=True):
        assert counts[:3] == tuple(len(signs.findall(text)) for signs in (HANGUL, LETTERS, KANA))
        assert counts.tokens == sum(any(sign.isalnum() for sign in word) for word in text.split())
        assert counts.sales >= max(len(terms.findall(text)) for terms in (AD_TERMS, OFFERS, CALLS))
        every_rule = counts._replace(sales=len(text), repeated_words=counts.tokens + 1)  # the slow ones, too
        assert judge(text, 0, counts) == judge(text, 0, every_rule)


@many
@given(st.one_of(*(st.from_regex(terms, fullmatch=True) for terms in (AD_TERMS, OFFERS, CALLS))))
def test_every_term_of_an_advertisement_is_counted(term):
    assert batch.measure([clean(f"가 {term} 나")]).sales[0] >= 1
