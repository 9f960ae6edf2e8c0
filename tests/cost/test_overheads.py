"""What a sweep takes besides training: stored by every sweep, used by the next plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cost.calibration import read_json, write_json
from harness.cost.overheads import KEPT, OverheadHistory, Overheads, measured_overheads, report_seconds


def test_the_defaults_hold_before_a_sweep_and_the_medians_of_the_last_ones_after(tmp_path: Path) -> None:
    assert OverheadHistory(tmp_path).typical() == Overheads()
    for start in (100.0, 3.0, 1.0, 2.0, 5.0, 4.0):  # the first one is dropped
        OverheadHistory(tmp_path).add(Overheads(start=start, per_run=start / 10))
    assert KEPT == 5
    found = OverheadHistory(tmp_path).typical()
    assert (found.start, found.per_run, found.report) == (3.0, 0.3, Overheads().report)


@pytest.mark.parametrize("entry", ["no list", [3], [{"start": 1.0}], [{**vars(Overheads()), "start": "soon"}]])
def test_what_another_version_or_machine_stored_is_left_out(tmp_path: Path, entry: object) -> None:
    history = OverheadHistory(tmp_path)
    history.add(Overheads(start=1.0))
    (node,) = read_json(history.path)
    write_json(history.path, {node: entry, "another machine": [vars(Overheads(start=9.0))]})
    assert OverheadHistory(tmp_path).typical() == Overheads()


def test_the_overheads_of_a_sweep_are_per_run_per_point_and_relative_to_an_ordinary_report() -> None:
    taken = {"start": 4.0, "run_seconds": 2.0, "runs": 20, "point_seconds": 3.0, "points": 600}
    rest = {"turnarounds": [0.1, 0.1, 0.4, 0.2], "arms": 3, "reported_runs": 20}
    found = measured_overheads(**taken, **rest, report=3 * report_seconds(3, 20))  # type: ignore[arg-type]
    assert found is not None
    assert (found.start, found.per_run, found.per_point) == (4.0, 0.1, 0.005)
    assert found.turnaround == pytest.approx(0.2)
    assert found.report == pytest.approx(3.0)
    assert found.at_end(3, 20) == pytest.approx(3 * report_seconds(3, 20))
    assert found.recording(100) == pytest.approx(0.1 + 0.5)
    assert measured_overheads(**{**taken, "runs": 3}, **rest, report=1.0) is None  # type: ignore[arg-type]
