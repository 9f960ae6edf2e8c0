"""Energy: counters that wrap around, cannot be read or fail, sums over sessions, and the words of the report."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from harness.core.energy import CPU, GPU, Counter, EnergyMeter, added, cpu_counters, gpu_counters, in_words
from harness.tracking.schema import parse_energy


def zone(folder: Path, name: str, label: str, microjoules: int, limit: int = 1_000_000) -> Path:
    """A zone of powercap."""
    path = folder / name
    path.mkdir()
    (path / "name").write_text(f"{label}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{limit}\n")
    return path / "energy_uj"


def test_packages_are_counted_over_a_wrap_around_and_their_parts_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 0, 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 100_000)
    zone(tmp_path, "intel-rapl:2", "psys", 100_000)
    with EnergyMeter(list(cpu_counters(tmp_path)), poll_seconds=1e6) as meter:
        for value in (950_000, 150_000, 250_000):  # 0.05 J, then 0.2 J over the wrap-around, then 0.1 J
            first.write_text(str(value))
            meter.update()
        second.write_text("4000000")
    [(kind, (joules, seconds))] = meter.used().items()
    assert kind == CPU and joules == pytest.approx(0.35 + 4.0) and seconds > 0


def test_what_cannot_be_read_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1).unlink()  # as for a user who may not read it
    assert list(cpu_counters(tmp_path)) == list(cpu_counters(tmp_path / "none")) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # others may use the rest
    assert list(gpu_counters()) == []
    with EnergyMeter([]) as meter:
        pass
    assert meter.used() == {}


class Nvml:
    """A stand-in for NVML with two GPUs, of which the second is too old to count energy."""

    millijoules = 5000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:
        device._obj.value = 100 + index
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, used: Any) -> int:
        used._obj.value = self.millijoules
        return 0 if device.value == 100 else 3  # not supported


def test_gpus_are_counted_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Nvml())
    [counter] = gpu_counters()
    assert (counter.kind, counter.read(), counter.limit) == (GPU, 5.0, None)


def test_a_counter_that_fails_or_goes_back_takes_its_kind_with_it() -> None:
    values = {"a": [0.0, 5.0, 9.0], "b": [0.0, 2.0], "c": [7.0, 3.0, 4.0], "d": [1.0, 2.0, 4.0]}

    def counter(kind: str, name: str) -> Counter:
        def read() -> float:
            if not values[name]:
                raise OSError("gone")
            return values[name].pop(0)

        return Counter(kind, read)

    with EnergyMeter([counter(CPU, "a"), counter(CPU, "b"), counter(GPU, "d")], poll_seconds=1e6) as meter:
        meter.update()
    assert {kind: joules for kind, (joules, _) in meter.used().items()} == {GPU: 3.0}
    with EnergyMeter([counter(GPU, "c")], poll_seconds=1e6) as meter:  # a driver that was loaded again
        meter.update()
    assert meter.used() == {}


def test_a_thread_reads_before_a_counter_can_wrap_around_twice() -> None:
    steps = iter(range(10**9))
    with EnergyMeter([Counter(GPU, lambda: float(next(steps)))], poll_seconds=0.001) as meter:
        while meter.used()[GPU][0] < 5:
            pass
    assert meter.used()[GPU][0] >= 5


def test_sessions_add_up_and_a_kind_that_was_measured_for_a_shorter_time_is_not_told() -> None:
    both = {CPU: (900.0, 60.0), GPU: (359_100.0, 60.0)}
    assert added(both, {GPU: (3_600_000.0, 40.0)}) == {CPU: (900.0, 60.0), GPU: (3_959_100.0, 100.0)}
    assert in_words(both) == ("100 Wh", [CPU, GPU], 60.0)
    assert in_words(added(both, {GPU: (3_600_000.0, 40.0)})) == ("1.1 kWh", [GPU], 100.0)


@pytest.mark.parametrize(
    "text", ["", "x", "3", "[]", '{"CPU": 3}', '{"CPU": [-1, 2]}', '{"CPU": [1, 0]}', '{"<b>": [1, 2]}', '{"CPU": [1]}']
)
def test_a_tag_that_somebody_edited_is_no_energy(text: str) -> None:
    assert parse_energy(text) == {}
    assert parse_energy('{"CPU": [1, 2.5]}') == {CPU: (1.0, 2.5)}
