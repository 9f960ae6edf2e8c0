"""Differences between runs: a table of the arms' parameters, and the values for comparing any two runs on the page."""

from __future__ import annotations

import json
from typing import Final

import pandas as pd

from harness.analysis.columns import SEED, constant, parameters
from harness.analysis.evidence import Evidence
from harness.core import metrics
from harness.report.tables.table import Cell, Column, Row, Table
from harness.report.text.numbers import NOTHING, duration, number, setting, short_id

_LOSSES: Final = (metrics.TRAIN_LOSS, metrics.VAL_LOSS, metrics.TEST_LOSS)


def arm_differences(evidence: Evidence) -> Table:
    """Parameters that differ between the arms' confirm runs, with one column per arm that has a result."""
    runs, chosen = evidence.runs, evidence.shown_runs
    confirmed = runs[runs["run_id"].isin([run_id for run_id, _ in chosen.values()])].set_index("arm")
    columns = (Column("Parameter", numeric=False), *(Column(arm, numeric=False) for arm in chosen))
    rows = [
        Row((Cell(path), *(Cell(_shown(values.loc[arm])) for arm in chosen)))
        for path, values in parameters(confirmed)
        if not constant(values)
    ]
    return Table(columns, tuple(rows))


def same_everywhere(runs: pd.DataFrame) -> dict[str, str]:
    """Path → value of every parameter, except the seed, that is the same in all runs of a sweep."""
    return {path: _shown(values.iloc[0]) for path, values in parameters(runs) if constant(values)}


def run_values(runs: pd.DataFrame) -> str:
    """JSON of all values that differ between runs: `names`, and `runs` with name, arm and values as text."""
    varying = [path for path, values in parameters(runs) if not constant(values)]
    paths = [*varying, *([SEED] if SEED in runs else [])]
    losses = [name for name in _LOSSES if name in runs and runs[name].notna().any()]
    names = [*paths, "phase", "outcome", *losses, "tokens", "seconds"]
    found = []
    for row in runs.to_dict("records"):
        values = [_shown(row.get(path)) for path in paths]
        values += [str(row["phase"]), row["outcome"] if isinstance(row["outcome"], str) else "running"]
        values += [_number(row.get(name), 4) for name in losses]
        values += [_number(row.get("tokens"), 0), _time(row.get("seconds"))]
        name = f"{row['name']} · {row['phase']} · {short_id(str(row['run_id']))}"
        found.append({"name": name, "arm": str(row["arm"]), "values": values})
    return json.dumps({"names": names, "runs": found}, ensure_ascii=False, separators=(",", ":"))


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value))


def _shown(value: object) -> str:
    return NOTHING if _missing(value) else setting(value)


def _number(value: object, decimals: int) -> str:
    return NOTHING if _missing(value) else number(float(str(value)), decimals)


def _time(value: object) -> str:
    return NOTHING if _missing(value) else duration(float(str(value)))
