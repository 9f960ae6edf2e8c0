"""Which processor this machine has. Python's own `platform.processor` knows it on few systems."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_ABOUT = Path("/proc/cpuinfo")  # Linux only


@cache
def processor_name() -> str:
    """Such as "AMD EPYC 9B14"; where nobody says, the kind of machine, such as "arm64"."""
    try:
        names = [line.partition(":")[2].strip() for line in _ABOUT.read_text().splitlines() if "model name" in line]
    except OSError:
        names = []
    return next(filter(None, names), platform.processor() or platform.machine())
