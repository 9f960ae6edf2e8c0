"""Sobol indices of functions with known indices: computed by hand, and checked by quadrature on a dense grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pytest

from harness.analysis import importance as fitting
from harness.analysis.importance import Importance, importance

pytestmark = pytest.mark.slow

Space = Mapping[str, Mapping[str, Sequence[Any]]]
Trial = dict[str, Any]
Function = Callable[[Trial], float]

RATE = {"log_uniform": [1e-5, 1e-1]}
DROP = {"uniform": [0.0, 0.5]}
DECAY = {"log_uniform": [1e-3, 1.0]}


def log_place(rate: float) -> float:
    """The position, 0 to 1, of a learning rate between 1e-5 and 1e-1 on a log scale."""
    return (math.log10(rate) + 5) / 4


def draw(space: Space, count: int, seed: int = 0) -> list[Trial]:
    """Trials of a random search."""
    rng = np.random.default_rng(seed)

    def value(kind: str, values: Sequence[Any]) -> Any:
        if kind == "choice":
            return values[int(rng.integers(len(values)))]
        low, high = values
        if kind == "int_uniform":
            return int(rng.integers(low, high + 1))
        if kind == "log_uniform":
            return float(np.exp(rng.uniform(np.log(low), np.log(high))))
        return float(rng.uniform(low, high))

    return [{path: value(*next(iter(kind.items()))) for path, kind in space.items()} for _ in range(count)]


def on_a_grid(function: Function, space: Space, points: int = 48) -> tuple[list[float], list[float]]:
    """First-order and total Sobol indices by the midpoint rule on a full grid."""
    axes: list[Sequence[Any]] = []
    middles = (np.arange(points) + 0.5) / points
    for dimension in space.values():
        ((kind, values),) = dimension.items()
        if kind == "choice":
            axes.append(values)
        elif kind == "int_uniform":
            axes.append(range(values[0], values[1] + 1))
        elif kind == "log_uniform":
            axes.append((values[0] * (values[1] / values[0]) ** middles).tolist())
        else:
            axes.append((values[0] + (values[1] - values[0]) * middles).tolist())
    table = np.empty([len(axis) for axis in axes])
    for at in np.ndindex(table.shape):
        table[at] = function({path: axis[i] for path, axis, i in zip(space, axes, at, strict=True)})
    every = range(table.ndim)
    main = [float(table.mean(axis=tuple(e for e in every if e != d)).var() / table.var()) for d in every]
    total = [float(table.var(axis=d).mean() / table.var()) for d in every]
    return main, total


@pytest.fixture
def few_bags(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the bootstrap samples, where neither intervals nor the exact R² matter."""
    monkeypatch.setattr(fitting, "BAGS", 10)


@dataclass(frozen=True)
class Case:
    """A loss, its space, its shares in the order of the space, and how near 200 random trials must come.

    `unseen` is how near R² must come. It is that of fits to five of eight trials, and the more a function bends, the
    more of them it takes to predict the others.
    """

    name: str
    function: Function
    space: Space
    main: list[float]
    total: list[float]
    within: float = 0.005
    unseen: float = 0.002
    noise: float = 0.0


# Of u even on 0 … 1: Var(u) = 1/12; Var((u − c)²) = 1/180 + (1/2 − c)²/3, as with t = u − 1/2 and δ = 1/2 − c it is
# Var(t²) + Var(2δt), uncorrelated, Var(t²) = 1/80 − 1/144.
BOWL, SLOPE = 36 * (1 / 180 + 0.01 / 3), 0.25 / 12


def bowl(t: Trial) -> float:
    return 4 + 6 * (log_place(t["rate"]) - 0.6) ** 2 + t["drop"]  # drop is 0 … 0.5: variance 0.25/12


# Ishigami, a = 7, b = 0.1 on −π … π: V1 = (1 + bπ⁴/5)²/2, V2 = a²/8, V13 = b²π⁸(1/18 − 1/50), all else 0.
ISHIGAMI = [(1 + 0.1 * math.pi**4 / 5) ** 2 / 2, 49 / 8, 0.01 * math.pi**8 * (1 / 18 - 1 / 50)]


def ishigami(t: Trial) -> float:
    a, b, c = (math.pi * (2 * log_place(t["rate"]) - 1), t["b"], t["c"])
    return math.sin(a) + 7 * math.sin(b) ** 2 + 0.1 * c**4 * math.sin(a)


# Sobol's g: Π (|4u − 2| + a)/(1 + a) has V_i = 1/(3(1 + a_i)²) and V = Π(1 + V_i) − 1; the total effect of i is
# V_i Π_{j≠i}(1 + V_j).
PRODUCT = [1 / (3 * (1 + a) ** 2) for a in (0.0, 1.0, 4.5)]
PRODUCT_ALL = math.prod(1 + v for v in PRODUCT) - 1


def product(t: Trial) -> float:
    places = (log_place(t["rate"]), 2 * t["drop"], t["c"])
    return math.prod((abs(4 * u - 2) + a) / (1 + a) for u, a in zip(places, (0.0, 1.0, 4.5), strict=True))


OPTIMIZER = {"choice": ["adamw", "muon", "sgd"]}
OFFSET = {"adamw": 0.0, "muon": 0.5, "sgd": 2.0}  # variance over the options 4.25/3 − (2.5/3)²
TILT = {"adamw": -1.0, "muon": 0.0, "sgd": 1.0}
WIDTH = {512: 3.0, 32: 0.0, 64: 1.0}  # variance 10/3 − (4/3)² = 14/9
OFFSETS, STEP = 4.25 / 3 - (2.5 / 3) ** 2, 0.64 * 0.16 * 6.8**2

CASES = [
    Case(
        "a bowl in the logarithm of the rate, a slope, and one that does nothing",
        bowl,
        {"rate": RATE, "drop": DROP, "decay": DECAY},
        main=[BOWL / (BOWL + SLOPE), SLOPE / (BOWL + SLOPE), 0],
        total=[BOWL / (BOWL + SLOPE), SLOPE / (BOWL + SLOPE), 0],
    ),
    Case(
        "the same with noise, of a standard deviation of two thirds of the slope's",
        bowl,
        {"rate": RATE, "drop": DROP, "decay": DECAY},
        main=[BOWL / (BOWL + SLOPE), SLOPE / (BOWL + SLOPE), 0],
        total=[BOWL / (BOWL + SLOPE), SLOPE / (BOWL + SLOPE), 0],
        within=0.05,
        unseen=0.05,
        noise=0.1,
    ),
    Case(
        "slopes of 1, 2 and 3: squares over their sum",
        lambda t: log_place(t["rate"]) + 4 * t["drop"] - math.log10(t["decay"]),
        {"rate": RATE, "drop": DROP, "decay": DECAY},
        main=[1 / 14, 4 / 14, 9 / 14],
        total=[1 / 14, 4 / 14, 9 / 14],
    ),
    Case(
        "Ishigami",
        ishigami,
        {"rate": RATE, "b": {"uniform": [-math.pi, math.pi]}, "c": {"uniform": [-math.pi, math.pi]}},
        main=[ISHIGAMI[0] / sum(ISHIGAMI), ISHIGAMI[1] / sum(ISHIGAMI), 0],
        total=[1 - ISHIGAMI[1] / sum(ISHIGAMI), ISHIGAMI[1] / sum(ISHIGAMI), ISHIGAMI[2] / sum(ISHIGAMI)],
        within=0.05,
        unseen=0.1,
    ),
    Case(
        "Sobol's g, which has kinks",
        product,
        {"rate": RATE, "drop": DROP, "c": {"uniform": [0, 1]}},
        main=[v / PRODUCT_ALL for v in PRODUCT],
        total=[v * (1 + PRODUCT_ALL) / (1 + v) / PRODUCT_ALL for v in PRODUCT],
        within=0.03,
        unseen=0.05,
    ),
    Case(
        "an interaction and nothing else",
        lambda t: (log_place(t["rate"]) - 0.5) * (t["drop"] - 0.25),
        {"rate": RATE, "drop": DROP},
        main=[0, 0],
        total=[1, 1],
    ),
    Case(
        # E[uv | u] = u/2, variance 1/48; Var(uv) = 1/9 − 1/16 = 7/144
        "a product of two places",
        lambda t: log_place(t["rate"]) * (math.log10(t["decay"]) / 3 + 1),
        {"rate": RATE, "decay": DECAY},
        main=[3 / 7, 3 / 7],
        total=[4 / 7, 4 / 7],
    ),
    Case(
        "options without an order beside a slope",
        lambda t: OFFSET[t["optimizer"]] + 4 * t["drop"],  # variance of the slope 4/12
        {"optimizer": OPTIMIZER, "drop": DROP},
        main=[OFFSETS / (OFFSETS + 1 / 3), (1 / 3) / (OFFSETS + 1 / 3)],
        total=[OFFSETS / (OFFSETS + 1 / 3), (1 / 3) / (OFFSETS + 1 / 3)],
    ),
    Case(
        # s·u with s = −1, 0, 1: E[·|s] = s/2 has variance 1/6, E[·|u] = 0, the whole 2/3 · 1/3
        "options that turn a slope round",
        lambda t: TILT[t["optimizer"]] * log_place(t["rate"]),
        {"optimizer": OPTIMIZER, "rate": RATE},
        main=[3 / 4, 0],
        total=[1, 1 / 4],
    ),
    Case(
        # Whole numbers 1 and 2 have variance 1/4, where a range from 1 to 2 would have 1/12 like the other dimension.
        "whole numbers beside a slope",
        lambda t: t["layers"] + log_place(t["rate"]),
        {"layers": {"int_uniform": [1, 2]}, "rate": RATE},
        main=[3 / 4, 1 / 4],
        total=[3 / 4, 1 / 4],
    ),
    Case(
        # u · k with k = 2 … 6, variance 2, mean 4: main 2/4 and 16/12, the whole (1/3)(18) − 4 = 2
        "a range that matters more with each layer",
        lambda t: log_place(t["rate"]) * t["layers"],
        {"rate": RATE, "layers": {"int_uniform": [2, 6]}},
        main=[2 / 3, 1 / 4],
        total=[3 / 4, 1 / 3],
    ),
    Case(
        "numbers to choose from, by rank",
        lambda t: WIDTH[t["width"]] + 4 * t["drop"],
        {"width": {"choice": [512, 32, 64]}, "drop": DROP},
        main=[(14 / 9) / (14 / 9 + 1 / 3), (1 / 3) / (14 / 9 + 1 / 3)],
        total=[(14 / 9) / (14 / 9 + 1 / 3), (1 / 3) / (14 / 9 + 1 / 3)],
    ),
    Case(
        # A fifth of the space diverges: a step of 6.8 with probability 0.2 has variance 0.2 · 0.8 · 6.8².
        "a rate from which on training diverges, beside a slope",
        lambda t: (10.8 if log_place(t["rate"]) > 0.8 else 4.0) + t["drop"],
        {"rate": RATE, "drop": DROP},
        main=[0.16 * 6.8**2 / (0.16 * 6.8**2 + SLOPE), SLOPE / (0.16 * 6.8**2 + SLOPE)],
        total=[0.16 * 6.8**2 / (0.16 * 6.8**2 + SLOPE), SLOPE / (0.16 * 6.8**2 + SLOPE)],
        within=0.02,
        unseen=0.05,
    ),
]


def losses_of(case: Case, trials: Sequence[Trial], seed: int = 1) -> np.ndarray:
    noise = case.noise * np.random.default_rng(seed).standard_normal(len(trials))
    return np.array([case.function(trial) for trial in trials]) + noise


def by_path(result: Importance | None, space: Space, figure: str = "main") -> list[float]:
    assert result is not None
    return [next(getattr(share, figure) for share in result.shares if share.path == path) for path in space]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_known_indices_agree_with_quadrature(case: Case) -> None:
    main, total = on_a_grid(case.function, case.space)
    tolerance = 0.01 if "diverges" in case.name else 2e-3  # the step lies between two points of the grid
    assert main == pytest.approx(case.main, abs=tolerance)
    assert total == pytest.approx(case.total, abs=tolerance)


@pytest.mark.usefixtures("few_bags")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_estimated_indices_are_close_to_the_truth(case: Case) -> None:
    trials = draw(case.space, 200)
    result = importance(trials, losses_of(case, trials), case.space)
    assert result is not None
    assert by_path(result, case.space) == pytest.approx(case.main, abs=case.within)
    assert by_path(result, case.space, "total") == pytest.approx(case.total, abs=case.within)
    assert result.interactions == pytest.approx(1 - sum(case.main), abs=case.within)
    assert result.enough and result.trials == 200
    signal = np.var([case.function(trial) for trial in trials])  # noise cannot be predicted
    assert result.r2 == pytest.approx(signal / (signal + case.noise**2), abs=case.unseen)
    assert [share.main for share in result.shares] == sorted((s.main for s in result.shares), reverse=True)
    assert all(0 <= s.low <= s.main <= s.high <= 1 and s.main <= s.total <= 1 for s in result.shares)


def test_intervals_from_40_trials_contain_most_of_the_true_indices() -> None:
    held, widths = [], []
    for case in CASES:
        trials = draw(case.space, 40, seed=2)
        result = importance(trials, losses_of(case, trials), case.space)
        low, high = (np.array(by_path(result, case.space, end)) for end in ("low", "high"))
        held += [*((low - 0.005 <= case.main) & (case.main <= high + 0.005))]
        widths += [*(high - low)]
    assert len(held) > 25 and np.mean(held) > 0.9
    assert np.median(widths) < 0.1  # narrow enough to be useful


@pytest.mark.usefixtures("few_bags")
def test_a_log_range_treated_as_uniform_gives_different_indices() -> None:
    space = {"rate": RATE, "drop": DROP}
    even = {"rate": {"uniform": RATE["log_uniform"]}, "drop": DROP}

    def far_end(t: Trial) -> float:
        return (log_place(t["rate"]) - 0.9) ** 2 + t["drop"]

    trials = draw(space, 200)
    losses = [far_end(trial) for trial in trials]
    truth = (1 / 180 + 0.16 / 3) / (1 / 180 + 0.16 / 3 + SLOPE)
    # In a uniform range nine of ten rates lie in the last decade, where the loss is nearly flat in the rate.
    assert truth == pytest.approx(0.74, abs=0.005)
    assert on_a_grid(far_end, even, points=400)[0][0] < 0.05
    assert by_path(importance(trials, losses, space), space)[0] == pytest.approx(truth, abs=0.005)
    wrong = importance(trials, losses, even)
    assert by_path(wrong, even)[0] < truth - 0.15
    assert wrong is not None and wrong.interactions > 0.1  # of which the function has none


def tpe(case: Case, count: int) -> list[Trial]:
    """Trials of Optuna's TPE, clustered around the best one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, multivariate=False))
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        path: optuna.distributions.FloatDistribution(values[0], values[1], log=kind == "log_uniform")
        for path, dimension in case.space.items()
        for kind, values in dimension.items()
    }
    noise = np.random.default_rng(3)
    for _ in range(count):
        trial = study.ask(distributions)
        study.tell(trial, case.function(trial.params) + case.noise * float(noise.standard_normal()))
    return [trial.params for trial in study.trials]


@pytest.mark.usefixtures("few_bags")
@pytest.mark.parametrize(("case", "within"), [(CASES[0], 0.01), (CASES[1], 0.1)], ids=["without noise", "with noise"])
def test_trials_clustered_around_the_best_still_give_indices_of_the_whole_space(case: Case, within: float) -> None:
    trials = tpe(case, 100)
    near = [abs(log_place(trial["rate"]) - 0.6) < 0.1 for trial in trials]
    assert np.mean(near) > 0.5  # of uniform trials a fifth would lie there
    result = importance(trials, losses_of(case, trials), case.space)
    assert by_path(result, case.space) == pytest.approx(case.main, abs=within)
    # Over the trials themselves the bowl varies much less than over the space.
    assert np.var([6 * (log_place(trial["rate"]) - 0.6) ** 2 for trial in trials]) < BOWL / 2


def test_r2_is_weighted_over_the_space_and_not_over_the_trials() -> None:
    # 80 trials in the lowest fifth, where the loss is linear, and 20 outside it, where it is pure noise. With equal
    # weights R² would be 0.71.
    space = {"drop": DROP}
    rng = np.random.default_rng(0)
    crowd, beyond = rng.uniform(0, 0.1, 80), rng.uniform(0.1, 0.5, 20)
    losses = np.concatenate([20 * crowd, 1 + 0.5 * rng.standard_normal(20)])
    result = importance([{"drop": drop} for drop in [*crowd, *beyond]], losses, space)
    assert result is not None and result.r2 < 0 and not result.enough


@pytest.mark.parametrize("count", [8, 12, 60])
def test_pure_noise_gives_a_low_r2(count: int) -> None:
    space: Space = {"rate": RATE, "drop": DROP, "optimizer": OPTIMIZER}
    for seed in range(3):
        result = importance(draw(space, count, seed), np.random.default_rng(seed).standard_normal(count), space)
        assert result is not None and result.r2 < 0.5 and not result.enough


def test_fewer_trials_give_wider_intervals_and_a_lower_r2() -> None:
    case = CASES[1]
    trials = draw(case.space, 60)
    losses = losses_of(case, trials)
    few, many = (importance(trials[:n], losses[:n], case.space) for n in (12, 60))
    assert few is not None and many is not None
    assert few.r2 < many.r2
    assert few.shares[0].high - few.shares[0].low > 2 * (many.shares[0].high - many.shares[0].low)


@pytest.mark.usefixtures("few_bags")
def test_indices_do_not_depend_on_the_unit_of_the_loss_and_are_fixed_by_the_seed() -> None:
    case = CASES[1]
    trials = draw(case.space, 20)
    losses = losses_of(case, trials)
    in_bits = 3 + losses / math.log(2)
    result, again, bits = (importance(trials, y, case.space, seed=5) for y in (losses, losses, in_bits))
    assert result == again
    assert by_path(bits, case.space) == pytest.approx(by_path(result, case.space), abs=1e-4)
    other = importance(trials, losses, case.space, seed=6)
    assert by_path(other, case.space) == by_path(result, case.space)  # the seed affects only the bootstrap
    assert by_path(other, case.space, "low") != by_path(result, case.space, "low")


@pytest.mark.usefixtures("few_bags")
def test_many_trials_are_subsampled_for_the_fit_and_all_count_for_r2() -> None:
    case = CASES[1]
    trials = draw(case.space, 260)
    result = importance(trials, losses_of(case, trials), case.space)
    assert result is not None and result.trials == 260
    assert by_path(result, case.space) == pytest.approx(case.main, abs=0.05)


def test_one_dimension_explains_everything_and_a_constant_one_explains_nothing() -> None:
    space: Space = {"rate": RATE, "optimizer": {"choice": ["adamw"]}}
    trials = draw(space, 20)
    result = importance(trials, [log_place(trial["rate"]) ** 2 for trial in trials], space)
    assert by_path(result, space) == pytest.approx([1, 0], abs=1e-6)
    assert result is not None and result.interactions == pytest.approx(0, abs=1e-6)


def test_a_large_integer_range_behaves_like_a_continuous_one() -> None:
    space: Space = {"steps": {"int_uniform": [1, 10**9]}, "drop": DROP}
    trials = draw(space, 30)
    losses = [trial["steps"] / 1e9 + 2 * trial["drop"] for trial in trials]
    assert by_path(importance(trials, losses, space), space) == pytest.approx([1 / 2, 1 / 2], abs=0.005)


def test_convergence_warnings_of_the_fit_are_suppressed() -> None:
    # The second dimension has no effect, so its length scale ends at the upper bound.
    space = {"rate": RATE, "drop": DROP}
    trials = draw(space, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert importance(trials, [log_place(trial["rate"]) for trial in trials], space) is not None


def test_repeated_configurations_are_handled() -> None:
    # a grid of six points, five times over, with noise: 4/6 + 1/4 by the two factors, no interaction
    space: Space = {"width": {"choice": [1, 2, 3]}, "bias": {"choice": [False, True]}}
    trials = [{"width": width, "bias": bias} for width in (1, 2, 3) for bias in (False, True)] * 5
    losses = [trial["width"] + trial["bias"] for trial in trials] + 0.1 * np.random.default_rng(0).standard_normal(30)
    result = importance(trials, losses, space)
    assert by_path(result, space) == pytest.approx([8 / 11, 3 / 11], abs=0.03)


def test_too_few_trials_give_none_and_invalid_losses_are_refused() -> None:
    space = {"rate": RATE}
    trials = draw(space, 8)
    rising = [trial["rate"] for trial in trials]
    assert importance(trials, rising, space) is not None
    assert importance(trials[:7], rising[:7], space) is None
    assert importance(trials, [4.0] * 8, space) is None
    assert importance([{}] * 8, rising, {}) is None
    with pytest.raises(ValueError, match=r"found nan; allowed: finite numbers"):
        importance(trials, [*rising[:7], math.nan], space)
    with pytest.raises(ValueError, match=r"found shape \(7,\); allowed: one per trial, \(8,\)"):
        importance(trials, rising[:7], space)
