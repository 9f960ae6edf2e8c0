"""Monte Carlo check of the verdicts: simulated sweeps with known true differences go through the code of real reports.

Each sweep has a baseline and five arms over common seeds. A loss is the sum of a part that all runs with one seed
share and the run's own noise, normal or heavy-tailed (Student's t with 3 degrees of freedom). Some checks of false
alarms use skewed noise: exponential in every arm, in all arms but the baseline, or in the baseline only.

The checks count

- false alarms: sweeps without a true difference that call some arm better or worse;
- power: sweeps that find a difference of the size that the report calls detectable;
- false equivalence: arms with a true difference of δ that are called no different;
- coverage: intervals that contain the true mean.

All of these also for adaptive sweeps, which look several times and train more seeds for undecided arms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.analysis.comparison import compare
from harness.analysis.methods import METHODS
from harness.analysis.plan import METHOD_VERSION
from harness.analysis.significance import ALPHA, holm, look_levels, paired_t_p
from harness.analysis.statistics import LEVEL, POWER, detectable_effect, mean_interval
from harness.analysis.verdicts import DIFFERENT, Verdict, verdicts
from harness.config.study import StudyConfig
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase

Noise = Literal["normal", "t(3)", "exponential", "exponential arms", "exponential baseline"]
Losses = npt.NDArray[np.float64]

ARMS: Final = 5  # in addition to the baseline
SPREAD: Final = 0.01  # standard deviation of a run's own noise, nats; that of the shared part is 5 times as large
DELTA: Final = StudyConfig().delta
SWEEPS: Final = 1000
NOISES: Final[tuple[Noise, ...]] = ("normal", "t(3)")
SKEWED: Final[Mapping[Noise, float]] = {  # noise → permitted share of false alarms with `SKEW_LOOKS`
    "exponential": 0.055,
    "exponential arms": 0.08,
    "exponential baseline": 0.08,
}
SKEW_LOOKS: Final = (4, 8, 16)  # of `seeds: {min: 4, max: 16}`
SKEW_ARMS: Final = 2  # in addition to the baseline: with one more arm, more of the noise can be seen to be skewed
COVERED_SEEDS: Final = (3, 5, 8, 12, 30)
LOOKS: Final = (3, 6, 12)  # of `seeds: {min: 3, max: 12}`
_RANGE: Final = f"{LOOKS[0]}–{LOOKS[-1]}"


@dataclass(frozen=True)
class Check:
    """One error rate or power: the share `found` in simulation and its permitted range. NaN: no bound."""

    name: str
    noise: Noise
    seeds: int | str
    found: float
    at_least: float = math.nan
    at_most: float = math.nan

    @property
    def passed(self) -> bool:
        """Whether the share lies within its bounds."""
        return not (self.found < self.at_least or self.found > self.at_most)


def simulate(
    generator: np.random.Generator,
    sweeps: int,
    seeds: int,
    noise: Noise = "normal",
    effect: float = 0.0,
    arms: int = ARMS,
) -> Losses:
    """Simulate final losses, shape (sweeps, 1 + arms, seeds), the baseline first.

    Args:
        generator: source of randomness.
        sweeps, seeds: number of sweeps and of seeds per arm.
        noise: distribution of each run's own noise, scaled to the same standard deviation; with "exponential arms" the
            baseline has none, with "exponential baseline" only the baseline has some.
        effect: nats added to the loss of the first arm after the baseline.
        arms: number of arms beside the baseline.
    """
    shape = (sweeps, 1 + arms, seeds)
    if noise == "normal":
        own = generator.normal(size=shape)
    elif noise == "t(3)":
        own = generator.standard_t(3, shape) / math.sqrt(3)
    else:
        own = generator.exponential(size=shape) - 1
        if noise == "exponential arms":
            own[:, 0] = 0
        elif noise == "exponential baseline":
            own[:, 1:] = 0
    shared = generator.normal(5, 5 * SPREAD, (sweeps, 1, seeds))
    losses: Losses = shared + SPREAD * own
    losses[:, 1] += effect
    return losses


def as_runs(losses: Losses) -> pd.DataFrame:
    """One simulated sweep, shape (1 + ARMS, seeds), as the frame of confirm runs that `load_runs` would return."""
    arms, seeds = losses.shape
    return pd.DataFrame(
        {
            "run_id": [f"{run:032x}" for run in range(arms * seeds)],
            "arm": [f"arm {arm}" for arm in range(arms) for _ in range(seeds)],
            "phase": Phase.CONFIRM,
            "seed": list(range(1, seeds + 1)) * arms,
            "outcome": Outcome.COMPLETE,
            metrics.VAL_LOSS: losses.ravel(),
        }
    )


def reported(losses: Losses, looks: Sequence[int] | None = None) -> list[list[str]]:
    """For each simulated sweep, the verdicts of `compare` on all arms except the baseline."""
    return [list(compare(as_runs(sweep), "arm 0", looks=looks)["verdict"][1:]) for sweep in losses]


def judged(
    losses: Losses, looks: Sequence[int] | None = None, delta: float = DELTA, method: str = METHOD_VERSION
) -> list[list[str]]:
    """The same verdicts without data frames: ten times as fast, for checks that need many sweeps."""
    differences = losses[:, 1:] - losses[:, :1]
    found = [verdicts(list(sweep), delta, looks=looks, method=method) for sweep in differences]
    return [[str(word) for word, _ in arms] for arms in found]


def false_alarms(sweeps: int, seeds: int, noise: Noise, generator: np.random.Generator) -> Iterator[Check]:
    """No true difference: the shares of sweeps that call any arm different, and where some arm has the lowest mean."""
    losses = simulate(generator, sweeps, seeds, noise)
    called = [any(word in DIFFERENT for word in words) for words in reported(losses)]
    limit = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / sweeps)
    yield Check("no difference, some arm called better or worse", noise, seeds, float(np.mean(called)), at_most=limit)
    naive = float(np.mean(losses.mean(axis=-1).argmin(axis=-1) > 0))
    yield Check("no difference, some arm has the lowest mean loss", noise, seeds, naive)


def skewed_false_alarms(sweeps: int, noise: Noise, generator: np.random.Generator) -> Iterator[Check]:
    """No true difference and skewed noise: the shares of sweeps that call any arm different.

    With several looks; with the first look's seeds only, where skewness can hardly be seen, so no bound is set; and
    with several looks by the paired t test alone. Without δ, so that no arm ends as "no difference" before it is found
    by mistake.
    """
    losses = simulate(generator, sweeps, SKEW_LOOKS[-1], noise, arms=SKEW_ARMS)
    limit = SKEWED[noise] + 2 * math.sqrt(SKEWED[noise] * (1 - SKEWED[noise]) / sweeps)
    name = f"no difference, one of {SKEW_ARMS} arms called better or worse"
    several = f"{SKEW_LOOKS[0]}–{SKEW_LOOKS[-1]}"
    yield Check(name, noise, several, _any_different(judged(losses, SKEW_LOOKS, math.nan)), at_most=limit)
    yield Check(name, noise, SKEW_LOOKS[0], _any_different(judged(losses[..., : SKEW_LOOKS[0]], None, math.nan)))
    alone = judged(losses, SKEW_LOOKS, math.nan, next(iter(METHODS)))
    yield Check("the same, by the paired t test alone", noise, several, _any_different(alone))


def _any_different(sweeps: Sequence[Sequence[str]]) -> float:
    return float(np.mean([any(word in DIFFERENT for word in words) for words in sweeps]))


def power(sweeps: int, seeds: int, generator: np.random.Generator) -> Check:
    """One arm better by the minimum detectable effect: the share of sweeps that call it better."""
    effect = detectable_effect(math.sqrt(2) * SPREAD, seeds, ALPHA / ARMS)
    found = [words[0] == Verdict.BETTER for words in judged(simulate(generator, sweeps, seeds, effect=-effect))]
    limit = POWER - 2 * math.sqrt(POWER * (1 - POWER) / sweeps)
    return Check("detectable effect found", "normal", seeds, float(np.mean(found)), at_least=limit)


def false_equivalence(sweeps: int, seeds: int, noise: Noise, generator: np.random.Generator) -> Check:
    """One arm worse by exactly δ: the share of sweeps that call it no different; at most α/2m, one tail."""
    losses = simulate(generator, sweeps, seeds, noise, effect=DELTA)
    called = [words[0] == Verdict.NO_DIFFERENCE for words in judged(losses)]
    share = ALPHA / (2 * ARMS)
    limit = share + 2 * math.sqrt(share * (1 - share) / sweeps)
    return Check("a difference of δ called no difference", noise, seeds, float(np.mean(called)), at_most=limit)


def coverage(intervals: int, seeds: int, noise: Noise, generator: np.random.Generator) -> Check:
    """True mean difference 0: the share of 95 % intervals that contain it."""
    losses = simulate(generator, intervals, seeds, noise)
    held = float(np.mean([mean_interval(values).includes_zero for values in losses[:, 1] - losses[:, 0]]))
    bounds = (LEVEL - 0.02, LEVEL + 0.02) if noise == "normal" else (math.nan, math.nan)
    return Check("95 % interval contains the true difference", noise, seeds, held, *bounds)


def adaptive_false_alarms(sweeps: int, noise: Noise, generator: np.random.Generator) -> Iterator[Check]:
    """`false_alarms` with several looks, and the same with every look at the full level α."""
    losses = simulate(generator, sweeps, LOOKS[-1], noise)
    called = [any(word in DIFFERENT for word in words) for words in reported(losses, LOOKS)]
    limit = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / sweeps)
    name = "no difference, some arm called better or worse"
    yield Check(name, noise, _RANGE, float(np.mean(called)), at_most=limit)
    uncorrected = np.zeros(sweeps, dtype=bool)
    for n in LOOKS:
        uncorrected |= (holm(paired_t_p(losses[:, 1:, :n] - losses[:, :1, :n])) <= ALPHA).any(axis=-1)
    yield Check("the same, every look at the full level", noise, _RANGE, float(uncorrected.mean()))


def adaptive_power(sweeps: int, generator: np.random.Generator) -> Iterator[Check]:
    """One arm better by the detectable effect of the last look: the share of sweeps that find it, and seeds used."""
    level = look_levels(LOOKS)[-1] / ARMS
    effect = detectable_effect(math.sqrt(2) * SPREAD, LOOKS[-1], level)
    losses = simulate(generator, sweeps, LOOKS[-1], effect=-effect)
    found = [verdicts(list(sweep[1:] - sweep[0]), DELTA, looks=LOOKS) for sweep in losses]
    limit = POWER - 2 * math.sqrt(POWER * (1 - POWER) / sweeps)
    better = float(np.mean([arms[0][0] == Verdict.BETTER for arms in found]))
    yield Check("detectable effect found", "normal", _RANGE, better, at_least=limit)
    trained = float(np.mean([pairs for arms in found for _, pairs in arms])) / LOOKS[-1]
    yield Check(f"seeds trained, of {LOOKS[-1]} per arm", "normal", _RANGE, trained)


def adaptive_coverage(intervals: int, noise: Noise, generator: np.random.Generator) -> Check:
    """`coverage` of the intervals at the last look of an adaptive sweep."""
    losses = simulate(generator, intervals, LOOKS[-1], noise)
    levels = dict(zip(LOOKS, look_levels(LOOKS), strict=True))
    held = []
    for sweep in losses:
        differences = sweep[1] - sweep[0]
        ((_, pairs),) = verdicts([differences], DELTA, looks=LOOKS)
        held.append(mean_interval(differences[:pairs], 1 - levels[pairs]).includes_zero)
    limit = LEVEL - 2 * math.sqrt(LEVEL * (1 - LEVEL) / intervals) if noise == "normal" else math.nan
    return Check("interval at the last look contains the true difference", noise, _RANGE, float(np.mean(held)), limit)


def audit(sweeps: int = SWEEPS, seed: int = 1) -> Iterator[Check]:
    """Run all checks, each over `sweeps` simulated sweeps (coverage: over ten times as many intervals)."""
    generator = np.random.default_rng(seed)
    for noise in NOISES:
        for seeds in (3, 5):
            yield from false_alarms(sweeps, seeds, noise, generator)
    for noise in SKEWED:
        yield from skewed_false_alarms(sweeps, noise, generator)
    for noise in NOISES:
        yield false_equivalence(sweeps, 12, noise, generator)
    for seeds in (3, 5, 8):
        yield power(sweeps, seeds, generator)
    for noise in NOISES:
        for seeds in COVERED_SEEDS:
            yield coverage(10 * sweeps, seeds, noise, generator)
    for noise in NOISES:
        yield from adaptive_false_alarms(sweeps, noise, generator)
    yield from adaptive_power(sweeps, generator)
    for noise in NOISES:
        yield adaptive_coverage(10 * sweeps, noise, generator)


def audit_lines(checks: Iterable[Check]) -> list[list[str]]:
    """Checks as a table of strings, header first."""
    lines = [["Check", "Noise", "Seeds", "Found", "Bound", ""]]
    for check in checks:
        bounds = [
            f"{sign} {_percent(bound)}"
            for sign, bound in (("≥", check.at_least), ("≤", check.at_most))
            if not math.isnan(bound)
        ]
        result = ("ok" if check.passed else "FAILED") if bounds else ""
        lines.append([check.name, check.noise, str(check.seeds), _percent(check.found), ", ".join(bounds), result])
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
