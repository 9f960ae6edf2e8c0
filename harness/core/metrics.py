"""Metric names, their units, and `Point`, one point of a run's curves.

The trainer, the tracker and the report use these constants. Nothing here needs more than the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Measured at every evaluation. Losses are nats per target token, in evaluation mode (dropout off).
TRAIN_LOSS = "train/loss"  # over a fixed sample of training windows
TRAIN_PERPLEXITY = "train/perplexity"
VAL_LOSS = "val/loss"  # over every target token of the validation split
VAL_PERPLEXITY = "val/perplexity"
VAL_BITS_PER_BYTE = "val/bits_per_byte"

# Measured at every evaluation of runs with `train.eval_tokens`, over a fixed sample of validation windows. Their curves
# and pruning use these; the three metrics above are then measured at the start and at the end only.
VAL_SAMPLE_LOSS = "val_sample/loss"
VAL_SAMPLE_PERPLEXITY = "val_sample/perplexity"
VAL_SAMPLE_BITS_PER_BYTE = "val_sample/bits_per_byte"

# Measured once, after the last step, by runs whose sweep compares context lengths: over the targets that have at least
# the shortest context behind them, so that every arm is scored on the same targets.
VAL_COMMON_LOSS = "val/common_context_loss"

# Measured once, after the last step, and only by runs that may read the test split.
TEST_LOSS = "test/loss"
TEST_PERPLEXITY = "test/perplexity"
TEST_BITS_PER_BYTE = "test/bits_per_byte"

# With `data.mix` each of these losses, perplexities and bits per byte is measured for each source too, as `of_source`
# names it: over its own targets, with windows of its own.

# Measured at every logged step, between evaluations too.
BATCH_LOSS = "train/batch_loss"  # the training batch's own loss, dropout on
LEARNING_RATE = "optim/learning_rate"
GRAD_NORM = "optim/grad_norm"  # global L2 norm before clipping
TOKENS_PER_SECOND = "perf/tokens_per_second"  # training only: evaluation and sampling are not counted
MFU = "perf/mfu"  # share of the device's peak FLOP/s; only where the peak is known
TOKENS = "tokens"  # training tokens seen so far
SECONDS = (
    "perf/seconds"  # since the trainer began, with evaluations, without the time between an interruption and the resume
)
EPOCHS = "epochs"  # passes over the training split so far

# The worker's own process. MLflow shows metrics with this prefix in a separate tab.
SYSTEM_CPU_PERCENT = "system/cpu_utilization_percentage"
SYSTEM_MEMORY_MB = "system/process_memory_megabytes"
SYSTEM_GPU_MEMORY_MB = "system/gpu_peak_memory_megabytes"


@dataclass(frozen=True)
class Point:
    """One point of a run's curves, as the trainer yields it.

    Attributes:
        step: optimizer steps taken so far (0 before the first).
        tokens: training tokens seen so far.
        progress: share of the budget that is spent, 0 to 1.
        seconds: wall time since the trainer began, in seconds, without the time between an interruption and the
            resume; NaN if it is unknown, as for a run that was restored from Optuna.
        metrics: metric name → finite value, in the units given with the names above.
        sample: text generated at this point with the run's temperature, or None.
        by_position: mean validation loss at each position of the window (nats, first position first); only at the
            last point.
        not_finite: names of metrics whose value here is not finite, such as the perplexity of a huge loss.
        greedy: the text that always takes the likeliest token; None where `sample` is that text, or there is none.
    """

    step: int
    tokens: int
    progress: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    sample: str | None = None
    by_position: tuple[float, ...] = ()
    not_finite: tuple[str, ...] = ()
    greedy: str | None = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Point:
        """A point from its JSON form, in which tuples are lists.

        Raises:
            TypeError: a field is missing or unknown.
        """
        fields: dict[str, Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in plain.items()}
        return cls(**fields)

    @property
    def evaluated(self) -> bool:
        """Whether a validation loss belongs to this point, of the whole split or of a sample."""
        return self.curve_loss is not None

    @property
    def curve_loss(self) -> float | None:
        """The validation loss that curves and pruning use; its targets are the same at every evaluation of a run.

        In runs with a validation sample it is the sample's loss, else that of the whole split.
        """
        return self.metrics.get(VAL_SAMPLE_LOSS, self.metrics.get(VAL_LOSS))


def sample_metric(metric: str) -> str:
    """The name of a validation metric where it is measured on a sample: `val/loss` → `val_sample/loss`."""
    return metric.replace("val/", "val_sample/", 1)


def of_source(metric: str, source: str) -> str:
    """The name of a metric of one source of a mixture: `val/loss` → `val/loss_books`."""
    return f"{metric}_{source}" if source else metric


def perplexity(loss: float) -> float:
    """exp(loss) for a mean loss in nats per token; infinite where a float cannot hold it."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(total_nats: float, total_bytes: float) -> float:
    """Σ nats / (ln 2 · Σ bytes): a score that is comparable between tokenizers.

    Args:
        total_nats: summed negative log probability of the scored tokens.
        total_bytes: UTF-8 bytes that those tokens stand for; must be positive.
    """
    if total_bytes <= 0:
        raise ValueError(f"total_bytes must be positive, found {total_bytes}")
    return total_nats / (math.log(2) * total_bytes)
