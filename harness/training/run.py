"""One run in training: its parts, and how far it is. The trainer's loop works on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.rng import derive
from harness.data import CorpusError, Dataset, open_dataset
from harness.data.batches import prefetch
from harness.data.mixed_batches import mixed_batches
from harness.model.init import build_gpt
from harness.model.sources import find_source, with_source
from harness.model.weights import save_checkpoint
from harness.training.budget import Clock
from harness.training.devices import (
    peak_flops,
    resolve_compile,
    resolve_device,
    resolve_precision,
    set_matmul_precision,
)
from harness.training.distributed import ALONE, Ranks
from harness.training.environment import Environment
from harness.training.evaluation import Evaluation
from harness.training.model_optimizer import ModelOptimizer
from harness.training.resume import State, States, load_tensors, state_matches, state_tensors
from harness.training.step import training_step
from harness.training.token_losses import LENGTH, save_token_losses


class Run:
    """A run at step 0, until `resume` finds a saved state.

    Args:
        config: the whole run.
        data: its tokens; opened here if None.
        device_index: which CUDA device, if there are several.
        ranks: the processes that train the run.
        start: the folder of `model.init_from`, if it is known.

    Attributes:
        config: resolved.
        data, device, precision, model, optimizer, clock, ranks: of the run.
        train_step: see `harness.training.step`.
        step: optimizer steps done.
        pending: metrics of the last step until its point is made; None if it has been made or there is none.
        points: all points made so far.

    Raises:
        DeviceError: the device asked for is not available.
        CorpusError: the training split is shorter than one window.
        StartError: the weights to start from are missing, damaged or others than the configuration says.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Dataset | None,
        device_index: int,
        ranks: Ranks = ALONE,
        start: Path | None = None,
    ) -> None:
        self.ranks = ranks
        self.data = data or open_dataset(config.data)
        self.config = config = self.data.resolve(with_source(config))
        self.windows = len(self.data.windows("train", config.model.context_length))
        parts = [part.windows("train", config.model.context_length) for part in self.data.sources.values()]
        if not all(map(len, parts)):
            shortest = min(len(part.train) for part in self.data.sources.values())
            raise CorpusError(
                "model.context_length",
                f"found a context of {config.model.context_length} tokens; "
                f"allowed: under {shortest}, the tokens of the train split",
            )
        self.device = resolve_device(config.train, device_index, ranks.size)
        self.precision = resolve_precision(config.train, self.device)
        set_matmul_precision(self.device, self.precision)
        name = config.model.init_from
        source = None if name is None else find_source(name, folder=start)
        self.model = build_gpt(config, self.device, self.data.vocabulary, self.data.trained, source)
        self.optimizer = ModelOptimizer(self.model, config.train)
        compile_it = resolve_compile(config, self.device, self.windows, ranks.size)
        self.train_step = training_step(
            self.model, self.optimizer, config, self.device, self.precision, compile_it, ranks
        )
        self._own_masks = self.device.type == "cpu" and self.precision == "fp32" and not compile_it
        self.clock = Clock(config, self.windows, ranks)
        self.step = 0
        self.pending: Mapping[str, float] | None = {}
        self.points: list[Point] = []

    @property
    def environment(self) -> Environment:
        """What the numbers depend on besides configuration, data and code."""
        return Environment.here(self.device, self.precision, self.ranks.size)

    @property
    def finished(self) -> bool:
        """Whether the budget is spent and the last point is made."""
        return self.pending is None and self.clock.done(self.step)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches (inputs, targets) on the device, from the current step on, without end."""
        context, sequences = self.config.model.context_length, self.config.sequences_per_step
        rest = sequences, self.config.train.seed, self.step, self.ranks.share(sequences)
        if weights := self.config.data.weights:
            parts = {name: part.windows("train", context) for name, part in self.data.sources.items()}
            return prefetch(mixed_batches(parts, weights, *rest), self.device)
        return prefetch(self.data.windows("train", context).training(*rest), self.device)

    def seed_dropout(self) -> None:
        """Seed torch's global generator for the next step; only dropout uses it.

        This project's CPU kernels draw the masks of the whole batch, from one stream for all ranks. torch's kernels
        draw those of the rank's rows, so each rank has a stream of its own.
        """
        own = () if self._own_masks or self.ranks.rank == 0 else (self.ranks.rank,)
        torch.manual_seed(derive(self.config.train.seed, "dropout", self.step, *own))

    def resume(self, states: States) -> str:
        """Continue from the newest valid state, if there is one; returns warnings, empty if there are none."""
        found, warning = states.load_newest(lambda state: state_matches(state, self.model, self.optimizer))
        if found is not None:
            self.step, self.pending, self.points = found.step, found.pending, list(found.points)
            load_tensors(found.tensors, self.model, self.optimizer, self.device)
            self.clock.restore(found.clock)
        if self.ranks.size > 1:
            self._follow_rank_0()
        return warning

    def _follow_rank_0(self) -> None:
        """Continue from the step at which rank 0 is, with its weights and moments."""
        clock = self.clock.state()
        step, is_pending, *times = self.ranks.agree(self.step, self.pending is not None, *clock.values())
        if self.ranks.rank > 0:
            self.step, self.pending = int(step), {} if is_pending else None
            self.clock.restore(dict(zip(clock, times, strict=True)))
            if self.step:
                empty = {name: torch.empty(shape) for name, shape in self.optimizer.state_shapes().items()}
                self.optimizer.load_state_tensors(empty)
        tensors = state_tensors(self.model, self.optimizer, self.device)
        self.ranks.broadcast(tensors.values())
        load_tensors(tensors, self.model, self.optimizer, self.device)

    def state(self) -> State:
        """The state to save now."""
        self.clock.finish_queued_steps(self.device)
        tensors = state_tensors(self.model, self.optimizer, self.device)
        return State(self.step, tensors, self.clock.state(), self.pending, tuple(self.points))

    def measure_step(self, rate: float, loss: Tensor, grad_norm: Tensor) -> None:
        """Keep the training metrics of the last step for its point. Reading them synchronizes a GPU."""
        self.pending = {
            metrics.BATCH_LOSS: loss.item(),
            metrics.LEARNING_RATE: rate,
            metrics.GRAD_NORM: grad_norm.item(),
            metrics.EPOCHS: self.step * self.config.sequences_per_step / self.windows,
            **self.clock.speed(peak_flops(self.device, self.ranks.size)),
        }

    def make_point(self, evaluation: Evaluation | None) -> Point:
        """The point of the last step. Only the last point of a run has losses by position."""
        measured = self.pending or {}
        if evaluation is None:
            point = self.clock.point(self.step, measured)
        else:
            by_position = evaluation.by_position if self.clock.done(self.step) else ()
            measured = {**measured, **evaluation.metrics}
            point = self.clock.point(self.step, measured, evaluation.sample, by_position, evaluation.greedy)
        self.points.append(point)
        self.pending = None
        return point

    def save_checkpoint(self, folder: Path) -> None:
        """Save the final weights, and their losses on the first tokens of the validation split."""
        data = self.data
        save_checkpoint(folder, self.model, self.config, self.step, data.vocabulary, data.tokenizer_file)
        passage = data.windows("val", self.config.model.context_length).passage(LENGTH)
        save_token_losses(folder, self.model, passage, self.data.codec, self.device, self.precision)
