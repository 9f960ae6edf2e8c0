"""What may be wrong with a sweep: the kinds of flaws and notes, and the sweep as those who look for them see it.

A flaw may change what the sweep concludes and raises an alarm; a note only has to be known. Each kind has a detector in
`search_flaws`, `confirm_flaws`, `result_flaws` or `parity_flaws`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from harness.analysis.columns import numbers
from harness.analysis.comparison import Ground, common_ground, compare, verdict_runs
from harness.config.fields import EXCLUSIVE, short_name
from harness.config.spec import StudyConfig
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.report.text.numbers import listed, setting

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

SEED: Final = "train.seed"
_SECTIONS: Final = ("data.", "model.", "train.")
_NAMED: Final = 4  # names that a sentence lists before it only counts
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


class Flaw(StrEnum):
    """What may change the conclusion of a sweep, by where it went wrong."""

    # The search.
    EDGE = "the best value lies at an end of what was searched"
    UNEQUAL_TRIALS = "arms were searched with unequal numbers of trials"
    SEARCH_UNFINISHED = "fewer trials than the spec asks for"
    FEW_TRIALS = "too few trials for the dimensions that were tuned"
    MOSTLY_PRUNED = "one arm's trials were mostly pruned"
    DIVERGED_TRIALS = "many trials diverged"
    BESIDE_DIVERGED = "the best trial lies beside diverged ones"
    ORDER_FLIPS = "the order of arms depends on the length of the search"
    OUTSIDE_SPACE = "trials lie outside the declared space"
    SEARCH_SEEDS = "trials were compared over different seeds"
    TEST_READ = "the test split was read while selecting"
    NOT_BEST = "another trial than the best was confirmed"
    UNTRIED = "values were confirmed that no trial had"
    SPLIT_ARM = "one arm's confirm runs have different tuned values"

    # The confirm runs.
    RUNNING = "runs had not ended"
    UNFINISHED = "confirm runs are missing"
    NO_BASELINE = "the baseline has no result"
    DIVERGED_ARM = "an arm diverged"
    SURVIVORS = "the mean is over the seeds that survived"
    PRUNED_CONFIRM = "a confirm run was pruned"
    SEARCHED_SEED = "confirmed on the seed of the search"
    FALSE_PAIRS = "paired runs have different seeds"
    COUNTED_TWICE = "one result counts as several seeds"
    UNPAIRED = "arms were confirmed on different seeds"
    OFF_LOOK = "stopped between the planned looks"
    SHORT = "complete runs fall short of their budget"

    # The results.
    FEW_SEEDS = "too few seeds to see what matters"
    ONE_SEED = "one seed drives the verdict"
    NO_EFFECT = "the compared setting did nothing"
    NOT_REPRODUCED = "confirm runs are far from the trial that was chosen"
    NONDETERMINISTIC = "equal runs gave different results"
    NON_FINITE = "a complete run has no finite loss"
    UNTRAINED = "a run ended no better than it began"
    OVERFITTED = "one arm ends far above its lowest loss"
    TEST_DISAGREES = "the test split says the opposite"
    TEST_MISSING = "some runs did not read the test split"

    # What the arms have in common.
    TARGETS = "runs were scored on different data"
    DATA_HASH = "runs had other data under the same name"
    SETTINGS = "runs differ in what was to be fixed"
    UNEQUAL_BUDGET = "arms were trained for different budgets"
    THROUGHPUT = "the machine's speed decided how long runs trained"
    COMMITS = "pairs come from different commits"
    DEVICES = "pairs come from different devices"
    VERSIONS = "pairs come from different versions of libraries"
    DIRTY = "the code had uncommitted changes"
    DROPPED_ARM = "an arm that was trained is not reported"
    PLAN = "the sweep departs from its plan"


class Note(StrEnum):
    """What a reader should know, though nothing went wrong."""

    EDGE = "the best trial lies near an end of the range"
    UNEQUAL_COMPLETE = "unequal numbers of trials came to their end"
    RANDOM_SEARCH = "the search was random"
    PRUNED = "most trials of every arm were pruned"
    ORDER_FLIPS = "arms change places early in the search"
    SAME_ARMS = "arms are the same configuration"
    UNTUNED = "nothing was tuned"
    ENDED_EARLY = "runs ended early"
    REPLACED = "older runs were replaced"
    ONE_SEED = "there is one seed"
    OVERFITTED = "every arm ends above its lowest loss"
    UNMATCHED = "what the budget does not match"
    SETTINGS = "runs outside the comparison differ in other settings"
    PROVENANCE = "runs come from several commits, devices or versions"
    PLAN = "the plan was changed before any result"
    SEEDS_ONLY = "intervals are over seeds"


@dataclass(frozen=True)
class Caveat:
    """One thing that a reader must know before trusting a comparison.

    Attributes:
        kind: which one.
        text: what it is, where, what it means for the conclusion and what to do, in one to three sentences.
    """

    kind: Flaw | Note
    text: str

    @property
    def alarm(self) -> bool:
        """Whether it may change the conclusion."""
        return isinstance(self.kind, Flaw)

    def __str__(self) -> str:
        return self.text


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
    def ground(self) -> Ground:
        """What the arms are compared by."""
        return common_ground(self.runs)

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
        """Arm minus baseline by seed, over the verdict runs of both that have a finite value; for the other arms."""
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


def parameters(runs: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Every configured parameter but the seed, over the runs that have any (a run may fail before it knows its own)."""
    paths = [name for name in runs if str(name).startswith(_SECTIONS) and name != SEED]
    known = runs[runs[paths].notna().any(axis=1)]
    for path in paths:
        if not known.empty:
            yield path, known[path]


def constant(values: pd.Series) -> bool:
    """Whether every run has this parameter, and the same value of it."""
    return bool(values.notna().all()) and len(set(map(str, values.tolist()))) == 1


def by_seed(runs: pd.DataFrame, column: str) -> pd.Series:
    """The finite values of runs of one arm by seed."""
    values = pd.Series(numbers(runs, column).to_numpy(), index=runs["seed"].astype(int).to_numpy(), dtype=float)
    return values[np.isfinite(values)]


def compact(runs: pd.DataFrame) -> pd.DataFrame:
    """The same runs with text as plain objects: a frame of many text columns is then cut ten times as fast."""
    text = [name for name in runs if isinstance(runs[name].dtype, pd.StringDtype)]
    return runs.astype(dict.fromkeys(text, object)).copy()


def training_seeds(runs: pd.DataFrame) -> pd.Series:
    """The seed that each run was trained on: an A/A sweep's copies have another than the one they are paired by."""
    own = numbers(runs, SEED)
    return own.fillna(numbers(runs, "seed"))


def named(words: Sequence[str]) -> str:
    """`a, b and c`; of many only the first few: `a, b, c, d and 3 more`."""
    extra = len(words) - _NAMED
    return listed(words if extra < 2 else [*words[:_NAMED], f"{extra} more"])


def seeds_named(seeds: Iterable[Any], word: str = "seed") -> str:
    """`seed 3`, `seeds 2 and 3`, `seeds 2 to 5 and 9`."""
    known = sorted({int(seed) for seed in seeds})
    # Consecutive seeds keep the same distance from their place in the order.
    runs = [[seed for _, seed in group] for _, group in groupby(enumerate(known), lambda pair: pair[1] - pair[0])]
    parts = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else list(map(str, run)) for run in runs]
    return f"{word}{'s' if len(known) > 1 else ''} {named([text for part in parts for text in part])}"


def values_named(values: dict[str, Any]) -> str:
    """Tuned values as `learning_rate=1.2e-3, weight_decay=0.1`."""
    return ", ".join(f"{short_name(path)}={setting(value)}" for path, value in values.items())
