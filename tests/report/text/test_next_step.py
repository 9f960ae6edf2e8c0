"""What to do next, and its cost."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

import example_sweep as example
from example_grid import DEEP, drawn, record_of, runs_of
from harness.report.text.next_step import next_step, workers_used

RATES = {f"learning_rate={rate}": {"train.learning_rate": rate} for rate in (1e-3, 1e-2, 0.1)}


def ended(*outcomes: str, **columns: Any) -> str:
    """The advice for one confirm run of each learning rate, ended like this."""
    rows = [
        example.run(place, arm, values, seed=2, outcome=outcome, loss=5.0 if outcome == "complete" else math.nan)
        for place, ((arm, values), outcome) in enumerate(zip(RATES.items(), outcomes, strict=False))
    ]
    arms = dict(list(RATES.items())[: len(outcomes)])
    return next_step(example.evidence(example.record(arms), example.frame(rows).assign(**columns)))


def test_open_arms_say_how_many_runs_would_decide_them_and_how_long_these_take() -> None:
    record = record_of(DEEP, study={"trials": 0, "seeds": 4, "delta": 0.02})
    runs = runs_of(record, drawn(DEEP, 4, 5, 0.05)).assign(seconds=900.0)
    evidence = example.evidence(record, runs)
    undecided = evidence.compared[evidence.compared["verdict"] == "undecided"]
    seeds = math.ceil(undecided["seeds_needed"].max())
    more = 12 * (seeds - 4)
    # One run after the other, each a quarter of an hour.
    apart = runs.assign(started=pd.date_range("2025-03-01", periods=48, freq="16min", tz="UTC"))
    said = next_step(example.evidence(record, apart))
    assert said.startswith(f"To decide about the {len(undecided)} open arms, study.seeds={seeds} would find")
    assert said.endswith(f"it means {more} more runs, about {more / 4:.0f} h on 1 worker.")
    together = runs.assign(
        started=pd.Timestamp("2025-03-01", tz="UTC") + pd.to_timedelta([n // 2 * 16 for n in range(48)], "min")
    )
    assert next_step(example.evidence(record, together)).endswith(f"about {more / 8:.0f} h on 2 workers.")
    assert workers_used(together) == 2


def test_a_sweep_that_still_trains_or_has_decided_asks_for_no_seeds() -> None:
    record = record_of(DEEP, study={"trials": 0, "seeds": 4, "delta": 0.02})
    runs = runs_of(record, drawn(DEEP, 4, 5, 0.05))
    runs.loc[0, "outcome"] = None
    assert next_step(example.evidence(record, runs)) == ""
    assert next_step(example.evidence(record, runs_of(record, drawn(DEEP, 4, 5, 1e-4)))) == ""


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (("diverged", "diverged"), "from 1e-3 to 0.01: try a lower learning rate, such as 1e-4,"),
        (("complete", "complete", "diverged"), "rates from 1e-3 to 0.01, and training diverged from 0.1 on:"),
        (("complete", "diverged", "complete"), "and training diverged at a learning rate of 0.01: try the lower ones"),
        (("oom", "complete"), "1 run ran out of memory: try a smaller train.batch_tokens"),
    ],
)
def test_what_to_try_where_runs_diverged_or_failed(outcomes: tuple[str, ...], said: str) -> None:
    assert said in ended(*outcomes)


def test_the_most_common_reason_of_failures_is_given() -> None:
    assert ended("failed", "failed", reason="OSError: no space left") == (
        "2 runs failed: OSError: no space left. Mend that and give the command again: it trains what is missing."
    )
    assert ended("failed", "complete", reason="OSError: no space left") == ""  # it is a warning
