"""Perplexity and bits per byte against values worked by hand, and the names of metrics."""

from __future__ import annotations

import math

import pytest

from harness.core import metrics
from harness.core.metrics import Point, bits_per_byte, perplexity
from harness.core.outcomes import Outcome, Phase


def test_the_perplexity_of_a_uniform_distribution_is_the_number_of_choices() -> None:
    assert perplexity(math.log(50257)) == pytest.approx(50257, rel=1e-12)
    assert perplexity(0.0) == 1.0


def test_perplexity_too_large_for_a_float_is_infinite() -> None:
    assert perplexity(709.0) < math.inf  # exp(709) = 8.2e307
    assert perplexity(710.0) == math.inf


def test_bits_per_byte_by_hand() -> None:
    # four tokens, each one of eight equally likely: 3 bits each, 12 bits over 6 bytes
    assert bits_per_byte(4 * math.log(8), 6) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("size", [0, -1])
def test_bits_per_byte_of_no_bytes_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match=f"total_bytes must be positive, found {size}"):
        bits_per_byte(1.0, size)


def test_a_point_with_a_validation_loss_is_evaluated() -> None:
    assert Point(1, 8, 0.5, 0.1, {metrics.VAL_LOSS: 2.0}).evaluated
    assert not Point(1, 8, 0.5, 0.1, {metrics.BATCH_LOSS: 2.0}).evaluated


def test_metric_names_are_distinct_and_enums_print_their_value() -> None:
    names = [value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)]
    assert len(names) == len(set(names)) > 10
    assert f"{Outcome.COMPLETE} {Phase.CONFIRM}" == "complete confirm"
