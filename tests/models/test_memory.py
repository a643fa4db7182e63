"""The memory planner against tensors and what it picks for each card; and the count of a step on fake tensors that it is read off."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks import peak, random_model
from kmlite.models import loading, memory


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


# ---- the planner: parameters, quantised weights, adapters, optimizer state; and what it picks for each card


STAGE = SimpleNamespace(precision="auto", rank=64, batch=2, accumulation=16, length=512, dropout=0.05, checkpointing="auto")


def test_medgemmas_parameters_are_those_of_the_class():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text, vision, _ = random_model.SHAPES["medgemma"]
    config = Gemma3Config(text_config=text, vision_config={**vision, "patch_size": 14, "vision_use_head": False})
    with torch.device("meta"):
        built = Gemma3ForConditionalGeneration(config)
    assert sum(weight.numel() for weight in built.parameters()) == memory.MEDGEMMA.parameters == 4_300_079_472  # as published
    projections = sum(w.numel() for name, w in built.named_parameters() if "language_model.layers" in name and w.dim() == 2)
    assert projections == memory.MEDGEMMA.linear


@pytest.mark.parametrize("which", ["base", "text_base"])
def test_shape_of_a_folder(which, request):
    folder = request.getfixturevalue(which)
    shape = memory.shape_of(folder)
    loaded, _ = loading.load(folder, "16bit", 64)
    assert sum(weight.numel() for weight in loaded.parameters()) == shape.parameters
    assert loaded.get_input_embeddings().weight.shape == (shape.rows, shape.hidden)


@pytest.mark.parametrize("precision", ["16bit", "4bit"])
@pytest.mark.parametrize("embeddings", ["new", "all", "none"])
def test_bytes_of_weights_adapters_and_optimizer(base, precision, embeddings):
    loaded, _tokenizer = loading.load(base, precision, 64)
    new_ids = list(range(200, 220))
    adapted = loading.add_lora(loaded, r=8, alpha=8, dropout=0.0, seed=0, embeddings=embeddings, new_ids=new_ids)
    assert loading.trainable_summary(adapted)["frozen"] == memory.shape_of(base).parameters
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    frozen = {name: weight for name, weight in adapted.named_parameters() if not weight.requires_grad}
    state = torch.optim.AdamW(trained.values(), lr=1e-3)
    ids = torch.tensor([[2, *new_ids]])
    adapted(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss.backward()
    state.step()

    def held(tensors) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    size = {"precision": precision, "rank": 8, "batch": 1, "length": 21, "embeddings": embeddings, "new_rows": 20}
    found = memory.parts(memory.shape_of(base), **size, recompute=False, gpu=False)
    tower = {name for name in frozen if "vision" in name or "multi_modal" in name}
    if precision == "4bit":  # on a CPU bitsandbytes gets the tower too; a GPU's Unsloth leaves it out
        quantised = [weight for name, weight in frozen.items() if name not in tower and hasattr(weight, "quant_state")]
        states = [weight.quant_state for weight in quantised]
        assert held([*quantised, *(q.absmax for q in states), *(q.state2.absmax for q in states)]) == pytest.approx(
            found["weights"], rel=0.01
        )
    else:
        whole = sum(found[part] for part in ("weights", "embedding", "vision tower and norms"))
        assert held(frozen.values()) == whole
    moments = [t for values in state.state.values() for t in values.values() if t.dim()]
    rows = found.get("new rows, gradients, optimizer", 0) + found.get("trained embedding, gradient, optimizer", 0)
    measured = held(trained.values()) + held(weight.grad for weight in trained.values()) + held(moments)
    assert measured == found["LoRA, gradients, optimizer"] + rows
    assert any("trainable_tokens" in name or "modules_to_save" in name for name in trained) == (embeddings != "none")


@pytest.mark.parametrize(
    ("card", "mode", "precision", "rows"),
    [(8, "auto", "4bit", "new"), (12, "auto", "16bit", "new"), (24, "auto", "16bit", "new"), (80, "all", "16bit", "all")],
)
def test_what_is_picked_for_a_card(card, mode, precision, rows):
    plan = memory.choose(memory.MEDGEMMA, card * memory.GIB, STAGE, embeddings=mode, new_rows=5000)
    assert plan.fits
    assert (plan.precision, plan.embeddings) == (precision, rows)
    assert plan.batch * plan.accumulation == 32
    assert plan.total <= card * memory.GIB


def test_a_larger_card_never_gets_less():
    plans = [memory.choose(memory.MEDGEMMA, card * memory.GIB, STAGE, embeddings="auto", new_rows=5000) for card in memory.SIZES]
    ranks = [(plan.embeddings == "new", plan.precision == "16bit", plan.batch) for plan in plans]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(("card", "asked", "mode"), [(4, "auto", "none"), (8, "16bit", "none"), (12, "auto", "all")])
def test_a_card_too_small_is_said_so_and_what_was_asked_for_stays(card, asked, mode):
    plan = memory.choose(memory.MEDGEMMA, card * memory.GIB, SimpleNamespace(**vars(STAGE) | {"precision": asked}), embeddings=mode)
    assert (plan.fits, plan.embeddings) == (False, mode)
    assert asked in ("auto", plan.precision)


def test_memory_grows_with_what_costs_memory():
    def total(**changed) -> int:
        values = {"precision": "4bit", "rank": 64, "batch": 2, "length": 512, **changed}
        return sum(memory.parts(memory.MEDGEMMA, **values).values())

    plain = total()
    assert total(precision="16bit") > total(precision="8bit") > plain > total(dropout=0.0)
    assert min(total(length=1024), total(recompute=False)) > plain
    assert total(embeddings="all") > total(embeddings="new", new_rows=5000) > plain


def test_the_plan_of_a_cpu_is_what_a_real_270m_took():
    """Resident memory of training at rank 64, batch 2 of 128 tokens, in float32 (Gemma 3 270M, 2026-11)."""
    shape = memory.Shape(640, 18, 4, 1, 256, 2048, 262_144, 0)
    size = {"precision": "16bit", "rank": 64, "batch": 2, "recompute": False, "gpu": False}
    planned = sum(memory.parts(shape, **size, length=128).values())
    assert planned == pytest.approx(3.17e9, rel=0.25)
    # longer sequences cost activations, and not the logits of 262k rows
    longer = sum(memory.parts(shape, **size, length=1024).values()) - planned
    assert longer < 1792 * 4 * shape.rows * 2
    half = memory.parts(shape, **size, length=1024, half=True)
    assert half["embedding"] * 2 == memory.parts(shape, **size, length=1024)["embedding"]
