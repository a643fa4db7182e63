"""How the embedding rows of new tokens start: fitted to the old BPE's own merges, then trained to predict what the old pieces would."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from kmlite.models.vocabulary import HANGUL, HANGUL_NO_SPACE, Merge, extend_tokenizer, old_merges
from kmlite.progress import progress

LEFT, RIGHT = 10, 5  # tokens around a new one in a snippet
SNIPPET_TOKENS = 20  # for each new token: a snippet of its own (16 at the most), and what is left for further ones; measured with 14
TEXTS, CHARACTERS, SHARE = 6000, 400, 0.15  # texts looked through, of each so much; share of the positions that choose the step to stop at
STEPS, POSITIONS = 300, 512  # of Adam, at so many positions each


def fitted_rows(old, tokenizer, merges: list[Merge]):
    """Embedding rows of new tokens, float32 [merges, width], from the old matrix [rows, width].

    Two matrices A and B with row(left + right) = A row(left) + B row(right) are fitted by ridge regression to the Hangul tokens that the
    old BPE merged. On gemma-3-270m that costs 9.9% more bits per character right after extension by 1,000 tokens; the mean of the
    pieces' rows 12.5%, the mean brought to the norm of old rows 27%, random rows 107%.
    """
    import torch

    vocab = tokenizer.get_vocab()
    split = [pair for pair in old_merges(tokenizer) if HANGUL(pair[0]) and HANGUL_NO_SPACE(pair[1]) and all(p in vocab for p in pair)]
    weights = torch.zeros(2 * old.shape[1], old.shape[1])  # fewer than eight tokens are nothing to fit to: the mean of the two pieces
    if len(split) >= 8:
        left, right = (torch.stack([old[vocab[pair[side]]].float() for pair in split]) for side in (0, 1))
        both = torch.stack([old[vocab[a + b]].float() for a, b in split])
        # What is fitted is the remainder over the mean, so that little data leaves the mean as it is.
        features = torch.cat([left, right], 1)
        remainder = both - (left + right) / 2
        ridge = features.pow(2).mean() * len(split) * 0.1 * torch.eye(features.shape[1])
        weights = torch.linalg.solve(features.T @ features + ridge, features.T @ remainder)
    known: dict = {}
    for left_name, right_name, _ in merges:
        a, b = (known[name] if name in known else old[vocab[name]].float() for name in (left_name, right_name))
        known[left_name + right_name] = (a + b) / 2 + torch.cat([a, b]) @ weights
    return torch.stack(list(known.values()))


def trained_rows(model, tokenizer, merges: list[Merge], texts: Iterable[str]):
    """Fitted rows, trained to be predicted where the model has read the same text in its old tokens; float32 [merges, width].

    The output side of Token Distillation (arXiv 2505.20133), which is convex: hidden states over snippets in old tokens are kept, and
    rows = fitted + fitted M + shift + a difference of each row's own learn by cross-entropy, beside the old logits, which stay. On
    gemma-3-270m, 1,000 tokens, right after extension: Korean +5.4% bits per character and exam questions +10.1%, the fitted start +6.7%
    and +19.2%, the mean +10.2% and +20.0% (benchmarks/real.py). The input side needs gradients through the model and gained another
    0.4 and 1.3 points.
    """
    import torch

    matrix = model.get_output_embeddings().weight.detach()
    start = fitted_rows(matrix.cpu(), tokenizer, merges)
    snippets = chosen_snippets(tokenizer, merges, texts)
    if not snippets:
        return start
    seen, totals, hits, targets = remembered(model, tokenizer, merges, snippets)
    width = start.shape[1]
    free = [torch.zeros(shape, requires_grad=True) for shape in ((width, width), (width,), start.shape)]

    def rows():
        return start + start @ free[0] + free[1] + free[2]

    def loss(at):
        logits = seen[at].float() @ rows().T
        wanted = torch.where(targets[at] >= 0, logits.gather(1, targets[at].clamp(0)[:, None])[:, 0], hits[at])
        return (torch.logaddexp(totals[at], logits.logsumexp(1)) - wanted).mean()

    border = int((1 - SHARE) * len(seen))
    rates = (3e-5, 3e-5, 3e-4)  # what all rows share moves with every position, a row's own part seldom
    optimizer = torch.optim.Adam([{"params": [weight], "lr": rate} for weight, rate in zip(free, rates, strict=True)])
    chance = torch.Generator().manual_seed(0)
    best, lowest = start, float("inf")
    for step in range(STEPS + 1):
        if step % 50 == 0:
            with torch.no_grad():
                parts = torch.arange(border, len(seen)).split(POSITIONS)
                found = sum(float(loss(at)) * len(at) for at in parts)
                if found < lowest:
                    best, lowest = rows().clone(), found
        optimizer.zero_grad()
        (loss(torch.randint(border, (POSITIONS,), generator=chance)) + 0.05 * free[2].pow(2).sum(1).mean()).backward()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / (STEPS + 1))
        optimizer.step()
    return best


def encoded(tokenizer, merges: list[Merge], texts: list[str]) -> list[list[str]]:
    """The texts as the extended BPE will split them."""
    from tokenizers import Tokenizer

    data = json.loads(tokenizer.backend_tokenizer.to_str())
    extend_tokenizer(data, merges)
    return [found.tokens for found in Tokenizer.from_str(json.dumps(data)).encode_batch(texts, add_special_tokens=False)]


def chosen_snippets(tokenizer, merges: list[Merge], texts: Iterable[str]) -> list[list[str]]:
    """Tokens around new ones, chosen so that each new token stands in one snippet, then in two, four, eight, in a random order."""
    short = [text[:CHARACTERS] for text in islice(texts, TEXTS)]
    random.Random(0).shuffle(short)
    new = {merge.left + merge.right for merge in merges}
    listed = encoded(tokenizer, merges, short)
    seen: Counter = Counter()
    chosen: dict[tuple[int, int], list[str]] = {}
    left = SNIPPET_TOKENS * len(merges)
    for needed in (1, 2, 4, 8):
        for number, pieces in enumerate(listed):
            for i, piece in enumerate(pieces):
                if left > 0 and i >= 4 and piece in new and seen[piece] < needed and (number, i) not in chosen:
                    window = chosen[number, i] = pieces[max(0, i - LEFT) : i + RIGHT + 1]
                    seen.update(new.intersection(window))
                    left -= len(window)
    snippets = list(chosen.values())
    random.Random(1).shuffle(snippets)
    return snippets


def remembered(model, tokenizer, merges: list[Merge], snippets: list[list[str]], batch: int = 16):
    """What the model thinks before each token of the snippets, reading them in its old tokens: (states [positions, width] on the CPU,
    logsumexp of the old logits, the old target's logit, the new target's number or -1)."""
    import torch

    from kmlite.models.new_rows import states_for_logits

    vocab = tokenizer.get_vocab()
    pieces = {name: [name] for name in vocab}
    for merge in merges:
        pieces[merge.left + merge.right] = pieces[merge.left] + pieces[merge.right]
    number = {merge.left + merge.right: i for i, merge in enumerate(merges)}
    matrix = model.get_output_embeddings().weight.detach()
    seen, totals, hits, targets = [], [], [], []
    model.eval()
    with torch.no_grad(), progress("new rows", len(snippets), "snippets read") as done:
        for first in range(0, len(snippets), batch):
            part = snippets[first : first + batch]
            ids = [[tokenizer.bos_token_id, *(vocab[p] for token in snippet for p in pieces[token])] for snippet in part]
            padded = tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(model.device)
            with states_for_logits(model):
                states = model(**padded, use_cache=False).logits
            for row, snippet in enumerate(part):
                at = [0]
                for token in snippet[:-1]:
                    at.append(at[-1] + len(pieces[token]))
                mine = states[row, at]
                logits = (mine.to(matrix.dtype) @ matrix.T).float()
                old = torch.tensor([[vocab.get(token, 0)] for token in snippet], device=logits.device)
                seen.append(mine.float().cpu())
                totals.append(logits.logsumexp(1).cpu())
                hits.append(logits.gather(1, old)[:, 0].cpu())
                targets += [number.get(token, -1) for token in snippet]
            done(first + len(part))
    return torch.cat(seen), torch.cat(totals), torch.cat(hits), torch.tensor(targets)
