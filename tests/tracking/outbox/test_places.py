"""Questions for a place: each is answered once, by whoever may use MLflow."""

from __future__ import annotations

import pytest

from harness.tracking.direct import NotStored, Place
from harness.tracking.outbox.places import PlaceRequests


def test_a_question_wakes_the_outbox_and_is_answered() -> None:
    requests, woken = PlaceRequests(), []
    requests.wake = lambda: woken.append(True)
    answers = [requests.ask("one"), requests.ask("two"), requests.ask("three")]
    answers[1].cancel()
    assert woken == [True] * 3
    requests.serve(lambda key: Place(key, "address"))
    assert [answers[0].result(0).model, answers[2].result(0).model] == ["one", "three"]  # type: ignore[union-attr]
    late = requests.ask("four")
    requests.refuse("MLflow does not answer")
    with pytest.raises(NotStored, match="MLflow does not answer"):
        late.result(0)
