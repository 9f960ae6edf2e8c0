"""Warnings about the search inside each arm: its trials, its space, and the configuration chosen from it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from harness.analysis.columns import constant, numbers
from harness.analysis.evidence import Evidence
from harness.analysis.search_quality import edges, nearest_diverged, place
from harness.config.fields import short_name
from harness.core.outcomes import Outcome
from harness.core.text import listed, plural
from harness.report.text.names import named, seeds_named, values_named
from harness.report.text.numbers import number, rounded, setting
from harness.report.warnings.kinds import Detector, ReportWarning, WarningKind

MANY_DIVERGED: Final = 0.25  # share of an arm's trials


def _of_a_search(detector: Detector) -> Detector:
    """A decorator: the detector runs only for sweeps in which something was tuned."""

    @functools.wraps(detector)
    def detect(sweep: Evidence) -> Iterator[ReportWarning]:
        return detector(sweep) if sweep.record.tune else iter(())

    return detect


def _test_read(sweep: Evidence) -> Iterator[ReportWarning]:
    columns = [name for name in sweep.explored if str(name).startswith("test/")]
    readers = sweep.explored[sweep.explored[columns].notna().any(axis=1)]
    if len(readers):
        yield ReportWarning(
            WarningKind.TEST_READ,
            f"{plural(len(readers), 'explore trial')} of {_arms(readers)} read the test split during the search. Test "
            "losses are then no longer of unseen text: confirm on another split.",
        )


def _sizes(sweep: Evidence, trials: pd.DataFrame) -> dict[str, int]:
    sizes = trials["arm"].value_counts()
    return {arm: int(sizes.get(arm, 0)) for arm in sweep.arms}


@_of_a_search
def _unequal(sweep: Evidence) -> Iterator[ReportWarning]:
    searched = _sizes(sweep, sweep.searched)
    complete = _sizes(sweep, sweep.complete_trials)
    asked = int(sweep.record.study.get("trials") or 0)
    if 0 < max(searched.values()) < asked:
        yield ReportWarning(
            WarningKind.SEARCH_UNFINISHED,
            f"The spec asks for {plural(asked, 'explore trial')} per arm; fewer are finished ({_shown(searched)}). The "
            "search may have missed better configurations: run the command again to continue it.",
        )
    if len(set(searched.values())) > 1:
        yield ReportWarning(
            WarningKind.UNEQUAL_TRIALS,
            f"The arms had unequal numbers of explore trials ({_shown(searched)}): more trials find a better "
            "configuration by luck. Finish the search of every arm before trusting the comparison.",
        )
    elif len(set(complete.values())) > 1:
        yield ReportWarning(
            WarningKind.UNEQUAL_COMPLETE,
            f"Arms had equal numbers of explore trials, but unequal numbers are complete ({_shown(complete)}).",
        )


@_of_a_search
def _few(sweep: Evidence) -> Iterator[ReportWarning]:
    """Fewer trials than the best one and one on each side of it in every dimension."""
    record = sweep.record
    needed = 1 + sum(_sides(dimension) for dimension in record.tune.values())
    options = [values for dimension in record.tune.values() for kind, values in dimension.items() if kind == "choice"]
    points = math.prod(len(values) for values in options) if len(options) == len(record.tune) else math.inf
    sizes = _sizes(sweep, sweep.searched)
    tried = {arm: _distinct(sweep, sweep.searched[sweep.searched["arm"] == arm]) for arm in sizes}
    few = {arm: size for arm, size in tried.items() if size < min(needed, points)}
    if few:
        dimensions = plural(len(record.tune), "tuned dimension")
        yield ReportWarning(
            WarningKind.FEW_TRIALS,
            f"For {dimensions} there were too few different explore trials ({_shown(few)}): {needed} is the fewest for "
            "the best trial and one on each side of it in every dimension. Raise study.trials, or tune less.",
        )
        return
    blind = [arm for arm, count in sweep.unmodelled.items() if 0 < len(sweep.trials[arm].run_ids) <= count]
    if blind and max(tried.values()) < points:
        yield ReportWarning(
            WarningKind.RANDOM_SEARCH,
            f"The search of {named(blind)} was random: {str(record.study['sampler']).upper()} used no result of an "
            "earlier trial. Raise study.trials, or lower study.startup_trials.",
        )


def _sides(dimension: Mapping[str, Sequence[Any]]) -> int:
    """Trials needed around the best one in a dimension: one on each side, or one per other option."""
    ((kind, values),) = dimension.items()
    return len(values) - 1 if kind == "choice" and place(values[0], dimension) is None else 2


def _distinct(sweep: Evidence, trials: pd.DataFrame) -> int:
    """The number of different configurations that were tried."""
    if len(sweep.tuned) < len(sweep.record.tune):  # a preset has no column
        return len(trials)
    return len(trials[sweep.tuned].astype("string").drop_duplicates())


@_of_a_search
def _mostly_pruned(sweep: Evidence) -> Iterator[ReportWarning]:
    searched, complete = _sizes(sweep, sweep.searched), _sizes(sweep, sweep.complete_trials)
    pruned = _sizes(sweep, sweep.explored[sweep.explored["outcome"] == Outcome.PRUNED])
    mostly = {arm: size for arm, size in pruned.items() if 2 * size > searched[arm]}
    uneven = [arm for arm in mostly if 2 * complete[arm] <= max(complete.values())]
    if uneven:
        shown = listed(f"{arm} ({mostly[arm]} of {searched[arm]})" for arm in uneven)
        yield ReportWarning(
            WarningKind.MOSTLY_PRUNED,
            f"Most explore trials were pruned in {shown}, and far fewer in other arms: the configuration was chosen "
            "from fewer results, by losses early in training. Search again without a pruner.",
        )
    elif mostly:
        yield ReportWarning(
            WarningKind.PRUNED_EVERYWHERE,
            f"Most explore trials were pruned in {named(list(mostly))}: configurations that start slowly may have been "
            "stopped too early.",
        )


@_of_a_search
def _other_seeds(sweep: Evidence) -> Iterator[ReportWarning]:
    seeds = sorted(numbers(sweep.searched, "seed").dropna().unique())
    if len(seeds) > 1:
        yield ReportWarning(
            WarningKind.SEARCH_SEEDS,
            f"Explore trials ran on {len(seeds)} {seeds_named(seeds)}: a trial may be the best because of its seed and "
            "not its values. Search every arm on one seed.",
        )


@_of_a_search
def _outside(sweep: Evidence) -> Iterator[ReportWarning]:
    for path in sweep.tuned:
        ((kind, values),) = sweep.record.tune[path].items()
        trials = sweep.searched[sweep.searched[path].notna()]
        strays = _where(trials, [not _inside(value, kind, values) for value in trials[path]])
        if len(strays):
            found = named(sorted({setting(value) for value in strays[path]}))
            yield ReportWarning(
                WarningKind.OUTSIDE_SPACE,
                f"{plural(len(strays), 'explore trial')} of {_arms(strays)} had a {short_name(path)} of {found}, "
                f"outside the search space ({kind} {listed(setting(value) for value in values)}): arms were not "
                "searched in the space of the spec. Search them again in one space.",
            )


def _inside(value: Any, kind: str, values: Sequence[Any]) -> bool:
    if kind == "choice":
        return any(value == (tuple(option) if isinstance(option, list) else option) for option in values)
    low, high = values
    return bool(low * (1 - 1e-9) <= value <= high * (1 + 1e-9)) if low >= 0 else bool(low <= value <= high)


def _rows(sweep: Evidence, trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Tuned values of trials, path → value."""
    columns = [trials[path].tolist() for path in sweep.tuned]
    rows = zip(*columns, strict=True) if columns else [()] * len(trials)
    return [dict(zip(sweep.tuned, row, strict=True)) for row in rows]


def _in_space(sweep: Evidence, trials: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The trials of one arm that lie in the search space."""
    mine = trials[trials["arm"] == arm]
    space = {path: next(iter(sweep.record.tune[path].items())) for path in sweep.tuned}
    inside = [
        all(not _missing(row[path]) and _inside(row[path], *space[path]) for path in space)
        for row in _rows(sweep, mine)
    ]
    return _where(mine, inside)


@_of_a_search
def _at_an_edge(sweep: Evidence) -> Iterator[ReportWarning]:
    space = {path: sweep.record.tune[path] for path in sweep.tuned}
    for arm in sweep.arms:
        trials = _in_space(sweep, sweep.complete_trials, arm)
        rows, losses = _rows(sweep, trials), numbers(trials, sweep.metric).to_numpy()
        for edge in edges(rows, losses, space):
            ((kind, values),) = space[edge.path].items()
            if edge.side == "low" and min(values) == 0:  # the range cannot be extended: no setting is negative
                continue
            strong = edge.strong or kind == "choice"  # an option is not at the end of a range by chance
            best = setting(rows[int(losses.argmin())][edge.path])
            crowd = ", as do most of its best trials" if edge.strong else ""
            yield ReportWarning(
                WarningKind.EDGE if strong else WarningKind.NEAR_EDGE,
                f"{arm}: the best {short_name(edge.path)} ({best}) lies at the {edge.side} end of the search "
                f"range{crowd}; a better one may lie outside, so widen the range before trusting this arm's result.",
            )


@_of_a_search
def _diverged(sweep: Evidence) -> Iterator[ReportWarning]:
    searched = _sizes(sweep, sweep.searched)
    failed = sweep.searched[sweep.searched["outcome"] == Outcome.DIVERGED]
    sizes = _sizes(sweep, failed)
    many = [arm for arm, size in sizes.items() if size and size >= MANY_DIVERGED * searched[arm]]
    if many:
        shown = listed(f"{sizes[arm]} of {searched[arm]} in {arm}" for arm in many)
        yield ReportWarning(
            WarningKind.DIVERGED_TRIALS,
            f"Many explore trials diverged ({shown}): the configuration was chosen from the rest, and much of the "
            "range cannot be trained. Narrow the range, or use a longer warmup, and search again.",
        )
    space = {path: sweep.record.tune[path] for path in sweep.tuned}
    beside = []
    for arm in sweep.arms:
        trials, lost = _in_space(sweep, sweep.complete_trials, arm), _in_space(sweep, failed, arm)
        losses = numbers(trials, sweep.metric).to_numpy()
        near = nearest_diverged(_rows(sweep, trials), losses, _rows(sweep, lost), space) if space else None
        if near is not None and near.is_near:
            best = _rows(sweep, trials)[int(losses.argmin())]
            beside.append(f"{arm} ({values_named(best)})")
    if beside:
        yield ReportWarning(
            WarningKind.BESIDE_DIVERGED,
            f"The best trial lies next to diverged ones in {named(beside)}: with another seed or a longer run it may "
            "diverge too. Prefer a configuration farther away, or stabilise the training.",
        )


@_of_a_search
def _order_flips(sweep: Evidence) -> Iterator[ReportWarning]:
    """Arms whose order depends on the number of trials; it matters if it changed in the second half of the search."""
    lines, delta = sweep.expected_best_complete, sweep.delta
    late: list[str] = []
    early: list[str] = []
    for first, second, count in sweep.complete_crossings:
        n = min(len(lines[first]), len(lines[second]))
        gaps = lines[first][:n] - lines[second][:n]
        half, end = gaps[(n - 1) // 2], gaps[-1]
        settled = half * end >= 0 or min(abs(half), abs(end)) < delta
        (early if settled else late).append(f"{first} and {second} change places at k = {count}")
    words = "By the expected best of k explore trials, "
    if late:
        yield ReportWarning(
            WarningKind.ORDER_FLIPS,
            f"{words}{named(late)}, by more than {rounded(delta)} either way and in the second half of the "
            "search: the better arm depends on the number of trials. Search longer before comparing.",
        )
    if early:
        which = "the better arm depends on the number of trials"
        yield ReportWarning(WarningKind.EARLY_ORDER_FLIPS, f"{words}{named(early)}: {which}.")


@_of_a_search
def _chosen(sweep: Evidence) -> Iterator[ReportWarning]:
    """Whether the confirmed configuration is the best of the tried ones."""
    for arm, runs in sweep.verdict_runs_of.items():
        if runs.empty or not sweep.tuned:
            continue
        if not all(constant(runs[path]) or runs[path].isna().all() for path in sweep.tuned):
            groups = runs.groupby(runs[sweep.tuned].astype("string").agg("|".join, axis=1), sort=False)
            shown = listed(
                f"{values_named(_rows(sweep, group)[0])} on {seeds_named(group['seed'])}" for _, group in groups
            )
            yield ReportWarning(
                WarningKind.SPLIT_ARM,
                f"The confirm runs of {arm} have different tuned values ({shown}): their mean does not belong to any "
                "single configuration. Confirm the best one on every seed.",
            )
            continue
        values = _rows(sweep, runs)[0]
        yield from _is_best(sweep, arm, values)


def _is_best(sweep: Evidence, arm: str, values: dict[str, Any]) -> Iterator[ReportWarning]:
    trials = sweep.trials_of[arm]
    equal = [all(_same(row[path], values[path]) for path in values) for row in _rows(sweep, trials)]
    tried = _where(trials, equal)
    if tried.empty:
        yield ReportWarning(
            WarningKind.UNTRIED,
            f"{arm} was confirmed with {values_named(values)}, which none of its complete explore trials had: its "
            "configuration was not chosen by the search. Confirm the best trial.",
        )
        return
    own, lowest = float(tried[sweep.metric].min()), float(trials[sweep.metric].min())
    if own > lowest:
        best = trials.loc[trials[sweep.metric].idxmin()]
        better = values_named({path: best[path] for path in sweep.tuned})
        yield ReportWarning(
            WarningKind.NOT_BEST,
            f"{arm} was confirmed with {values_named(values)}, whose trial reached {number(own, 4)}; its best trial "
            f"({better}) reached {number(lowest, 4)}. The plan is to confirm the best trial: confirm that one.",
        )


def _where(runs: pd.DataFrame, wanted: Sequence[bool]) -> pd.DataFrame:
    return runs.loc[np.asarray(wanted, dtype=bool)]


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _same(one: Any, other: Any) -> bool:
    """Whether two values of a setting are equal; numbers within the precision of text."""
    if _missing(one) or _missing(other):
        return _missing(one) and _missing(other)
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-9)
    except (TypeError, ValueError):
        return str(one) == str(other)


def _shown(sizes: Mapping[str, int]) -> str:
    return listed(f"{arm} {size}" for arm, size in sizes.items())


def _arms(runs: pd.DataFrame) -> str:
    return named(list(dict.fromkeys(runs["arm"])))


DETECTORS: Final[tuple[Detector, ...]] = (
    _test_read,
    _unequal,
    _few,
    _mostly_pruned,
    _other_seeds,
    _outside,
    _at_an_edge,
    _diverged,
    _order_flips,
    _chosen,
)
