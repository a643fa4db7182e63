"""The loss of a step, in pieces: tokens that count more than others, and new rows that train beside a frozen matrix."""

from kmlite.models.new_rows import head_of, states_for_logits
from kmlite.prompts import IGNORED

CHUNK = 256  # tokens whose logits exist at a time: enough to keep a card busy, 0.4 GiB with Gemma 3's 262k rows


def token_weights(labels, end_of_turn: int, weight: float):
    """(batch, tokens) float weights: `weight` for the last token of each answer, 1 for what else the loss counts, 0 for the rest.

    The last token before <end_of_turn> is the letter in both forms of an exam answer.
    """
    counted = labels != IGNORED
    weights = counted.float()
    letter = counted[:, :-1] & (labels[:, 1:] == end_of_turn)
    weights[:, :-1][letter] = weight
    return weights


def chunked_cross_entropy(states, targets, weights, matrix, rows=None, first: int = 0):
    """Σ wᵢ · cross-entropy of token i, the logits made CHUNK tokens at a time.

    The gradients are made on the way forward, as fused losses do (arXiv 2410.10989, section 3.2), so no logits wait for the
    backward pass, and the frozen matrix gets none.

    Args:
        states: [tokens, hidden], where the gradient goes.
        targets, weights: [tokens]; ids, and float32 weights.
        matrix: [all rows, hidden], frozen.
        rows: [rows, hidden] or None; they stand in the place of the matrix's from `first` on, and train.
    """
    import torch

    mine = None if rows is None else rows.to(matrix.dtype)
    end = first + (0 if rows is None else len(rows))

    def piece(seen, target, weight):
        """(loss, its slope by the states, by the rows) of CHUNK tokens; 6 bytes a logit at the most, where the matrix is bfloat16."""
        logits = (seen @ matrix.T).float()
        if mine is not None:
            logits[:, first:end] = seen @ mine.T
        logits -= logits.amax(1, keepdim=True)
        hit = logits.gather(1, target)
        sums = logits.exp_().sum(1, keepdim=True)
        value = (weight * (sums.log() - hit)).sum()
        slopes = logits.div_(sums)  # softmax, less one at the target: the slope by the logits
        slopes.scatter_add_(1, target, torch.full_like(hit, -1.0))
        slopes = slopes.mul_(weight).to(matrix.dtype)
        if mine is None:
            return value, slopes @ matrix, None
        own = slopes[:, first:end].clone()
        slopes[:, first:end] = 0
        return value, slopes @ matrix + own @ mine, own.T @ seen

    class ChunkedCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, states, rows):
            total = torch.zeros((), dtype=torch.float32, device=states.device)
            state_slopes = torch.empty_like(states)
            row_slopes = None if rows is None else torch.zeros_like(rows)
            for start in range(0, len(states), CHUNK):
                at = slice(start, start + CHUNK)
                value, by_states, by_rows = piece(states[at].to(matrix.dtype), targets[at, None], weights[at, None])
                total += value
                state_slopes[at] = by_states
                if row_slopes is not None:
                    row_slopes += by_rows
            ctx.save_for_backward(state_slopes, row_slopes)
            return total

        @staticmethod
        def backward(ctx, slope):
            state_slopes, row_slopes = ctx.saved_tensors
            return slope * state_slopes, None if row_slopes is None else slope * row_slopes

    assert not matrix.requires_grad, "the matrix gets no gradient here"
    return ChunkedCrossEntropy.apply(states, rows)


def in_pieces(trainer_class: type, weight: float, end_of_turn: int) -> type:
    """`trainer_class`, an SFTTrainer, with the loss Σ wᵢ·lossᵢ / Σ wᵢ over all tokens of an optimizer step, however many batches it
    is accumulated from and processes share it. `weight` is the answers' last token's. Evaluation keeps the trainer's own loss.

    For what the trainers' own fused losses can't do: weights, and new rows without copies of the matrix.
    """

    class InPieces(trainer_class):
        def get_batch_samples(self, *args, **kwargs):
            batches, _ = super().get_batch_samples(*args, **kwargs)
            if not batches:
                return batches, None
            total = sum(token_weights(batch["labels"], end_of_turn, weight)[:, 1:].sum() for batch in batches)
            return batches, self.accelerator.gather(total.to(self.args.device)).sum()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            if not model.training:
                return super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
            assert not return_outputs
            with states_for_logits(self.model):
                asked = {name: value for name, value in inputs.items() if name != "labels"}
                states = model(**asked, use_cache=False).logits[:, :-1]  # the token at i is foretold at i - 1
            targets = inputs["labels"][:, 1:]
            counted = targets != IGNORED
            weights = token_weights(inputs["labels"], end_of_turn, weight)[:, 1:]
            loss = chunked_cross_entropy(states[counted], targets[counted], weights[counted], *head_of(self.model))
            loss = loss * self.accelerator.num_processes / num_items_in_batch  # the gradients are averaged over the processes
            # a trainer whose model does not take the count divides by the number of batches once more
            return loss if self.model_accepts_loss_kwargs else loss * self.current_gradient_accumulation_steps

    return InPieces
