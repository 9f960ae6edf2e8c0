"""A pool of workers on the nodes of a Ray cluster, which come and go as the nodes do.

Ray starts the workers, finds room for them and tells when one has died. Everything else stays as on one machine: the
parent decides what trains next, and a lost run goes to another worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.core.outcomes import Outcome
from harness.core.text import SAME_COMMAND
from harness.workers.environment import COMPILER_CACHE, worker_environment
from harness.workers.messages import Event, Finished, Job, Started
from harness.workers.node_files import NodeFiles
from harness.workers.numbered import Incoming
from harness.workers.protocol import NoWorkers
from harness.workers.ray_checkpoint import RETRY_SECONDS, CheckpointFetch
from harness.workers.ray_cluster import LOCAL, Head, HeadLost, Room, connected
from harness.workers.ray_worker import Answer, RayWorker
from harness.workers.software import differences

TAKE: Final = "take"  # the concurrency group of the call that waits for events
_HEAD_SECONDS: Final = 40.0  # without an answer from the cluster's head; after 60 Ray ends the process
_TAKE_SECONDS: Final = 2.0  # how long a worker waits for an event before it answers
_TAKE_EVENTS: Final = 500  # in one answer
_SUSPENDED_SECONDS: Final = 5.0  # a longer gap between two checks means that this process was suspended
_STARTS_THAT_FAIL: Final = 3  # in a row, after which the sweep stops
_PENDING: Final = 4  # workers beyond the present room that are asked for: what an autoscaler sees as demand
_LEAVE_PROCESS: Final = {"RAY_kill_child_processes_on_worker_exit": "0"}  # it ends itself, after it has saved its state
_CLOSE_SECONDS: Final = 4.0  # for running jobs to save their states


@dataclass(eq=False)
class _Worker:
    actor: Any = None  # None until Ray has been asked for it
    call: Any = None  # the answer that is on its way; None after a failure, until `ask_at`
    node: str = ""  # name of its node
    node_id: str = ""
    pid: int = 0  # on its node
    ready: bool = False  # whether it has said hello with the right versions
    job: Job | None = None
    submission: int = 0  # number of the last job that it was given
    stopping: bool = False
    incoming: Incoming = field(default_factory=Incoming)
    answered: float = 0.0  # when it last answered, on `time.monotonic`
    ask_at: float = 0.0
    fetch: CheckpointFetch | None = None  # of the checkpoint of its job, which has finished


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
        self._head = Head()
        if gpus is None:
            gpus = ranks if any(node["Resources"].get("GPU") for node in self._head.nodes) else 0.0
        self.room = Room(cpus, gpus)
        self._most, self._say = most or math.inf, say
        self._threads, self._patience, self._ranks = threads, patience, ranks
        self._actor = self._actor_class()
        self._files = files or NodeFiles()
        self._here = ray.get_runtime_context().get_node_id()
        self._workers: list[_Worker] = []
        self._waiting: deque[Job] = deque()  # submitted, and given to no worker yet
        self._events: deque[Event] = deque()  # made here, not by a worker
        self._jobs_left = math.inf  # that `prestart` has announced and that have not finished
        self._submissions = itertools.count(1)
        self._refused: dict[str, str] = {}  # node id → why it gets no run
        self._starts_failed = 0
        self._room_now = 0
        self._last_check = time.monotonic()
        self._said_no_room = self._closed = False
        self._look_at_nodes()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Jobs that can train at the same time on the nodes that are there now."""
        return int(min(self._room_now, self._most))

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
        self._look_at_nodes()
        self._adjust_workers()
        self._ask_again()
        self._hand_out()
        events = list(self._events)
        self._events.clear()
        for worker in self._answered(0.0 if events else timeout):
            events += self._receive(worker)
        for worker in self._workers:
            if worker.fetch is not None and (end := worker.fetch.receive()) is not None:
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
        self._head.close()
        self._files.close()
        self._waiting.clear()
        self._events.clear()
        self._closed = True

    # the cluster ---------------------------------------------------------------------------------------------

    def _look_at_nodes(self) -> None:
        """Learn what the cluster has room for now."""
        if self._head.silence > _HEAD_SECONDS:
            resume = f"{SAME_COMMAND} when it runs again"
            raise HeadLost(f"the head of the Ray cluster has not answered for {_HEAD_SECONDS:.0f} s; {resume}")
        nodes = self._head.nodes
        fitting = {node["NodeID"]: fits for node in nodes if (fits := self.room.on(node["Resources"]))}
        self._room_now = sum(fits for node_id, fits in fitting.items() if node_id not in self._refused)
        if fitting and not self._room_now:
            raise NoWorkers(f"no node is left to train on: {self._refused[next(iter(fitting))]}")
        if not fitting and not self._said_no_room:
            self._say(f"no node of the cluster has {self.room} for a run; runs wait for one")
        self._said_no_room = not fitting

    def _adjust_workers(self) -> None:
        """Start the workers that are missing, and end idle ones for which there is nothing left to do."""
        to_do = max(self._jobs_left, sum(worker.job is not None for worker in self._workers) + len(self._waiting), 1)
        wanted = int(min(to_do, self._most, self._room_now + _PENDING))
        for _ in range(len(self._workers), wanted):
            self._start_worker()
        idle = [worker for worker in self._workers if worker.job is None]
        for worker in sorted(idle, key=lambda one: one.ready)[: max(0, len(self._workers) - wanted)]:
            self._remove(worker)

    def _start_worker(self) -> None:
        """Ask Ray for a worker. It is there at once, or when a node has room for it."""
        others = {"ray.io/node-id": f"!in({','.join(self._refused)})"} if self._refused else None
        worker = _Worker()
        self._workers.append(worker)

        def start() -> None:
            made = self._actor.options(label_selector=others)
            worker.actor = made.remote(str(Path.cwd()), self._threads, self._patience, self._ranks)

        self._head.ask(start)

    def _actor_class(self) -> Any:
        """The worker's class for Ray, with what a worker needs of a node and the environment of its process."""
        variables = {name: os.environ.get(name, value) for name, value in worker_environment(self._threads).items()}
        del variables[COMPILER_CACHE]  # each node has its own
        variables |= _LEAVE_PROCESS
        if not self.room.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from a worker that asked for none
        return self._ray.remote(
            num_cpus=self.room.cpus,
            num_gpus=self.room.gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={TAKE: 1},
            runtime_env={"env_vars": variables},
        )(RayWorker)

    def _refuse(self, node_ids: Iterable[str], why: str) -> None:
        """Start no worker on these nodes again, and say so once."""
        new = set(node_ids) - set(self._refused)
        self._refused |= dict.fromkeys(new, why)
        if new:
            self._say(why)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)

        def kill() -> None:
            if worker.actor is not None:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.kill(worker.actor)

        self._head.ask(kill)

    # its workers ---------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give waiting jobs to idle workers that answer."""
        recently = time.monotonic() - 2 * _TAKE_SECONDS
        for worker in self._workers:
            if self._waiting and worker.ready and worker.job is None and worker.answered > recently:
                worker.job, worker.stopping = self._waiting.popleft(), False
                worker.submission = next(self._submissions)
                self._send_job(worker)

    def _send_job(self, worker: _Worker) -> None:
        """Send a worker its job. On the parent's own node, the data is there already."""
        assert worker.job is not None
        tokens = {} if worker.node_id == self._here else self._files.tokens(worker.job)
        worker.actor.submit.remote(worker.submission, worker.job, tokens)

    def _answered(self, timeout: float) -> list[_Worker]:
        """The workers whose answers have arrived, waiting up to `timeout` seconds for the first."""
        by_call = {worker.call: worker for worker in self._workers if worker.call is not None}
        if not by_call:
            time.sleep(min(timeout, RETRY_SECONDS))
            return []
        fetches = [worker.fetch for worker in self._workers if worker.fetch is not None]
        pieces = [fetch.call for fetch in fetches if fetch.call is not None]
        found, _ = self._ray.wait([*by_call, *pieces], timeout=timeout)
        if found:
            found, _ = self._ray.wait(list(by_call), num_returns=len(by_call), timeout=0)
        return [by_call[call] for call in found]

    def _receive(self, worker: _Worker) -> list[Event]:
        """Handle the answer of a worker; an error instead of one may be its end."""
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(worker.call)
        except errors.ActorUnavailableError:  # its node is frozen, or the network is: ask again until patience ends
            worker.call, worker.ask_at = None, time.monotonic() + RETRY_SECONDS
            return []
        except errors.RayError as error:
            return self._lose(worker, self._how_it_died(worker)) if worker.ready else self._start_failed(worker, error)
        worker.answered = time.monotonic()
        if isinstance(answer, Answer):
            return self._take(worker, answer)
        self._welcome(worker, answer)
        return []

    def _welcome(self, worker: _Worker, hello: Mapping[str, str]) -> None:
        """Compare the versions of a new worker."""
        worker.node, worker.node_id, worker.pid = hello["node"], hello["node_id"], int(hello["pid"])
        if different := differences(hello):
            self._refuse(
                [worker.node_id], f"node {worker.node} gets no run, as it has {different}; install the same there"
            )
            self._remove(worker)
            return
        self._starts_failed, worker.ready = 0, True
        self._ask(worker)

    def _start_failed(self, worker: _Worker, error: Exception) -> list[Event]:
        """Remove a worker that did not come up; one that cannot import the harness rules out its node."""
        self._remove(worker)
        address = getattr(error, "ip", None)
        if "ImportError" in str(error) or "ModuleNotFoundError" in str(error):
            there = [node["NodeID"] for node in self._head.nodes if node["NodeManagerAddress"] == address]
            self._refuse(there, f"node {address} gets no run, as the harness is not installed there; install it")
            return []
        if isinstance(error, self._ray.exceptions.RayTaskError) or "worker process has died" in str(error):
            self._starts_failed += 1  # others were never started, as their node has left
        if self._starts_failed >= _STARTS_THAT_FAIL:
            raise NoWorkers(f"no worker starts on the cluster: {str(error).strip().splitlines()[-1]}")
        return []

    def _take(self, worker: _Worker, answer: Answer) -> list[Event]:
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
                worker.fetch = CheckpointFetch(worker.actor, worker.job, event)
                events.remove(event)
            elif isinstance(event, Finished):
                self._end(worker, event)
        self._ask(worker)
        return events

    def _end(self, worker: _Worker, end: Finished) -> Finished:
        """The job of a worker has ended."""
        worker.job = worker.fetch = None
        self._jobs_left -= not end.lost
        return end

    def _ask(self, worker: _Worker) -> None:
        """Ask a worker for its next events, or for its versions if it is new."""
        if worker.ready:
            take = worker.actor.take.options(concurrency_group=TAKE)
            worker.call = take.remote(worker.incoming.last, _TAKE_EVENTS, _TAKE_SECONDS)
        else:
            worker.call = worker.actor.hello.remote()

    def _ask_again(self) -> None:
        """Ask the workers that have just been started, and again those that were unavailable."""
        for worker in self._workers:
            if worker.actor is not None and worker.call is None and time.monotonic() > worker.ask_at:
                self._ask(worker)

    def _give_up_frozen(self) -> list[Event]:
        """Remove the workers that have not answered for longer than `patience`."""
        events: list[Event] = []
        for worker in [worker for worker in self._workers if worker.ready]:
            silence = time.monotonic() - worker.answered
            if silence > self._patience + _TAKE_SECONDS:
                events += self._lose(worker, f"no answer from node {worker.node} for {silence:.0f} s")
        return events

    def _notice_suspension(self) -> None:
        """If this process was suspended, perhaps the others were too: give all of them time again."""
        now = time.monotonic()
        if now - self._last_check > _SUSPENDED_SECONDS:
            self._head.answered = now
            for worker in self._workers:
                worker.answered = now
        self._last_check = now

    def _lose(self, worker: _Worker, reason: str) -> list[Event]:
        """Remove a worker; its job, if it has one, is lost."""
        self._remove(worker)
        if worker.fetch is not None:
            worker.fetch.discard()
        return [Finished(worker.job.id, Outcome.FAILED, reason, lost=True)] if worker.job is not None else []

    def _how_it_died(self, worker: _Worker) -> str:
        alive = any(node["NodeID"] == worker.node_id for node in self._head.nodes)
        return (
            f"worker process {worker.pid} on node {worker.node} ended"
            if alive
            else f"node {worker.node} has left the cluster"
        )
