"""Device, precision and compilation of a run: resolves `auto`."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import torch

from harness.config.run import RunConfig, TrainConfig
from harness.data.cache import make_private, others_with_access

# Compiling takes 40 seconds and saves almost half of a step of the 124M preset on an H100, so it does not pay for a run
# that is shorter than this uncompiled.
COMPILE_FROM_SECONDS: Final = 120.0
COMPILED_VERSIONS: Final = 10_000  # of the loss, per process
_UNCOMPILED_MFU, _DEFAULT_PEAK = 0.2, 150e12  # share of the peak reached uncompiled; FLOP/s of a GPU not listed

# Dense bf16 peak in FLOP/s from the vendors' data sheets, by a part of the device's name: the first match counts.
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
    """The device asked for is not available on this machine."""


class KernelsError(ValueError):
    """Others can write to the folder in which torch keeps compiled kernels."""


def resolve_device(config: TrainConfig, index: int = 0, ranks: int = 1) -> torch.device:
    """The device of a run: `train.device`, or for `auto` the first available of cuda, mps, cpu.

    Args:
        config: names the device.
        index: which CUDA device, if there are several; counted modulo their number.
        ranks: processes that train the run, each on a device of its own.

    Raises:
        DeviceError: the device asked for is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = config.device if config.device != "auto" else next(name for name, found in available.items() if found)
    if not available[name]:
        names = ", ".join(name for name, found in available.items() if found)
        raise DeviceError(f"train.device: found {name}; allowed on this machine: auto, {names}")
    if ranks > 1 and name == "mps":
        raise DeviceError(f"train.device: found mps for a run of {ranks} ranks; allowed: auto, cpu, cuda")
    if name != "cuda":
        return torch.device(name)
    devices = torch.cuda.device_count()
    if ranks > devices:
        raise DeviceError(f"found a run of {ranks} ranks; allowed on this machine: at most {devices}, one for each GPU")
    return torch.device(name, index % devices)


def resolve_precision(config: TrainConfig, device: torch.device) -> str:
    """`fp32` or `bf16`: `train.precision`, or for `auto` bf16 on CUDA devices that support it and fp32 elsewhere."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def resolve_compile(config: RunConfig, device: torch.device, train_windows: int, ranks: int = 1) -> bool:
    """Whether the loss is compiled: `train.compile`, or for `auto` on a CUDA device if the run is long enough.

    On the CPU compiled steps were 0 to 16 % faster, after 40 s of compiling, since they cannot use this project's CPU
    kernels.

    Args:
        config: of the run, resolved.
        device: of the run.
        train_windows: windows in an epoch; see `RunConfig.total_steps`.
        ranks: processes that train the run, each on a device of its own.
    """
    wanted = config.train.compile
    if wanted != "auto":
        return wanted
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    seconds = config.train.budget.seconds
    if seconds is None:
        tokens = (config.total_steps(train_windows) or 0) * config.tokens_per_step
        seconds = (
            tokens * config.flops_per_token / (_UNCOMPILED_MFU * (peak_flops(device, ranks) or ranks * _DEFAULT_PEAK))
        )
    return seconds >= COMPILE_FROM_SECONDS


def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch.compile(function)`, without the limit on how many versions one process compiles.

    By default torch compiles eight versions of a function and runs later ones uncompiled, with only a line in its log.
    A worker trains models of many sizes and dropout rates.

    Raises:
        KernelsError: others could have put kernels of their own where torch keeps compiled ones, and runs them.
    """
    _refuse_shared_kernels()
    from torch import _dynamo

    _dynamo.config.recompile_limit = _dynamo.config.accumulated_recompile_limit = COMPILED_VERSIONS
    return torch.compile(function)


def _refuse_shared_kernels() -> None:
    before = os.umask(0o077)
    try:
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # creates the folder
    finally:
        os.umask(before)
    default = default_cache_dir()  # torch keeps some files there even if another folder is named
    for folder in map(Path, (default, os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default)):
        make_private(folder)
        if who := others_with_access(folder):
            raise KernelsError(
                f"found the folder of compiled kernels {str(folder)!r}, which {who}; allowed: a folder that only you "
                "can write to: remove this one, or name others by TMPDIR and TORCHINDUCTOR_CACHE_DIR"
            )


def set_matmul_precision(device: torch.device, precision: str) -> None:
    """Allow TF32 on a GPU that trains in bf16, for products that autocast leaves in float32; else exact float32."""
    lower = device.type == "cuda" and precision == "bf16"
    torch.set_float32_matmul_precision("high" if lower else "highest")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """A context in which matrix products run in `precision`; weights and gradients stay float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def peak_flops(device: torch.device, count: int = 1) -> float | None:
    """The peak in FLOP/s (dense bf16) of this many such devices, or None if it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((count * peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe(device: torch.device) -> str:
    """A name for logs: `cpu`, `mps` or the GPU's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def release_memory() -> None:
    """Return free cached memory to the system and the GPU, and reset CUDA's peak-memory statistics; takes milliseconds.

    glibc keeps free memory that lies between blocks in use. Runs of different sizes leave such blocks in different
    places, so a process that trains one run after the other would grow without a leak.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
