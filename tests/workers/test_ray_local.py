"""How Ray is started on one machine: the names that Ray would ignore if it did not know them."""

from __future__ import annotations

from pathlib import Path

import ray
from ray._private.node import Node

from harness.workers.ray_local import NOT_NEEDED, SETTINGS, only_needed_processes


def test_this_ray_knows_every_setting() -> None:
    folder = Path(ray.__file__).parent
    known = (folder / "core/src/ray/raylet/raylet").read_bytes()
    for name in SETTINGS.keys() - {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}:
        assert name.encode() in known, name
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in (folder / "_private/ray_constants.py").read_text("utf-8")


def test_processes_are_left_out_inside_the_context_only() -> None:
    before = {name: vars(Node)[name] for name in NOT_NEEDED}
    with only_needed_processes():
        assert all(getattr(Node, name)(None) is None for name in NOT_NEEDED)
    assert {name: vars(Node)[name] for name in NOT_NEEDED} == before
