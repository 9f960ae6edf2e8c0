"""How many seeds each arm is confirmed on, where `study.seeds` is a range: `{min: 3, max: 12}`.

After each round, the arms whose comparison is still undecided get more seeds, and so does the baseline. Verdicts come
from the report's own function (`harness.analysis.verdicts`), which also controls the error rate over several looks.
Only validation metrics are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.plan import known_version
from harness.config.run import RunConfig
from harness.config.spec import Arm, SweepSpec
from harness.core.outcomes import Outcome, Phase


class AdaptiveSeeds:
    """The rounds of confirm runs; a fixed number of seeds is one round.

    Args:
        spec: the sweep; `spec.looks` are the seeds per arm after each round.
        method: of its analysis plan; None: the newest.
    """

    def __init__(self, spec: SweepSpec, method: str | None = None) -> None:
        self.spec, self._planned = spec, method
        self.arms = spec.arms()
        self._round = 0
        self._results: dict[tuple[str, int], dict[str, Any]] = {}

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that this round adds."""
        return self.spec.seeds[self.before : self.after]

    @property
    def before(self) -> int:
        """Seeds per arm before this round."""
        return (0, *self.spec.looks)[self._round]

    @property
    def after(self) -> int:
        """Seeds per arm after this round."""
        return self.spec.looks[self._round]

    def has(self, arm: str, seed: int) -> bool:
        """Whether an arm has a result on a seed."""
        return (arm, seed) in self._results

    def record(
        self,
        arm: str,
        seed: int,
        config: RunConfig,
        outcome: Outcome,
        measured: Mapping[str, float],
        run_id: str,
        initial_loss: float | None = None,
    ) -> None:
        """Add the result of a confirm run.

        Args:
            arm, seed, config, outcome, run_id: of the run.
            measured: its last metrics; those of other splits than validation are ignored.
            initial_loss: its validation loss before the first step, as which a diverged run counts; None: unknown.
        """
        validation = {name: value for name, value in measured.items() if name.startswith("val/")}
        self._results[arm, seed] = {
            "run_id": run_id,
            "arm": arm,
            "phase": Phase.CONFIRM,
            "seed": seed,
            "outcome": outcome,
            "initial_val_loss": initial_loss,
            **{path: value for path, value in config.flat().items() if path.startswith("data.")},
            **validation,
        }

    def undecided(self) -> Sequence[str]:
        """Arms without a verdict after the runs so far."""
        from harness.analysis.comparison import undecided_arms  # imports pandas

        names = [arm.name for arm in self.arms]
        baseline = self.spec.baseline_arm.name
        spec, results, method = self.spec, list(self._results.values()), known_version(self._planned)
        return undecided_arms(results, baseline, names, spec.study.delta, spec.looks, spec.objective, method)

    def next_round(self) -> Sequence[Arm]:
        """Begin the next round, once all runs of this one have ended; returns the arms it trains, or none."""
        if self._round + 1 == len(self.spec.looks) or not (undecided := self.undecided()):
            return []
        self._round += 1
        trained = {*undecided, self.spec.baseline_arm.name}
        return [arm for arm in self.arms if arm.name in trained]
