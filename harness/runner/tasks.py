"""Runs of a sweep: `Task`, one that is to be trained, and `Running`, one that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.config.fields import format_value, short_name
from harness.config.run import RunConfig
from harness.config.spec import Arm
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.search.readable import POINT
from harness.search.study import OptunaTrial
from harness.tracking import TrialInfo


@dataclass(frozen=True)
class Task:
    """A run to train: an explore trial of an arm's study, or a confirm run of the arm's best values.

    Attributes:
        arm: the arm that it belongs to.
        phase: explore or confirm.
        values: dotted path → tuned value.
        seed: the seed that arms share; `config` has another one for the copies of an A/A sweep.
        config: the whole configuration.
        study: name of the Optuna study; None for a confirm run.
        trial: of that study.
    """

    arm: Arm
    phase: Phase
    values: Mapping[str, Any]
    seed: int
    config: RunConfig
    study: str | None = None
    trial: OptunaTrial | None = None

    @property
    def name(self) -> str:
        """See `run_name`."""
        return run_name(self.arm, self.values, self.seed, self.phase)

    def info(self, data: Mapping[str, Any]) -> TrialInfo:
        """What MLflow records before the run begins; `data` are the facts about its arm's corpus."""
        number, point = (self.trial.number, self.trial.user_attrs.get(POINT, "")) if self.trial else (None, "")
        return TrialInfo(self.name, self.arm.name, self.phase, self.seed, self.config, self.study, number, data, point)


@dataclass
class Running:
    """A run that a worker trains.

    Attributes:
        task: what is trained.
        key: of the run's folder, and of its MLflow run (tag `harness.key`).
        points: the newest point and all earlier ones with a validation loss, those of earlier processes too. The
            others are on disk: a thousand runs of a few hours have ten million.
        pruned: whether the pruner has asked to stop it.
        lost_workers: workers in a row that died or hung before they sent a point.
        run_id: an explore trial's MLflow run id, once it is known.
        ended: when its worker reported the end, in milliseconds since 1970; None before that.
    """

    task: Task
    key: str
    points: list[Point] = field(default_factory=list)
    pruned: bool = False
    lost_workers: int = 0
    run_id: str | None = None
    ended: int | None = None

    def __post_init__(self) -> None:
        points, self.points = self.points, []
        for point in points:
            self.add(point)

    @property
    def name(self) -> str:
        """See `run_name`."""
        return self.task.name

    def add(self, point: Point) -> None:
        """Note a new point."""
        if self.points and not self.points[-1].evaluated:
            self.points.pop()
        self.points.append(point)

    @property
    def evaluated(self) -> list[Point]:
        """Points with a validation loss."""
        return [point for point in self.points if point.evaluated]


def objective_value(points: Sequence[Point], outcome: Outcome, metric: str) -> float | None:
    """The value that a study gets for a trial: its last one, or if it diverged the one at initialisation.

    Only values of the whole validation split count, also where curves are of a sample; None: there is none.

    Args:
        points: of the trial.
        outcome: how it ended.
        metric: the sweep's objective.
    """
    values = [point.metrics[metric] for point in points if metric in point.metrics]
    if not values:
        return None
    return values[0 if outcome is Outcome.DIVERGED else -1]


def run_name(arm: Arm, values: Mapping[str, Any], seed: int, phase: Phase) -> str:
    """A run's name in every store and table, short enough for a column.

    Trials are named by their tuned values, `drop_rate=0.1 · learning_rate=1.2e-03 · seed 1`. Confirm runs of an arm
    share these and are named by their seeds: `drop_rate=0.1 · seed 3`, or `best · seed 3` if there is only one arm.
    """
    name = [arm.name] if arm.values else []
    if phase is Phase.EXPLORE:
        name += [f"{short_name(path)}={_brief(value)}" for path, value in values.items()]
    elif values and not name:
        name = ["best"]
    return " · ".join([*name, f"seed {seed}"])


def _brief(value: Any) -> str:
    if isinstance(value, float) and value and not 0.01 <= abs(value) < 10_000:
        return f"{value:.1e}"
    return f"{value:.3g}" if isinstance(value, float) else format_value(value)
