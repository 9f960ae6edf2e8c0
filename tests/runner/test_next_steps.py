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


def test_what_is_undecided_gets_the_seeds_it_needs() -> None:
    more, pair, text = next_steps(comparison("undecided"), ["my spec.yaml", "--set", "study.seeds=2"], False)
    assert more.startswith("python -m harness.sweep 'my spec.yaml' --set study.seeds=7 ")
    assert pair.startswith("python -m harness.compare aaaaaaaaaaaa dddddddddddd ")
    assert text.startswith("python -m harness.generate aaaaaaaaaaaa --prompt")
    assert "study.seeds=2" not in next_steps(comparison("undecided"), ["x", "--set=study.seeds=2"], False)[0]


def test_no_more_seeds_where_they_are_many_or_found_out_by_the_sweep_or_not_needed() -> None:
    for found, looks in (
        (comparison("undecided", 1000.0), False),
        (comparison("undecided"), True),
        (comparison("worse"), False),
    ):
        assert not [step for step in next_steps(found, ["x"], looks) if "study.seeds" in step]
    assert next_steps(comparison(None, runs=""), ["x"], False) == []
