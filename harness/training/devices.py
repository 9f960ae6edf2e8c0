"""Where a run computes and in which precision: what `auto` means, in one place."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import torch

from harness.config.run import RunConfig, TrainConfig

# A run that is shorter than this on a GPU, uncompiled, is over sooner without the 40 seconds that compiling takes: of a
# step of the 124M preset on an H100 it saves not quite a half.
COMPILE_FROM_SECONDS: Final = 120.0
COMPILED_VERSIONS: Final = 10_000  # of the training step, in one process
_UNCOMPILED_SHARE, _COMMON_PEAK = 0.2, 150e12  # of the peak that training reaches; FLOP/s of a GPU that is not listed

# Dense bf16 peak in FLOP/s from the vendors' data sheets, by a part of the device's name: the first that fits.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,  # SXM
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "4090": 165e12,
}


class DeviceError(ValueError):
    """A device or precision was asked for that this machine does not have."""


def resolve_device(config: TrainConfig, index: int = 0) -> torch.device:
    """The device a run uses: what `train.device` names, or for `auto` the first of cuda, mps, cpu that is there.

    Args:
        config: names the device.
        index: which CUDA device, where there are several.

    Raises:
        DeviceError: the device that was asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = config.device if config.device != "auto" else next(name for name, there in available.items() if there)
    if not available[name]:
        there = ", ".join(name for name, yes in available.items() if yes)
        raise DeviceError(f"train.device: found {name}; allowed on this machine: auto, {there}")
    return torch.device(name, index % torch.cuda.device_count()) if name == "cuda" else torch.device(name)


def resolve_precision(config: TrainConfig, device: torch.device) -> str:
    """`fp32` or `bf16`: what was asked for, or for `auto` bf16 on CUDA devices that have it and fp32 elsewhere."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def resolve_compile(config: RunConfig, device: torch.device, train_windows: int) -> bool:
    """Whether the training step is compiled: as asked for, or for `auto` on a CUDA device if the run is long enough.

    On the CPU compiled steps were 0 to 16 % faster, after 40 s of compiling and without this project's own head.

    Args:
        config: of the run, resolved.
        device: where it trains.
        train_windows: in an epoch; see `RunConfig.total_steps`.
    """
    wanted = config.train.compile
    if wanted != "auto":
        return wanted
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    seconds = config.train.budget.seconds
    if seconds is None:
        tokens = (config.total_steps(train_windows) or 0) * config.tokens_per_step
        seconds = tokens * config.flops_per_token / (_UNCOMPILED_SHARE * (peak_flops(device) or _COMMON_PEAK))
    return seconds >= COMPILE_FROM_SECONDS


def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`function` by `torch.compile`, however many models of other sizes or dropout rates this process has trained.

    By default torch compiles eight versions of a function and then, but for a line in its log, none.
    """
    from torch import _dynamo

    _dynamo.config.recompile_limit = _dynamo.config.accumulated_recompile_limit = COMPILED_VERSIONS
    return torch.compile(function)


def settle_products(device: torch.device, precision: str) -> None:
    """Let a GPU that trains in bf16 take TF32 for the products that autocast leaves in float32; else nothing less."""
    lower = device.type == "cuda" and precision == "bf16"
    torch.set_float32_matmul_precision("high" if lower else "highest")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """A fresh context in which matrix products run in `precision`; weights and gradients stay float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def peak_flops(device: torch.device) -> float | None:
    """The device's peak in FLOP/s (dense bf16), or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe(device: torch.device) -> str:
    """A name for logs: `cpu`, `mps` or the GPU's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def release_memory() -> None:
    """Give back to the system, and to other processes on a GPU, what is free but still held; takes milliseconds.

    What a GPU held at most is counted anew from here.

    glibc keeps what is freed between pieces that are not. Runs of several sizes, one after the other, leave such
    pieces at other places each time, and so a process that trains one run after the other grows without a leak.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
