"""One training step: forward, backward, clip, update. On a GPU it is captured as a CUDA graph and replayed.

A small GPT's step is some hundred kernels of a few microseconds each, and Python takes ten times as long to launch
them. A CUDA graph (Nguyen et al. 2021, "Accelerating PyTorch with CUDA Graphs") launches all of them at once. It runs
the same kernels on the same memory, so its results equal those of the captured step bit for bit.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from harness.config.run import RunConfig
from harness.data.batches import NO_TARGET
from harness.model.dropout import rows_of_batch
from harness.model.gpt import GPT
from harness.training.devices import autocast, compiled
from harness.training.distributed import ALONE, Ranks
from harness.training.model_optimizer import ModelOptimizer

CAPTURE_AFTER = 3  # eager steps first: they choose kernels and create the optimizer's state, which must not be captured

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # inputs, targets → loss and gradient norm, on the device

logger = logging.getLogger(__name__)


def training_step(
    model: GPT,
    optimizer: ModelOptimizer,
    config: RunConfig,
    device: torch.device,
    precision: str,
    compile_it: bool,
    ranks: Ranks = ALONE,
) -> Step:
    """The step function of one run: (inputs, targets), both (B, T) on `device` → loss and gradient norm.

    The next step may overwrite the two tensors. The caller sets the learning rate and seeds torch's global generator,
    which dropout uses. With several ranks, inputs and targets are this rank's rows of the batch; loss and gradient are
    those of the whole batch.

    Args:
        model: the GPT to train.
        optimizer: of the model.
        config: has the clipping norm and the rows of a batch.
        device: of the model.
        precision: `fp32` or `bf16`.
        compile_it: compile the loss with `torch.compile`.
        ranks: the processes that share every batch.
    """
    grad_clip, sequences = config.train.grad_clip, config.sequences_per_step
    loss_of = compiled(model.loss) if compile_it else model.loss

    def update(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(device, precision):
            loss = loss_of(tokens, targets)
        loss.backward()
        return loss, optimizer.clipped_step(grad_clip)

    def update_together(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.zeros((), device=device)  # of the batch's loss
        counted, whole = len(tokens), sequences
        if config.data.windows == "within":  # rows have different numbers of targets
            counted = int((targets != NO_TARGET).sum())
            whole = int(ranks.sum(torch.tensor([counted]))[0])
        if len(tokens):
            with autocast(device, precision), rows_of_batch(ranks.share(sequences), sequences):
                share = loss_of(tokens, targets) * (counted / whole)
            share.backward()
        loss = ranks.sum_gradients(model.parameters(), share)
        return loss, optimizer.clipped_step(grad_clip)

    launch: Step
    if ranks.size > 1:  # not captured: a batch that needs several GPUs keeps each busy for longer than Python needs
        launch = update_together
    else:
        launch = CapturedStep(update, optimizer, device) if optimizer.capturable else update

    def step(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        loss, norm = launch(tokens, targets)
        optimizer.decay_untrained_rows()
        return loss, norm

    return step


class CapturedStep:
    """A step that is captured as a CUDA graph after a few eager ones, and replayed from then on.

    If the capture fails, every step is launched eagerly, and the log gives the reason.

    Args:
        step: takes tensors of the same shapes at every call.
        optimizer: its gradients are freed after a failed capture.
        device: a GPU.
    """

    def __init__(self, step: Step, optimizer: ModelOptimizer, device: torch.device) -> None:
        self._step = step
        self._optimizer = optimizer
        self._stream = torch.cuda.Stream(device)  # CUDA requires eager steps on a side stream before a capture
        self._eager_left = CAPTURE_AFTER
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, Tensor]
        self._outputs: tuple[Tensor, Tensor]

    def __call__(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Train on (inputs, targets)."""
        if self._graph is None and self._eager_left <= 0:
            self._capture(tokens, targets)
        if self._graph is None:
            self._eager_left -= 1
            return self._launch(tokens, targets)
        for static, now in zip(self._inputs, (tokens, targets), strict=True):
            static.copy_(now)
        self._graph.replay()
        return self._outputs

    def _launch(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = self._step(tokens, targets)
        current.wait_stream(self._stream)
        return outputs

    def _capture(self, tokens: Tensor, targets: Tensor) -> None:
        """Capture the step; no kernel runs during the capture."""
        self._inputs = tokens.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._outputs = tuple(part.detach() for part in self._step(*self._inputs))  # type: ignore[assignment]
            self._graph = graph
        except RuntimeError as error:
            self._eager_left = sys.maxsize
            self._optimizer.zero_grad()
            generator = torch.cuda.default_generators[self._stream.device_index]
            generator.graphsafe_set_state(generator.clone_state())  # else it would wait for the end of the capture
            logger.warning("could not capture the training step as a CUDA graph: %s", str(error).splitlines()[0])
