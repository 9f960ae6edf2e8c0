"""Past time estimates of sweeps, and their actual times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from harness.cost.calibration import is_amount, read_json, write_json
from harness.data import cache_folder

KEPT_ESTIMATES: Final = 50


@dataclass(frozen=True)
class Estimate:
    """The estimated and the actual time of a sweep.

    Attributes:
        name, identity: of the sweep.
        seconds: estimate for all its runs.
        runs: number of these runs.
        actual: seconds that `done` runs took; None until the sweep has finished.
        done: runs that it trained.
        at: time of the estimate, seconds since 1970.
    """

    name: str
    identity: str
    seconds: float
    runs: int
    actual: float | None = None
    done: int = 0
    at: float = 0.0

    @property
    def error(self) -> float | None:
        """Estimated over actual seconds per run, minus 1; None if the sweep has not finished."""
        if not self.actual or not self.done or not self.runs:
            return None
        return (self.seconds / self.runs) / (self.actual / self.done) - 1


class Estimates:
    """The last estimates on this machine, in a file of the cache.

    Args:
        folder: of the cache; see `cache_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = cache_folder(folder) / "estimates.json"

    def all(self) -> list[Estimate]:
        """All estimates, the oldest first."""
        listed = read_json(self.path).get("estimates", [])
        return [Estimate(**one) for one in (listed if isinstance(listed, list) else []) if _is_estimate(one)]

    def add(self, name: str, identity: str, seconds: float, runs: int) -> None:
        """Store an estimate; it replaces an earlier one of the same sweep that has no actual time."""
        others = [one for one in self.all() if one.identity != identity or one.actual is not None]
        self._store([*others, Estimate(name, identity, seconds, runs, at=time.time())])

    def add_actual(self, identity: str, seconds: float, runs: int) -> None:
        """Store the actual time of a sweep, if there is an estimate of it without one."""
        every = self.all()
        open_ones = [place for place, one in enumerate(every) if one.identity == identity and one.actual is None]
        if open_ones and runs:
            every[open_ones[-1]] = Estimate(**{**asdict(every[open_ones[-1]]), "actual": seconds, "done": runs})
            self._store(every)

    def finished(self, count: int = 3) -> list[Estimate]:
        """The last estimates of finished sweeps, the latest first."""
        return [one for one in reversed(self.all()) if one.error is not None][:count]

    def _store(self, estimates: Sequence[Estimate]) -> None:
        write_json(self.path, {"estimates": [asdict(one) for one in estimates[-KEPT_ESTIMATES:]]})


def _is_estimate(found: object) -> bool:
    """Whether a JSON value is a stored estimate of this version."""
    if not isinstance(found, dict) or found.keys() != {field.name for field in fields(Estimate)}:
        return False
    texts, actual = (found["name"], found["identity"]), found["actual"]
    numbers = [found[name] for name in ("seconds", "runs", "done", "at")] + ([] if actual is None else [actual])
    return all(isinstance(text, str) for text in texts) and all(map(is_amount, numbers))
