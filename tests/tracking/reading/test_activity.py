"""The digest of a sweep's activity changes whenever its report would."""

from __future__ import annotations

from typing import Any

from harness.core.outcomes import Outcome
from harness.tracking import Tracker, read_activity
from stored_runs import Store, point, sweep_info, trial_info


def test_the_activity_changes_with_what_a_report_shows(store: Store) -> None:
    tracker = Tracker("active", store.uri)
    parent = tracker.open_sweep(sweep_info("active"))
    digests = [read_activity("active", store.uri).digest]
    run = tracker.start_run(parent, trial_info())
    digests.append(read_activity("active", store.uri).digest)
    # Losses of the whole split, then of a sample, as runs with train.eval_tokens have between start and end.
    losses: list[dict[str, Any]] = [{"val__loss": 5.0}, {"val__loss": 4.0}, {"val_sample__loss": 3.5}]
    for step, loss in enumerate(losses):
        tracker.log_point(run, point(10 * step, **loss))
        tracker.flush()
        digests.append(read_activity("active", store.uri).digest)
    tracker.end_run(run, Outcome.COMPLETE)
    digests.append(read_activity("active", store.uri).digest)
    tracker.close_sweep(parent, Outcome.COMPLETE)
    digests.append(read_activity("active", store.uri).digest)
    assert len(set(digests)) == len(digests)
    assert read_activity("active", store.uri).digest == digests[-1]
