"""The optimization algorithms, and which of them each `train.optimizer` uses.

To add one: a subclass of `Algorithm`, a line in `OPTIMIZERS`, and the name among the allowed values of
`train.optimizer`. The memory plan, the saved states and CUDA graphs ask the class. Importing this module imports no
torch, so that a plan does not wait for it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from harness.config.run import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Algorithm(ABC):
    """An optimization algorithm: which parameters it takes, what it stores for each, how it is created.

    With zero gradients a step must only apply decoupled weight decay to matrices: p ← p · (1 - rate · weight_decay).
    The untrained rows of a `SparseEmbedding` are decayed by this factor.

    Attributes:
        STATE: name of each tensor stored per parameter → whether it has the parameter's shape (else it is one number).
        CAPTURABLE: the step can be captured in a CUDA graph; it then reads its learning rate from the GPU's memory.
        DIVIDES_GRADIENTS: the step divides gradients by the optimizer's `grad_scale`, so clipping needs no pass of its
            own.
    """

    STATE: ClassVar[Mapping[str, bool]]
    CAPTURABLE: ClassVar[bool] = False
    DIVIDES_GRADIENTS: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def takes(name: str, parameter: Tensor) -> bool:
        """Whether it takes this parameter of a GPT, if no algorithm before it did."""

    @staticmethod
    @abstractmethod
    def create(parameters: Sequence[Tensor], config: TrainConfig) -> torch.optim.Optimizer:
        """The torch optimizer of these parameters, which are all on one device."""

    @classmethod
    def state_floats(cls) -> int:
        """Floats stored per weight, tensors of a single number left out."""
        return sum(cls.STATE.values())


class AdamW(Algorithm):
    """AdamW (Loshchilov & Hutter 2019). Takes every parameter; decays matrices, not biases and norms, as GPT-2 does."""

    STATE: ClassVar[Mapping[str, bool]] = {"step": False, "exp_avg": True, "exp_avg_sq": True}
    CAPTURABLE = True
    DIVIDES_GRADIENTS = True

    @staticmethod
    def takes(name: str, parameter: Tensor) -> bool:
        """Always."""
        return True

    @staticmethod
    def create(parameters: Sequence[Tensor], config: TrainConfig) -> torch.optim.Optimizer:
        """torch's fused AdamW."""
        import torch

        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        device = parameters[0].device
        on_gpu = device.type == "cuda"
        rate = torch.tensor(config.learning_rate, device=device) if on_gpu else config.learning_rate
        betas = (config.beta1, config.beta2)
        return without_compiler(torch.optim.AdamW)(groups, lr=rate, betas=betas, fused=True, capturable=on_gpu)


class Muon(Algorithm):
    """Muon (Jordan 2024) for the matrices of the blocks.

    Its updates are scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training"), so one
    learning rate and one weight decay serve both.
    """

    STATE: ClassVar[Mapping[str, bool]] = {"momentum_buffer": True}

    @staticmethod
    def takes(name: str, parameter: Tensor) -> bool:
        """The matrices of the blocks."""
        return name.startswith("trf_blocks.") and parameter.dim() == 2

    @staticmethod
    def create(parameters: Sequence[Tensor], config: TrainConfig) -> torch.optim.Optimizer:
        """torch's Muon."""
        import torch

        kind = without_compiler(torch.optim.Muon)
        return kind(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )


# `train.optimizer` → its algorithms. Each takes its parameters from those that the ones before it left.
OPTIMIZERS: Final[Mapping[str, Sequence[type[Algorithm]]]] = {
    "adamw": (AdamW,),
    "muon": (Muon, AdamW),
}


@functools.cache
def without_compiler(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """A torch optimizer class without the decorators that import torch's compiler, which takes each worker a second."""
    import torch

    def bare(name: str) -> Any:
        method = getattr(kind, name)
        return getattr(method, "__wrapped__", method)

    methods = {name: bare(name) for name in ("add_param_group", "zero_grad")}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(bare("step"))})
