"""How much of the loss each tuned dimension decides, over the space that was searched.

A Gaussian process is fitted to the trials, placed on each dimension's own scale, and first-order and total Sobol
shares of its mean are integrated in closed form over what the spec declares: ranges evenly on their scale, options
and whole numbers with equal weight. Trials need not lie so (those of TPE crowd around the best one), because the
integrals run over the space and not over the trials.

Sources: Sobol 1993, "Sensitivity estimates for nonlinear mathematical models"; Oakley and O'Hagan 2004,
"Probabilistic sensitivity analysis of complex models" (the integrals for a Gaussian process); Hutter et al. 2014, "An
efficient approach for assessing hyperparameter importance", whose forest is left out because it shrinks the shares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from harness.report.search import place
from harness.report.statistics import LEVEL

FEWEST: Final = 8  # trials below which nothing is fitted
ENOUGH: Final = 0.5  # out-of-bag R² from which shares may be shown
BAGS: Final = 30
MOST: Final = 200  # trials that one fit may take: its time grows with their cube, its errors are small by then

_NODES: Final = 64  # of the quadrature of a range
_STARTS: Final = ((0.5, 1e-2), (0.2, 1e-3), (2.0, 0.3))  # of the fit: length scale, noise
_LENGTHS: Final = (0.03, 30.0)
_NOISES: Final = (1e-6, 1e3)  # variance of the noise, in units of that of the function

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """What one dimension explains of the variance of the loss over the searched space.

    Attributes:
        path: the dimension.
        main: first-order Sobol share, 0 to 1: the variance of E[loss | this dimension] over that of the loss, noise
            of training left out of both.
        low: lower end of the 95 % interval of `main`, over bootstrap bags of the trials.
        high: its upper end.
        total: `main` and every interaction this dimension takes part in.
    """

    path: str
    main: float
    low: float
    high: float
    total: float


@dataclass(frozen=True)
class Importance:
    """Importance of the tuned dimensions of one search.

    Attributes:
        trials: how many it rests on.
        r2: share of the variance of the trials' losses that is predicted by fits which had not seen the trial; below
            0 where their mean would have predicted better. Noise of training counts against it.
        shares: one per dimension, largest `main` first.
        interactions: share of the variance that no single dimension explains.
        enough: whether `r2` reaches 0.5; below, the shares say more about the fit than about the loss.
    """

    trials: int
    r2: float
    shares: tuple[Share, ...]
    interactions: float
    enough: bool


def importance(
    trials: Sequence[Mapping[str, Any]],
    losses: npt.ArrayLike,
    tune: Mapping[str, Mapping[str, Sequence[Any]]],
    seed: int = 0,
) -> Importance | None:
    """First-order and total Sobol shares of the tuned dimensions, with how far the fit behind them can be trusted.

    Losses are taken as they are: where diverged trials come with the loss of an untrained model, a dimension that
    decides whether training diverges is important, however little it matters among the runs that learn.

    Args:
        trials: tuned values of each trial, path → value.
        losses: their losses, shape (n,), finite, in any unit; a diverged trial comes with that of an untrained model.
        tune: the space, path → {kind: values}, as a spec writes it.
        seed: of the bootstrap; the same seed gives the same numbers.

    Returns:
        None with fewer than eight trials, with losses that are all equal, or where nothing was tuned.

    Raises:
        ValueError: a loss is not finite, or there are not as many losses as trials.
    """
    y = np.asarray(losses, dtype=np.float64)
    if y.shape != (len(trials),):
        raise ValueError(f"losses: found shape {y.shape}; allowed: one per trial, ({len(trials)},)")
    if not np.isfinite(y).all():
        raise ValueError(f"losses: found {y[~np.isfinite(y)][0]}; allowed: finite numbers")
    if len(y) < FEWEST or not tune or np.ptp(y) == 0:
        return None
    # On matrices of a few hundred rows the threads of BLAS cost more than they bring.
    with threadpool_limits(limits=1, user_api="blas"):
        return _importance(trials, y, tune, np.random.default_rng(seed))


def _importance(
    trials: Sequence[Mapping[str, Any]],
    y: Floats,
    tune: Mapping[str, Mapping[str, Sequence[Any]]],
    rng: np.random.Generator,
) -> Importance:
    axes = [_axis(dimension) for dimension in tune.values()]
    x = np.array([[_coordinate(trial[path], tune[path]) for path in tune] for trial in trials])  # (n, d)
    everything = _thinned(np.arange(len(y)), rng)
    whole = _fit(x[everything], y[everything], axes)
    bags, predicted, times = [], np.zeros(len(y)), np.zeros(len(y))
    for _ in range(BAGS):
        inside = _thinned(np.unique(rng.integers(0, len(y), len(y))), rng)
        outside = np.setdiff1d(np.arange(len(y)), inside)
        bag = _fit(x[inside], y[inside], axes, start=whole.theta)
        predicted[outside] += bag.mean(x[outside])
        times[outside] += 1
        bags.append(bag.shares()[0])
    seen = times > 0
    errors = y[seen] - predicted[seen] / times[seen]
    r2 = 1 - float(np.sum(errors**2) / np.sum((y[seen] - y[seen].mean()) ** 2))

    main, total = whole.shares()
    low, high = np.quantile(bags, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low, high = np.minimum(low, main), np.maximum(high, main)
    shares = [Share(path, *(float(v[d]) for v in (main, low, high, total))) for d, path in enumerate(tune)]
    return Importance(
        trials=len(y),
        r2=r2,
        shares=tuple(sorted(shares, key=lambda share: -share.main)),
        interactions=max(0.0, 1 - float(main.sum())),
        enough=r2 >= ENOUGH,
    )


@dataclass(frozen=True)
class _Axis:
    """One dimension of the unit cube: whether its values have an order, and a quadrature of the search measure."""

    ordered: bool
    nodes: Floats  # (q,)
    weights: Floats  # (q,), sum 1

    def distance(self, a: Floats, b: Floats) -> Floats:
        """How far values lie apart, (len(a), len(b)): options without an order are all one from one another."""
        apart = np.abs(a[:, None] - b)
        return apart if self.ordered else np.asarray(apart > 0, dtype=np.float64)


def _axis(dimension: Mapping[str, Sequence[Any]]) -> _Axis:
    ((kind, values),) = dimension.items()
    if kind == "choice":
        nodes = np.array([_coordinate(value, dimension) for value in values])
        return _Axis(place(values[0], dimension) is not None, nodes, np.full(len(nodes), 1 / len(nodes)))
    if kind == "int_uniform" and values[1] - values[0] < 2 * _NODES:
        count = int(values[1] - values[0]) + 1
        return _Axis(True, np.linspace(0, 1, count), np.full(count, 1 / count))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return _Axis(True, (nodes + 1) / 2, weights / 2)


def _coordinate(value: Any, dimension: Mapping[str, Sequence[Any]]) -> float:
    """The place of a value; of an option without an order its number."""
    where = place(value, dimension)
    return float(list(dimension["choice"]).index(value)) if where is None else where


def _thinned(rows: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return rows if len(rows) <= MOST else np.sort(rng.choice(rows, MOST, replace=False))


def _matern(distance: Floats, length: float) -> tuple[Floats, Floats]:
    """Matérn's correlation with ν = 5/2, and its logarithm's derivative by the logarithm of the length scale."""
    s = math.sqrt(5) * distance / length
    polynomial = 1 + s + s**2 / 3
    return polynomial * np.exp(-s), s**2 * (1 + s) / (3 * polynomial)


@dataclass(frozen=True)
class _Surrogate:
    """A Gaussian process over the unit cube: a constant, and one Matérn correlation per dimension, multiplied."""

    x: Floats  # (n, d)
    axes: Sequence[_Axis]
    theta: Floats  # (d + 1,): logarithms of the length scales, and of the noise in units of the function's variance
    constant: float
    weights: Floats  # (n,): the posterior mean is constant + kernel · weights
    spread: float  # standard deviation of the losses

    def kernels(self, points: Sequence[Floats]) -> list[Floats]:
        """Correlation of the fitted trials with other values, dimension by dimension, each (n, len(points[d]))."""
        return [
            _matern(axis.distance(self.x[:, d], points[d]), math.exp(self.theta[d]))[0]
            for d, axis in enumerate(self.axes)
        ]

    def mean(self, x: Floats) -> Floats:
        """Predicted losses, (m,), at points (m, d)."""
        return self.constant + np.asarray(np.prod(self.kernels(list(x.T)), axis=0).T @ self.weights)

    def shares(self) -> tuple[Floats, Floats]:
        """First-order and total Sobol shares of the mean, each (d,); zeros where the mean is flat.

        The kernel is a product, so every integral over the cube is a product of integrals over one dimension.
        """
        kernels = self.kernels([axis.nodes for axis in self.axes])
        ones = np.array([k @ axis.weights for k, axis in zip(kernels, self.axes, strict=True)])  # ∫k(u, xᵢ)du: (d, n)
        pairs = np.array([(k * axis.weights) @ k.T for k, axis in zip(kernels, self.axes, strict=True)])
        centre = float(self.weights @ np.prod(ones, axis=0)) ** 2
        variance = float(self.weights @ np.prod(pairs, axis=0) @ self.weights) - centre
        if variance <= (1e-6 * self.spread) ** 2:
            return np.zeros(len(self.axes)), np.zeros(len(self.axes))
        main, rest = np.zeros(len(self.axes)), np.zeros(len(self.axes))
        for d, axis in enumerate(self.axes):
            effect = (self.weights * np.prod(np.delete(ones, d, 0), axis=0)) @ kernels[d]  # E[mean | this one]: (q,)
            main[d] = axis.weights @ (effect - axis.weights @ effect) ** 2
            left = self.weights * ones[d]  # of E[mean | all the others]
            rest[d] = left @ np.prod(np.delete(pairs, d, 0), axis=0) @ left - centre
        main, total = np.clip(main / variance, 0, 1), np.clip(1 - rest / variance, 0, 1)
        return main, np.maximum(main, total)


class _Solved(NamedTuple):
    """What one set of length scales and noise makes of the trials, in units of the losses' standard deviation."""

    kernel: Floats  # (n, n), without noise
    slopes: list[Floats]  # of its logarithm by that of each length scale
    inverse: Floats  # of the kernel with noise
    determinant: float  # its logarithm
    constant: float
    weights: Floats  # (n,)
    variance: float  # of the function, the most probable one


def _fit(x: Floats, y: Floats, axes: Sequence[_Axis], start: Floats | None = None) -> _Surrogate:
    """The process whose length scales and noise are the most probable, from one start or the best of three."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    (n, d), spread = x.shape, float(y.std()) or 1.0
    z = (y - y.mean()) / spread
    distances = [axis.distance(x[:, j], x[:, j]) for j, axis in enumerate(axes)]
    # Weak log-normal priors keep few trials from being explained by a length scale below their distances.
    centre = np.log([0.5 * math.sqrt(d)] * d + [1e-2])
    width = np.array([1.5] * d + [3.0])

    def solved(theta: Floats) -> _Solved:
        correlated = [_matern(r, math.exp(log_length)) for r, log_length in zip(distances, theta[:-1], strict=True)]
        kernel = np.prod([correlation for correlation, _ in correlated], axis=0)
        factor = cho_factor(kernel + math.exp(theta[-1]) * np.eye(n), lower=True)
        inverse = cho_solve(factor, np.eye(n))
        constant = float(inverse.sum(0) @ z / inverse.sum())  # by generalised least squares
        weights = inverse @ (z - constant)
        return _Solved(
            kernel=kernel,
            slopes=[slope for _, slope in correlated],
            inverse=inverse,
            determinant=float(2 * np.log(np.diag(factor[0])).sum()),
            constant=constant,
            weights=weights,
            variance=max(float((z - constant) @ weights) / n, 1e-12),
        )

    def loss(theta: Floats) -> tuple[float, Floats]:
        at, off = solved(theta), (theta - centre) / width
        value = (n * math.log(at.variance) + at.determinant + float(off @ off)) / 2
        by_kernel = (at.inverse - np.outer(at.weights, at.weights) / at.variance) / 2
        by_lengths = [float(np.sum(by_kernel * at.kernel * slope)) for slope in at.slopes]
        return value, np.array([*by_lengths, math.exp(theta[-1]) * np.trace(by_kernel)]) + off / width

    starts = [np.log([length] * d + [noise]) for length, noise in _STARTS] if start is None else [start]
    bounds = [tuple(np.log(_LENGTHS))] * d + [tuple(np.log(_NOISES))]
    found = [minimize(loss, at, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 60}) for at in starts]
    theta = min(found, key=lambda result: float(result.fun)).x
    best = solved(theta)
    return _Surrogate(x, axes, theta, float(y.mean()) + spread * best.constant, spread * best.weights, spread)
