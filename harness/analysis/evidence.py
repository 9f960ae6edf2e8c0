"""Everything that a report rests on, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from harness.analysis.columns import by_seed, constant, numbers, parameters
from harness.analysis.comparison import Comparability, comparability, compare, verdict_runs
from harness.config.fields import EXCLUSIVE
from harness.config.spec import StudyConfig
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase

if TYPE_CHECKING:
    from harness.tracking import SweepRecord


# What a compared or tuned path decides besides itself.
_IMPLIED: Final = {
    "data.tokenizer": {"model.vocab_size"},
    "data.vocab": {"model.vocab_size"},
    "model.preset": {
        f"model.{name}"
        for name in ("vocab_size", "context_length", "drop_rate", "qkv_bias", "emb_dim", "n_heads", "n_layers")
    },
}

_TEXTS: Final = frozenset({"data.corpus", "data.path", "data.url"})


@dataclass(frozen=True)
class Evidence:
    """A sweep, and what several detectors need to know of it.

    Attributes:
        record, runs: as the tracking readers give them, of one sweep.
    """

    record: SweepRecord
    runs: pd.DataFrame

    @property
    def arms(self) -> list[str]:
        """Names, in the order of the spec."""
        return [arm.name for arm in self.record.arms]

    @property
    def others(self) -> list[str]:
        """The arms that are compared with the baseline."""
        return [arm for arm in self.arms if arm != self.record.baseline]

    @cached_property
    def same(self) -> list[list[str]]:
        """Names of arms with equal values, where there are several of them: an A/A sweep."""
        groups: dict[str, list[str]] = {}
        for arm in self.record.arms:
            groups.setdefault(repr(sorted(arm.values.items())), []).append(arm.name)
        return [names for names in groups.values() if len(names) > 1]

    @cached_property
    def confirmed(self) -> pd.DataFrame:
        """Every confirm run, however it ended."""
        return self._of_arms(self.runs[self.runs["phase"] == Phase.CONFIRM])

    @cached_property
    def verdict(self) -> pd.DataFrame:
        """The runs that verdicts rest on."""
        return self._of_arms(verdict_runs(self.runs))

    @cached_property
    def explored(self) -> pd.DataFrame:
        """Every explore trial, however it ended."""
        return self._of_arms(self.runs[self.runs["phase"] == Phase.EXPLORE])

    @cached_property
    def complete_trials(self) -> pd.DataFrame:
        """The explore trials that an arm's configuration is chosen from."""
        finite = np.isfinite(numbers(self.explored, metrics.VAL_LOSS))
        return self.explored[(self.explored["outcome"] == Outcome.COMPLETE) & finite]

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The explore trials that count as searched: complete, pruned or diverged; failed ones are replaced."""
        counting = [Outcome.COMPLETE, Outcome.PRUNED, Outcome.DIVERGED]
        return self.explored[self.explored["outcome"].isin(counting)]

    @cached_property
    def results(self) -> pd.DataFrame:
        """The runs that a conclusion can come from: those of the verdicts, and the trials that were chosen from."""
        return pd.concat([self.verdict, self.complete_trials])

    def _of_arms(self, runs: pd.DataFrame) -> pd.DataFrame:
        return runs[runs["arm"].isin(self.arms)]

    @cached_property
    def verdict_of(self) -> dict[str, pd.DataFrame]:
        """The runs that verdicts rest on, by arm."""
        return self._split(self.verdict)

    @cached_property
    def trials_of(self) -> dict[str, pd.DataFrame]:
        """The explore trials that each arm's configuration is chosen from."""
        return self._split(self.complete_trials)

    def _split(self, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
        found = dict(iter(runs.groupby("arm", sort=False)))
        return {arm: found.get(arm, runs.iloc[:0]) for arm in self.arms}

    @property
    def tuned(self) -> list[str]:
        """Tuned paths that runs have a column for (a preset has none: it is written out)."""
        return [path for path in self.record.tune if path in self.runs]

    @cached_property
    def looks(self) -> Sequence[int]:
        """Seeds per arm at which verdicts were read; one number where every arm gets all seeds."""
        return tuple(self.record.study.get("looks") or (int(self.record.study["seeds"]),))

    @property
    def adaptive(self) -> bool:
        """Whether arms may have different numbers of seeds by design."""
        return len(self.looks) > 1

    @cached_property
    def ground(self) -> Comparability:
        """What the arms are compared by."""
        return comparability(self.runs)

    @property
    def nats(self) -> float:
        """δ in nats per token."""
        return float(self.record.study.get("delta") or StudyConfig().delta)

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """The rows of the arms that are compared with the baseline; none where arms are not ranked."""
        if len(self.arms) < 2 or not self.ranked:
            return pd.DataFrame({"arm": [], "pairs": []})
        looks = self.looks if self.adaptive else None
        table = compare(self.runs, self.record.baseline, self.ground.metric, self.arms, self.nats, looks)
        return table[~table["is_baseline"]]

    @property
    def ranked(self) -> bool:
        """Whether arms are compared with each other."""
        return self.ground.ranked

    def differences(self, metric: str) -> dict[str, pd.Series]:
        """Arm minus baseline by seed, over the verdict runs of both that have a finite value; for the other arms.

        Empty where arms are not ranked.
        """
        if not self.ranked:
            return {}
        values = {arm: by_seed(runs, metric) for arm, runs in self.verdict_of.items()}
        base = values[self.record.baseline]
        return {arm: (values[arm] - base).dropna().sort_index() for arm in self.others}

    @cached_property
    def expected(self) -> set[str]:
        """Parameters that are meant to differ: what is compared and tuned, and what follows from it."""
        paths = {*self.record.compare, *self.record.tune}
        for path in [*paths]:
            paths |= _IMPLIED.get(path, set())
            paths |= {other for group in EXCLUSIVE if path in group for other in group}
        return paths | ({"data.sha256"} if paths & _TEXTS else set())

    @cached_property
    def unintended(self) -> dict[str, pd.Series]:
        """Parameters that differ between the runs a conclusion can come from, though nobody asked for it."""
        return self.unintended_in(self.results)

    def unintended_in(self, runs: pd.DataFrame) -> dict[str, pd.Series]:
        """Parameters that differ between some runs, though they are neither compared nor tuned: path → values."""
        return {
            path: values
            for path, values in parameters(runs)
            if path not in self.expected and not constant(values) and values.notna().any()
        }
