"""Columns of the data frames of runs, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd

from harness.config.mixture import MIX, is_weight
from harness.core import metrics


def numbers(runs: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats; NaN where a run has no value or the frame has no such column."""
    if column not in runs:
        return pd.Series(math.nan, index=runs.index, dtype=float)
    return pd.to_numeric(runs[column], errors="coerce").astype(float)


def finite(runs: pd.DataFrame, column: str) -> pd.Series:
    """The finite values of a column; empty if the frame has no such column."""
    values = numbers(runs, column)
    return values[values.abs() < math.inf]


SEED: Final = "train.seed"

_SECTIONS: Final = ("data.", "model.", "train.")


def parameters(runs: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Every configured parameter except the seed, over the runs that have parameters (a run may fail before it has)."""
    paths = [name for name in runs if str(name).startswith(_SECTIONS) and name != SEED]
    known = runs[runs[paths].notna().any(axis=1)]
    for path in paths:
        if not known.empty:
            yield path, known[path]


def constant(values: pd.Series) -> bool:
    """Whether every run has this parameter with the same value."""
    return bool(values.notna().all()) and len(set(map(str, values.tolist()))) == 1


def by_seed(runs: pd.DataFrame, column: str) -> pd.Series:
    """The finite values of one arm's runs, indexed by seed."""
    values = pd.Series(numbers(runs, column).to_numpy(), index=runs["seed"].astype(int).to_numpy(), dtype=float)
    return values[np.isfinite(values)]


def compact(runs: pd.DataFrame) -> pd.DataFrame:
    """A copy with string columns as objects: selecting rows of many string columns is then ten times faster."""
    text = [name for name in runs if isinstance(runs[name].dtype, pd.StringDtype)]
    return runs.astype(dict.fromkeys(text, object)).copy()


def training_seeds(runs: pd.DataFrame) -> pd.Series:
    """The seed that each run was trained with. In an A/A sweep it differs from `seed`, by which arms are paired."""
    own = numbers(runs, SEED)
    return own.fillna(numbers(runs, "seed"))


_KNOWN: Final = frozenset(value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str))
_NOT_OF_MODEL: Final = ("optim/", "perf/", "system/")  # metrics of the training and the machine, not of the model


def mix_sources(runs: pd.DataFrame) -> list[str]:
    """The sources of the runs' mixture of texts; empty without one."""
    return [str(name).removeprefix(MIX).partition(".")[0] for name in runs if is_weight(str(name))]


def other_metrics(runs: pd.DataFrame) -> list[str]:
    """Metrics of a model that `harness.core.metrics` does not name, such as `val/accuracy`, in the order of columns.

    Those of the sources of a mixture have a section of their own.
    """
    of_sources = {metrics.of_source(known, source) for source in mix_sources(runs) for known in _KNOWN}
    names = [str(name) for name in runs if "/" in str(name) and name not in _KNOWN | of_sources]
    return [name for name in names if not name.startswith(_NOT_OF_MODEL) and len(finite(runs, name))]
