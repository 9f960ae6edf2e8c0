"""The sweep's own MLflow run is closed, whatever fails after it was created; what its first line says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.runner.parent_run import parent_run
from harness.runner.session import workers_now
from harness.tracking import Tracker
from stored_runs import Store, experiment_of, store, sweep_info

__all__ = ["store"]

ERRORS: dict[str, Callable[[], BaseException]] = {
    "refused": lambda: MlflowException("413 Request Entity Too Large"),
    "disk": lambda: OSError(28, "No space left on device", "/full"),
    "stopped": KeyboardInterrupt,
}


class FailsOnce:
    """A client whose call number `number` fails. Counts the calls."""

    def __init__(self, client: MlflowClient, number: int, error: Callable[[], BaseException]) -> None:
        self.client, self.number, self.error, self.calls = client, number, error, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.number:
                raise self.error()
            return method(*args, **kwargs)

        return call if callable(method) else method


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status", "outcome", "reason"),
    [
        ("refused", "FAILED", "failed", "MLflow: 413 Request Entity Too Large"),
        ("disk", "FAILED", "failed", "[Errno 28] No space left on device: '/full'"),
        ("stopped", "KILLED", "interrupted", None),
    ],
)
def test_no_sweep_stays_running_when_opening_it_fails(
    store: Store, error: str, status: str, outcome: str, reason: str | None
) -> None:
    closed = 0
    # each call is refused once; the other errors come from every fourth
    for number in range(1, 100, 1 if error == "refused" else 4):
        name = f"opening-{error}-{number}"
        tracker = Tracker(name, store.uri)
        client = FailsOnce(tracker.experiment.client, number, ERRORS[error])
        tracker.experiment.client = client  # type: ignore[assignment]
        entered = False
        try:
            with parent_run(tracker, sweep_info(name)):
                entered = True
        except (ValueError, OSError, KeyboardInterrupt):
            assert client.calls >= number
        runs = store.client.search_runs([experiment_of(store.client, name).experiment_id])
        assert all(run.info.status != "RUNNING" for run in runs) or entered
        if entered:
            break
        for run in runs:
            tags = run.data.tags
            assert (run.info.status, tags["harness.outcome"], tags.get("harness.reason")) == (status, outcome, reason)
            closed += 1
    assert closed >= (5 if error == "refused" else 2)


def test_the_first_line_says_how_many_workers_there_are() -> None:
    assert [workers_now(1, 1), workers_now(4, 2)] == ["1 worker", "4 workers of 2 ranks"]
    assert workers_now(0, 2) == "no worker yet: waiting for a node"
