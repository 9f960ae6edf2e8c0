"""How many confirm runs each arm gets, where their number is found out (`study.seeds: {min: 3, max: 12}`).

After a round, the comparisons that are still undecided get more seeds, and the baseline with them; the rule that keeps
the error rate although verdicts are read several times is in `harness.analysis.verdicts`. A verdict here is the
report's
own: the same function, over the same losses. It sees validation metrics and nothing else of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.config.run import RunConfig
from harness.config.spec import Arm, SweepSpec
from harness.core.outcomes import Outcome, Phase


class AdaptiveSeeds:
    """The confirm rounds of one sweep.

    Args:
        spec: what is asked; `spec.looks` has the seeds per arm after each round.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self.arms = spec.arms()
        self._place = 0  # of the present round
        self._results: dict[tuple[str, int], dict[str, Any]] = {}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that this round adds."""
        return self.spec.seeds[self.before : self.after]

    @property
    def before(self) -> int:
        """Seeds per arm before this round."""
        return (0, *self.spec.looks)[self._place]

    @property
    def after(self) -> int:
        """Seeds per arm after this round."""
        return self.spec.looks[self._place]

    def has(self, arm: str, seed: int) -> bool:
        """Whether an arm has a result on a seed."""
        return (arm, seed) in self._results

    def record(
        self, arm: str, seed: int, config: RunConfig, outcome: Outcome, measured: Mapping[str, float], run_id: str
    ) -> None:
        """Take what became of a confirm run; of what it measured, only the validation split is kept."""
        validation = {name: value for name, value in measured.items() if name.startswith("val/")}
        self._results[arm, seed] = {
            "run_id": run_id,
            "arm": arm,
            "phase": Phase.CONFIRM,
            "seed": seed,
            "outcome": outcome,
            **{path: value for path, value in config.flat().items() if path.startswith("data.")},
            **validation,
        }

    def undecided(self) -> Sequence[str]:
        """Arms whose verdict is still open after the runs so far."""
        from harness.analysis.comparison import undecided_arms  # pandas: not before it is needed

        names = [arm.name for arm in self.arms]
        baseline = self.spec.baseline_arm.name
        return undecided_arms(list(self._results.values()), baseline, names, self.spec.study.delta, self.spec.looks)

    def more(self) -> Sequence[Arm]:
        """Begin the next round, once every run of this one has ended: the arms that it trains, or none."""
        if self._place + 1 == len(self.spec.looks) or not (undecided := self.undecided()):
            return []
        self._place += 1
        return [arm for arm in self.arms if arm.name in undecided or arm.name == self.spec.baseline_arm.name]
