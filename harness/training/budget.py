"""What a run's time is spent on: its budget, its speed, and the seconds that its points carry."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch

from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.metrics import Point
from harness.training.devices import synchronize


class Clock:
    """How far the budget is spent, and how fast. Evaluation, sampling and the caller's time are not counted."""

    def __init__(self, config: RunConfig, total_steps: int | None) -> None:
        self.config = config
        self.total_steps = total_steps
        self.began = time.perf_counter()
        self.training = 0.0  # seconds inside steps
        self.last_step = 0.0
        self._started = 0.0
        self._logged = (0, 0.0)  # steps and training seconds at the last speed
        self._steps = 0

    def start(self) -> None:
        """A step begins."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """The step ended."""
        self.last_step = time.perf_counter() - self._started
        self.training += self.last_step
        self._steps += 1

    def settle(self, device: torch.device) -> None:
        """Count the time that a GPU still needs for the steps it was given; a CPU has done them."""
        if device.type != "cpu":
            self.start()
            synchronize(device)
            self.training += time.perf_counter() - self._started

    def state(self) -> dict[str, float]:
        """All that `restore` needs to go on as if nothing had been in between."""
        return {
            "seconds": time.perf_counter() - self.began,
            "training": self.training,
            "last_step": self.last_step,
            "steps": self._steps,
            "logged_steps": self._logged[0],
            "logged_training": self._logged[1],
        }

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave; the time since then is not counted."""
        self.began = time.perf_counter() - state["seconds"]
        self.training, self.last_step = state["training"], state["last_step"]
        self._steps = int(state["steps"])
        self._logged = (int(state["logged_steps"]), state["logged_training"])

    def progress_after(self, step: int) -> float:
        """Share of the budget spent once the step that follows `step` steps is done, in (0, 1]."""
        if self.total_steps is not None:
            return (step + 1) / self.total_steps
        seconds = self.config.train.budget.seconds or 1.0
        return min(1.0, (self.training + max(self.last_step, 1e-9)) / seconds)

    def done(self, step: int) -> bool:
        """Whether the budget is spent after `step` steps; one step is always taken."""
        if self.total_steps is not None:
            return step >= self.total_steps
        return step > 0 and self.training >= (self.config.train.budget.seconds or 0.0)

    def nearly_done(self, step: int, eval_steps: int) -> bool:
        """Whether the last evaluation is so near that one now would only double it."""
        return self.total_steps is not None and 2 * (self.total_steps - step) < eval_steps

    def speed(self, peak: float | None) -> dict[str, float]:
        """Tokens a second of training since the last call, and the share of the device's peak where it is known."""
        steps, seconds = self._steps - self._logged[0], self.training - self._logged[1]
        self._logged = (self._steps, self.training)
        rate = steps * self.config.tokens_per_step / max(seconds, 1e-9)
        speed = {metrics.TOKENS_PER_SECOND: rate}
        if peak is not None:
            speed[metrics.MFU] = rate * self.config.flops_per_token / peak
        return speed

    def point(self, step: int, measured: Mapping[str, float], sample: str | None = None) -> Point:
        """A point of the curves; of values that are not finite (a perplexity of e^1000) it has the names."""
        tokens = step * self.config.tokens_per_step
        seconds = self.config.train.budget.seconds
        progress = step / self.total_steps if self.total_steps else self.training / (seconds or 1.0)
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        finite[metrics.TOKENS] = float(tokens)
        left_out = tuple(name for name in measured if name not in finite)
        return Point(
            step, tokens, min(1.0, progress), time.perf_counter() - self.began, finite, sample, not_finite=left_out
        )
