"""One training step: forward, backward, clipping, update; on a GPU recorded once and then played again.

A small GPT's step is some hundred kernels of a few microseconds each, and Python takes ten times as long to launch
them. A CUDA graph (Nguyen et al. 2021, "Accelerating PyTorch with CUDA Graphs") launches all of them at once. It plays
the same kernels on the same memory, so its numbers are those of the step that was recorded, bit for bit.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from harness.config.run import TrainConfig
from harness.model.gpt import GPT
from harness.training.devices import autocast, compiled
from harness.training.optimizers import Optimizer

RECORDED_AFTER = 3  # steps: the first ones choose kernels and make the optimizer's moments, which a graph must not do

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # inputs, targets → loss and gradients' norm, on the device

logger = logging.getLogger(__name__)


def training_step(
    model: GPT, optimizer: Optimizer, config: TrainConfig, device: torch.device, precision: str, compile_it: bool
) -> Step:
    """The step of one run: it trains on (inputs, targets), both (B, T) on `device`, and gives loss and gradients' norm.

    The two may be overwritten by the next step. Whoever calls it seeds torch's global generator, which dropout draws
    from, and sets the learning rate.

    Args:
        model: is trained.
        optimizer: of the model.
        config: says where gradients are clipped.
        device: of the model.
        precision: `fp32` or `bf16`.
        compile_it: by `torch.compile`.
    """
    loss_of = compiled(model.loss) if compile_it else model.loss

    def step(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(device, precision):
            loss = loss_of(tokens, targets)
        loss.backward()
        return loss, optimizer.clipped_step(config.grad_clip)

    return Recorded(step, optimizer, device) if device.type == "cuda" and optimizer.recordable else step


class Recorded:
    """A step that is recorded as a CUDA graph after some ordinary ones, and played from then on.

    What cannot be recorded is launched step by step as before, and a line in the log says why.

    Args:
        step: takes tensors of the same shapes at every call.
        optimizer: whose gradients a recording that failed leaves behind.
        device: a GPU.
    """

    def __init__(self, step: Step, optimizer: Optimizer, device: torch.device) -> None:
        self._step = step
        self._optimizer = optimizer
        self._stream = torch.cuda.Stream(device)  # what is to be recorded must have run beside the default stream
        self._ordinary = RECORDED_AFTER  # steps still to be launched so
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: tuple[Tensor, Tensor]
        self._found: tuple[Tensor, Tensor]

    def __call__(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Train on (inputs, targets)."""
        if self._graph is None and self._ordinary <= 0:
            self._record(tokens, targets)
        if self._graph is None:
            self._ordinary -= 1
            return self._launch(tokens, targets)
        for given, now in zip(self._given, (tokens, targets), strict=True):
            given.copy_(now)
        self._graph.replay()
        return self._found

    def _launch(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            found = self._step(tokens, targets)
        current.wait_stream(self._stream)
        return found

    def _record(self, tokens: Tensor, targets: Tensor) -> None:
        """Nothing is computed by it."""
        self._given = tokens.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._found = tuple(part.detach() for part in self._step(*self._given))  # type: ignore[assignment]
            self._graph = graph
        except RuntimeError as error:
            self._ordinary = sys.maxsize
            self._optimizer.drop_gradients()
            generator = torch.cuda.default_generators[self._stream.device_index]
            generator.graphsafe_set_state(generator.clone_state())  # or it would wait for the recording's end for ever
            logger.warning("the step could not be recorded as a CUDA graph: %s", str(error).splitlines()[0])
