"""The peak of a training step of MedGemma 4B, counted without a card and without its memory, against what kmlite/memory.py plans.

\b
    python -m benchmarks.peak                         # the table of docs/gpu.md; two minutes

torch's fake tensors have a shape and no data: transformers' model, peft's LoRA, gradient checkpointing, autocast and autograd run as
they are, and each operation's storages are counted from when they are made to when they are dropped. The gradient of the last hidden
states is given, so the head and the loss stay out of it; the planner's own figure for the loss is added where it is taken.

A CPU-only torch can't run autograd on fake CUDA tensors, so they say "cpu". Where a card takes another kernel that keeps other
tensors, that one is put in place: fused dropout (its mask is bytes), flash attention, or the memory-efficient one where a batch has
padding, and bitsandbytes' way past 1,536 tokens, which writes out each 4-bit matrix before it multiplies.

Not in it: Unsloth's compiled kernels, the allocator's gaps, what kernels take inside themselves (cuBLAS, attention's backward pass).
"""

import contextlib
import time
import weakref
from unittest import mock

import click
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmarks.random_model import SHAPES
from kmlite import memory
from kmlite.model import TEXT_PROJECTIONS


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
                size = storage.nbytes()

                def gone(_, key=id(storage), size=size) -> None:
                    self.now -= size
                    del self.held[key]

                self.held[id(storage)] = weakref.ref(storage, gone)
                self.now += size
        if self.now > self.peak:
            self.peak, self.where = self.now, f"layer {self.layer}"

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


def autocasts(device="cpu", ask=torch.is_autocast_enabled) -> bool:
    """peft's 4-bit layer asks without a device, which means CUDA, and casts to float32 where it hears no."""
    return ask(device)


def dropout(x, p=0.5, training=True, inplace=False):
    return torch.native_dropout(x, p, training)[0] if p and training else x


def gemm_4bit(a, b, shape, absmax, blocksize, kind, bias=None, absmax_8bit=None, absmax_code=None, absmax_offset=None):
    """bitsandbytes/backends/cuda/ops.py, _dequant_linear_fallback."""
    absmax = torch.ops.bitsandbytes.dequantize_blockwise(absmax_8bit, absmax, absmax_code, 256, torch.float32) + absmax_offset
    return F.linear(a, torch.ops.bitsandbytes.dequantize_4bit(b, absmax, blocksize, kind, shape, a.dtype), bias)


def build(shape: str, precision: str, rank: int, dropped: float, recompute: bool):
    """The stages' PeftModel of a SHAPES, weights not yet anywhere."""
    import bitsandbytes
    from peft import LoraConfig, get_peft_model
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text, vision, _ = SHAPES[shape]
    config = Gemma3Config(text_config=dict(text), vision_config={**vision, "patch_size": 14, "vision_use_head": False})
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config).to(torch.bfloat16)
        model.enable_input_require_grads()
        if precision == "4bit":
            model.is_loaded_in_4bit = True
            for layer in model.model.language_model.layers:
                for block, name in [(b, n) for b in (layer.self_attn, layer.mlp) for n, m in b.named_children() if type(m) is nn.Linear]:
                    old, kind = getattr(block, name), {"compute_dtype": torch.bfloat16, "quant_type": "nf4"}
                    setattr(block, name, bitsandbytes.nn.Linear4bit(old.in_features, old.out_features, bias=False, **kind))
        lora = {"r": rank, "lora_alpha": 2 * rank, "lora_dropout": dropped, "use_rslora": True, "target_modules": TEXT_PROJECTIONS}
        model = get_peft_model(model, LoraConfig(**lora, task_type="CAUSAL_LM"))
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def fill(model) -> list[torch.Tensor]:
    """Give every weight its storage and those that train a gradient, as in the second batch of a step. All that is held then."""
    import bitsandbytes

    made: dict = {}
    quantised = []
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, old in store.items():
                if isinstance(old, bitsandbytes.nn.Params4bit):
                    whole = torch.zeros(old.shape, dtype=torch.bfloat16)
                    packed, state = bitsandbytes.functional.quantize_4bit(whole, compress_statistics=True, quant_type="nf4")
                    made[old] = nn.Parameter(packed, requires_grad=False)  # not Params4bit: a fake tensor has one class
                    made[old].quant_state = module.quant_state = state
                    quantised += [packed, state.absmax, state.offset, state.code, state.state2.absmax, state.state2.code]
                elif old is not None and old not in made:  # the head is the embedding
                    new = torch.zeros(old.shape, dtype=torch.float32 if old.requires_grad else old.dtype)
                    made[old] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                    if old.requires_grad:
                        made[old].grad = torch.zeros_like(new)
                if old is not None:
                    store[name] = made[old]
    return [*made.values(), *(weight.grad for weight in made.values() if weight.grad is not None), *quantised]


def count(shape: str, *, precision: str, rank: int, batch: int, length: int, dropout_share=0.05, recompute=True, padded=False, fake=True):
    """Bytes of a step: {"held": weights and gradients, and above them "forward": its peak, "loss": what is there when the loss is
    taken, "backward": its peak, "where": the layer of that}. `fake=False` takes real tensors, of a small shape."""
    import bitsandbytes
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = build(shape, precision, rank, dropout_share, recompute)
    tracker, found = Alive(), {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode() if fake else contextlib.nullcontext())
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
        stack.enter_context(mock.patch.object(F, "dropout", dropout))
        stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", autocasts))
        stack.enter_context(mock.patch.object(torch.ops.bitsandbytes.gemm_4bit, "default", gemm_4bit))
        stack.enter_context(mock.patch.dict(bitsandbytes.functional.name2qmap, dynamic=torch.zeros(256)))  # its map needs data
        tracker.hold(held := fill(model))
        found["held"] = tracker.now
        inner = model.get_base_model().model
        for number, layer in enumerate(inner.language_model.layers):
            layer.register_forward_pre_hook(lambda *_, number=number: setattr(tracker, "layer", number))
        ids = torch.zeros(batch, length, dtype=torch.long)
        masks = [torch.ones(batch, 1, length, length, dtype=torch.bool) if padded else None for _ in range(2)]
        stack.enter_context(tracker)
        tracker.hold([ids, *masks])
        with torch.autocast("cpu", dtype=torch.bfloat16):  # around the forward pass alone, as accelerate has it
            kinds = dict(zip(("full_attention", "sliding_attention"), masks, strict=True))
            hidden = inner(input_ids=ids, attention_mask=kinds, use_cache=False).last_hidden_state
            found |= {"forward": tracker.peak - found["held"], "loss": tracker.now - found["held"]}
        tracker.peak = 0
        hidden.backward(torch.zeros_like(hidden))
        found |= {"backward": tracker.peak - found["held"], "where": tracker.where}
        del held
    return found
