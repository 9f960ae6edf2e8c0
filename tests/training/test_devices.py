"""Devices and precisions: what `auto` means, which errors there are, and the peak of each card."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.model.init import build_gpt
from harness.training.devices import (
    DeviceError,
    KernelsError,
    autocast,
    compiled,
    describe,
    peak_flops,
    resolve_compile,
    resolve_device,
    resolve_precision,
    set_matmul_precision,
)
from harness.workers.environment import WORKER_ENVIRONMENT
from helpers import small_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def have(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False, bf16: bool = True) -> None:
    """Fake a machine with these devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_takes_the_fastest_available_device(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = small_config(device="auto").train
    have(monkeypatch)
    assert resolve_device(auto) == CPU
    have(monkeypatch, mps=True)
    assert resolve_device(auto) == torch.device("mps")
    have(monkeypatch, cuda=2, mps=True)
    assert [str(resolve_device(auto, index)) for index in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert resolve_device(small_config(device="cpu").train) == CPU


def test_a_device_that_is_not_available_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    with pytest.raises(DeviceError, match=r"train\.device: found cuda; allowed on this machine: auto, cpu"):
        resolve_device(small_config(device="cuda").train)
    have(monkeypatch, mps=True)
    with pytest.raises(DeviceError, match="found cuda; allowed on this machine: auto, mps, cpu"):
        resolve_device(small_config(device="cuda").train)


def test_auto_chooses_bf16_only_on_a_gpu_that_supports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = small_config(precision="auto").train
    have(monkeypatch, cuda=1)
    assert resolve_precision(auto, CUDA) == "bf16"
    assert resolve_precision(auto, CPU) == "fp32"
    assert resolve_precision(small_config(precision="fp32").train, CUDA) == "fp32"
    assert resolve_precision(small_config(precision="bf16").train, CPU) == "bf16"
    have(monkeypatch, cuda=1, bf16=False)
    assert resolve_precision(auto, CUDA) == "fp32"


def test_auto_compiles_only_long_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    config = small_config(budget={"steps": 1000})
    # Two minutes at a fifth of an L4's 121 TFLOP/s, the assumed speed of uncompiled training.
    steps = round(120 * 121e12 / 5 / (config.flops_per_token * config.tokens_per_step))
    below, above = (small_config(budget={"steps": round(steps * share)}) for share in (0.99, 1.01))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert not resolve_compile(below, CUDA, 100)
    assert resolve_compile(above, CUDA, 100)
    assert not resolve_compile(above, CPU, 100) and not resolve_compile(above, torch.device("mps"), 100)
    assert resolve_compile(small_config(budget={"seconds": 120}), CUDA, 100)
    assert not resolve_compile(small_config(budget={"seconds": 119}), CUDA, 100)
    assert not resolve_compile(small_config(budget={"seconds": 120}, compile=False), CUDA, 100)
    assert resolve_compile(small_config(compile=True), CPU, 100)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # without Triton nothing can be compiled
    assert not resolve_compile(above, CUDA, 100)


def test_tf32_is_allowed_only_with_bf16_on_a_gpu() -> None:
    try:
        set_matmul_precision(CUDA, "bf16")
        assert torch.get_float32_matmul_precision() == "high"
        set_matmul_precision(CUDA, "fp32")
        assert torch.get_float32_matmul_precision() == "highest"
        torch.set_float32_matmul_precision("medium")  # set by other code in this process
        set_matmul_precision(CPU, "bf16")
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_autocast_is_on_for_bf16_only() -> None:
    one = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (one @ one).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (one @ one).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Tesla T4", None),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_its_data_sheet(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(CUDA) == peak
    assert describe(CUDA) == name


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(CPU) is None
    assert describe(CPU) == "cpu"


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory is given back")
def test_free_memory_between_blocks_in_use_is_returned() -> None:
    # As in a worker: 4000 blocks of 64 kB on one heap, of which all but every 50th are freed.
    lines = [
        "import psutil",
        "from harness.training.devices import release_memory",
        "size = lambda: psutil.Process().memory_info().rss / 2**20",
        "pieces = [bytearray(65536) for _ in range(4000)]",
        "kept = pieces[::50]",
        "pieces = None",
        "held = size()",
        "release_memory()",
        "print(held - size())",
    ]
    settings = {**os.environ, **WORKER_ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=settings, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) > 200  # of 245 MB


@pytest.mark.slow
def test_a_process_compiles_for_every_model_that_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default torch compiles eight versions of a function and runs later ones uncompiled."""
    built = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
        built.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    rates = [0.01 * number for number in range(12)]
    for rate in [*rates, rates[-1]]:  # the last model is compiled already
        compiled(build_gpt(small_config(model={"drop_rate": rate})).loss)(tokens, tokens)
    assert len(built) == 12


def test_compiled_kernels_of_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps them in the temporary folder, under a name that other users know."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "named"))
    before = os.umask(0)
    try:
        compiled(lambda tokens: tokens)
    finally:
        os.umask(before)
    [default] = tmp_path.glob("torchinductor_*")
    for folder in (default, tmp_path / "named"):
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o777)
        with pytest.raises(KernelsError, match="which everybody can write to; allowed: a folder that only you can"):
            compiled(lambda tokens: tokens)
        folder.chmod(0o700)
