"""The share of evaluations in the time of a sweep's runs, and the setting that lowers it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from harness.config.spec import SweepSpec
from harness.console.text import clock
from harness.cost.calibration import Calibration, ModelSpeed
from harness.cost.estimate import expected_rate, train_and_eval_seconds

ADVISED_ABOVE: Final = 0.3
FEWEST_TOKENS: Final = 10_000  # of an advised validation sample: a smaller one makes rough curves
_MOST_OF: Final = 0.9  # of what the fewest tokens would save
_WORTHWHILE: Final = 0.1  # of the time of a run

Splits = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class EvaluationShare:
    """How much of the time of the runs is evaluation, and advice if it is much.

    Attributes:
        share: of evaluations in the time of all runs, without the pass over the test split.
        eval_tokens: advised value of `train.eval_tokens`; None: it would not help, or there is no need.
        saved: seconds of the sweep that it would save.
        share_then: the share with it; `share` without advice.
    """

    share: float
    eval_tokens: int | None
    saved: float
    share_then: float

    @property
    def words(self) -> str:
        """`62% of a run's time; train.eval_tokens=20_000 would save about 12:30`."""
        words = f"{self.share:.0%} of a run's time"
        if self.eval_tokens is not None:
            words += f"; train.eval_tokens={self.eval_tokens:_} would save about {clock(self.saved)}"
        if self.share_then > ADVISED_ABOVE:
            remaining = "" if self.eval_tokens is None else f" and leave {self.share_then:.0%}"
            words += f"{remaining}; a longer budget or train.eval_every, a smaller data.split.val lower it"
        return words


def evaluation_share(
    spec: SweepSpec, splits: Splits, workers: int, measured: Mapping[str, ModelSpeed], rate: float
) -> EvaluationShare:
    """The share of evaluation in the time of a sweep's runs.

    Args:
        spec: the sweep.
        splits: arm name → tokens of each split.
        workers: number that train at once.
        measured: arm name → speed of its model.
        rate: FLOP/s of one worker's training, for the other arms.
    """
    training, evaluating = _seconds_per_arm(spec, splits, measured, rate)
    total = training + evaluating
    share = evaluating / total
    if share <= ADVISED_ABOVE:
        return EvaluationShare(share, None, 0.0, share)
    left = {tokens: _seconds_per_arm(spec, splits, measured, rate, tokens)[1] for tokens in _candidates(spec, splits)}
    most = evaluating - min(left.values(), default=evaluating)
    if most < _WORTHWHILE * total:
        return EvaluationShare(share, None, 0.0, share)
    tokens = max(tokens for tokens, seconds in left.items() if evaluating - seconds >= _MOST_OF * most)
    runs = spec.trials + len(spec.seeds)  # of each arm
    busy = min(workers, runs * len(spec.arms()))
    saved = (evaluating - left[tokens]) * runs / busy
    return EvaluationShare(share, tokens, saved, left[tokens] / (training + left[tokens]))


def expected_evaluation_share(spec: SweepSpec, splits: Splits, workers: int, threads: int) -> EvaluationShare:
    """The same from the speeds that earlier plans have measured, and from FLOPs for the other models."""
    calibration = Calibration(workers, threads)
    configs = {arm.name: spec.run_config(arm.values) for arm in spec.arms()}
    measured = {name: speed for name, config in configs.items() if (speed := calibration.speed(config)) is not None}
    if len(measured) == len(configs):
        return evaluation_share(spec, splits, workers, measured, 1.0)
    if not any(config.train.budget.seconds for config in configs.values()):
        found = evaluation_share(spec, splits, workers, {}, 1.0)  # a share needs no rate, which takes time to measure
        if found.share <= ADVISED_ABOVE:
            return found
    return evaluation_share(spec, splits, workers, {}, expected_rate(threads))


def _seconds_per_arm(
    spec: SweepSpec, splits: Splits, measured: Mapping[str, ModelSpeed], rate: float, eval_tokens: int | None = None
) -> tuple[float, float]:
    """Seconds of training and of evaluation of one run of each arm, in total."""
    training = evaluating = 0.0
    for arm in spec.arms():
        config = spec.run_config(arm.values)
        if eval_tokens is not None:
            train = config.train.model_copy(update={"eval_tokens": eval_tokens})
            config = config.model_copy(update={"train": train})
        trained, evaluated = train_and_eval_seconds(config, splits[arm.name], measured.get(arm.name), rate)
        training, evaluating = training + trained, evaluating + evaluated
    return training, evaluating


def _candidates(spec: SweepSpec, splits: Splits) -> Iterator[int]:
    """10,000, 20,000, 50,000, … tokens, up to half of what is scored now."""
    scored = min(sizes["val"] for sizes in splits.values())
    scored = min(scored, spec.base.train.eval_tokens or scored)
    tokens, factors = FEWEST_TOKENS, 0
    while tokens <= scored / 2:
        yield tokens
        tokens = tokens * 5 // 2 if factors % 3 == 1 else tokens * 2
        factors += 1
