"""Events on their way over a network."""

from __future__ import annotations

import gc
import threading
import tracemalloc

import pytest

from harness.core.metrics import VAL_LOSS, Point
from harness.core.outcomes import Outcome
from harness.workers.messages import Event, Finished, Note, Progress, Started
from harness.workers.numbered import Incoming, Outgoing, event_from_json, event_to_json


def progress(number: int) -> Progress:
    return Progress(1, Point(number, 10 * number, number / 7, 0.1 + 0.2, {VAL_LOSS: 1 / 3 + number}))


def filled(events: int, in_memory: int = 3) -> Outgoing:
    outgoing = Outgoing(in_memory)
    for number in range(1, events + 1):
        outgoing.add(progress(number))
    return outgoing


@pytest.mark.parametrize(
    "event",
    [
        Started(1, "cuda", 7, 'a "warning"\n', "node-1"),
        Progress(2, Point(3, 4, 0.1 + 0.2, float("inf"), {VAL_LOSS: 5e-324}, "ü\u2028", (1.5, 1 / 3), ("a", "b"))),
        Note(1, "a sentence"),
        Finished(3, Outcome.OOM, "why", lost=True),
    ],
)
def test_an_event_is_the_same_after_the_way(event: Event) -> None:
    text = event_to_json(event)
    assert "\n" not in text
    assert event_from_json(text) == event


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "Stop", "job": 1}', '{"kind": "Started", "job": 1, "x": 2}']
)
def test_what_is_no_event_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        event_from_json(text)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_every_event_arrives_once_and_in_order_through_memory_and_file(limit: int) -> None:
    outgoing, incoming = filled(20), Incoming()
    events: list[Event] = []
    while len(events) < 23:
        events += incoming.accept(outgoing.take(incoming.last, limit, 0))
        if len(events) == 20:  # the file is empty again: later events go through memory
            assert outgoing.take(incoming.last, limit, 0) == []
            for number in (21, 22, 23):
                outgoing.add(progress(number))
    assert events == [progress(number) for number in range(1, 24)]


def test_a_lost_answer_comes_again() -> None:
    outgoing = filled(9)
    assert outgoing.take(0, 2, 0) == outgoing.take(0, 2, 0)
    assert outgoing.take(2, 2, 0)[0][0] == 3


def test_answers_that_come_late_twice_or_in_another_order_are_taken_once() -> None:
    outgoing, incoming = filled(9, in_memory=100), Incoming()
    answers = [outgoing.take(0, 9, 0)[:4], outgoing.take(0, 9, 0)[2:6], outgoing.take(0, 9, 0)[7:]]
    late = answers[0]
    assert incoming.accept(answers[2]) == []  # behind a gap
    assert incoming.accept(reversed(answers[0])) == [progress(number) for number in (1, 2, 3, 4)]
    assert incoming.accept(answers[1]) == [progress(number) for number in (5, 6)]
    assert incoming.accept(late) == []
    assert incoming.accept(outgoing.take(incoming.last, 9, 0)) == [progress(number) for number in (7, 8, 9)]


def test_taking_waits_for_the_next_event() -> None:
    outgoing = Outgoing()
    threading.Timer(0.05, outgoing.add, [progress(1)]).start()
    assert [number for number, _ in outgoing.take(0, 9, 60)] == [1]


@pytest.mark.slow
def test_events_that_nobody_takes_fill_no_memory() -> None:
    outgoing = Outgoing(in_memory=10)
    held = []
    tracemalloc.start()
    try:
        for number in range(10_000):  # 2 MB
            outgoing.add(progress(number))
            if number in (1_000, 9_999):
                gc.collect()  # the JSON encoder leaves circles behind
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] < held[0] + 50_000
