"""A worker process of a local pool: receives jobs over a pipe and sends their events back.

After SIGTERM, which clusters send before they take a machine back, the worker finishes the current step, saves the
state, reports it and exits. How a job is trained is in `harness.workers.job`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from harness.workers.job import ParentDied
from harness.workers.messages import TERMINAL_SIGNALS, Exiting, Heartbeat, Job, Note, Progress, Started, Stop
from harness.workers.ranks import WorkerRanks

_HEARTBEAT_SECONDS = 1.0  # between two heartbeats
_PIPE_CLOSED = (EOFError, BrokenPipeError, ConnectionResetError)


def run_worker(connection: Connection, index: int, threads: int, ranks: int, own_group: bool) -> None:
    """The main function of a worker process: trains job after job.

    It ends when the parent dies, SIGTERM arrives or another rank fails.

    Args:
        connection: to the parent: receives `Job` and `Stop`, sends events, `Heartbeat` and `Exiting`.
        index: of the worker, which decides on its GPUs.
        threads: CPU threads of each rank.
        ranks: processes that train each job together, this one among them.
        own_group: leave the process group of the parent.
    """
    if own_group:
        os.setpgid(0, 0)
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)  # the pool has blocked them for the start
    channel = _PipeChannel(connection)
    worker = WorkerRanks(ranks, index, threads)
    with contextlib.suppress(ParentDied, *_PIPE_CLOSED):
        while not channel.terminated and not worker.broken:
            message = connection.recv()
            if isinstance(message, Job):
                channel.job = message
                finished = worker.train(message, channel)
                if channel.terminated or worker.broken:
                    connection.send(Exiting())
                connection.send(finished)
                channel.job = None
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            stream.flush()
    os._exit(0)  # skips the interpreter's shutdown, which takes 1.6 s with torch


class _PipeChannel:
    """The `Channel` of this process: the pipe to its parent, and SIGTERM."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.job: Job | None = None  # the running one
        self.terminated = False  # whether SIGTERM arrived during a job
        self._last_heartbeat = time.monotonic()
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        if self.job is None:
            raise SystemExit(128 + signal.SIGTERM)
        self.terminated = True

    def send(self, event: Started | Progress | Note) -> None:
        """Send an event."""
        try:
            self.connection.send(event)
        except _PIPE_CLOSED as error:
            raise ParentDied from error

    def should_stop(self) -> bool:
        """Whether SIGTERM or a `Stop` for this job has arrived, or the parent has died; sends heartbeats."""
        try:
            while not self.terminated and self.connection.poll():
                if self.job is not None and self.connection.recv() == Stop(self.job.id):
                    return True
            if time.monotonic() - self._last_heartbeat > _HEARTBEAT_SECONDS:
                self.connection.send(Heartbeat())
                self._last_heartbeat = time.monotonic()
        except (EOFError, OSError):
            return True
        return self.terminated
