"""The loss of a step, in pieces: tokens that count more than others, and new rows that train beside a frozen matrix."""

import math

from kmlite.models.new_rows import head_of, states_for_logits
from kmlite.prompts import IGNORED

CHUNK = 256  # tokens whose logits exist at a time: enough to keep a card busy, 0.4 GiB with Gemma 3's 262k rows
TILE = 4096  # rows of the matrix at a time on a CPU: 4 MiB of logits
FAINT = 1e-5  # probability below which a column carries no gradient on a CPU
MANY = 32_768  # rows from which a CPU's chunked loss is faster than the library's


def token_weights(labels, end_of_turn: int, weight: float):
    """(batch, tokens) float weights: `weight` for the last token of each answer, 1 for what else the loss counts, 0 for the rest.

    The last token before <end_of_turn> is the letter in both forms of an exam answer.
    """
    counted = labels != IGNORED
    weights = counted.float()
    letter = counted[:, :-1] & (labels[:, 1:] == end_of_turn)
    weights[:, :-1][letter] = weight
    return weights


def chunked_cross_entropy(states, targets, weights, matrix, rows=None, first: int = 0, chunk=None):
    """Σ wᵢ · cross-entropy of token i, the logits made CHUNK tokens at a time.

    The gradients are made on the way forward, as fused losses do (arXiv 2410.10989, section 3.2), so no logits wait for the
    backward pass, and the frozen matrix gets none.

    Args:
        states: [tokens, hidden], where the gradient goes.
        targets, weights: [tokens]; ids, and float32 weights.
        matrix: [all rows, hidden], frozen.
        rows: [rows, hidden] or None; they stand in the place of the matrix's from `first` on, and train.
        chunk: `dense_chunk` or `tiled_chunk`; the GPU's or the CPU's by default.
    """
    import torch

    mine = None if rows is None else rows.detach().to(matrix.dtype)
    chunk = chunk or (dense_chunk if matrix.is_cuda else tiled_chunk)

    class ChunkedCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, states, rows):
            total, state_slopes = torch.zeros((), device=states.device), torch.empty_like(states)
            row_slopes = None if rows is None else torch.zeros_like(rows)
            chunks = [t.split(CHUNK) if len(t) else () for t in (states, state_slopes, targets, weights)]
            for seen, slopes, target, weight in zip(*chunks, strict=True):
                losses, slopes[:], by_rows = chunk(seen.to(matrix.dtype), target[:, None], weight[:, None], matrix, mine, first)
                total += losses.sum()
                if row_slopes is not None:
                    row_slopes += by_rows
            ctx.save_for_backward(state_slopes, row_slopes)
            return total

        @staticmethod
        def backward(ctx, slope):
            state_slopes, row_slopes = ctx.saved_tensors
            return slope * state_slopes, None if row_slopes is None else slope * row_slopes

    assert not matrix.requires_grad, "the matrix gets no gradient here"
    with torch.autocast(states.device.type, enabled=False):
        return ChunkedCrossEntropy.apply(states, rows)


def tiled_is_faster(matrix) -> bool:
    """Whether to take the losses of this file for a frozen head on a CPU, where the library's fits."""
    return not matrix.is_cuda and not matrix.requires_grad and len(matrix) >= MANY


def token_losses(states, targets, matrix, rows=None, first: int = 0):
    """Cross-entropy in nats of each token, float32 [tokens], without gradients; on a CPU. Arguments as of `chunked_cross_entropy`."""
    import torch

    mine = None if rows is None else rows.detach().to(matrix.dtype)
    parts = zip(states.split(CHUNK), targets.split(CHUNK), strict=True)
    return torch.cat([tiled_chunk(seen.to(matrix.dtype), target[:, None], None, matrix, mine, first)[0][:, 0] for seen, target in parts])


def dense_chunk(seen, target, weight, matrix, mine, first: int):
    """(weighted losses [tokens, 1], their slope by the states, by the rows) of CHUNK tokens on a GPU; at the most 6 bytes a logit."""
    import torch

    end = first + (0 if mine is None else len(mine))
    logits = (seen @ matrix.T).float()
    if mine is not None:
        logits[:, first:end] = seen @ mine.T
    logits -= logits.amax(1, keepdim=True)
    hit = logits.gather(1, target)
    sums = logits.exp_().sum(1, keepdim=True)
    losses = weight * (sums.log() - hit)
    slopes = logits.div_(sums)  # softmax, less one at the target: the slope by the logits
    slopes.scatter_add_(1, target, torch.full_like(hit, -1.0))
    slopes = slopes.mul_(weight).to(matrix.dtype)
    if mine is None:
        return losses, slopes @ matrix, None
    own = slopes[:, first:end].clone()
    slopes[:, first:end] = 0
    return losses, slopes @ matrix + own @ mine, own.T @ seen


def tiled_chunk(seen, target, weight, matrix, mine, first: int):
    """The same on a CPU, TILE rows of the matrix at a time, so that logits live in its cache; without weights the losses alone.

    Columns in which no token's probability reaches FAINT are left out of the slopes, as in Cut Cross-Entropy (arXiv 2411.09009,
    section 4.3): of 262k rows that is nearly all, and half of the loss's multiplications.
    """
    import torch

    end = first + (0 if mine is None else len(mine))
    new = torch.zeros_like(target, dtype=torch.bool) if mine is None else (target >= first) & (target < end)
    wanted = matrix[target[:, 0]]
    if mine is not None:
        wanted = torch.where(new, mine[(target[:, 0] - first).clamp(0, len(mine) - 1)], wanted)
    hit = (seen.float() * wanted.float()).sum(1, keepdim=True)
    total, kept, columns = torch.full_like(hit, -torch.inf), [], []
    if mine is not None:
        own = (seen @ mine.T).float()
        total = own.logsumexp(1, keepdim=True)
    for begin, stop in ((0, first), (end, len(matrix))):
        for start in range(begin, stop, TILE):
            logits = (seen @ matrix[start : min(start + TILE, stop)].T).float()
            total = torch.logaddexp(total, logits.logsumexp(1, keepdim=True))
            if weight is None:
                continue
            least = torch.maximum(total, hit)  # of the logarithm of the whole sum: no column is left out too early
            near = (logits.sub_(least).amax(0) >= math.log(FAINT)).nonzero().squeeze(1)
            kept.append(logits[:, near].add_(least))
            columns.append(near + start)
    losses = total - hit
    if weight is None:
        return losses, None, None
    slopes = (torch.cat(kept, 1).sub_(total).exp_() * weight).to(matrix.dtype)
    by_states = slopes @ matrix[torch.cat(columns)] - (weight * wanted).to(matrix.dtype)
    if mine is None:
        return losses * weight, by_states, None
    own = own.sub_(total).exp_()
    own.scatter_add_(1, (target - first).clamp(0, len(mine) - 1), -new.float())
    own = (own * weight).to(matrix.dtype)
    return losses * weight, by_states + own @ mine + (new * weight * wanted).to(matrix.dtype), own.T @ seen


def in_pieces(trainer_class: type, weight: float, end_of_turn: int) -> type:
    """`trainer_class`, an SFTTrainer, with the loss Σ wᵢ·lossᵢ / Σ wᵢ over all tokens of an optimizer step, however many batches it
    is accumulated from and processes share it. `weight` is the answers' last token's. Evaluation does not weigh, and keeps the
    trainer's own loss where that is faster.

    For what the trainers' own losses can't do: weights, new rows without copies of the matrix, and a large vocabulary on a CPU.
    """

    class InPieces(trainer_class):
        def get_batch_samples(self, *args, **kwargs):
            batches, _ = super().get_batch_samples(*args, **kwargs)
            if not batches:
                return batches, None
            total = sum(token_weights(batch["labels"], end_of_turn, weight)[:, 1:].sum() for batch in batches)
            return batches, self.accelerator.gather(total.to(self.args.device)).sum()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            head = head_of(self.model)
            if not model.training and not tiled_is_faster(head[0]):
                return super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
            with states_for_logits(self.model):
                asked = {name: value for name, value in inputs.items() if name != "labels"}
                states = model(**asked, use_cache=False).logits[:, :-1]  # the token at i is predicted at i - 1
            targets = inputs["labels"][:, 1:]
            counted = targets != IGNORED
            if not model.training:
                loss = token_losses(states[counted], targets[counted], *head).mean()
                return (loss, {}) if return_outputs else loss
            assert not return_outputs
            weights = token_weights(inputs["labels"], end_of_turn, weight)[:, 1:]
            loss = chunked_cross_entropy(states[counted], targets[counted], weights[counted], *head)
            loss = loss * self.accelerator.num_processes / num_items_in_batch  # the gradients are averaged over the processes
            # a trainer whose model does not take the count divides by the number of batches once more
            return loss if self.model_accepts_loss_kwargs else loss * self.current_gradient_accumulation_steps

    return InPieces
