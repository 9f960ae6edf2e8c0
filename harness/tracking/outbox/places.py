"""Questions for a place in the artifact store, which the outbox's thread answers: only it may use MLflow."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future

from harness.tracking.direct import NotStored, Place

Offer = Callable[[str], Place | None]  # from the key of a run; see `RunWriter.offer_place`


class PlaceRequests:
    """Questions on their way to the outbox.

    Attributes:
        wake: called after a question.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[str, Future[Place | None]]] = queue.SimpleQueue()
        self.wake: Callable[[], None] = lambda: None

    def ask(self, key: str) -> Future[Place | None]:
        """Ask for a place for the weights of a run; it may be cancelled."""
        answer: Future[Place | None] = Future()
        self._waiting.put((key, answer))
        self.wake()
        return answer

    def refuse(self, why: str) -> None:
        """Answer all questions with an error."""

        def offer(_: str) -> Place | None:
            raise NotStored(why)

        self.serve(offer)

    def serve(self, offer: Offer) -> None:
        """Answer all questions, with an error where `offer` raises it."""
        while not self._waiting.empty():
            key, answer = self._waiting.get()
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(offer(key))
                except Exception as error:  # the weights go through this process then
                    answer.set_exception(error)
