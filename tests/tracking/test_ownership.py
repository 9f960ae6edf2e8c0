"""One process at a time runs a sweep."""

from __future__ import annotations

import os
import socket
import time

import psutil

from harness.core.outcomes import Outcome
from harness.tracking import (
    Tracker,
)
from harness.tracking.ownership import OWNER_TIMEOUT_SECONDS
from harness.tracking.store import SweepBusy
from stored_runs import Store, sweep_info


def test_one_process_at_a_time_owns_a_sweep(store: Store) -> None:
    tracker = Tracker("held", store.uri)
    parent = tracker.open_sweep(sweep_info("held"))
    assert tracker.heartbeat(parent) is None
    alive = psutil.Process(os.getppid())
    here = f"{socket.gethostname()}:{alive.pid}:{alive.create_time()}"
    now = time.time_ns() // 1_000_000

    def held_by(process: str, beat: int) -> str | None:
        tracker.tag(parent, process=process, beat=str(beat))
        try:
            assert Tracker("held", store.uri).open_sweep(sweep_info("held")) == parent
        except SweepBusy as error:
            return str(error)
        return None

    assert held_by(here, now) == f"held is being run already, by process {here}; wait for it or stop it"
    assert held_by(here, 0) is not None  # a process of this machine is looked for, and there it is
    assert held_by(f"{socket.gethostname()}:{alive.pid}:17.00", now) is None  # its number is another's now
    elsewhere = "another-machine:17:1000.00"
    assert held_by(elsewhere, now) is not None
    assert held_by(elsewhere, now - 1000 * OWNER_TIMEOUT_SECONDS - 1) is None  # not a word for minutes
    tracker.tag(parent, process=elsewhere)
    assert tracker.heartbeat(parent) == elsewhere  # which the first one hears, and leaves it
    tracker.close_sweep(parent, Outcome.INTERRUPTED)
    assert held_by(elsewhere, now) is None  # it ended
