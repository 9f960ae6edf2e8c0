"""The configuration of one run of a spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.config.load import load_spec
from harness.config.run import RunConfig
from harness.core.text import unknown


def config_of(path: str | Path, arm: str | None = None, settings: Sequence[str] = ()) -> RunConfig:
    """The configuration of an arm with the tuned values as written; see `RunConfig.from_spec`."""
    spec = load_spec(path, settings)
    arms = {arm.name: arm for arm in spec.arms()}
    names = {**{label: arms[name] for name, label in spec.labels.of.items()}, **arms}
    if arm is not None and arm not in names:
        raise ValueError(f"arm: {unknown(arm, arms, 'arm')}")
    return spec.run_config((spec.baseline_arm if arm is None else names[arm]).values)
