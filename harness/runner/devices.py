"""The devices of this machine, as runs would find them."""

from __future__ import annotations

import contextlib
from typing import Final

from harness.config.run import Budget, TrainConfig

_NAMES: Final = ("cuda", "mps", "cpu")  # in the order in which `auto` takes them


def available_devices() -> tuple[str, ...]:
    """The names of the devices, the one that `auto` takes first; imports torch."""
    from harness.training.devices import DeviceError, resolve_device

    found = []
    for name in _NAMES:
        with contextlib.suppress(DeviceError):
            resolve_device(TrainConfig(budget=Budget(steps=1), batch_size=1, device=name))
            found.append(name)
    return tuple(found)
