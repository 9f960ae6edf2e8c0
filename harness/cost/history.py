"""Past estimates beside what the sweeps took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from harness.cost.calibration import _read, _write
from harness.data import cache_folder

KEPT_ESTIMATES: Final = 50


@dataclass(frozen=True)
class Estimate:
    """What a sweep was expected to take, and what it took.

    Attributes:
        name: of the sweep.
        identity: of the sweep.
        seconds: expected of all its runs.
        runs: how many that are.
        actual: seconds of `done` runs; None until the sweep has ended.
        done: runs that it trained.
        at: seconds since 1970, of the estimate.
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
        """Seconds a run that were expected, over those that it took, minus 1; None where that is not known."""
        if not self.actual or not self.done or not self.runs:
            return None
        return (self.seconds / self.runs) / (self.actual / self.done) - 1


class Estimates:
    """The last estimates of this machine.

    Args:
        folder: of the cache; see `cache_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = cache_folder(folder) / "estimates.json"

    def all(self) -> list[Estimate]:
        """The oldest first."""
        listed = _read(self.path).get("estimates", [])
        try:
            return [Estimate(**one) for one in listed]
        except TypeError:  # of another version
            return []

    def expect(self, name: str, identity: str, seconds: float, runs: int) -> None:
        """Remember an estimate, in place of an earlier one of the same sweep that has not ended."""
        others = [one for one in self.all() if one.identity != identity or one.actual is not None]
        self._keep([*others, Estimate(name, identity, seconds, runs, at=time.time())])

    def took(self, identity: str, seconds: float, runs: int) -> None:
        """Remember what a sweep took, if there is an estimate of it to compare with."""
        every = self.all()
        open_ones = [place for place, one in enumerate(every) if one.identity == identity and one.actual is None]
        if open_ones and runs:
            every[open_ones[-1]] = Estimate(**{**asdict(every[open_ones[-1]]), "actual": seconds, "done": runs})
            self._keep(every)

    def past(self, count: int = 3) -> list[Estimate]:
        """The last ones whose sweep has ended, the latest first."""
        return [one for one in reversed(self.all()) if one.error is not None][:count]

    def _keep(self, estimates: Sequence[Estimate]) -> None:
        _write(self.path, {"estimates": [asdict(one) for one in estimates[-KEPT_ESTIMATES:]]})
