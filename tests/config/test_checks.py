"""Ranges that are too wide to try all their values are checked as if all were tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.config import checks
from harness.core.errors import SpecError
from specs import GOOD, load

PLAIN = GOOD[: GOOD.index("compare:")]
FIELDS = {  # field → the field that a rule connects it with
    "model.emb_dim": "model.n_heads",
    "model.n_heads": "model.emb_dim",
    "model.context_length": "train.batch_tokens",
    "train.batch_tokens": "model.context_length",
    "model.n_layers": "model.n_heads",
    "train.sample.top_k": "model.n_heads",
}


@pytest.mark.slow
@given(
    field=st.sampled_from(list(FIELDS)),
    other=st.sampled_from([2, 4, 8, 16]),
    low=st.integers(1, 300),
    width=st.integers(1, 400),
)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_wide_range_is_refused_exactly_where_one_of_its_values_is(
    field: str, other: int, low: int, width: int, tmp_path: Path
) -> None:
    text = PLAIN + f"tune:\n  {field}: {{int_uniform: [{low}, {low + width}]}}\n  train.warmup: {{uniform: [0, 0.5]}}\n"

    fixed = 32 * other if FIELDS[field] == "train.batch_tokens" else other  # a multiple of the written context

    def refused(most: int) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "MAX_CHECKED", most)
            try:
                load(tmp_path, text, f"{FIELDS[field]}={fixed}", "train.budget.steps=5")
            except SpecError:
                return True
        return False

    assert refused(width) is refused(2 * width + 2)  # checked as a wide range, and value by value


@given(number=st.integers(1, 2**62), low=st.integers(1, 2**62))
@settings(max_examples=200, derandomize=True)
def test_no_number_has_as_many_divisors_in_a_row_as_are_tried(number: int, low: int) -> None:
    assert any(number % divisor for divisor in range(low, low + checks.CONSECUTIVE))
    highly_divisible = 2**5 * 3**3 * 5**2 * 7 * 11 * 13 * 17 * 19 * 23 * 29 * 31 * 37 * 41
    assert any(highly_divisible % divisor for divisor in range(1, checks.CONSECUTIVE))
