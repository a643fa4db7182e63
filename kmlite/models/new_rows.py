"""New embedding rows that train beside the frozen matrix, without a copy of it.

peft's trainable tokens (peft/tuners/trainable_tokens/layer.py) write the rows into a copy of the whole matrix for each use, and
the gradient of that copy is a matrix too: of Gemma 3's 262k rows that is 1.25 GiB each time, three of them at once. Here peft
keeps the rows, saves, loads and merges them; only their use is different.
"""

import contextlib
import os
from collections.abc import Iterator


def beside(model) -> None:
    """Have a PeftModel with `trainable_token_indices` look its new rows up beside the matrix, in both tied places."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    class RowsBeside(TrainableTokensLayer):
        bare = False  # whoever asks for the weight, if only for its dtype, is given the frozen matrix, not a copy with the rows written in

        def get_merged_weights(self, active_adapters):
            return self.get_base_layer().weight if self.bare else super().get_merged_weights(active_adapters)

        def forward_adapters(self, x, active_adapters, *args, **kwargs):
            import torch
            from torch.nn.functional import embedding, linear

            if self.disable_adapters or self.merged or not active_adapters:
                return super().forward_adapters(x, active_adapters, *args, **kwargs)
            base = self.get_base_layer()
            out = base(x)
            rows, first = rows_of(self)
            rows = rows.to(base.weight.dtype)  # as peft rounds them
            end = first + len(rows)
            if not isinstance(base, torch.nn.Embedding):
                out[..., first:end] = linear(x, rows)
                return out
            mine = embedding((x - first).clamp(0, len(rows) - 1), rows)
            scale = self._get_embed_scale()  # Gemma's embeddings are scaled by the root of their size
            if scale is not None:
                mine = mine * scale.to(mine.dtype)
            return torch.where(((x >= first) & (x < end)).unsqueeze(-1), mine, out)

    layers = [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]
    assert len(layers) == 2, f"{len(layers)} uses of the embedding instead of input and output"
    for layer in layers:
        (indices,) = layer.token_indices.values()
        assert list(indices) == list(range(indices[0], indices[0] + len(indices))), "the new tokens' ids are not consecutive"
        layer.__class__ = RowsBeside


def rows_of(layer):
    """(trained rows, float32 [rows, hidden]; the id of the first) of peft's layer."""
    ((name, rows),) = layer.trainable_tokens_delta.items()
    return rows, layer.token_indices[name][0]


def head_of(model):
    """(frozen matrix [all rows, hidden], trained rows or None, the id of the first) that make logits."""
    head = model.get_output_embeddings()
    adapter = getattr(head, "token_adapter", None)
    if adapter is None:
        return head.weight, None, 0
    return (adapter.get_base_layer().weight, *rows_of(adapter))


@contextlib.contextmanager
def states_for_logits(model) -> Iterator[None]:
    """While it lasts, calling the model (or what wraps it) gives the last hidden states in the place of its logits.

    Unsloth's rewritten forward on a GPU leaves the head out when told to by a variable; it takes a call without labels for
    inference otherwise, and stops compiling. Without it, on a CPU, the head hands on what it is given.
    """
    head = model.get_output_embeddings()
    layers = [use.token_adapter for use in (model.get_input_embeddings(), head) if hasattr(use, "token_adapter")]
    head.forward = lambda states: states
    os.environ["UNSLOTH_RETURN_HIDDEN_STATES"] = "1"
    for layer in layers:
        layer.bare = True
    try:
        yield
    finally:
        del head.forward
        del os.environ["UNSLOTH_RETURN_HIDDEN_STATES"]
        for layer in layers:
            layer.bare = False
