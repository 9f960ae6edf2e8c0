"""Diverged confirm runs count as the worst result of their arm: as an untrained model.

The loss of an untrained model is the run's own loss before its first step, as in the search, but at least the highest
final loss of the other arms' runs with its seed. It is known for the metrics of the validation split that an untrained
model has: loss, bits per byte, common-context loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.columns import finite, numbers
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase

DIVERGED: Final = "diverged"  # column of `counted_runs`: whether a run diverged
_UNTRAINED: Final = (metrics.VAL_LOSS, metrics.VAL_COMMON_LOSS, metrics.VAL_BITS_PER_BYTE)


@dataclass(frozen=True)
class Pairs:
    """The paired differences of one arm, arm minus baseline, in the order of the seeds.

    Attributes:
        values: shape (seeds,), lower is better; NaN for a seed that only one of the two has. A diverged run counts as
            an untrained model; a pair of two diverged runs is 0.
        arm_diverged, baseline_diverged: shape (seeds,), whether the run of that seed diverged.
    """

    values: npt.NDArray[np.float64]
    arm_diverged: npt.NDArray[np.bool_]
    baseline_diverged: npt.NDArray[np.bool_]

    @property
    def seeds(self) -> npt.NDArray[np.intp]:
        """The indices of the seeds that have a value."""
        return np.flatnonzero(~np.isnan(self.values))

    def trained(self, n: int) -> npt.NDArray[np.float64]:
        """The values of the first `n` seeds without missing ones and without pairs in which a run diverged."""
        used = ~(np.isnan(self.values[:n]) | self.arm_diverged[:n] | self.baseline_diverged[:n])
        return self.values[:n][used]

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Pairs:
        """Differences of complete runs."""
        data = np.asarray(values, dtype=np.float64)
        none = np.zeros(data.shape, dtype=bool)
        return cls(data, none, none)


def pairs_of(arm: pd.DataFrame, baseline: pd.DataFrame, metric: str, seeds: Sequence[int]) -> Pairs:
    """The paired differences of an arm.

    Args:
        arm, baseline: their runs, as `counted_runs` returns them, with the seed as index.
        metric: a metric of the validation split.
        seeds: all confirm seeds, in the order of the looks.
    """
    ours, theirs = (_flags(runs, seeds) for runs in (arm, baseline))
    values = (finite(arm, metric).reindex(seeds) - finite(baseline, metric).reindex(seeds)).to_numpy(float)
    return Pairs(np.where(ours & theirs, 0.0, values), ours, theirs)


def _flags(runs: pd.DataFrame, seeds: Sequence[int]) -> npt.NDArray[np.bool_]:
    return np.isin(np.asarray(seeds, dtype=int), runs.index[runs[DIVERGED].to_numpy(bool)].to_numpy(dtype=int))


def counted_runs(runs: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """The complete confirm runs, and the diverged ones with the losses of an untrained model.

    Args:
        runs: the runs of one sweep, as `load_runs` returns them.
        chosen: its complete ones, as `harness.analysis.comparison.verdict_runs` returns them.

    Returns:
        The rows of `chosen` and one row for each arm and seed of which only diverged runs exist, with a column
        `diverged`. A diverged row has `arm`, `seed`, `run_id` and metrics of an untrained model, NaN where unknown.
    """
    lost = runs[(runs["phase"] == Phase.CONFIRM) & (runs["outcome"] == Outcome.DIVERGED)]
    if "started" in lost:
        lost = lost.sort_values(["started", "run_id"])
    lost = lost.drop_duplicates(["arm", "seed"], keep="last")
    have = set(zip(chosen["arm"], chosen["seed"], strict=True))
    lost = lost[[key not in have for key in zip(lost["arm"], lost["seed"], strict=True)]]
    complete = chosen.assign(**{DIVERGED: False})
    if lost.empty:
        return complete
    untrained = {metric: _untrained(runs, lost, chosen, metric) for metric in _UNTRAINED if metric in runs}
    rows = lost[["arm", "seed", "run_id"]].assign(**untrained, **{DIVERGED: True})
    both = pd.concat([complete, rows], ignore_index=True) if len(complete) else rows
    return both.sort_values(["arm", "seed"], ignore_index=True)


def _untrained(runs: pd.DataFrame, lost: pd.DataFrame, chosen: pd.DataFrame, metric: str) -> pd.Series:
    start = numbers(lost, "initial_val_loss")
    if metric == metrics.VAL_BITS_PER_BYTE:
        own = _bits_per_nat(lost)  # a search may have tried other tokens in the same arm
        arms = _bits_per_nat(runs).groupby(runs["arm"]).median()
        start = start * own.fillna(lost["arm"].map(arms).astype(float))
    highest = finite(chosen, metric).groupby(chosen["seed"]).max()
    partner = lost["seed"].map(highest).astype(float)
    return start.where(~(partner > start), partner).where(start.notna(), math.nan)


def _bits_per_nat(runs: pd.DataFrame) -> pd.Series:
    """The bits per byte of each run for each nat per token: a constant of its tokenizer and text; NaN if unknown."""
    rate = numbers(runs, metrics.VAL_BITS_PER_BYTE) / numbers(runs, metrics.VAL_LOSS)
    return rate.where(np.isfinite(rate))
