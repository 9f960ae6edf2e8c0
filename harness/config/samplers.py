"""The samplers and pruners that a spec may name, and facts about them that other modules need without Optuna.

To add one, add a line here and its Optuna class in `harness.search.samplers`; a test fails if one of them is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class SamplerFacts:
    """Facts about a sampler.

    Attributes:
        description: for the reference of the spec.
        choices_only: it visits all points of a finite space, so every tuned dimension is a choice, and
            `study.trials` is by default the number of points.
        fixed_sequence: its points are one sequence for the whole study, so it has one seed; the others get a new seed
            for each trial.
        learns: its next trial depends on the results of earlier ones.
        startup_trials: trials that it draws at random before it uses any result.
    """

    description: str
    choices_only: bool = False
    fixed_sequence: bool = False
    learns: bool = False
    startup_trials: int = 0


SAMPLERS: Final[Mapping[str, SamplerFacts]] = {
    "tpe": SamplerFacts("tree-structured Parzen estimator", learns=True, startup_trials=10),
    "random": SamplerFacts("independent random points"),
    "grid": SamplerFacts("every point of a grid; choices only", choices_only=True, fixed_sequence=True),
    "qmc": SamplerFacts("a scrambled Sobol sequence", fixed_sequence=True),
    "gp": SamplerFacts("Bayesian optimization with a Gaussian process", learns=True),
    "cmaes": SamplerFacts("CMA-ES", learns=True),
}

PRUNERS: Final[Mapping[str, str]] = {
    "none": "no trial is stopped early",
    "median": "stops a trial that is worse than the median of earlier ones",
    "hyperband": "several rounds of successive halving",
    "successive_halving": "stops all but the best of the trials at growing shares of the budget",
}
