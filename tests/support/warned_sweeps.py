"""Sweeps with one planted fault: a clean sweep, changed so that a reviewer would reject it.

`PLANTS` has them all; each says which warning a report has to give, and which others follow from the same fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

import example_sweep as example
from clean_sweeps import DELTA, clean_sweep
from harness.analysis.plan import METHOD_VERSION
from harness.report.warnings.kinds import WarningKind
from harness.tracking import PlanChange, SweepRecord

RATE = "train.learning_rate"
LOSSES = ["val/loss", "test/loss", "best_val_loss"]

Planted = tuple[SweepRecord, pd.DataFrame, tuple[str, ...]]
Planting = Callable[[SweepRecord, pd.DataFrame], Planted]


@dataclass(frozen=True)
class Plant:
    """One fault.

    Attributes:
        name: of the function that plants it.
        kind: of the warning that the report has to give.
        also: other warnings that the same fault brings with it.
        base: how the clean sweep is drawn.
        plant: record and runs of the clean sweep → those with the fault, and what the sentence has to say.
    """

    name: str
    kind: WarningKind
    also: frozenset[WarningKind]
    base: dict[str, Any]
    plant: Planting

    def clean(self, number: int) -> tuple[SweepRecord, pd.DataFrame]:
        """The sweep without the fault."""
        return clean_sweep(number, mishaps=False, **self.base)

    def planted(self, number: int) -> Planted:
        """The same sweep with the fault, and the words that its warning must contain."""
        record, runs = self.clean(number)
        return self.plant(record, runs.copy())


PLANTS: list[Plant] = []


def planted(kind: WarningKind, *also: WarningKind, **base: Any) -> Callable[[Planting], Planting]:
    """Register a fault for three arms, six seeds and nothing tuned, or as `base` says otherwise."""

    def register(plant: Planting) -> Planting:
        drawn = {"arms": 3, "seeds": 6, "dimensions": 0, "factor": "model.drop_rate", "budget": "tokens", **base}
        PLANTS.append(Plant(plant.__name__, kind, frozenset(also), drawn, plant))
        return plant

    return register


def other(record: SweepRecord) -> str:
    """An arm that is not the baseline."""
    return next(arm.name for arm in record.arms if arm.name != record.baseline)


def confirm(runs: pd.DataFrame, arm: str) -> pd.Index:
    """The complete confirm runs of an arm, by seed."""
    mine = runs[(runs["phase"] == "confirm") & (runs["outcome"] == "complete") & (runs["arm"] == arm)]
    return mine.sort_values("seed").index


def trials(runs: pd.DataFrame, arm: str) -> pd.Index:
    """The complete explore trials of an arm, the best one first."""
    mine = runs[(runs["phase"] == "explore") & (runs["outcome"] == "complete") & (runs["arm"] == arm)]
    return mine.sort_values("val/loss").index


def end(runs: pd.DataFrame, rows: pd.Index, outcome: str | None) -> None:
    """Let runs end without a result."""
    runs.loc[rows, LOSSES] = math.nan
    runs.loc[rows, "outcome"] = outcome


def copied(runs: pd.DataFrame, rows: pd.Index, **changes: Any) -> pd.DataFrame:
    """The runs, and copies of some of them under other ids, started earlier."""
    copies = runs.loc[rows].assign(**changes)
    copies["run_id"] = [run_id[::-1] for run_id in copies["run_id"]]
    copies["started"] = copies["started"] - timedelta(days=1)
    return pd.concat([copies, runs], ignore_index=True)


def with_plan(record: SweepRecord) -> SweepRecord:
    """The record with a spec that says from which seed on arms are confirmed; other plants have no known plan."""
    tune = "tune: {train.learning_rate: {}}\n" if record.tune else ""
    return replace(record, spec_text="train: {seed: 1}\n" + tune)


def seed_of(runs: pd.DataFrame, row: Any) -> str:
    """A seed as sentences name it."""
    return f"seed {runs.loc[row, 'seed']}"


# the search ----------------------------------------------------------------------------------------------------


@planted(WarningKind.EDGE, dimensions=1)
def optimum_at_the_end_of_the_range(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    for place, row in enumerate(trials(runs, arm)[:5]):
        runs.loc[row, RATE] = 3.03e-4 + 1e-5 * place
    runs.loc[confirm(runs, arm), RATE] = 3.03e-4
    return record, runs, (arm, "learning_rate", "3.03e-4", "low end", "most of its best trials")


@planted(WarningKind.EDGE, dimensions=1)
def best_option_of_a_grid_is_its_last(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    options = [2e-3, 1e-3, 5e-4]
    for one in record.arms:
        mine = trials(runs, one.name)
        for place, row in enumerate(mine):
            runs.loc[row, RATE] = options[min(place, 2)]
            runs.loc[row, "val/loss"] = runs.loc[mine[min(place, 2)], "val/loss"]
        runs.loc[confirm(runs, one.name), RATE] = 2e-3
    record = replace(record, tune={RATE: {"choice": options}}, study={**record.study, "trials": 3})
    gone = runs[(runs["phase"] == "explore") & ~runs[RATE].isin(options)].index
    keep = [*trials(runs, record.arms[0].name)[:3], *trials(runs, record.arms[1].name)[:3]]
    keep += list(trials(runs, record.arms[2].name)[:3])
    explored = runs[runs["phase"] == "explore"].index
    runs = runs.drop(index=[row for row in explored if row in gone or row not in keep])
    return record, runs, (record.arms[0].name, "learning_rate", "2e-3", "high end")


@planted(WarningKind.UNEQUAL_TRIALS, dimensions=1)
def one_arm_searched_less(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    size = int(((runs["arm"] == arm) & runs["outcome"].isin(["complete", "pruned", "diverged"])).sum()) - 6
    return record, runs.drop(index=trials(runs, arm)[-2:]), (f"{arm} {size - 2}", "by luck")


@planted(WarningKind.SEARCH_UNFINISHED, dimensions=1)
def a_search_that_was_stopped(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    size = record.study["trials"]
    asked = replace(record, study={**record.study, "trials": size + 5})
    return asked, runs, (f"{size + 5} explore trials per arm", f"{other(record)} {size}")


@planted(WarningKind.FEW_TRIALS, WarningKind.SEARCH_UNFINISHED, dimensions=2)
def three_trials_for_two_dimensions(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    kept = {row for one in record.arms for row in trials(runs, one.name)[:3]}
    explored = runs[runs["phase"] == "explore"].index
    runs = runs.drop(index=[row for row in explored if row not in kept])
    return record, runs, (f"{other(record)} 3", "2 tuned dimensions", "5 is the fewest")


@planted(WarningKind.MOSTLY_PRUNED, WarningKind.ORDER_FLIPS, dimensions=1)
def one_arm_mostly_pruned(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[trials(runs, arm)[2:], "outcome"] = "pruned"
    return record, runs, (arm, "pruned")


@planted(WarningKind.DIVERGED_TRIALS, dimensions=1)
def a_third_of_the_trials_diverged(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    mine = trials(runs, arm)
    far = (np.log(runs.loc[mine, RATE]) - math.log(runs.loc[mine[0], RATE])).abs().sort_values().index
    lost = far[-math.ceil(len(mine) / 3) :]
    end(runs, lost, "diverged")
    return record, runs, (arm, "diverged", "Narrow the range")


@planted(WarningKind.BESIDE_DIVERGED, WarningKind.DIVERGED_TRIALS, dimensions=1)
def divergence_beside_the_best(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    best, *_, worst = trials(runs, arm)
    end(runs, pd.Index([worst]), "diverged")
    runs.loc[worst, RATE] = 1.05 * runs.loc[best, RATE]
    return record, runs, (arm, "next to diverged ones", "learning_rate=")


@planted(WarningKind.ORDER_FLIPS, arms=2, dimensions=1)
def a_lucky_last_trial(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    lucky, steady = other(record), record.baseline
    first, second = trials(runs, lucky), trials(runs, steady)
    level = runs.loc[first[0], "val/loss"]
    runs.loc[first[1:], "val/loss"] = level + 0.42
    rows = [*second, *confirm(runs, steady)]
    runs.loc[rows, LOSSES] += level + 0.2 - runs.loc[second[0], "val/loss"]
    runs.loc[second[1:], "val/loss"] = level + 0.2 + 1e-4 * np.arange(1, len(second))
    return record, runs, (lucky, steady, "change places", "second half")


@planted(WarningKind.OUTSIDE_SPACE, dimensions=1)
def a_trial_outside_the_space(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[trials(runs, arm)[-1], RATE] = 0.05
    return record, runs, (arm, "1 explore trial", "0.05", "log_uniform")


@planted(WarningKind.SEARCH_SEEDS, dimensions=1)
def one_arm_searched_on_another_seed(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    mine = (runs["phase"] == "explore") & (runs["arm"] == other(record))
    runs.loc[mine, ["seed", "train.seed"]] = 77
    return record, runs, ("2 seeds 1 and 77",)


@planted(WarningKind.TEST_READ, dimensions=1)
def the_search_reads_the_test_split(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    rows = trials(runs, arm)[:2]
    runs.loc[rows, "test/loss"] = runs.loc[rows, "val/loss"] + 0.2
    return record, runs, (arm, "2 explore trials", "test split")


@planted(WarningKind.NOT_BEST, dimensions=1)
def the_second_best_was_confirmed(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    first, second = trials(runs, arm)[:2]
    runs.loc[confirm(runs, arm), RATE] = runs.loc[second, RATE]
    return record, runs, (arm, f"{runs.loc[first, 'val/loss']:.4f}", f"{runs.loc[second, 'val/loss']:.4f}")


@planted(WarningKind.UNTRIED, dimensions=1)
def untried_values_were_confirmed(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm), RATE] = 1.23e-3
    return record, runs, (arm, "learning_rate=1.23e-3")


@planted(WarningKind.SPLIT_ARM, dimensions=1)
def one_seed_has_other_tuned_values(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[2]
    runs.loc[row, RATE] = runs.loc[trials(runs, arm)[1], RATE]
    return record, runs, (arm, f"on {seed_of(runs, row)}", "different tuned values")


# the confirm runs ----------------------------------------------------------------------------------------------


@planted(WarningKind.RUNNING, WarningKind.UNFINISHED)
def still_running(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    end(runs, confirm(runs, other(record))[-1:], None)
    return record, runs, ("1 run had not ended",)


@planted(WarningKind.UNFINISHED)
def fewer_seeds_than_asked(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    return record, runs.drop(index=confirm(runs, arm)[-1:]), (f"{arm} (5)", "6 confirm runs")


@planted(WarningKind.UNFINISHED, WarningKind.FEW_SEEDS, looks=(3, 6, 12), factor="train.beta2")
def an_open_verdict_without_its_seeds(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    for one in record.arms:
        runs = runs.drop(index=confirm(runs, one.name)[3:])
    arm = other(record)
    rows = confirm(runs, arm)
    runs.loc[rows, LOSSES] = runs.loc[confirm(runs, record.baseline), LOSSES].to_numpy()
    runs.loc[rows, LOSSES] += np.array([[-0.03], [0.03], [0.01]])
    return record, runs, (f"{arm} (3)", "3 to 12 confirm runs")


@planted(WarningKind.NO_BASELINE, WarningKind.UNFINISHED)
def no_baseline(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    return record, runs.drop(index=confirm(runs, record.baseline)), (record.baseline,)


@planted(WarningKind.DIVERGED_ARM)
def an_arm_that_diverged(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    end(runs, confirm(runs, arm), "diverged")
    return record, runs, (arm, "6 confirm runs", "diverged")


@planted(WarningKind.DIVERGED_ARM, WarningKind.UNFINISHED, WarningKind.DIVERGED_TRIALS, dimensions=1)
def an_arm_without_a_trial(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs = runs.drop(index=confirm(runs, arm))
    mine = (runs["arm"] == arm) & (runs["phase"] == "explore") & (runs["outcome"] != "failed")
    end(runs, runs[mine].index, "diverged")
    return record, runs, (arm, f"{int(mine.sum())} explore trials")


@planted(WarningKind.SURVIVORS)
def a_diverged_seed_left_out(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[1]
    end(runs, pd.Index([row]), "diverged")
    return record, runs, (arm, f"diverged on {seed_of(runs, row)}", "5 seeds that survived")


@planted(WarningKind.SURVIVORS, WarningKind.UNFINISHED)
def a_failed_seed_left_out(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[1]
    end(runs, pd.Index([row]), "failed")
    return record, runs, (arm, f"{seed_of(runs, row)} (failed)")


@planted(WarningKind.PRUNED_CONFIRM, WarningKind.UNFINISHED)
def a_pruned_confirm_run(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[0]
    runs.loc[row, "outcome"] = "pruned"
    return record, runs, (arm, seed_of(runs, row))


@planted(WarningKind.SEARCHED_SEED, dimensions=1)
def confirmed_on_the_seed_of_the_search(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    for one in record.arms:
        row = confirm(runs, one.name)[0]
        runs.loc[row, ["seed", "train.seed"]] = 1
        runs.loc[row, LOSSES] += runs.loc[trials(runs, one.name)[0], "val/loss"] - runs.loc[row, "val/loss"]
    return record, runs, (f"{other(record)} on seed 1",)


@planted(WarningKind.FALSE_PAIRS)
def labels_are_not_seeds(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm), "train.seed"] += 50
    return record, runs, (arm, "51 to 56")


@planted(WarningKind.COUNTED_TWICE)
def one_result_under_two_seeds(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    first, second = confirm(runs, arm)[:2]
    runs.loc[second, LOSSES] = runs.loc[first, LOSSES]
    return record, runs, (arm, "seeds 1 and 2")


@planted(WarningKind.COUNTED_TWICE, WarningKind.FALSE_PAIRS)
def one_seed_under_two_labels(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm)[1], "train.seed"] = 1
    return record, runs, (arm, "seeds 1 and 2")


@planted(WarningKind.UNPAIRED)
def an_arm_on_its_own_seeds(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm)[:2], ["seed", "train.seed"]] += 100
    return record, runs, (arm, "seeds 1, 2, 101 and 102", "4 pairs")


@planted(WarningKind.UNPLANNED)
def a_run_on_a_seed_that_was_not_planned(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    extra = {"seed": 40, "train.seed": 40, "val/loss": 0.9, "best_val_loss": 0.9}
    found = (arm, "seed 40", "the plan does not have this seed")
    return with_plan(record), copied(runs, confirm(runs, arm)[-1:], **extra), found


@planted(WarningKind.UNPLANNED, WarningKind.NONDETERMINISTIC)
def a_second_result_of_a_seed(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    later = copied(runs, confirm(runs, arm)[:1], **{"val/loss": 0.9, "best_val_loss": 0.9})
    later["started"] = later["started"].where(later["val/loss"] != 0.9, later["started"].max() + timedelta(days=1))
    return with_plan(record), later, (arm, "seed 1", "the seed has an earlier result")


@planted(WarningKind.UNPLANNED, dimensions=1)
def a_run_with_values_that_were_not_chosen(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    extra = {RATE: 1.23e-3, "val/loss": 0.9, "best_val_loss": 0.9}
    found = (arm, "seed 2", "its tuned values are not the chosen ones")
    return with_plan(record), copied(runs, confirm(runs, arm)[:1], **extra), found


@planted(WarningKind.UNPLANNED)
def a_run_with_the_settings_of_another_arm(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    extra = {"model.drop_rate": 0.77, "val/loss": 0.9, "best_val_loss": 0.9}
    found = (arm, "seed 1", "its model.drop_rate is not that of the arm")
    return with_plan(record), copied(runs, confirm(runs, arm)[:1], **extra), found


@planted(WarningKind.UNPAIRED)
def a_seed_more_for_one_arm(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    extra = {"seed": 40, "train.seed": 40, "val/loss": 4.9, "best_val_loss": 4.9}
    return record, copied(runs, confirm(runs, arm)[-1:], **extra), (arm, "seed 40")


@planted(WarningKind.OFF_LOOK, WarningKind.UNFINISHED, WarningKind.FEW_SEEDS, looks=(3, 6, 12), factor="train.beta2")
def stopped_between_two_looks(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = max((one.name for one in record.arms), key=lambda name: len(confirm(runs, name)))
    size = len(confirm(runs, arm)) - 1
    return record, runs.drop(index=confirm(runs, arm)[-1:]), (f"{arm} {size}", "3, 6 and 12")


@planted(WarningKind.SHORT)
def a_run_that_stopped_before_its_budget(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[3]
    runs.loc[row, ["tokens", "steps"]] = [7168, 14]
    return record, runs, (arm, seed_of(runs, row), "7,168 of 8,192 tokens")


@planted(WarningKind.SHORT, budget="epochs")
def a_run_that_stopped_before_its_siblings(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[3]
    runs.loc[row, ["tokens", "steps"]] = [4096, 8]
    return record, runs, (arm, seed_of(runs, row), "4,096 of 8,192 tokens")


@planted(WarningKind.SHORT, dimensions=1, budget="steps")
def a_trial_that_stopped_before_its_budget(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = trials(runs, arm)[-1]
    runs.loc[row, ["tokens", "steps"]] = [512, 1]
    return record, runs, (arm, f"trial {runs.loc[row, 'trial_number']}", "512 of 8,192 tokens")


# the results ---------------------------------------------------------------------------------------------------


@planted(WarningKind.FEW_SEEDS)
def far_too_much_noise(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    rows = confirm(runs, arm)
    runs.loc[rows, LOSSES] = runs.loc[confirm(runs, record.baseline), LOSSES].to_numpy()
    runs.loc[rows, LOSSES] += np.array([0.3, -0.3, 0.25, -0.26, 0.28, -0.29])[:, None]
    return record, runs, (arm, "6 pairs", f"δ = {DELTA}, the smallest that matters")


@planted(WarningKind.FEW_SEEDS)
def one_seed(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    runs = runs.drop(index=[row for one in record.arms for row in confirm(runs, one.name)[1:]])
    return replace(record, study={**record.study, "seeds": 1, "looks": [1]}), runs, (other(record), "one seed")


@planted(WarningKind.ONE_SEED, WarningKind.FEW_SEEDS)
def a_seed_far_from_the_others(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[4]
    runs.loc[row, LOSSES] += 1.0
    return record, runs, (arm, seed_of(runs, row), "one seed drives the result")


@planted(WarningKind.NO_EFFECT)
def a_setting_that_does_nothing(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm), LOSSES] = runs.loc[confirm(runs, record.baseline), LOSSES].to_numpy()
    return record, runs, (arm, record.baseline, "identical losses")


@planted(WarningKind.NOT_REPRODUCED, dimensions=1)
def confirm_runs_far_from_the_trial(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    before = runs.loc[trials(runs, arm)[0], "val/loss"]
    runs.loc[confirm(runs, arm), LOSSES] += 1.5
    return record, runs, (arm, f"{before:.3f}")


@planted(WarningKind.NONDETERMINISTIC)
def a_run_repeated_with_another_result(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[0]
    worse = runs.loc[row, "val/loss"] + 0.05
    return record, copied(runs, pd.Index([row]), **{"val/loss": worse}), (arm, seed_of(runs, row), "0.050 apart")


@planted(WarningKind.NONDETERMINISTIC)
def a_run_that_diverged_once(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[0]
    twice = copied(runs, pd.Index([row]), outcome="diverged", **{"val/loss": math.nan})
    return record, twice, (arm, seed_of(runs, row), "one diverged and one did not")


@planted(WarningKind.NON_FINITE)
def complete_without_a_loss(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm)[0], "val/loss"] = math.inf
    return record, runs, (arm, "1 complete run", "no finite loss")


@planted(WarningKind.NON_FINITE)
def infinite_values_on_the_way(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs["non_finite"] = None
    runs.loc[confirm(runs, arm)[0], "non_finite"] = "optim/grad_norm"
    return record, runs, (arm, "optim/grad_norm")


@planted(WarningKind.UNTRAINED)
def an_arm_that_did_not_learn(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm), LOSSES] += 6.5
    return record, runs, (arm, "did not learn")


@planted(WarningKind.OVERFITTED)
def one_arm_overfits(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm), ["val/loss", "test/loss"]] += 0.15
    return record, runs, (f"{arm} 0.15", "last checkpoint")


@planted(WarningKind.TEST_DISAGREES)
def the_test_split_says_the_opposite(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    rows, base = confirm(runs, arm), confirm(runs, record.baseline)
    noise = 0.002 * np.arange(len(rows))
    runs.loc[rows, "val/loss"] = runs.loc[base, "val/loss"].to_numpy() - 0.1 - noise
    runs.loc[rows, "best_val_loss"] = runs.loc[rows, "val/loss"]
    runs.loc[rows, "test/loss"] = runs.loc[base, "test/loss"].to_numpy() + 0.1 + noise
    return record, runs, (f"{arm} is better", "the opposite (+0.105")


@planted(WarningKind.TEST_MISSING)
def a_run_that_did_not_read_the_test_split(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    row = confirm(runs, arm)[2]
    runs.loc[row, "test/loss"] = math.nan
    return record, runs, (f"{arm} ({seed_of(runs, row)})",)


# what the arms have in common ----------------------------------------------------------------------------------


@planted(WarningKind.TARGETS)
def another_validation_split(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    runs.loc[confirm(runs, other(record)), "data.split.val"] = 0.2
    return record, runs, ("data.split.val (0.1 and 0.2)",)


@planted(WarningKind.TARGETS, WarningKind.SETTINGS)
def a_run_with_another_tokenizer(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    row = confirm(runs, other(record))[0]
    runs.loc[row, ["data.tokenizer", "model.vocab_size"]] = ["byte", 256]
    runs["val/bits_per_byte"] = runs["val/loss"] / 3
    return record, runs, ("data.tokenizer", "byte", "gpt2")


@planted(WarningKind.DATA_HASH)
def the_text_changed_in_between(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    runs["data_sha256"] = "aca588c1" * 8
    runs.loc[confirm(runs, other(record)), "data_sha256"] = "0badf00d" * 8
    return record, runs, ("aca588c1", "0badf00d")


@planted(WarningKind.COPIED_TEXT)
def a_file_in_two_splits(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    copies = "'a.txt' and 'b.txt' have equal content, which is part of the training and validation text."
    return replace(record, data={**record.data, "copies": copies}), runs, ("'a.txt' and 'b.txt'", "training and val")


@planted(WarningKind.LOST_TEXT)
def a_tokenizer_in_lower_case(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    lost = "the tokenizer low.json does not keep the whole text ('Fellow' comes back as 'fellow')."
    return replace(record, data={**record.data, "lost": lost}), runs, ("The tokenizer low.json", "'fellow'")


@planted(WarningKind.SETTINGS)
def another_setting_differs(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    runs.loc[confirm(runs, other(record)), "train.beta2"] = 0.99
    return record, runs, ("train.beta2 (0.95 and 0.99)",)


@planted(WarningKind.SETTINGS)
def one_arm_starts_from_other_weights(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    runs[["model.init_from", "model.init_sha256"]] = ["./small", "aca588c1" * 8]
    runs.loc[confirm(runs, other(record)), "model.init_sha256"] = "0badf00d" * 8
    return record, runs, ("model.init_sha256 (0badf00d", "and aca588c1")


@planted(WarningKind.UNEQUAL_BUDGET)
def one_arm_trained_for_longer(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm), ["tokens", "steps"]] = [10240, 20]
    return record, runs, (f"{arm} 10.2 k", "8,192")


@planted(WarningKind.THROUGHPUT, budget="seconds")
def a_busy_machine(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm)[:2], ["tokens", "steps"]] = [102_400, 200]
    return record, runs, (f"{arm} 102 k to",)


@planted(WarningKind.THROUGHPUT, budget="seconds")
def a_slower_time_of_day(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs.loc[confirm(runs, arm), ["tokens", "steps"]] = [102_400, 200]
    return record, runs, (f"{arm} 102 k", "not equally fast")


@planted(WarningKind.COMMITS)
def an_arm_of_another_commit(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs["commit"] = "db73c1e0" * 5
    runs.loc[confirm(runs, arm), "commit"] = "a" * 40
    return record, runs, (f"{arm} (6 pairs)", "aaaaaaaaaaaa")


@planted(WarningKind.DEVICES)
def an_arm_on_another_device(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs["device"] = "cpu"
    runs.loc[confirm(runs, arm)[:2], "device"] = "NVIDIA H200"
    return record, runs, (f"{arm} (2 pairs)", "NVIDIA H200")


@planted(WarningKind.VERSIONS)
def an_arm_with_another_torch(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    runs["versions"] = "torch 2.13.0"
    runs.loc[confirm(runs, arm), "versions"] = "torch 2.12.1"
    return record, runs, (f"{arm} (6 pairs)", "torch 2.12.1")


@planted(WarningKind.DIRTY)
def uncommitted_changes(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    return replace(record, dirty=True), runs, ("uncommitted changes", "dirty.patch")


@planted(WarningKind.DROPPED_ARM)
def an_arm_that_disappeared(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    arm = other(record)
    return replace(record, arms=tuple(one for one in record.arms if one.name != arm)), runs, (arm,)


@planted(WarningKind.PLAN)
def seeds_added_after_a_look(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    names = [one.name for one in record.arms]
    plan = {"method": METHOD_VERSION, "metric": "val/loss", "baseline": record.baseline, "arms": names, "trials": 0}
    plan |= {"seeds": 3, "looks": [3], "test": "paired t test", "correction": "Holm", "alpha": 0.05, "delta": DELTA}
    change = PlanChange(example.START, 9, {**plan, "seeds": 6, "looks": [6]})
    planned = replace(record, first_plan=plan, plan_changes=(change,))
    return planned, runs, ("from 3 to 6", "9 confirm runs")


@planted(WarningKind.ALTERED)
def a_run_with_an_edited_tag(record: SweepRecord, runs: pd.DataFrame) -> Planted:
    line = "1 run is left out: the tag harness.seed of the run 4f1c (a run) was changed after the harness stored it"
    return replace(record, left_out=(line,)), runs, (line,)
