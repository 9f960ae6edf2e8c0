"""Every statistic of a sweep, computed once for all parts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from harness.analysis.budget import arm_costs, budgets, run_costs
from harness.analysis.columns import by_seed, compact, constant, finite, numbers, other_metrics, parameters
from harness.analysis.comparison import compare_counted_runs, in_unit
from harness.analysis.factors import FactorEffects, interactions, marginals
from harness.analysis.grid import grid_of
from harness.analysis.planned import set_aside, unplanned_runs
from harness.analysis.rule import rule_of
from harness.analysis.search_quality import Floats, crossings_of, expected_best, expected_best_band
from harness.analysis.seed_noise import Spread, spread_of
from harness.analysis.selected_runs import SelectedRuns
from harness.analysis.statistics import Interval, mean_interval
from harness.analysis.trials import ArmTrials, arm_trials
from harness.config.fields import EXCLUSIVE
from harness.config.mixture import is_mix_field, plain_path
from harness.config.samplers import SAMPLERS
from harness.config.sections import PRESET_FIELDS
from harness.config.starting import FIELDS
from harness.core import metrics

if TYPE_CHECKING:
    from harness.analysis.importance import Importance
    from harness.tracking import SweepRecord


# Compared or tuned path → other parameters that follow from it.
_IMPLIED: Final = {
    "data.tokenizer": {"model.vocab_size"},
    "data.vocab": {"model.vocab_size"},
    "model.init_from": {"model.init_sha256", *(f"model.{name}" for name in FIELDS)},
    "model.preset": {f"model.{name}" for name in PRESET_FIELDS},
}

# Metrics whose spread over seeds is shown, in addition to the one that compares the arms.
_SPREAD: Final = (metrics.VAL_LOSS, metrics.VAL_BITS_PER_BYTE, metrics.TEST_LOSS, metrics.TEST_BITS_PER_BYTE)

_TEXTS: Final = frozenset({"data.corpus", "data.path", "data.url"})


@dataclass(frozen=True, eq=False)
class Evidence(SelectedRuns):
    """A sweep, and every statistic that its report shows; each is computed once, on first access."""

    @cached_property
    def delta(self) -> float:
        """δ in the unit of the metric, converted as for the verdicts: by the baseline's tokens per byte."""
        baseline = self.counted[self.counted["arm"] == self.record.baseline]
        return in_unit(self.delta_nats, self.metric, baseline)

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """One row per arm, as `harness.analysis.comparison.compare` returns them."""
        baseline = self.rule.baseline if len(self.arms) > 1 and self.ranked else None
        rule = self.rule
        return compare_counted_runs(
            self.counted, self.confirm_seeds, self.arms, baseline, self.metric, rule.delta, rule.looks, rule.method
        )

    @cached_property
    def other_metrics(self) -> dict[str, list[Interval]]:
        """Metric that `harness.core.metrics` does not name → mean and interval over the verdict runs of each arm."""
        return {
            name: [mean_interval(finite(self.verdict_runs_of[arm], name)) for arm in self.arms]
            for name in other_metrics(self.verdict_runs)
        }

    @cached_property
    def compared(self) -> pd.DataFrame:
        """The rows of `comparison` for the arms other than the baseline; empty if arms are not ranked."""
        rows = self.comparison
        return rows[~rows["is_baseline"]] if rows["is_baseline"].any() else rows.iloc[:0]

    @cached_property
    def factors(self) -> FactorEffects | None:
        """Main effects and interactions; None with fewer than two factors, with equal arms, or without verdicts."""
        if self.comparison["verdict"].isna().all():
            return None
        found = grid_of(self.counted, self.confirm_seeds, self.record, self.metric)
        if found is None:
            return None
        delta, looks = float(self.comparison["delta"].max()), self.record.study.get("looks")
        return FactorEffects(
            found,
            marginals(found, self.metric, delta, looks, self.rule.method),
            interactions(found, self.metric, delta, looks, self.rule.method),
        )

    @cached_property
    def spreads(self) -> dict[str, Spread]:
        """Metric → spread over the seeds of the only arm; empty with several arms or if something was tuned."""
        if len(self.arms) != 1 or self.record.tune:
            return {}
        values = {name: finite(self.chosen, name) for name in dict.fromkeys((self.metric, *_SPREAD))}
        return {name: spread_of(list(found), name) for name, found in values.items() if len(found) > 1}

    @property
    def space(self) -> Mapping[str, Mapping[str, Sequence[Any]]]:
        """The tuned dimensions that are columns of the runs, path → {kind: values}."""
        return {path: self.record.tune[path] for path in self.tuned}

    @cached_property
    def trials(self) -> dict[str, ArmTrials]:
        """The explore trials of each arm as plain values; empty if nothing was tuned or tried."""
        found = arm_trials(self.runs, self.arms, self.space, self.metric) if self.space else {}
        return found if any(trials.run_ids for trials in found.values()) else {}

    @cached_property
    def unmodelled(self) -> dict[str, int]:
        """Arm → trials whose values no earlier result decided; empty for samplers that never use results."""
        study = self.record.study
        facts = SAMPLERS.get(str(study.get("sampler")))
        if facts is None or not facts.learns:
            return {}
        planned = int(study.get("unmodelled_trials", facts.old_startup_trials))
        return {
            arm: min(planned, len(trials.run_ids)) if trials.random is None else trials.random
            for arm, trials in self.trials.items()
        }

    @cached_property
    def expected_best(self) -> dict[str, Floats]:
        """Arm → expected best of k trials, where a diverged trial counts as an untrained model; shape (trials,)."""
        return {arm: expected_best(trials.counted) for arm, trials in self.trials.items()}

    @cached_property
    def expected_best_bands(self) -> dict[str, Floats]:
        """Arm → the 10 % and 90 % quantiles of `expected_best`, shape (2, trials // 3)."""
        return {arm: expected_best_band(trials.counted) for arm, trials in self.trials.items()}

    @cached_property
    def crossings(self) -> list[tuple[str, str, int]]:
        """Pairs of arms whose order by `expected_best` depends on k; empty if arms are not ranked."""
        return crossings_of(self.expected_best) if self.ranked else []

    @cached_property
    def expected_best_complete(self) -> dict[str, Floats]:
        """Arm → expected best of k complete trials; shape (trials,)."""
        return {arm: self._expected_best_complete(arm) for arm in self.trials_of}

    def _expected_best_complete(self, arm: str) -> Floats:
        losses = numbers(self.trials_of[arm], self.metric).to_numpy()
        same = arm in self.trials and np.array_equal(losses, self.trials[arm].counted)
        return self.expected_best[arm] if same else expected_best(losses)

    @cached_property
    def complete_crossings(self) -> list[tuple[str, str, int]]:
        """Pairs of arms whose order by `expected_best_complete` depends on k; empty if arms are not ranked."""
        if not self.ranked:
            return []
        lines = self.expected_best_complete
        same = all(lines[arm] is self.expected_best.get(arm) for arm in lines)
        return self.crossings if same else crossings_of(lines)

    @cached_property
    def importances(self) -> dict[str, Importance | None]:
        """Arm → importance, None with too few trials; empty for one tuned dimension, since there is nothing to rank."""
        if len(self.space) < 2:
            return {}
        from harness.analysis.importance import importance  # scikit-learn

        return {
            arm: importance(trials.complete, trials.losses, self.space)
            for arm, trials in self.trials.items()
            if trials.complete
        }

    @cached_property
    def run_costs(self) -> pd.DataFrame:
        """The cost of one confirm run of each arm."""
        return run_costs(self.chosen, self.arms)

    @cached_property
    def arm_costs(self) -> pd.DataFrame:
        """The total cost of each arm."""
        return arm_costs(self.runs, self.arms)

    @cached_property
    def budgets(self) -> dict[str, dict[str, float]]:
        """Kind of budget → arm → the budget of its confirm runs."""
        return budgets(self.chosen)

    def differences(self, metric: str) -> dict[str, pd.Series]:
        """Arm → differences to the baseline by seed, over verdict runs with a finite value; empty if not ranked."""
        if not self.ranked:
            return {}
        values = {arm: by_seed(runs, metric) for arm, runs in self.verdict_runs_of.items()}
        base = values[self.record.baseline]
        return {arm: (values[arm] - base).dropna().sort_index() for arm in self.others}

    @cached_property
    def expected(self) -> set[str]:
        """Parameters that should differ: compared and tuned ones, and those that follow from them."""
        paths = {*self.record.compare, *self.record.tune}
        for path in [*paths]:
            paths |= _IMPLIED.get(path, set())
            paths |= {other for group in EXCLUSIVE if path in group for other in group}
            if plain_path(path) in _TEXTS and is_mix_field(path):
                paths |= {f"{path.rpartition('.')[0]}.{other}" for other in ("corpus", "path")}
        return paths | ({"data.sha256"} if paths & _TEXTS else set())

    @cached_property
    def unintended(self) -> dict[str, pd.Series]:
        """Parameters that differ between the runs behind conclusions but are neither compared nor tuned."""
        return self.unintended_in(self.results)

    def unintended_in(self, runs: pd.DataFrame) -> dict[str, pd.Series]:
        """Parameters that differ between these runs but are neither compared nor tuned: path → values."""
        return {
            path: values
            for path, values in parameters(runs)
            if path not in self.expected and not constant(values) and values.notna().any()
        }


def read_evidence(
    record: SweepRecord,
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    positions: pd.DataFrame | None = None,
) -> Evidence:
    """The evidence of a sweep, from frames as the tracking readers return them."""
    runs = compact(runs)
    outside = unplanned_runs(runs, rule_of(record))
    curves, positions = (None if frame is None else set_aside(frame, outside) for frame in (curves, positions))
    return Evidence(record, set_aside(runs, outside), curves, positions, outside)
