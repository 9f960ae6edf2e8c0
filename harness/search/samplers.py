"""Optuna's samplers, pruners and distributions as a spec names them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from harness.config.spec import Dimension
from harness.core.rng import derive

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class _Grid(GridSampler):
    """Optuna's grid, for ask and tell: the original stops an `optimize` loop at its last point, and there is none."""

    def after_trial(self, *_: object, **__: object) -> None:
        """Do nothing: how many trials there are is counted by the sweep."""


def make_sampler(kind: str, seed: int, number: int, space: Mapping[str, Dimension]) -> BaseSampler:
    """A sampler for the trial of this number.

    The random ones are seeded by (seed, number): a continued study does not repeat its first points, and two arms
    with one seed try the same ones. Those that walk through a fixed sequence are seeded by the seed alone; they
    keep their place in the study itself.
    """
    once, each = derive(seed, "sampler") % 2**32, derive(seed, "sampler", number) % 2**32
    match kind:
        case "tpe":
            return TPESampler(seed=each)
        case "random":
            return RandomSampler(seed=each)
        case "gp":
            return GPSampler(seed=each)
        case "cmaes":
            return CmaEsSampler(seed=each, warn_independent_sampling=False)
        case "qmc":
            return QMCSampler(seed=once, scramble=True, warn_independent_sampling=False)
        case "grid":
            return _Grid({path: list(dimension.values) for path, dimension in space.items()}, seed=once)
    raise ValueError(f"unknown sampler {kind!r}")


def make_pruner(kind: str, trials: int, first_evaluation: int, budget: int | None) -> BasePruner:
    """A pruner whose steps are training tokens.

    Args:
        kind: the spec's name for it.
        trials: trials of the arm; the median of fewer than a third of them (at most 5) judges nobody.
        first_evaluation: tokens at the first evaluation after the start.
        budget: tokens of a whole trial, or None where only the clock knows.
    """
    match kind:
        case "none":
            return NopPruner()
        case "median":
            return MedianPruner(n_startup_trials=min(5, max(2, trials // 3)))
        case "hyperband":
            return HyperbandPruner(min_resource=first_evaluation, max_resource=budget or "auto")
        case "successive_halving":
            return SuccessiveHalvingPruner(min_resource=first_evaluation)
    raise ValueError(f"unknown pruner {kind!r}")


def distribution(dimension: Dimension) -> BaseDistribution:
    """A tuned dimension as Optuna has it."""
    if dimension.kind == "choice":
        return CategoricalDistribution(list(dimension.values))
    low, high = dimension.values
    if dimension.kind == "int_uniform":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=dimension.kind == "log_uniform")
