"""Events on their way over a network: numbered by the sender, taken exactly once and in order by the receiver.

The receiver asks for the events after the last one it has. That number also acknowledges the earlier ones, so a lost
answer loses nothing: the receiver asks again.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.workers.messages import Event, Finished, Note, Progress, Started

Numbered = tuple[int, str]  # an event's number, from 1, and the event as JSON

IN_MEMORY: Final = 1_000  # events that a sender keeps in memory; further ones go to a file
_KINDS: Final = {kind.__name__: kind for kind in (Started, Progress, Note, Finished)}


def event_to_json(event: Event) -> str:
    """An event as one line of JSON: nothing that comes from a worker is unpickled. Floats keep every bit."""
    return json.dumps({"kind": type(event).__name__, **dataclasses.asdict(event)})


def event_from_json(text: str) -> Event:
    """The event in a line of `event_to_json`.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    fields: dict[str, Any] = json.loads(text)
    kind = _KINDS[fields.pop("kind")]
    if kind is Progress:
        fields["point"] = Point.from_plain(fields["point"])
    if kind is Finished:
        fields["outcome"] = Outcome(fields["outcome"])
    return kind(**fields)


class Outgoing:
    """The sender's events, kept until they are acknowledged. Adding one neither waits nor fills the memory.

    Methods may be called from several threads.

    Args:
        in_memory: events kept in memory; further ones go to a temporary file, which has no name.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._memory: deque[Numbered] = deque()  # the oldest events
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the sender lives
        self._in_file, self._read_from = 0, 0  # events in the file that are not in memory, and where they begin
        self._last = 0  # number of the newest event
        self._changed = threading.Condition()

    def add(self, event: Event) -> None:
        """Append an event.

        Raises:
            OSError: the file cannot be written.
        """
        text = event_to_json(event)
        with self._changed:
            self._last += 1
            if self._in_file or len(self._memory) >= self._in_memory:
                self._file.seek(0, 2)
                self._file.write(f"{text}\n".encode())
                self._in_file += 1
            else:
                self._memory.append((self._last, text))
            self._changed.notify_all()

    def take(self, after: int, limit: int, wait: float) -> Sequence[Numbered]:
        """The first events with numbers above `after`; earlier ones are dropped.

        Args:
            after: number of the last event that the receiver has.
            limit: how many events at most.
            wait: seconds to wait for an event if there is none.
        """
        with self._changed:
            while (self._memory or self._in_file) and self._oldest() <= after:
                self._memory.popleft()
            if not self._memory:
                self._changed.wait(wait)
            return list(itertools.islice(self._memory, limit))

    def _oldest(self) -> int:
        """Number of the oldest event; reads the file when the memory is empty."""
        if not self._memory:
            self._file.seek(self._read_from)
            first = self._last - self._in_file + 1
            for number in range(first, first + min(self._in_file, self._in_memory)):
                self._memory.append((number, self._file.readline().decode().rstrip("\n")))
            self._in_file -= len(self._memory)
            self._read_from = self._file.tell()
            if not self._in_file:
                self._file.seek(0)
                self._file.truncate()
                self._read_from = 0
        return self._memory[0][0]


class Incoming:
    """The receiver's side: yields every event once and in order, however often and in whatever order answers come."""

    def __init__(self) -> None:
        self.last = 0  # number of the last event that was taken

    def accept(self, answer: Iterable[Numbered]) -> list[Event]:
        """The new events of an answer. Those behind a gap are left out: the next answer brings them again."""
        events = []
        for number, text in sorted(answer):
            if number == self.last + 1:
                events.append(event_from_json(text))
                self.last = number
        return events
