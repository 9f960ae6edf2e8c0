from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.data.batches import NO_TARGET
from harness.model import cross_entropy
from harness.model.cross_entropy import linear_cross_entropy, padded_logits
from harness.training.devices import autocast


def drawn(count: int, dim: int, size: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, a head and targets."""
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(count, dim, generator=generator)
    weight = torch.randn(size, dim, generator=generator) / dim**0.5
    return x, weight, torch.randint(size, (count,), generator=generator)


def by_definition(x: Tensor, weight: Tensor, targets: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss and the gradients of `factor` times it, in float64, from full logits."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    value = F.cross_entropy(x @ weight.T, targets)
    (factor * value).backward()
    assert x.grad is not None
    assert weight.grad is not None
    return value.detach(), x.grad, weight.grad


def token_losses(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The loss of each target."""
    return linear_cross_entropy(x, weight, targets, reduction="none")


def ours(x: Tensor, weight: Tensor, targets: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    value = linear_cross_entropy(x, weight, targets)
    (factor * value).backward()
    assert x.grad is not None
    assert weight.grad is not None
    return value.detach(), x.grad, weight.grad


def assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], within: float = 1e-5) -> None:
    """Compare tensors; `within` is relative to the largest element of each."""
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= within * other.abs().max() + 1e-6


# One row and one column; whole blocks; one row or column more than whole blocks; GPT-2's vocabulary.
SHAPES = [(1, 3, 1), (512, 8, 1024), (513, 8, 1025), (1100, 16, 700), (1100, 200, 700), (5, 4, 50257)]


@pytest.mark.parametrize(("count", "dim", "size"), SHAPES)
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_the_definition(count: int, dim: int, size: int, factor: float) -> None:
    drawing = drawn(count, dim, size)
    assert_equal(ours(*drawing, factor), by_definition(*drawing, factor))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # this project's kernels, and torch's
def test_rows_without_target_are_left_out(precision: str) -> None:
    x, weight, targets = drawn(600, 8, 700)
    left_out = torch.arange(600) % 7 > 2
    with autocast(torch.device("cpu"), precision):
        value, grad_x, grad_weight = ours(x, weight, targets.where(~left_out, NO_TARGET))
    expected, expected_x, expected_weight = by_definition(x[~left_out], weight, targets[~left_out])
    within = 1e-5 if precision == "fp32" else 0.02
    assert_equal((value, grad_x[~left_out], grad_weight), (expected, expected_x, expected_weight), within)
    assert not grad_x[left_out].any()


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    *(st.integers(1, 40), st.integers(1, 9), st.integers(2, 40), st.integers(0, 99), st.sampled_from([0.1, 3.0, 20.0])),
    *(st.sampled_from([0, 192]), st.booleans()),
)
def test_block_sizes_and_processor_settings_do_not_change_the_result(
    count: int, dim: int, size: int, seed: int, scale: float, wide: int, in_place: bool
) -> None:
    drawing = drawn(count, dim, size, seed, scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "ROWS", 7)
        patch.setattr(cross_entropy, "VOCABULARY", 5)
        patch.setattr(cross_entropy, "_WIDE", wide)
        patch.setattr(cross_entropy, "_IN_PLACE", in_place)
        found = ours(*drawing)
        each = token_losses(*drawing)
    expected = by_definition(*drawing)
    assert abs(found[0] - expected[0]) <= 1e-5 * (1 + expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert (one - other).abs().max() <= 1e-5 * (1 + other.abs().max())
    assert (each.double().mean() - expected[0]).abs() <= 1e-5 * (1 + expected[0])


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_logits_that_overflow_exp_give_the_right_loss(scale: float) -> None:
    drawing = drawn(600, 8, 900, scale=scale)
    assert (drawing[0] @ drawing[1].T).max() > 89  # exp(89) is infinite in float32
    assert_equal(
        ours(*drawing), by_definition(*drawing), within=1e-4
    )  # float32 resolves such logits to about four digits
    assert token_losses(*drawing).double().mean().item() == pytest.approx(by_definition(*drawing)[0].item(), rel=1e-6)


def test_logits_that_underflow_exp_give_the_right_loss() -> None:
    x, weight, targets = drawn(3, 4, 50)
    x, weight = torch.cat([x, torch.full((3, 1), 200.0)], 1), torch.cat([weight, torch.full((50, 1), -1.0)], 1)
    assert (x @ weight.T).exp().sum() == 0
    found, expected = ours(x, weight, targets), by_definition(x, weight, targets)
    assert found[0].item() == pytest.approx(
        expected[0].item(), rel=1e-4
    )  # float32 resolves such logits to about four digits
    assert token_losses(x, weight, targets).mean().item() == pytest.approx(expected[0].item(), rel=1e-4)


def test_nan_stays_nan() -> None:
    x, weight, targets = drawn(4, 3, 9)
    x[1, 1] = torch.nan
    assert ours(x, weight, targets)[0].isnan()
    assert token_losses(x, weight, targets)[1].isnan()


def test_each_token_has_the_loss_of_the_definition() -> None:
    x, weight, targets = drawn(1030, 16, 1030)
    expected = F.cross_entropy(x.double() @ weight.double().T, targets, reduction="none")
    assert (token_losses(x, weight, targets) - expected).abs().max() < 1e-5


def test_repeated_calls_are_bit_equal_and_reuse_their_memory() -> None:
    drawing = drawn(700, 8, 3000)
    first = ours(*drawing)
    memory = cross_entropy._scratch.take(1).untyped_storage().data_ptr()
    assert all(map(torch.equal, first, ours(*drawing)))
    assert cross_entropy._scratch.take(1).untyped_storage().data_ptr() == memory
    kept = first[2].clone()
    token_losses(*drawn(50, 8, 3000, seed=3))  # overwrites that memory
    assert torch.equal(first[2], kept)


def test_a_tied_weight_gets_the_gradients_of_head_and_embedding() -> None:
    _, weight, targets = drawn(20, 8, 30)
    weight.requires_grad_()
    linear_cross_entropy(weight[targets] * 2, weight, targets.roll(1)).backward()
    grad, weight.grad = weight.grad, None
    F.cross_entropy((weight[targets] * 2) @ weight.T, targets.roll(1)).backward()
    assert grad is not None
    assert weight.grad is not None
    assert (grad - weight.grad).abs().max() < 1e-6


@pytest.mark.parametrize("size", [1, 63, 64, 65, 300])
def test_padding_changes_no_loss(size: int) -> None:
    x, weight, targets = drawn(7, 5, size)
    found, expected = (t.clone().requires_grad_() for t in (weight, weight))
    assert padded_logits(x, found).shape == (7, size)
    F.cross_entropy(padded_logits(x, found), targets).backward()
    F.cross_entropy(x @ expected.T, targets).backward()
    assert found.grad is not None
    assert expected.grad is not None
    assert (found.grad - expected.grad).abs().max() < 1e-6


@pytest.mark.parametrize("size", [1, 63, 64, 65, 300])
def test_padding_changes_no_loss_when_compiled(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, targets = drawn(7, 5, size)
    found, expected = (t.clone().requires_grad_() for t in (weight, weight))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    logits = padded_logits(x, found)
    assert logits.shape == (7, -(-size // 64) * 64)
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    wanted = F.cross_entropy(x @ expected.T, targets)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert found.grad is not None
    assert expected.grad is not None
    assert (found.grad - expected.grad).abs().max() < 1e-6
