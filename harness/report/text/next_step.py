"""What to do next: the seeds that open arms need and their cost; for runs that diverged or failed, what to try."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from harness.analysis.columns import numbers
from harness.analysis.evidence import Evidence
from harness.analysis.verdicts import Verdict
from harness.core.outcomes import Outcome, Phase
from harness.core.text import plural
from harness.report.text.numbers import rounded, setting

if TYPE_CHECKING:
    import numpy.typing as npt

_RATE: Final = "train.learning_rate"
_LOWER: Final = 10  # the factor by which a learning rate is lowered where every one diverged


def next_step(evidence: Evidence) -> str:
    """What to do next in one to three sentences; empty if nothing is open and every run has a result."""
    runs = evidence.runs[evidence.runs["phase"].isin([Phase.EXPLORE, Phase.CONFIRM])]  # those of the plan
    training = runs["outcome"].isna().any()  # then the sweep itself may decide
    more = [] if training else _more_seeds(evidence, workers_used(runs))
    return " ".join([*more, *_diverged(runs, evidence.confirmed), *_failed(runs)])


def _more_seeds(evidence: Evidence, workers: int) -> list[str]:
    rows = evidence.compared
    undecided = rows[rows["verdict"] == Verdict.UNDECIDED]
    needed = undecided.loc[undecided["seeds_needed"] > undecided["pairs"], "seeds_needed"]
    needed = needed[np.isfinite(needed)]
    have = evidence.looks[-1]
    if needed.empty or needed.max() <= have:
        return []
    seeds, arms = math.ceil(needed.max()), len(evidence.arms)
    if evidence.adaptive:  # decided arms get no more seeds
        arms, value = len(undecided) + 1, f"{{min: {evidence.looks[0]}, max: {seeds}}}"
    else:
        value = str(seeds)
    runs = arms * (seeds - have)
    what = "the open arm" if len(undecided) == 1 else f"the {len(undecided)} open arms"
    delta = rounded(undecided["delta"].iloc[0])
    return [
        f"To decide about {what}, study.seeds={value} would find a difference of {delta} in 80 % of sweeps: it means "
        f"{'up to ' if evidence.adaptive else ''}{plural(runs, 'more run')}{_cost(evidence, runs, workers)}."
    ]


def _cost(evidence: Evidence, runs: int, workers: int) -> str:
    """`, about 3 h on 2 workers`, by the run times of the sweep; empty if these are not known."""
    seconds = numbers(evidence.chosen, "seconds")
    known = seconds[np.isfinite(seconds) & (seconds > 0)]
    if known.empty:
        return ""
    return f", about {_hours(runs * float(known.mean()) / workers)} on {plural(workers, 'worker')}"


def workers_used(runs: pd.DataFrame) -> int:
    """The most runs that trained at the same time for at least half of their time; 1 if that is not known."""
    if "started" not in runs:
        return 1
    started = pd.to_datetime(runs["started"], utc=True).astype("datetime64[ns, UTC]").astype("int64").to_numpy() / 1e9
    seconds = numbers(runs, "seconds").to_numpy()
    known = np.isfinite(seconds) & (seconds > 0)
    middles: npt.NDArray[np.float64] = started[known] + seconds[known] / 2
    starts, ends = started[known], started[known] + seconds[known]
    return max((int(((starts <= at) & (at < ends)).sum()) for at in middles), default=1)


def _hours(seconds: float) -> str:
    """`20 s`, `12 min`, `3.2 h`, `40 h`: two digits are enough for an estimate."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 9.95 else f"{hours:,.0f} h"


def _diverged(runs: pd.DataFrame, confirmed: pd.DataFrame) -> list[str]:
    """Where losses were finite, if a confirm run or most trials diverged."""
    lost = runs["outcome"] == Outcome.DIVERGED
    ended = runs["outcome"].isin([Outcome.COMPLETE, Outcome.PRUNED, Outcome.DIVERGED])
    if not (confirmed["outcome"] == Outcome.DIVERGED).any() and not lost.sum() > 0.5 * ended.sum():
        return []
    rates = numbers(runs, _RATE)
    finite, diverged = rates[ended & ~lost].dropna(), rates[lost].dropna()
    if diverged.empty:
        return ["Training diverged: try a lower learning rate, a longer warmup, or train.grad_clip."]
    if finite.empty:
        lowest = setting(float(f"{diverged.min() / _LOWER:.1e}"))
        return [
            f"Every run diverged, at {_range(diverged)}: try a lower learning rate, such as {lowest}, a longer warmup, "
            "or train.grad_clip."
        ]
    where = f"Losses were finite at {_range(finite)}"
    if diverged.min() > finite.max():
        return [f"{where}, and training diverged from {setting(diverged.min())} on: try a lower learning rate."]
    if diverged.nunique() == finite.nunique() == 1:
        return ["Some runs diverged at the learning rate of all: try a lower one for them, or a longer warmup."]
    return [f"{where}, and training diverged at {_range(diverged)}: try the lower ones of these, or a longer warmup."]


def _range(rates: Sequence[float] | pd.Series) -> str:
    low, high = setting(min(rates)), setting(max(rates))
    return f"a learning rate of {low}" if low == high else f"learning rates from {low} to {high}"


def _failed(runs: pd.DataFrame) -> list[str]:
    """What to try where runs ran out of memory, or all failed."""
    memory = int((runs["outcome"] == Outcome.OOM).sum())
    if memory:
        return [
            f"{plural(memory, 'run')} ran out of memory: try a smaller train.batch_tokens or model, or fewer "
            "--workers, and give the command again."
        ]
    failed = runs[runs["outcome"] == Outcome.FAILED]
    confirm = runs[runs["phase"] == Phase.CONFIRM]
    if failed.empty or (confirm["outcome"] == Outcome.COMPLETE).any() or "reason" not in runs:
        return []
    reason, count = Counter(str(text).strip() for text in failed["reason"].fillna("")).most_common(1)[0]
    if not reason:
        return []
    again = "Mend that and give the command again: it trains what is missing."
    return [f"{plural(count, 'run')} failed: {reason}. {again}"]
