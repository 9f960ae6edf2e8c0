"""What a sweep takes besides training: its start, the record of each run in MLflow, the report.

Every sweep that finishes stores what it took. The next plan on this machine uses the medians of the last sweeps, and
the defaults below before there are any.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from harness.cost.calibration import has_amounts, read_json, write_json
from harness.data import cache_folder

KEPT: Final = 5  # sweeps of a machine whose overheads are kept
FEWEST_RUNS: Final = 4  # a sweep of fewer runs says little about one of them


@dataclass(frozen=True)
class Overheads:
    """Seconds of a sweep besides training and evaluation; the defaults are of 2 CPU cores with both stores in SQLite.

    Attributes:
        start: from the command to the first run: imports, stores, workers.
        per_run: of the sweep's process and MLflow to record one run; runs are recorded one after the other.
        per_point: of both to record one point of a curve.
        turnaround: of a worker, for each run, besides steps and evaluations: the model, the checkpoint, the next job.
        report: of the report, as a multiple of `report_seconds`.
    """

    start: float = 5.0
    per_run: float = 0.15
    per_point: float = 0.002
    turnaround: float = 0.1
    report: float = 1.0

    def recording(self, points: float) -> float:
        """Seconds to record a run with so many points."""
        return self.per_run + points * self.per_point

    def at_end(self, arms: int, runs: int) -> float:
        """Seconds from the last run to the end of the sweep."""
        return self.report * report_seconds(arms, runs)


def measured_overheads(
    *,
    start: float,
    run_seconds: float,
    runs: int,
    point_seconds: float,
    points: int,
    turnarounds: Sequence[float],
    report: float,
    arms: int,
    reported_runs: int,
) -> Overheads | None:
    """The overheads of a sweep that has finished; None if it trained too few runs to say.

    Args:
        start: seconds from the command to the first run.
        run_seconds, runs: seconds to create and to end `runs` runs in MLflow.
        point_seconds, points: seconds to send `points` points.
        turnarounds: seconds of a worker besides steps and evaluations, run by run.
        report: seconds of the report.
        arms, reported_runs: of the report.
    """
    if min(runs, points, len(turnarounds)) < FEWEST_RUNS:
        return None
    return Overheads(
        start=start,
        per_run=run_seconds / runs,
        per_point=point_seconds / points,
        turnaround=statistics.fmean(turnarounds),
        report=report / report_seconds(arms, reported_runs),
    )


def report_seconds(arms: int, runs: int) -> float:
    """Seconds of a report of so many arms and runs on 2 CPU cores, imports included."""
    return 2.5 + 0.15 * arms + 0.005 * runs


class OverheadHistory:
    """The overheads of the last sweeps on this machine, in a file of the cache.

    Args:
        folder: of the cache; see `cache_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = cache_folder(folder) / "overheads.json"

    def add(self, overheads: Overheads) -> None:
        """Store the overheads of a sweep that has finished."""
        stored = read_json(self.path)
        write_json(self.path, {**stored, platform.node(): [*self._mine(), asdict(overheads)][-KEPT:]})

    def typical(self) -> Overheads:
        """The medians over the stored sweeps; the defaults if there are none."""
        mine = self._mine()
        names = [one.name for one in fields(Overheads)]
        return Overheads(**{name: statistics.median(one[name] for one in mine) for name in names} if mine else {})

    def _mine(self) -> list[dict[str, float]]:
        """The stored sweeps of this machine, oldest first; entries of other versions are left out."""
        stored = read_json(self.path).get(platform.node(), [])
        return [one for one in (stored if isinstance(stored, list) else []) if has_amounts(one, Overheads)]
