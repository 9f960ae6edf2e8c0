"""Turns MLflow runs and their points into pandas frames: columns, types, and where each value comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from harness.core import metrics
from harness.tracking import schema
from harness.tracking.checksums import OWN_PARAMS

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

# Columns that a frame has even without rows, with their type; None: inferred from the values.
RUN_COLUMNS: Final[Mapping[str, str | None]] = {
    "run_id": None,
    "name": None,
    "sweep": None,
    "arm": None,
    "phase": None,
    "seed": None,
    "outcome": None,
    "reason": None,
    "status": None,
    "study": None,
    "trial_number": "Int64",
    "point": None,
    "started": "datetime64[ms, UTC]",
    "seconds": "float64",
    "device": None,
    "node": None,
    "commit": None,
    "config_sha256": None,
    "data_sha256": None,
    "data_fingerprint": None,
    "versions": None,
    "non_finite": None,
    schema.PARAMETERS: None,
    schema.FLOPS_PER_TOKEN: "float64",
    "tokens": None,
    "steps": None,
    "initial_val_loss": "float64",
    "best_val_loss": "float64",
}
CURVE_COLUMNS: Final[Mapping[str, str | None]] = {
    "run_id": None,
    "arm": None,
    "phase": None,
    "seed": None,
    "outcome": None,
    "step": "int64",
    "tokens": None,
    "seconds": "float64",
    "metric": None,
    "value": "float64",
}
POSITION_COLUMNS: Final[Mapping[str, str | None]] = {
    "run_id": None,
    "arm": None,
    "phase": None,
    "seed": "int64",
    "position": "int64",
    "loss": "float64",
}

ROW_METRICS: Final = (metrics.TOKENS, metrics.VAL_LOSS, metrics.VAL_SAMPLE_LOSS)  # whose points `rows_of` needs


def rows_of(runs: Sequence[Run], points: pd.DataFrame) -> pd.DataFrame:
    """The frame of `load_runs`; `points` are at least those of `ROW_METRICS`, from `read_points`."""
    of_metric = {name: points[points["metric"] == name] for name in ROW_METRICS}
    of_metric[metrics.TOKENS] = of_metric[metrics.TOKENS].drop_duplicates(
        "run", keep="last"
    )  # the others are not needed
    found = [values_by_run(of_metric[name]) for name in ROW_METRICS]
    return frame([_row(run, *(one.get(index, {}) for one in found)) for index, run in enumerate(runs)], RUN_COLUMNS)


def values_by_run(points: pd.DataFrame) -> dict[int, dict[int, float]]:
    """Run index → step → value by ascending step, of one metric's points as `read_points` returns them."""
    values: dict[int, dict[int, float]] = {}
    for run, step, value in zip(*(points[key].tolist() for key in ("run", "step", "value")), strict=True):
        values.setdefault(run, {})[step] = value
    return values


def _row(run: Run, tokens: dict[int, float], losses: dict[int, float], sampled: dict[int, float]) -> dict[str, Any]:
    """A run's row, from its tokens and its validation losses (of the whole split, of a sample) by ascending step."""
    info, tags = run.info, run.data.tags
    params = schema.decode_params(run.data.params)
    own = {name: value for name, value in params.items() if name.startswith(OWN_PARAMS)}
    last = {name: run.data.metrics[name] for name in sorted(run.data.metrics)}
    steps = next(reversed(tokens), None)
    if sampled and losses and max(losses) < max(sampled):  # it ended early: its val/ metrics are those of step 0
        last = {name: value for name, value in last.items() if not name.startswith("val/")}
    return {
        # First what a person may have added: it can have the name of a metric, or of a column below.
        **{name: value for name, value in params.items() if name not in own and name not in last},
        **last,
        **own,
        **_run_facts(run),
        "name": info.run_name,
        "sweep": tags.get(schema.PARENT_RUN),
        "reason": tags.get(schema.REASON, ""),
        "status": info.status,
        "study": tags.get(schema.STUDY),
        "trial_number": _whole(tags.get(schema.TRIAL_NUMBER)),
        "point": tags.get(schema.POINT),
        "started": utc(info.start_time),
        "seconds": _seconds_of(run),
        "device": tags.get(schema.DEVICE),
        "node": tags.get(schema.NODE),
        "commit": tags.get(schema.COMMIT),
        "config_sha256": tags.get(schema.CONFIG_SHA256),
        "data_sha256": tags.get(schema.DATA_SHA256),
        "data_fingerprint": tags.get(schema.DATA_FINGERPRINT),
        "versions": _versions(tags),
        "non_finite": tags.get(schema.NON_FINITE, ""),
        "initial_val_loss": losses.get(0),
        "best_val_loss": min((sampled or losses).values(), default=None),
        "tokens": None if steps is None else int(tokens[steps]),
        "steps": steps,
    }


def _seconds_of(run: Run) -> float | None:
    """How long a run trained and evaluated, by its own clock; None while it runs, or if that is unknown.

    Without a clock of its own, as where a run was restored from Optuna, it took the time from its start to its end.
    """
    if run.info.status == "RUNNING":
        return None
    measured = run.data.metrics.get(metrics.SECONDS)
    if measured is not None:
        return measured
    took = ((run.info.end_time or 0) - run.info.start_time) / 1000
    return took if took > 0 else None


def _versions(tags: Mapping[str, str]) -> str:
    """`python 3.11.9, torch 2.13.0`: all versions that a run recorded."""
    return ", ".join(f"{name} {version}" for name, version in schema.versions_of(tags).items())


def split_points(blocks: Iterable[pd.DataFrame]) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The points for `rows_of` and those for `curves_of`, from `readable_blocks`."""
    import pandas as pd

    of_rows, curves = list[pd.DataFrame](), list[pd.DataFrame]()
    for points in blocks:
        of_rows.append(points[points["metric"].isin(ROW_METRICS)])
        curves.append(timed(points))
    empty = pd.DataFrame({"run": [], "metric": [], "step": [], "value": []})
    return pd.concat([part for part in of_rows if len(part)] or [empty], ignore_index=True), curves


def timed(points: pd.DataFrame) -> pd.DataFrame:
    """Every point of the curves with its tokens and seconds, which are metrics too."""
    own = points["metric"].isin([metrics.TOKENS, metrics.SECONDS])
    tokens = points[points["metric"] == metrics.TOKENS].rename(columns={"value": "tokens"})
    curves = (
        points[~own].drop(columns="timestamp").merge(tokens[["run", "step", "tokens"]], on=["run", "step"], how="left")
    )
    return curves.merge(_seconds(points), on=["run", "step"], how="left")


def facts_of(runs: Sequence[Run]) -> pd.DataFrame:
    """The tags that the frame of `load_curves` has of each run."""
    return frame([_run_facts(run) for run in runs], {})


def curves_of(facts: pd.DataFrame, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The frame of `load_curves`: the points that `timed` returns, with the facts of their runs."""
    import pandas as pd

    parts = [part for part in parts if len(part)]
    if not parts:
        return frame([], CURVE_COLUMNS)
    curves = pd.concat(parts, ignore_index=True)
    known = curves["tokens"].notna()
    if known.any():
        curves["tokens"] = curves["tokens"].astype("int64" if known.all() else "Int64")
    run = curves["run"].to_numpy()
    columns = {name: (facts[name].take(run) if name in facts else curves[name]).array for name in CURVE_COLUMNS}
    return pd.DataFrame(columns, copy=False)


def _seconds(points: pd.DataFrame) -> pd.DataFrame:
    """Seconds since a run's first point at each step, by the trainer's clock, else by MLflow's timestamps.

    Returns:
        columns run, step and seconds.
    """
    import pandas as pd

    measured = points[points["metric"] == metrics.SECONDS]
    stamped = points[(points["metric"] == metrics.TOKENS) & ~points["run"].isin(measured["run"])]
    times = pd.concat([measured["value"], stamped["timestamp"] / 1000])  # indexed as `points`
    found = points.loc[times.index, ["run", "step"]]
    return found.assign(seconds=times - times.groupby(found["run"]).transform("first"))


def _run_facts(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "run_id": run.info.run_id,
        "arm": tags.get(schema.ARM),
        "phase": tags.get(schema.PHASE),
        "seed": _whole(tags.get(schema.SEED)),
        "outcome": tags.get(schema.OUTCOME),
    }


def frame(rows: list[dict[str, Any]], columns: Mapping[str, str | None]) -> pd.DataFrame:
    """Rows as a frame: the given columns first, then others in the order in which they first occur."""
    import pandas as pd

    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    series = {name: _series([row.get(name) for row in rows], columns.get(name)) for name in names}
    return pd.DataFrame(series, columns=list(names))


def _series(values: list[Any], dtype: str | None) -> pd.Series[Any]:
    import pandas as pd

    present = [value for value in values if value is not None]
    if dtype is None and len(present) < len(values) and present and all(type(value) is int for value in present):
        dtype = "Int64"  # pandas would convert them to float
    return pd.Series(values, dtype=dtype or (None if values else "object"))


def _whole(text: str | None) -> int | None:
    return int(text) if text else None


def utc(milliseconds: int) -> datetime:
    """An MLflow time (milliseconds since 1970) as a datetime in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
