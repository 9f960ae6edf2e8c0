from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from clean_sweeps import clean_sweep
from harness.analysis.plan import METHOD_VERSION
from harness.report.warnings.collect import fixed_settings, grouped, report_warnings
from harness.report.warnings.kinds import ReportWarning, WarningKind
from harness.tracking import PlanChange, SweepRecord
from warned_sweeps import RATE, confirm, copied, end, other, trials

FIRST, SECOND = example.ARMS
CHANGING = {kind for kind in WarningKind if kind.changes_conclusion}


def warned(record: SweepRecord, runs: pd.DataFrame) -> list[ReportWarning]:
    return report_warnings(example.evidence(record, runs))


def kinds(record: SweepRecord, runs: pd.DataFrame) -> set[WarningKind]:
    return {warning.kind for warning in warned(record, runs)}


def text(record: SweepRecord, runs: pd.DataFrame, kind: WarningKind) -> str:
    """The only warning of a kind."""
    (found,) = [warning.text for warning in warned(record, runs) if warning.kind is kind]
    return found


def searched(
    found: dict[str, list[tuple[float, float]]], tune: dict[str, Any] | None = None
) -> tuple[SweepRecord, pd.DataFrame]:
    """A sweep whose arms had complete trials of these learning rates and losses."""
    rows = [
        example.run(
            100 * place + number,
            arm,
            {**example.ARMS[arm], RATE: rate},
            phase="explore",
            loss=loss,
            trial=number,
        )
        for place, (arm, pairs) in enumerate(found.items(), 1)
        for number, (rate, loss) in enumerate(pairs)
    ]
    return example.record(tune=tune or example.TUNE), example.frame(rows + example.confirm_runs())


def plain(number: int = 3, **drawn: Any) -> tuple[SweepRecord, pd.DataFrame]:
    """A clean sweep of two arms and six seeds with nothing tuned, unless drawn otherwise."""
    base = {"arms": 2, "seeds": 6, "dimensions": 0, "factor": "model.drop_rate", "budget": "tokens", "mishaps": False}
    return clean_sweep(number, **{**base, **drawn})


def test_a_warning_prints_its_text_and_knows_whether_it_changes_the_conclusion() -> None:
    assert str(ReportWarning(WarningKind.DIRTY, "The code was dirty.")) == "The code was dirty."
    assert ReportWarning(WarningKind.DIRTY, "").changes_conclusion
    assert not ReportWarning(WarningKind.UNTUNED, "").changes_conclusion


def test_warnings_that_change_the_conclusion_come_first() -> None:
    record, runs = plain(dimensions=1)
    found = warned(replace(record, dirty=True), runs.drop(index=confirm(runs, other(record))[:1]))
    marks = [warning.changes_conclusion for warning in found]
    assert sum(marks) == 2 and marks == sorted(marks, reverse=True)
    assert found[-1].kind is WarningKind.SEEDS_ONLY


# edges ---------------------------------------------------------------------------------------------------------


def test_an_optimum_at_the_end_of_the_range_is_named_with_its_arm_and_side() -> None:
    inside = [(3e-4, 5.5), (1e-3, 5.0), (3e-3, 5.2)]
    assert not kinds(*searched({FIRST: inside, SECOND: inside})) & {WarningKind.EDGE, WarningKind.NEAR_EDGE}
    crowded = [(2.9e-3, 4.5), (2.8e-3, 4.6), (2.7e-3, 4.7), (1e-3, 5.0)]
    single = [(3e-4, 4.5), (1e-3, 5.0), (2e-3, 5.2), (1.5e-3, 5.4)]
    sweep = searched({FIRST: crowded, SECOND: single})
    assert text(*sweep, WarningKind.EDGE) == (
        f"{FIRST}: the best learning_rate (2.9e-3) lies at the high end of the search range, as do most of its best "
        "trials; a better one may lie outside, so widen the range before trusting this arm's result."
    )
    assert text(*sweep, WarningKind.NEAR_EDGE) == (
        f"{SECOND}: the best learning_rate (3e-4) lies at the low end of the search range; a better one may lie "
        "outside, so widen the range before trusting this arm's result."
    )


def test_a_range_from_zero_has_no_low_edge() -> None:
    record, runs = plain(factor="train.beta2")
    tune = {"model.drop_rate": {"uniform": [0.0, 0.3]}}
    rows = [
        example.run(
            900 + 10 * place + trial,
            arm.name,
            {**arm.values, "model.drop_rate": rate},
            phase="explore",
            trial=trial,
            loss=4 + rate,
        )
        for place, arm in enumerate(record.arms)
        for trial, rate in enumerate((0.001, 0.002, 0.01, 0.1, 0.2))
    ]
    runs = pd.concat([runs, example.frame(rows)], ignore_index=True)
    assert not kinds(replace(record, tune=tune), runs) & {WarningKind.EDGE, WarningKind.NEAR_EDGE}
    higher = {"model.drop_rate": {"uniform": [0.001, 0.3]}}
    assert WarningKind.EDGE in kinds(replace(record, tune=higher), runs)


# the search ----------------------------------------------------------------------------------------------------


def test_arms_whose_order_depends_on_the_number_of_trials_are_named() -> None:
    steady = [(rate, 5.0) for rate in (6e-4, 8e-4, 1e-3, 1.2e-3)]
    lucky = [(6e-4, 6.0), (8e-4, 6.0), (1e-3, 6.0), (1.2e-3, 3.0)]
    # by hand in test_search: E[min_k] of the lucky one is 5.25, 4.69, …; from k = 2 = n / 2 on it is ahead
    assert f"{FIRST} and {SECOND} change places at k = 2:" in text(
        *searched({FIRST: steady, SECOND: lucky}), WarningKind.EARLY_ORDER_FLIPS
    )
    assert not kinds(*searched({FIRST: steady, SECOND: steady})) & {
        WarningKind.ORDER_FLIPS,
        WarningKind.EARLY_ORDER_FLIPS,
    }
    # E[min_k] of (6, 6, 6, 4.4) is 5.6, 5.3, 5.075, 4.906: behind 5 at k = 2, ahead at k = 4, by more than δ each time
    late = [(6e-4, 6.0), (8e-4, 6.0), (1e-3, 6.0), (1.2e-3, 4.4)]
    assert "change places at k = 4, by more than 0.02 either way" in text(
        *searched({FIRST: steady, SECOND: late}), WarningKind.ORDER_FLIPS
    )


def test_too_few_trials_for_the_tuned_dimensions() -> None:
    three = [(6e-4, 5.2), (1e-3, 5.0), (2e-3, 5.2)]
    record, runs = searched({FIRST: three, SECOND: three})
    assert WarningKind.FEW_TRIALS not in kinds(record, runs)
    assert "was random: TPE used no result" in text(record, runs, WarningKind.RANDOM_SEARCH)
    second = runs["trial_number"].fillna(0) > 1
    modelled = runs.assign(point=np.where(second, "modelled", "random"))
    assert WarningKind.RANDOM_SEARCH not in kinds(record, modelled)
    planned = replace(record, study={**record.study, "unmodelled_trials": 2})
    assert WarningKind.RANDOM_SEARCH not in kinds(planned, runs)
    assert "0.0 2 and drop_rate=0.1 2" in text(*searched({FIRST: three[:2], SECOND: three[:2]}), WarningKind.FEW_TRIALS)
    repeated = [three[1], three[0], three[0]]  # three trials of two configurations
    assert WarningKind.FEW_TRIALS in kinds(*searched({FIRST: repeated, SECOND: repeated}))
    both = {RATE: {"choice": [6e-4, 1e-3]}}  # all there is
    assert not kinds(*searched({FIRST: three[:2], SECOND: three[:2]}, both)) & {
        WarningKind.FEW_TRIALS,
        WarningKind.RANDOM_SEARCH,
    }


def test_equal_pruning_in_every_arm_does_not_change_the_conclusion() -> None:
    record, runs = plain(dimensions=1)
    for arm in record.arms:
        runs.loc[trials(runs, arm.name)[2:], "outcome"] = "pruned"
    found = kinds(record, runs)
    assert WarningKind.PRUNED_EVERYWHERE in found and WarningKind.MOSTLY_PRUNED not in found


def test_a_tuned_preset_has_no_column_and_gives_no_warning() -> None:
    record, runs = plain(dimensions=1)
    record = replace(record, tune={"model.preset": {"choice": ["gpt2-124m", "gpt2-355m", "gpt2-774m"]}})
    assert WarningKind.SEEDS_ONLY in kinds(record, runs)


# confirm runs --------------------------------------------------------------------------------------------------


def test_arms_of_an_adaptive_sweep_may_have_fewer_seeds() -> None:
    drawn = [plain(number, factor="train.beta2", arms=3, looks=(3, 6, 12)) for number in range(3, 9)]
    uneven = [
        (record, runs) for record, runs in drawn if len({len(confirm(runs, arm.name)) for arm in record.arms}) > 1
    ]
    assert uneven
    for record, runs in uneven:
        assert not any(warning.changes_conclusion for warning in warned(record, runs))
        fixed = replace(record, study={**record.study, "looks": None})
        assert {WarningKind.UNFINISHED} <= kinds(fixed, runs)


def test_equal_arms_with_different_seeds_do_not_change_the_conclusion() -> None:
    record, runs = plain(equal=True)
    first, second = (arm.name for arm in record.arms)
    assert second == f"{first} (2)"
    assert f"The arms {first} and {second} are the same configuration" in text(record, runs, WarningKind.SAME_ARMS)
    assert not kinds(record, runs) & {*CHANGING, WarningKind.UNTUNED}
    noise = 0.3 * (-1.0) ** np.arange(6)  # however much: an A/A sweep asks for it
    runs.loc[confirm(runs, second), ["val/loss", "test/loss", "best_val_loss"]] += noise[:, None]
    assert not kinds(record, runs) & CHANGING


def test_a_failed_run_that_was_trained_again_is_not_a_missing_seed() -> None:
    record, runs = plain()
    row = confirm(runs, other(record))[:1]
    again = copied(runs, row, outcome="failed", **{"val/loss": math.nan})
    found = warned(record, again)
    assert not any(warning.changes_conclusion for warning in found)
    assert f"{other(record)}: of 7 confirm runs, 6 complete and 1 failed." in map(str, found)


@pytest.mark.parametrize(("device", "warned"), [("cpu", True), ("NVIDIA H200", False)])
def test_equal_runs_must_be_bit_identical_only_on_a_cpu(device: str, warned: bool) -> None:
    record, runs = plain()
    runs["device"] = device
    row = confirm(runs, other(record))[:1]
    close = copied(runs, row, **{"val/loss": runs.loc[row[0], "val/loss"] + 0.001})
    assert (WarningKind.NONDETERMINISTIC in kinds(record, close)) == warned
    far = copied(runs, row, **{"val/loss": runs.loc[row[0], "val/loss"] + 0.021})  # more than δ
    assert WarningKind.NONDETERMINISTIC in kinds(record, far)
    same = copied(runs, row)
    assert WarningKind.NONDETERMINISTIC not in kinds(record, same)
    assert "1 older confirm run was replaced" in text(record, same, WarningKind.REPLACED)


def test_a_run_may_end_less_than_one_step_before_its_budget() -> None:
    record, runs = plain()
    rows = confirm(runs, other(record))
    runs["train.budget.tokens"] = 8300  # 16.2 steps of 512 tokens, of which 16 were trained
    assert not any(warning.changes_conclusion for warning in warned(record, runs))
    runs.loc[rows[0], "tokens"] = 7788  # one step less
    assert "7,788 of 8,300" in text(record, runs, WarningKind.SHORT)


def test_one_seed_of_one_arm_does_not_change_the_conclusion() -> None:
    record = example.record(arms={FIRST: example.ARMS[FIRST]}, study={"seeds": 1})
    runs = example.frame(example.confirm_runs({FIRST: {2: 5.2}}))
    found = warned(record, runs)
    assert WarningKind.SINGLE_SEED in {warning.kind for warning in found} and not any(
        warning.changes_conclusion for warning in found
    )


# common ground -------------------------------------------------------------------------------------------------


def test_commits_that_do_not_differ_within_pairs_do_not_change_the_conclusion() -> None:
    record, runs = plain()
    runs.loc[runs["seed"] > 3, "commit"] = "a" * 40
    assert text(record, runs, WarningKind.MIXED_PROVENANCE) == (
        "Runs come from different commits of the code: aaaaaaaaaaaa and db73c1e0db73; no pair is affected."
    )
    runs.loc[confirm(runs, other(record))[-1], "commit"] = "db73c1e0" * 5
    assert "(1 pair)" in text(record, runs, WarningKind.COMMITS)


def test_settings_implied_by_the_compared_one_may_differ() -> None:
    record, runs = plain()
    rows = confirm(runs, other(record))
    runs.loc[rows, "model.emb_dim"] = 96
    assert "model.emb_dim (64 and 96)" in text(record, runs, WarningKind.SETTINGS)
    assert WarningKind.SETTINGS not in kinds(replace(record, compare=("model.preset",)), runs)
    runs.loc[rows, ["model.emb_dim", "model.vocab_size", "data.tokenizer"]] = [64, 256, "byte"]
    runs["val/bits_per_byte"] = runs["val/loss"] / 3
    assert {WarningKind.TARGETS, WarningKind.SETTINGS} <= kinds(record, runs)
    assert not kinds(replace(record, compare=("model.drop_rate", "data.tokenizer")), runs) & {
        WarningKind.TARGETS,
        WarningKind.SETTINGS,
    }


def test_weights_to_start_from_may_differ_only_if_they_are_compared() -> None:
    record, runs = plain()
    rows = confirm(runs, other(record))
    runs.loc[rows, ["model.init_from", "model.init_sha256", "model.emb_dim"]] = ["./small", "a" * 64, 96]
    assert "model.init_sha256 (aaaa" in text(record, runs, WarningKind.SETTINGS)
    assert WarningKind.SETTINGS not in kinds(replace(record, compare=("model.init_from",)), runs)


def test_settings_of_runs_without_a_result_do_not_change_the_conclusion() -> None:
    record, runs = plain()
    row = confirm(runs, other(record))[:1]
    older = copied(runs, row, phase="superseded", **{"train.beta2": 0.99})
    assert "runs differ in train.beta2, but no run behind" in text(record, older, WarningKind.OTHER_SETTINGS)
    assert WarningKind.SETTINGS not in kinds(record, older)


def test_only_the_kind_of_the_budget_must_be_equal() -> None:
    record, runs = plain(budget="steps")
    rows = confirm(runs, other(record))
    runs.loc[rows, ["train.batch_tokens", "tokens"]] = [1024, 16384]
    compared = replace(record, compare=("train.batch_tokens",))
    assert "matched by steps, not by tokens" in text(compared, runs, WarningKind.UNMATCHED_TOKENS)
    assert WarningKind.UNEQUAL_BUDGET not in kinds(compared, runs)
    runs.loc[rows, "steps"] = 17
    assert f"{other(record)} 17" in text(compared, runs, WarningKind.UNEQUAL_BUDGET)


def test_equal_overfitting_of_every_arm_does_not_change_the_conclusion() -> None:
    record, runs = plain()
    for arm in record.arms:
        runs.loc[confirm(runs, arm.name), "best_val_loss"] -= 0.3
    found = kinds(record, runs)
    assert WarningKind.OVERFITTED_EVERYWHERE in found and WarningKind.OVERFITTED not in found


def test_a_plan_changed_before_any_result_does_not_change_the_conclusion() -> None:
    record, runs = plain()
    plan = {"method": METHOD_VERSION, "seeds": 3, "looks": [3], "trials": 4}
    early = PlanChange(example.START, 0, {**plan, "trials": 8})
    late = PlanChange(example.START, 5, {**plan, "trials": 8, "seeds": 6, "looks": [6]})
    planned = replace(record, first_plan=plan, plan_changes=(early, late))
    assert text(planned, runs, WarningKind.EARLY_PLAN_CHANGE).startswith(
        "Explore trials per arm were raised from 4 to 8 before any"
    )
    assert "raised from 3 to 6 after 5 confirm runs" in text(planned, runs, WarningKind.PLAN)
    assert not kinds(replace(planned, plan_changes=(early,)), runs) & CHANGING


# notes ---------------------------------------------------------------------------------------------------------


def test_text_of_warnings_about_missing_and_unequal_runs() -> None:
    lost = ("00000001" + "f" * 24, "00000066" + "f" * 24)  # a complete trial and a confirm run of the first arm
    rows = [one for one in [*example.explore_runs(), *example.confirm_runs()] if one["run_id"] not in lost]
    rows.append(example.run(800, SECOND, {}, phase="superseded", seed=2, loss=5.0))
    rows[-1] |= {"train.beta2": 0.99, "commit": "a" * 40}
    words = "\n".join(map(str, warned(example.record(tune=example.TUNE, dirty=True), example.frame(rows))))
    assert "The spec asks for 3 confirm runs per arm; fewer are complete for drop_rate=0.0 (2)." in words
    assert "unequal numbers of explore trials (drop_rate=0.0 3 and drop_rate=0.1 4)" in words
    assert "drop_rate=0.1: of 4 explore runs, 2 complete, 1 pruned and 1 diverged." in words
    assert "1 older confirm run was replaced" in words
    assert "runs differ in train.beta2" in words
    assert "different commits of the code: aaaaaaaaaaaa and db73c1e0db73" in words
    assert "uncommitted changes" in words and "nothing tuned" not in words


def test_untuned_arms_do_not_change_the_conclusion() -> None:
    record, runs = plain()
    assert "drop_rate compared, nothing tuned" in text(record, runs, WarningKind.UNTUNED)
    assert WarningKind.UNTUNED not in kinds(*plain(dimensions=1))


def test_fixed_settings_are_equal_in_all_runs() -> None:
    fixed = dict(fixed_settings(plain(dimensions=1)[1]))
    assert fixed["model.emb_dim"] == "64" and fixed["model.qkv_bias"] == "false"
    assert not {"model.drop_rate", RATE, "train.seed"} & fixed.keys()


# frames that are hardly there ----------------------------------------------------------------------------------


def test_runs_without_parameters() -> None:
    record = example.record(tune=example.TUNE)
    failed = example.run(1, FIRST, {}, outcome="failed", reason="disk full")
    running = example.run(2, SECOND, {}, outcome=None)
    bare = [
        {**one, **dict.fromkeys([n for n in one if n.startswith(("data.", "model.", "train."))])}
        for one in (failed, running)
    ]
    for rows in ([failed], [running], [failed, running], bare):
        found = kinds(record, example.frame(rows))
        assert WarningKind.SEEDS_ONLY in found and WarningKind.UNFINISHED in found


def test_columns_missing_in_older_stores() -> None:
    record, runs = plain(dimensions=1)
    few = runs[["run_id", "arm", "phase", "seed", "outcome", "trial_number", "val/loss", RATE]]
    assert not any(warning.changes_conclusion for warning in warned(record, few))
    study = {name: record.study[name] for name in ("sampler", "pruner", "trials", "seeds")}
    assert not any(warning.changes_conclusion for warning in warned(replace(record, study=study), runs))


def test_a_sweep_without_confirm_runs_by_design() -> None:
    record, runs = plain(dimensions=1)
    explored = runs[runs["phase"] == "explore"]
    study = {**record.study, "seeds": 0, "looks": [0]}
    assert not any(warning.changes_conclusion for warning in warned(replace(record, study=study), explored))


def test_a_sweep_where_every_run_diverged() -> None:
    record, runs = plain(dimensions=1)
    end(runs, runs.index, "diverged")
    found = kinds(record, runs)
    assert {WarningKind.DIVERGED_ARM, WarningKind.DIVERGED_TRIALS} <= found
    assert np.isnan(runs["val/loss"]).all()


def test_equal_warnings_about_many_arms_are_one_with_each_behind_it() -> None:
    arms = [f"lr 1e-{power}" for power in range(1, 13)]
    each = [
        ReportWarning(WarningKind.FEW_SEEDS, f"{arm}: {place} pairs are too few.") for place, arm in enumerate(arms)
    ]
    others = [
        ReportWarning(WarningKind.RUNNING, "1 run had not ended."),
        ReportWarning(WarningKind.EDGE, "lr 1e-1: the best beta lies at the low end."),
    ]
    found = grouped([others[0], *each, others[1]], arms)
    assert [one.kind for one in found] == [WarningKind.RUNNING, WarningKind.FEW_SEEDS, WarningKind.EDGE]
    assert found[1].text == (
        "12 arms: too few seeds to detect differences that matter (lr 1e-1, lr 1e-2, lr 1e-3, lr 1e-4 and 8 more "
        "arms). For example: lr 1e-1: 0 pairs are too few."
    )
    assert found[1].each == tuple(one.text for one in each)
    assert [found[0], found[2]] == others
    assert grouped(each[:2], arms) == each[:2]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("{arm}: {n} pairs detect 0.{n}, so undecided means nothing here: train more seeds.", "Train more seeds."),
        ("{arm}: the best rate ({n}) lies at an end of the range; widen the range.", "Widen the range."),
        ("{arm} lost {n} runs. Mend that, and give the command again.", "Mend that, and give the command again."),
        ("{arm}: is equal in all. Train longer, or less.", "Train longer, or less."),
        ("{arm}: train more seeds.", "Train more seeds."),
        ("{arm}: {n} of {n}.", "For example: one: 0 of 0."),
    ],
)
def test_equal_warnings_keep_their_advice(text: str, advice: str) -> None:
    each = [ReportWarning(WarningKind.EDGE, text.format(arm=arm, n=n)) for n, arm in enumerate(("one", "two", "six"))]
    (found,) = grouped(each, ["one", "two", "six"])
    assert found.text == f"3 arms: {WarningKind.EDGE} (one, two and six). {advice}"
