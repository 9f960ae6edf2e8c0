"""The processor's name with and without /proc/cpuinfo, and the number of GPUs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import hardware
from harness.core.hardware import count_gpus, default_workers, processor_name


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    processor_name.cache_clear()
    yield
    processor_name.cache_clear()


def test_on_linux_the_name_is_that_of_the_first_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC: 9B14\n\nprocessor\t: 1\nmodel name\t: x\n"
    )
    monkeypatch.setattr(hardware, "_CPUINFO", cpuinfo)
    assert processor_name() == "AMD EPYC: 9B14"


@pytest.mark.parametrize("text", [None, "", "Features: fp asimd\n", "model name\t:\n"])
def test_without_a_model_name_the_machine_type_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    monkeypatch.setattr(hardware, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert processor_name() == "arm64"


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for visible, count in [("", 0), ("-1", 0), ("0", 1), ("0,3", 2)]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert count_gpus() == count
    assert [default_workers(ranks) for ranks in (1, 2, 3)] == [2, 1, 1]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    calls = tmp_path / "calls"
    listing = "echo 'GPU 0: NVIDIA H100 (UUID: x)'\necho 'GPU 1: NVIDIA H100 (UUID: y)'"
    tool.write_text(f"#!/bin/sh\necho >> {calls}\n{listing}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert count_gpus() == default_workers() == 2
    assert calls.read_text() == "\n"  # one call
