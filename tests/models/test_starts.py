"""How rows of new tokens start: better predicted than the fitted ones where the model has read the same text in old tokens."""

import pytest
import torch

from kmlite.models import starts, vocabulary


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
