"""Learning-rate schedules."""

from __future__ import annotations

import math

from harness.config.run import TrainConfig


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """The learning rate at `progress` as a share of its peak.

    Linear warm-up from 0 over `warmup`, then: `constant` stays at 1; `cosine` and `linear` fall to `final_fraction`
    at the end; `wsd` (warm-up, stable, decay) stays at 1 and falls linearly over the last `decay` of the budget.

    Args:
        progress: share of the budget spent after this step, in (0, 1].
        config: has the schedule and its shares.
    """
    if progress < config.warmup:
        return progress / config.warmup
    if config.schedule == "constant":
        return 1.0
    start = max(config.warmup, 1 - config.decay) if config.schedule == "wsd" else config.warmup
    down = min(max((progress - start) / (1 - start), 0.0), 1.0)  # from 0 at the start of the decay to 1 at the end
    height = (1 + math.cos(math.pi * down)) / 2 if config.schedule == "cosine" else 1 - down
    return config.final_fraction + (1 - config.final_fraction) * height
