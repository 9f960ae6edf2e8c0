"""One process at a time runs a sweep."""

from __future__ import annotations

import os
import socket
import time

import psutil
import pytest

from harness.core.outcomes import Outcome
from harness.tracking import Tracker, find_sweep
from harness.tracking.checksums import with_checksums
from harness.tracking.ownership import OWNER_TIMEOUT_SECONDS
from harness.tracking.provenance import process_name
from harness.tracking.store import SweepBusy
from stored_runs import Store, sweep_info


@pytest.mark.slow
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
    assert opened_beside(elsewhere, now + 10**12) is not None  # a heartbeat from the future counts as now
    assert opened_beside(elsewhere, 10**40) is None  # no time
    ours = Tracker("owned", store.uri)
    assert ours.open_sweep(sweep_info("owned")) == parent
    tracker.tag(parent, process=elsewhere)
    assert ours.heartbeat(parent) is None  # only the name was edited
    assert store.client.get_run(parent).data.tags["harness.process"] == process_name()
    tracker.tag(parent, process=elsewhere, opened=str(now + 1))
    assert ours.heartbeat(parent) == elsewhere  # the first process learns that it has lost the sweep
    tracker.close_sweep(parent, Outcome.INTERRUPTED)
    assert opened_beside(elsewhere, now) is None  # the sweep was closed


def test_a_sweep_is_taken_over_on_request(store: Store) -> None:
    first, second = Tracker("owned", store.uri), Tracker("owned", store.uri)
    info = sweep_info("owned")
    assert first.take_over(info.identity) == ""  # there is nothing
    parent = first.open_sweep(info)
    future = time.time_ns() // 1_000_000 + 10**12
    first.tag(parent, process="another-machine:17:1000.00", beat=str(future))
    with pytest.raises(
        SweepBusy, match=r"whose last heartbeat is in the future: .*; if it no longer runs, .*--take-over"
    ):
        second.open_sweep(info)
    assert second.take_over(info.identity).startswith("process another-machine:17:1000.00, whose last heartbeat is in")
    assert second.open_sweep(info) == parent
    assert second.heartbeat(parent) is None


def test_of_two_sweeps_of_one_identity_the_first_is_resumed_and_both_are_named(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    tracker, info = Tracker("owned", store.uri), sweep_info("owned")
    parent = tracker.open_sweep(info)
    tags = {**store.client.get_run(parent).data.tags, "harness.opened": str(time.time_ns() // 1_000_000 + 60_000)}
    forged = store.client.create_run(tracker.experiment.id, tags=with_checksums(tags), run_name="owned").info.run_id
    found = find_sweep("owned", info.identity, store.uri)
    assert found is not None and found.run_id == parent
    assert Tracker("owned", store.uri).open_sweep(info) == parent
    assert parent in caplog.text and forged in caplog.text
