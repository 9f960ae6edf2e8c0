"""How a run ends, and everything that follows from it: one table for Optuna, MLflow, the sweep and its exit code.

Nothing here needs more than the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class Phase(StrEnum):
    """Why a run was trained: to search an arm's tuned dimensions, or to measure the arm's best configuration."""

    EXPLORE = "explore"
    CONFIRM = "confirm"
    SUPERSEDED = "superseded"  # confirmed a configuration that is no longer its arm's best, after more trials


class Again(StrEnum):
    """What a sweep does about a run that ended like this."""

    NEVER = "never"  # it is a result: the same configuration would end in the same way
    ANOTHER = "another"  # another trial in its place, a few times, so that arms stay equally searched
    GOES_ON = "goes on"  # the same trial and the same run, from the last state


class Exit(IntEnum):
    """Exit codes of all commands, beside 0."""

    FAILED = 1  # some run failed, or a store did; everything else was done
    MISTAKE = 2  # the person's input
    BUSY = 3  # another process runs this sweep
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT
    TERMINATED = 143  # 128 + SIGTERM


class Outcome(StrEnum):
    """How a run ended. Only COMPLETE runs carry a result that may be compared."""

    COMPLETE = "complete"
    PRUNED = "pruned"  # stopped early by the study's pruner
    DIVERGED = "diverged"  # loss or gradient became NaN or infinite
    OOM = "oom"  # host or device memory ran out
    FAILED = "failed"  # an exception, a full disk, or its worker process died again and again
    INTERRUPTED = "interrupted"  # the sweep was stopped or killed

    @property
    def optuna_state(self) -> str:
        """Name of the `TrialState` that its trial gets."""
        return _FATES[self].optuna

    @property
    def mlflow_status(self) -> str:
        """Status of its MLflow run."""
        return _FATES[self].mlflow

    @property
    def again(self) -> Again:
        """Whether the sweep trains it, or another in its place, once more."""
        return _FATES[self].again

    @property
    def is_result(self) -> bool:
        """Whether a confirm run that ended so need not be trained again; to diverge is a result too."""
        return self in (Outcome.COMPLETE, Outcome.DIVERGED)

    @property
    def is_failure(self) -> bool:
        """Whether the sweep's exit code tells of it."""
        return _FATES[self].exit_code == Exit.FAILED


@dataclass(frozen=True)
class _Fate:
    optuna: str
    mlflow: str
    again: Again
    exit_code: int


_FATES: Final = {
    Outcome.COMPLETE: _Fate("COMPLETE", "FINISHED", Again.NEVER, 0),
    Outcome.PRUNED: _Fate("PRUNED", "KILLED", Again.NEVER, 0),
    # Told with the loss at initialisation: the worst result, not a missing one, so that samplers learn from it.
    Outcome.DIVERGED: _Fate("COMPLETE", "FAILED", Again.NEVER, 0),
    Outcome.OOM: _Fate("FAIL", "FAILED", Again.ANOTHER, Exit.FAILED),
    Outcome.FAILED: _Fate("FAIL", "FAILED", Again.ANOTHER, Exit.FAILED),
    # A trial that waits is the next that its study gives out, under its own number and with its own values.
    Outcome.INTERRUPTED: _Fate("WAITING", "KILLED", Again.GOES_ON, Exit.INTERRUPTED),
}
