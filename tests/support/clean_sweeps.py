"""Random sweeps that deserve no warning: carefully planned, with the mishaps of real sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import example_sweep as example
from harness.analysis.comparison import undecided_arms
from harness.analysis.statistics import detectable_effect
from harness.config.fields import arm_name
from harness.report.assemble import in_order
from harness.tracking import SweepRecord

DELTA = 0.02
INITIAL_LOSS = 10.8
FACTORS: dict[str, Sequence[Any]] = {
    "model.drop_rate": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
    "train.beta2": (0.9, 0.95, 0.98, 0.99, 0.995, 0.999),
    "train.final_fraction": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5),
    "model.context_length": (16, 32, 64, 128),
    "train.schedule": ("constant", "cosine", "linear", "wsd"),
    "model.qkv_bias": (False, True),
}
SPACE: dict[str, dict[str, list[float]]] = {
    "train.learning_rate": {"log_uniform": [3e-4, 1e-2]},
    "train.weight_decay": {"log_uniform": [0.01, 1.0]},
}
BUDGETS: dict[str, dict[str, float]] = {
    "tokens": {"tokens": 8192},
    "steps": {"steps": 16},
    "epochs": {"epochs": 2.5},
    "seconds": {"seconds": 40.0},
}


def clean_sweep(
    number: int,
    *,
    arms: int | None = None,
    seeds: int | None = None,
    dimensions: int | None = None,
    factor: str | None = None,
    budget: str | None = None,
    looks: Sequence[int] | None = None,
    equal: bool = False,
    mishaps: bool = True,
) -> tuple[SweepRecord, pd.DataFrame]:
    """A sweep that deserves no warning. Arguments that are None are drawn at random.

    Args:
        number: seed of the sweep.
        arms: 2 to 6; seeds: 3 to 12; dimensions: tuned ones, 0 to 2.
        factor: the compared path; budget: its unit.
        looks: numbers of seeds per arm after which an adaptive sweep reads verdicts.
        equal: an A/A sweep.
        mishaps: confirm runs may fail and be repeated, be superseded or come from a later commit.
    """
    rng = np.random.default_rng([20, number])
    count = arms if arms is not None else int(rng.integers(2, 7))
    factor = factor or str(rng.choice([path for path, values in FACTORS.items() if len(values) >= count]))
    count = min(count, len(FACTORS[factor]))
    looks = looks or (seeds if seeds is not None else int(rng.integers(3, 13)),)
    tune = dict(list(SPACE.items())[: dimensions if dimensions is not None else int(rng.integers(0, 3))])
    budget = budget or str(rng.choice(list(BUDGETS)))
    named = _arms(factor, count, equal)
    # Noise that suits the number of seeds: careful people train more seeds where there is more noise.
    widest = detectable_effect(math.sqrt(2), looks[-1], 0.05 / (count - 1) / len(looks))
    own = min(0.012, 1.2 * DELTA / widest)
    draw = _Losses(rng, named, list(tune), own, 0.1 * own if equal else 0.03)
    trials = int(rng.integers(8, 15))
    pruner = str(rng.choice(["none", "none", "median"]))
    record = example.record(
        arms=named,
        tune=tune,
        baseline=str(rng.choice(list(named))),
        study={
            "sampler": "tpe",
            "pruner": pruner,
            "trials": trials if tune else 0,
            "seeds": looks[-1],
            "delta": DELTA,
            "looks": list(looks),
        },
    )
    rows: list[dict[str, Any]] = []
    best: dict[str, dict[str, Any]] = {arm: {} for arm in named}
    if tune:
        for arm in named:
            found = _explore(rng, draw, arm, trials, pruner, budget)
            rows += found
            best[arm] = _best(found, tune)
    confirmed = _confirm(rng, draw, record, best, looks, budget)
    rows += _mishaps(rng, confirmed) if mishaps else confirmed
    device = str(rng.choice(["cpu", "NVIDIA H200"]))
    for place, row in enumerate(rows):
        row["device"] = device
        row["run_id"] = f"{place:08x}" + f"{number:024x}"
        row["started"] = example.START + pd.Timedelta(minutes=place)
    return record, in_order(example.frame(rows), record)


def _arms(factor: str, count: int, equal: bool) -> dict[str, Mapping[str, Any]]:
    if equal:
        values = {factor: FACTORS[factor][1]}
        return {arm_name(values) + (f" ({copy + 1})" if copy else ""): values for copy in range(count)}
    return {arm_name({factor: value}): {factor: value} for value in FACTORS[factor][:count]}


class _Losses:
    """The true effects of a sweep: of arm, tuned values, seed and noise on the final loss."""

    def __init__(
        self, rng: np.random.Generator, arms: Mapping[str, Any], tuned: Sequence[str], own: float, shared: float
    ) -> None:
        self.rng, self.arms, self.tuned, self.own, self.shared = rng, arms, tuned, own, shared
        self.level = {arm: 5.0 + rng.normal(0, 0.05) for arm in arms}
        self.optimum = {arm: rng.uniform(0.4, 0.6, len(tuned)) for arm in arms}
        self.curvature = rng.uniform(1.0, 2.0, len(tuned))
        self.of_seed: dict[Any, float] = {}
        self.rows: dict[str, dict[str, Any]] = {}  # by arm: the columns that its runs share

    def loss(self, arm: str, place: npt.ArrayLike, seed: object) -> float:
        """Final validation loss at `place` in the unit cube."""
        shared = self.of_seed.setdefault(seed, self.rng.normal(0, self.shared))
        hill = float(np.sum(self.curvature * (np.asarray(place) - self.optimum[arm]) ** 2)) if self.tuned else 0.0
        return self.level[arm] + hill + shared + self.rng.normal(0, self.own)


def _value(path: str, place: float) -> float:
    low, high = SPACE[path]["log_uniform"]
    return float(low * (high / low) ** place)


def _place(path: str, value: float) -> float:
    low, high = SPACE[path]["log_uniform"]
    return math.log(value / low) / math.log(high / low)


def _run(
    rng: np.random.Generator, draw: _Losses, arm: str, values: Mapping[str, Any], budget: str, **facts: Any
) -> dict[str, Any]:
    if arm not in draw.rows:  # cached: validating a configuration is the slowest part
        draw.rows[arm] = example.run(0, arm, {**draw.arms[arm], "train.budget": BUDGETS[budget]})
    loss, test, seed = (
        facts.get(name, lacking) for name, lacking in (("loss", math.nan), ("test", math.nan), ("seed", 1))
    )
    row = {
        **draw.rows[arm],
        **values,
        "phase": facts.get("phase", "confirm"),
        "seed": seed,
        "train.seed": seed,
        "outcome": facts.get("outcome", "complete"),
        "reason": facts.get("reason", ""),
        "trial_number": facts.get("trial"),
        "val/loss": loss,
        "test/loss": test,
    }
    if budget == "seconds":
        row["steps"] = 400 + int(rng.integers(-6, 7))
        row["tokens"] = 512 * row["steps"]
    row["seconds"] = 61.0 + float(rng.normal(0, 1))
    row["initial_val_loss"] = INITIAL_LOSS + float(rng.normal(0, 0.02))
    row["best_val_loss"] = row["val/loss"] - max(0.0, float(rng.normal(0, 0.002)))
    if facts.get("outcome", "complete") != "complete":
        row["tokens"], row["steps"] = row["tokens"] // 1024 * 512, row["steps"] // 2
    return row


def _explore(
    rng: np.random.Generator, draw: _Losses, arm: str, trials: int, pruner: str, budget: str
) -> list[dict[str, Any]]:
    """Five random points, equal in every arm, then points nearer and nearer to the best one, like TPE."""
    rows: list[dict[str, Any]] = []
    common = np.random.default_rng(trials)
    best, lowest, pruned, diverged = np.full(len(draw.tuned), 0.5), math.inf, 0, 0
    seen: list[float] = []
    for trial in range(trials):
        random = common.random(len(draw.tuned))
        place = random if trial < 5 else _folded(rng.normal(best, 0.15))
        loss, outcome = draw.loss(arm, place, "search"), "complete"
        if place[0] > 0.94 and not diverged:
            loss, outcome, diverged = math.nan, "diverged", 1
        elif pruner == "median" and trial > 4 and loss > np.median(seen) and 3 * (pruned + 1) <= trials:
            loss, outcome, pruned = loss + 1.0, "pruned", pruned + 1
        else:
            seen.append(loss)
            if loss < lowest:
                best, lowest = place, loss
        values = {path: _value(path, where) for path, where in zip(draw.tuned, place, strict=True)}
        reason = "" if outcome == "complete" else "made up"
        facts = {"phase": "explore", "outcome": outcome, "loss": loss, "trial": trial, "reason": reason}
        rows.append(_run(rng, draw, arm, values, budget, **facts))
    if rng.random() < 0.1:  # a trial that failed and was replaced
        facts = {"phase": "explore", "outcome": "failed", "trial": trials, "reason": "disk full"}
        rows.append(_run(rng, draw, arm, values, budget, **facts))
    return rows


def _folded(place: Any) -> Any:
    """Reflect points outside the unit cube back into it."""
    return 0.9 - np.abs(0.8 - np.abs(place - 0.1))


def _best(rows: Sequence[Mapping[str, Any]], tune: Mapping[str, Any]) -> dict[str, Any]:
    complete = [row for row in rows if row["outcome"] == "complete"]
    return {path: min(complete, key=lambda row: row["val/loss"])[path] for path in tune}


def _confirm(
    rng: np.random.Generator,
    draw: _Losses,
    record: SweepRecord,
    best: Mapping[str, Mapping[str, Any]],
    looks: Sequence[int],
    budget: str,
) -> list[dict[str, Any]]:
    """Confirm runs of the best values: on all seeds, or in rounds for undecided arms."""
    first = 2 if record.tune else 1
    rows: list[dict[str, Any]] = []
    names = [arm.name for arm in record.arms]
    open_, before = names, 0
    for look in looks:
        for seed in range(first + before, first + look):
            for copy, arm in enumerate(names):
                if arm in open_ or arm == record.baseline:
                    own = seed + 1_000_000 * copy if record.arms[0].values == record.arms[1].values else seed
                    place = [_place(path, value) for path, value in best[arm].items()]
                    loss = draw.loss(arm, place, own)
                    test = loss + 0.2 + float(rng.normal(0, 0.003))
                    row = _run(rng, draw, arm, best[arm], budget, seed=seed, loss=loss, test=test)
                    rows.append({**row, "train.seed": own})
        if look == looks[-1]:
            break
        before = look
        others = [arm for arm in names if arm != record.baseline]
        open_ = [arm for arm in undecided_arms(rows, record.baseline, names, DELTA, looks) if arm in others]
        if not open_:
            break
    return rows


def _mishaps(rng: np.random.Generator, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Harmless mishaps of confirm runs."""
    lost = {"val/loss": math.nan, "test/loss": math.nan, "best_val_loss": math.nan, "status": "FAILED"}
    one = rows[int(rng.integers(len(rows)))]
    before: list[dict[str, Any]] = []
    if rng.random() < 0.1:  # a worker died, and the run was repeated
        before.append({**one, **lost, "outcome": "failed", "reason": "its worker was gone"})
    if rng.random() < 0.1:  # the best configuration changed when the search continued
        before += [{**row, "phase": "superseded", "train.grad_clip": 2.0} for row in rows[:2]]
    if rng.random() < 0.1:  # more seeds in every arm after a commit
        rows = [{**row, "commit": "e" * 40} if row["seed"] >= one["seed"] else row for row in rows]
    return before + rows
