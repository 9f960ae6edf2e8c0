from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from harness.analysis.trials import arm_trials, has_order, rate_range
from harness.core.outcomes import Outcome

ARM, OTHER = example.ARMS
RATE = {"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}}


def explored(*trials: tuple[float, str | None, float], arm: str = ARM, **changes: object) -> pd.DataFrame:
    """Explore runs of one arm: learning rate, outcome, loss."""
    rows = [
        example.run(
            number, arm, {"train.learning_rate": rate}, phase="explore", outcome=outcome, loss=loss, trial=number
        )
        for number, (rate, outcome, loss) in enumerate(trials)
    ]
    return example.frame([{**row, **changes} for row in rows])


def test_only_complete_trials_have_results_and_all_are_counted() -> None:
    runs = explored(
        (1e-3, "complete", 5.5),
        (2e-3, "complete", 5.2),
        (8e-4, "pruned", 1.0),
        (3e-3, "diverged", math.nan),
        (4e-3, "oom", math.nan),
        (5e-3, "failed", 5.0),
        (6e-3, "interrupted", 5.1),
        (7e-3, None, 2.0),
    )
    found = arm_trials(runs, [ARM, OTHER], RATE)
    mine = found[ARM]
    kinds = [Outcome.COMPLETE, Outcome.PRUNED, Outcome.DIVERGED]
    assert [mine.number_of(kind) for kind in kinds] == [2, 1, 1]
    assert (mine.ended, mine.failed, mine.number_of(), len(mine.run_ids)) == (4, 3, 1, 8)
    assert mine.losses.tolist() == [5.5, 5.2]
    assert mine.counted.tolist() == [5.5, 5.2, 10.8]  # the loss before training
    assert mine.best == {"train.learning_rate": 2e-3}
    assert [trial["train.learning_rate"] for trial in mine.diverged] == [3e-3]
    other = found[OTHER]
    assert (other.run_ids, other.best, other.edges, other.nearness) == ((), None, {}, None)
    assert other.counted.size == 0 and math.isnan(other.sensitivity)


def test_confirm_runs_are_not_trials() -> None:
    runs = pd.concat([explored((1e-3, "complete", 5.5)), example.frame(example.confirm_runs())], ignore_index=True)
    assert arm_trials(runs, [ARM], RATE)[ARM].losses.tolist() == [5.5]


def test_learning_rate_sensitivity_counts_a_diverged_trial_as_untrained() -> None:
    # L0 = 5.5 caps the first loss and replaces the third: excess 1.5, 0, 1.5 over two decades
    runs = explored((1e-4, "complete", 6.0), (1e-3, "complete", 4.0), (1e-2, "diverged", math.nan))
    runs["initial_val_loss"] = 5.5
    assert arm_trials(runs, [ARM], RATE)[ARM].sensitivity == pytest.approx(0.75)
    pruned = explored((1e-4, "complete", 6.0), (1e-3, "complete", 4.0), (1e-2, "pruned", 4.5))
    pruned["initial_val_loss"] = 5.5
    assert arm_trials(pruned, [ARM], RATE)[ARM].sensitivity == pytest.approx(0.375)  # 0 beyond the last result
    lost = explored((1e-4, "diverged", math.nan), (1e-2, "diverged", math.nan))
    assert math.isnan(arm_trials(lost, [ARM], RATE)[ARM].sensitivity)  # not 0: every trial diverged


def test_the_initial_loss_is_the_arms_own_in_the_unit_of_the_metric() -> None:
    runs = explored((1e-3, "complete", 6.0), (1e-2, "diverged", math.nan))
    runs["initial_val_loss"] = [9.0, math.nan]
    runs["val/bits_per_byte"] = [1.5, math.nan]  # a quarter of the nats
    assert arm_trials(runs, [ARM], RATE, "val/bits_per_byte")[ARM].counted.tolist() == pytest.approx([1.5, 2.25])
    # an arm without an initial loss uses the sweep's; if there is none, diverged trials are not counted
    lost = explored((1e-2, "diverged", math.nan), arm=OTHER, initial_val_loss=math.nan)
    both = pd.concat([runs, lost], ignore_index=True)
    assert arm_trials(both, [ARM, OTHER], RATE)[OTHER].counted.tolist() == [9.0]
    assert arm_trials(lost, [OTHER], RATE)[OTHER].counted.tolist() == []


def test_a_run_without_its_tuned_values_is_left_out() -> None:
    runs = explored((1e-3, "complete", 5.5), (2e-3, "diverged", math.nan), (3e-3, "complete", 5.0))
    runs["train.learning_rate"] = [1e-3, math.nan, 3e-3]
    found = arm_trials(runs, [ARM], RATE)[ARM]
    assert found.number_of(Outcome.DIVERGED) == 1 and found.diverged == ()
    assert found.counted.tolist() == [5.5, 5.0, 10.8]
    layers = runs.assign(**{"model.n_layers": pd.array([2, 2, None], dtype="Int64")})
    known = arm_trials(layers, [ARM], {"model.n_layers": {"int_uniform": [1, 4]}})[ARM]
    assert known.losses.tolist() == [5.5] and known.best == {"model.n_layers": 2}
    clip = {"train.grad_clip": {"choice": [None, 1.0]}}
    nullable = arm_trials(runs.assign(**{"train.grad_clip": [None, None, 1.0]}), [ARM], clip)[ARM]
    np.testing.assert_array_equal(nullable.losses, [5.5, 5.0])


@pytest.mark.parametrize(
    ("dimension", "found"),
    [
        ({"log_uniform": [1e-4, 1e-2]}, (1e-4, 1e-2)),
        ({"choice": [8e-3, 2e-3, 4e-3]}, (2e-3, 8e-3)),
        ({"choice": [2e-3]}, None),
        ({"uniform": [0.0, 1e-2]}, None),  # no logarithm
    ],
)
def test_the_range_of_learning_rates(dimension: dict[str, list[float]], found: tuple[float, float] | None) -> None:
    assert rate_range({"train.learning_rate": dimension}) == found
    assert rate_range({"train.warmup": dimension}) is None


def test_choices_of_words_and_of_two_options_have_no_order() -> None:
    assert has_order({"uniform": [0.0, 1.0]}) and has_order({"choice": [1, 2, 4]})
    assert not has_order({"choice": [1, 2]}) and not has_order({"choice": ["adamw", "muon", "sgd"]})
