"""The peak of a training step of MedGemma 4B, counted without a card and without its memory, against what kmlite/models/memory.py plans.

\b
    python -m benchmarks.peak                         # the tables of docs/gpu.md; five minutes

torch's fake tensors have a shape and no data: transformers' model, peft's LoRA, gradient checkpointing, autocast and autograd run as
they are, and each storage counts from when it is made to when it is dropped. In the first table the gradient of the last hidden states
is given, so the head and the loss stay out of it; the planner's own figure for the loss is added where it is taken. The second has
whole steps with the loss in pieces (of stages 1 and 2 it is Unsloth's on a card, held to memory.LOSS_BUDGET), beside the plain way.

A CPU-only torch can't run autograd on fake CUDA tensors, so they say "cpu". Where a card takes another kernel that keeps other
tensors, that one is put in place: dropout with a mask of bytes, flash attention (the memory-efficient one where a batch has padding),
and bitsandbytes' way past 1,536 tokens, which writes out each 4-bit matrix before it multiplies.

Not in it: Unsloth's compiled kernels, the allocator's gaps, what kernels take inside themselves (cuBLAS, attention's backward pass).
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
        self.layer, self.where = None, ""

    def hold(self, values) -> None:
        for tensor in tree_iter(values):
            if isinstance(tensor, torch.Tensor) and id(storage := tensor.untyped_storage()) not in self.held:
                gone = partial(self.drop, id(storage), storage.nbytes())
                self.held[id(storage)] = weakref.ref(storage, gone)
                self.now += storage.nbytes()
        if self.now > self.peak:
            self.peak, self.where = self.now, f"layer {self.layer}"

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


def count(shape: str, *, precision, rank, batch, length, share=0.05, recompute=True, padded=False, copies=False, fake=True) -> dict:
    """Bytes of a batch: {"held": weights and gradients, and above them "forward": its peak, "loss": what is there when the loss is
    taken, "backward": its peak, "where": the layer of that}.

    Args:
        share: that LoRA's dropout drops.
        padded: with masks, as a batch needs that has padding.
        copies: peft's 16-bit layers copy their inputs to float32; Unsloth's rewriting of them (unsloth_zoo/compiler.py) does not.
        fake: False for real tensors, of a small shape.
    """
    model, tracker = build(shape, precision, rank, share, recompute), Alive()
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_a_card(fake))
        held = fill(model)
        tracker.hold(held)
        before = tracker.now
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = copies
        inner = model.get_base_model().model
        for number, layer in enumerate(inner.language_model.layers):
            layer.register_forward_pre_hook(lambda *_, number=number: setattr(tracker, "layer", number))
        ids = torch.zeros(batch, length, dtype=torch.long)
        kinds = ("full_attention", "sliding_attention")
        masks = {kind: torch.ones(batch, 1, length, length, dtype=torch.bool) if padded else None for kind in kinds}
        stack.enter_context(tracker)
        tracker.hold([ids, masks])
        with torch.autocast("cpu", dtype=torch.bfloat16):  # around the forward pass alone, as accelerate has it
            hidden = inner(input_ids=ids, attention_mask=masks, use_cache=False).last_hidden_state
            forward, loss = tracker.peak - before, tracker.now - before
        tracker.peak = 0
        hidden.backward(torch.zeros_like(hidden))
    return {"held": before, "forward": forward, "loss": loss, "backward": tracker.peak - before, "where": tracker.where}


def whole_step(shape: str, *, precision, rank, batch, length, new_rows=0, plain=False, share=0.05, fake=True) -> int:
    """Peak bytes of a batch with its loss, tensors alone: by kmlite's new rows and loss, or by transformers' and peft's own (`plain`).

    The optimizer's state is calculated. Of kmlite's way the layers' inputs are taken out as Unsloth takes them out.
    """
    from kmlite.models.new_rows import beside, head_of, states_for_logits
    from kmlite.training.loss import chunked_cross_entropy, dense_chunk

    model, tracker = build(shape, precision, rank, share, True, new_rows), Alive()
    with on_a_card(fake):
        held = fill(model)
        if new_rows and not plain:
            beside(model)
        for module in model.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = plain
        ids = torch.zeros(batch, length, dtype=torch.long)
        asked = {"input_ids": ids, "attention_mask": dict.fromkeys(("full_attention", "sliding_attention")), "use_cache": False}
        with tracker:
            tracker.hold([held, ids])
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
    apart = (text["num_hidden_layers"] - 1) * inputs if not plain and inputs >= memory.OFFLOADED else 0
    return tracker.peak + 2 * (trained - rows) + 8 * rows - apart  # two moments in 8 bits, of rows in 32


def stage_settings() -> list:
    return [importlib.import_module(f"recipes.stage{number}").Settings() for number in range(3)]


def cases():
    """(what it is, the stage's settings, the card's GiB, what else `count` is told): the planner picks precision and batch."""
    stages = stage_settings()
    for card, number in ((8, 0), (8, 1), (8, 2), (12, 1), (12, 2), (24, 1), (24, 2)):
        yield f"stage {number}, {card} GB", stages[number], card, {"padded": number > 0}
    yield "stage 1, 8 GB, no dropout", dataclasses.replace(stages[1], dropout=0.0), 8, {"padded": True}
    yield "stage 1, 24 GB, with peft's copies", stages[1], 24, {"padded": True, "copies": True}
    yield "stage 1, 48 GB, nothing recomputed", dataclasses.replace(stages[1], checkpointing="off"), 48, {"padded": True}


@click.command(help=__doc__)
def main() -> None:
    shape = memory.MEDGEMMA
    click.echo("GiB: planned / counted, difference\n")
    click.echo("| case | held | activations | layers' inputs | all, with the loss | peak in |")
    click.echo("| --- " * 6 + "|")
    for name, settings, card, given in cases():
        plan, recompute = memory.choose(shape, card * memory.GIB, settings), settings.checkpointing != "off"
        size = {"precision": plan.precision, "rank": settings.rank, "batch": plan.batch, "length": plan.length}
        found = count("medgemma", **size, share=settings.dropout, recompute=recompute, **given)
        # Unsloth puts the layers' inputs into main memory; here they stay, so they are taken out again but for the layer's at work
        inputs = 2 * plan.batch * plan.length * shape.hidden
        apart = (shape.layers - 1) * inputs if recompute and inputs >= memory.OFFLOADED else 0
        held = sum(plan.parts[part] for part in ("weights", "embedding", "vision tower and norms", "LoRA, gradients, optimizer"))
        there = found["held"] + 2 * memory.lora_parameters(shape, settings.rank)  # the optimizer's state is calculated
        moments = {"forward": found["forward"], "loss": found["loss"] + plan.parts["loss"], "backward": found["backward"]}
        where = max(moments, key=moments.get)
        pairs = [(held, there), (plan.parts["activations"], found["backward"] - apart)]
        pairs.append((plan.total - plan.parts["CUDA"], there + moments[where] - apart))
        cells = [f"{a / memory.GIB:.2f} / {b / memory.GIB:.2f}, {a / b - 1:+.1%}" for a, b in pairs]
        where += f", {found['where']}" if where == "backward" else ""
        head = f"{name}: {plan.precision}, {plan.batch} × {plan.length}"
        click.echo(f"| {head} | {cells[0]} | {cells[1]} | {apart / memory.GIB:.2f} | {cells[2]} | {where} |")
    click.echo("\nA whole step, GiB without CUDA:\n")
    click.echo("| case | planned | counted | transformers and peft alone | of that |")
    click.echo("| --- " * 5 + "|")
    stages = stage_settings()
    for card, number, new_rows in ((8, 0, 5000), (8, 1, 0), (24, 2, 0)):
        mode = {"embeddings": "new", "new_rows": new_rows} if new_rows else {}
        plan = memory.choose(shape, card * memory.GIB, stages[number], **mode)
        size = {"precision": plan.precision, "rank": stages[number].rank, "batch": plan.batch, "length": plan.length}
        ours, theirs = (whole_step("medgemma", **size, new_rows=new_rows, plain=plain) for plain in (False, True))
        head = f"stage {number}, {card} GB{', 5,000 new rows' * bool(new_rows)}: {plan.precision}, {plan.batch} × {plan.length}"
        sums = " | ".join(f"{part / memory.GIB:.2f}" for part in (plan.total - plan.parts["CUDA"], ours, theirs))
        click.echo(f"| {head} | {sums} | {ours / theirs:.2f}× |")


if __name__ == "__main__":
    main()
