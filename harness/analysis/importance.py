"""Hyperparameter importance: Sobol indices of the tuned dimensions over the search space.

A Gaussian process (scikit-learn) is fitted to the trials, each dimension on its own scale. First-order and total Sobol
indices of its mean are then estimated (scipy) over the space of the spec: ranges uniform on their scale, choices and
integers with equal weight. The indices do not depend on where the sampler placed its trials (TPE clusters them around
the best one), because they are computed over the space and not over the trials.

Sources: Sobol 1993, "Sensitivity estimates for nonlinear mathematical models"; Saltelli et al. 2010, "Variance based
sensitivity analysis of model output" (the estimator); Hutter et al. 2014, "An efficient approach for assessing
hyperparameter importance" (functional ANOVA). Hutter's random forest is not used because it shrinks the indices.
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

MIN_TRIALS: Final = 8  # trials needed for a fit
MIN_R2: Final = 0.5  # out-of-bag R² from which the indices are shown
BAGS: Final = 30  # bootstrap samples
MAX_TRIALS: Final = 200  # most trials of one fit: its time is cubic in them, and more hardly improve it

_LENGTH_BOUNDS: Final = (0.05, 20.0)  # bounds of the length scales; every dimension has length 1
_NOISE_BOUNDS: Final = (1e-5, 10.0)  # bounds of the noise variance, in units of the variance of the losses
_SOBOL_POINTS: Final = 4096  # size of each of the two samples of the Sobol estimator
_SOBOL_POINTS_INTERVAL: Final = 512  # the same for the intervals, which need less precision
_POSTERIOR_POINTS: Final = 128  # points, in addition to the trials, at which posterior functions are sampled

Floats = npt.NDArray[np.float64]
Dimension = Mapping[str, Sequence[Any]]  # kind → values, as a spec writes it


@dataclass(frozen=True)
class Share:
    """The Sobol indices of one dimension: its share of the variance of the loss over the search space.

    Attributes:
        path: the dimension.
        main: first-order Sobol index, 0 to 1: Var(E[loss | this dimension]) / Var(loss), without training noise.
        low: lower end of the 95 % interval of `main`, over bootstrap samples of the trials. For each sample a function
            is drawn from the posterior of its fit, so that regions without trials widen the interval.
        high: upper end of that interval.
        total: total Sobol index: `main` plus all interactions of this dimension.
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
        trials: number of trials used.
        r2: out-of-bag R²: the share of the variance of the loss that fits predict for trials they were not fitted to;
            negative if the mean would predict better. Each trial is weighted by the volume of the space nearest to it;
            otherwise a fit that is good only around the best trial would score high. Training noise lowers it.
        shares: one per dimension, largest `main` first.
        interactions: share of the variance that no single dimension explains.
        enough: whether `r2` reaches 0.5; below that, the indices describe the fit more than the loss.
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
    """First-order and total Sobol indices of the tuned dimensions, with the out-of-bag R² of the fit behind them.

    Losses are not transformed. Since diverged trials have the loss of an untrained model, a dimension that decides
    whether training diverges is important, however little it matters among runs that do not diverge.

    Args:
        trials: tuned values of each trial, path → value.
        losses: their losses, shape (n,), finite, in any unit; for a diverged trial that of an untrained model.
        tune: the search space, path → {kind: values}, as a spec writes it.
        seed: of the bootstrap; the same seed gives the same numbers.

    Returns:
        None with fewer than eight trials, if all losses are equal, or if nothing is tuned.

    Raises:
        ValueError: a loss is not finite, or the numbers of losses and trials differ.
    """
    y = np.asarray(losses, dtype=np.float64)
    if y.shape != (len(trials),):
        raise ValueError(f"losses: found shape {y.shape}; allowed: one per trial, ({len(trials)},)")
    if not np.isfinite(y).all():
        raise ValueError(f"losses: found {y[~np.isfinite(y)][0]}; allowed: finite numbers")
    if len(y) < MIN_TRIALS or not tune or np.ptp(y) == 0:
        return None
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # With matrices of a few hundred rows, BLAS threads mostly wait for each other: two threads take two to three times
    # as long, and more than ten times on a busy machine. The convergence warnings are about length scales and noise at
    # a bound, which is expected for a dimension without effect or a loss without noise.
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
    rows = _subsample(np.arange(len(y)), rng)
    whole = _fit(x[rows], y[rows])
    bags, predicted, times = [], np.zeros(len(y)), np.zeros(len(y))
    for _ in range(BAGS):
        inside = _subsample(np.unique(rng.integers(0, len(y), len(y))), rng)
        outside = np.setdiff1d(np.arange(len(y)), inside)
        bag = _fit(x[inside], y[inside], whole)
        predicted[outside] += bag.predict(x[outside]) if len(outside) else 0
        times[outside] += 1
        bags.append(_posterior_sample(bag, _columns(rng.random((len(space), _POSTERIOR_POINTS)), space), rng))
    seen = times > 0
    cells = _voronoi_weights(x[seen], space)
    errors = y[seen] - predicted[seen] / times[seen]
    r2 = 1 - float(cells @ errors**2 / (cells @ (y[seen] - cells @ y[seen]) ** 2))

    (main,), (total,) = _sobol_indices([whole], space, _SOBOL_POINTS)
    low, high = np.quantile(
        _sobol_indices(bags, space, _SOBOL_POINTS_INTERVAL)[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0
    )
    low, high = np.minimum(low, main), np.maximum(high, main)
    shares = [Share(path, *(float(v[d]) for v in (main, low, high, total))) for d, path in enumerate(tune)]
    return Importance(
        trials=len(y),
        r2=r2,
        shares=tuple(sorted(shares, key=lambda share: -share.main)),
        interactions=max(0.0, 1 - float(main.sum())),
        enough=r2 >= MIN_R2,
    )


def _count(dimension: Dimension) -> int | None:
    """The number of values of a choice or an integer range; None for a continuous range."""
    ((kind, values),) = dimension.items()
    if kind == "choice":
        return len(values)
    return int(values[1] - values[0]) + 1 if kind == "int_uniform" else None


def _quantile(value: Any, dimension: Dimension) -> float:
    """The quantile, 0 to 1, of a value in its search distribution; for discrete values the middle of their step."""
    where, count = place(value, dimension), _count(dimension)
    if where is None:
        return (list(dimension["choice"]).index(value) + 0.5) / len(dimension["choice"])
    return where if count is None else (round(where * (count - 1)) + 0.5) / count


def _columns(quantiles: Floats, space: Sequence[Dimension]) -> Floats:
    """Features for the fit, shape (n, columns), of points given by their quantiles, shape (d, n).

    One column per dimension. A choice without an order is one-hot encoded, scaled so that options are 1 apart.
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


def _subsample(rows: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return rows if len(rows) <= MAX_TRIALS else np.sort(rng.choice(rows, MAX_TRIALS, replace=False))


def _fit(x: Floats, y: Floats, like: GaussianProcessRegressor | None = None) -> GaussianProcessRegressor:
    """Fit by maximum marginal likelihood: the better of an RBF and a Matérn 5/2 kernel, or the kernel of `like`."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    if like is None:
        lengths, noise, restarts = [0.5] * x.shape[1], 1e-2, 1
        signals = [ConstantKernel(1, (1e-2, 1e3)) * Matern(lengths, _LENGTH_BOUNDS, nu) for nu in (2.5, math.inf)]
    else:
        signals, noise, restarts = [like.kernel_], like.alpha, 0
    options = {"normalize_y": True, "optimizer": _lbfgs, "n_restarts_optimizer": restarts, "random_state": 0}
    fits = [
        GaussianProcessRegressor(signal + WhiteKernel(noise, _NOISE_BOUNDS), **options).fit(x, y) for signal in signals
    ]
    kernel = max(fits, key=lambda fit: float(fit.log_marginal_likelihood_value_)).kernel_
    return _process(x, y, kernel.k1, kernel.k2.noise_level)  # noise as alpha: posterior samples then exclude it


def _lbfgs(loss: Callable[..., Any], start: Floats, bounds: Floats) -> tuple[Floats, float]:
    """scikit-learn's L-BFGS-B optimizer with a looser tolerance, in two thirds of the time."""
    from scipy.optimize import minimize

    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-5})
    return found.x, float(found.fun)


def _process(x: Floats, y: Floats, kernel: Kernel, noise: float) -> GaussianProcessRegressor:
    """A Gaussian process with a fixed kernel and this noise variance."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(kernel, alpha=noise, optimizer=None, normalize_y=True).fit(x, y)


def _posterior_sample(
    fit: GaussianProcessRegressor, points: Floats, rng: np.random.Generator
) -> GaussianProcessRegressor:
    """A random function from the posterior: sampled at the trials and these points, interpolated between them."""
    points = np.vstack([fit.X_train_, points])
    values = fit.sample_y(points, random_state=int(rng.integers(2**31)))[:, 0]
    return _process(points, values, fit.kernel_, _NOISE_BOUNDS[0])


def _sobol_indices(
    fits: Sequence[GaussianProcessRegressor], space: Sequence[Dimension], points: int
) -> tuple[Floats, Floats]:
    """First-order and total Sobol indices of the posterior means of these fits, each of shape (fits, d)."""
    from scipy.stats import sobol_indices, uniform

    def means(quantiles: Floats) -> Floats:
        x = _columns(quantiles, space)
        # scipy cannot handle a single function of a single variable, so a constant is added.
        return np.array([*(fit.predict(x) for fit in fits), np.zeros(len(x))])

    found = sobol_indices(func=means, n=points, dists=[uniform()] * len(space), rng=0)
    main, total = (np.clip(v, 0, 1).reshape(-1, len(space))[:-1] for v in (found.first_order, found.total_order))
    return main, np.maximum(main, total)


def _voronoi_weights(x: Floats, space: Sequence[Dimension]) -> Floats:
    """The share of the space nearest to each trial (its Voronoi cell), shape (n,); identical trials split theirs."""
    from scipy.spatial.distance import cdist
    from scipy.stats import qmc

    probes = _columns(qmc.Sobol(len(space), rng=0).random(2048).T, space)
    apart = cdist(np.vstack([probes, x]), x)  # with the trials themselves, so that no weight is 0
    nearest = apart == apart.min(axis=1, keepdims=True)
    return np.asarray((nearest / nearest.sum(axis=1, keepdims=True)).mean(axis=0))
