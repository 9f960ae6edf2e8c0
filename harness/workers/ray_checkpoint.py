"""Brings a checkpoint from the node of a Ray worker to the parent, one piece after the other."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any, Final

from harness.core.outcomes import Outcome
from harness.workers.checkpoints import Download, IncompleteError
from harness.workers.messages import Finished, Job

RETRY_SECONDS: Final = 0.5  # until an unavailable worker is asked again


class CheckpointFetch:
    """A checkpoint on its way. Only one piece is in memory.

    Args:
        actor: the worker.
        job: that it has trained; its folder for the checkpoint is the parent's.
        finished: its last event, which names the files.

    Attributes:
        call: the answer that is on its way, None if there is none.

    Raises:
        OSError: the folder cannot be written; so does `receive`.
    """

    def __init__(self, actor: Any, job: Job, finished: Finished) -> None:
        assert job.checkpoint is not None
        self._actor, self._finished = actor, finished
        self._ask_at = 0.0
        self._failed, self.call = "", None
        self._download: Download | None = None
        try:
            self._download = Download(job.checkpoint, finished.checkpoint)
        except IncompleteError as error:
            self._failed = str(error)
        self._ask()

    def receive(self) -> Finished | None:
        """Take the piece that has arrived, if one has; returns the end of the job once everything is decided."""
        import ray

        if self.call is not None and ray.wait([self.call], timeout=0)[0]:
            call, self.call = self.call, None
            try:
                piece = ray.get(call)
            except ray.exceptions.ActorUnavailableError:
                self._ask_at = time.monotonic() + RETRY_SECONDS
            except ray.exceptions.RayTaskError as error:
                self._failed = str(error).strip().splitlines()[-1]
            except ray.exceptions.RayError:  # the worker is dead, which the pool notices
                self._ask_at = math.inf
            else:
                self._write(piece)
        if self._failed:
            self.discard()
            return Finished(self._finished.job, Outcome.FAILED, f"its checkpoint is lost: {self._failed}", lost=True)
        if self._download is not None and self._download.next is None:
            self._actor.remove_files.remote()
            return dataclasses.replace(self._finished, checkpoint={})
        self._ask()
        return None

    def discard(self) -> None:
        """Remove what has arrived."""
        if self._download is not None:
            self._download.discard()

    def _write(self, piece: bytes) -> None:
        assert self._download is not None
        try:
            self._download.write(piece)
        except IncompleteError as error:
            self._failed = str(error)

    def _ask(self) -> None:
        """Ask for the next piece."""
        due = self.call is None and time.monotonic() >= self._ask_at and not self._failed
        if due and self._download is not None and self._download.next is not None:
            self.call = self._actor.read_checkpoint.remote(*self._download.next)
