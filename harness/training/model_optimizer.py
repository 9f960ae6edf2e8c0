"""The optimizer of one model: its algorithms stepped as one, gradient clipping, and the state that resumes a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from harness.config.run import TrainConfig
from harness.model.gpt import GPT
from harness.training.optimizers import OPTIMIZERS

_CLIP_EPSILON = 1e-6  # torch adds it to the norm when it clips


class ModelOptimizer:
    """All algorithms of `train.optimizer`, stepped as one. Every parameter belongs to exactly one of them.

    Args:
        model: the GPT that is trained.
        config: names the optimizer and its settings.

    Attributes:
        optimizers: torch's optimizers, in the order of the registry.
        capturable: whether a whole step can be captured in a CUDA graph.
        fused_clipping: whether the algorithms divide the gradients themselves, see `clipped_step`.
    """

    def __init__(self, model: GPT, config: TrainConfig) -> None:
        self._model = model
        self._config = config
        self._rate = 0.0
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._algorithms = OPTIMIZERS[config.optimizer]
        self.optimizers: list[torch.optim.Optimizer] = []
        left = dict(self._names)
        for algorithm in self._algorithms:
            taken = [parameter for parameter, name in left.items() if algorithm.takes(name, parameter)]
            left = {parameter: name for parameter, name in left.items() if not algorithm.takes(name, parameter)}
            self.optimizers.append(algorithm.create(taken, config))
        assert not left, f"parameters without an optimizer: {sorted(left.values())}"
        on_gpu = next(model.parameters()).device.type == "cuda"
        self.capturable = on_gpu and all(algorithm.CAPTURABLE for algorithm in self._algorithms)
        self.fused_clipping = self.capturable and all(algorithm.DIVIDES_GRADIENTS for algorithm in self._algorithms)

    def set_learning_rate(self, factor: float) -> float:
        """Set every group to `factor` times the peak; returns the rate."""
        self._rate = self._config.learning_rate * factor
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(self._rate)
                else:
                    group["lr"] = self._rate
        return self._rate

    def clipped_step(self, max_norm: float | None) -> Tensor:
        """`clip_gradients`, then `step`; returns the norm of the gradients before clipping.

        With fused clipping the gradients are not clipped in a pass of their own: the step divides them.
        """
        if not self.fused_clipping:
            norm = clip_gradients(self._names, max_norm)
        else:
            norm = gradient_norm(self._names)
            divisor = None if max_norm is None else ((norm + _CLIP_EPSILON) / max_norm).clamp(min=1.0)
            for optimizer in self.optimizers:  # the attribute that torch's scaler of float16 losses sets
                optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        self.step()
        return norm

    def step(self) -> None:
        """Update the weights from their gradients, then free the gradients."""
        for optimizer in self.optimizers:
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Free the gradients and their memory."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def decay_untrained_rows(self) -> None:
        """Apply one step's weight decay to the embedding rows that are not parameters, see `SparseEmbedding`.

        Not part of `step`, since the scale is a Python number: a CUDA graph would not replay its change.
        """
        if self._model.untrained_scale is not None:
            self._model.untrained_scale *= 1 - self._rate * self._config.weight_decay

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all state tensors after the first step: `tok_emb.weight.exp_avg`, …"""
        return {
            name: tuple(parameter.shape) if shaped else ()
            for name, (_, parameter, _, shaped) in self._state_slots().items()
        }

    def state_tensors(self) -> dict[str, Tensor]:
        """All state tensors, float32, not copied; empty before the first step."""
        slots = self._state_slots().items()
        return {name: state[p][key] for name, (state, p, key, _) in slots if key in state.get(p, {})}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy what `state_tensors` gave. Learning rates are not part of it: they are set at every step."""
        for name, (state, parameter, key, _) in self._state_slots().items():
            if name in tensors:
                state[parameter][key] = tensors[name].to(parameter.device, copy=True)

    def _state_slots(self) -> dict[str, tuple[dict[Tensor, dict[str, Tensor]], Tensor, str, bool]]:
        """Name of each state tensor → the torch state that holds it, its parameter, its key there, see `STATE`."""
        return {
            f"{self._names[parameter]}.{key}": (optimizer.state, parameter, key, shaped)
            for algorithm, optimizer in zip(self._algorithms, self.optimizers, strict=True)
            for group in optimizer.param_groups
            for parameter in group["params"]
            for key, shaped in algorithm.STATE.items()
        }


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The global L2 norm of all gradients, a scalar on their device."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Scale all gradients so that their global L2 norm is at most `max_norm`; returns the norm before clipping."""
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    # torch multiplies by 1 if there is nothing to clip, which is 1 % of a small model's step. The check is free on the
    # CPU; on a GPU it would be a synchronization.
    if max_norm is not None and not (norm.device.type == "cpu" and norm + _CLIP_EPSILON <= max_norm):
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
