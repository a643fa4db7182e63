"""The peak of a training step of MedGemma 4B, counted without a card and without its memory, against what kmlite/models/memory.py plans.

\b
    python -m benchmarks.peak                         # the figures of docs/gpu.md; some minutes

torch's fake tensors have a shape and no data: transformers' model, peft's LoRA, gradient checkpointing, autocast, kmlite's loss in pieces
and autograd run as they are, and each storage counts from when it is made to when it is dropped.

A CPU-only torch can't run autograd on fake CUDA tensors, so they say "cpu". Where a card takes another kernel that keeps other
tensors, that one is put in place: dropout with a mask of bytes, flash attention (the memory-efficient one where a batch has padding),
and bitsandbytes' way past 1,536 tokens, which writes out each 4-bit matrix before it multiplies.

Not in it: Unsloth's compiled kernels and its own loss, held to memory.LOSS_BUDGET (stages 1 and 2), the allocator's gaps, what kernels
take inside themselves (cuBLAS, attention's backward pass).
"""

import contextlib
import dataclasses
import importlib
import weakref
from functools import partial
from unittest import mock

import click
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmarks.random_model import SHAPES
from kmlite.models import memory
from kmlite.models.loading import TEXT_PROJECTIONS


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages that are alive. torch's own MemTracker does too, but takes no model with frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.held: dict[int, weakref.ref] = {}

    def hold(self, values) -> None:
        for tensor in tree_iter(values):
            if isinstance(tensor, torch.Tensor) and id(storage := tensor.untyped_storage()) not in self.held:
                gone = partial(self.drop, id(storage), storage.nbytes())
                self.held[id(storage)] = weakref.ref(storage, gone)
                self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def drop(self, key: int, size: int, _) -> None:
        self.now -= size
        del self.held[key]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.hold(out)
        return out


def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """What torch takes on a card (aten/src/ATen/native/transformers/attention.cpp)."""
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, scale=scale)[0]
    bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(attn_mask.logical_not(), -torch.inf).expand(-1, q.shape[1], -1, -1)
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, scale=scale)[0]


def dropout(x, p=0.5, training=True, inplace=False):
    return torch.native_dropout(x, p, training)[0] if p and training else x


def gemm_4bit(a, b, shape, absmax, blocksize, kind, bias=None, absmax_8bit=None, absmax_code=None, absmax_offset=None):
    """bitsandbytes/backends/cuda/ops.py, _dequant_linear_fallback."""
    absmax = torch.ops.bitsandbytes.dequantize_blockwise(absmax_8bit, absmax, absmax_code, 256, torch.float32) + absmax_offset
    return F.linear(a, torch.ops.bitsandbytes.dequantize_4bit(b, absmax, blocksize, kind, shape, a.dtype), bias)


def autocasts(device="cpu", ask=torch.is_autocast_enabled) -> bool:
    """peft's 4-bit layer asks without a device, which means CUDA, and casts to float32 where it hears no."""
    return ask(device)


def build(shape: str, precision: str, rank: int, share: float, recompute: bool, new_rows: int = 0):
    """The stages' PeftModel of a SHAPES, weights not yet anywhere."""
    import bitsandbytes
    from peft import LoraConfig, get_peft_model
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text, vision, _ = SHAPES[shape]
    config = Gemma3Config(text_config=dict(text), vision_config={**vision, "patch_size": 14, "vision_use_head": False})
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config).to(torch.bfloat16)
        model.enable_input_require_grads()
        model.is_loaded_in_4bit = precision == "4bit"
        blocks = [block for layer in model.model.language_model.layers for block in (layer.self_attn, layer.mlp)]
        for block in blocks if precision == "4bit" else []:
            for name, old in [(name, part) for name, part in block.named_children() if type(part) is nn.Linear]:
                kind = {"bias": False, "compute_dtype": torch.bfloat16, "quant_type": "nf4"}
                setattr(block, name, bitsandbytes.nn.Linear4bit(old.in_features, old.out_features, **kind))
        lora = {"r": rank, "lora_alpha": 2 * rank, "lora_dropout": share, "use_rslora": True, "target_modules": TEXT_PROJECTIONS}
        if new_rows:
            lora["trainable_token_indices"] = {"embed_tokens": list(range(text["vocab_size"] - new_rows, text["vocab_size"]))}
        model = get_peft_model(model, LoraConfig(**lora, task_type="CAUSAL_LM"))
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def fill(model) -> list[torch.Tensor]:
    """Give every weight its storage and those that train a gradient, as in the second batch of a step. All that is held then."""
    import bitsandbytes

    made, beside = {}, []
    for module in model.modules():
        for store, name, old in [(s, n, t) for s in (module._parameters, module._buffers) for n, t in s.items() if t is not None]:
            if isinstance(old, bitsandbytes.nn.Params4bit):
                whole = torch.zeros(old.shape, dtype=torch.bfloat16)
                packed, state = bitsandbytes.functional.quantize_4bit(whole, compress_statistics=True, quant_type="nf4")
                made[old] = nn.Parameter(packed, requires_grad=False)  # not Params4bit: a fake tensor has one class
                made[old].quant_state = module.quant_state = state
                beside += [state.absmax, state.offset, state.code, state.state2.absmax, state.state2.code]
            elif old not in made:  # the head is the embedding
                new = torch.zeros(old.shape, dtype=torch.float32 if old.requires_grad else old.dtype)
                made[old] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                if old.requires_grad:
                    made[old].grad = torch.zeros_like(new)
                    beside.append(made[old].grad)
            store[name] = made[old]
    return [*made.values(), *beside]


@contextlib.contextmanager
def on_a_card(fake: bool):
    """Fake tensors (or real ones, of a small shape), and the card's kernels in the place of the CPU's."""
    import bitsandbytes
    from torch._subclasses.fake_tensor import FakeTensorMode

    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode() if fake else contextlib.nullcontext())
        for place, name, ours in (
            (F, "scaled_dot_product_attention", attention),
            (F, "dropout", dropout),
            (torch, "is_autocast_enabled", autocasts),
            (torch.ops.bitsandbytes.gemm_4bit, "default", gemm_4bit),
        ):
            stack.enter_context(mock.patch.object(place, name, ours))
        stack.enter_context(mock.patch.dict(bitsandbytes.functional.name2qmap, dynamic=torch.zeros(256)))  # made from data
        yield


def count(
    shape: str, *, precision, rank, batch, length, share=0.05, recompute=True, padded=False, new_rows=0, plain=False, fake=True
) -> int:
    """Peak bytes of a batch with its loss, tensors alone: by kmlite's new rows and loss, or by transformers' and peft's own (`plain`).

    The optimizer's state is calculated. Of kmlite's way the layers' inputs are taken out as Unsloth takes them out.

    Args:
        share: that LoRA's dropout drops.
        padded: with masks, as a batch needs that has padding.
        fake: False for real tensors, of a small shape.
    """
    from kmlite.models.new_rows import beside, head_of, states_for_logits
    from kmlite.training.loss import chunked_cross_entropy, dense_chunk

    model, tracker = build(shape, precision, rank, share, recompute, new_rows), Alive()
    with on_a_card(fake):
        held = fill(model)
        if new_rows and not plain:
            beside(model)
        for module in model.modules():  # peft's 16-bit layers copy their inputs to float32, Unsloth's rewriting of them does not
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = plain
        ids = torch.zeros(batch, length, dtype=torch.long)
        mask = torch.ones(batch, 1, length, length, dtype=torch.bool) if padded else None
        asked = {"input_ids": ids, "attention_mask": dict.fromkeys(("full_attention", "sliding_attention"), mask), "use_cache": False}
        with tracker:
            tracker.hold([held, ids, mask])
            # around the forward pass alone, as accelerate has it
            with torch.autocast("cpu", dtype=torch.bfloat16), contextlib.nullcontext() if plain else states_for_logits(model):
                given = model(**asked, **({"labels": ids} if plain else {}))
            if not plain:
                states = given.logits[:, :-1].flatten(0, 1).float()  # accelerate's
                ones = torch.ones(len(states))
                loss = chunked_cross_entropy(states, ids[:, 1:].flatten(), ones, *head_of(model), chunk=dense_chunk)
                del states
            else:
                loss = given.loss
            del given
            loss.backward()
    text = SHAPES[shape][0]
    rows = new_rows * text["hidden_size"]
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    inputs = 2 * batch * length * text["hidden_size"]
    apart = (text["num_hidden_layers"] - 1) * inputs if recompute and not plain and inputs >= memory.OFFLOADED else 0
    return tracker.peak + 2 * (trained - rows) + 8 * rows - apart  # two moments in 8 bits, of rows in 32


@click.command(help=__doc__)
def main() -> None:
    click.echo("| case | planned, GiB without CUDA | counted | plan against count | transformers and peft alone |")
    click.echo("| --- " * 5 + "|")
    stages = [importlib.import_module(f"recipes.stage{number}").Settings() for number in range(3)]
    whole = dataclasses.replace(stages[1], checkpointing="off")
    for card, number, settings, compare in (
        (8, 0, stages[0], True),
        (8, 1, stages[1], True),
        (8, 2, stages[2], False),
        (12, 1, stages[1], False),
        (24, 2, stages[2], True),
        (48, 1, whole, False),
    ):
        new_rows = 64 if number else 5000  # a few rows in stages 1 and 2, so that the loss is planned as it runs here: in pieces
        plan = memory.choose(memory.MEDGEMMA, card * memory.GIB, settings, embeddings="new", new_rows=new_rows)
        size = {"precision": plan.precision, "rank": settings.rank, "batch": plan.batch, "length": plan.length, "new_rows": new_rows}
        size |= {"share": settings.dropout, "recompute": settings.checkpointing != "off", "padded": number > 0}
        planned, counted = plan.total - plan.parts["CUDA"], count("medgemma", **size)
        plain = f"{count('medgemma', **size, plain=True) / memory.GIB:.2f}" if compare else "–"
        head = f"stage {number}, {card} GB, {plan.precision}, {plan.batch} × {plan.length}"
        head += ", nothing recomputed" if settings is whole else ""
        click.echo(f"| {head} | {planned / memory.GIB:.2f} | {counted / memory.GIB:.2f} | {planned / counted - 1:+.1%} | {plain} |")


if __name__ == "__main__":
    main()
