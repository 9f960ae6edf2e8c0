"""The state of a running sweep, without a console."""

from __future__ import annotations

import pytest

from harness.console.state import ArmTally, SweepState
from harness.core.outcomes import Outcome, Phase
from screens import point


def seconds_left(sweep: SweepState) -> float:
    left = sweep.time_left()
    assert left is not None
    return left.seconds


def test_time_left_follows_the_work_and_the_measured_speeds() -> None:
    now = [100.0]
    sweep = SweepState(lambda: now[0])
    sweep.sweep_started(4, 400.0)
    assert sweep.time_left() is None
    sweep.run_started(1, "a", 100.0, "", Phase.EXPLORE)
    sweep.run_started(2, "b", 100.0, "", Phase.EXPLORE)
    now[0] = 107.0  # both had to start a process first
    sweep.run_point(1, point(0, 0.0, 5.0))
    sweep.run_point(2, point(0, 0.0, 5.0))
    assert sweep.time_left() is None
    now[0] = 117.0
    sweep.run_point(1, point(1, 0.5, 5.0))
    sweep.run_point(2, point(1, 0.5, 5.0))
    assert seconds_left(sweep) == pytest.approx(30.0)  # 0.2 s per unit, 300 units, two in parallel
    sweep.run_finished(1, Outcome.PRUNED)  # its second half is not trained
    assert seconds_left(sweep) == pytest.approx(25.0)
    sweep.run_started(3, "c, resumed", 100.0, "", Phase.EXPLORE)
    sweep.run_point(3, point(4, 0.8, 5.0))
    assert seconds_left(sweep) == pytest.approx(20.0)  # what is left of the fourth run


def test_an_interrupted_run_is_still_to_be_done() -> None:
    now = [100.0]
    sweep = SweepState(lambda: now[0])
    sweep.sweep_started(1, 100.0)
    sweep.run_started(1, "a", 100.0, "", Phase.EXPLORE)
    sweep.run_point(1, point(0, 0.0, 5.0))
    now[0] = 110.0
    sweep.run_point(1, point(1, 0.5, 5.0))
    sweep.run_finished(1, Outcome.INTERRUPTED)
    assert sweep.finished == 0
    assert seconds_left(sweep) == pytest.approx(10.0)


def test_an_arm_counts_its_finished_runs() -> None:
    arm = ArmTally("a", 4, 2)
    arm.add(Phase.EXPLORE, Outcome.COMPLETE, 3.0)
    arm.add(Phase.EXPLORE, Outcome.COMPLETE, 4.0)
    arm.add(Phase.EXPLORE, Outcome.PRUNED, 1.0)
    arm.add(Phase.EXPLORE, Outcome.DIVERGED, 0.5)
    arm.add(Phase.EXPLORE, Outcome.FAILED, None)
    assert (arm.explored, arm.best) == (4, 3.0)
    arm.add(Phase.CONFIRM, Outcome.COMPLETE, 3.0)
    arm.add(Phase.CONFIRM, Outcome.DIVERGED, 9.0)
    arm.add(Phase.CONFIRM, Outcome.INTERRUPTED, 2.0)
    assert (arm.confirmed, arm.mean_result) == (2, 3.0)
