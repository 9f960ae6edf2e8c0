"""The processor's name, from Linux's file and without it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import hardware as processor
from harness.core.hardware import processor_name


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    processor_name.cache_clear()
    yield
    processor_name.cache_clear()


def test_the_first_processor_of_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "cpuinfo"
    about.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC: 9B14\n\nprocessor\t: 1\nmodel name\t: x\n")
    monkeypatch.setattr(processor, "_ABOUT", about)
    assert processor_name() == "AMD EPYC: 9B14"


@pytest.mark.parametrize("text", [None, "", "Features: fp asimd\n", "model name\t:\n"])
def test_where_nobody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    about = tmp_path / "cpuinfo"
    if text is not None:
        about.write_text(text)
    monkeypatch.setattr(processor, "_ABOUT", about)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert processor_name() == "arm64"
