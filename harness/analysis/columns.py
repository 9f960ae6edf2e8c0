"""Columns of the frames that the tracking readers give, as numbers."""

from __future__ import annotations

import math

import pandas as pd


def numbers(runs: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats; NaN where it is missing, altogether or in a run."""
    if column not in runs:
        return pd.Series(math.nan, index=runs.index, dtype=float)
    return pd.to_numeric(runs[column], errors="coerce").astype(float)


def finite(runs: pd.DataFrame, column: str) -> pd.Series:
    """The finite values of a column; empty where it is missing altogether."""
    values = numbers(runs, column)
    return values[values.abs() < math.inf]
