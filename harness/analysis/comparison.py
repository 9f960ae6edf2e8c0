"""Selects the runs that may be compared, and compares the arms of a sweep.

Only confirm runs are compared: explore trials were selected by the same validation loss they would be judged by.
Complete runs count with the values of their last checkpoint, diverged ones as untrained models
(`harness.analysis.divergence`); a run that ended early for another reason has no result. `harness.analysis.verdicts`
has the rule for verdicts, `harness.report.text.answer` puts a comparison into words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import pandas as pd

from harness.analysis.columns import finite
from harness.analysis.divergence import DIVERGED, counted_runs, pairs_of
from harness.analysis.plan import METHOD_VERSION
from harness.analysis.statistics import Interval, mean_interval
from harness.analysis.verdicts import Judgement, Verdict, judge
from harness.config.mixture import is_weight, plain_path
from harness.config.objective import LOSS, TOKENIZER, TOKENS, TRAINING_TEXTS, Objective, tunes_tokens
from harness.config.study import StudyConfig
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.core.text import listed


@dataclass(frozen=True)
class Comparability:
    """The metric that compares the arms of a sweep.

    Attributes:
        metric: `val/loss` or `val/bits_per_byte`.
        ranked: whether the arms can be compared with each other at all.
        reason: why the metric is not the validation loss; empty where it is.
    """

    metric: str = metrics.VAL_LOSS
    ranked: bool = True
    reason: str = ""


def verdict_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that verdicts are based on: complete confirm runs, the newest for each arm and seed."""
    complete = complete_confirm_runs(runs)
    newest = complete.sort_values(["started", "run_id"]) if "started" in complete else complete
    return newest.drop_duplicates(["arm", "seed"], keep="last").sort_values(["arm", "seed"], ignore_index=True)


def complete_confirm_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Every complete confirm run, including repetitions of an arm and seed."""
    return runs[(runs["phase"] == Phase.CONFIRM) & (runs["outcome"] == Outcome.COMPLETE)]


def comparability(
    runs: pd.DataFrame, verdict: pd.DataFrame | None = None, tune: Mapping[str, Sequence[Any]] | None = None
) -> Comparability:
    """The metric that compares a sweep's verdict runs (all its runs, while there are no verdict runs).

    The loss per token compares models that predict the same tokens, with the tokenizer's full vocabulary or the
    corpus's. Different tokens of the same text: bits per byte, also where a search only tried different tokens.
    Different texts: no metric compares them. Mixtures of the same sources with other weights have the same targets, of
    which each source has as many as its validation split: the loss compares them.

    Args:
        runs: the runs of one sweep, as `load_runs` returns them.
        verdict: its `verdict_runs`, if already computed.
        tune: dotted path → values of each tuned dimension, if they are known.
    """
    verdict = verdict_runs(runs) if verdict is None else verdict
    chosen = runs if verdict.empty else verdict
    names = [name for name in chosen if name.startswith("data.")]
    chosen = chosen[chosen[names].notna().any(axis=1)]  # a run may fail before its data parameters are known
    text = [name for name in names if name not in TOKENS and not is_weight(name)]
    different = [name for name in text if chosen[name].astype("string").nunique(dropna=False) > 1]
    if different and set(map(plain_path, different)) <= set(TRAINING_TEXTS) and _held_out(chosen):
        reason = f"The arms were trained on different texts ({listed(different)} differ) and scored on the same one"
        return Comparability(metrics.VAL_BITS_PER_BYTE, True, reason + ", so they are compared by bits per byte of it.")
    if different:
        reason = f"The arms were scored on different texts ({listed(different)} differ), so they are not ranked"
        return Comparability(metrics.VAL_BITS_PER_BYTE, False, reason + "; bits per byte describe each arm on its own.")
    if tunes_tokens(tune or {}) or _searched_tokens(runs):
        reason = "The search tried different tokens of the text, so runs are not compared by the loss per token"
        return Comparability(metrics.VAL_BITS_PER_BYTE, True, reason + " but by bits per byte of the same text.")
    if TOKENIZER in chosen and chosen[TOKENIZER].nunique(dropna=False) > 1:
        used = listed(sorted(str(name) for name in chosen[TOKENIZER].unique()))
        reason = (
            f"The arms predict different tokens (tokenizers {used}), so they are not compared by the loss per token"
        )
        return Comparability(metrics.VAL_BITS_PER_BYTE, True, reason + " but by bits per byte of the same text.")
    return Comparability()


def _held_out(runs: pd.DataFrame) -> bool:
    """Whether no run was scored on a part of its training text, or on that of any source of its mixture."""
    parts = {name.rpartition(".")[0] for name in runs if plain_path(str(name)) in TRAINING_TEXTS}

    def given(field: str) -> bool:
        return all(f"{part}.{field}" in runs and bool(runs[f"{part}.{field}"].notna().all()) for part in parts)

    untested = "data.split.test" in runs and bool((runs["data.split.test"].astype(float) == 0).all())
    return given("val_path") and (given("test_path") or untested)


def _searched_tokens(runs: pd.DataFrame) -> bool:
    """Whether the explore trials of an arm had different tokenizers or vocabularies."""
    explored = runs[runs["phase"] == Phase.EXPLORE]
    tokens = explored.reindex(columns=list(TOKENS)).groupby(explored["arm"])
    return bool(tokens.nunique().gt(1).any(axis=None))


def compare(
    runs: pd.DataFrame,
    baseline: str | None = None,
    metric: str = metrics.VAL_LOSS,
    arms: Sequence[str] | None = None,
    delta: float | None = None,
    looks: Sequence[int] | None = None,
    method: str = METHOD_VERSION,
) -> pd.DataFrame:
    """Compare the arms of one sweep over their confirm runs; a diverged one counts as an untrained model.

    Args:
        runs: the runs of one sweep, as `load_runs` returns them.
        baseline: the arm whose values are subtracted, seed by seed; None: no differences.
        metric: a `val/…` metric; the test columns use the `test/…` metric of the same name, where runs have it.
        arms: names and order of the rows; None: in order of appearance in `runs`.
        delta: the smallest difference that matters, in nats of loss per token, whatever the metric; None: the
            default of `study.delta`.
        looks: seeds per arm at each look of an adaptive sweep, one that trains more seeds for undecided arms
            (`SweepSpec.looks`); None: one look at all seeds.
        method: version of the test, a key of `harness.analysis.methods.METHODS`.

    Returns:
        One row per arm, including arms without a result (0 seeds, NaN): `arm`, `is_baseline`, `metric`; `seeds`, its
        complete runs, and `diverged`, the seeds on which it diverged; `mean`, `low`, `high` of the metric over both
        (95 % t interval); `perplexity`, the exponential of the mean validation loss; `bits_per_byte`, a mean;
        `test_seeds`, `test_mean`, `test_low`, `test_high` over complete runs; `common_context_mean`, …, of the
        validation loss over the targets that have the shortest context of all arms behind them; `pairs`,
        `difference`, `difference_low`, `difference_high`, arm minus baseline over the seeds both have (up to the
        deciding look), and its standard error `difference_se`; `alpha`, `p`, `tested_p`, `p_holm`, `skewness`,
        `sign_flip_p`, `d_z`, `probability_better`, `mde`, `seeds_needed`, `t_verdict`, `verdict` as in
        `harness.analysis.verdicts.Judgement`; the `delta` they used, in the unit of the metric (NaN for a metric that
        nats cannot be converted to); means of `tokens` and `seconds` (wall time); `parameters`; `run_ids`, separated by
        spaces.

    Raises:
        ValueError: runs of several sweeps, an unknown baseline or metric, a delta that is not above 0, or a loss per
            token of arms that predict different tokens.
    """
    order = list(arms) if arms is not None else list(dict.fromkeys(runs["arm"]))
    nats = StudyConfig().delta if delta is None else delta
    chosen = verdict_runs(runs)
    _check(runs, order, baseline, metric, nats)
    if (
        baseline is not None
        and (basis := comparability(runs, chosen)).reason
        and not (basis.ranked and metric == basis.metric)
    ):
        raise ValueError(f"metric: found {metric!r} with baseline {baseline!r}. {basis.reason}")
    counted = counted_runs(runs, chosen)
    return compare_counted_runs(counted, confirm_seeds(runs), order, baseline, metric, nats, looks, method)


def compare_counted_runs(
    counted: pd.DataFrame,
    seeds: Sequence[int],
    arms: Sequence[str],
    baseline: str | None,
    metric: str,
    delta: float,
    looks: Sequence[int] | None = None,
    method: str = METHOD_VERSION,
) -> pd.DataFrame:
    """`compare` for runs that are already selected and checked.

    Args:
        counted: as `counted_runs` returns them.
        seeds: as `confirm_seeds` returns them.
        arms, baseline, metric, delta, looks, method: as for `compare`.
    """
    by_arm = {arm: counted[counted["arm"] == arm].set_index("seed") for arm in arms}
    judged: dict[str, Judgement] = {}
    threshold = math.nan
    if baseline is not None:
        others = [arm for arm in arms if arm != baseline]
        pairs = [pairs_of(by_arm[arm], by_arm[baseline], metric, seeds) for arm in others]
        threshold = in_unit(delta, metric, by_arm[baseline])
        several = looks if looks is not None and len(looks) > 1 else None
        judged = dict(zip(others, judge(pairs, threshold, looks=several, method=method), strict=True))
    rows = [
        {
            **_described(arm, by_arm[arm], arm == baseline, metric),
            **_compared(judged.get(arm), threshold),
            **_cost(_complete(by_arm[arm])),
        }
        for arm in arms
    ]
    return pd.DataFrame(rows)


def _complete(counted: pd.DataFrame) -> pd.DataFrame:
    return counted[~counted[DIVERGED].astype(bool)]


def undecided_arms(
    results: Sequence[Mapping[str, Any]],
    baseline: str,
    arms: Sequence[str],
    delta: float,
    looks: Sequence[int],
    objective: Objective = LOSS,
    method: str = METHOD_VERSION,
) -> list[str]:
    """The arms that more seeds may still decide: those that are undecided and share a seed with the baseline.

    If runs of both an arm and the baseline diverged, nothing can decide between them.

    Args:
        results: confirm runs as rows of `load_runs`; test metrics are not needed.
        baseline, arms, delta, looks, method: as for `compare`.
        objective: of the sweep. Arms may have chosen the same tokens in a search over them.
    """
    if not results:
        return []
    runs = pd.DataFrame(list(results))
    basis = comparability(runs)
    if not basis.ranked:  # more seeds do not make different texts comparable
        return []
    metric = objective.metric if objective.ranked else basis.metric
    table = compare(runs, baseline, metric, arms, delta, looks, method)
    both_diverged = (table["diverged"] > 0) & bool(table.loc[table["is_baseline"], "diverged"].sum())
    open_still = (table["verdict"] == Verdict.UNDECIDED) & (table["pairs"] > 0) & ~both_diverged
    return [str(arm) for arm in table.loc[open_still, "arm"]]


def _check(runs: pd.DataFrame, order: Sequence[str], baseline: str | None, metric: str, delta: float) -> None:
    if "sweep" in runs and runs["sweep"].nunique() > 1:
        sweeps = ", ".join(sorted(str(name) for name in runs["sweep"].unique()))
        raise ValueError(f"runs: found several sweeps ({sweeps}); allowed: one, as load_runs(…, sweep=…) returns")
    if baseline is not None and baseline not in order:
        raise ValueError(f"baseline: found {baseline!r}; allowed: {' | '.join(order)}")
    if not metric.startswith("val/"):
        raise ValueError(f"metric: found {metric!r}; allowed: a metric of the validation split, such as val/loss")
    if not 0 < delta < math.inf:
        raise ValueError(f"delta: found {delta}; allowed: a number of nats above 0")


def confirm_seeds(runs: pd.DataFrame) -> list[int]:
    """The seeds of all confirm runs, however they ended, in the order of the looks."""
    return sorted(int(seed) for seed in runs.loc[runs["phase"] == Phase.CONFIRM, "seed"].unique())


def in_unit(nats: float, metric: str, baseline: pd.DataFrame) -> float:
    """Convert nats per token to the unit of `metric`; to bits per byte by the baseline's tokens per byte, else NaN."""
    if metric == metrics.VAL_LOSS:
        return nats
    if metric == metrics.VAL_BITS_PER_BYTE:
        complete = _complete(baseline)
        rate = finite(complete, metric) / finite(complete, metrics.VAL_LOSS)
        return nats * mean_interval(rate.dropna()).mean
    return math.nan


def _described(arm: str, runs: pd.DataFrame, is_baseline: bool, metric: str) -> dict[str, object]:
    complete, values = _complete(runs), finite(runs, metric)
    test = finite(complete, metric.replace("val/", "test/", 1))
    return {
        "arm": arm,
        "is_baseline": is_baseline,
        "metric": metric,
        "seeds": len(finite(complete, metric)),
        "diverged": len(runs) - len(complete),
        **mean_interval(values).as_columns("mean", "low", "high"),
        "perplexity": metrics.perplexity(mean_interval(finite(runs, metrics.VAL_LOSS)).mean),
        "bits_per_byte": mean_interval(finite(runs, metrics.VAL_BITS_PER_BYTE)).mean,
        "test_seeds": len(test),
        **mean_interval(test).as_columns("test_mean", "test_low", "test_high"),
        **mean_interval(finite(runs, metrics.VAL_COMMON_LOSS)).as_columns(
            *(f"common_context_{end}" for end in ("mean", "low", "high"))
        ),
    }


_STATISTICS: Final = tuple(
    field.name for field in fields(Judgement) if field.name not in ("pairs", "interval", "verdict", "t_verdict")
)


def _compared(judgement: Judgement | None, delta: float) -> dict[str, object]:
    interval = judgement.interval if judgement else Interval(math.nan, math.nan, math.nan)
    return {
        "pairs": judgement.pairs if judgement else 0,
        **interval.as_columns("difference", "difference_low", "difference_high"),
        **{name: getattr(judgement, name) if judgement else math.nan for name in _STATISTICS},
        "verdict": str(judgement.verdict) if judgement else math.nan,
        "t_verdict": str(judgement.t_verdict) if judgement else math.nan,
        "delta": delta if judgement else math.nan,
    }


def _cost(runs: pd.DataFrame) -> dict[str, object]:
    means = {name: mean_interval(finite(runs, name)).mean for name in ("tokens", "seconds", "parameters")}
    return {**means, "run_ids": " ".join(runs["run_id"])}


def intervals(comparison: pd.DataFrame, prefix: str = "") -> list[Interval]:
    """The intervals of a comparison, one per arm: of the metric, or of the columns with this prefix (`test`, …)."""
    mean = {"": "mean", "difference": "difference"}.get(prefix, f"{prefix}_mean")
    low, high = (f"{prefix}_{end}" if prefix else end for end in ("low", "high"))
    return [Interval(*row) for row in comparison[[mean, low, high]].itertuples(index=False, name=None)]


def metric_name(metric: str) -> str:
    """`validation loss` for val/loss, `validation bits per byte` for val/bits_per_byte."""
    return metric.replace("val/", "validation ", 1).replace("_", " ")


def value_name(metric: str) -> str:
    """`loss` for val/loss, `bits per byte` for val/bits_per_byte."""
    return "loss" if metric == metrics.VAL_LOSS else metric.partition("/")[2].replace("_", " ")


def unit(metric: str) -> str:
    """The unit of a loss or of bits per byte, for any split."""
    return "nats per token" if metric.endswith("/loss") else "bits per byte"


def one_run_each(chosen: pd.DataFrame, arms: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Arm → run id and seed of one verdict run: of the first seed that all arms share, else of the arm's own first.

    Args:
        chosen: as `verdict_runs` returns them.
        arms: names.
    """
    own_runs = {arm: chosen[chosen["arm"] == arm] for arm in arms}
    having = {arm: dict(zip(own["seed"], own["run_id"], strict=True)) for arm, own in own_runs.items() if len(own)}
    common = set.intersection(*(set(own) for own in having.values())) if having else set()
    found = {}
    for arm, own in having.items():
        seed = min(common or own)
        found[arm] = (str(own[seed]), int(seed))
    return found
