"""Signals that stop a sweep: Ctrl-C (SIGINT), SIGTERM, and SIGHUP, which a terminal sends when it is closed.

They interrupt the command at once, except while runs train, which get time to stop. SIGHUP often comes twice, from the
kernel and from the shell, and a service manager sends it right after SIGTERM. So it never counts as a second signal.
"""

from __future__ import annotations

import math
import signal
from types import FrameType
from typing import ClassVar

from harness.core.waiting import stop_waiting_after

SECONDS_AFTER_SIGNAL = 10.0  # how long a command that was stopped waits for a locked database


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that stop this process; without SIGHUP where it is ignored, as under `nohup`."""
    signals = (signal.SIGINT, signal.SIGTERM)
    return signals if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*signals, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The command was stopped by a signal.

    Attributes:
        received: the last signal, also one that a `StopRequest` has remembered; 0 before there was one.
    """

    received: ClassVar[int] = 0

    @classmethod
    def raise_on_signals(cls) -> None:
        """Raise this exception at every signal that stops this process, from now on."""
        cls.received = 0
        stop_waiting_after(math.inf)
        for number in stop_signals():
            signal.signal(number, cls.handle)

    @classmethod
    def handle(cls, number: int, _frame: FrameType | None = None) -> None:
        """Signal handler: remember the signal and raise."""
        cls.received = number
        _stopping()
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
    """Context in which the first signal is only remembered; the second raises `Interrupted`.

    Attributes:
        signal: the first signal; 0 before there was one.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> StopRequest:
        self._handlers = {number: signal.signal(number, self._handle) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal = Interrupted.received = number
            self._handlers.pop(signal.SIGHUP, None)
            _stopping()
        else:
            Interrupted.handle(number, frame)


def _stopping() -> None:
    """Wait for databases no longer than some seconds, and ignore SIGHUP: the command stops already."""
    stop_waiting_after(SECONDS_AFTER_SIGNAL)
    if signal.SIGHUP in stop_signals():
        signal.signal(signal.SIGHUP, lambda *_: None)  # with SIG_IGN, Python prints an error for one that is pending
