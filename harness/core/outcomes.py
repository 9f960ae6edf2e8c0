"""How a run ends, and what follows for Optuna, MLflow, the sweep and its exit code, in one table.

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
    SUPERSEDED = "superseded"  # confirmed a configuration that is no longer its arm's best after more trials
    UNPLANNED = "unplanned"  # stored as a confirm run that the plan did not ask for; given when runs are read


class Retry(StrEnum):
    """What a sweep does after a run that ended like this."""

    NEVER = "never"  # it is a result: the same configuration would end in the same way
    NEW_TRIAL = "new trial"  # a few times, so that all arms get as many finished trials
    RESUME = "resume"  # the same trial and the same run, from the last state


class Exit(IntEnum):
    """Exit codes of all commands, besides 0."""

    FAILED = 1  # a run or a store failed; everything else was done
    MISTAKE = 2  # in the spec, an option or another input
    BUSY = 3  # another process runs this sweep
    HUNG_UP = 129  # the terminal was closed: 128 + SIGHUP
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT
    TERMINATED = 143  # 128 + SIGTERM


class Outcome(StrEnum):
    """How a run ended. COMPLETE and DIVERGED runs are results; only the first have a model."""

    COMPLETE = "complete"
    PRUNED = "pruned"  # stopped early by the study's pruner
    DIVERGED = "diverged"  # loss or gradient became NaN or infinite
    OOM = "oom"  # host or device memory ran out
    FAILED = "failed"  # an exception, a full disk, or a worker process that died repeatedly
    INTERRUPTED = "interrupted"  # the sweep was stopped or killed

    @property
    def optuna_state(self) -> str:
        """Name of the `TrialState` that its trial gets."""
        return _CONSEQUENCES[self].optuna

    @property
    def mlflow_status(self) -> str:
        """Status of its MLflow run."""
        return _CONSEQUENCES[self].mlflow

    @property
    def retry(self) -> Retry:
        """Whether the sweep resumes it or starts a new trial in its place."""
        return _CONSEQUENCES[self].retry

    @property
    def is_result(self) -> bool:
        """Whether a confirm run with this outcome is final; a diverged one is."""
        return self in (Outcome.COMPLETE, Outcome.DIVERGED)

    @property
    def is_failure(self) -> bool:
        """Whether it makes the sweep exit with `Exit.FAILED`."""
        return _CONSEQUENCES[self].exit_code == Exit.FAILED


@dataclass(frozen=True)
class _Consequence:
    optuna: str
    mlflow: str
    retry: Retry
    exit_code: int


_CONSEQUENCES: Final = {
    Outcome.COMPLETE: _Consequence("COMPLETE", "FINISHED", Retry.NEVER, 0),
    Outcome.PRUNED: _Consequence("PRUNED", "KILLED", Retry.NEVER, 0),
    # Optuna gets the loss at initialisation: the worst result, not a missing one, so that samplers learn from it.
    Outcome.DIVERGED: _Consequence("COMPLETE", "FAILED", Retry.NEVER, 0),
    Outcome.OOM: _Consequence("FAIL", "FAILED", Retry.NEW_TRIAL, Exit.FAILED),
    Outcome.FAILED: _Consequence("FAIL", "FAILED", Retry.NEW_TRIAL, Exit.FAILED),
    # A waiting trial is the next one that its study returns, with the same number and values.
    Outcome.INTERRUPTED: _Consequence("WAITING", "KILLED", Retry.RESUME, Exit.INTERRUPTED),
}
