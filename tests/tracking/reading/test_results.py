"""What a resumed sweep reads of its own runs."""

from __future__ import annotations

from harness.core.metrics import VAL_LOSS, VAL_PERPLEXITY
from harness.core.outcomes import Outcome, Phase
from harness.tracking import Tracker
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
