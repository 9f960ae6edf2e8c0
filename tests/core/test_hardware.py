"""The processor's name, from Linux's file and without it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import hardware as processor
from harness.core.hardware import count_gpus, default_workers, processor_name


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    processor_name.cache_clear()
    yield
    processor_name.cache_clear()


def test_the_first_processor_of_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "cpuinfo"
    about.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC: 9B14\n\nprocessor\t: 1\nmodel name\t: x\n")
    monkeypatch.setattr(processor, "_CPUINFO", about)
    assert processor_name() == "AMD EPYC: 9B14"


@pytest.mark.parametrize("text", [None, "", "Features: fp asimd\n", "model name\t:\n"])
def test_where_nobody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    about = tmp_path / "cpuinfo"
    if text is not None:
        about.write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", about)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert processor_name() == "arm64"


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for visible, count in [("", 0), ("-1", 0), ("0", 1), ("0,3", 2)]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert count_gpus() == count
    assert default_workers() == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    calls = tmp_path / "calls"
    listing = "echo 'GPU 0: NVIDIA H100 (UUID: x)'\necho 'GPU 1: NVIDIA H100 (UUID: y)'"
    tool.write_text(f"#!/bin/sh\necho >> {calls}\n{listing}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert count_gpus() == default_workers() == 2
    assert calls.read_text() == "\n"  # one call
