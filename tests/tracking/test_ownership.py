"""One process at a time runs a sweep."""

from __future__ import annotations

import os
import socket
import time

import psutil

from harness.core.outcomes import Outcome
from harness.tracking import Tracker
from harness.tracking.ownership import OWNER_TIMEOUT_SECONDS
from harness.tracking.store import SweepBusy
from stored_runs import Store, sweep_info


def test_one_process_at_a_time_owns_a_sweep(store: Store) -> None:
    tracker = Tracker("owned", store.uri)
    parent = tracker.open_sweep(sweep_info("owned"))
    assert tracker.heartbeat(parent) is None
    alive = psutil.Process(os.getppid())
    here = f"{socket.gethostname()}:{alive.pid}:{alive.create_time()}"
    now = time.time_ns() // 1_000_000

    def opened_beside(process: str, beat: int) -> str | None:
        """Opens the sweep while `process` is its owner; gives the error's message, or None."""
        tracker.tag(parent, process=process, beat=str(beat))
        try:
            assert Tracker("owned", store.uri).open_sweep(sweep_info("owned")) == parent
        except SweepBusy as error:
            return str(error)
        return None

    assert opened_beside(here, now) == f"owned is already being run by process {here}; wait for it or stop it"
    assert opened_beside(here, 0) is not None  # a local process is looked up: it runs
    assert opened_beside(f"{socket.gethostname()}:{alive.pid}:17.00", now) is None  # its pid was reused
    elsewhere = "another-machine:17:1000.00"
    assert opened_beside(elsewhere, now) is not None
    assert opened_beside(elsewhere, now - 1000 * OWNER_TIMEOUT_SECONDS - 1) is None  # its heartbeat is too old
    tracker.tag(parent, process=elsewhere)
    assert tracker.heartbeat(parent) == elsewhere  # the first process learns that it has lost the sweep
    tracker.close_sweep(parent, Outcome.INTERRUPTED)
    assert opened_beside(elsewhere, now) is None  # the sweep was closed
