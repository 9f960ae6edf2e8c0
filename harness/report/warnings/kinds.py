"""What may be wrong with a sweep: the kinds of flaws and notes, and the sweep as those who look for them see it.

A flaw may change what the sweep concludes and raises an alarm; a note only has to be known. Each kind has a detector in
`search_flaws`, `confirm_flaws`, `result_flaws` or `parity_flaws`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class WarningKind(StrEnum):
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
class ReportWarning:
    """One thing that a reader must know before trusting a comparison.

    Attributes:
        kind: which one.
        text: what it is, where, what it means for the conclusion and what to do, in one to three sentences.
    """

    kind: WarningKind | Note
    text: str

    @property
    def alarm(self) -> bool:
        """Whether it may change the conclusion."""
        return isinstance(self.kind, WarningKind)

    def __str__(self) -> str:
        return self.text
