"""The cleaners on anything: they never raise, clean once and for all, and keep to a bound."""

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kmlite.refine import batch, cleaning  # noqa: E402
from kmlite.refine.cleaning import clean, clean_all, look  # noqa: E402
from kmlite.refine.markup import strip_html, strip_links, strip_notes  # noqa: E402
from kmlite.refine.text import (  # noqa: E402
    AD_TERMS,
    CALLS,
    CONTROL_TOKENS,
    OFFERS,
    Counts,
    compose,
    judge,
    squeeze,
    strip_addresses,
    strip_mails,
    strip_urls,
)
from kmlite.refine.wiki import strip_wiki  # noqa: E402

SIGNS = (
    *("`", "```\n", "<math>", "</math>", "<code>", "</code>", "[math(", ")]", "{{{#!syntax python ", "{{{+1 ", "{{{#red ", "{{lang|en|"),
    *("{{formatnum:", "{{틀|", "({{틀}}, ", "[ruby(가, ruby=", "= = 가 = =", "[편집]", "00:00:01,000 --> 00:00:02,000", "[00:01.00]"),
    *("<unused1>", "<end_of_<b>turn>", "[multimodal]", "&lt;eos&gt;", "[b]", "[/b]", "<sup>2</sup>", "<gallery>", '" |', "＠", "82-10-"),
    *(
        "<",
        ">",
        "</",
        "<p>",
        "<br/>",
        "</p>",
        "<b",
        "<td>",
        "</td>",
        "<!--",
        "-->",
        "<script>",
        "</script>",
        "<title>",
        "<기생충>",
        "<ref>",
    ),
    *("&", "&lt;", "&gt;", "&amp;", "&#60;", "&#38;", "&nbsp;", "amp;", "lt;", "[[", "]]", "{{", "}}", "{{{", "}}}", "|", "||", "{|", "|}"),
    *(
        "==",
        "== ",
        " ==",
        "=",
        "~~",
        "--",
        "'''",
        "''",
        "[*",
        "]",
        "[목차]",
        "[include(",
        "[anchor(",
        "분류:",
        "\n",
        "\n\n",
        "\r",
        " ",
        "  ",
        "\t",
        "\u00a0",
    ),
    *(
        "http://",
        "https://a.kr",
        "www.",
        "www.a.kr",
        "@",
        "a@b.kr",
        "010-1234-5678",
        "010 - 1234 - 5678",
        "900101 - 1234567",
        "010",
        "1234",
        "5678",
        "-",
        "900101-1234567",
        "(",
        ")",
        "０",
    ),
    *(
        "<bos>",
        "<start_of_turn>",
        "<bo",
        "s>",
        "\x00",
        "\u200b",
        "\ufeff",
        "\ufffd",
        "\u1112",
        "\u1161",
        "\u11ab",
        "가",
        "나다",
        "a",
        "x=",
        "할인",
        "무료 ",
        "배송",
        "1+1",
        "지금구매",
        "\t",
        "\u3000",
        "\u2028",
        "ftp://a.kr",
        "](",
        "[",
        "![",
        "[!INCLUDE ",
        "a.md)",
        '<sup class="reference">',
        "</sup>",
        "．",
        "０１０",
        "１２３４",
    ),
)
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(SIGNS), max_size=30).map("".join))
many = settings(max_examples=1500, deadline=None)


@many
@given(texts)
def test_a_cleaned_text_is_clean_and_no_longer_than_three_times_the_raw(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert len(cleaned) <= 3 * len(text)
    assert not CONTROL_TOKENS.search(cleaned)


@many
@given(texts)
def test_single_cleaners(text):
    for cleaner in (compose, squeeze):
        once = cleaner(text)
        assert cleaner(once) == once
    assert len(strip_addresses(text)) <= len(text)


RULES = {
    cleaning.URL: lambda text: strip_urls(text)[0],
    cleaning.MAIL: lambda text: strip_mails(text)[0],
    cleaning.NUMBER: lambda text: strip_addresses(text, ["phone"]),
    cleaning.RESIDENT: lambda text: strip_addresses(text, ["resident_number"]),
    cleaning.WIKI: strip_wiki,
    cleaning.TAG | cleaning.ENTITY: strip_html,
    cleaning.TAG: strip_notes,
    cleaning.LINK: strip_links,
}


@many
@given(texts)
def test_a_rule_that_is_not_asked_would_change_nothing(text):
    [needs] = look([text])
    if not needs & (cleaning.COMPOSE | cleaning.TAG):
        assert compose(text) == text
    if not needs & (cleaning.COMPOSE | cleaning.TABS | cleaning.BLANKS):
        assert squeeze(text) == text
    text, needs = cleaning.tidy(text, needs)
    for bits, rule in RULES.items():
        if not needs & bits:
            assert rule(text) == text, rule


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, max_size=8))
def test_texts_are_cleaned_together_as_alone(found):
    assert clean_all(found) == [clean(text) for text in found]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(texts, st.lists(st.sampled_from(["가", "나다 ", "라마바 ", "- ", "a, ", "\n"]), max_size=150).map("".join)),
        min_size=1,
        max_size=8,
    )
)
def test_a_text_is_judged_in_a_batch_as_alone(found):
    cleaned = [clean(text) for text in found]
    measured = batch.measure(cleaned)
    repeated = batch.repeated_words(measured)
    batch.signatures(measured)
    for i, text in enumerate(cleaned):
        assert measured.tokens[i] == sum(any(sign.isalnum() for sign in word) for word in text.split())
        assert measured.sales[i] >= max(len(terms.findall(text)) for terms in (AD_TERMS, OFFERS, CALLS))
        columns = (measured.hangul, measured.letters, measured.kana, measured.tokens, repeated, measured.sales)
        counts = Counts(*(int(values[i]) for values in columns))
        assert judge(text, 0, counts) == judge(text, 0)


@many
@given(st.one_of(*(st.from_regex(terms, fullmatch=True) for terms in (AD_TERMS, OFFERS, CALLS))))
def test_every_term_of_an_advertisement_is_counted(term):
    assert batch.measure([clean(f"가 {term} 나")]).sales[0] >= 1
