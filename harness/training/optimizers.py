"""Optimizers and the learning-rate schedule.

Matrices are decayed, biases and norms are not (as GPT-2 and GPT-3 were trained). `muon` gives the blocks' matrices
to Muon and everything else to AdamW; its updates are scaled to AdamW's size (Liu et al. 2025, "Muon is scalable for
LLM training"), so one learning rate and one weight decay serve both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.config.run import TrainConfig
from harness.model.gpt import GPT


def _bare(method: Any) -> Any:
    """A method of torch's optimizers without what its decorators import at the first call: the whole compiler."""
    return getattr(method, "__wrapped__", method)


class AdamW(torch.optim.AdamW):
    """torch's own, which a process can use without importing torch's compiler: a second, in every worker."""

    add_param_group = _bare(torch.optim.AdamW.add_param_group)
    zero_grad = _bare(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(_bare(torch.optim.AdamW.step))


class Muon(torch.optim.Muon):
    """Likewise."""

    add_param_group = _bare(torch.optim.Muon.add_param_group)
    zero_grad = _bare(torch.optim.Muon.zero_grad)
    step = torch.no_grad()(_bare(torch.optim.Muon.step))


# What an optimizer remembers of each parameter, and whether that has the parameter's shape or is a single number.
_REMEMBERED: dict[type[torch.optim.Optimizer], dict[str, bool]] = {
    AdamW: {"step": False, "exp_avg": True, "exp_avg_sq": True},
    Muon: {"momentum_buffer": True},
}


class Optimizer:
    """The optimizers of one model, stepped as one. Every parameter belongs to exactly one group.

    Args:
        model: the GPT that is trained.
        config: learning rate, betas, weight decay and which optimizer.
    """

    def __init__(self, model: GPT, config: TrainConfig) -> None:
        self._peak = config.learning_rate
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        self._optimizers: list[torch.optim.Optimizer] = []
        if config.optimizer == "muon":
            hidden = [p for p in model.trf_blocks.parameters() if p.dim() == 2]
            inside = {id(p) for p in hidden}
            matrices = [p for p in matrices if id(p) not in inside]
            muon = Muon(hidden, lr=self._peak, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
            self._optimizers.append(muon)
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        betas = (config.beta1, config.beta2)
        on_gpu = matrices[0].device.type == "cuda"
        # A recorded step (see `harness.training.step`) reads the learning rate from the GPU's memory.
        rate = torch.tensor(self._peak, device=matrices[0].device) if on_gpu else self._peak
        self._adamw = AdamW(groups, lr=rate, betas=betas, fused=True, capturable=on_gpu)
        self._optimizers.append(self._adamw)
        self.recordable = on_gpu and len(self._optimizers) == 1  # Muon's step takes its learning rate from Python
        covered = [id(p) for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(covered) == sorted(id(p) for p in model.parameters())

    def set_learning_rate(self, factor: float) -> float:
        """Set every group to `factor` times the peak; returns the rate."""
        rate = self._peak * factor
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        return rate

    def clipped_step(self, max_norm: float | None) -> Tensor:
        """`clip_gradients`, then `step`; returns the norm of the gradients before both.

        On a GPU, AdamW alone reads the gradients unclipped and divides them itself: a pass over them less.
        """
        if not self.recordable:
            norm = clip_gradients(self._names, max_norm)
        else:
            norm = gradient_norm(self._names)
            excess = None if max_norm is None else ((norm + _CLIP_EPSILON) / max_norm).clamp(min=1.0)
            # What torch's scaler of float16 losses sets, for the same purpose.
            self._adamw.grad_scale = excess  # type: ignore[attr-defined]
        self.step()
        return norm

    def step(self) -> None:
        """Update the weights from their gradients, then drop the gradients."""
        for optimizer in self._optimizers:
            optimizer.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget them, their memory too."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of everything in `tensors` after the first step: `tok_emb.weight.exp_avg`, …"""
        return {name: tuple(p.shape) if shaped else () for name, (_, p, _, shaped) in self._slots().items()}

    def tensors(self) -> dict[str, Tensor]:
        """What the optimizers remember of the steps so far, float32; nothing before the first."""
        slots = self._slots().items()
        return {name: state[p][key] for name, (state, p, key, _) in slots if key in state.get(p, {})}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from copies of what `tensors` gave. Learning rates are not among it: they are set at every step."""
        for name, (state, parameter, key, _) in self._slots().items():
            if name in tensors:
                state[parameter][key] = tensors[name].to(parameter.device, copy=True)

    def _slots(self) -> dict[str, tuple[dict[Tensor, dict[str, Tensor]], Tensor, str, bool]]:
        """Name of each remembered tensor → the state that holds it, its parameter, its key there, see `_REMEMBERED`."""
        return {
            f"{self._names[parameter]}.{key}": (optimizer.state, parameter, key, shaped)
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            for key, shaped in _REMEMBERED[type(optimizer)].items()
        }


_CLIP_EPSILON = 1e-6  # that torch adds to the norm when it clips


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The global L2 norm of all gradients, a number on their device."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Scale all gradients so that their global L2 norm is at most `max_norm`; returns the norm before that."""
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    # torch multiplies by 1 where there is nothing to clip, which is 1 % of a small model's step. To look is free on
    # the CPU; a GPU would have to be waited for.
    if max_norm is not None and not (norm.device.type == "cpu" and norm + _CLIP_EPSILON <= max_norm):
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
