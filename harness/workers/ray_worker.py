"""A worker on a node of a Ray cluster: an actor with one local worker process of its own.

The actor only passes messages on. So a run trains in the same kind of process as on one machine, with the same
numbers, and neither Ray nor a slow parent holds up a step. When the actor dies, its process notices the closed pipe,
saves the state and ends.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.core.outcomes import Outcome
from harness.core.paths import WEIGHTS
from harness.data import CorpusError
from harness.data.encoded import receive_encoded
from harness.workers.checkpoints import read_piece
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Finished, Job
from harness.workers.node_files import Tokens, read_tokens
from harness.workers.node_job import LAST_COPY_SECONDS, RunFolder
from harness.workers.numbered import Numbered, Outgoing
from harness.workers.shared import brief
from harness.workers.software import software
from harness.workers.waitable_queue import WaitableQueue

if TYPE_CHECKING:
    from harness.tracking.direct import Place, Stored

_CHECK_SECONDS: Final = 1.0  # between two looks for a process without progress


@dataclass(frozen=True)
class _Order:
    job: Job
    tokens: Tokens


@dataclass(frozen=True)
class Answer:
    """What a worker answers to `take`.

    Attributes:
        submission: number of the last submission that it has.
        events: those that were asked for.
    """

    submission: int
    events: Sequence[Numbered]


class RayWorker:
    """The actor. Calls are repeated after a network failure, so all of them may come twice.

    Args:
        folder: working directory of the parent, for relative paths in a spec; used where it exists.
        threads, patience, ranks: see `LocalPool`.
    """

    def __init__(self, folder: str, threads: int, patience: float, ranks: int) -> None:
        with contextlib.suppress(OSError):
            os.chdir(folder)
        sys.modules["__main__"].__file__ = None  # else multiprocessing runs Ray's worker script in the new process
        # Ray kills the process group of an actor that has ended; the worker still has to save its state then.
        self._pool = LocalPool(1, threads, patience, ranks, own_group=True)
        self._outgoing = Outgoing()
        self._orders: WaitableQueue[_Order | int | None] = WaitableQueue()  # a job, one to stop, or the end
        self._folder: RunFolder | None = None  # of the last job
        self._submission = 0
        self._relay = threading.Thread(target=self._run, daemon=True)
        self._relay.start()

    def hello(self) -> Mapping[str, str]:
        """The software on this node, to be compared with the parent's, and where this is."""
        import ray

        context = ray.get_runtime_context()
        return {**software(), "node_id": context.get_node_id(), "node": platform.node(), "pid": str(os.getpid())}

    def submit(self, submission: int, job: Job, tokens: Tokens) -> None:
        """Train a job. The numbers of submissions rise; one that is known already is ignored.

        Args:
            submission: its number.
            job: with what this node needs for it.
            tokens: references to the token files of its data set.
        """
        if submission > self._submission:
            self._submission = submission
            self._orders.put(_Order(job, tokens))

    def stop(self, job: int) -> None:
        """Stop a job after its current step."""
        self._orders.put(job)

    def take(self, after: int, limit: int, wait: float) -> Answer:
        """Events with numbers above `after`; see `Outgoing.take`."""
        events = self._outgoing.take(after, limit, wait)
        return Answer(self._submission, events)

    def read_checkpoint(self, name: str, start: int) -> bytes:
        """A piece of a file of the checkpoint that the last job has left on this node; see `read_piece`."""
        assert self._folder is not None and self._folder.checkpoint is not None
        return read_piece(self._folder.checkpoint, name, start)

    def store_weights(self, place: Place) -> Stored | str:
        """Store the weights of that checkpoint at a place; returns why not if this node cannot."""
        from harness.tracking.direct import store_weights

        assert self._folder is not None and self._folder.checkpoint is not None
        try:
            return store_weights(place, self._folder.checkpoint / WEIGHTS)
        except Exception as error:  # whatever the library of the place raises
            return brief(error)

    def remove_files(self) -> None:
        """Remove what the last job has left on this node: the parent has it."""
        if self._folder is not None:
            self._folder.remove()

    def close(self) -> None:
        """End the process; a running job saves its state."""
        self._orders.put(None)
        self._relay.join()

    def _run(self) -> None:
        """Pass orders and events on. The pool belongs to this thread. An error ends the actor: its job is lost."""
        try:
            self._pool.prestart(1)
            while True:
                for event in self._pool.events(_CHECK_SECONDS, self._orders):
                    self._outgoing.add(event)
                while not self._orders.empty():
                    order = self._orders.get()
                    if order is None:
                        return self._pool.close(LAST_COPY_SECONDS)
                    if isinstance(order, _Order):
                        self._start(order)
                    else:
                        self._pool.stop(order)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _start(self, order: _Order) -> None:
        """Give a job to the process, once its data is on this node."""
        job = order.job
        assert job.away is not None
        try:
            receive_encoded(job.away.data, lambda: read_tokens(order.tokens))
            self._folder = RunFolder(job)
        except (CorpusError, OSError) as error:
            self._outgoing.add(Finished(job.id, Outcome.FAILED, f"{type(error).__name__}: {error}"))
        else:
            self._pool.submit(job)
