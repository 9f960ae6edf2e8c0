"""Optuna's samplers, pruners and distributions by their names in a spec.

Facts about them that need no Optuna are in `harness.config.samplers`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

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
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from harness.config import samplers as facts
from harness.config.dimensions import Dimension
from harness.core.rng import derive
from harness.core.text import unknown
from harness.search.cma_es import ReplayedCmaEs

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class _Grid(GridSampler):
    """Optuna's grid for ask and tell. The original stops the `optimize` loop at the end, which fails without one."""

    def after_trial(self, *_: object, **__: object) -> None:
        """Do nothing: the sweep counts the trials."""


@dataclass(frozen=True)
class SamplerScale:
    """Sizes that samplers depend on.

    Attributes:
        startup: trials that must finish before results are used.
        population: trials of a generation of CMA-ES.
    """

    startup: int = 1
    population: int = 4


def _grid(seed: int, space: Mapping[str, Dimension], _: SamplerScale) -> BaseSampler:
    return _Grid({path: list(dimension.values) for path, dimension in space.items()}, seed=seed)


# Name → sampler of a seed, a space and its sizes. A new one also needs a line in `harness.config.samplers`.
SAMPLERS: Final[Mapping[str, Callable[[int, Mapping[str, Dimension], SamplerScale], BaseSampler]]] = {
    "tpe": lambda seed, _, scale: TPESampler(seed=seed, n_startup_trials=scale.startup),
    "random": lambda seed, *_: RandomSampler(seed=seed),
    "grid": _grid,
    "qmc": lambda seed, *_: QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
    "gp": lambda seed, _, scale: GPSampler(seed=seed, n_startup_trials=scale.startup),
    "cmaes": lambda seed, _, scale: ReplayedCmaEs(seed, scale.startup, scale.population),
}


def make_sampler(
    kind: str, seed: int, number: int, space: Mapping[str, Dimension], scale: SamplerScale = SamplerScale()
) -> BaseSampler:
    """A sampler for the trial of this number.

    It is seeded by (seed, number): a continued study does not repeat its first points, and two arms with one seed try
    the same ones. A sampler with a fixed sequence is seeded by the seed alone; the study stores its
    position in the sequence.

    Raises:
        ValueError: no sampler has this name.
    """
    if kind not in SAMPLERS:
        raise ValueError(unknown(kind, SAMPLERS, "sampler"))
    words = () if facts.SAMPLERS[kind].fixed_sequence else (number,)
    return SAMPLERS[kind](derive(seed, "sampler", *words) % 2**32, space, scale)


@dataclass(frozen=True)
class PrunerScale:
    """Sizes that the settings of pruners depend on. Pruners count in training tokens.

    Attributes:
        trials: of the arm.
        first_evaluation: tokens at the first evaluation after the start.
        budget: tokens of a whole trial; None for a budget in seconds.
    """

    trials: int
    first_evaluation: int
    budget: int | None


# Name → pruner. A new one also needs a line in `harness.config.samplers`.
PRUNERS: Final[Mapping[str, Callable[[PrunerScale], BasePruner]]] = {
    "none": lambda _: NopPruner(),
    "median": lambda scale: MedianPruner(n_startup_trials=facts.startup_trials(scale.trials)),
    "hyperband": lambda scale: HyperbandPruner(
        min_resource=scale.first_evaluation, max_resource=scale.budget or "auto"
    ),
    "successive_halving": lambda scale: SuccessiveHalvingPruner(min_resource=scale.first_evaluation),
}


def make_pruner(kind: str, scale: PrunerScale) -> BasePruner:
    """The pruner of this name.

    Raises:
        ValueError: no pruner has it.
    """
    if kind not in PRUNERS:
        raise ValueError(unknown(kind, PRUNERS, "pruner"))
    return PRUNERS[kind](scale)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Optuna's distribution of a tuned dimension."""
    if dimension.kind == "choice":
        return CategoricalDistribution(list(dimension.values))
    low, high = dimension.values
    if dimension.kind == "int_uniform":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=dimension.kind == "log_uniform")
