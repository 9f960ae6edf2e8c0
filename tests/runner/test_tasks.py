from __future__ import annotations

import pytest

from harness.core.metrics import VAL_BITS_PER_BYTE, VAL_LOSS, VAL_SAMPLE_LOSS, Point
from harness.core.outcomes import Outcome
from harness.runner.tasks import objective_value


@pytest.mark.parametrize(("metric", "first", "last"), [(VAL_LOSS, 10.8, 5.0), (VAL_BITS_PER_BYTE, 3.6, 1.5)])
def test_a_trial_is_worth_its_last_value_and_a_diverged_one_its_first(metric: str, first: float, last: float) -> None:
    points = [
        Point(0, 0, 0.0, 0.0, {VAL_LOSS: 10.8, VAL_BITS_PER_BYTE: 3.6}),
        Point(1, 10, 0.5, 1.0, {VAL_LOSS: 5.0, VAL_BITS_PER_BYTE: 1.5}),
        Point(2, 20, 1.0, 2.0, {VAL_SAMPLE_LOSS: 4.0}),
    ]
    assert objective_value(points, Outcome.COMPLETE, metric) == last
    assert objective_value(points, Outcome.DIVERGED, metric) == first
    assert objective_value(points[2:], Outcome.COMPLETE, metric) is None
