from __future__ import annotations

import example_sweep as example
from harness.report.caveats import caveats
from harness.tracking import SweepRecord

FIRST, SECOND = example.ARMS


def said(trials: dict[str, list[tuple[float, float]]], record: SweepRecord) -> list[str]:
    """The caveats of a sweep whose arms had complete trials of these learning rates and losses."""
    rows = [
        example.run(
            100 * place + number,
            arm,
            {**example.ARMS[arm], "train.learning_rate": rate},
            phase="explore",
            loss=loss,
            trial=number,
        )
        for place, (arm, pairs) in enumerate(trials.items(), 1)
        for number, (rate, loss) in enumerate(pairs)
    ]
    return caveats(record, example.frame(rows + example.confirm_runs()))


def test_an_optimum_at_the_end_of_the_range_is_named_with_its_arm_and_side() -> None:
    record = example.record(tune=example.TUNE)  # log_uniform from 3e-4 to 3e-3
    inside = [(3e-4, 5.5), (1e-3, 5.0), (3e-3, 5.2)]
    assert not any("lies at the" in line for line in said({FIRST: inside, SECOND: inside}, record))
    crowded = [(2.9e-3, 4.5), (2.8e-3, 4.6), (2.7e-3, 4.7), (1e-3, 5.0)]
    single = [(3e-4, 4.5), (1e-3, 5.0), (2e-3, 5.2), (1.5e-3, 5.4)]
    lines = [line for line in said({FIRST: crowded, SECOND: single}, record) if "lies at the" in line]
    assert lines == [
        f"{FIRST}: the best learning_rate lies at the high end of what was searched, as do most of its best trials; a "
        "better one may lie beyond, so widen the range before trusting this arm's result.",
        f"{SECOND}: the best learning_rate lies at the low end of what was searched; a better one may lie beyond, so "
        "widen the range before trusting this arm's result.",
    ]


def test_arms_that_change_places_with_the_number_of_trials_are_named() -> None:
    record = example.record(tune=example.TUNE)
    steady = [(rate, 5.0) for rate in (6e-4, 8e-4, 1e-3, 1.2e-3)]
    lucky = [(6e-4, 6.0), (8e-4, 6.0), (1e-3, 6.0), (1.2e-3, 3.0)]
    lines = said({FIRST: steady, SECOND: lucky}, record)
    assert any(f"{FIRST} and {SECOND} change places at k = 2" in line for line in lines)
    assert not any("change places" in line for line in said({FIRST: steady, SECOND: steady}, record))
