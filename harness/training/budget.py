"""A run's budget and rhythm: when it ends, which steps are evaluated or logged, how fast it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch

from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.metrics import Point
from harness.training.devices import synchronize
from harness.training.distributed import ALONE, Ranks


class Clock:
    """Measures how much of the budget is spent, and the training speed.

    Only training steps count: evaluation, sampling and the caller's time do not. If the budget is in seconds, all ranks
    go by the clock of rank 0.

    Args:
        config: of the run, resolved.
        train_windows: windows in an epoch; see `RunConfig.total_steps`.
        ranks: the processes that train the run.

    Attributes:
        total_steps: steps of the whole budget; None for a budget in seconds.
        eval_steps: steps between two evaluations.
        log_steps: steps between two points.
        training: seconds inside steps so far.
        last_step: seconds of the last step.
    """

    def __init__(self, config: RunConfig, train_windows: int, ranks: Ranks = ALONE) -> None:
        self.config = config
        self._ranks = ranks
        self.total_steps = config.total_steps(train_windows)
        self.eval_steps = config.eval_steps(train_windows)
        self.log_steps = config.log_steps(train_windows)
        self.training = 0.0
        self.last_step = 0.0
        self._began = time.perf_counter()
        self._step_began = 0.0
        self._logged = (0, 0.0)  # steps and training seconds at the last call of `speed`
        self._steps = 0

    def start_step(self) -> None:
        """A training step begins."""
        self._agree()  # rank 0 may have waited for queued steps
        self._step_began = time.perf_counter()

    def end_step(self) -> None:
        """The training step ended."""
        self.last_step = time.perf_counter() - self._step_began
        self.training += self.last_step
        self._steps += 1
        self._agree()

    def _agree(self) -> None:
        if self.total_steps is None:
            self.training, self.last_step = self._ranks.agree(self.training, self.last_step)

    def finish_queued_steps(self, device: torch.device) -> None:
        """Wait for the steps that a GPU has queued, and count the time."""
        if device.type != "cpu":
            began = time.perf_counter()
            synchronize(device)
            self.training += time.perf_counter() - began

    def state(self) -> dict[str, float]:
        """What `restore` needs to continue as if the run had not been interrupted."""
        return {
            "seconds": time.perf_counter() - self._began,
            "training": self.training,
            "last_step": self.last_step,
            "steps": self._steps,
            "logged_steps": self._logged[0],
            "logged_training": self._logged[1],
        }

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from `state`; the time since then does not count."""
        self._began = time.perf_counter() - state["seconds"]
        self.training, self.last_step = state["training"], state["last_step"]
        self._steps = int(state["steps"])
        self._logged = (int(state["logged_steps"]), state["logged_training"])

    def progress_after(self, step: int) -> float:
        """Share of the budget that is spent after the next step, if `step` steps are done; in (0, 1]."""
        if self.total_steps is not None:
            return (step + 1) / self.total_steps
        seconds = self.config.train.budget.seconds or 1.0
        return min(1.0, (self.training + max(self.last_step, 1e-9)) / seconds)

    def done(self, step: int) -> bool:
        """Whether the budget is spent after `step` steps; at least one step is always trained."""
        if self.total_steps is not None:
            return step >= self.total_steps
        return step > 0 and self.training >= (self.config.train.budget.seconds or 0.0)

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation after `step` steps: at the start, at the end and every `eval_steps`.

        One that is less than half of `eval_steps` before the end is left out.
        """
        if step == 0 or self.done(step):
            return True
        near_end = self.total_steps is not None and 2 * (self.total_steps - step) < self.eval_steps
        return step % self.eval_steps == 0 and not near_end

    def logs(self, step: int) -> bool:
        """Whether there is a point after `step` steps."""
        return step % self.log_steps == 0 or self.evaluates(step)

    def reads_loss(self, step: int) -> bool:
        """Whether the loss after `step` steps may be read on a GPU, which is a synchronization."""
        return step % self.log_steps == 0 or step % self.eval_steps == 0

    def speed(self, peak: float | None) -> dict[str, float]:
        """Tokens per second of training since the last call, and the share of the device's peak FLOP/s if known."""
        steps, seconds = self._steps - self._logged[0], self.training - self._logged[1]
        self._logged = (self._steps, self.training)
        rate = steps * self.config.tokens_per_step / max(seconds, 1e-9)
        speed = {metrics.TOKENS_PER_SECOND: rate}
        if peak is not None:
            speed[metrics.MFU] = rate * self.config.flops_per_token / peak
        return speed

    def point(
        self,
        step: int,
        measured: Mapping[str, float],
        sample: str | None = None,
        by_position: tuple[float, ...] = (),
        greedy: str | None = None,
    ) -> Point:
        """A point of the curves. Values that are not finite (a perplexity of e^1000) are only named."""
        tokens = step * self.config.tokens_per_step
        seconds = self.config.train.budget.seconds
        progress = step / self.total_steps if self.total_steps else self.training / (seconds or 1.0)
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        finite[metrics.TOKENS] = float(tokens)
        left_out = tuple(name for name in measured if name not in finite)
        elapsed = time.perf_counter() - self._began
        return Point(step, tokens, min(1.0, progress), elapsed, finite, sample, by_position, left_out, greedy)
