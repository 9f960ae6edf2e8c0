"""The energy that this machine's processors and NVIDIA GPUs use, from their own counters where those can be read.

CPU: the packages of Linux's powercap (RAPL), which many systems let root read only; without memory, disks and fans.
GPU: NVML's counter, of Volta and later. Both count what every process of the machine uses.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Energy = Mapping[str, tuple[float, float]]  # CPU or GPU → joules, and the seconds in which they were used

POWERCAP: Final = Path("/sys/class/powercap")
CPU: Final = "CPU"
GPU: Final = "GPU"
KINDS: Final = (CPU, GPU)

_WATT_HOUR: Final = 3600.0  # joules
_POLL_SECONDS: Final = 20.0  # a package of 400 W takes more than two minutes to wrap its counter of 65 kJ


@dataclass(frozen=True)
class Counter:
    """A counter of joules that only grows, apart from a wrap-around.

    Attributes:
        kind: CPU or GPU.
        read: its value in joules; raises OSError if it cannot be read.
        limit: joules at which it begins at 0 again; None: never.
    """

    kind: str
    read: Callable[[], float]
    limit: float | None = None


def cpu_counters(folder: Path = POWERCAP) -> Iterator[Counter]:
    """A counter for each processor package; none where they cannot be read."""
    for zone in sorted(folder.glob("intel-rapl:*")):  # the name on AMD too; parts of a package have a second colon
        try:
            if zone.name.count(":") > 1 or not (zone / "name").read_text("ascii").startswith("package"):
                continue
            _microjoules(zone / "energy_uj")
            limit = _microjoules(zone / "max_energy_range_uj")
        except (OSError, ValueError):
            continue
        yield Counter(CPU, lambda path=zone / "energy_uj": _microjoules(path), limit)  # type: ignore[misc]


def _microjoules(path: Path) -> float:
    """The number in a file, in joules."""
    return int(path.read_text("ascii")) / 1e6


def gpu_counters() -> Iterator[Counter]:
    """A counter for each NVIDIA GPU of the machine; none without a driver or if this process may see only some GPUs."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # its numbers need not be NVML's, and others use the rest
        return
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return
    except (OSError, AttributeError):
        return
    for index in range(count.value):
        device = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
            continue
        counter = Counter(GPU, lambda device=device: _millijoules(nvml, device))  # type: ignore[misc]
        try:
            counter.read()
        except OSError:
            continue
        yield counter


def _millijoules(nvml: ctypes.CDLL, device: ctypes.c_void_p) -> float:
    """What a GPU has used since its driver was loaded, in joules."""
    used = ctypes.c_ulonglong()
    if code := nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(used)):
        raise OSError(code, "NVML does not tell the energy of this GPU")
    return used.value / 1e3


class EnergyMeter:
    """Adds up, in a thread, what the counters count while it is entered.

    If a counter fails, its whole kind is left out: a part of the energy would pass for all of it.

    Args:
        counters: None: all that can be read here.
        poll_seconds: time between two readings, in which no counter may wrap around twice.
    """

    def __init__(self, counters: list[Counter] | None = None, poll_seconds: float = _POLL_SECONDS) -> None:
        self._counters = [*cpu_counters(), *gpu_counters()] if counters is None else counters
        self._poll_seconds = poll_seconds
        self._last: dict[Counter, float] = {}
        self._used: dict[Counter, float] = {}
        self._failed: set[str] = set()  # kinds
        self._seconds = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="energy", daemon=True)

    def __enter__(self) -> EnergyMeter:
        self._began = time.monotonic()
        self.update()
        if self._last:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            self._ended.set()
            self._thread.join()
            self.update()
        self._seconds = time.monotonic() - self._began

    def _poll(self) -> None:
        while not self._ended.wait(self._poll_seconds):
            self.update()

    def update(self) -> None:
        """Read every counter."""
        for counter in list(self._counters):
            try:
                value = counter.read()
            except (OSError, ValueError):
                value = None
            grown = None if value is None else value - self._last.get(counter, value)
            if grown is not None and grown < 0:
                grown = None if counter.limit is None else grown + counter.limit
            if value is None or grown is None or grown < 0:
                self._counters.remove(counter)
                self._failed.add(counter.kind)
                continue
            self._last[counter] = value
            self._used[counter] = self._used.get(counter, 0.0) + grown

    def used(self) -> Energy:
        """What was used of each kind whose counters could all be read to the end."""
        kinds: dict[str, float] = {}
        for counter, joules in self._used.items():
            kinds[counter.kind] = kinds.get(counter.kind, 0.0) + joules
        return {kind: (joules, self._seconds) for kind, joules in kinds.items() if kind not in self._failed}


def added(a: Energy, b: Energy) -> Energy:
    """The energy of two stretches of time."""
    none = (0.0, 0.0)
    return {
        kind: (a.get(kind, none)[0] + b.get(kind, none)[0], a.get(kind, none)[1] + b.get(kind, none)[1])
        for kind in {**a, **b}
    }


def in_words(energy: Energy) -> tuple[str, list[str], float]:
    """`0.12 kWh`, the kinds that it is of, and for how many seconds they were measured.

    A kind that was measured for a shorter time than another, such as before a resume only, is left out.
    """
    longest = max((seconds for _, seconds in energy.values()), default=0.0)
    kinds = sorted(kind for kind, (_, seconds) in energy.items() if seconds > 0.99 * longest)
    hours = sum(energy[kind][0] for kind in kinds) / _WATT_HOUR
    return (f"{hours / 1000:.3g} kWh" if hours > 100 else f"{hours:.3g} Wh"), kinds, longest
