"""Warnings about the results: invalid losses, too little evidence, or results that depend on one run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd

from harness.analysis.columns import by_seed, numbers, parameters
from harness.analysis.evidence import Evidence
from harness.analysis.significance import outlier_p
from harness.analysis.statistics import mean_interval
from harness.analysis.verdicts import DIFFERENT, Verdict, judge
from harness.core import metrics
from harness.core.outcomes import Outcome
from harness.core.text import listed, plural
from harness.report.text.names import named, seeds_named
from harness.report.text.numbers import number, rounded, signed, significant
from harness.report.warnings.kinds import Detector, ReportWarning, WarningKind

COARSE: Final = 5  # a detectable effect of more than this many δ shows nothing about δ
RARE: Final = 1e-3  # share of sweeps with normal noise in which some seed or search is wrongly called an outlier
_ON_CPU: Final = "cpu"  # the device on which equal runs are bit-identical


def _non_finite(sweep: Evidence) -> Iterator[ReportWarning]:
    """Complete runs whose loss is missing or not finite; means leave them out."""
    complete = sweep.runs[sweep.runs["outcome"] == Outcome.COMPLETE]
    bad = ~np.isfinite(numbers(complete, metrics.VAL_LOSS)) | np.isinf(numbers(complete, metrics.TEST_LOSS))
    if bad.any():
        runs = complete[bad]
        yield ReportWarning(
            WarningKind.NON_FINITE,
            f"{plural(len(runs), 'complete run')} of {named(list(dict.fromkeys(runs['arm'])))} "
            f"{'has' if len(runs) == 1 else 'have'} no finite loss and {'is' if len(runs) == 1 else 'are'} left out of "
            "all means. A run without a result is not complete: find out what happened before using the others.",
        )
    marked = complete[complete["non_finite"].fillna("").astype(str) != ""] if "non_finite" in complete else complete[:0]
    if len(marked):
        yield ReportWarning(
            WarningKind.NON_FINITE,
            f"{plural(len(marked), 'complete run')} of {named(list(dict.fromkeys(marked['arm'])))} measured values "
            f"that were NaN or infinite ({named(sorted(set(marked['non_finite'])))}) and were not stored. Training was "
            "unstable: look at these curves before trusting the final losses.",
        )


def _untrained(sweep: Evidence) -> Iterator[ReportWarning]:
    runs = sweep.verdict_runs
    losses = numbers(runs, metrics.VAL_LOSS)
    bad = runs[(losses >= numbers(runs, "initial_val_loss")) & np.isfinite(losses)]
    for arm, mine in bad.groupby("arm", sort=False):
        end, start = numbers(mine, metrics.VAL_LOSS).mean(), numbers(mine, "initial_val_loss").mean()
        yield ReportWarning(
            WarningKind.UNTRAINED,
            f"{arm}: on {seeds_named(mine['seed'])} training ended at {number(end, 3)}, no better than the "
            f"{number(start, 3)} before the first step. This arm did not learn, so comparing it shows little: find a "
            "learning rate at which it learns.",
        )


def _nondeterministic(sweep: Evidence) -> Iterator[ReportWarning]:
    """Runs with the same configuration and seed but different results."""
    ended = sweep.runs[sweep.runs["outcome"].isin([Outcome.COMPLETE, Outcome.DIVERGED])]
    paths = [path for path, _ in parameters(ended)]
    columns = [map(str, ended[name].tolist()) for name in ("arm", "seed", *paths)]
    keys = pd.Series(["|".join(row) for row in zip(*columns, strict=True)], index=ended.index, dtype=object)
    again = keys.duplicated(keep=False)
    for _, runs in ended[again].groupby(keys[again].to_numpy(), sort=False):
        losses = numbers(runs, metrics.VAL_LOSS)
        mixed = runs["outcome"].nunique() > 1
        apart = 0.0 if mixed else float(losses.max() - losses.min())
        if mixed or apart > _tolerance(sweep, runs):
            arm, seed = runs["arm"].iloc[0], seeds_named([runs["seed"].iloc[0]])
            what = "one diverged and one did not" if mixed else f"losses {significant(apart, 2)} apart"
            yield ReportWarning(
                WarningKind.NONDETERMINISTIC,
                f"{arm}: {len(runs)} runs of the same configuration on {seed} gave different results ({what}). Seeds "
                "are not the only source of randomness, and the newest run is only one sample: find what differed.",
            )


def _tolerance(sweep: Evidence, runs: pd.DataFrame) -> float:
    """Nats by which equal runs may differ: 0 on a CPU; δ on GPUs (sums have no fixed order) or with a time budget."""
    devices = set(runs["device"].dropna()) if "device" in runs else {_ON_CPU}
    timed = numbers(runs, "train.budget.seconds").notna().any()
    return 0.0 if devices <= {_ON_CPU} and not timed else sweep.delta_nats


def _test_missing(sweep: Evidence) -> Iterator[ReportWarning]:
    read = np.isfinite(numbers(sweep.verdict_runs, metrics.TEST_LOSS))
    if read.any() and not read.all():
        blind = sweep.verdict_runs[~read]
        shown = [f"{arm} ({seeds_named(runs['seed'])})" for arm, runs in blind.groupby("arm", sort=False)]
        yield ReportWarning(
            WarningKind.TEST_MISSING,
            f"Some confirm runs have no test loss: {named(shown)}. Test means are over other runs than validation "
            "means, so they are not comparable with them or between arms: train these runs again.",
        )


def _few_seeds(sweep: Evidence) -> Iterator[ReportWarning]:
    if len(sweep.arms) == 1 and len(sweep.verdict_runs) == 1:
        yield ReportWarning(WarningKind.SINGLE_SEED, "There is only one seed, so the spread over seeds is unknown.")
    for _, row in sweep.compared.iterrows():
        delta = float(row.get("delta", math.nan))
        if any({row["arm"], sweep.record.baseline} <= set(names) for names in sweep.equal_arms):
            continue  # an A/A sweep measures chance; there is no difference to miss
        if row["pairs"] == 1:
            yield ReportWarning(
                WarningKind.FEW_SEEDS,
                f"{row['arm']} is compared with the baseline on one seed, so an effect cannot be told from seed noise. "
                "Raise study.seeds.",
            )
        elif row["pairs"] > 1 and row["verdict"] == Verdict.UNDECIDED and row["mde"] > COARSE * delta:
            yield ReportWarning(
                WarningKind.FEW_SEEDS,
                f"{row['arm']}: {row['pairs']} pairs could only detect a difference of {significant(row['mde'], 2)}, "
                f"{significant(row['mde'] / delta, 2)} times δ = {rounded(delta)}, the smallest that matters, so "
                "undecided means nothing here: train more seeds.",
            )


def _no_effect(sweep: Evidence) -> Iterator[ReportWarning]:
    for arm, differences in sweep.differences(sweep.metric).items():
        if len(differences) and (differences == 0).all():
            yield ReportWarning(
                WarningKind.NO_EFFECT,
                f"{arm} and the baseline {sweep.record.baseline} have identical losses on "
                f"{seeds_named(list(differences.index))}: the compared setting had no effect. Check that it reaches "
                "training, and that it can matter at these values.",
            )


def _one_seed(sweep: Evidence) -> Iterator[ReportWarning]:
    """A seed whose difference is an outlier among the others, by the externally studentized residual."""
    found = sweep.differences(sweep.metric)
    for index, (arm, differences) in enumerate(found.items()):
        values = differences.to_numpy()
        p = outlier_p(values)
        if not (np.isfinite(p).any() and float(np.nanmin(p)) * len(values) * len(found) < RARE):
            continue
        place = int(np.nanargmin(p))
        rest = np.delete(values, place)
        all_values = [one.to_numpy() for one in found.values()]
        without = [rest if i == index else other for i, other in enumerate(all_values)]
        delta, method = float(sweep.compared["delta"].max()), sweep.rule.method
        words = [judge(data, delta, method=method)[index].verdict for data in (all_values, without)]
        changes = f"Without it the verdict would be {_word(words[1])}, not {_word(words[0])}"
        same = f"The verdict is {_word(words[0])} also without it"
        yield ReportWarning(
            WarningKind.ONE_SEED,
            f"{arm}: on seed {differences.index[place]} the difference to the baseline is {signed(values[place], 3)}, "
            f"on the other {len(rest)} it is {signed(rest.mean(), 3)} with standard deviation "
            f"{number(rest.std(ddof=1), 3)}: one seed drives the result and the noise is not normal. "
            f"{changes if words[0] != words[1] else same}: look at that pair of runs before trusting the verdict.",
        )


def _word(verdict: Verdict) -> str:
    return "no difference" if verdict is Verdict.NO_DIFFERENCE else str(verdict)


def _test_disagrees(sweep: Evidence) -> Iterator[ReportWarning]:
    metric = sweep.metric.replace("val/", "test/", 1)
    tested = sweep.differences(metric)
    for _, row in sweep.compared.iterrows():
        found = mean_interval(tested[row["arm"]].to_numpy())
        opposite = found.low > 0 if row.get("verdict") == Verdict.BETTER else found.high < 0
        trained = not math.isnan(row["mde"])  # without diverged runs, which have no test loss
        if row.get("verdict") in DIFFERENT and opposite and trained:
            yield ReportWarning(
                WarningKind.TEST_DISAGREES,
                f"{row['arm']} is {row['verdict']} on the validation split ({signed(row['difference'], 3)}), but the "
                f"test split shows the opposite ({signed(found.mean, 3)}, 95 % interval {number(found.low, 3)} to "
                f"{number(found.high, 3)}). The result does not generalise to other text: do not act on it.",
            )


def _overfitted(sweep: Evidence) -> Iterator[ReportWarning]:
    """Arms whose final loss is more than δ above their lowest loss, if that changes the comparison."""
    if sweep.metric != metrics.VAL_LOSS:
        return
    gaps = {}
    for arm in sweep.arms:
        runs = sweep.verdict_runs_of[arm]
        end = by_seed(runs, metrics.VAL_SAMPLE_LOSS)  # the lowest loss is of the sample, if there is one
        gap = (end if len(end) else by_seed(runs, metrics.VAL_LOSS)) - by_seed(runs, "best_val_loss")
        if len(gap := gap.dropna()):
            gaps[arm] = gap
    base = gaps.get(sweep.record.baseline)
    moved = []
    for arm in sweep.others:
        shift = (gaps[arm] - base).dropna() if arm in gaps and base is not None else pd.Series(dtype=float)
        if len(shift) and abs(shift.mean()) > sweep.delta_nats and abs(np.sign(shift).sum()) == len(shift):
            final = sweep.differences(metrics.VAL_LOSS)[arm].mean()
            moved.append(
                f"{arm} ({signed(final - shift.mean(), 3)} at the lowest losses, {signed(final, 3)} at the end)"
            )
    above = {arm: float(gap.mean()) for arm, gap in gaps.items() if gap.mean() > sweep.delta_nats}
    shown = listed(f"{arm} {number(size, 3)}" for arm, size in above.items()) if above else ""
    if moved:
        yield ReportWarning(
            WarningKind.OVERFITTED,
            f"Some arms overfit: they end above their own lowest validation loss ({shown}), and others do not. That "
            f"changes the difference to the baseline: {named(moved)}. Verdicts are about the last checkpoint: they "
            "hold for this budget, and a shorter one may reverse them.",
        )
    elif above:
        yield ReportWarning(
            WarningKind.OVERFITTED_EVERYWHERE,
            f"Runs overfit: they end above their own lowest validation loss ({shown}), so the budget is too long for "
            "this text.",
        )


def _not_reproduced(sweep: Evidence) -> Iterator[ReportWarning]:
    """Arms whose chosen trial is outside the prediction interval of their confirm runs, and several δ away."""
    for arm in sweep.arms if sweep.record.tune else []:
        trials = sweep.trials_of[arm]
        confirmed = by_seed(sweep.verdict_runs_of[arm], sweep.metric).to_numpy()
        if trials.empty or len(confirmed) < 3:
            continue
        chosen = float(trials[sweep.metric].min())
        gap = confirmed.mean() - chosen
        p = outlier_p([*confirmed, chosen])[-1]
        if abs(gap) > COARSE * sweep.delta and p * len(sweep.arms) < RARE:
            yield ReportWarning(
                WarningKind.NOT_REPRODUCED,
                f"{arm}: the chosen trial reached {number(chosen, 3)}, its confirm runs {number(confirmed.mean(), 3)} "
                "on average, a difference much larger than seed noise. Either the trial was lucky and another "
                "configuration may be better, or the runs differ in some setting: search on more seeds, or find it.",
            )


DETECTORS: Final[tuple[Detector, ...]] = (
    _non_finite,
    _untrained,
    _nondeterministic,
    _test_missing,
    _few_seeds,
    _no_effect,
    _one_seed,
    _test_disagrees,
    _overfitted,
    _not_reproduced,
)
