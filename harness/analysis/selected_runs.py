"""The runs of a sweep, selected and grouped once: those that verdicts, tables and figures are based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.analysis.columns import numbers
from harness.analysis.comparison import Comparability, comparability, confirm_seeds, one_run_each, verdict_runs
from harness.analysis.divergence import counted_runs
from harness.analysis.rule import Rule, rule_of
from harness.core.outcomes import Outcome, Phase

if TYPE_CHECKING:
    from harness.tracking import SweepRecord


@dataclass(frozen=True, eq=False)
class SelectedRuns:
    """The runs of a sweep in the groups that statistics are computed over; each group is made once, on first access.

    Attributes:
        record, runs: one sweep, as the tracking readers return it.
        curves: as `load_curves` returns them; None: no figures over training.
        positions: as `load_positions` returns them, for a sweep that compares context lengths.
        unplanned: run id → why this confirm run is outside the plan; its phase in the frames is `unplanned`.
    """

    record: SweepRecord
    runs: pd.DataFrame
    curves: pd.DataFrame | None = None
    positions: pd.DataFrame | None = None
    unplanned: Mapping[str, str] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """Names, in the order of the spec."""
        return [arm.name for arm in self.record.arms]

    @property
    def others(self) -> list[str]:
        """The arms that are compared with the baseline."""
        return [arm for arm in self.arms if arm != self.record.baseline]

    @cached_property
    def equal_arms(self) -> list[list[str]]:
        """Groups of two or more arms with equal values, by name: an A/A sweep."""
        groups: dict[str, list[str]] = {}
        for arm in self.record.arms:
            groups.setdefault(repr(sorted(arm.values.items())), []).append(arm.name)
        return [names for names in groups.values() if len(names) > 1]

    @cached_property
    def confirmed(self) -> pd.DataFrame:
        """Every confirm run, however it ended."""
        return self._of_arms(self.runs[self.runs["phase"] == Phase.CONFIRM])

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The runs that verdicts are based on, and those of arms that the sweep no longer has."""
        return verdict_runs(self.runs)

    @cached_property
    def verdict_runs(self) -> pd.DataFrame:
        """The runs that verdicts are based on."""
        return self._of_arms(self.chosen)

    @cached_property
    def counted(self) -> pd.DataFrame:
        """`chosen`, and the diverged confirm runs with the loss of an untrained model (column `diverged`)."""
        return counted_runs(self.runs, self.chosen)

    @cached_property
    def confirm_seeds(self) -> list[int]:
        """The seeds of all confirm runs, however they ended."""
        return confirm_seeds(self.runs)

    @cached_property
    def shown_runs(self) -> dict[str, tuple[str, int]]:
        """Arm → run id and seed of the run that represents it, with a seed that all arms share if there is one."""
        return one_run_each(self.chosen, self.arms)

    @cached_property
    def explored(self) -> pd.DataFrame:
        """Every explore trial, however it ended."""
        return self._of_arms(self.runs[self.runs["phase"] == Phase.EXPLORE])

    @cached_property
    def complete_trials(self) -> pd.DataFrame:
        """The complete explore trials with a finite result; an arm's configuration is chosen from these."""
        finite = np.isfinite(numbers(self.explored, self.metric))
        return self.explored[(self.explored["outcome"] == Outcome.COMPLETE) & finite]

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The explore trials that count towards the planned number: complete, pruned or diverged, but not failed."""
        counting = [Outcome.COMPLETE, Outcome.PRUNED, Outcome.DIVERGED]
        return self.explored[self.explored["outcome"].isin(counting)]

    @cached_property
    def results(self) -> pd.DataFrame:
        """The runs behind conclusions: the verdict runs and the complete trials."""
        return pd.concat([self.verdict_runs, self.complete_trials])

    def _of_arms(self, runs: pd.DataFrame) -> pd.DataFrame:
        return runs[runs["arm"].isin(self.arms)]

    @cached_property
    def verdict_runs_of(self) -> dict[str, pd.DataFrame]:
        """The runs that verdicts are based on, by arm."""
        return self._split(self.verdict_runs)

    @cached_property
    def trials_of(self) -> dict[str, pd.DataFrame]:
        """The complete explore trials by arm."""
        return self._split(self.complete_trials)

    def _split(self, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
        found = dict(iter(runs.groupby("arm", sort=False)))
        return {arm: found.get(arm, runs.iloc[:0]) for arm in self.arms}

    @property
    def tuned(self) -> list[str]:
        """Tuned paths that are columns of the runs (a preset is not: runs store the fields it sets)."""
        return [path for path in self.record.tune if path in self.runs]

    @cached_property
    def looks(self) -> Sequence[int]:
        """Seeds per arm at each look at the verdicts; one number if every arm gets all seeds."""
        return tuple(self.record.study.get("looks") or (int(self.record.study["seeds"]),))

    @property
    def adaptive(self) -> bool:
        """Whether arms may have different numbers of seeds by design."""
        return len(self.looks) > 1

    @cached_property
    def comparability(self) -> Comparability:
        """The metric that compares the arms, and whether they can be ranked."""
        return comparability(self.runs, self.chosen, self.rule.tune)

    @property
    def metric(self) -> str:
        """The metric that compares the arms."""
        return self.comparability.metric

    @property
    def ranked(self) -> bool:
        """Whether arms are compared with each other."""
        return self.comparability.ranked

    @cached_property
    def rule(self) -> Rule:
        """What the verdicts depend on besides the runs."""
        return rule_of(self.record)

    @property
    def delta_nats(self) -> float:
        """δ in nats per token."""
        return self.rule.delta
