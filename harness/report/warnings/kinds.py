"""The kinds of warnings.

To add a warning, add a kind here, a detector with its line in `DETECTORS` in another module of this package, and a
planted case in `tests/support/warned_sweeps.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from harness.analysis.evidence import Evidence


class WarningKind(StrEnum):
    """The kinds of warnings, grouped by their subject."""

    # The search.
    EDGE = "the best value lies at an end of the search range"
    UNEQUAL_TRIALS = "arms were searched with unequal numbers of trials"
    SEARCH_UNFINISHED = "fewer trials than the spec asks for"
    FEW_TRIALS = "too few trials for the tuned dimensions"
    MOSTLY_PRUNED = "one arm's trials were mostly pruned"
    DIVERGED_TRIALS = "many trials diverged"
    BESIDE_DIVERGED = "the best trial lies next to diverged ones"
    ORDER_FLIPS = "the order of arms depends on the length of the search"
    OUTSIDE_SPACE = "trials lie outside the declared space"
    SEARCH_SEEDS = "trials have different seeds"
    TEST_READ = "the search read the test split"
    NOT_BEST = "the confirmed configuration is not the best trial"
    UNTRIED = "the confirmed configuration was not tried"
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
    SHORT = "complete runs ended before their budget"
    UNPLANNED = "runs are outside the plan"

    # The results.
    FEW_SEEDS = "too few seeds to detect differences that matter"
    ONE_SEED = "one seed drives the verdict"
    NO_EFFECT = "the compared setting had no effect"
    NOT_REPRODUCED = "confirm runs are far from the chosen trial"
    NONDETERMINISTIC = "equal runs gave different results"
    NON_FINITE = "a complete run has no finite loss"
    UNTRAINED = "a run's final loss is no better than its initial loss"
    OVERFITTED = "one arm ends far above its lowest loss"
    TEST_DISAGREES = "the test split shows the opposite"
    TEST_MISSING = "some runs have no test loss"

    # Whether arms are comparable.
    TARGETS = "runs were scored on different data"
    DATA_HASH = "runs had different data under the same name"
    COPIED_TEXT = "the same text is in different splits"
    LOST_TEXT = "a tokenizer does not keep the whole text"
    SETTINGS = "runs differ in settings that should be fixed"
    UNEQUAL_BUDGET = "arms were trained with different budgets"
    THROUGHPUT = "the machine's speed decided how long runs trained"
    COMMITS = "the runs of a pair come from different commits"
    DEVICES = "the runs of a pair come from different devices"
    VERSIONS = "the runs of a pair come from different versions of libraries"
    DIRTY = "the code had uncommitted changes"
    DROPPED_ARM = "an arm that was trained is not reported"
    PLAN = "the sweep departs from its plan"
    ALTERED = "runs cannot be read, or were changed after they were stored"

    # Information that does not change the conclusion: `_MINOR` lists these again.
    NEAR_EDGE = "the best trial lies near an end of the range"
    UNEQUAL_COMPLETE = "arms have unequal numbers of complete trials"
    RANDOM_SEARCH = "the search was random"
    PRUNED_EVERYWHERE = "most trials of every arm were pruned"
    EARLY_ORDER_FLIPS = "arms change places early in the search"
    SAME_ARMS = "arms are the same configuration"
    UNTUNED = "nothing was tuned"
    ENDED_EARLY = "runs ended early"
    REPLACED = "older runs were replaced"
    SINGLE_SEED = "there is one seed"
    OVERFITTED_EVERYWHERE = "every arm ends above its lowest loss"
    UNMATCHED_TOKENS = "arms have equal budgets but not equal tokens"
    OTHER_SETTINGS = "runs outside the comparison differ in other settings"
    MIXED_PROVENANCE = "runs come from several commits, devices or versions"
    EARLY_PLAN_CHANGE = "the plan was changed before any result"
    SEEDS_ONLY = "intervals are over seeds"

    @property
    def changes_conclusion(self) -> bool:
        """Whether a warning of this kind may change the conclusion of the sweep."""
        return self not in _MINOR


_MINOR: Final = frozenset(
    {
        WarningKind.NEAR_EDGE,
        WarningKind.UNEQUAL_COMPLETE,
        WarningKind.RANDOM_SEARCH,
        WarningKind.PRUNED_EVERYWHERE,
        WarningKind.EARLY_ORDER_FLIPS,
        WarningKind.SAME_ARMS,
        WarningKind.UNTUNED,
        WarningKind.ENDED_EARLY,
        WarningKind.REPLACED,
        WarningKind.SINGLE_SEED,
        WarningKind.OVERFITTED_EVERYWHERE,
        WarningKind.UNMATCHED_TOKENS,
        WarningKind.OTHER_SETTINGS,
        WarningKind.MIXED_PROVENANCE,
        WarningKind.EARLY_PLAN_CHANGE,
        WarningKind.SEEDS_ONLY,
    }
)


@dataclass(frozen=True)
class ReportWarning:
    """A warning about a sweep.

    Attributes:
        kind: its kind.
        text: the problem, where it occurs, its consequence and what to do, in one to three sentences.
        each: the texts about each arm, where `text` groups them.
    """

    kind: WarningKind
    text: str
    each: tuple[str, ...] = ()

    @property
    def changes_conclusion(self) -> bool:
        """Whether it may change the conclusion of the sweep."""
        return self.kind.changes_conclusion

    def __str__(self) -> str:
        return self.text


# Finds warnings of one kind, or of a few related ones, in a sweep.
Detector = Callable[[Evidence], Iterator[ReportWarning]]
