"""Which implementation of an operation a tensor gets."""

from __future__ import annotations

import torch


def is_plain(x: torch.Tensor) -> bool:
    """Whether what is done with `x` is done in float32, eagerly, on the CPU: where this project has code of its own."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return on_cpu and not torch.compiler.is_compiling()
