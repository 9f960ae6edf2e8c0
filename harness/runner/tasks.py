"""One run of a sweep: what is to be trained, and what has become of it so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import Trial

from harness.config.fields import format_value, short_name
from harness.config.run import RunConfig
from harness.config.spec import Arm
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.tracking import TrialInfo


@dataclass(frozen=True)
class Task:
    """One run that is to be trained: an explore trial of an arm's study, or a confirm run of its best values."""

    arm: Arm
    phase: Phase
    values: Mapping[str, Any]
    seed: int  # that arms share; the configuration of an A/A sweep's copies has another
    config: RunConfig
    study: str | None = None  # Optuna's
    trial: Trial | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return run_name(self.arm, self.values, self.seed, self.phase)

    def info(self, data: Mapping[str, Any]) -> TrialInfo:
        """What is recorded about it before it begins; `data` is what its arm records about the corpus."""
        number = self.trial.number if self.trial else None
        return TrialInfo(self.name, self.arm.name, self.phase, self.seed, self.config, self.study, number, data)


@dataclass
class Running:
    """A run that a worker trains.

    Attributes:
        task: what it is.
        key: by which the record knows it.
        points: all of them so far, from earlier parts of the run too.
        pruned: whether the pruner has asked for its end.
        faults: how often its worker died or hung since the run last got on.
        run_id: of an explore trial's MLflow run, once it is known.
    """

    task: Task
    key: str
    points: list[Point] = field(default_factory=list)
    pruned: bool = False
    faults: int = 0
    run_id: str | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.task.name

    @property
    def evaluated(self) -> list[Point]:
        """Points with a validation loss."""
        return [point for point in self.points if point.evaluated]


def told_loss(points: Sequence[Point], outcome: Outcome) -> float | None:
    """The validation loss that a study is told of a trial: the last one; that at initialisation, if it diverged.

    It is of the whole split, also where curves are of a sample.
    """
    losses = [point.metrics[metrics.VAL_LOSS] for point in points if metrics.VAL_LOSS in point.metrics]
    if not losses:
        return None
    return losses[0 if outcome is Outcome.DIVERGED else -1]


def run_name(arm: Arm, values: Mapping[str, Any], seed: int, phase: Phase) -> str:
    """What a run is called everywhere, short enough for a column of a list.

    A trial by what was tuned, `drop_rate=0.1 · learning_rate=1.2e-03 · seed 1`. Confirm runs of an arm share what was
    tuned and differ by their seeds: `drop_rate=0.1 · seed 3`, or `best · seed 3` where there is one arm.
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
