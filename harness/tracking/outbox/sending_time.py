"""How long sending takes: from it the next plan knows what it costs to record a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class SendingTime:
    """What the outbox's thread has sent, and the seconds that it took.

    Attributes:
        seconds: in all.
        runs: runs that have ended and are completely in MLflow.
        run_seconds: to create runs and to end them, with their files.
        points: of all runs.
    """

    seconds: float = 0.0
    runs: int = 0
    run_seconds: float = 0.0
    points: int = 0

    @contextlib.contextmanager
    def of_run(self) -> Iterator[None]:
        """Add the time of the block to `run_seconds`."""
        began = time.monotonic()
        yield
        self.run_seconds += time.monotonic() - began
