"""Warnings about whether arms are comparable: data, settings, budget, code, devices and the analysis plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd

from harness.analysis.columns import numbers
from harness.analysis.evidence import Evidence
from harness.core.outcomes import Phase
from harness.core.text import listed, plural
from harness.report.text.names import named
from harness.report.text.numbers import count, setting
from harness.report.text.plan import deviations
from harness.report.warnings.confirm import tokens_per_step
from harness.report.warnings.kinds import Detector, ReportWarning, WarningKind

UNEVEN: Final = 0.1  # relative difference of tokens that is tolerated for budgets in seconds
_UNMATCHED: Final = 0.05  # relative difference of tokens that is tolerated for other budgets
_HARMLESS: Final = "before any confirm run was complete."  # end of a sentence on a change before any result
# Settings that change the speed of the same work.
_SPEED: Final = frozenset({"train.optimizer", "train.compile", "train.precision", "train.device"})
_COLUMNS: Final = (
    ("commit", WarningKind.COMMITS, "commits of the code"),
    ("device", WarningKind.DEVICES, "devices"),
    ("versions", WarningKind.VERSIONS, "versions of the libraries"),
)
_STEP: Final = ("train.batch_tokens", "train.batch_size", "model.context_length")
_HASHES: Final = (("data_sha256", "text"), ("data_fingerprint", "tokens"))


def _described(path: str, values: pd.Series) -> str:
    shown = sorted({"none" if pd.isna(value) is True else setting(value) for value in values.tolist()})
    return f"{path} ({named(shown)})"


def _targets(sweep: Evidence) -> Iterator[ReportWarning]:
    shown = [_described(path, values) for path, values in sweep.unintended.items() if path.startswith("data.")]
    if shown:
        yield ReportWarning(
            WarningKind.TARGETS,
            f"Runs were not scored on the same tokens: they differ in {named(shown)}, which is neither compared nor "
            "tuned. Losses over different targets are not comparable: train these runs again on the same data.",
        )


def _hashes(sweep: Evidence) -> Iterator[ReportWarning]:
    """Data that changed under the same name; if texts or tokenizers are compared or tuned, among equal ones."""
    compared = any(path.startswith("data.") for path in sweep.expected)
    keys = ["arm", *(path for path in sweep.tuned if path.startswith("data."))]
    for column, what in _HASHES:
        if column not in sweep.results:
            continue
        equal = sweep.results.groupby(keys, sort=False, dropna=False)
        for (name, *_), runs in equal if compared else [(("the sweep",), sweep.results)]:
            found = [str(value)[:8] for value in runs[column].dropna().unique()]
            if len(found) > 1:
                yield ReportWarning(
                    WarningKind.DATA_HASH,
                    f"Runs of {name} had different {what} under the same settings (SHA-256 {listed(found)}): the data "
                    "changed between them, so their losses are not comparable. Train the older runs again.",
                )


def _copied_text(sweep: Evidence) -> Iterator[ReportWarning]:
    if copies := sweep.record.data.get("copies"):
        yield ReportWarning(WarningKind.COPIED_TEXT, str(copies))


def _lost_text(sweep: Evidence) -> Iterator[ReportWarning]:
    if lost := sweep.record.data.get("lost"):
        yield ReportWarning(WarningKind.LOST_TEXT, f"{str(lost)[:1].upper()}{str(lost)[1:]}")


def _settings(sweep: Evidence) -> Iterator[ReportWarning]:
    """Other settings that differ. `_targets` reports those of the data."""
    different = sweep.unintended
    shown = [_described(path, values) for path, values in different.items() if not path.startswith("data.")]
    if shown:
        yield ReportWarning(
            WarningKind.SETTINGS,
            f"Besides what is compared and tuned, runs differ in {named(shown)}: a difference between arms may "
            "come from that. Train them again with one value, or add it to `compare`.",
        )
    elsewhere = [path for path in sweep.unintended_in(sweep.runs) if path not in different]
    if elsewhere:
        yield ReportWarning(
            WarningKind.OTHER_SETTINGS,
            f"Besides what is compared and tuned, runs differ in {named(elsewhere)}, but no run behind a result does.",
        )


def _kind(runs: pd.DataFrame) -> str:
    """The kind of budget that all these runs have; empty if they differ."""
    kinds = [
        kind
        for kind in ("tokens", "epochs", "steps", "flops", "seconds")
        if numbers(runs, f"train.budget.{kind}").notna().any()
    ]
    return kinds[0] if len(kinds) == 1 else ""


def _budget(sweep: Evidence) -> Iterator[ReportWarning]:
    """Whether the budget is equal in every arm, within one optimizer step."""
    runs = sweep.verdict_runs
    kind = _kind(runs)
    if kind in ("", "seconds") or any(path.startswith("train.budget.") for path in sweep.expected):
        return
    tokens, rate = numbers(runs, "tokens"), numbers(runs, "flops_per_token")
    sizes = [tokens_per_step(run) for run in runs[[name for name in _STEP if name in runs]].to_dict("records")]
    step = pd.Series(sizes, index=runs.index, dtype=float)
    spent, unit = {
        "tokens": (tokens, step),
        "epochs": (tokens, step),
        "steps": (numbers(runs, "steps"), pd.Series(0.0, index=runs.index)),
        "flops": (tokens * rate, step * rate),
    }[kind]
    means = spent.groupby(runs["arm"], sort=False).median().dropna()  # a single short run has a warning of its own
    counted = "FLOPs" if kind == "flops" else "tokens" if kind == "epochs" else kind
    other_text = kind == "epochs" and any(path.startswith("data.") for path in sweep.expected)
    if len(means) > 1 and means.max() - means.min() > unit.max() * (1 + 1e-9) and not other_text:
        shown = listed(f"{arm} {count(size)}" for arm, size in means.items())
        yield ReportWarning(
            WarningKind.UNEQUAL_BUDGET,
            f"The budget is in {kind}, but the arms did not get the same {counted} per run ({shown}): an arm that "
            "trained longer has an advantage that is not in its settings. Train the arms again with one budget.",
        )
        return
    seen = tokens.groupby(runs["arm"], sort=False).mean().dropna()
    if len(seen) > 1 and seen.max() > (1 + _UNMATCHED) * seen.min():
        shown = listed(f"{arm} {count(size)}" for arm, size in seen.items())
        yield ReportWarning(
            WarningKind.UNMATCHED_TOKENS,
            f"Arms are matched by {kind}, not by tokens. Tokens per run: {shown}.",
        )


def _throughput(sweep: Evidence) -> Iterator[ReportWarning]:
    """Budgets in seconds: whether the same work was done at different speeds."""
    runs = sweep.verdict_runs
    if _kind(runs) != "seconds":
        return
    tokens = numbers(runs, "tokens")
    groups = tokens.groupby(runs["arm"], sort=False)
    lows, highs = groups.min(), groups.max()
    uneven = [arm for arm in lows.index if highs[arm] > (1 + UNEVEN) * lows[arm]]
    if uneven:
        shown = listed(f"{arm} {count(lows[arm])} to {count(highs[arm])}" for arm in uneven)
        yield ReportWarning(
            WarningKind.THROUGHPUT,
            f"The budget is in seconds, and runs of one arm trained on very different numbers of tokens ({shown}): the "
            "load of the machine decided how far they trained. Use fewer workers, or give the budget in tokens.",
        )
    means = groups.mean()
    if not uneven and len(means) > 1 and means.max() > (1 + UNEVEN) * means.min():
        shown = listed(f"{arm} {count(size)}" for arm, size in means.items())
        rates = numbers(runs, "flops_per_token")
        if rates.max() <= 1.01 * rates.min() and not _SPEED & sweep.expected:
            yield ReportWarning(
                WarningKind.THROUGHPUT,
                f"The budget is in seconds, and arms whose tokens cost the same trained on very different numbers of "
                f"them ({shown}): the machine was not equally fast for all. Give the budget in tokens.",
            )
        else:
            yield ReportWarning(
                WarningKind.UNMATCHED_TOKENS,
                f"Arms are matched by seconds on this machine, not by tokens. Tokens per run: {shown}.",
            )


def _provenance(sweep: Evidence) -> Iterator[ReportWarning]:
    """Code, devices and versions that differ; it may change the conclusion only if the two runs of a pair differ."""
    for column, kind, what in _COLUMNS:
        names = sorted({str(name) for name in sweep.runs[column].dropna()}) if column in sweep.runs else []
        if len(names) < 2:
            continue
        text = f"Runs come from different {what}: {listed(name[:12] if column == 'commit' else name for name in names)}"
        mixed = _mixed_pairs(sweep, column)
        if mixed:
            arms = listed(f"{arm} ({plural(size, 'pair')})" for arm, size in mixed.items())
            yield ReportWarning(
                kind,
                f"{text}. Pairs with the baseline are affected in {arms}: their differences may come from that and not "
                "from the settings. Train one run of each of these pairs again.",
            )
        else:
            yield ReportWarning(WarningKind.MIXED_PROVENANCE, f"{text}; no pair is affected.")
    if sweep.record.dirty:
        yield ReportWarning(
            WarningKind.DIRTY,
            "The code had uncommitted changes: the commit alone does not reproduce these runs. The changes are stored "
            "with the sweep (dirty.patch); commit them and run again before others rely on this result.",
        )


def _mixed_pairs(sweep: Evidence, column: str) -> dict[str, int]:
    """Arm → number of its pairs with the baseline whose runs differ in a column."""
    values = {arm: runs.set_index("seed")[column].dropna().astype(str) for arm, runs in sweep.verdict_runs_of.items()}
    base = values.get(sweep.record.baseline, pd.Series(dtype=str))
    found = {}
    for arm in sweep.others:
        mine = values.get(arm, base[:0])
        common = mine.index.intersection(base.index)
        size = int(np.sum(mine.loc[common].to_numpy() != base.loc[common].to_numpy()))
        if size:
            found[arm] = size
    return found


def _dropped(sweep: Evidence) -> Iterator[ReportWarning]:
    trained = sweep.runs.loc[sweep.runs["phase"].isin(list(Phase)), "arm"].dropna()
    gone = [str(arm) for arm in dict.fromkeys(trained) if arm not in sweep.arms]
    if gone:
        yield ReportWarning(
            WarningKind.DROPPED_ARM,
            f"Trained in this sweep, but not among its arms: {named(gone)}. Leaving out arms after seeing results "
            "makes the others look better and the correction for several arms too weak: report every arm.",
        )


def _plan(sweep: Evidence) -> Iterator[ReportWarning]:
    for text in deviations(sweep.record):
        yield ReportWarning(WarningKind.EARLY_PLAN_CHANGE if text.endswith(_HARMLESS) else WarningKind.PLAN, text)


DETECTORS: Final[tuple[Detector, ...]] = (
    _targets,
    _hashes,
    _copied_text,
    _lost_text,
    _settings,
    _budget,
    _throughput,
    _provenance,
    _dropped,
    _plan,
)
