"""Decides whether a stored trial can be read, and names the attributes that the harness stores with Optuna.

A storage may be shared, moved and edited. A trial whose attributes or values make no sense is left out, named and
counted; a storage that Optuna itself cannot decode is a `StorageError` of one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from harness.core.outcomes import Outcome
from harness.core.text import is_key, printable, shown

# User attributes of studies and trials, in addition to Optuna's own values and intermediate values.
IDENTITY: Final = "identity"
ARM: Final = "arm"
OUTCOME: Final = "outcome"
RUN_KEY: Final = "run_key"  # the MLflow run's tag `harness.key`
RUN_ID: Final = "mlflow_run_id"
REASON: Final = "reason"
POINT: Final = "point"  # how a sampler that learns chose the point: RANDOM or MODELLED

# What Optuna raises for a value of another type or range; assertions hold for columns that it fills together.
_NO_TYPE: Final = (ValueError, TypeError, LookupError, AttributeError)
_UNDECODABLE: Final = (*_NO_TYPE, ArithmeticError, RecursionError, AssertionError)
_FIRST_YEAR: Final = 1971
_SLACK: Final = 1e-9  # samplers may round a value to just outside its range


class StorageError(ValueError):
    """Optuna's storage cannot be opened, read or written."""


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn the errors of Optuna's decoders and samplers about what a storage holds into a `StorageError`.

    Args:
        what: what Optuna does inside, for the message.
    """
    try:
        yield
    except StorageError:
        raise
    except _UNDECODABLE as error:
        why = printable(f"{type(error).__name__}: {str(error)[:200]}")
        raise StorageError(
            f"Optuna: {what} failed, because the storage holds a value that cannot be read ({why}); "
            "restore the storage from a backup, or move it away: its trials are restored from MLflow"
        ) from error


def unreadable(study: str, trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> str:
    """A sentence that names the first value of a trial that the harness cannot have stored; empty if there is none.

    Args:
        study: the name of its study.
        trial: as Optuna returns it.
        space: path → distribution of each tuned dimension.
    """
    for what, found, is_wrong in _values(trial, space):
        if is_wrong:
            return printable(f"found {shown(found)} as the {what} of the trial {trial.number} of {study} in Optuna")
    return ""


def holds(dimension: BaseDistribution, value: object) -> bool:
    """Whether a dimension of a search space has this value."""
    try:
        inside = dimension.to_internal_repr(value)
    except (ValueError, TypeError):
        return False
    if not isinstance(dimension, FloatDistribution | IntDistribution):
        return True
    low, high = float(dimension.low), float(dimension.high)
    slack = _SLACK * (abs(low) + abs(high))
    return low - slack <= inside <= high + slack


def _values(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> Iterator[tuple[str, Any, bool]]:
    """Name, value and whether it is wrong, of everything in a trial that the harness relies on."""
    attributes, state = trial.user_attrs, trial.state
    outcome, key = attributes.get(OUTCOME), attributes.get(RUN_KEY)
    yield "outcome", outcome, outcome is not None and outcome not in [str(one) for one in Outcome]
    yield "run key", key, key is not None and not is_key(key)
    for name in (REASON, POINT):
        yield name, attributes.get(name), not isinstance(attributes.get(name, ""), str)
    values = trial.values or []
    yield "value", values, len(values) > 1 or not all(map(_is_finite, values))
    yield "value", values, state is TrialState.COMPLETE and not values
    curve = trial.intermediate_values
    yield "curve", curve, not all(_is_finite(step) and step >= 0 and _is_finite(value) for step, value in curve.items())
    if state in (TrialState.COMPLETE, TrialState.PRUNED) or curve:
        for path, dimension in space.items():
            yield path, trial.params.get(path), path not in trial.params or not holds(dimension, trial.params[path])
    for when in (trial.datetime_start, trial.datetime_complete):
        yield "time", when, isinstance(when, datetime) and when.year < _FIRST_YEAR


def _is_finite(value: object) -> bool:
    """Whether it is a finite number; SQLite keeps a text in a column of numbers."""
    return isinstance(value, int | float) and math.isfinite(value)
