"""Jobs on a node whose disk the parent does not see: what is kept, what is sent, and what is resumed elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch  # noqa: F401 (before the session sets its threads)

from harness.core.outcomes import Outcome
from harness.data import open_dataset
from harness.data.encoded import describe_encoded
from harness.workers.checkpoints import checksums
from harness.workers.job import Cache, ParentDied
from harness.workers.messages import Away, Event, Finished, Job, Note, Progress, Started
from harness.workers.node_job import STATES, RunFolder, train_on_node
from jobs import config, finished, numbers, resumable, started, steps

pytestmark = pytest.mark.slow

AWAY = Path("/nowhere/mlruns/tiny.work/sweep/run")  # the parent's disk, which this node does not have
CACHE = Cache()
RUN = resumable(budget={"steps": 80}, eval_every={"steps": 20})


class Channel:
    """Keeps what a job sends; stops it, or loses the parent, at a step."""

    def __init__(self, stop_at: int | None = None, dies_at: int | None = None) -> None:
        self.stop_at, self.dies_at = stop_at, dies_at
        self.terminated = False
        self.events: list[Event] = []

    def send(self, event: Started | Progress | Note) -> None:
        self.events.append(event)
        if isinstance(event, Progress) and self.dies_at is not None and event.point.step >= self.dies_at:
            raise ParentDied

    def should_stop(self) -> bool:
        return self.stop_at is not None and any(step >= self.stop_at for step in steps(self.events))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Go to a node, which has a cache of its own; returns the folder of its states."""

    def go(name: str) -> Path:
        monkeypatch.setenv("GPT_HARNESS_CACHE", str(tmp_path / name))
        return tmp_path / name / STATES

    go("one")
    return go


def train(job: Job, shared: Path | str | None = None, **channel: int) -> list[Event]:
    """All events of a job on this node."""
    connection = Channel(**channel)
    end = train_on_node(with_place(job, shared), connection, 0, CACHE)
    return [*connection.events, end]


def with_place(job: Job, shared: Path | str | None) -> Job:
    data = describe_encoded(open_dataset(job.config.data), job.config.data)
    return replace(job, away=Away(data, None if shared is None else str(shared)))


def job(after: int | None = -1, checkpoint: Path | None = None) -> Job:
    return Job(1, RUN, state=AWAY / "state", after=after, run="sweep/run", checkpoint=checkpoint)


def test_a_run_goes_on_from_its_state_on_another_node(node: Callable[[str], Path], tmp_path: Path) -> None:
    whole = train(Job(1, RUN))
    first = train(job(), tmp_path / "shared", stop_at=40)
    assert finished(first).outcome is Outcome.INTERRUPTED
    node("two")
    rest = train(job(after=steps(first)[-1]), tmp_path / "shared")
    assert started(rest).resumed_from == steps(first)[-1]
    assert started(rest).warning == ""
    assert steps(first) + steps(rest) == steps(whole)
    assert numbers(first) + numbers(rest) == numbers(whole)


def test_the_newer_state_wins(node: Callable[[str], Path], tmp_path: Path) -> None:
    """The run was here, then on another node, and comes back."""
    here = train(job(), tmp_path / "shared", stop_at=20)
    node("two")
    there = train(job(after=steps(here)[-1]), tmp_path / "shared", stop_at=60)
    node("one")
    back = train(job(after=steps(there)[-1]), tmp_path / "shared")
    assert started(back).resumed_from == steps(there)[-1] > steps(here)[-1]
    assert finished(back).outcome is Outcome.COMPLETE


def test_without_a_shared_place_a_run_begins_anew_on_another_node_and_says_so(node: Callable[[str], Path]) -> None:
    first = train(job(), stop_at=40)
    assert started(train(job(after=steps(first)[-1]), stop_at=41)).resumed_from == steps(first)[-1]  # on this node
    node("two")
    rest = train(job(after=steps(first)[-1]))
    assert started(rest).resumed_from == 0
    assert started(rest).warning.startswith("begins anew: its states are on another node")
    assert steps(rest)[0] > steps(first)[-1]


def test_a_state_is_copied_when_the_parent_is_gone(node: Callable[[str], Path], tmp_path: Path) -> None:
    connection = Channel(dies_at=40)
    with pytest.raises(ParentDied):
        train_on_node(with_place(job(), tmp_path / "shared"), connection, 0, CACHE)
    node("two")
    rest = train(job(after=steps(connection.events)[-1]), tmp_path / "shared")
    assert started(rest).resumed_from >= 40


def test_a_shared_place_that_is_down_costs_a_warning(node: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("a file, where a folder should be")
    events = train(job(), tmp_path / "shared" / "below")
    assert finished(events) == Finished(1, Outcome.COMPLETE)
    assert "the shared place" in started(events).warning or any(isinstance(one, Note) for one in events)
    unknown = train(job(), "nonsense://states")
    assert finished(unknown) == Finished(1, Outcome.COMPLETE)
    assert "nonsense" in started(unknown).warning


def test_nothing_is_left_on_the_node_of_a_run_that_has_ended(node: Callable[[str], Path]) -> None:
    assert finished(train(job(), stop_at=20)).outcome is Outcome.INTERRUPTED
    assert [path.name for path in (node("one") / "sweep").iterdir()] == ["run"]
    train(job())
    assert list((node("one") / "sweep").iterdir()) == []


def test_where_the_disk_is_the_parents_its_folder_is_used(node: Callable[[str], Path], tmp_path: Path) -> None:
    own = Job(1, config(), state=tmp_path / "state", checkpoint=tmp_path / "checkpoint", run="sweep/run")
    end = finished(train(own))
    assert end == Finished(1, Outcome.COMPLETE, checkpoint=checksums(tmp_path / "checkpoint"), arrived=True)
    assert "model.safetensors" in end.checkpoint
    assert not (tmp_path / "one" / STATES).exists()


def test_a_checkpoint_stays_on_the_node_until_it_is_taken(node: Callable[[str], Path], tmp_path: Path) -> None:
    away = job(checkpoint=AWAY / "artifacts" / "checkpoint")
    end = finished(train(away))
    folder = RunFolder(away)
    assert folder.checkpoint is not None and folder.checkpoint.is_relative_to(node("one"))
    assert end == Finished(1, Outcome.COMPLETE, checkpoint=checksums(folder.checkpoint))
    train(Job(1, RUN, checkpoint=tmp_path / "local"))
    assert end.checkpoint == checksums(tmp_path / "local")
    folder.remove()
    assert list((node("one") / "sweep").iterdir()) == []


def test_states_of_runs_that_never_came_back_are_removed(
    node: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = node("one")
    train(job(), stop_at=20)
    shutil.copytree(states / "sweep" / "run", states / "sweep" / "another")
    monkeypatch.setattr("harness.workers.node_job._KEPT_SECONDS", -1000.0)
    train(Job(2, config(), state=AWAY, run="sweep/new"))
    assert list((states / "sweep").iterdir()) == []
