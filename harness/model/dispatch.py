"""Chooses between this project's CPU kernels and torch's own."""

from __future__ import annotations

import torch


def use_cpu_kernels(x: torch.Tensor) -> bool:
    """Whether this project's CPU kernels apply to `x`: float32 on the CPU, without autocast, not compiled."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return on_cpu and not torch.compiler.is_compiling()
