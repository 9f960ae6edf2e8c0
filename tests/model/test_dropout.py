from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from harness.model.dropout import causal_attention, dropout, dropout_mask


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 2**-16])
def test_the_share_of_zeros_is_the_rate(rate: float) -> None:
    torch.manual_seed(1)
    mask = dropout_mask(torch.empty(1000, 1000), rate)
    dropped = (mask == 0).double().mean().item()
    deviation = math.sqrt(rate * (1 - rate) / mask.numel())
    assert abs(dropped - rate) < 5 * deviation + 2**-17
    scale = mask[mask > 0].unique()
    assert scale.tolist() == [pytest.approx(1 / (1 - rate), rel=2**-15 / (1 - rate))]
    assert mask.double().mean().item() == pytest.approx(1, abs=5 * deviation / (1 - rate))


def test_neighbours_are_dropped_independently() -> None:
    """Four neighbours share 64 random bits."""
    torch.manual_seed(2)
    rows = (dropout_mask(torch.empty(250_000, 4), 0.5) == 0).double()
    rates, together = rows.mean(0), rows.T @ rows / len(rows)
    assert (rates - 0.5).abs().max() < 0.005
    assert (together - (0.25 + 0.25 * torch.eye(4))).abs().max() < 0.005


def test_every_group_of_16_bits_is_uniform() -> None:
    torch.manual_seed(3)
    shares = [(dropout_mask(torch.empty(400_000), rate) == 0).double().mean().item() for rate in (0.25, 0.5, 0.75)]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.004)


def test_the_global_seed_decides_the_mask() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(dropout_mask(torch.empty(7, 9), 0.3))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero() -> None:
    x = torch.randn(5, 5)
    before = torch.get_rng_state()
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rate_near_one_gives_finite_numbers() -> None:
    assert dropout(torch.ones(100_000), 1 - 1e-9, training=True).isfinite().all()


def test_gradients_are_masked_like_the_values() -> None:
    torch.manual_seed(4)
    x = torch.randn(50, 8, requires_grad=True)
    y = dropout(x, 0.4, training=True)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)
    assert x.grad.unique().numel() == 2


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (1, 1, 1, 4), (3, 2, 65, 16)])
def test_attention_without_dropout_equals_torchs(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.model.dropout.dropout_mask", lambda like, rate: torch.ones_like(like))
    torch.manual_seed(5)
    query, key, value = parts = [torch.randn(shape, dtype=torch.float32, requires_grad=True) for _ in range(3)]
    wide_query, wide_key, wide_value = wide = [part.detach().double().requires_grad_() for part in parts]
    ours = causal_attention(query, key, value, 0.1)
    theirs = F.scaled_dot_product_attention(wide_query, wide_key, wide_value, is_causal=True)
    assert (ours - theirs).abs().max() < 1e-5
    (ours * ours).sum().backward()
    (theirs * theirs).sum().backward()
    for one, other in zip(parts, wide, strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).abs().max() < 1e-4


def test_attention_drops_weights_without_renormalising(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dropped weight removes its value from the sum; the other weights keep their size."""
    mask = torch.tensor([[[1.0, 1, 1], [0, 1, 1], [2, 0, 1]]])
    monkeypatch.setattr("harness.model.dropout.dropout_mask", lambda like, rate: mask)
    query, key = torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2)  # so weights are 1/1, 1/2, 1/3
    value = torch.tensor([[[[1.0, 10], [2, 20], [3, 30]]]])
    found = causal_attention(query, key, value, 0.1)[0, 0]
    assert torch.allclose(found, torch.tensor([[1.0, 10], [1, 10], [5 / 3, 50 / 3]]))
