"""Sweeps over several factors with chosen numbers, as the tracking readers return them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import example_sweep as example
from harness.analysis import factors
from harness.analysis.grid import grid
from harness.config.fields import arm_name
from harness.tracking import SweepRecord

Levels = Mapping[str, Sequence[Any]]

DROP, BIAS, RATE = "model.drop_rate", "model.qkv_bias", "train.learning_rate"
SMALL: Levels = {DROP: [0.0, 0.2], BIAS: [False, True]}
WIDE: Levels = {DROP: [0.0, 0.1, 0.2], RATE: [1e-3, 3e-3, 1e-2]}
DEEP: Levels = {DROP: [0.0, 0.2], RATE: [1e-3, 3e-3, 1e-2], BIAS: [False, True]}


def record_of(levels: Levels, **changes: Any) -> SweepRecord:
    """A full grid of arms, in the order of the spec; the first level of each factor is the baseline's."""
    every = [dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())]
    first = {path: values[0] for path, values in levels.items()}
    return example.record({arm_name(values): values for values in every}, **{"baseline": arm_name(first), **changes})


def runs_of(record: SweepRecord, losses: npt.ArrayLike, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Confirm runs on the given final losses, shape (levels of the first factor, …, seeds), seeds from 2 on.

    NaN: there is no such run; infinite: it diverged.
    """
    table = np.asarray(losses, dtype=np.float64)
    rows = []
    for place, (arm, values) in enumerate(zip(record.arms, table.reshape(-1, table.shape[-1]), strict=True)):
        for turn, loss in enumerate(values):
            seed = seeds[turn] if seeds else turn + 2
            outcome = "diverged" if math.isinf(loss) else "complete"
            if not math.isnan(loss):
                number = 1000 * (place + 1) + seed
                final = loss if outcome == "complete" else math.nan
                rows.append(example.run(number, arm.name, arm.values, seed=seed, outcome=outcome, loss=final))
    return example.frame(rows)


def drawn(levels: Levels, seeds: int, seed: int, spread: float = 0.01) -> npt.NDArray[np.float64]:
    """Losses without any effect: a part per seed plus noise per run."""
    generator = np.random.default_rng(seed)
    shape = tuple(len(values) for values in levels.values())
    return generator.normal(5, 0.05, seeds) + generator.normal(0, spread, (*shape, seeds))


def marginals(
    runs: pd.DataFrame, record: SweepRecord, metric: str, delta: float, looks: Sequence[int] | None = None
) -> pd.DataFrame:
    """The effect of each factor; empty where there is no grid."""
    found = grid(runs, record, metric)
    return pd.DataFrame() if found is None else factors.marginals(found, metric, delta, looks)


def interactions(
    runs: pd.DataFrame, record: SweepRecord, metric: str, delta: float, looks: Sequence[int] | None = None
) -> pd.DataFrame:
    """The interaction of every two factors; empty where there is no grid."""
    found = grid(runs, record, metric)
    return pd.DataFrame() if found is None else factors.interactions(found, metric, delta, looks)
