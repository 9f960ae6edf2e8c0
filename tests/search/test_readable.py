"""Whether a stored trial can be read."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from harness.search.readable import StorageError, decoding, holds, unreadable

RATE = FloatDistribution(1e-4, 1e-2, log=True)


def trial(**changes: Any) -> FrozenTrial:
    facts: dict[str, Any] = {
        "number": 3,
        "state": TrialState.COMPLETE,
        "value": 2.5,
        "datetime_start": datetime(2026, 1, 1),
        "datetime_complete": datetime(2026, 1, 2),
        "params": {"rate": 1e-3},
        "distributions": {"rate": RATE},
        "user_attrs": {"outcome": "complete", "run_key": "0a1b", "mlflow_run_id": "4f1c"},
        "system_attrs": {},
        "intermediate_values": {640: 3.0},
        "trial_id": 4,
    }
    return FrozenTrial(**{**facts, **changes})


def sentence(**changes: Any) -> str:
    return unreadable("x/arm", trial(**changes), {"rate": RATE})


def test_what_the_harness_stores_can_be_read() -> None:
    assert sentence() == ""
    for state in (TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL):
        assert (
            sentence(state=state, value=None, params={}, distributions={}, user_attrs={}, intermediate_values={}) == ""
        )


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("outcome", {"user_attrs": {"outcome": "good\x1b"}}),
        ("outcome", {"user_attrs": {"outcome": ["complete"]}}),
        ("run key", {"user_attrs": {"run_key": "../../paper"}}),
        ("run key", {"user_attrs": {"run_key": 3}}),
        ("reason", {"user_attrs": {"reason": {}}}),
        ("value", {"value": math.nan}),
        ("value", {"value": "low"}),
        ("curve", {"intermediate_values": {640: "low"}}),
        ("value", {"value": None, "values": [1.0, 2.0]}),
        ("value", {"value": None}),
        ("curve", {"intermediate_values": {640: math.inf}}),
        ("rate", {"params": {}}),
        ("rate", {"params": {"rate": 5.0}}),
        ("rate", {"params": {"rate": "x"}}),
        ("time", {"datetime_start": datetime(1, 1, 1)}),
    ],
)
def test_a_value_that_the_harness_cannot_have_stored_is_named(what: str, changes: dict[str, Any]) -> None:
    found = sentence(**changes)
    assert f" as the {what} of the trial 3 of x/arm in Optuna" in found and found.isprintable()


def test_a_dimension_holds_its_values() -> None:
    assert all(holds(RATE, value) for value in (1e-4, 1e-2, math.nextafter(1e-2, 1)))
    assert not any(holds(RATE, value) for value in (1.1e-2, None, "x", math.nan, [1e-3]))
    assert holds(IntDistribution(1, 3), 3) and not holds(IntDistribution(1, 3), 4)
    assert holds(CategoricalDistribution(["a", None]), None) and not holds(CategoricalDistribution(["a"]), "b")


def test_what_optuna_cannot_decode_is_one_sentence() -> None:
    words = (
        r"^Optuna: reading failed, because the storage holds .*KeyError: .*x1b.*; restore .* are restored from MLflow$"
    )
    with pytest.raises(StorageError, match=words), decoding("reading"):
        raise KeyError("\x1b[31m")
    with pytest.raises(RuntimeError), decoding("reading"):
        raise RuntimeError("a bug")
