"""The versions that a worker on another node must have, so that its numbers and messages are those of the parent."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from harness.config.fingerprint import code_digest, digest_of, training_code
from harness.core.version import VERSION


@functools.cache
def software() -> Mapping[str, str]:
    """Name → version. The harness's version includes a hash of the code that trains and of the workers' messages."""
    workers = code_digest(path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))
    return {
        "harness": f"{VERSION}-{digest_of([training_code(), workers])[:8]}",
        "Python": platform.python_version(),
        "torch": version("torch").partition("+")[0],  # a build for GPUs is the same version
    }


def differences(there: Mapping[str, str]) -> str:
    """`torch 2.12.0 (here 2.13.0)`; empty if a node has the software of this process."""
    here = software()
    return ", ".join(
        f"{name} {there.get(name, 'none')} (here {here[name]})" for name in here if there.get(name) != here[name]
    )
