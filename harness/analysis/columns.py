"""Columns of the frames that the tracking readers give, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    pass


def numbers(runs: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats; NaN where it is missing, altogether or in a run."""
    if column not in runs:
        return pd.Series(math.nan, index=runs.index, dtype=float)
    return pd.to_numeric(runs[column], errors="coerce").astype(float)


def finite(runs: pd.DataFrame, column: str) -> pd.Series:
    """The finite values of a column; empty where it is missing altogether."""
    values = numbers(runs, column)
    return values[values.abs() < math.inf]


SEED: Final = "train.seed"

_SECTIONS: Final = ("data.", "model.", "train.")


def parameters(runs: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Every configured parameter but the seed, over the runs that have any (a run may fail before it knows its own)."""
    paths = [name for name in runs if str(name).startswith(_SECTIONS) and name != SEED]
    known = runs[runs[paths].notna().any(axis=1)]
    for path in paths:
        if not known.empty:
            yield path, known[path]


def constant(values: pd.Series) -> bool:
    """Whether every run has this parameter, and the same value of it."""
    return bool(values.notna().all()) and len(set(map(str, values.tolist()))) == 1


def by_seed(runs: pd.DataFrame, column: str) -> pd.Series:
    """The finite values of runs of one arm by seed."""
    values = pd.Series(numbers(runs, column).to_numpy(), index=runs["seed"].astype(int).to_numpy(), dtype=float)
    return values[np.isfinite(values)]


def compact(runs: pd.DataFrame) -> pd.DataFrame:
    """The same runs with text as plain objects: a frame of many text columns is then cut ten times as fast."""
    text = [name for name in runs if isinstance(runs[name].dtype, pd.StringDtype)]
    return runs.astype(dict.fromkeys(text, object)).copy()


def training_seeds(runs: pd.DataFrame) -> pd.Series:
    """The seed that each run was trained on: an A/A sweep's copies have another than the one they are paired by."""
    own = numbers(runs, SEED)
    return own.fillna(numbers(runs, "seed"))
