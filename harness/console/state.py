"""What a sweep's screen knows: arms and running trials."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase


@dataclass
class ArmTally:
    """One arm, in earlier processes and in this one.

    Attributes:
        name: of the arm.
        trials, seeds: runs of each kind that there are to be.
        explored, confirmed: those that are done.
        best: lowest validation loss at the end of a trial; None before there is one.
        losses: validation losses of its confirm runs.
    """

    name: str
    trials: int
    seeds: int
    explored: int = 0
    confirmed: int = 0
    best: float | None = None
    losses: list[float] = field(default_factory=list)

    @property
    def confirmed_loss(self) -> float | None:
        """The mean over confirm runs."""
        return sum(self.losses) / len(self.losses) if self.losses else None

    def ended(self, phase: Phase, outcome: Outcome, loss: float | None) -> None:
        """Count a run."""
        complete = outcome is Outcome.COMPLETE and loss is not None
        if phase is Phase.CONFIRM:
            self.confirmed += outcome.is_result
            self.losses += [loss] if complete and loss is not None else []
        else:
            self.explored += outcome.is_result or outcome is Outcome.PRUNED
            if complete and loss is not None:
                self.best = loss if self.best is None else min(self.best, loss)


@dataclass
class Run:
    """A run that a worker trains now, or the last of it."""

    name: str
    arm: str
    phase: Phase
    work: float
    warm: bool  # whether its worker had trained before, so that no time goes to starting it
    began: float
    last: Point | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    sampled: bool = False  # whether the validation loss is of a sample
    taken_up_at: float = 0.0

    @property
    def val_name(self) -> str:
        """What its validation loss is called."""
        return "val sample" if self.sampled else "val"

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.last.progress if self.last else 0.0

    @property
    def done(self) -> float:
        """Share of the budget that was spent since it began here: a run may have gone on from a state."""
        return self.progress - self.taken_up_at

    def take(self, point: Point, now: float) -> None:
        """Take a point; a first one that a new process had to be started for begins the clock."""
        if self.last is None:
            self.taken_up_at = point.progress if point.step else 0.0
            self.began = self.began if self.warm else now
        self.last = point
        self.train_loss = point.metrics.get(metrics.TRAIN_LOSS, self.train_loss)
        if point.evaluated:  # of the whole split where there is one; at the end there is
            self.val_loss = point.metrics.get(metrics.VAL_LOSS, point.curve_loss)
            self.sampled = metrics.VAL_LOSS not in point.metrics
