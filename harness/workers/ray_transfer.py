"""The way of a checkpoint from the node of a Ray worker: its weights straight to the artifact store, if that works.

The node stores the weights at a place that the outbox offers (`harness.tracking.direct`); the other files are small and
come to the parent. Whatever fails, the weights come to the parent too, in pieces (`harness.workers.ray_checkpoint`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from harness.core.paths import WEIGHTS
from harness.tracking.direct import NotStored, Place, Stored, check_stored, remove_note, write_note
from harness.tracking.outbox.places import PlaceRequests
from harness.workers.messages import Finished, Job
from harness.workers.ray_checkpoint import CheckpointFetch
from harness.workers.shared import brief

STORE: Final = "store"  # the concurrency group of the call that stores weights
_PLACE_SECONDS: Final = 30.0  # how long to wait for a place


class DirectStorage:
    """What transfers need of this process, and which nodes cannot store weights.

    Args:
        places: gives places.
        say: shows a sentence to the user.
        patience: seconds that a node may take to store weights.
    """

    def __init__(self, places: PlaceRequests, say: Callable[[str], None], patience: float) -> None:
        self.places, self.patience = places, patience
        self._say = say
        self._failed: set[str] = set()
        self._said: set[str] = set()

    def serves(self, node_id: str) -> bool:
        """Whether a node has not failed yet."""
        return node_id not in self._failed

    def failed(self, node: str, node_id: str, why: str) -> None:
        """Do not try this node again, and say so."""
        self._failed.add(node_id)
        self.say(f"checkpoints of node {node} go through this process: {why}")

    def say(self, sentence: str) -> None:
        """Show a sentence, once."""
        if sentence not in self._said:
            self._said.add(sentence)
            self._say(sentence)


class CheckpointTransfer:
    """A checkpoint on its way.

    Args:
        actor: the worker.
        job: that it has trained; its folder for the checkpoint is the parent's.
        finished: its last event, which names the files.
        node, node_id: name of its node, and Ray's id.
        direct: None: the weights come to the parent.

    Raises:
        OSError: the folder cannot be written; so does `receive`.
    """

    def __init__(
        self, actor: Any, job: Job, finished: Finished, node: str, node_id: str, direct: DirectStorage | None
    ) -> None:
        assert job.checkpoint is not None
        self._actor, self._job, self._finished, self._node, self._node_id = actor, job, finished, node, node_id
        self._folder, self._files = job.checkpoint, dict(finished.checkpoint)
        self._direct = direct
        self._place: Future[Place | None] | None = None
        self._offered: Place | None = None
        self._storing: Any = None
        self._fetch: CheckpointFetch | None = None
        remove_note(self._folder)
        if direct is not None and WEIGHTS in self._files and direct.serves(node_id):
            self._place = direct.places.ask(job.run.rpartition("/")[2])
            self._until = time.monotonic() + _PLACE_SECONDS

    @property
    def call(self) -> Any:
        """The answer that is on its way, None if there is none."""
        return self._storing if self._fetch is None else self._fetch.call

    def receive(self) -> Finished | None:
        """Take what has arrived; returns the end of the job once everything is decided."""
        if self._place is not None:
            self._receive_place(self._place)
        if self._storing is not None:
            self._receive_stored()
        if self._place is not None or self._storing is not None:
            return None
        if self._finished.arrived:
            return dataclasses.replace(self._finished, checkpoint={}, arrived=False)
        if self._fetch is None:
            self._fetch = CheckpointFetch(
                self._actor, self._job, dataclasses.replace(self._finished, checkpoint=self._files)
            )
        return self._fetch.receive()

    def discard(self) -> None:
        """Remove what has arrived."""
        if self._place is not None:
            self._place.cancel()
        if self._fetch is not None:
            self._fetch.discard()

    def _receive_place(self, place: Future[Place | None]) -> None:
        """Have the node store the weights, once there is a place for them."""
        assert self._direct is not None
        if not place.done() and time.monotonic() < self._until:
            return
        self._place = None
        try:
            if not place.done():
                place.cancel()
                raise NotStored(f"MLflow has given no place within {_PLACE_SECONDS:.0f} s")
            self._offered = place.result()
        except Exception as error:  # whatever the store raises
            self._direct.say(f"a checkpoint of node {self._node} goes through this process: {brief(error)}")
        if self._offered is not None:
            store = self._actor.store_weights.options(concurrency_group=STORE)
            self._storing = store.remote(self._offered)
            self._until = time.monotonic() + self._direct.patience

    def _receive_stored(self) -> None:
        """Record that the node has stored the weights; if it failed, this process fetches and stores them."""
        import ray

        assert self._direct is not None and self._offered is not None
        if ray.wait([self._storing], timeout=0)[0]:
            call, self._storing = self._storing, None
            try:
                stored = ray.get(call)
            except ray.exceptions.RayTaskError as error:
                stored = str(error).strip().splitlines()[-1]
            except ray.exceptions.RayError:  # the worker is dead or does not answer, which the pool notices
                return
            if isinstance(stored, str):
                self._fail(stored)
            else:
                self._keep(self._offered, stored)
        elif time.monotonic() > self._until:
            self._storing = None
            self._fail(f"weights were not stored within {self._direct.patience:.0f} s")

    def _keep(self, place: Place, stored: Stored) -> None:
        try:
            if stored.model != place.model or stored.sha256 != self._files[WEIGHTS]:
                raise NotStored(f"{WEIGHTS} differs from what the worker has written")
            check_stored(place, stored)
        except NotStored as error:
            self._fail(str(error))
        else:
            write_note(self._folder, stored)
            del self._files[WEIGHTS]

    def _fail(self, why: str) -> None:
        assert self._direct is not None
        self._direct.failed(self._node, self._node_id, why)
