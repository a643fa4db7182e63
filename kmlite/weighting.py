"""A loss in which the letter of an answer counts more than the other tokens."""

from kmlite.prompts import IGNORED


def token_weights(labels, end_of_turn: int, weight: float):
    """(batch, tokens) float weights: `weight` for the last token of each answer, 1 for what else the loss counts, 0 for the rest.

    The last token before <end_of_turn> is the letter in both forms of an exam answer.
    """
    counted = labels != IGNORED
    weights = counted.float()
    letter = counted[:, :-1] & (labels[:, 1:] == end_of_turn)
    weights[:, :-1][letter] = weight
    return weights


def weighted(trainer_class: type, weight: float, end_of_turn: int) -> type:
    """`trainer_class`, an SFTTrainer, with the loss Σ wᵢ·lossᵢ / Σ wᵢ over all tokens of an optimizer step, however many batches it
    is accumulated from. Evaluation stays unweighted.

    The logits are asked for, at the answers' places alone: the trainers' own losses are fused and take no weights.
    """

    class WeightedTrainer(trainer_class):
        def get_batch_samples(self, *args, **kwargs):
            batches, _ = super().get_batch_samples(*args, **kwargs)
            total = sum(token_weights(batch["labels"], end_of_turn, weight)[:, 1:].sum() for batch in batches)
            return batches, total.to(self.args.device) if batches else None

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            from torch.nn.functional import cross_entropy

            if not model.training:
                return super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
            assert not return_outputs
            targets = inputs["labels"][:, 1:]  # the token at i is foretold at i - 1
            weights = token_weights(inputs["labels"], end_of_turn, weight)[:, 1:]
            places = (targets != IGNORED).any(0).nonzero().squeeze(-1)
            asked = {name: value for name, value in inputs.items() if name != "labels"}
            logits = model(**asked, logits_to_keep=places, use_cache=False).logits.float()
            losses = cross_entropy(logits.transpose(1, 2), targets[:, places], ignore_index=IGNORED, reduction="none")
            loss = (losses * weights[:, places]).sum() / num_items_in_batch
            # a trainer whose model does not take the count divides by the number of batches once more
            return loss if self.model_accepts_loss_kwargs else loss * self.current_gradient_accumulation_steps

    return WeightedTrainer
