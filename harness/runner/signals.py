"""SIGINT (Ctrl-C) and SIGTERM: they interrupt a sweep at once, except while runs train, which get time to stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import ClassVar, Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The command was stopped by a signal.

    Attributes:
        received: the signal; 0 before there was one.
    """

    received: ClassVar[int] = 0

    @classmethod
    def raise_on_signals(cls) -> None:
        """Raise this exception at every SIGINT and SIGTERM from now on."""
        cls.received = 0
        for number in STOP_SIGNALS:
            signal.signal(number, cls.handle)

    @classmethod
    def handle(cls, number: int, _frame: FrameType | None = None) -> None:
        """Signal handler: remember the signal and raise."""
        cls.received = number
        raise cls

    @classmethod
    def check(cls) -> None:
        """Raise if there was a signal whose exception got lost.

        Python drops exceptions that are raised inside its own callbacks, such as those of weak references. An import
        runs many of them.
        """
        if cls.received:
            raise cls


class StopRequest:
    """Context in which the first SIGINT or SIGTERM is only remembered; the second raises `Interrupted`.

    Attributes:
        signal: the first signal; 0 before there was one.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> StopRequest:
        self._handlers = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            Interrupted.handle(number, frame)
        self.signal = number
