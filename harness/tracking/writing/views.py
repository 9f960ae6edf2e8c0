"""Saved views of a sweep for MLflow's UI: the runs, columns and charts that its table and charts tab show.

MLflow 3 stores a saved view as a tag of the experiment: the page's state as JSON. The UI fills in fields that a view
leaves out, and puts a metric without a chart into the section of its prefix.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from harness.config.objective import search_objective
from harness.core import metrics
from harness.core.bounded_json import read_json
from harness.core.outcomes import Phase
from harness.tracking.records import SweepInfo
from harness.tracking.schema import LABEL, OUTCOME, PARENT_RUN, PHASE, SEED

PREFIX: Final = "mlflow.sharedViewState."
_SECTIONS: Final = ("val", "train", "test", "optim", "perf", "Model metrics", "System metrics")
_COLUMN_WIDTH: Final = 150  # pixels
_VERDICT: Final = "harness-verdict"
_SEARCH: Final = "harness-search"
_RUNS: Final = "harness-runs"
_NAMES: Final = {_VERDICT: "Verdict: confirm runs by arm", _SEARCH: "Search: tuned values", _RUNS: "All runs"}


def view_tags(info: SweepInfo, parent: str, stored: Mapping[str, str], now: int, by: str = LABEL) -> dict[str, str]:
    """The experiment's tags for the views of a sweep that differ from the stored ones.

    Args:
        info: the sweep.
        parent: its run; the views show its children.
        stored: the experiment's current tags.
        now: milliseconds since 1970.
        by: the tag that names the arm of each run.
    """
    tags = {}
    for place, (key, state) in enumerate(reversed(list(_states(info, parent, by)))):  # the UI lists the newest first
        text = json.dumps(state)
        envelope = {"name": _NAMES[key], "createdAt": now + place, "updatedAt": now + place, "state": text}
        if _state(stored.get(PREFIX + key, "")) != text:
            tags[PREFIX + key] = json.dumps(envelope, ensure_ascii=False)
    return tags


def links(info: SweepInfo, experiment: str) -> list[tuple[str, str]]:
    """Name and address of each view, relative to the UI's address."""
    page = f"#/experiments/{experiment}/runs?workflowType=machine_learning"
    modes = {_RUNS: "TABLE"}
    return [
        (_NAMES[key], f"{page}&compareRunsMode={modes.get(key, 'CHART')}&viewStateShareKey={key}")
        for key, _ in _states(info, "", LABEL)
    ]


def _states(info: SweepInfo, parent: str, by: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and state of each view; a sweep without a search has no view of one."""
    of_sweep = f"tags.`{PARENT_RUN}` = '{parent}'"
    finals = [f"metrics.`{name}`" for name in (metrics.VAL_LOSS, metrics.TEST_LOSS, metrics.VAL_BITS_PER_BYTE)]
    tune = {path: values for path, dimension in info.tune.items() for values in dimension.values()}
    objective = search_objective((arm.values for arm in info.arms), tune).metric
    compared, tuned = ([f"params.`{path}`" for path in paths] for paths in (info.compare, info.tune))
    confirm = f"{of_sweep} and tags.`{PHASE}` = '{Phase.CONFIRM}'"
    grouped = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": by}]}
    yield (
        _VERDICT,
        {
            **_table(objective, confirm, [f"tags.`{by}`", f"tags.`{SEED}`", *finals, *tuned]),
            **_charts([], over_tokens=False),  # in a group, MLflow averages tokens and losses over different points
            "groupBy": grouped,
            "runsHiddenMode": "SHOW_ALL",
        },
    )
    if info.tune:
        explore = f"{of_sweep} and tags.`{PHASE}` = '{Phase.EXPLORE}'"
        columns = [*tuned, f"metrics.`{objective}`", f"tags.`{by}`", f"tags.`{OUTCOME}`"]
        yield _SEARCH, {**_table(objective, explore, columns), **_charts([*info.compare, *info.tune], objective)}
    outcome = [f"tags.`{name}`" for name in (by, PHASE, SEED, OUTCOME)]
    yield _RUNS, {**_table(objective, of_sweep, [*outcome, *finals, *compared, *tuned]), **_charts([])}


def _table(objective: str, condition: str, columns: Sequence[str]) -> dict[str, Any]:
    """A table of the runs that meet a condition, lowest value of the objective first."""
    return {
        "searchFilter": condition,
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnWidths": dict.fromkeys(columns, _COLUMN_WIDTH),
        "runsHiddenMode": "FIRST_20_RUNS",
    }


def _charts(parameters: Sequence[str], objective: str = metrics.VAL_LOSS, over_tokens: bool = True) -> dict[str, Any]:
    """Line charts over tokens or steps, losses first; above them parallel coordinates of `parameters`, if any."""
    sections = [{"uuid": name, "name": name, "display": True, "isReordered": True} for name in _SECTIONS]
    cards: list[dict[str, Any]] = []
    if parameters:
        name = "validation loss" if objective == metrics.VAL_LOSS else "bits per byte"
        place = f"Tuned values against {name}"
        sections.insert(0, {"uuid": place, "name": place, "display": True, "isReordered": True})
        cards.append(
            {
                "uuid": "parallel",
                "type": "PARALLEL",
                "metricSectionId": place,
                "runsCountToCompare": 500,
                "deleted": False,
                "isGenerated": False,
                "selectedParams": list(parameters),
                "selectedMetrics": [objective],
                "showAllRuns": True,
            }
        )
    return {
        "compareRunCharts": cards,
        "compareRunSections": sections,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {
            "xAxisKey": "metric" if over_tokens else "step",
            "selectedXAxisMetricKey": metrics.TOKENS if over_tokens else "",
            "lineSmoothness": 0,
        },
    }


def _state(envelope: str) -> str | None:
    """The state in a stored view, or None if it cannot be parsed."""
    try:
        found = read_json(envelope)
    except ValueError:
        return None
    return found.get("state") if isinstance(found, dict) else None
