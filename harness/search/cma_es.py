"""CMA-ES without pickles: the same points as Optuna's `CmaEsSampler`, with a state computed from the trials' results.

Optuna stores its optimizer as a pickle in a trial's system attributes and loads it from there. A storage that somebody
else made could run code that way. Here, only numbers are read: values, objective and generation of each trial.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from cmaes import CMA

GENERATION: Final = "cma:generation"  # Optuna's name of the system attribute with a trial's generation, from 0


class ReplayedCmaEs(CmaEsSampler):
    """CMA-ES for one trial: it tells a new optimizer all complete generations, then draws the trial's point.

    Args:
        seed: of this trial.
        startup: trials that must finish before results are used.
        population: trials of a generation.
    """

    def __init__(self, seed: int, startup: int, population: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup, popsize=population, warn_independent_sampling=False)
        self._seed, self._startup, self._population = seed, startup, population

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of the dimensions that are ranges; empty while too few trials have finished."""
        # Not `get_trials`, which under the pruner Hyperband has the trials of one bracket only.
        complete = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)
        if not search_space or len(complete) < self._startup:
            return {}
        transform = _SearchSpaceTransform(dict(search_space), transform_0_1=True)
        generations: dict[int, list[tuple[Any, float]]] = {}
        for one in complete:
            generation = one.system_attrs.get(GENERATION)
            if type(generation) is int and one.value is not None:
                generations.setdefault(generation, []).append((transform.transform(one.params), one.value))
        optimizer = self._optimizer(transform.bounds, generations)
        random = np.random.RandomState(self._seed)
        if not max(generations, default=0):
            random.randint(1, 2**31 - 2)  # Optuna draws a seed when it makes the first optimizer
        optimizer.reseed_rng(random.randint(1, 2**16) + trial.number)
        point = optimizer.ask()
        study._storage.set_trial_system_attr(trial._trial_id, GENERATION, optimizer.generation)
        return transform.untransform(point)

    def _optimizer(self, bounds: Any, generations: Mapping[int, list[tuple[Any, float]]]) -> CMA:
        """An optimizer that was told every complete generation.

        Args:
            bounds: of the transformed space, shape (dimensions, 2).
            generations: number of a generation → point and objective of its complete trials, by trial number.
        """
        from cmaes import CMA

        low, high = bounds[:, 0], bounds[:, 1]
        optimizer = CMA(
            mean=low + (high - low) / 2,
            sigma=np.min((high - low) / 6),
            bounds=bounds,
            n_max_resampling=10 * len(bounds),
            population_size=self._population,
        )
        newest = max(generations, default=0)
        while len(told := generations.get(generation := optimizer.generation, [])) >= self._population:
            optimizer.tell(told[: self._population])
            if generation < newest:
                # Optuna stored it here and loaded it again, which makes the covariance exactly symmetric.
                optimizer = copy.deepcopy(optimizer)
        return optimizer
