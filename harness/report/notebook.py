"""Sweeps in a notebook: frames that display as short tables, one value per arm and seed, the best configuration."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from contextlib import suppress

import pandas as pd

from harness import tracking
from harness.analysis import comparison
from harness.analysis.columns import constant, parameters
from harness.analysis.comparison import verdict_runs
from harness.analysis.plan import METHOD_VERSION
from harness.analysis.planned import set_aside, unplanned_runs
from harness.analysis.rule import attach_rules, attached_rule, rule_of
from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.text import listed
from harness.report.page.notebook_table import html_table
from harness.report.tables.comparison import answer_table
from harness.report.tables.runs import trials_table
from harness.report.text.names import unplanned_named
from harness.report.text.provenance import several_sweeps
from harness.tracking.reading.stored_run import load_stored_run

logger = logging.getLogger(__name__)


class RunsFrame(pd.DataFrame):  # type: ignore[misc]
    """The frame of `load_runs`. A notebook displays its table of runs with only the parameters that vary."""

    def _repr_html_(self) -> str:
        varying = [path for path, values in parameters(self) if not constant(values)]
        return html_table(trials_table(self, varying))


def load_runs(experiment: str | Sequence[str], uri: str | None = None, sweep: str | None = None) -> RunsFrame:
    """One row per trial of a sweep, oldest first; columns and arguments are those of `harness.tracking.load_runs`.

    The frame also has the sweep's rule for verdicts in its `attrs`, where `compare` finds it. Of several sweeps, the
    runs follow each other, and arms are named `sweep: arm`; no plan says how these are compared, so `compare` gives
    their means, and differences only to a baseline that is named.
    """
    if isinstance(experiment, str):
        return _load_sweep(experiment, uri, sweep)
    names = list(experiment)
    if sweep is not None or len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"experiment: found {names!r}; allowed: a name, or several different ones without a sweep")
    frames = [_load_sweep(name, uri) for name in names]
    together = " + ".join(names)  # one group for `compare`, which refuses runs of other texts itself
    named = [
        runs.assign(arm=f"{name}: " + runs["arm"].astype(str), sweep=together)
        for name, runs in zip(names, frames, strict=True)
    ]
    for runs in named:
        runs.attrs = {}  # the rules of the single sweeps, which name their arms otherwise
    return RunsFrame(pd.concat(named, ignore_index=True))


def _load_sweep(experiment: str, uri: str | None = None, sweep: str | None = None) -> RunsFrame:
    runs = RunsFrame(tracking.load_runs(experiment, uri, sweep))
    rules = {}
    for parent in runs["sweep"].dropna().unique():
        with suppress(tracking.TrackingError):  # its description was never stored
            record = tracking.load_sweep(experiment, uri, sweep if sweep is None else parent)
            rules[parent] = rule_of(record)
            for note in several_sweeps(record):
                logger.warning(note)
    for parent, rule in rules.items():
        if outside := unplanned_runs(runs[runs["sweep"] == parent], rule):
            logger.warning(unplanned_named(runs, outside))
            runs = RunsFrame(set_aside(runs, outside))
    attach_rules(runs, rules)
    return runs


def pivot(
    runs: pd.DataFrame, values: str = metrics.VAL_LOSS, index: str | list[str] = "arm", columns: str = "seed"
) -> pd.DataFrame:
    """One value of the runs behind the verdicts as a wide table, by default with a row per arm and a column per seed.

    Args:
        runs: as `load_runs` returns them. Uses the newest complete confirm run of each arm and seed; if there is none,
            every complete run.
        values: the column that fills the table, such as `val/loss`, `test/loss` or `seconds`.
        index: the column or columns whose values are the rows, in order of appearance.
        columns: the column whose values are the columns, sorted.

    Returns:
        A frame of floats: the mean if several runs share a cell, NaN if there is none.

    Raises:
        ValueError: the runs do not have such a column.
    """
    rows = [index] if isinstance(index, str) else list(index)
    for wanted in (values, *rows, columns):
        if wanted not in runs:
            near = difflib.get_close_matches(wanted, map(str, runs), 3, 0.4)
            raise ValueError(
                f"found the column {wanted!r}; allowed: a column of the runs, such as {listed(near or ['arm'])}"
            )
    chosen = verdict_runs(runs)
    if chosen.empty:
        chosen = runs[runs["outcome"] == "complete"]
    numbers = pd.to_numeric(chosen[values], errors="coerce").astype(float)
    order = runs[rows].drop_duplicates()
    keys = pd.MultiIndex.from_frame(order) if len(rows) > 1 else pd.Index(order[rows[0]], name=rows[0])
    table = chosen.assign(**{values: numbers}).pivot_table(values=values, index=rows, columns=columns, aggfunc="mean")
    return table.reindex(keys[keys.isin(table.index)])


class ComparisonFrame(pd.DataFrame):  # type: ignore[misc]
    """The frame of `compare`. A notebook displays its short table with intervals instead of all columns."""

    def _repr_html_(self) -> str:
        return html_table(answer_table(self))


def compare(
    runs: pd.DataFrame,
    baseline: str | None = None,
    metric: str | None = None,
    arms: Sequence[str] | None = None,
    delta: float | None = None,
    looks: Sequence[int] | None = None,
    method: str | None = None,
) -> ComparisonFrame:
    """Compare the arms of one sweep, with the same result as its report.

    Args:
        runs: from `load_runs`, or some of its rows. They bring the sweep's own values of the other arguments.
        baseline, metric, arms, delta, looks, method: instead of these; see `harness.analysis.comparison.compare`.
            Runs from elsewhere, such as a CSV file, have nothing of their own: the defaults are then no baseline,
            `val/loss`, the arms in `runs`, the default of `study.delta`, one look and the newest method.

    Returns:
        One row per arm; the columns are those of `harness.analysis.comparison.compare`.

    Raises:
        ValueError: as `harness.analysis.comparison.compare`.
    """
    if rule := attached_rule(runs):
        basis = comparison.comparability(runs, tune=rule.tune)
        metric = basis.metric if metric is None else metric
        arms = rule.arms if arms is None else arms
        if baseline is None and basis.ranked and len(arms) > 1:
            baseline = rule.baseline
        delta = rule.delta if delta is None else delta
        looks = rule.looks if looks is None else looks
        method = rule.method if method is None else method
    metric = metrics.VAL_LOSS if metric is None else metric
    return ComparisonFrame(comparison.compare(runs, baseline, metric, arms, delta, looks, method or METHOD_VERSION))


def best_config(experiment: str, uri: str | None = None, sweep: str | None = None) -> RunConfig:
    """The configuration of a sweep's best arm, with what its search found; `.to_yaml()` makes it a spec to run.

    Best is the lowest mean of the metric that the sweep compares, over the confirm runs of arms without a diverged
    run. A sweep without confirm runs: the complete trial with the lowest value.

    Args:
        experiment, uri, sweep: as for `load_runs`.

    Raises:
        TrackingError: no such store or sweep, or a run whose parameters were changed.
        ValueError: the sweep has no complete run, or its arms cannot be compared.
    """
    runs = _load_sweep(experiment, uri, sweep)
    rule = attached_rule(runs)
    basis = comparison.comparability(runs, tune=rule.tune if rule else {})
    if not basis.ranked:
        raise ValueError(f"experiment: found {experiment!r}. {basis.reason}")
    chosen = verdict_runs(runs)
    if chosen.empty:
        chosen = runs[runs["outcome"] == "complete"].dropna(subset=[basis.metric])
        chosen = chosen.nsmallest(1, basis.metric)
    else:
        means = compare(runs).query("seeds > 0 and diverged == 0").sort_values("mean")
        chosen = chosen[chosen["arm"].isin(means["arm"][:1])]
    if chosen.empty:
        raise ValueError(f"experiment: found {experiment!r} without a complete run; allowed: a sweep that has one")
    return load_stored_run(str(chosen["run_id"].iloc[0]), uri).config
