"""A pool of workers on the nodes of a Ray cluster, which come and go as the nodes do.

Ray starts the workers, finds room for them and tells when one has died. Everything else stays as on one machine: the
parent decides what trains next, and a lost run goes to another worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from harness.core.outcomes import Outcome
from harness.workers.messages import Event, Finished, Job, Started
from harness.workers.node_files import NodeFiles
from harness.workers.protocol import NoWorkers
from harness.workers.ray_checkpoint import RETRY_SECONDS
from harness.workers.ray_cluster import LOCAL, connected
from harness.workers.ray_nodes import ClusterNodes, Room
from harness.workers.ray_remote import TAKE_SECONDS, Remote, actor_class
from harness.workers.ray_transfer import CheckpointTransfer, DirectStorage
from harness.workers.ray_worker import Answer

_SUSPENDED_SECONDS: Final = 5.0  # a longer gap between two checks means that this process was suspended
_PENDING: Final = 4  # workers beyond the present room that are asked for: what an autoscaler sees as demand
_CLOSE_SECONDS: Final = 4.0  # for running jobs to save their states


@contextlib.contextmanager
def open_ray_pool(
    address: str,
    cpus: float | None,
    gpus: float | None,
    most: int | None,
    threads: int,
    patience: float,
    ranks: int,
    say: Callable[[str], None],
    files: NodeFiles,
) -> Iterator[RayPool]:
    """Connect to a cluster and open a pool on it; see `connected` and `RayPool`.

    Args:
        address: of the cluster, or `LOCAL` or `AUTO`.
        cpus: of a run; None: one for each thread of each rank.
        gpus: of a run; None: see `RayPool`.
        most, threads, patience, ranks, say, files: see `RayPool`.

    Raises:
        NoWorkers: there is no cluster, or none of its own with room for a run.
    """
    with connected(address), RayPool(cpus or threads * ranks, gpus, most, threads, patience, ranks, say, files) as pool:
        if address == LOCAL and not pool.size:
            raise NoWorkers(f"--ray local: this machine has no {pool.room} for a run")
        yield pool


class RayPool:
    """A `WorkerPool` on the cluster that this process is connected to.

    Args:
        cpus: of a run.
        gpus: of a run; None: one for each rank if the cluster has any, else none.
        most: workers at most; None: as many as fit.
        threads: CPU threads of a worker.
        patience: seconds without a step after which a worker is replaced, or without an answer from its node.
        ranks: processes of a worker, which train each run together.
        say: shows a sentence to the user.
        files: what jobs need on nodes with another disk; the pool closes it.
    """

    def __init__(
        self,
        cpus: float,
        gpus: float | None,
        most: int | None,
        threads: int,
        patience: float,
        ranks: int = 1,
        say: Callable[[str], None] = lambda _: None,
        files: NodeFiles | None = None,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._nodes = ClusterNodes(cpus, gpus, ranks, say)
        self._most = most or math.inf
        self._threads, self._patience, self._ranks = threads, patience, ranks
        self._actor = actor_class(self._nodes.room, threads)
        self._files = files or NodeFiles()
        places = self._files.places
        self._direct = None if places is None else DirectStorage(places, say, patience)
        self._here = ray.get_runtime_context().get_node_id()
        self._workers: list[Remote] = []
        self._waiting: deque[Job] = deque()  # submitted, and given to no worker yet
        self._events: deque[Event] = deque()  # made here, not by a worker
        self._jobs_left = math.inf  # that `prestart` has announced and that have not finished
        self._submissions = itertools.count(1)
        self._last_check = time.monotonic()
        self._closed = False

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def room(self) -> Room:
        """What a run needs of a node."""
        return self._nodes.room

    @property
    def size(self) -> int:
        """Jobs that can train at the same time on the nodes that are there now."""
        return int(min(self._nodes.fit, self._most))

    @property
    def free(self) -> int:
        """Jobs that can be submitted now."""
        busy = sum(worker.job is not None for worker in self._workers)
        return max(0, self.size - busy - len(self._waiting))

    def prestart(self, jobs: int) -> None:
        """Start the workers for this many jobs; an autoscaler learns from it how many are wanted."""
        self._jobs_left = jobs
        self._adjust_workers()

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker, or to the first that is ready. Relative paths become the parent's."""
        self._waiting.append(self._files.prepared(job))
        self._hand_out()

    def stop(self, job: int) -> None:
        """Ask a job to stop after its current step; one that waits for a worker ends at once."""
        for waiting in [one for one in self._waiting if one.id == job]:
            self._waiting.remove(waiting)
            self._events.append(Finished(job, Outcome.INTERRUPTED, "stopped by the sweep"))
        for worker in self._workers:
            if worker.job is not None and worker.job.id == job:
                worker.stopping = True
                worker.actor.stop.remote(job)

    def events(self, timeout: float) -> list[Event]:
        """New events, waiting up to `timeout` seconds for the first.

        Raises:
            NoWorkers: no node is left that can train.
        """
        if self._closed:
            return []
        self._notice_suspension()
        self._nodes.look()
        self._adjust_workers()
        self._ask_again()
        self._hand_out()
        events = list(self._events)
        self._events.clear()
        for worker in self._answered(0.0 if events else timeout):
            events += self._receive(worker)
        for worker in self._workers:
            if worker.transfer is not None and (end := worker.transfer.receive()) is not None:
                events.append(self._end(worker, end))
        return events + self._give_up_frozen()

    def remove_states(self, run: str) -> None:
        """Delete the shared copies of the states of a run, or of all runs of a sweep, in the background."""
        self._files.remove_states(run)

    def pids(self) -> dict[int, int]:
        """Job id → process id of its worker on its node, for running jobs."""
        return {worker.job.id: worker.pid for worker in self._workers if worker.job is not None}

    def close(self) -> None:
        """End all workers; running jobs save their states if they can."""
        closing = [worker.actor.close.remote() for worker in self._workers if worker.job is not None]
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS) if closing else None
        for worker in list(self._workers):
            self._remove(worker)
        self._nodes.close()
        self._files.close()
        self._waiting.clear()
        self._events.clear()
        self._closed = True

    # starting and ending workers -----------------------------------------------------------------------------

    def _adjust_workers(self) -> None:
        """Start the workers that are missing, and end idle ones for which there is nothing left to do."""
        to_do = max(self._jobs_left, sum(worker.job is not None for worker in self._workers) + len(self._waiting), 1)
        wanted = int(min(to_do, self._most, self._nodes.fit + _PENDING))
        for _ in range(len(self._workers), wanted):
            self._start_worker()
        idle = [worker for worker in self._workers if worker.job is None]
        for worker in sorted(idle, key=lambda one: one.ready)[: max(0, len(self._workers) - wanted)]:
            self._remove(worker)

    def _start_worker(self) -> None:
        """Ask Ray for a worker. It is there at once, or when a node has room for it."""
        labels = self._nodes.labels
        worker = Remote()
        self._workers.append(worker)

        def start() -> None:
            made = self._actor.options(label_selector=labels)
            worker.actor = made.remote(str(Path.cwd()), self._threads, self._patience, self._ranks)

        self._nodes.ask(start)

    def _remove(self, worker: Remote) -> None:
        self._workers.remove(worker)

        def kill() -> None:
            if worker.actor is not None:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.kill(worker.actor)

        self._nodes.ask(kill)

    # its workers ---------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give waiting jobs to idle workers that answer."""
        recently = time.monotonic() - 2 * TAKE_SECONDS
        for worker in self._workers:
            if self._waiting and worker.ready and worker.job is None and worker.answered > recently:
                worker.job, worker.stopping = self._waiting.popleft(), False
                worker.submission = next(self._submissions)
                self._send_job(worker)

    def _send_job(self, worker: Remote) -> None:
        """Send a worker its job. On the parent's own node, the data is there already."""
        assert worker.job is not None
        tokens = {} if worker.node_id == self._here else self._files.tokens(worker.job)
        worker.actor.submit.remote(worker.submission, worker.job, tokens)

    def _answered(self, timeout: float) -> list[Remote]:
        """The workers whose answers have arrived, waiting up to `timeout` seconds for the first."""
        by_call = {worker.call: worker for worker in self._workers if worker.call is not None}
        if not by_call:
            time.sleep(min(timeout, RETRY_SECONDS))
            return []
        transfers = [worker.transfer for worker in self._workers if worker.transfer is not None]
        parts = [transfer.call for transfer in transfers if transfer.call is not None]
        found, _ = self._ray.wait([*by_call, *parts], timeout=timeout)
        if found:
            found, _ = self._ray.wait(list(by_call), num_returns=len(by_call), timeout=0)
        return [by_call[call] for call in found]

    def _receive(self, worker: Remote) -> list[Event]:
        """Handle the answer of a worker; an error instead of one may be its end."""
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(worker.call)
        except errors.ActorUnavailableError:  # its node is frozen, or the network is: ask again until patience ends
            worker.call, worker.ask_at = None, time.monotonic() + RETRY_SECONDS
            return []
        except errors.RayError as error:
            if worker.ready:
                return self._lose(worker, self._how_it_died(worker))
            self._remove(worker)
            self._nodes.start_failed(error)
            return []
        worker.answered = time.monotonic()
        if isinstance(answer, Answer):
            return self._take(worker, answer)
        self._welcome(worker, answer)
        return []

    def _welcome(self, worker: Remote, hello: Mapping[str, str]) -> None:
        """Let a new worker take jobs, if its node is admitted."""
        worker.node, worker.node_id, worker.pid = hello["node"], hello["node_id"], int(hello["pid"])
        if self._nodes.admits(hello):
            worker.ready = True
            worker.ask()
        else:
            self._remove(worker)

    def _take(self, worker: Remote, answer: Answer) -> list[Event]:
        """The events of an answer; what the worker has not heard of is sent again."""
        if worker.job is not None and answer.submission < worker.submission:
            self._send_job(worker)
        if worker.job is not None and worker.stopping:
            worker.actor.stop.remote(worker.job.id)
        events = worker.incoming.accept(answer.events)
        for number, event in enumerate(events):
            if isinstance(event, Started):
                events[number] = dataclasses.replace(event, node=worker.node)
            elif isinstance(event, Finished) and event.checkpoint:  # the last event
                assert worker.job is not None
                node, there = (worker.node, worker.node_id), worker.node_id != self._here
                direct = self._direct if there else None
                worker.transfer = CheckpointTransfer(worker.actor, worker.job, event, *node, direct)
                events.remove(event)
            elif isinstance(event, Finished):
                self._end(worker, event)
        worker.ask()
        return events

    def _end(self, worker: Remote, end: Finished) -> Finished:
        """The job of a worker has ended."""
        worker.job = worker.transfer = None
        self._jobs_left -= not end.lost
        return end

    def _ask_again(self) -> None:
        """Ask the workers that have just been started, and again those that were unavailable."""
        for worker in self._workers:
            if worker.actor is not None and worker.call is None and time.monotonic() > worker.ask_at:
                worker.ask()

    def _give_up_frozen(self) -> list[Event]:
        """Remove the workers that have not answered for longer than `patience`."""
        events: list[Event] = []
        for worker in [worker for worker in self._workers if worker.ready]:
            silence = time.monotonic() - worker.answered
            if silence > self._patience + TAKE_SECONDS:
                events += self._lose(worker, f"no answer from node {worker.node} for {silence:.0f} s")
        return events

    def _notice_suspension(self) -> None:
        """If this process was suspended, perhaps the others were too: give all of them time again."""
        now = time.monotonic()
        if now - self._last_check > _SUSPENDED_SECONDS:
            self._nodes.was_suspended()
            for worker in self._workers:
                worker.answered = now
        self._last_check = now

    def _lose(self, worker: Remote, reason: str) -> list[Event]:
        """Remove a worker; its job, if it has one, is lost."""
        self._remove(worker)
        if worker.transfer is not None:
            worker.transfer.discard()
        return [Finished(worker.job.id, Outcome.FAILED, reason, lost=True)] if worker.job is not None else []

    def _how_it_died(self, worker: Remote) -> str:
        return (
            f"worker process {worker.pid} on node {worker.node} ended"
            if self._nodes.has(worker.node_id)
            else f"node {worker.node} has left the cluster"
        )
