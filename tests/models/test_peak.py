"""The count of a step's peak on fake tensors: against real ones, torch's own tracker and a sum by hand; and the planner against it."""

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks import peak, random_model
from kmlite.models import memory


def shape_of(name: str) -> memory.Shape:
    text = random_model.SHAPES[name][0]
    sizes = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size vocab_size"
    return memory.Shape(*(text[size] for size in sizes.split()), kept=0)


def two_operations(tracker) -> None:
    weight = torch.zeros(1000, requires_grad=True)
    with tracker:
        kept = (weight * 2).exp()  # 4,000 bytes, then 4,000 that the backward pass needs, when the first are still there
        other = torch.zeros(500)  # 2,000, when they are not
        del other
        kept.sum().backward()  # 4 for the sum; 4 for its gradient, which `exp` multiplies: 4,000; `* 2`: 4,000, the weight's gradient


@pytest.mark.parametrize("fake", [True, False])
def test_a_sum_by_hand(fake):
    tracker = peak.Alive()
    with FakeTensorMode() if fake else contextlib.nullcontext():
        two_operations(tracker)
    assert tracker.peak == 4000 + 4 + 4 + 4000 + 4000
    assert tracker.now == 0


def test_torchs_own_tracker_counts_the_same_where_it_can():
    ours, theirs = peak.Alive(), MemTracker()
    with FakeTensorMode():
        for tracker in (ours, theirs):
            net = torch.nn.Sequential(*[torch.nn.Linear(64, 64), torch.nn.GELU()] * 3, torch.nn.LayerNorm(64))
            ids = torch.zeros(32, 64)
            tracker.hold([*net.parameters(), ids]) if tracker is ours else tracker.track_external(net, ids)
            with tracker:
                net(ids).square().mean().backward()
    assert ours.peak == sum(part["Total"] for part in theirs.get_tracker_snapshot("peak").values())


def eager(q, k, v, is_causal=True, scale=None, **_):
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    return (q @ k.transpose(2, 3)).softmax(-1) @ v


@pytest.mark.parametrize(
    "given", [{"precision": "4bit"}, {"precision": "16bit", "recompute": False, "new_rows": 100}, {"precision": "16bit", "plain": True}]
)
def test_fake_tensors_count_as_real_ones(given, monkeypatch):
    monkeypatch.setattr(peak, "attention", eager)  # the card's kernels have none for a CPU
    size = {"rank": 8, "batch": 2, "length": 64, **given}
    assert peak.count("tiny", **size) == peak.count("tiny", **size, fake=False)


@pytest.mark.parametrize(
    ("precision", "recompute", "share", "padded", "new_rows"),
    [("16bit", True, 0.05, False, 2000), ("4bit", True, 0.05, True, 64), ("4bit", True, 0.0, False, 64), ("4bit", False, 0.05, False, 64)],
)
def test_a_step_is_as_large_as_planned_and_the_plain_one_larger(precision, recompute, share, padded, new_rows):
    """The plan adds the loss to the backward pass's own peak, which a large model's exceeds: here they are two moments."""
    size = {"precision": precision, "rank": 32, "batch": 4, "length": 256, "recompute": recompute, "new_rows": new_rows}
    ours = peak.count("middle", **size, share=share, padded=padded)
    parts = memory.parts(shape_of("middle"), **size, dropout=share, embeddings="new")
    planned = sum(parts.values()) - parts["CUDA"]
    assert planned - parts["loss"] < (1 + memory.TOLERANCE) * ours < (1 + memory.TOLERANCE) * 1.05 * planned
    assert new_rows == 64 or peak.count("middle", **size, plain=True) > 1.5 * ours
