"""Finds the confirm runs that no plan asked for, such as runs that somebody added to the store.

They get the phase `unplanned`, so that they are listed but decide nothing. The plan of a sweep names its arms with
their values, the seeds, and one run of the arm's chosen configuration for each arm and seed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from harness.analysis.columns import SEED, numbers
from harness.analysis.rule import Rule
from harness.analysis.trials import option_index
from harness.config.objective import search_objective
from harness.config.spec import COPY_STRIDE
from harness.core.outcomes import Outcome, Phase

_RESULTS: Final = (Outcome.COMPLETE, Outcome.DIVERGED)

Row = Mapping[Hashable, Any]


def unplanned_runs(runs: pd.DataFrame, rule: Rule) -> dict[str, str]:
    """The confirm runs outside the plan: run id → why, as the end of a sentence. Empty if the plan is not known.

    Args:
        runs: the runs of one sweep, as `load_runs` returns them.
        rule: of the sweep.
    """
    if not rule.seeds:
        return {}
    confirmed = runs[runs["phase"] == Phase.CONFIRM]
    if "started" in confirmed:
        confirmed = confirmed.sort_values(["started", "run_id"])
    paths = [path for path in {**rule.tune, **_compared(rule)} if path in runs]
    results = [name for name in runs if str(name).startswith(("val/", "test/"))]
    names = ["run_id", "arm", "seed", "outcome", "trial_number", SEED, *paths, *results]
    rows = confirmed[list(dict.fromkeys(name for name in names if name in runs))].to_dict("records")
    comparable = [path for path in _compared(rule) if path in runs and _is_stored_as_written(runs, path, rule)]
    found = {str(row["run_id"]): why for row in rows if (why := _reason(row, rule, comparable))}
    for arm in rule.arms:
        mine = [row for row in rows if row["arm"] == arm and row["outcome"] in _RESULTS]
        mine = [row for row in mine if str(row["run_id"]) not in found]
        found |= dict(_other_values(mine, runs[runs["arm"] == arm], rule))
        found |= dict(_repeated([row for row in mine if str(row["run_id"]) not in found], results))
    return found


def set_aside(frame: pd.DataFrame, unplanned: Mapping[str, str]) -> pd.DataFrame:
    """A frame with a row or more for each run, with the phase `unplanned` for runs outside the plan."""
    if not unplanned or frame.empty:
        return frame
    outside = frame["run_id"].isin(list(unplanned))
    return frame.assign(phase=frame["phase"].astype(object).mask(outside, Phase.UNPLANNED.value))


def _compared(rule: Rule) -> dict[str, None]:
    return dict.fromkeys(path for values in rule.values.values() for path in values)


def _reason(row: Row, rule: Rule, comparable: Sequence[str]) -> str:
    """Why one run is outside the plan, whatever the others are; empty if it is not."""
    arm, seed = row["arm"], row["seed"]
    if arm not in rule.arms:
        return "the plan has no such arm"
    if pd.isna(seed) or seed not in rule.seeds:
        return "the plan does not have this seed"
    if not pd.isna(row.get("trial_number")):
        return "it has the number of a search trial"
    if row["outcome"] not in _RESULTS:  # it may have ended before its parameters were stored
        return ""
    own = row.get(SEED)
    if own is not None and not pd.isna(own) and own != seed + COPY_STRIDE * _copy(arm, rule):
        return f"it was trained with the seed {own}"
    for path in comparable:
        if path in rule.values[arm] and not _equal(row[path], rule.values[arm][path]):
            return f"its {path} is not that of the arm"
    return ""


def _copy(arm: str, rule: Rule) -> int:
    """The arms before this one with equal values, as in an A/A sweep."""
    before = rule.arms[: rule.arms.index(arm)]
    return sum(rule.values.get(other) == rule.values.get(arm) for other in before)


def _is_stored_as_written(runs: pd.DataFrame, path: str, rule: Rule) -> bool:
    """Whether runs store the value of a compared field as the spec writes it: some run of each arm has its value."""
    for arm, values in rule.values.items():
        mine = runs.loc[(runs["arm"] == arm) & runs["outcome"].isin(_RESULTS), path]
        if len(mine) and path in values and not any(_equal(value, values[path]) for value in mine):
            return False
    return True


def _equal(value: Any, written: Any) -> bool:
    plain = tuple(written) if isinstance(written, list) else written
    return option_index(value, [plain]) is not None


def _other_values(mine: Sequence[Row], runs: pd.DataFrame, rule: Rule) -> Iterator[tuple[str, str]]:
    """The results of an arm without the chosen tuned values, if they have different ones.

    Chosen are those of the best trial; if no result has them, those of the first result.
    """
    paths = [path for path in rule.tune if path in runs]
    groups = {_values(row, paths) for row in mine}
    if len(groups) < 2:
        return
    chosen = _best_values(runs, paths, rule)
    if chosen not in groups:
        chosen = _values(mine[0], paths)
    for row in mine:
        if _values(row, paths) != chosen:
            yield str(row["run_id"]), "its tuned values are not the chosen ones"


def _best_values(runs: pd.DataFrame, paths: Sequence[str], rule: Rule) -> tuple[str, ...] | None:
    """The values of an arm's best trial; of trials with one number, the first counts."""
    metric = search_objective(rule.values.values(), rule.tune).metric
    trials = runs[(runs["phase"] == Phase.EXPLORE) & (runs["outcome"] == Outcome.COMPLETE)]
    if "started" in trials:
        trials = trials.sort_values(["started", "run_id"])
    if "trial_number" in trials:
        trials = trials.drop_duplicates("trial_number")
    losses = numbers(trials, metric).to_numpy()
    if not np.isfinite(losses).any():
        return None
    best = trials.iloc[int(np.nanargmin(np.where(np.isfinite(losses), losses, np.nan)))]
    return _values(best.to_dict(), paths)


def _values(row: Row, paths: Sequence[str]) -> tuple[str, ...]:
    """Tuned values as text, in which numbers of all types agree."""
    return tuple(str(float(v)) if isinstance(v, (int, float, np.number)) else str(v) for v in map(row.get, paths))


def _repeated(mine: Sequence[Row], results: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Results of an arm and seed after the first one, unless they are equal."""
    first: dict[int, Row] = {}
    for row in mine:
        earlier = first.setdefault(int(row["seed"]), row)
        if any(not _same(row[name], earlier[name]) for name in ("outcome", *results)):
            yield str(row["run_id"]), "the seed has an earlier result"


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (bool(pd.isna(one)) and bool(pd.isna(other)))
