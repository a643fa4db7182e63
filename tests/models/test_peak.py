"""The count of a step's peak on fake tensors: against real ones, torch's own tracker and a sum by hand; and the planner against it."""

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks import peak, random_model
from kmlite.models import memory

SIZE = {"rank": 32, "batch": 4, "length": 256}


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


@pytest.mark.parametrize(("precision", "recompute"), [("16bit", False), ("4bit", True)])
def test_fake_tensors_count_as_real_ones(precision, recompute, monkeypatch):
    monkeypatch.setattr(peak, "attention", eager)  # the card's kernels have none for a CPU
    size = {"precision": precision, "rank": 8, "batch": 2, "length": 64, "recompute": recompute}
    assert peak.count("tiny", **size) == peak.count("tiny", **size, fake=False)


@pytest.mark.parametrize("plain", [True, False])
def test_a_whole_step_with_new_rows_counts_the_same_on_fake_and_real_tensors(plain, monkeypatch):
    monkeypatch.setattr(peak, "attention", eager)
    size = {"precision": "16bit", "rank": 8, "batch": 2, "length": 64, "new_rows": 100, "plain": plain}
    assert peak.whole_step("tiny", **size) == peak.whole_step("tiny", **size, fake=False)


def test_a_step_with_new_rows_is_as_large_as_planned_and_the_plain_one_larger():
    size = {"precision": "16bit", "rank": 32, "batch": 4, "length": 256}
    ours, plain = (peak.whole_step("middle", **size, new_rows=2000, plain=plain) for plain in (False, True))
    planned = memory.parts(shape_of("middle"), **size, embeddings="new", new_rows=2000)
    assert sum(planned.values()) - planned["CUDA"] == pytest.approx(ours, rel=memory.TOLERANCE)
    assert plain > 1.5 * ours


@pytest.mark.parametrize(
    ("recompute", "share", "padded"), [(True, 0.05, False), (True, 0.0, True), (False, 0.05, True), (False, 0.0, False)]
)
def test_the_planners_activations_are_what_a_step_holds(recompute, share, padded):
    """Within a twentieth on two layers of 256, a tenth with padding's masks, which the plan leaves out.

    benchmarks/peak.py has the real shape.
    """
    shape = shape_of("tiny")
    found = peak.count("tiny", precision="4bit", **SIZE, recompute=recompute, share=share, padded=padded)
    planned = memory.parts(shape, precision="4bit", **SIZE, dropout=share, recompute=recompute)
    assert planned["activations"] == pytest.approx(found["backward"], rel=0.1 if padded else 0.05)
    assert found["where"] == "layer 1"
    held = planned["weights"] + planned["embedding"] + 8 * memory.lora_parameters(shape, SIZE["rank"])
    assert found["held"] > held  # and the vision tower
