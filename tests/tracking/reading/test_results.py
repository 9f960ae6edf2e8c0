"""What a resumed sweep reads of its own runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mlflow import MlflowClient

from harness.core.metrics import VAL_LOSS, VAL_PERPLEXITY
from harness.core.outcomes import Outcome, Phase
from harness.tracking import Tracker, confirm_outcomes
from stored_runs import Store, point, sweep_info, trial_info


def test_confirm_results_are_the_runs_that_a_resume_skips(store: Store) -> None:
    tracker = Tracker("confirm", store.uri)
    parent = tracker.open_sweep(sweep_info("confirm"))
    wanted = trial_info(seed=11)
    ids = []
    for info, outcome in [
        (wanted, Outcome.COMPLETE),
        (trial_info(seed=12), Outcome.OOM),
        (trial_info(seed=15), Outcome.DIVERGED),
        (trial_info(seed=13, phase=Phase.EXPLORE), Outcome.COMPLETE),
    ]:
        ids.append(tracker.start_run(parent, info))
        if outcome is Outcome.DIVERGED:
            tracker.log_point(ids[-1], point(0, val__loss=10.8))
            tracker.log_point(ids[-1], point(20, val__loss=6.0))
        if info is wanted:
            tracker.log_point(ids[-1], point(20, val__loss=3.0))
            tracker.log_point(ids[-1], point(40, val__loss=2.0, val__perplexity=7.4, train__loss=1.0, test__loss=2.5))
        tracker.end_run(ids[-1], outcome)
    tracker.start_run(parent, trial_info(seed=14))
    last = {VAL_LOSS: 2.0, VAL_PERPLEXITY: 7.4}
    assert Tracker("confirm", store.uri).confirm_results(parent) == [
        ("drop_rate=0.0", 11, wanted.config.digest(), ids[0], Outcome.COMPLETE, last, None),
        ("drop_rate=0.0", 15, trial_info(seed=15).config.digest(), ids[2], Outcome.DIVERGED, {VAL_LOSS: 6.0}, 10.8),
    ]
    outcomes = [
        ("drop_rate=0.0", Outcome(one), loss) for one, loss in [("complete", 2.0), ("oom", None), ("diverged", 6.0)]
    ]
    assert confirm_outcomes(parent, VAL_LOSS, store.uri) == [*outcomes, ("drop_rate=0.0", None, None)]


class CountingClient:
    """A client that counts its calls, and the runs that its searches find."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.calls, self.found = client, Counter[str](), 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            result = method(*arguments, **named)
            self.found += len(result) if name == "search_runs" else 0
            return result

        return call if callable(method) else method


def test_a_sweep_reads_each_of_its_runs_once_when_it_starts(store: Store) -> None:
    tracker = Tracker("once", store.uri)
    parent = tracker.open_sweep(sweep_info("once"))
    for seed in range(3):
        for phase in (Phase.EXPLORE, Phase.CONFIRM):
            run_id = tracker.start_run(parent, trial_info(seed=seed, phase=phase))
            for step in (0, 20, 40):
                tracker.log_point(run_id, point(step, val__loss=5.0 - step / 40))
            tracker.end_run(run_id, Outcome.COMPLETE)
    client = CountingClient(tracker.experiment.client)
    tracker.experiment.client = client  # type: ignore[assignment]
    trials = tracker.search_trials(parent, VAL_LOSS)
    assert [trial.whole for trial in trials] == [{0: 5.0, 1280: 4.5, 2560: 4.0}] * 3
    assert [trial.curve for trial in trials] == [trial.whole for trial in trials]
    assert len(tracker.confirm_results(parent)) == 3
    assert tracker.interrupted_runs(parent) == {}
    assert tracker.close_abandoned_runs(parent) == 0
    assert client.calls == {"search_runs": 4}  # no request per run or metric
    assert client.found == 6
