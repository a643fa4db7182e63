"""New tokens: no string gets longer, all that was there stays as it was, and their rows start better predicted than fitted ones."""

from collections import Counter

import pytest
import torch
from conftest import embedding, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from kmlite import files, records
from kmlite.models import starts, vocabulary


@pytest.fixture(scope="module")
def extended(base, tokenizer, texts, tmp_path_factory):
    merges = vocabulary.choose_merges(vocabulary.count_words(texts), tokenizer, 150)
    folder = tmp_path_factory.mktemp("extended") / "extended"
    ids = vocabulary.extend_model(base, folder, merges, starts.fitted_rows(embedding(base), tokenizer, merges))
    return folder, merges, ids, AutoTokenizer.from_pretrained(folder)


HANGUL = st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)
ANYTHING = st.one_of(st.text(), st.text(alphabet=HANGUL), st.text(alphabet="혈압이 높은환자의\n▁a1"))


def test_real_text_gets_shorter(tokenizer, extended, texts):
    before, after = ([len(ids) for ids in t(texts)["input_ids"]] for t in (tokenizer, extended[3]))
    assert all(b <= a for a, b in zip(before, after, strict=True))
    assert sum(after) < 0.97 * sum(before)
    assert [extended[3].decode(ids, skip_special_tokens=True) for ids in extended[3](texts)["input_ids"]] == texts


@settings(max_examples=300, deadline=None)
@given(text=ANYTHING)
def test_any_string_is_at_most_as_long_and_decodes_alike(tokenizer, extended, text):
    before, after = (t(text, add_special_tokens=False)["input_ids"] for t in (tokenizer, extended[3]))
    assert len(after) <= len(before)
    assert extended[3].decode(after) == tokenizer.decode(before)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(blacklist_categories=["Cs"])).filter(lambda t: not any("가" <= c <= "힣" for c in t)))
def test_any_text_without_hangul_keeps_its_ids(tokenizer, extended, text):
    assert extended[3](text)["input_ids"] == tokenizer(text)["input_ids"]


def test_old_ids_stay_also_after_saving_and_loading(tokenizer, extended, tmp_path):
    again = extended[3]
    again.save_pretrained(tmp_path)
    for found in (again, AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.get_vocab().items() <= found.get_vocab().items()
        assert found.image_token_id == tokenizer.image_token_id
        assert found.chat_template == tokenizer.chat_template
        assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (2, 1, 0)


def test_every_new_token_is_reachable(extended):
    _, merges, ids, tokenizer = extended
    assert len(ids) == len(merges) == 150
    for (left, right, _), id in zip(merges, ids, strict=True):
        encoded = tokenizer((left + right).replace("▁", " "), add_special_tokens=False)["input_ids"]
        assert encoded == [id]


def test_rows_grow_only_and_old_ones_keep_their_bytes(base, tokenizer, extended, tmp_path):
    folder, merges, ids, _ = extended
    old, new = weights(base), weights(folder)
    name = next(n for n in old if n.endswith("embed_tokens.weight"))
    assert new[name][: ids[0]].equal(old[name][: ids[0]])  # the first new ids fill rows that no token had
    assert len(new[name]) % 64 == 0
    assert len(new[name]) > ids[-1]
    assert all(old[n].equal(new[n]) for n in old if n != name)
    assert new[name][ids].equal(starts.fitted_rows(old[name], tokenizer, merges).to(old[name].dtype))
    assert files.read_json(folder / "config.json")["text_config"]["vocab_size"] == len(new[name])
    assert vocabulary.extend_model(base, tmp_path / "same", [], None) == []
    same = weights(tmp_path / "same")
    assert all(old[name].equal(same[name]) for name in old)


def test_the_order_of_the_words_does_not_matter_and_rare_and_foreign_ones_give_none(tokenizer):
    words = {"▁혈압계": 5, "▁혈압약": 4, "▁붕당": 2, "▁abc": 90, "▁드문말": 1}
    first = vocabulary.choose_merges(words, tokenizer, 50)
    assert first == vocabulary.choose_merges(dict(reversed(words.items())), tokenizer, 50)
    assert not {"▁드문말", "▁abc"} & {left + right for left, right, _ in first}


def test_merges_are_what_a_slow_count_says(tokenizer, texts):
    """The incremental counts against counting all pairs anew before each merge."""
    words = dict(vocabulary.count_words(texts[:60]))
    fast = vocabulary.choose_merges(words, tokenizer, 25)
    assert [merge.saved for merge in fast] == sorted((merge.saved for merge in fast), reverse=True)
    pieces = {w: tokenizer.tokenize(w.replace("▁", " ")) for w in words}
    known, slow = set(tokenizer.get_vocab()), []
    while len(slow) < 25:
        pairs = Counter()
        for word, n in words.items():
            for left, right in zip(pieces[word], pieces[word][1:], strict=False):
                if vocabulary.HANGUL(left) and vocabulary.HANGUL_NO_SPACE(right) and left + right not in known:
                    pairs[left, right] += n
        pair = min(pairs, key=lambda p: (-pairs[p], p))
        slow.append((*pair, pairs[pair]))
        known.add(pair[0] + pair[1])
        pieces = {w: vocabulary.join(p, pair, pair[0] + pair[1]) for w, p in pieces.items()}
    assert fast == slow


# ---- how many, and how they start


def test_a_flat_end_is_cut_where_more_tokens_save_next_to_nothing(tokenizer, texts, monkeypatch):
    monkeypatch.setattr(vocabulary, "FLAT_WINDOW", 10)
    words = vocabulary.count_words(texts)

    def chosen(share: float) -> list:
        monkeypatch.setattr(vocabulary, "FLAT_SHARE", share)
        return vocabulary.choose_merges(words, tokenizer, 5000, flat=True)

    some, fewer = chosen(0.002), chosen(0.004)
    assert 10 <= len(fewer) < len(some)
    assert some[: len(fewer)] == fewer
    total = sum(n * len(tokenizer.tokenize(w.replace("▁", " "))) for w, n in words.items() if any("가" <= c <= "힣" for c in w))
    assert sum(m.saved for m in fewer[-10:]) >= 0.004 * total


def test_no_merge_holds_an_added_token(base, tokenizer):
    """An added token is cut out of a text before the BPE sees it: "▁의에를" could not be reached."""
    found = AutoTokenizer.from_pretrained(base)
    found.add_tokens(["의에를"])
    words = Counter({"▁의에를": 50, "의에를은": 40, "▁를에의": 30})
    merges = vocabulary.choose_merges(words, found, 50, 1)
    assert merges
    assert not [merge for merge in merges if "의에를" in merge[:2] or merge.left + merge.right == "의에를"]
    assert "▁의에를" in {merge.left + merge.right for merge in vocabulary.choose_merges(words, tokenizer, 50, 1)}


def test_words_of_the_domain_make_the_share_that_is_asked_for():
    texts, domain = ["고름 고름 맥박 열"] * 30, ["맥박 부정맥"]
    words = vocabulary.weighted_words(texts, domain, 0.5)
    assert words == {"▁고름": 60, "▁맥박": 30 + 60, "▁열": 30, "▁부정맥": 60}
    assert vocabulary.weighted_words(texts, domain, 0.25)["▁부정맥"] == 20
    assert vocabulary.weighted_words(texts, domain, 0) == vocabulary.weighted_words(texts, [], 0.5) == vocabulary.count_words(texts)


@pytest.mark.parametrize(("size", "rows"), [(16e6, 0), (1e9, 1300), (34e9, 20_000), (0, 0)])
def test_new_tokens_that_a_size_of_text_can_teach(size, rows):
    tokens = size * records.TOKENS_PER_BYTE
    found, because = vocabulary.affordable(tokens)
    assert found == rows
    assert f"{tokens / 1e6:,.1f} million tokens" in because  # the sum stands in it
    assert ("none are added" in because) == (rows == 0)


@pytest.mark.parametrize(
    ("count", "tokens", "korean", "exam", "kept"),
    [
        (1000, 2e8, (0.10, 0.25), (0.12, 0.10), True),
        (1000, 2e8, (0.10, 0.26), (0.12, 0.10), False),  # Korean rose by more than so much text wins back
        (1000, 2e8, (0.10, 0.10), (0.12, 0.26), False),  # so did exam questions
        (1000, 1e8, (0.10, 0.12), (0.12, 0.12), True),  # half the text, half the rise
        (1000, 1e12, (0.04, 0.01), (0.04, 0.01), False),  # nothing saved
        (1000, 1e12, (0.01, 0.01), (0.06, 0.01), True),
        (1000, 1e3, (0.10, -0.01), (0.12, -0.02), True),  # no rise: nothing to win back
    ],
)
def test_new_tokens_stay_where_the_text_wins_their_cost_back(count, tokens, korean, exam, kept):
    stay, because = vocabulary.worth_it(count, tokens, {"held-out Korean": korean, "exam": exam})
    assert (stay, "none are added" in because) == (kept, not kept)
    assert f"{korean[0]:.1%} of held-out Korean" in because


def test_a_number_of_new_tokens_that_will_cost_is_warned_of():
    assert vocabulary.warning(0, 1e6) is None
    assert vocabulary.warning(1000, 1000 * vocabulary.TOKENS_PER_ROW) is None
    assert "850 tokens of text for each of 5,000" in vocabulary.warning(5000, 4.25e6)


def test_gain_counts_tokens_by_kind_of_text_and_the_new_ones_in_use(tokenizer, extended, texts):
    _, _, ids, after = extended
    gain = vocabulary.gain(tokenizer, after, {"a": texts[:20], "none": [], "english": ["fever and cough"]}, ids)
    assert set(gain["by_text"]) == {"a", "english"}
    part = gain["by_text"]["a"]
    assert part["tokens_after"] == sum(len(x) for x in after(texts[:20], add_special_tokens=False)["input_ids"]) < part["tokens_before"]
    assert part["saved"] == pytest.approx(1 - part["tokens_after"] / part["tokens_before"])
    assert gain["by_text"]["english"]["saved"] == 0
    used = [n for _, n in gain["most_used"]]
    assert used == sorted(used, reverse=True)
    assert 0 < gain["used_share"] <= 1


# ---- how rows start


@pytest.fixture(scope="module")
def merges(tokenizer, texts):
    return vocabulary.choose_merges(vocabulary.count_words(texts), tokenizer, 40)


def test_rows_start_by_the_rule_that_old_rows_follow(tokenizer, merges):
    """Rows made so that row(left + right) = 0.2 row(left) + 0.9 row(right): the fit must come closer to it than the mean."""
    vocab, chance = tokenizer.get_vocab(), torch.Generator().manual_seed(1)
    old = torch.randn(len(tokenizer) + 64, 8, generator=chance)
    for left, right in vocabulary.old_merges(tokenizer):
        if left + right in vocab:
            old[vocab[left + right]] = 0.2 * old[vocab[left]] + 0.9 * old[vocab[right]]
    merges = [m for m in merges if m.left in vocab and m.right in vocab]
    sides = [(old[vocab[m.left]], old[vocab[m.right]]) for m in merges]
    truth, mean = torch.stack([0.2 * a + 0.9 * b for a, b in sides]), torch.stack([(a + b) / 2 for a, b in sides])
    error = (starts.fitted_rows(old, tokenizer, merges) - truth).pow(2).mean()
    assert error < 0.25 * (mean - truth).pow(2).mean()


def test_rows_start_as_the_mean_of_two_pieces_where_there_is_nothing_to_fit_to(tokenizer, merges, monkeypatch):
    monkeypatch.setattr(starts, "old_merges", lambda tokenizer: [])
    vocab, merges = tokenizer.get_vocab(), merges[:1]
    old = torch.randn(len(tokenizer) + 64, 8)
    assert starts.fitted_rows(old, tokenizer, merges)[0].equal((old[vocab[merges[0].left]] + old[vocab[merges[0].right]]) / 2)


def test_what_is_remembered_is_what_the_model_says_behind_the_same_old_tokens(loaded, tokenizer, merges, texts):
    """Each position of a snippet against a forward pass over nothing but the old tokens before it."""
    snippets = starts.chosen_snippets(tokenizer, merges, texts)[:3]
    states, totals, hits, targets = starts.remembered(loaded[0], tokenizer, merges, snippets, batch=2)
    names = [merge.left + merge.right for merge in merges]
    vocab, halves = tokenizer.get_vocab(), dict(zip(names, merges, strict=True))

    def pieces_of(token: str) -> list[str]:
        return [token] if token not in halves else [*pieces_of(halves[token].left), *pieces_of(halves[token].right)]

    positions = [(snippet[:i], token) for snippet in snippets for i, token in enumerate(snippet)]
    assert len(positions) == len(states)
    for (done, token), total, hit, target in zip(positions, totals, hits, targets, strict=True):
        before = [vocab[old] for piece in done for old in pieces_of(piece)]
        with torch.no_grad():
            logits = loaded[0](input_ids=torch.tensor([[tokenizer.bos_token_id, *before]])).logits[0, -1].float()
        assert total == pytest.approx(float(logits.logsumexp(0)), abs=1e-3)
        assert int(target) == (names.index(token) if token in names else -1)
        if token in vocab:
            assert hit == pytest.approx(float(logits[vocab[token]]), abs=1e-3)


def test_every_new_token_that_stands_in_the_texts_gets_a_snippet(tokenizer, merges, texts):
    inside = {piece for pieces in starts.encoded(tokenizer, merges, [t[: starts.CHARACTERS] for t in texts]) for piece in pieces[4:]}
    snippets = starts.chosen_snippets(tokenizer, merges, texts)
    names = {merge.left + merge.right for merge in merges}
    assert names & inside <= {piece for snippet in snippets for piece in snippet}
    assert sum(map(len, snippets)) <= starts.SNIPPET_TOKENS * len(merges) + starts.LEFT + starts.RIGHT + 1


def test_trained_rows_come_nearer_to_rows_that_are_predicted(loaded, tokenizer, merges, monkeypatch):
    """Positions whose next token is drawn by rows that differ from the fitted ones: on others drawn so, the loss must fall."""
    chance = torch.Generator().manual_seed(0)
    start = starts.fitted_rows(loaded[0].get_output_embeddings().weight.detach(), tokenizer, merges)
    truth = start + 0.3 * torch.randn(start.shape, generator=chance) + 0.1

    def positions(n):
        seen = torch.randn(n, start.shape[1], generator=chance) + 0.2
        totals, hits = torch.full((n,), 4.0), torch.full((n,), 1.0)
        every = torch.cat([totals[:, None], seen @ truth.T], 1).softmax(1)
        return seen, totals, hits, torch.multinomial(every, 1, generator=chance)[:, 0] - 1

    def loss(rows, seen, totals, hits, targets):
        logits = torch.cat([totals[:, None], seen @ rows.T], 1)
        return torch.nn.functional.cross_entropy(logits, targets + 1)

    trained_on, others = positions(4000), positions(1000)
    monkeypatch.setattr(starts, "chosen_snippets", lambda *arguments: [["any"]])
    monkeypatch.setattr(starts, "remembered", lambda *arguments: trained_on)
    rows = starts.trained_rows(loaded[0], tokenizer, merges, [])
    before, best, after = (loss(found, *others) for found in (start, truth, rows))
    assert before - after > 0.1 * (before - best)


def test_rows_stay_fitted_where_no_text_holds_them(loaded, tokenizer, merges):
    matrix = loaded[0].get_output_embeddings().weight.detach()
    assert starts.trained_rows(loaded[0], tokenizer, merges, ["no Hangul"]).equal(starts.fitted_rows(matrix, tokenizer, merges))
