"""SHA-256 of configurations and of the code that decides a run's numbers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

# Fields that change no number of a run: no part of what it is known by, and nothing to compare or to tune.
WITHOUT_EFFECT: Final = ("train.checkpoint_every",)


def decisive(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain sections (`train`, `data`, …) without the fields that change no number of a run."""
    kept = dict(plain)
    for path in WITHOUT_EFFECT:
        section, _, name = path.partition(".")
        kept[section] = {key: value for key, value in kept[section].items() if key != name}
    return kept


def digest_of(plain: object) -> str:
    """SHA-256 (hex) of a JSON value, independent of key order and white space."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# Files that decide a run's numbers.
_TRAINING: Final = (
    *("config/run.py", "core/hardware.py", "core/metrics.py", "core/rng.py", "data/*.py"),
    *(f"model/{name}.py" for name in ("cross_entropy", "dispatch", "dropout", "embedding", "gpt", "init")),
    *(f"training/{name}.py" for name in ("budget", "devices", "errors", "evaluation", "optimizers", "resume")),
    *(f"training/{name}.py" for name in ("schedule", "step", "trainer")),
)


@functools.cache
def training_code() -> str:
    """SHA-256 of the source files that a run's numbers come from, so that no sweep mixes runs of two codes."""
    package = Path(__file__).parents[1]
    files = [path for name in _TRAINING for path in sorted(package.glob(name))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
