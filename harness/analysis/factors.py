"""Main effects and interactions of the factors of a full grid of arms.

Every contrast is computed per seed and then tested over seeds, like the differences between arms: one number per seed,
a t interval, a paired t test. These are the contrasts of a within-subject analysis of variance with seeds as subjects
(Maxwell, Delaney and Kelley 2018, Designing Experiments and Analyzing Data, chapters 11 and 12). A contrast uses a seed
only if every arm it needs has a result with that seed, so each mean covers the same number of runs of every arm.
Diverged runs count as untrained models, as in the comparison of arms; an interaction that needs one is undecided.

The verdicts on arms against the baseline are the primary analysis of a sweep. These contrasts are secondary and have
their own Holm corrections: one over all main effects, one over all interactions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.divergence import Pairs
from harness.analysis.grid import Floats, Grid
from harness.analysis.plan import METHOD_VERSION
from harness.analysis.statistics import Interval, mean_interval
from harness.analysis.verdicts import Verdict, judge

_STATISTICS: Final = ("alpha", "p", "p_holm", "sign_flip_p", "d_z", "mde", "seeds_needed")  # of a `Judgement`
_DIFFERENCE: Final = ("difference", "difference_low", "difference_high")
_INTERACTION: Final = ("interaction_mean", "interaction_low", "interaction_high")
_NOTHING: Final = Interval(math.nan, math.nan, math.nan)
# Relative rounding error of sums that should cancel. Without it, p would test the rounding error.
_ROUNDING: Final = 1e-12


class Interaction(StrEnum):
    """The verdict on an interaction. δ is the smallest one that matters, as the spec sets it."""

    INTERACT = "interact"
    NONE = "no interaction larger than δ"
    UNDECIDED = "undecided"


_INTERACTIONS: Final = {
    Verdict.BETTER: Interaction.INTERACT,
    Verdict.WORSE: Interaction.INTERACT,
    Verdict.NO_DIFFERENCE: Interaction.NONE,
    Verdict.UNDECIDED: Interaction.UNDECIDED,
}


def main_effect(values: npt.ArrayLike, factors: int, axis: int, level: int, baseline: int) -> Floats:
    """Main effect y(level) − y(baseline) of one factor, averaged over all combinations of the other factors' levels.

    Args:
        values: shape (levels of the first factor, …, levels of the last factor, *rest), usually `rest` = (seeds,).
        factors: number of factors.
        axis: index of the factor.
        level, baseline: indices of its levels.

    Returns:
        Shape rest; NaN where any arm that it needs has NaN.
    """
    data = np.asarray(values, dtype=np.float64)
    by_level = np.moveaxis(data, axis, 0)
    return _averaged(by_level[level] - by_level[baseline], factors - 1, data)


def interaction(
    values: npt.ArrayLike, factors: int, axes: tuple[int, int], levels: tuple[int, int], baselines: tuple[int, int]
) -> Floats:
    """Interaction (y(a, b) − y(a, b₀)) − (y(a₀, b) − y(a₀, b₀)) of two factors, averaged over the levels of the others.

    It is 0 where effects are additive: changing b₀ to b then has the same effect at a as at a₀.

    Args:
        values: as for `main_effect`.
        factors: number of factors.
        axes: indices of the two factors.
        levels: indices of a and b.
        baselines: indices of a₀ and b₀.

    Returns:
        Shape rest; NaN where any arm that it needs has NaN.
    """
    data = np.asarray(values, dtype=np.float64)
    (a, b), (a0, b0) = levels, baselines
    cells = np.moveaxis(data, axes, (0, 1))
    return _averaged((cells[a, b] - cells[a, b0]) - (cells[a0, b] - cells[a0, b0]), factors - 2, data)


def _averaged(contrasts: Floats, factors: int, values: Floats) -> Floats:
    """The mean over the first `factors` axes; 0 where it is within rounding error."""
    means: Floats = np.asarray(contrasts.mean(axis=tuple(range(factors))))
    largest = np.nanmax(np.abs(values), initial=0.0)
    return np.where(np.abs(means) <= _ROUNDING * largest, 0.0, means)


def pair_means(found: Grid, axes: tuple[int, int]) -> Floats:
    """The values by the levels of two factors, averaged over the others; shape (levels, levels, seeds)."""
    cells = np.moveaxis(found.values, axes, (0, 1))
    return np.asarray(cells.mean(axis=tuple(range(2, cells.ndim - 1))))


def marginals(
    found: Grid, metric: str, delta: float, looks: Sequence[int] | None = None, method: str = METHOD_VERSION
) -> pd.DataFrame:
    """Main effects: compare the levels of each factor, averaged over all combinations of the other factors' levels.

    Args:
        found: the grid of the sweep.
        metric: the metric of its values; lower is better.
        delta: the smallest difference that matters, in the unit of the metric; NaN where there is none.
        looks, method: as for `harness.analysis.comparison.compare`.

    Returns:
        One row per factor and level, in the order of the spec. `factor`, its path; `word`, `level` and `name`: factor,
        level and both as in the labels of arms; `is_baseline`; `metric`;
        `arms`, the number of arms averaged over. `seeds` with which all these arms are complete; `mean`, `low`, `high`
        of their averages (95 % t interval). `pairs`, the seeds with which the arms of the baseline's level are complete
        as well (up to the deciding look); `difference`, `difference_low`, `difference_high`, level minus baseline's
        level over these seeds; `alpha`, `p`, `p_holm` (over all such differences of all factors), `sign_flip_p`,
        `d_z`, `mde`, `seeds_needed`, `verdict` as in `harness.analysis.verdicts.Judgement`, NaN for the baseline's
        level; `delta`; `run_ids` of the arms averaged over, separated by spaces.
    """
    factors = len(found.levels)
    asked = [(axis, level) for axis in range(factors) for level in found.others(axis)]
    differences = [
        Pairs(
            main_effect(found.values, factors, axis, level, found.baseline[axis]),
            _any_diverged(found, axis, level),
            _any_diverged(found, axis, found.baseline[axis]),
        )
        for axis, level in asked
    ]
    judged = dict(zip(asked, judge(differences, delta, looks=looks, method=method), strict=True))
    rows: list[dict[str, Any]] = []
    for axis, (path, levels) in enumerate(found.levels.items()):
        for level in range(len(levels)):
            means = np.moveaxis(found.values, axis, 0)[level].mean(axis=tuple(range(factors - 1)))
            known = np.flatnonzero(~np.isnan(means))
            judgement = judged.get((axis, level))
            rows.append(
                {
                    "factor": path,
                    "word": found.word(axis),
                    "level": found.text(axis, level),
                    "name": found.name(axis, level),
                    "is_baseline": judgement is None,
                    "metric": metric,
                    "arms": found.arms.size // len(levels),
                    "seeds": len(known),
                    **mean_interval(means[known]).as_columns("mean", "low", "high"),
                    "pairs": judgement.pairs if judgement else 0,
                    **(judgement.interval if judgement else _NOTHING).as_columns(*_DIFFERENCE),
                    **{name: getattr(judgement, name) if judgement else math.nan for name in _STATISTICS},
                    "verdict": str(judgement.verdict) if judgement else math.nan,
                    "delta": delta,
                    "run_ids": " ".join(np.moveaxis(found.run_ids, axis, 0)[level][..., known].ravel()),
                }
            )
    return pd.DataFrame(rows)


def _any_diverged(found: Grid, axis: int, level: int) -> npt.NDArray[np.bool_]:
    """Whether any arm at a level diverged, shape (seeds,)."""
    arms = np.moveaxis(found.diverged, axis, 0)[level]
    return np.asarray(arms.any(axis=tuple(range(arms.ndim - 1))))


def interactions(
    found: Grid, metric: str, delta: float, looks: Sequence[int] | None = None, method: str = METHOD_VERSION
) -> pd.DataFrame:
    """Test every pair of factors for an interaction: does the effect of one depend on the other?

    Args:
        found, metric, delta, looks, method: as for `marginals`.

    Returns:
        One row per pair of factors and per pair of their levels other than the baseline's.
        `factor`, `word`, `level`, `baseline_level` and `name`, `baseline_name` (as in the labels
        of arms); the same for the second factor with the prefix `other_`; `metric`. `seeds` with which all needed arms
        are complete (up to the deciding look). `effect_at_baseline` and `effect_at_level`: the effect of `level`
        against `baseline_level` where the other factor is at its baseline's level and where it is at `other_level`;
        means over these seeds and over the levels of all further factors. `interaction_mean`, `interaction_low`,
        `interaction_high`: the second effect minus the first, with its 95 % t interval over seeds; it is symmetric in
        the two factors. `alpha`, `p`, `p_holm` (over all rows), `sign_flip_p`, `d_z`, `mde`, `seeds_needed` as in
        `harness.analysis.verdicts.Judgement`; `verdict`, an `Interaction`; `delta`; `run_ids` of all runs used.
    """
    factors = len(found.levels)
    asked = [
        ((i, j), (a, b))
        for i, j in itertools.combinations(range(factors), 2)
        for a, b in itertools.product(found.others(i), found.others(j))
    ]
    contrasts, trained = [], found.trained.values
    for (i, j), levels in asked:
        baselines = found.baseline[i], found.baseline[j]
        lost = _any_diverged(found, i, levels[0]) | _any_diverged(found, i, baselines[0])
        contrasts.append(Pairs(interaction(trained, factors, (i, j), levels, baselines), lost, lost))
    judged = judge(contrasts, delta, looks=looks, method=method)
    return pd.DataFrame(
        [
            {
                **_sides(found, axes, levels),
                "metric": metric,
                "seeds": judgement.pairs,
                **_simple_effects(found.trained, axes, levels, used := contrast.seeds[: judgement.pairs]),
                **judgement.interval.as_columns(*_INTERACTION),
                **{name: getattr(judgement, name) for name in _STATISTICS},
                "verdict": str(_INTERACTIONS[judgement.verdict]),
                "delta": delta,
                "run_ids": _corners(found, axes, levels, used),
            }
            for (axes, levels), contrast, judgement in zip(asked, contrasts, judged, strict=True)
        ]
    )


def _sides(found: Grid, axes: tuple[int, int], levels: tuple[int, int]) -> dict[str, str]:
    """The columns that name the two factors of a row and their levels."""
    paths = list(found.levels)
    row: dict[str, str] = {}
    for prefix, axis, level in zip(("", "other_"), axes, levels, strict=True):
        base = found.baseline[axis]
        row |= {
            f"{prefix}factor": paths[axis],
            f"{prefix}word": found.word(axis),
            f"{prefix}level": found.text(axis, level),
            f"{prefix}baseline_level": found.text(axis, base),
            f"{prefix}name": found.name(axis, level),
            f"{prefix}baseline_name": found.name(axis, base),
        }
    return row


def _simple_effects(
    found: Grid, axes: tuple[int, int], levels: tuple[int, int], used: npt.NDArray[np.intp]
) -> dict[str, float]:
    """The effect of the first factor's level at each of the two levels of the second factor."""
    means = pair_means(found, axes)[..., used]
    (a, b), (a0, b0) = levels, (found.baseline[axes[0]], found.baseline[axes[1]])
    return {
        "effect_at_baseline": mean_interval(means[a, b0] - means[a0, b0]).mean,
        "effect_at_level": mean_interval(means[a, b] - means[a0, b]).mean,
    }


def _corners(found: Grid, axes: tuple[int, int], levels: tuple[int, int], used: npt.NDArray[np.intp]) -> str:
    """Ids of the runs at the four corners of an interaction, over all levels of the other factors."""
    runs = np.moveaxis(found.run_ids, axes, (0, 1))[..., used]
    ends = [(found.baseline[axis], level) for axis, level in zip(axes, levels, strict=True)]
    return " ".join(str(one) for a, b in itertools.product(*ends) for one in runs[a, b].ravel())


@dataclass(frozen=True)
class FactorEffects:
    """Main effects and interactions of a grid.

    Attributes:
        grid: the final values.
        levels: as `marginals` returns them.
        interactions: as `interactions` returns them.
    """

    grid: Grid
    levels: pd.DataFrame
    interactions: pd.DataFrame
