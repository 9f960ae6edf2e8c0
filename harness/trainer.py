"""Train one GPT: `for point in train(config): …` is the whole contract.

The trainer yields what it measures and knows nothing of who listens: printing, tracking, pruning and stopping are
the caller's. Closing the generator ends the training.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness import metrics
from harness.checkpoint import save_checkpoint
from harness.config import RunConfig
from harness.data import CorpusError, Dataset, get_tokenizer, open_dataset
from harness.devices import autocast, peak_flops, resolve_device, resolve_precision
from harness.metrics import Point
from harness.model import GPT, build_gpt
from harness.optim import Optimizer, clip_gradients, learning_rate_factor
from harness.rng import derive
from harness.text import continue_text
from harness.windows import (
    Tokens,
    count_windows,
    fixed_sample,
    scoring_batches,
    strided_batches,
    take_windows,
    training_batches,
)

EVAL_TOKENS = 8192  # tokens scored at once; the result does not depend on it
MAX_LOG_STEPS = 50  # a point at least this often, so that a caller's wish to stop is heard


class Diverged(ArithmeticError):
    """Loss or gradient became NaN or infinite; the weights are worthless from here on."""


def train(
    config: RunConfig,
    data: Dataset | None = None,
    *,
    read_test: bool = False,
    common_context: int | None = None,
    checkpoint: Path | None = None,
    device_index: int = 0,
) -> Iterator[Point]:
    """Train the GPT that `config` describes and yield points of its curves.

    A point before the first step and one after the last are always evaluated; between them the rhythm is
    `train.eval_every` (an evaluation less than half of it before the last is left out), with lighter points
    (learning rate, gradient norm, speed) in between.

    Args:
        config: the whole run.
        data: the tokens, where they are open already.
        read_test: score the test split too, once, at the last point.
        common_context: score, once, at the last point, the validation targets with at least so many tokens behind
            them, for a comparison with models of other context lengths.
        checkpoint: folder that receives the final weights.
        device_index: which CUDA device, where there are several.

    Raises:
        Diverged: with the step and what was not finite.
        DeviceError: the device asked for is not there.
        CorpusError: the training split is shorter than one window.
    """
    data = data or open_dataset(config.data)
    windows = count_windows(len(data.train), config.model.context_length)
    if not windows:
        raise CorpusError(
            "model.context_length",
            f"found a context of {config.model.context_length} tokens; "
            f"allowed: under {len(data.train)}, the tokens of the train split",
        )
    device = resolve_device(config.train, device_index)
    precision = resolve_precision(config.train, device)
    model = build_gpt(config, device)
    loss_of = torch.compile(model.loss) if config.train.compile else model.loss
    optimizer = Optimizer(model, config.train)
    evaluator = Evaluator(config, data, model, device, precision)
    context_length = model.context_length
    batches = training_batches(data.train, context_length, config.sequences_per_step, config.train.seed)
    clock = Clock(config, config.total_steps(windows))
    eval_steps = config.eval_steps(windows)
    log_steps = max(1, min(MAX_LOG_STEPS, eval_steps, (clock.total_steps or 1000) // 100))

    yield clock.point(0, evaluator.evaluate(0), evaluator.sample())
    step = 0
    while not clock.done(step):
        clock.start()
        tokens, targets = (part.to(device, non_blocking=True) for part in next(batches))
        rate = optimizer.set_learning_rate(learning_rate_factor(clock.progress_after(step), config.train))
        torch.manual_seed(derive(config.train.seed, "dropout", step))  # nothing else draws from the global generator
        with autocast(device, precision):
            loss = loss_of(tokens, targets)
        loss.backward()
        grad_norm = clip_gradients(model.parameters(), config.train.grad_clip)
        optimizer.step()
        step += 1
        if device.type == "cpu" or step % log_steps == 0 or step % eval_steps == 0:
            check_finite(step, loss=loss, gradient=grad_norm)  # a GPU is waited for here, so not at every step
        clock.stop()

        last = clock.done(step)
        evaluated = last or (step % eval_steps == 0 and not clock.nearly_done(step, eval_steps))
        if not evaluated and step % log_steps:
            continue
        light = {
            metrics.BATCH_LOSS: loss.item(),
            metrics.LEARNING_RATE: rate,
            metrics.GRAD_NORM: grad_norm.item(),
            metrics.EPOCHS: step * config.sequences_per_step / windows,
            **clock.speed(peak_flops(device)),
        }
        if not evaluated:
            yield clock.point(step, light)
            continue
        scores = evaluator.evaluate(step, read_test=read_test and last)
        if last and common_context is not None:
            scores[metrics.VAL_COMMON_LOSS] = evaluator.common_context_loss(common_context)
        if last and checkpoint is not None:
            save_checkpoint(checkpoint, model, config, step)
        point = clock.point(step, {**light, **scores}, evaluator.sample())
        yield dataclasses.replace(point, by_position=evaluator.by_position) if last else point


def check_finite(step: int, **values: Tensor | float) -> None:
    """Raise `Diverged` naming the first value that is NaN or infinite."""
    for name, value in values.items():
        number = value.item() if isinstance(value, Tensor) else value
        if not math.isfinite(number):
            raise Diverged(f"{name} is {number} at step {step}")


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

    def point(self, step: int, measured: dict[str, float], sample: str | None = None) -> Point:
        """A point of the curves; values that are not finite (a perplexity too large for a float) are left out."""
        tokens = step * self.config.tokens_per_step
        seconds = self.config.train.budget.seconds
        progress = step / self.total_steps if self.total_steps else self.training / (seconds or 1.0)
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        finite[metrics.TOKENS] = float(tokens)
        return Point(step, tokens, min(1.0, progress), time.perf_counter() - self.began, finite, sample)


@dataclass(frozen=True)
class Scores:
    """Summed losses (nats, float64) and numbers of targets, both by position in the window, shape (T,)."""

    nats: Tensor
    counts: Tensor

    @property
    def total(self) -> tuple[float, int]:
        """Nats and targets over all positions."""
        return self.nats.sum().item(), int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Nats per target."""
        nats, count = self.total
        return nats / count


@dataclass
class Evaluator:
    """Scores a model on its splits. Draws no random numbers, so how often it is called changes nothing else."""

    config: RunConfig
    data: Dataset
    model: GPT
    device: torch.device
    precision: str
    by_position: tuple[float, ...] = ()  # mean validation loss at each position, of the last pass

    @property
    def rows(self) -> int:
        """Windows scored at once."""
        return max(1, EVAL_TOKENS // self.model.context_length)

    def evaluate(self, step: int, read_test: bool = False) -> dict[str, float]:
        """Train loss over the fixed sample, validation (and test) loss over every target of the split."""
        length = self.model.context_length
        starts = fixed_sample(self.data.train, length, self.config.train.train_eval_tokens)
        parts = (starts[i : i + self.rows] for i in range(0, len(starts), self.rows))
        loss = self.score((*take_windows(self.data.train, part, length), 0) for part in parts).mean
        scores = {metrics.TRAIN_LOSS: loss, metrics.TRAIN_PERPLEXITY: metrics.perplexity(loss)}
        scores |= self.split_scores("val", self.data.val)
        if read_test and len(self.data.test) > 1:
            scores |= self.split_scores("test", self.data.test)
        check_finite(step, **{name: value for name, value in scores.items() if name.endswith("/loss")})
        return scores

    def split_scores(self, split: str, tokens: Tokens) -> dict[str, float]:
        """Loss, perplexity and bits per byte over every target token of one split, each scored once."""
        batches = scoring_batches(tokens, self.model.context_length, self.rows)
        scores = self.score((*batch, 0) for batch in batches)
        nats, count = scores.total
        assert count == len(tokens) - 1
        if split == "val":
            there = scores.counts > 0  # a split shorter than a window reaches no later position
            self.by_position = tuple((scores.nats[there] / scores.counts[there]).tolist())
        return metrics.split_metrics(split, nats, count, self.data.target_bytes(split))

    def common_context_loss(self, behind: int) -> float:
        """Mean validation loss of the targets with at least `behind` tokens before them, in nats."""
        tokens = self.data.val
        scores = self.score(strided_batches(tokens, self.model.context_length, self.rows, behind))
        assert scores.total[1] == len(tokens) - behind
        return scores.mean

    def score(self, batches: Iterable[tuple[Tensor, Tensor, int]]) -> Scores:
        """The targets in `batches` (inputs, targets, first position that counts), with dropout off."""
        length = self.model.context_length
        nats = torch.zeros(length, dtype=torch.float64)
        counts = torch.zeros(length, dtype=torch.int64)
        self.model.eval()
        for tokens, targets, first in batches:
            with autocast(self.device, self.precision):
                losses = self.model.token_losses(tokens.to(self.device), targets.to(self.device), first)
            nats[first : tokens.shape[1]] += losses.cpu().double().sum(0)  # on the CPU: MPS has no float64
            counts[first : tokens.shape[1]] += len(tokens)
        self.model.train()
        return Scores(nats, counts)

    def sample(self) -> str | None:
        """The text that the model writes now, the same random numbers at every evaluation; None if none is wanted."""
        wanted = self.config.train.sample
        if wanted.max_new_tokens == 0:
            return None
        tokenizer = get_tokenizer(self.config.data.tokenizer)
        return continue_text(self.model, tokenizer, wanted, self.config.train.seed)
