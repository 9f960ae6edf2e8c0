"""Every package that the test command installs is pinned, and locked by hashes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from paths import ROOT

OURS = "gpt-experiment-harness"
# Left out of the lock: torch, which has several builds, the packages of its CUDA builds, and one that nothing imports.
NOT_LOCKED = re.compile("torch|triton|nvidia-.*|cuda-.*|future")


def pins(file: str) -> dict[str, str]:
    """Package → version in a file of pins."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / file).read_text("utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def installed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """A package and everything that it requires in this environment."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    yield name
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        environments = [{**default_environment(), "extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in environments):  # type: ignore[arg-type]
            yield from installed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)


def test_every_installed_package_is_pinned() -> None:
    needed = {*installed(OURS, frozenset({"test"}), set()), "llms-from-scratch"} - {OURS}
    pinned = pins("constraints.txt")
    assert {"torch", "transformers", "wrapt"} <= needed
    assert not {name for name in needed if name not in pinned and not NOT_LOCKED.fullmatch(name)}


def test_the_lock_has_the_pinned_versions() -> None:
    pinned, locked = pins("constraints.txt"), pins("requirements.lock")
    assert [name for name in pinned.keys() & locked if pinned[name] != locked[name]] == []
    needed = set(installed(OURS, frozenset({"test"}), set())) - {OURS}
    assert [name for name in needed - locked.keys() if not NOT_LOCKED.fullmatch(name)] == []
    assert not [name for name in locked if NOT_LOCKED.fullmatch(name)]


def test_every_package_of_the_lock_has_hashes() -> None:
    entries = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}$", entry, re.MULTILINE) for entry in entries)
