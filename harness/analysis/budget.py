"""Training budgets of the arms, and the cost of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from harness.analysis.columns import numbers
from harness.core import metrics
from harness.core.outcomes import Phase

KINDS: Final = ("tokens", "epochs", "steps", "flops", "seconds")  # a spec sets exactly one
BUDGET: Final = "train.budget."


def run_costs(chosen: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """The cost of one confirm run of each arm: means over complete ones, NaN where nothing is known.

    Args:
        chosen: as `harness.analysis.comparison.verdict_runs` returns them.
        arms: names and order of the rows.

    Returns:
        One row per arm: `arm`, `runs`; `parameters`, `steps`, `tokens`, `epochs`; `flops`, tokens times FLOPs per
        token; `seconds`, wall time; `tokens_per_second` of wall time; `training_seconds`, a budget in seconds if there
        is one; `run_ids`, separated by spaces.
    """
    rows = []
    for arm in arms:
        mine = chosen[chosen["arm"] == arm]
        tokens, seconds = numbers(mine, "tokens"), numbers(mine, "seconds")
        amounts = {
            **{name: numbers(mine, name) for name in ("parameters", "steps")},
            "tokens": tokens,
            "epochs": numbers(mine, metrics.EPOCHS),
            "flops": tokens * numbers(mine, "flops_per_token"),
            "seconds": seconds,
            "tokens_per_second": tokens / seconds.where(seconds > 0),
            "training_seconds": numbers(mine, f"{BUDGET}seconds"),
        }
        means = {name: float(values.mean()) for name, values in amounts.items()}
        rows.append({"arm": arm, "runs": len(mine), **means, "run_ids": " ".join(mine["run_id"])})
    return pd.DataFrame(rows)


def arm_costs(runs: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """The total cost of each arm, over all its runs however they ended.

    Args:
        runs: the runs of one sweep, as `load_runs` returns them.
        arms: names and order of the rows.

    Returns:
        One row per arm: `arm`; of its explore runs `explore_runs`, `explore_tokens`, `explore_seconds`; of all others
        (confirm runs, including replaced ones) `confirm_runs`, `confirm_tokens`, `confirm_seconds`; `flops` of both;
        `run_ids`, separated by spaces. A run counts with the amount at its end; NaN if no amount is known.
    """
    rows = []
    for arm in arms:
        mine = runs[runs["arm"] == arm]
        searched = mine["phase"] == Phase.EXPLORE
        row: dict[str, object] = {"arm": arm}
        for phase, part in (("explore", mine[searched]), ("confirm", mine[~searched])):
            row |= {f"{phase}_runs": len(part)}
            row |= {f"{phase}_{name}": float(numbers(part, name).sum(min_count=1)) for name in ("tokens", "seconds")}
        flops = float((numbers(mine, "tokens") * numbers(mine, "flops_per_token")).sum(min_count=1))
        rows.append({**row, "flops": flops, "run_ids": " ".join(mine["run_id"])})
    return pd.DataFrame(rows)


def budgets(chosen: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Kind of budget → arm → the budget of its confirm runs."""
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        values = numbers(chosen, BUDGET + kind)
        means = values.groupby(chosen["arm"], sort=False).mean().dropna()
        if len(means):
            found[kind] = {str(arm): float(value) for arm, value in means.items()}
    return found
