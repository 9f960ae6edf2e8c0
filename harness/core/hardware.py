"""This machine's processor and GPUs, without torch."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")  # Linux only


@cache
def processor_name() -> str:
    """Such as "AMD EPYC 9B14", read from /proc/cpuinfo; elsewhere `platform`'s name, such as "arm64"."""
    try:
        text = _CPUINFO.read_text("utf-8", "replace")
        names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    except OSError:
        names = []
    return next(filter(None, names), platform.processor() or platform.machine())


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(ranks: int = 1) -> int:
    """One worker per GPU, or where there is none one per CPU core this process may use.

    Args:
        ranks: processes of each worker, each with a GPU or a core of its own.
    """
    cores = usable_cores()
    return max(1, (count_gpus() or cores) // ranks)


def count_gpus() -> int:
    """NVIDIA GPUs that a worker would see; does not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    tool = shutil.which("nvidia-smi")
    return _listed_gpus(tool) if tool else 0


@functools.cache  # a plan asks several times, and without a daemon that keeps the driver awake it takes a second
def _listed_gpus(tool: str) -> int:
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith(b"GPU ") for line in listed.splitlines())
