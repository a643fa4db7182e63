"""The rate of plain LoRA that a stage's own comes to."""

import pytest
import torch

from kmlite.training import stages


@pytest.mark.parametrize(("rate", "rank", "alpha", "same"), [(2e-5, 64, 128, 3.2e-4), (1e-5, 64, 128, 1.6e-4), (1e-4, 4, 4, 2e-4)])
def test_steps_are_as_large_as_plain_lora_at_the_equivalent_rate(rate, rank, alpha, same):
    assert stages.equivalent_rate(rate, rank, alpha) == pytest.approx(same)

    def change(rate, scale):
        """Of a weight, after Adam's first step on B (which starts at zero)."""
        torch.manual_seed(0)
        a, b = torch.randn(rank, 5), torch.zeros(5, rank, requires_grad=True)
        ((scale * b @ a) * torch.randn(5, 5)).sum().backward()
        torch.optim.Adam([b], lr=rate).step()
        return (scale * b @ a).detach()

    rank_stabilised, plain = alpha / rank**0.5, 1.0
    assert torch.allclose(change(rate, rank_stabilised), change(same, plain), rtol=1e-3)
