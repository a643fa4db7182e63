"""New rows beside the frozen matrix: what peft's own way gives, to the last bit but one, and no copy of the matrix."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kmlite.models import loading, new_rows
from kmlite.training import loss

NEW = list(range(300, 340))


@pytest.mark.parametrize("chunk", [loss.dense_chunk, loss.tiled_chunk])
@pytest.mark.parametrize("trained", [0, 4])
def test_the_loss_in_pieces_is_the_loss_in_one(monkeypatch, chunk, trained):
    for name, value in {"CHUNK": 3, "TILE": 16, "FAINT": 1e-12}.items():
        monkeypatch.setattr(loss, name, value)
    torch.manual_seed(0)
    matrix, states, rows = torch.randn(50, 8), torch.randn(10, 8), torch.randn(4, 8)
    targets, weights = torch.randint(50, (10,)), torch.rand(10)
    targets[:2] = torch.tensor([20, 23])  # of the trained rows, the first and the last
    ours, theirs = ([t.clone().requires_grad_() for t in (states, rows)] for _ in range(2))
    found = loss.chunked_cross_entropy(ours[0], targets, weights, matrix, ours[1] if trained else None, 20, chunk)
    whole = torch.cat([matrix[:20], theirs[1], matrix[24:]]) if trained else matrix
    expected = (cross_entropy(theirs[0] @ whole.T, targets, reduction="none") * weights).sum()
    for value in (found, expected):
        (3 * value).backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(ours[0].grad, theirs[0].grad, atol=1e-5)
    assert not trained or torch.allclose(ours[1].grad, theirs[1].grad, atol=1e-5)


def test_the_tiled_loss_and_gradient_of_a_large_vocabulary_are_near_the_whole_ones():
    """262k rows, and a few of them likely, as a language model has it."""
    torch.manual_seed(0)
    matrix, states = torch.randn(262_144, 16), torch.randn(8, 16) * 1.5
    targets, weights = (states @ matrix.T).argmax(1), torch.rand(8)
    targets[0] = 5  # an unlikely one
    ours, theirs = (states.clone().requires_grad_() for _ in range(2))
    found = loss.chunked_cross_entropy(ours, targets, weights, matrix)
    losses = cross_entropy(theirs @ matrix.T, targets, reduction="none")
    (losses * weights).sum().backward()
    found.backward()
    assert found.item() == pytest.approx((losses * weights).sum().item(), rel=1e-5)
    assert torch.allclose(loss.token_losses(states, targets, matrix), losses, rtol=1e-4)
    assert (ours.grad - theirs.grad).norm() < 0.01 * theirs.grad.norm()


def adapted(base, ids: list[int] = NEW):
    loaded, _ = loading.load(base, "16bit", 64)
    network = loading.add_lora(loaded, r=4, alpha=4, dropout=0, seed=0, embeddings="new", new_ids=ids)
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(weight, std=0.05)  # rows that differ from those they stand for
    return network


IDS = torch.tensor([[2, 5, 300, 310, 339, 299, 340, 11], [2, 320, 321, 9, 8, 7, 6, 330]])


def gradients(network) -> dict:
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


def pieced(network):
    with new_rows.states_for_logits(network):
        states = network(input_ids=IDS, use_cache=False).logits[:, :-1].flatten(0, 1)
    targets = IDS[:, 1:].flatten()
    return loss.chunked_cross_entropy(states, targets, torch.ones(len(targets)), *new_rows.head_of(network)) / len(targets)


@pytest.fixture(scope="module")
def ours(base):
    return adapted(base)


@pytest.fixture(scope="module")
def pefts(base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "beside", lambda _: None)
        return adapted(base)


def whole(network):
    return cross_entropy(network(input_ids=IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


@pytest.mark.parametrize("way", [pieced, whole])
def test_logits_and_gradients_are_those_of_pefts_own_way(ours, pefts, way):
    assert torch.allclose(*(network(input_ids=IDS).logits for network in (ours, pefts)), atol=1e-6)
    losses = [way(ours), whole(pefts)]
    for network, value in zip((ours, pefts), losses, strict=True):
        network.zero_grad()
        value.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    found, expected = gradients(ours), gradients(pefts)
    assert found.keys() == expected.keys()
    assert any("trainable_tokens_delta" in name for name in found)
    for name, slope in expected.items():
        assert float(slope.abs().max()) > 0
        assert torch.allclose(found[name], slope, atol=1e-5 * float(slope.abs().max())), name


class Sizes(TorchDispatchMode):
    """The numbers that each operation wrote into memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given, made = ([t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)] for tree in ((args, kwargs), out))
        known = {t.untyped_storage().data_ptr() for t in given}
        self.seen |= {t.untyped_storage().nbytes() // t.element_size() for t in made if t.untyped_storage().data_ptr() not in known}
        return out


def test_a_step_makes_no_copy_of_the_matrix(ours, pefts, monkeypatch):
    monkeypatch.setattr(loss, "FAINT", 0.01)  # of 3,000 rows most reach the usual one
    monkeypatch.setattr(loss, "TILE", 256)
    matrix = new_rows.head_of(ours)[0].numel()
    with Sizes() as mine:
        pieced(ours).backward()
    assert max(mine.seen) < matrix / 2
    with Sizes() as theirs:
        whole(pefts).backward()
    assert matrix in theirs.seen  # the count sees what it should


def test_the_model_is_itself_again_afterwards_and_the_base_without_its_adapter(ours, pefts):
    before = ours(input_ids=IDS).logits
    with pytest.raises(RuntimeError), new_rows.states_for_logits(ours):
        assert ours(input_ids=IDS).logits.shape[-1] == ours.config.get_text_config().hidden_size
        assert ours.get_output_embeddings().weight is new_rows.head_of(ours)[0]
        raise RuntimeError
    assert torch.equal(ours(input_ids=IDS).logits, before)
    rows = new_rows.rows_of(ours.get_output_embeddings().token_adapter)[0]
    assert torch.equal(ours.get_output_embeddings().weight[NEW], rows.to(torch.float32))
    with ours.disable_adapter(), pefts.disable_adapter():
        assert torch.equal(ours(input_ids=IDS).logits, pefts(input_ids=IDS).logits)


def test_ids_with_a_gap_are_refused(base):
    with pytest.raises(AssertionError, match="not consecutive"):
        adapted(base, [300, 302])


def test_in_bfloat16_as_close_as_its_rounding(ours, pefts):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pieced(ours)
    with torch.no_grad():
        expected = whole(pefts)
    assert found.item() == pytest.approx(expected.item(), rel=0.02)
    ours.zero_grad()
    found.backward()
    assert all(slope.dtype == torch.float32 and slope.isfinite().all() for slope in gradients(ours).values())
