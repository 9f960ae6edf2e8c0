from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

import example_sweep as example
from example_grid import BIAS, DEEP, DROP, RATE, SMALL, WIDE, Levels, drawn, interactions, marginals, record_of, runs_of
from harness.analysis.factors import interaction, main_effect
from harness.analysis.grid import Floats, grid
from harness.analysis.significance import holm, paired_t_p
from harness.analysis.verdicts import judge
from harness.config.fields import arm_name
from harness.config.labels import setting_labels

DELTA = 0.02
LOSS = "val/loss"


def looked_at(levels: Levels, losses: Floats, **options: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Marginals, and interactions by the names of their levels."""
    record = record_of(levels)
    runs = runs_of(record, losses)
    single = marginals(runs, record, LOSS, DELTA, **options)  # type: ignore[arg-type]
    crossed = interactions(runs, record, LOSS, DELTA, **options)  # type: ignore[arg-type]
    return single.set_index("name"), crossed.set_index(["name", "other_name"])


def test_two_by_two_worked_by_hand() -> None:
    # Seeds 2, 3, 4. Effect of dropout without biases: 0.1, 0, 0.2; with them: 0.3, 0.2, 0.2.
    losses = np.array([[[5.0, 5.2, 5.4], [4.8, 5.1, 5.3]], [[5.1, 5.2, 5.6], [5.1, 5.3, 5.5]]])
    single, crossed = looked_at(SMALL, losses)
    # Averaged: 0.2, 0.1, 0.2, mean 1/6, s/√3 = 1/30, t = 5; with 2 degrees of freedom p = 1 − t/√(t² + 2).
    drop = single.loc["drop 0.2"]
    assert drop["difference"] == pytest.approx(1 / 6, abs=1e-12)
    assert drop["difference_high"] == pytest.approx(1 / 6 + 4.3026527 / 30, rel=1e-7)
    assert drop["p"] == pytest.approx(1 - 5 / math.sqrt(27), rel=1e-9)
    assert drop["p_holm"] == pytest.approx(2 * drop["p"], rel=1e-12) and drop["verdict"] == "undecided"
    assert drop["mean"] == pytest.approx((5.1 + 5.25 + 5.55) / 3) and drop["seeds"] == drop["pairs"] == 3
    assert drop["high"] - drop["mean"] == pytest.approx(4.3026527 * np.std([5.1, 5.25, 5.55], ddof=1) / math.sqrt(3))
    # Biases: −0.1, 0, −0.1, mean −1/15, t = −2; the larger p is not multiplied.
    bias = single.loc["bias on"]
    assert bias["difference"] == pytest.approx(-1 / 15, abs=1e-12)
    assert bias["p"] == pytest.approx(1 - 2 / math.sqrt(6), rel=1e-9) == bias["p_holm"]
    # Interaction: 0.2, 0.2, 0, mean 2/15, s/√3 = 1/15, t = 2.
    both = crossed.loc[("drop 0.2", "bias on")]
    assert both["effect_at_baseline"] == pytest.approx(0.1) and both["effect_at_level"] == pytest.approx(0.7 / 3)
    assert both["interaction_mean"] == pytest.approx(2 / 15, abs=1e-12)
    assert both["interaction_low"] == pytest.approx(2 / 15 - 4.3026527 / 15, rel=1e-7)
    assert both["p"] == pytest.approx(1 - 2 / math.sqrt(6), rel=1e-9) == both["p_holm"]
    assert both["sign_flip_p"] == 0.5 and both["verdict"] == "undecided" and both["seeds"] == 3
    assert len(crossed) == 1 and list(single["is_baseline"]) == [True, False, True, False]
    assert single.loc[["drop 0.0", "bias off"], ["p", "verdict", "difference"]].isna().all(axis=None)


def test_two_by_two_equals_a_within_subject_analysis_of_variance() -> None:
    losses = drawn(SMALL, 7, seed=1) + np.array([[0, 0.01], [0.02, 0.0]])[..., None]
    single, crossed = looked_at(SMALL, losses)
    cells = [(a, b, s, losses[a, b, s]) for a, b, s in np.ndindex(losses.shape)]
    table = AnovaRM(pd.DataFrame(cells, columns=["a", "b", "seed", "y"]), "y", "seed", within=["a", "b"]).fit()
    ours = [single.loc["drop 0.2"], single.loc["bias on"], crossed.iloc[0]]
    for row, name in zip(ours, ("a", "b", "a:b"), strict=True):
        expected = table.anova_table.loc[name]
        assert 7 * row["d_z"] ** 2 == pytest.approx(expected["F Value"], rel=1e-9)  # t² = n · d_z²
        assert row["p"] == pytest.approx(expected["Pr > F"], rel=1e-9)


def least_squares(levels: Levels, losses: Floats) -> dict[tuple[str, ...], float]:
    """Effects of a linear model with a constant per seed, each factor coded against its first level."""
    names = [[setting.of(value) for value in levels[path]] for path, setting in setting_labels(levels).items()]
    cells = list(np.ndindex(losses.shape))
    columns: dict[tuple[str, ...], list[float]] = {}
    for chosen in itertools.product(*([None, *range(1, len(values))] for values in levels.values())):
        label = tuple(names[i][level] for i, level in enumerate(chosen) if level is not None)
        if label:
            on = [all(level is None or cell[i] == level for i, level in enumerate(chosen)) for cell in cells]
            columns[label] = np.array(on, dtype=float).tolist()
    seeds = [[float(cell[-1] == s) for cell in cells] for s in range(losses.shape[-1])]
    design = np.array([*columns.values(), *seeds]).T
    found = np.linalg.lstsq(design, np.array([losses[cell] for cell in cells]), rcond=None)[0]
    return dict(zip(columns, found[: len(columns)], strict=True))


def test_three_by_three_contrasts_equal_least_squares() -> None:
    losses = drawn(WIDE, 5, seed=2) + np.random.default_rng(3).normal(0, 0.03, (3, 3, 1))
    single, crossed = looked_at(WIDE, losses)
    model = least_squares(WIDE, losses)
    assert len(crossed) == 4
    for (name, other), row in crossed.iterrows():
        assert row["effect_at_baseline"] == pytest.approx(model[(name,)], abs=1e-12)
        assert row["interaction_mean"] == pytest.approx(model[name, other], abs=1e-12)
        assert row["effect_at_level"] == pytest.approx(model[(name,)] + model[name, other], abs=1e-12)
    for name in ("drop 0.1", "drop 0.2"):  # a marginal difference is the mean of the simple effects
        shifts = [model[name, f"lr {rate}"] for rate in ("3e-3", "0.01")]
        assert single.loc[name, "difference"] == pytest.approx(model[(name,)] + sum(shifts) / 3, abs=1e-12)


def test_three_factors_are_averaged_over_the_third() -> None:
    losses = drawn(DEEP, 6, seed=4) + np.random.default_rng(5).normal(0, 0.02, (2, 3, 2, 1))
    single, crossed = looked_at(DEEP, losses)
    assert len(crossed) == 2 + 1 + 2 and (single["arms"] == [6, 6, 4, 4, 4, 6, 6]).all()
    # By sums over named cells, one seed after the other.
    rate = single.loc["lr 0.01"]
    per_seed = [sum(losses[a, 2, c, s] - losses[a, 0, c, s] for a in (0, 1) for c in (0, 1)) / 4 for s in range(6)]
    test = stats.ttest_1samp(per_seed, 0)
    assert rate["difference"] == pytest.approx(np.mean(per_seed), rel=1e-9)
    assert rate["p"] == pytest.approx(test.pvalue, rel=1e-9)
    assert rate["difference_low"] == pytest.approx(test.confidence_interval().low, rel=1e-9)
    row = crossed.loc[("lr 3e-3", "bias on")]
    per_seed = [
        sum((losses[a, 1, 1, s] - losses[a, 1, 0, s]) - (losses[a, 0, 1, s] - losses[a, 0, 0, s]) for a in (0, 1)) / 2
        for s in range(6)
    ]
    test = stats.ttest_1samp(per_seed, 0)
    assert row["interaction_mean"] == pytest.approx(np.mean(per_seed), rel=1e-9)
    assert row["p"] == pytest.approx(test.pvalue, rel=1e-9)
    assert row["interaction_high"] == pytest.approx(test.confidence_interval().high, rel=1e-9)


def test_main_effects_and_interactions_are_corrected_separately() -> None:
    single, crossed = looked_at(DEEP, drawn(DEEP, 5, seed=6))
    for frame in (single[~single["is_baseline"]], crossed):
        expected = multipletests(frame["p"], method="holm")[1]
        assert frame["p_holm"].to_numpy() == pytest.approx(expected, rel=1e-12)
        assert (frame["p_holm"] > frame["p"]).any()


@pytest.mark.parametrize(("effect", "word"), [(0.1, "interact"), (0.0, "no interaction larger than δ")])
def test_verdict_on_an_interaction(effect: float, word: str) -> None:
    losses = drawn(SMALL, 6, seed=7, spread=0.002) + 0.3 * np.array([[0], [1]])[..., None]
    for sign in (1, -1):
        shifted = losses.copy()
        shifted[1, 1] += sign * effect
        single, crossed = looked_at(SMALL, shifted)
        assert list(crossed["verdict"]) == [word]
        assert single.loc["drop 0.2", "verdict"] == "worse"
    rough = drawn(SMALL, 3, seed=8, spread=0.05)
    assert list(looked_at(SMALL, rough)[1]["verdict"]) == ["undecided"]


def test_verdicts_follow_the_rule_for_arms() -> None:
    losses = drawn(SMALL, 5, seed=9)
    single, _ = looked_at(SMALL, losses)
    apart = [(losses[1] - losses[0]).mean(axis=0), (losses[:, 1] - losses[:, 0]).mean(axis=0)]
    for judged, name in zip(judge(apart, DELTA), ("drop 0.2", "bias on"), strict=True):
        assert single.loc[name, "verdict"] == judged.verdict
        assert single.loc[name, "mde"] == pytest.approx(judged.mde, rel=1e-9)
        assert single.loc[name, "seeds_needed"] == judged.seeds_needed


def contrasts(losses: Floats) -> Floats:
    """The contrasts of a 3 × 3 grid; shape (sweeps, 4, seeds) for losses of shape (3, 3, sweeps, seeds)."""
    found = [interaction(losses, 2, (0, 1), levels, (0, 0)) for levels in itertools.product((1, 2), (1, 2))]
    return np.stack(found, axis=-2)


@pytest.mark.parametrize("seeds", [3, 6])
def test_few_sweeps_with_additive_effects_show_an_interaction(seeds: int) -> None:
    generator, sweeps = np.random.default_rng(seeds), 20_000
    effects = generator.normal(0, 0.1, (3, 1, 1, 1)) + generator.normal(0, 0.1, (1, 3, 1, 1))
    shared = generator.normal(5, 0.05, (sweeps, seeds))
    losses = effects + shared + generator.normal(0, 0.01, (3, 3, sweeps, seeds))
    p = paired_t_p(contrasts(losses))
    adjusted = holm(p)
    alarms = np.asarray((adjusted <= 0.05).any(axis=-1))
    assert alarms.mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / sweeps)
    assert (p <= 0.05).any(axis=-1).mean() > 2 * alarms.mean()  # so the line above can fail
    # The frames say the same of single sweeps: some with an alarm, some without.
    for sweep in [*np.flatnonzero(alarms)[:3], *range(3)]:
        _, crossed = looked_at(WIDE, losses[:, :, sweep])
        assert crossed["p_holm"].to_numpy() == pytest.approx(adjusted[sweep], rel=1e-9)
        assert (crossed["verdict"] == "interact").any() == alarms[sweep]


def test_a_constant_added_to_all_runs_of_a_seed_changes_no_difference() -> None:
    losses = drawn(DEEP, 4, seed=10)
    single, crossed = looked_at(DEEP, losses)
    shifted, shifted_crossed = looked_at(DEEP, losses + np.array([0.5, -1.0, 0.25, 3.0]))
    for name in ("difference", "difference_low", "p_holm", "mde"):
        assert shifted[name].to_numpy() == pytest.approx(single[name].to_numpy(), rel=1e-9, nan_ok=True)
    for name in ("interaction_mean", "interaction_high", "p_holm", "effect_at_level"):
        assert shifted_crossed[name].to_numpy() == pytest.approx(crossed[name].to_numpy(), rel=1e-9)
    assert list(shifted["verdict"].dropna()) == list(single["verdict"].dropna())
    # A constant per level of one factor moves its marginals by just that, and no interaction.
    moved, moved_crossed = looked_at(DEEP, losses + np.array([0.0, 0.125, 0.25])[:, None, None])
    assert moved_crossed["interaction_mean"].to_numpy() == pytest.approx(crossed["interaction_mean"], abs=1e-12)
    added = (moved["difference"] - single["difference"]).dropna()
    assert added.to_numpy() == pytest.approx([0, 0.125, 0.25, 0], abs=1e-12)


def test_the_order_of_levels_factors_and_runs_does_not_matter() -> None:
    losses = drawn(WIDE, 4, seed=11)
    record = record_of(WIDE)
    runs = runs_of(record, losses)
    single = marginals(runs, record, LOSS, DELTA).set_index("name")
    crossed = interactions(runs, record, LOSS, DELTA).set_index(["name", "other_name"])
    baseline = arm_name({RATE: 1e-3, DROP: 0.0})
    other_way = record_of({RATE: [1e-2, 1e-3, 3e-3], DROP: [0.2, 0.1, 0.0]}, baseline=baseline)
    turned = losses.swapaxes(0, 1)[[2, 0, 1]][:, [2, 1, 0]]
    shuffled = runs_of(other_way, turned).sample(frac=1, random_state=0)
    again = marginals(shuffled, other_way, LOSS, DELTA).set_index("name").loc[single.index]
    for name in ("mean", "difference", "p_holm", "seeds_needed"):
        assert again[name].to_numpy() == pytest.approx(single[name].to_numpy(), rel=1e-9, nan_ok=True)
    mirrored = interactions(shuffled, other_way, LOSS, DELTA).set_index(["other_name", "name"]).loc[crossed.index]
    for name in ("interaction_mean", "interaction_low", "p_holm"):
        assert mirrored[name].to_numpy() == pytest.approx(crossed[name].to_numpy(), rel=1e-9)
    assert list(mirrored["verdict"]) == list(crossed["verdict"])


def test_rounding_error_is_not_an_effect() -> None:
    losses = np.array([5.11, 5.37, 5.73]) + np.array([[0.0, 0.07], [0.2, 0.27]])[..., None]
    single, crossed = looked_at(SMALL, losses)
    assert ((losses[1, 1] - losses[1, 0]) - (losses[0, 1] - losses[0, 0])).any()  # in floats they do not add up
    assert crossed.iloc[0][["interaction_mean", "p", "verdict"]].tolist() == [0, 1, "no interaction larger than δ"]
    assert single.loc["drop 0.2", "verdict"] == "worse"
    tiny, _ = looked_at(SMALL, np.array([5.0, 5.5]) + 1e-6 * np.array([[[0, 0], [0, 0]], [[1, 2], [1, 2]]]))
    assert tiny.loc["drop 0.2", "difference"] == pytest.approx(1.5e-6, rel=1e-6)


def test_contrasts_use_only_seeds_of_all_needed_arms() -> None:
    losses = drawn(WIDE, 6, seed=12)
    whole_single, whole = looked_at(WIDE, losses)
    losses[2, 2, 1] = math.nan  # drop_rate=0.2, learning_rate=0.01 has no seed 3
    losses[0, 0, 4:] = math.nan  # the baseline has no seeds 6 and 7
    single, crossed = looked_at(WIDE, losses)
    assert crossed["seeds"].to_dict() == {
        ("drop 0.1", "lr 3e-3"): 4,
        ("drop 0.1", "lr 0.01"): 4,
        ("drop 0.2", "lr 3e-3"): 4,
        ("drop 0.2", "lr 0.01"): 3,
    }
    assert single["seeds"].to_dict() == {
        "drop 0.0": 4,
        "drop 0.1": 6,
        "drop 0.2": 5,
        "lr 1e-3": 4,
        "lr 3e-3": 6,
        "lr 0.01": 5,
    }
    assert list(single["pairs"]) == [0, 4, 3, 0, 4, 3]
    kept = losses[:, :, [0, 2, 3]]
    per_seed = (kept[2] - kept[0]).mean(axis=0)
    assert single.loc["drop 0.2", "difference"] == pytest.approx(per_seed.mean(), rel=1e-9)
    assert single.loc["drop 0.2", "p"] == pytest.approx(stats.ttest_1samp(per_seed, 0).pvalue, rel=1e-9)
    row = crossed.loc[("drop 0.2", "lr 0.01")]
    assert row["effect_at_level"] - row["effect_at_baseline"] == pytest.approx(row["interaction_mean"], rel=1e-9)
    assert row["effect_at_level"] == pytest.approx((kept[2, 2] - kept[0, 2]).mean(), rel=1e-9)
    assert len(whole) == 4 and (whole["seeds"] == 6).all() and (whole_single["seeds"] == 6).all()


def test_run_ids_of_a_row_are_the_runs_it_used() -> None:
    losses = drawn(WIDE, 3, seed=13)
    losses[1, 1, 0] = math.nan
    record = record_of(WIDE)
    runs = runs_of(record, losses)
    by_id = runs.set_index("run_id")
    single = marginals(runs, record, LOSS, DELTA)
    for _, row in single.iterrows():
        behind = by_id.loc[row["run_ids"].split()]
        assert len(behind) == row["seeds"] * row["arms"]
        assert row["mean"] == pytest.approx(behind[LOSS].mean(), rel=1e-12)
        assert (behind[row["factor"]] == float(row["level"])).all()
    crossed = interactions(runs, record, LOSS, DELTA)
    first = crossed.iloc[0]
    behind = by_id.loc[first["run_ids"].split()]
    assert set(behind["seed"]) == {3, 4} and len(behind) == 4 * first["seeds"] == 8
    assert set(behind[DROP]) == {0.0, 0.1} and set(behind[RATE]) == {1e-3, 3e-3}
    cell = behind.groupby([DROP, RATE])[LOSS].mean()
    effects = cell[0.1, 3e-3] - cell[0.0, 3e-3], cell[0.1, 1e-3] - cell[0.0, 1e-3]
    assert first["interaction_mean"] == pytest.approx(effects[0] - effects[1], rel=1e-9)


def test_an_arm_without_a_result_affects_only_contrasts_that_need_it() -> None:
    losses = drawn(WIDE, 4, seed=14)
    losses[2, 2] = math.nan
    single, crossed = looked_at(WIDE, losses)
    assert list(single["pairs"]) == [0, 4, 0, 0, 4, 0] and list(crossed["seeds"]) == [4, 4, 4, 0]
    lost = crossed.iloc[3]
    assert lost["verdict"] == "undecided" and lost["run_ids"] == ""
    assert lost[["interaction_mean", "effect_at_level", "p"]].isna().all()
    assert single.loc["drop 0.2", "verdict"] == "undecided" and math.isnan(single.loc["drop 0.2", "mean"])
    # It still counts as a test: no verdict on the others changes when its runs come in.
    assert crossed["p_holm"].min() == pytest.approx(4 * crossed["p"].min(), rel=1e-9)


def test_a_factor_whose_arms_diverge_is_never_better_or_equal() -> None:
    losses = drawn(SMALL, 4, seed=16, spread=0.001)
    losses[1] -= 0.1
    single, crossed = looked_at(SMALL, losses)
    assert single.loc["drop 0.2", "verdict"] == "better" and crossed.iloc[0]["verdict"] != "undecided"
    losses[1, 1, 2] = math.inf
    single, crossed = looked_at(SMALL, losses)
    row = single.loc["drop 0.2"]
    assert row["verdict"] == "undecided" and row["pairs"] == row["seeds"] == 4
    assert row["mean"] == pytest.approx((losses[1][:, [0, 1, 3]].sum() + losses[1, 0, 2] + 10.8) / 8)
    assert crossed.iloc[0][["verdict", "seeds"]].tolist() == ["undecided", 3]  # it uses the seeds that all trained on
    losses[0, 0, 1] = math.inf  # an arm of the baseline's level too
    assert looked_at(SMALL, losses)[0].loc["drop 0.2", "verdict"] == "undecided"


def test_one_seed_gives_means_without_intervals() -> None:
    single, crossed = looked_at(SMALL, np.array([[[5.0], [5.1]], [[5.2], [5.5]]]))
    assert single.loc["drop 0.2", "difference"] == pytest.approx(0.3)
    assert crossed.iloc[0]["interaction_mean"] == pytest.approx(0.2) and crossed.iloc[0]["verdict"] == "undecided"
    assert math.isnan(crossed.iloc[0]["interaction_low"]) and math.isnan(crossed.iloc[0]["p"])


def test_an_arm_decided_at_a_look_stays_decided() -> None:
    losses = drawn(SMALL, 6, seed=15, spread=0.001)
    losses[1, 1, :3] += 0.1
    losses[1, 1, 3:] -= 0.1
    single, crossed = looked_at(SMALL, losses, looks=(3, 6))
    row = crossed.iloc[0]
    assert row["verdict"] == "interact" and row["seeds"] == 3
    assert row["interaction_mean"] == pytest.approx(0.1, abs=0.01)
    assert row["effect_at_level"] - row["effect_at_baseline"] == pytest.approx(row["interaction_mean"], rel=1e-9)
    assert len(row["run_ids"].split()) == 4 * 3
    assert single.loc["drop 0.2", "pairs"] == 3 and single.loc["drop 0.2", "seeds"] == 6
    at_once = looked_at(SMALL, losses)[1].iloc[0]
    assert at_once["verdict"] == "undecided" and at_once["seeds"] == 6


def test_bits_per_byte_are_compared_in_their_own_unit() -> None:
    record = record_of(SMALL)
    runs = runs_of(record, drawn(SMALL, 5, seed=16))
    losses, bits = (
        marginals(runs, record, metric, DELTA / scale) for metric, scale in ((LOSS, 1), ("val/bits_per_byte", 3))
    )
    assert (bits["difference"] * 3).to_numpy() == pytest.approx(losses["difference"].to_numpy(), nan_ok=True)
    assert list(bits["verdict"].dropna()) == list(losses["verdict"].dropna())


@pytest.mark.parametrize(
    "levels", [{DROP: [0.0, 0.1, 0.2]}, {DROP: [0.0, 0.1], BIAS: [True]}, {DROP: [0.1], BIAS: [True]}]
)
def test_one_factor_is_not_a_grid(levels: Levels) -> None:
    record = record_of(levels)
    runs = runs_of(record, drawn(levels, 3, seed=17))
    assert grid(runs, record, LOSS) is None
    assert marginals(runs, record, LOSS, DELTA).empty and interactions(runs, record, LOSS, DELTA).empty


def test_equal_arms_are_not_a_grid() -> None:
    values = {DROP: 0.1, BIAS: False}
    record = example.record({"first": values, "second": values, "third": {DROP: 0.2, BIAS: True}})
    runs = example.frame([example.run(7, "first", values, seed=2, loss=5.0)])
    assert len(record.compare) == 2 and grid(runs, record, LOSS) is None


def test_a_grid_is_arranged_by_value() -> None:
    record = record_of({DROP: [0.2, 0.0], BIAS: [True, False]})
    losses = np.arange(12.0).reshape(2, 2, 3) + 5
    runs = pd.concat([runs_of(record, losses, seeds=[9, 4, 6]), example.frame(example.explore_runs())])
    found = grid(runs, record, LOSS)
    assert found is not None and found.seeds == (4, 6, 9) and found.baseline == (0, 0)
    assert found.levels == {DROP: (0.2, 0.0), BIAS: (True, False)}
    assert found.values.tolist() == losses[..., [1, 2, 0]].tolist()
    assert found.name(1, 0) == "bias on" and found.arms[1, 0] == "drop_rate=0.0, qkv_bias=true"
    missing = example.record({arm.name: arm.values for arm in record.arms[:3]}, baseline=record.arms[1].name)
    part = grid(runs[runs["arm"] != record.arms[3].name], missing, LOSS)
    assert part is not None and part.arms[1, 1] == record.arms[3].name and np.isnan(part.values[1, 1]).all()
    assert part.baseline == (0, 1)


def test_a_metric_that_does_not_compare_the_arms_is_refused() -> None:
    levels: Levels = {DROP: [0.0, 0.1], "data.tokenizer": ["gpt2", "byte"]}
    record = record_of(levels)
    runs = runs_of(record, drawn(levels, 2, seed=18))
    with pytest.raises(ValueError, match="predict different tokens"):
        marginals(runs, record, LOSS, DELTA)
    assert len(interactions(runs, record, "val/bits_per_byte", DELTA)) == 1
    with pytest.raises(ValueError, match="found 'test/loss'; allowed: a metric of the validation split"):
        interactions(runs, record, "test/loss", DELTA)


def test_contrasts_keep_additional_axes() -> None:
    losses = np.random.default_rng(19).normal(5, 1, (2, 3, 2, 4, 5))
    assert main_effect(losses, 3, 1, 2, 0) == pytest.approx((losses[:, 2] - losses[:, 0]).mean(axis=(0, 1)))
    found = interaction(losses, 3, (0, 2), (1, 1), (0, 0))
    assert found.shape == (4, 5)
    swapped = interaction(losses, 3, (2, 0), (1, 1), (0, 0))
    assert found == pytest.approx(swapped) and found == pytest.approx(-interaction(losses, 3, (0, 2), (0, 1), (1, 0)))
