"""The samplers and pruners that a spec may name, and facts about them that other modules need without Optuna.

To add one, add a line here and its Optuna class in `harness.search.samplers`; a test fails if one of them is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class SamplerFacts:
    """Facts about a sampler.

    Attributes:
        description: for the reference of the spec.
        choices_only: it visits all points of a finite space, so every tuned dimension is a choice, and
            `study.trials` is by default the number of points.
        fixed_sequence: its points are one sequence for the whole study, so it has one seed; the others get a new seed
            for each trial.
        learns: its next trial depends on the results of earlier ones, after some random trials.
        most_startup_trials: of these random trials, where the spec does not say how many.
        old_startup_trials: random trials in sweeps made before `study.startup_trials` existed.
        random_choices: it draws choices at random, whatever the results.
    """

    description: str
    choices_only: bool = False
    fixed_sequence: bool = False
    learns: bool = False
    most_startup_trials: int = 0
    old_startup_trials: int = 0
    random_choices: bool = False


# TPE and GP need two results to tell better from worse; Optuna's own default are 10 random trials.
_MODEL: Final[Mapping[str, Any]] = {"learns": True, "most_startup_trials": 5, "old_startup_trials": 10}

SAMPLERS: Final[Mapping[str, SamplerFacts]] = {
    "tpe": SamplerFacts("tree-structured Parzen estimator", **_MODEL),
    "random": SamplerFacts("independent random points"),
    "grid": SamplerFacts("every point of a grid; choices only", choices_only=True, fixed_sequence=True),
    "qmc": SamplerFacts("a scrambled Sobol sequence", fixed_sequence=True),
    "gp": SamplerFacts("Bayesian optimization with a Gaussian process", **_MODEL),
    "cmaes": SamplerFacts(
        "CMA-ES; it draws choices at random",
        learns=True,
        most_startup_trials=1,  # its first generation is drawn around the middle of the space
        old_startup_trials=1,
        random_choices=True,
    ),
}

PRUNERS: Final[Mapping[str, str]] = {
    "none": "no trial is stopped early",
    "median": "stops a trial that is worse than the median of earlier ones",
    "hyperband": "several rounds of successive halving",
    "successive_halving": "stops all but the best of the trials at growing shares of the budget",
}


def population(dimensions: int, trials: int) -> int:
    """Trials of a generation of CMA-ES: 4 + 3 ln d (Hansen 2016), but 4 in searches of fewer than three of those."""
    usual = 4 + math.floor(3 * math.log(max(1, dimensions)))
    return usual if trials >= 3 * usual else 4


def startup_trials(trials: int, most: int = 5) -> int:
    """Trials before a sampler or a pruner uses results: a third of all, at least 2, and at most `most`."""
    return min(most, max(2, trials // 3))
