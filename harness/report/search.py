"""How good the search inside each arm was: pure functions over explore trials.

Sources: Google's deep learning tuning playbook (is the optimum at the edge of the space? how many trials diverged?),
Dodge et al. 2019, "Show your work" (expected best of k trials), Wortsman et al. 2023, "Small-scale proxies for
large-scale transformer training instabilities" (learning-rate sensitivity).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

EDGE: Final = 0.1  # outer share of a range, on its own scale, in which an optimum is suspect
TOP: Final = 5  # trials looked at for the stronger warning

Floats = npt.NDArray[np.float64]


def place(value: Any, dimension: Mapping[str, Sequence[Any]]) -> float | None:
    """Where a tuned value lies in its dimension: 0 at the low end, 1 at the high end, on the dimension's own scale.

    Args:
        value: what a trial had.
        dimension: kind → values, as a spec writes it: `{"log_uniform": [3e-4, 3e-3]}`. The options of a choice are
            placed by rank if there are at least three and all are numbers.

    Returns:
        None for a choice that has no order.
    """
    ((kind, values),) = dimension.items()
    if kind == "choice":
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) < 3 or len(numbers) < len(values):
            return None
        return sorted(numbers).index(value) / (len(numbers) - 1)
    low, high = values
    if kind == "log_uniform":
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


@dataclass(frozen=True)
class Edge:
    """The best trial of an arm lies in an outer tenth of a dimension.

    Attributes:
        path: the dimension.
        place: where the best value lies, 0 to 1.
        strong: whether at least three of the arm's five best lie in the same outer tenth.
    """

    path: str
    place: float
    strong: bool

    @property
    def side(self) -> str:
        """Which end: `low` or `high`."""
        return "low" if self.place < 0.5 else "high"


def edges(
    trials: Sequence[Mapping[str, Any]], losses: npt.ArrayLike, tune: Mapping[str, Mapping[str, Sequence[Any]]]
) -> list[Edge]:
    """The dimensions of one arm whose best value lies at an edge, so that a better one may lie beyond.

    Args:
        trials: tuned values of each complete trial, path → value.
        losses: their losses, shape (n,), lower is better.
        tune: the space.
    """
    order = np.argsort(np.asarray(losses, dtype=np.float64), kind="stable")
    found = []
    for path, dimension in tune.items():
        places = [place(trials[i][path], dimension) for i in order]
        if not places or places[0] is None or EDGE <= places[0] <= 1 - EDGE:
            continue
        low = places[0] < EDGE
        same = [p for p in places[:TOP] if p is not None and (p < EDGE if low else p > 1 - EDGE)]
        found.append(Edge(path, places[0], len(same) >= 3))
    return found


def expected_best(losses: npt.ArrayLike) -> Floats:
    """E[best of k trials] for k = 1 … n, drawing with replacement from the n trials that were seen.

    E[min_k] = Σ v(i) · [((n − i + 1)/n)^k − ((n − i)/n)^k] over the sorted losses v(1) ≤ … ≤ v(n).

    Args:
        losses: shape (n,), finite; a diverged trial counts with the loss of an untrained model.

    Returns:
        shape (n,), falling from the mean towards the minimum.
    """
    values = np.sort(np.asarray(losses, dtype=np.float64))
    n = len(values)
    rank, k = np.arange(1, n + 1), np.arange(1, n + 1)[:, None]
    weights = ((n - rank + 1) / n) ** k - ((n - rank) / n) ** k
    return np.asarray(weights @ values)


def crossings(losses: Mapping[str, npt.ArrayLike]) -> list[tuple[str, str, int]]:
    """Pairs of arms whose order by expected best of k depends on k, and the first k at which it has changed.

    Args:
        losses: arm → losses of its trials; arms are looked at over the trials that both have.
    """
    curves = {arm: expected_best(values) for arm, values in losses.items()}
    names = list(curves)
    found = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            n = min(len(curves[first]), len(curves[second]))
            signs = np.sign(curves[first][:n] - curves[second][:n])
            changed: list[int] = np.flatnonzero(signs != signs[0]).tolist() if n else []
            if changed:
                found.append((first, second, changed[0] + 1))
    return found


def learning_rate_sensitivity(
    rates: npt.ArrayLike, losses: npt.ArrayLike, initial_loss: float, low: float, high: float
) -> float:
    """S = 1/(log b − log a) · ∫ₐᵇ [min(L(η), L₀) − L*] d log η, by the trapezoid rule over the trials.

    0 means that the learning rate does not matter between a and b; L₀ − L* means that only one works.

    Args:
        rates: learning rates of the trials, shape (n,).
        losses: their losses, shape (n,); NaN for a diverged trial, which counts as L₀.
        initial_loss: L₀, the loss before training.
        low: a, the same for every arm that is compared.
        high: b.

    Returns:
        nats; NaN with fewer than two different rates. Outside the rates that were tried the loss of the nearest
        is taken, and of trials with one rate their mean.
    """
    eta, loss = np.asarray(rates, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    capped = np.minimum(np.where(np.isfinite(loss), loss, initial_loss), initial_loss)
    points = np.unique(eta)
    if len(points) < 2:
        return math.nan
    means = np.array([capped[eta == point].mean() for point in points])
    inside = points[(points > low) & (points < high)]
    grid = np.log(np.concatenate([[low], inside, [high]]))
    excess = np.interp(grid, np.log(points), means) - means.min()
    area = float(np.sum((excess[1:] + excess[:-1]) / 2 * np.diff(grid)))
    return area / (math.log(high) - math.log(low))
