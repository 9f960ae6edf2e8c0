"""The results of arms as metrics and tags of the sweep's own run: what its page in MLflow opens on.

A metric of an arm is named after it, such as `val_loss/A2 - drop 0.2`: MLflow's charts have a section for each prefix.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from harness.core import metrics
from harness.tracking.records import ArmResult

if TYPE_CHECKING:
    from mlflow.entities import Metric

_MOST: Final = 50  # arms with metrics of their own
_FORBIDDEN: Final = re.compile(r"[^/\w.\- :]")  # characters of a name that MLflow takes in no place


def result_metrics(results: Sequence[ArmResult], now: int) -> list[Metric]:
    """The metrics of the sweep's run; `now`: milliseconds since 1970."""
    from mlflow.entities import Metric

    return [Metric(name, value, now, 0) for name, value in result_values(results).items()]


def result_values(results: Sequence[ArmResult]) -> Mapping[str, float]:
    """Name → value of the sweep's metrics: the best arm, the verdicts counted, mean and difference of each arm."""
    trained = [one for one in results if math.isfinite(one.mean)]
    found: dict[str, float] = {}
    if trained:
        best = min(trained, key=lambda one: one.mean)
        found[f"best/{_plain(best.metric)}"] = best.mean
        if best.metric == metrics.VAL_LOSS:
            found["best/val_perplexity"] = metrics.perplexity(best.mean)
        if math.isfinite(best.difference):
            found["best/difference"] = best.difference
    for verdict, number in Counter(one.verdict.partition(" larger")[0] for one in results if one.verdict).items():
        found[f"arms/{_plain(verdict)}"] = float(number)
    for name, one in _named(trained):
        found[f"{_plain(one.metric)}/{name}"] = one.mean
        if math.isfinite(one.difference):
            found[f"difference/{name}"] = one.difference
    return {name: value for name, value in found.items() if math.isfinite(value)}


def verdict_tags(results: Sequence[ArmResult]) -> dict[str, str]:
    """A tag with the verdict of each arm, and one with the best arm."""
    trained = [one for one in results if math.isfinite(one.mean)]
    tags = {f"verdict/{name}": one.verdict or "baseline" for name, one in _named(results)} if len(results) > 1 else {}
    return tags | ({"best arm": min(trained, key=lambda one: one.mean).label} if len(trained) > 1 else {})


def _named(results: Sequence[ArmResult]) -> Iterator[tuple[str, ArmResult]]:
    for one in results[:_MOST]:
        yield _FORBIDDEN.sub("_", one.label.replace(" · ", " - ")), one


def _plain(metric: str) -> str:
    return metric.replace("/", "_").replace(" ", "_")
