"""Every outcome has a valid Optuna state and MLflow status."""

from __future__ import annotations

import signal

import pytest
from mlflow.entities import RunStatus
from optuna.trial import TrialState

from harness.core.outcomes import Exit, Outcome, Retry


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_an_optuna_state_and_an_mlflow_status(outcome: Outcome) -> None:
    status = RunStatus.from_string(outcome.mlflow_status)
    assert RunStatus.is_terminated(status)  # no run is left RUNNING
    state = TrialState[outcome.optuna_state]
    assert state.is_finished() is (outcome is not Outcome.INTERRUPTED)
    assert state is not TrialState.RUNNING


def test_which_outcomes_are_retried_results_or_failures() -> None:
    assert {outcome for outcome in Outcome if outcome.retry is Retry.RESUME} == {Outcome.INTERRUPTED}
    assert {outcome for outcome in Outcome if outcome.retry is Retry.NEW_TRIAL} == {Outcome.OOM, Outcome.FAILED}
    assert {outcome for outcome in Outcome if outcome.is_result} == {Outcome.COMPLETE, Outcome.DIVERGED}
    assert {outcome for outcome in Outcome if outcome.is_failure} == {Outcome.OOM, Outcome.FAILED}


def test_exit_codes_are_those_of_a_shell() -> None:
    stopped = [128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]
    assert [int(code) for code in Exit] == [1, 2, 3, *stopped]
