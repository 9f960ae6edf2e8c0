from __future__ import annotations

from typing import cast

import pytest

from harness.core.metrics import VAL_BITS_PER_BYTE, VAL_LOSS, VAL_SAMPLE_LOSS, Point
from harness.core.outcomes import Outcome
from harness.runner.tasks import Running, Task, objective_value


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


def test_a_running_run_keeps_its_losses_and_its_newest_point() -> None:
    points = [
        Point(step, step, 0.0, 0.0, {VAL_LOSS: 5.0} if step % 3 == 0 else {"train/batch_loss": 1.0})
        for step in range(9)
    ]
    run = Running(cast(Task, None), "a", points[:5])
    assert [point.step for point in run.points] == [0, 3, 4]
    for point in points[5:]:
        run.add(point)
    assert [point.step for point in run.points] == [0, 3, 6, 8]
    assert [point.step for point in run.evaluated] == [0, 3, 6]
