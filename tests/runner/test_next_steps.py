from __future__ import annotations

import pandas as pd

from harness.runner.next_steps import next_steps


def comparison(verdict: str | None, needed: float = 7.0, runs: str = "aaaaaaaaaaaabbbb cccc") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arm": ["a", "b"],
            "verdict": [None, verdict],
            "seeds_needed": [float("nan"), needed],
            "run_ids": [runs, "dddddddddddddddd" if runs else ""],
        }
    )


def test_an_undecided_arm_gets_the_number_of_seeds_it_needs() -> None:
    more, pair, text = next_steps(comparison("undecided"), ["my spec.yaml", "--set", "study.seeds=2"], False)
    assert more.startswith("python -m harness.sweep 'my spec.yaml' --set study.seeds=7 ")
    assert pair.startswith("python -m harness.compare aaaaaaaaaaaa dddddddddddd ")
    assert text.startswith("python -m harness.generate aaaaaaaaaaaa --prompt")
    assert "study.seeds=2" not in next_steps(comparison("undecided"), ["x", "--set=study.seeds=2"], False)[0]


def test_more_seeds_are_not_suggested_if_too_many_or_adaptive_or_not_needed() -> None:
    for found, adaptive in (
        (comparison("undecided", 1000.0), False),
        (comparison("undecided", float("inf")), False),
        (comparison("undecided"), True),
        (comparison("worse"), False),
    ):
        assert not [step for step in next_steps(found, ["x"], adaptive) if "study.seeds" in step]
    assert next_steps(comparison(None, runs=""), ["x"], False) == []
