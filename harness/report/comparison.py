"""Which runs may be compared, and what a comparison of them says.

Only complete confirm runs enter: explore trials were selected by the very validation loss they would be judged by,
and a run that ended early has no result. Every figure is of the last checkpoint. Rules that say more than mean,
interval and paired difference (tests, corrections, verdict words) have their place beside `compare` and `answer`,
with their arithmetic in `harness.report.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from harness import metrics
from harness.metrics import Outcome, Phase
from harness.report.formats import decimals_for, listed, number
from harness.report.statistics import Interval, mean_interval, paired_difference

_TOKENIZER: Final = "data.tokenizer"
_NAMED_IN_FULL: Final = 3  # more arms than this are summed up in groups; the table has every figure


@dataclass(frozen=True)
class Ground:
    """What the arms of a sweep can be compared by.

    Attributes:
        metric: the metric the comparison uses, `val/loss` or `val/bits_per_byte`.
        ranked: whether arms may be compared with each other at all.
        reason: why it is not the validation loss; empty where it is.
    """

    metric: str = metrics.VAL_LOSS
    ranked: bool = True
    reason: str = ""


def verdict_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that a comparison rests on: complete confirm runs, the newest of each arm and seed."""
    complete = complete_confirm_runs(runs)
    newest = complete.sort_values(["started", "run_id"]) if "started" in complete else complete
    return newest.drop_duplicates(["arm", "seed"], keep="last").sort_values(["arm", "seed"], ignore_index=True)


def complete_confirm_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Every confirm run that was trained to its end, repetitions of one arm and seed included."""
    return runs[(runs["phase"] == Phase.CONFIRM) & (runs["outcome"] == Outcome.COMPLETE)]


def common_ground(runs: pd.DataFrame) -> Ground:
    """Find what a sweep's verdict runs (all its runs, before there are any) were scored on, and so what compares them.

    A loss per token compares models that predict the same tokens. Other tokens of the same text: bits per byte.
    Another text: nothing.
    """
    chosen = runs if (verdict := verdict_runs(runs)).empty else verdict
    names = [name for name in chosen if name.startswith("data.")]
    chosen = chosen[chosen[names].notna().any(axis=1)]  # a run may fail before it knows its own data
    text = [name for name in names if name != _TOKENIZER]
    different = [name for name in text if chosen[name].astype("string").nunique(dropna=False) > 1]
    if different:
        reason = f"The arms were scored on different texts ({listed(different)} differ), so they are not ranked"
        return Ground(metrics.VAL_BITS_PER_BYTE, False, reason + "; bits per byte describe each arm by itself.")
    if _TOKENIZER in chosen and chosen[_TOKENIZER].nunique(dropna=False) > 1:
        used = listed(sorted(str(name) for name in chosen[_TOKENIZER].unique()))
        reason = f"The arms predict different tokens (tokenizers {used}), so a loss per token does not compare them"
        return Ground(metrics.VAL_BITS_PER_BYTE, True, reason + "; bits per byte of the same text do.")
    return Ground()


def compare(
    runs: pd.DataFrame,
    baseline: str | None = None,
    metric: str = metrics.VAL_LOSS,
    arms: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compare the arms of one sweep over their complete confirm runs.

    Args:
        runs: as `load_runs` gives them, of one sweep.
        baseline: the arm whose values are subtracted, seed by seed; None: no differences.
        metric: a `val/…` metric; test columns use its `test/…` counterpart where it was read.
        arms: names and order of the rows; None: as they first appear in `runs`.

    Returns:
        One row per arm, arms without a result included (0 seeds, NaN): `arm`, `is_baseline`, `metric`, `seeds`;
        `mean`, `low`, `high` of the metric (95 % t interval); `perplexity`, the exponential of the mean validation
        loss; `bits_per_byte`, a mean; `test_seeds`, `test_mean`, `test_low`, `test_high`; `pairs`, `difference`,
        `difference_low`, `difference_high`, arm minus baseline over the seeds both have; means of `tokens` and
        `seconds` (wall time); `parameters`; `run_ids`, separated by spaces.

    Raises:
        ValueError: runs of several sweeps, an unknown baseline or metric, or a loss per token over arms that were
            scored on different tokens.
    """
    order = list(arms) if arms is not None else list(dict.fromkeys(runs["arm"]))
    chosen = verdict_runs(runs)
    _check(runs, order, baseline, metric)
    if (
        baseline is not None
        and (ground := common_ground(runs)).reason
        and not (ground.ranked and metric == ground.metric)
    ):
        raise ValueError(f"metric: found {metric!r} with baseline {baseline!r}. {ground.reason}")
    by_arm = {arm: chosen[chosen["arm"] == arm].set_index("seed") for arm in order}
    reference = _values(by_arm[baseline], metric) if baseline is not None else None
    return pd.DataFrame([_row(arm, by_arm[arm], reference, arm == baseline, metric) for arm in order])


def _check(runs: pd.DataFrame, order: Sequence[str], baseline: str | None, metric: str) -> None:
    if "sweep" in runs and runs["sweep"].nunique() > 1:
        sweeps = ", ".join(sorted(str(name) for name in runs["sweep"].unique()))
        raise ValueError(f"runs: found those of several sweeps ({sweeps}); allowed: one, load_runs(…, sweep=…)")
    if baseline is not None and baseline not in order:
        raise ValueError(f"baseline: found {baseline!r}; allowed: {' | '.join(order)}")
    if not metric.startswith("val/"):
        raise ValueError(f"metric: found {metric!r}; allowed: a metric of the validation split, such as val/loss")


def _row(
    arm: str, runs: pd.DataFrame, reference: pd.Series | None, is_baseline: bool, metric: str
) -> dict[str, object]:
    values, test = _values(runs, metric), _values(runs, metric.replace("val/", "test/", 1))
    own, tested = mean_interval(values), mean_interval(test)
    pairs, difference = 0, Interval(math.nan, math.nan, math.nan)
    if reference is not None and not is_baseline:
        common = values.index.intersection(reference.index)
        pairs, difference = len(common), paired_difference(values.loc[common], reference.loc[common])
    loss = mean_interval(_values(runs, metrics.VAL_LOSS)).mean
    return {
        "arm": arm,
        "is_baseline": is_baseline,
        "metric": metric,
        "seeds": len(values),
        **_named(own, "mean", "low", "high"),
        "perplexity": metrics.perplexity(loss),
        "bits_per_byte": mean_interval(_values(runs, metrics.VAL_BITS_PER_BYTE)).mean,
        "test_seeds": len(test),
        **_named(tested, "test_mean", "test_low", "test_high"),
        "pairs": pairs,
        **_named(difference, "difference", "difference_low", "difference_high"),
        **{name: mean_interval(_values(runs, name)).mean for name in ("tokens", "seconds", "parameters")},
        "run_ids": " ".join(runs["run_id"]),
    }


def _named(interval: Interval, *names: str) -> dict[str, float]:
    return dict(zip(names, interval, strict=True))


def _values(runs: pd.DataFrame, column: str) -> pd.Series:
    """The finite values of a column by seed; empty where the column is missing altogether."""
    if column not in runs:
        return pd.Series(dtype=float)
    values = pd.to_numeric(runs[column], errors="coerce")
    return values[values.abs() < math.inf]


def intervals(comparison: pd.DataFrame, prefix: str = "") -> list[Interval]:
    """The intervals of a comparison, one per arm: of the metric, or of its `test` or `difference` columns."""
    mean = {"": "mean", "test": "test_mean", "difference": "difference"}[prefix]
    low, high = (f"{prefix}_{end}" if prefix else end for end in ("low", "high"))
    return [Interval(*row) for row in comparison[[mean, low, high]].itertuples(index=False, name=None)]


@dataclass(frozen=True)
class Answer:
    """A comparison in plain words: what it says, and what it cannot say."""

    findings: str
    limits: str

    def __str__(self) -> str:
        return f"{self.findings} {self.limits}".strip()


def answer(comparison: pd.DataFrame, ground: Ground) -> Answer:
    """Put a comparison, as `compare` gives it, into words."""
    measured = comparison[comparison["seeds"] > 0]
    if measured.empty:
        return Answer(
            "No confirm run is complete, so nothing is ranked.",
            "Explore trials were selected by the validation loss they would be judged by, and runs that ended early "
            "have no result.",
        )
    parts = [ground.reason] if ground.reason else []
    limits = ""
    if len(comparison) == 1:
        parts.append(_level(measured.iloc[0]))
        limits = "There is no second arm, so nothing is compared."
    elif ground.ranked:
        finding, limits = _differences(comparison)
        parts.append(finding)
    missing = comparison.loc[comparison["seeds"] == 0, "arm"]
    if len(missing):
        parts.append(f"{listed(missing)}: no complete confirm run, so no result.")
    return Answer(" ".join(parts), limits)


def metric_name(metric: str) -> str:
    """`validation loss` for val/loss, `validation bits per byte` for val/bits_per_byte."""
    return metric.replace("val/", "validation ", 1).replace("_", " ")


def _level(row: pd.Series) -> str:
    own = Interval(row["mean"], row["low"], row["high"])
    decimals = decimals_for([own.half_width])
    text = f"The {metric_name(row['metric'])} is {number(own.mean, decimals)}"
    if row["seeds"] < 2:
        return f"{text}. It is one seed: nothing is known of how much another would differ."
    return f"{text} ± {number(own.half_width, decimals)} (95 % t interval over {row['seeds']} seeds)."


def _differences(comparison: pd.DataFrame) -> tuple[str, str]:
    """What the paired differences say, and their limits."""
    base = comparison[comparison["is_baseline"]].iloc[0]
    if not base["seeds"]:
        return f"The baseline {base['arm']} has no complete confirm run, so there are no differences to read.", ""
    compared = comparison[comparison["pairs"] > 0]
    if compared.empty:
        return "No other arm shares a seed with the baseline, so there are no paired differences.", ""
    say = _each if len(compared) <= _NAMED_IN_FULL else _grouped
    return f"Against the baseline {base['arm']}, by {metric_name(base['metric'])}: {say(compared)}.", _limits(compared)


def _each(compared: pd.DataFrame) -> str:
    found = intervals(compared, "difference")
    decimals = decimals_for(interval.half_width for interval in found)
    parts = []
    for arm, pairs, interval in zip(compared["arm"], compared["pairs"], found, strict=True):
        text = f"{arm} is {number(abs(interval.mean), decimals)} {'higher' if interval.mean > 0 else 'lower'}"
        if pairs < 2:
            parts.append(f"{text} on the one common seed, which has no interval")
            continue
        ends = f"{number(interval.low, decimals)} to {number(interval.high, decimals)}"
        zero = "includes 0" if interval.includes_zero else "does not include 0"
        parts.append(f"{text} (95 % interval of the paired difference {ends}, {pairs} pairs, {zero})")
    return "; ".join(parts)


def _grouped(compared: pd.DataFrame) -> str:
    groups: dict[str, list[str]] = {}
    for arm, interval in zip(compared["arm"], intervals(compared, "difference"), strict=True):
        if math.isnan(interval.low):
            kind = "has one common seed and so no interval"
        elif interval.includes_zero:
            kind = "has a paired difference whose 95 % interval includes 0"
        else:
            kind = f"is {'higher' if interval.mean > 0 else 'lower'}, with a 95 % interval that does not include 0"
        groups.setdefault(kind, []).append(arm)
    return "; ".join(
        f"{listed(arms)} {kind}" if len(arms) == 1 else f"each of {listed(arms)} {kind}"
        for kind, arms in groups.items()
    )


def _limits(compared: pd.DataFrame) -> str:
    fewest = int(compared["pairs"].min())
    if fewest < 2:
        return "One seed cannot tell an effect from the luck of a seed."
    pairs = f"{fewest} pairs" if (compared["pairs"] == fewest).all() else f"as few as {fewest} pairs"
    one = len(compared) == 1
    return (
        f"The interval{' rests' if one else 's rest'} on {pairs} of runs and on normal seed noise"
        + ("" if one else f" and are not corrected for {len(compared)} comparisons")
        + "; one that includes 0 does not show that two arms are equal."
    )
