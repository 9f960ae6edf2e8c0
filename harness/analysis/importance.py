"""How much of the loss each tuned dimension decides, over the space that was searched.

A Gaussian process (scikit-learn's) is fitted to the trials, placed on each dimension's own scale, and first-order and
total Sobol shares of its mean are estimated (scipy's) over what the spec declares: ranges evenly on their scale,
options and whole numbers with equal weight. Trials need not lie so (those of TPE crowd around the best one), because
the shares are taken over the space and not over the trials.

Sources: Sobol 1993, "Sensitivity estimates for nonlinear mathematical models"; Saltelli et al. 2010, "Variance based
sensitivity analysis of model output" (the estimator); Hutter et al. 2014, "An efficient approach for assessing
hyperparameter importance", whose forest is left out because it shrinks the shares.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from harness.analysis.search_quality import place
from harness.analysis.statistics import LEVEL

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

FEWEST: Final = 8  # trials below which nothing is fitted
ENOUGH: Final = 0.5  # out-of-bag R² from which shares may be shown
BAGS: Final = 30
MOST: Final = 200  # trials that one fit may take: its time grows with their cube, its errors are small by then

_LENGTHS: Final = (0.05, 20.0)  # length scales of the fit, in parts of a dimension
_NOISES: Final = (1e-5, 10.0)  # variance of the noise, in units of that of the losses
_POINTS: Final = 4096  # of each of the two samples that shares are taken from
_FEWER: Final = 512  # the same where only an interval rests on them
_SUPPORT: Final = 128  # points, beside the trials, on which functions are drawn

Floats = npt.NDArray[np.float64]
Dimension = Mapping[str, Sequence[Any]]  # kind → values, as a spec writes it


@dataclass(frozen=True)
class Share:
    """What one dimension explains of the variance of the loss over the searched space.

    Attributes:
        path: the dimension.
        main: first-order Sobol share, 0 to 1: the variance of E[loss | this dimension] over that of the loss, noise
            of training left out of both.
        low: lower end of the 95 % interval of `main`: over bootstrap bags of the trials, of each a function drawn from
            the posterior of its fit, so that regions without trials make the interval wider.
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
        r2: share of the variance of the loss that is predicted by fits which had not seen the trial (out of bag); below
            0 where the mean would have predicted better. A trial counts as much as the part of the space to which it
            is the nearest one, or a fit that knows only the surroundings of the best trial would look good. Noise of
            training counts against it.
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
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # On matrices of a few hundred rows the threads of BLAS wait for one another: with two of them a call takes two to
    # three times as long, beside other work more than ten times. The warnings are of length scales and noise that
    # end at a bound, which is where those of a dimension without effect, or of a loss without noise, belong.
    with threadpool_limits(limits=1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _importance(trials, y, tune, np.random.default_rng(seed))


def _importance(
    trials: Sequence[Mapping[str, Any]],
    y: Floats,
    tune: Mapping[str, Dimension],
    rng: np.random.Generator,
) -> Importance:
    space = list(tune.values())
    x = _columns(np.array([[_quantile(trial[path], tune[path]) for trial in trials] for path in tune]), space)
    rows = _thinned(np.arange(len(y)), rng)
    whole = _fit(x[rows], y[rows])
    bags, predicted, times = [], np.zeros(len(y)), np.zeros(len(y))
    for _ in range(BAGS):
        inside = _thinned(np.unique(rng.integers(0, len(y), len(y))), rng)
        outside = np.setdiff1d(np.arange(len(y)), inside)
        bag = _fit(x[inside], y[inside], whole)
        predicted[outside] += bag.predict(x[outside]) if len(outside) else 0
        times[outside] += 1
        bags.append(_drawn(bag, _columns(rng.random((len(space), _SUPPORT)), space), rng))
    seen = times > 0
    cells = _cells(x[seen], space)
    errors = y[seen] - predicted[seen] / times[seen]
    r2 = 1 - float(cells @ errors**2 / (cells @ (y[seen] - cells @ y[seen]) ** 2))

    (main,), (total,) = _shares([whole], space, _POINTS)
    low, high = np.quantile(_shares(bags, space, _FEWER)[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low, high = np.minimum(low, main), np.maximum(high, main)
    shares = [Share(path, *(float(v[d]) for v in (main, low, high, total))) for d, path in enumerate(tune)]
    return Importance(
        trials=len(y),
        r2=r2,
        shares=tuple(sorted(shares, key=lambda share: -share.main)),
        interactions=max(0.0, 1 - float(main.sum())),
        enough=r2 >= ENOUGH,
    )


def _count(dimension: Dimension) -> int | None:
    """How many values a dimension has; None for a range."""
    ((kind, values),) = dimension.items()
    if kind == "choice":
        return len(values)
    return int(values[1] - values[0]) + 1 if kind == "int_uniform" else None


def _quantile(value: Any, dimension: Dimension) -> float:
    """Where a value lies in the search measure, 0 to 1; of finitely many values the middle of its part."""
    where, count = place(value, dimension), _count(dimension)
    if where is None:
        return (list(dimension["choice"]).index(value) + 0.5) / len(dimension["choice"])
    return where if count is None else (round(where * (count - 1)) + 0.5) / count


def _columns(quantiles: Floats, space: Sequence[Dimension]) -> Floats:
    """Coordinates for the fit, (n, columns), of points given by their quantiles, (d, n).

    One column per dimension; of options without an order one for each, so that they lie 1 from one another.
    """
    columns = []
    for u, dimension in zip(quantiles, space, strict=True):
        count = _count(dimension)
        rank = np.floor(u * (count or 0))[:, None]
        if count is None:
            columns.append(u[:, None])
        elif "choice" in dimension and place(dimension["choice"][0], dimension) is None:
            columns.append(math.sqrt(0.5) * (rank == np.arange(count)))
        else:
            columns.append(rank / (count - 1))
    return np.hstack(columns)


def _thinned(rows: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return rows if len(rows) <= MOST else np.sort(rng.choice(rows, MOST, replace=False))


def _fit(x: Floats, y: Floats, like: GaussianProcessRegressor | None = None) -> GaussianProcessRegressor:
    """The more probable of a smooth and a rougher process, or the most probable one of the kind of `like`."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    if like is None:
        lengths, noise, restarts = [0.5] * x.shape[1], 1e-2, 1
        signals = [ConstantKernel(1, (1e-2, 1e3)) * Matern(lengths, _LENGTHS, nu) for nu in (2.5, math.inf)]
    else:
        signals, noise, restarts = [like.kernel_], like.alpha, 0
    options = {"normalize_y": True, "optimizer": _climb, "n_restarts_optimizer": restarts, "random_state": 0}
    fits = [GaussianProcessRegressor(signal + WhiteKernel(noise, _NOISES), **options).fit(x, y) for signal in signals]
    kernel = max(fits, key=lambda fit: float(fit.log_marginal_likelihood_value_)).kernel_
    return _process(x, y, kernel.k1, kernel.k2.noise_level)  # functions drawn of it are without the noise


def _climb(loss: Callable[..., Any], start: Floats, bounds: Floats) -> tuple[Floats, float]:
    """scikit-learn's own search for the most probable process, but with a stop that takes two thirds of its time."""
    from scipy.optimize import minimize

    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-5})
    return found.x, float(found.fun)


def _process(x: Floats, y: Floats, kernel: Kernel, noise: float) -> GaussianProcessRegressor:
    """The process of a given kernel, and of noise which is no part of it."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(kernel, alpha=noise, optimizer=None, normalize_y=True).fit(x, y)


def _drawn(fit: GaussianProcessRegressor, points: Floats, rng: np.random.Generator) -> GaussianProcessRegressor:
    """A function from the posterior, as it is on the trials and these points, and the smoothest one between."""
    points = np.vstack([fit.X_train_, points])
    values = fit.sample_y(points, random_state=int(rng.integers(2**31)))[:, 0]
    return _process(points, values, fit.kernel_, _NOISES[0])


def _shares(fits: Sequence[GaussianProcessRegressor], space: Sequence[Dimension], points: int) -> tuple[Floats, Floats]:
    """First-order and total Sobol shares of the means of some fits, each (fits, d)."""
    from scipy.stats import sobol_indices, uniform

    def means(quantiles: Floats) -> Floats:
        x = _columns(quantiles, space)
        # A constant beside them, because scipy cannot take one function alone of one variable.
        return np.array([*(fit.predict(x) for fit in fits), np.zeros(len(x))])

    found = sobol_indices(func=means, n=points, dists=[uniform()] * len(space), rng=0)
    main, total = (np.clip(v, 0, 1).reshape(-1, len(space))[:-1] for v in (found.first_order, found.total_order))
    return main, np.maximum(main, total)


def _cells(x: Floats, space: Sequence[Dimension]) -> Floats:
    """The share of the space to which each trial is the nearest one, (n,); trials in one place share theirs."""
    from scipy.spatial.distance import cdist
    from scipy.stats import qmc

    probes = _columns(qmc.Sobol(len(space), rng=0).random(2048).T, space)
    apart = cdist(np.vstack([probes, x]), x)  # the trials too, so that each of them counts
    nearest = apart == apart.min(axis=1, keepdims=True)
    return np.asarray((nearest / nearest.sum(axis=1, keepdims=True)).mean(axis=0))
