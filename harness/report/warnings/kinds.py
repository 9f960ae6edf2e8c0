"""The kinds of warnings that a report may give.

A new warning is a kind here, a detector and its line in the `DETECTORS` of a module beside this one, and a planted case
in `tests/support/warned_sweeps.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from harness.analysis.evidence import Evidence


class WarningKind(StrEnum):
    """What a report warns of, by where it went wrong."""

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

    # What a reader should know, though nothing went wrong: `_MINOR` lists these again.
    NEAR_EDGE = "the best trial lies near an end of the range"
    UNEQUAL_COMPLETE = "unequal numbers of trials came to their end"
    RANDOM_SEARCH = "the search was random"
    PRUNED_EVERYWHERE = "most trials of every arm were pruned"
    EARLY_ORDER_FLIPS = "arms change places early in the search"
    SAME_ARMS = "arms are the same configuration"
    UNTUNED = "nothing was tuned"
    ENDED_EARLY = "runs ended early"
    REPLACED = "older runs were replaced"
    SINGLE_SEED = "there is one seed"
    OVERFITTED_EVERYWHERE = "every arm ends above its lowest loss"
    UNMATCHED_TOKENS = "what the budget does not match"
    OTHER_SETTINGS = "runs outside the comparison differ in other settings"
    MIXED_PROVENANCE = "runs come from several commits, devices or versions"
    EARLY_PLAN_CHANGE = "the plan was changed before any result"
    SEEDS_ONLY = "intervals are over seeds"

    @property
    def changes_conclusion(self) -> bool:
        """Whether a warning of this kind may change what the sweep concludes."""
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
    """One thing that a reader must know before trusting a comparison.

    Attributes:
        kind: which one.
        text: what it is, where, what it means for the conclusion and what to do, in one to three sentences.
    """

    kind: WarningKind
    text: str

    @property
    def changes_conclusion(self) -> bool:
        """Whether it may change what the sweep concludes."""
        return self.kind.changes_conclusion

    def __str__(self) -> str:
        return self.text


# Looks for one kind of fault, or a few related ones, in a sweep.
Detector = Callable[[Evidence], Iterator[ReportWarning]]
