"""Everything reaches MLflow once and in order, however often the store fails or a process dies."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from harness.core.metrics import VAL_LOSS, Point
from harness.core.outcomes import Outcome
from harness.tracking import ARTIFACTS, Outbox, Tracker, TrackingError, load_runs, load_samples, unfinished_runs
from harness.tracking.outbox import sender as module
from harness.tracking.outbox.journal import Journal
from harness.tracking.records import TrialInfo
from harness.tracking.schema import describe_trial
from stored_runs import Store, point, sweep_info, trial_info


class Place:
    """One sweep in the shared store, and the folder of its runs."""

    def __init__(self, store: Store, name: str, folder: Path) -> None:
        self.store, self.name, self.folder = store, name, folder / "work" / "runs"

    def open(self, *draw: Callable[[Sequence[Point], Path], None]) -> Outbox:
        """Opens the sweep as a new process would."""
        tracker = Tracker(self.name, self.store.uri)
        return Outbox(tracker, tracker.open_sweep(sweep_info(self.name)), self.folder, *draw)

    def runs(self) -> list[Run]:
        client = self.store.client
        experiment = client.get_experiment_by_name(self.name)
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], "tags.`harness.role` = 'trial'")
        return sorted(found, key=lambda run: run.info.start_time)

    def history(self, run: Run, metric: str = VAL_LOSS) -> list[tuple[int, float]]:
        return [(one.step, one.value) for one in self.store.client.get_metric_history(run.info.run_id, metric)]


@pytest.fixture
def place(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(store, request.node.name[:90].replace("[", "-").replace("]", ""), tmp_path)


@pytest.mark.slow
def test_a_run_arrives_and_its_folder_is_deleted(place: Place) -> None:
    with place.open() as outbox:
        key = outbox.start(trial_info())
        for step in range(3):
            outbox.log_point(key, point(step, sample=f"text {step}", val__loss=3.0 - step))
        outbox.tag(key, device="cpu")
        artifacts = outbox.folder_of(key) / ARTIFACTS / "deep"
        artifacts.mkdir(parents=True)
        (artifacts / "file.txt").write_text("content")
        outbox.end(key, Outcome.COMPLETE, "")
        assert outbox.drain(30)
        assert outbox.waiting == 0
        assert not outbox.folder_of(key).exists()
    assert not place.folder.exists()
    [run] = place.runs()
    assert run.info.status == "FINISHED"
    assert place.history(run) == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert run.data.tags["harness.key"] == key
    assert run.data.tags["harness.device"] == "cpu"
    assert float(run.data.tags["harness.seconds"]) == 0.2  # from the last point
    assert (
        Path(MlflowClient(place.store.uri).download_artifacts(run.info.run_id, "deep/file.txt")).read_text()
        == "content"
    )
    assert [sample.text for sample in load_samples(run.info.run_id, place.store.uri)] == ["text 0", "text 1", "text 2"]


def test_drawings_are_stored_with_a_run_also_by_another_process(place: Place) -> None:
    drawn_by = []

    def draw(points: Sequence[Point], folder: Path) -> None:
        drawn_by.append(threading.current_thread().name)
        folder.mkdir(parents=True)
        (folder / "curve.txt").write_text(" ".join(str(one.metrics[VAL_LOSS]) for one in points))

    outbox = place.open()
    keys = [outbox.start(trial_info(seed=seed)) for seed in (1, 2, 3)]
    for number, key in enumerate(keys):
        for step in range(2):
            outbox.log_point(key, point(step, val__loss=10.0 * number + step))
    outbox.end(keys[0], Outcome.PRUNED, "")
    outbox.interrupt(keys[1], "stopped")  # it has not ended: nothing is drawn
    outbox.end(keys[2], Outcome.COMPLETE, "")  # the process dies before its thread has sent anything
    with place.open(draw) as later:
        for unfinished in later.unfinished_runs():
            later.send_unfinished(unfinished)
        assert later.drain(30)
    assert drawn_by == ["outbox", "outbox"]
    found = {}
    for run in place.runs():
        files = [file.path for file in place.store.client.list_artifacts(run.info.run_id)]
        if "curve.txt" in files:
            path = place.store.client.download_artifacts(run.info.run_id, "curve.txt")
            found[run.data.tags["harness.key"]] = Path(path).read_text()
    assert found == {keys[0]: "0.0 1.0", keys[2]: "20.0 21.0"}


@pytest.mark.slow
def test_points_arrive_within_seconds(place: Place) -> None:
    with place.open() as outbox:
        key = outbox.start(trial_info())
        outbox.log_point(key, point(1, val__loss=3.0))
        until = time.monotonic() + 30
        while not (place.runs() and VAL_LOSS in place.runs()[0].data.metrics):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert outbox.new_run_ids() == [(key, place.runs()[0].info.run_id)]
        assert outbox.new_run_ids() == []


class Unreliable:
    """A client that fails at some calls, before or after it has executed them."""

    def __init__(self, client: MlflowClient, fails: Callable[[int], bool], after: bool) -> None:
        self.client, self.fails, self.after, self.calls = client, fails, after, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            failing = self.fails(self.calls)
            if failing and not self.after:
                raise MlflowException("the server is down")
            result = method(*args, **kwargs)
            if failing:
                raise MlflowException("the answer was lost")
            return result

        return call


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_after_any_failed_call_everything_arrives_once_in_order(place: Place, after: bool) -> None:
    outbox = place.open()
    chance = random.Random(4)
    client = Unreliable(outbox.tracker.experiment.client, lambda _: chance.random() < 0.3, after)
    outbox.tracker.experiment.client = client  # type: ignore[assignment]
    keys = [outbox.start(trial_info(f"run {number}", seed=number)) for number in range(2)]
    for step in range(4):
        for key in keys:
            outbox.log_point(key, point(step, val__loss=3.0 - step))
    for key in keys:
        outbox.end(key, Outcome.DIVERGED, "NaN")
    failures = 0
    for _ in range(200):
        try:
            outbox.send()
        except ValueError as error:
            assert str(error).startswith("MLflow: the ")
            failures += 1
            continue
        break
    assert 5 < failures < 200
    runs = place.runs()
    assert sorted(run.data.tags["harness.key"] for run in runs) == sorted(keys)
    for run in runs:
        assert place.history(run) == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.0)]
        assert run.info.status == "FAILED"
        assert run.data.tags["harness.outcome"] == "diverged"
    assert unfinished_runs(place.folder) == []


def test_a_run_that_cannot_be_created_does_not_block_the_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = place.open()
    start = outbox.tracker.start_run

    def refusing(parent: str, info: TrialInfo, *rest: Any) -> str:
        if info.seed == 1:
            raise MlflowException("no such run for you")
        return start(parent, info, *rest)

    monkeypatch.setattr(outbox.tracker, "start_run", refusing)
    keys = [outbox.start(trial_info(seed=seed)) for seed in (1, 2)]
    for key in keys:
        outbox.log_point(key, point(1, val__loss=3.0))
    outbox.end(keys[1], Outcome.COMPLETE, "")
    for _ in range(3):
        with pytest.raises(MlflowException):
            outbox.send()
    [run] = place.runs()
    assert (run.data.tags["harness.key"], run.info.status) == (keys[1], "FINISHED")
    assert place.history(run) == [(1, 3.0)]
    assert [run.key for run in unfinished_runs(place.folder)] == [keys[0]]


@pytest.mark.slow
def test_the_thread_retries_until_the_store_answers(place: Place) -> None:
    down = [True]
    outbox = place.open()
    outbox.tracker.experiment.client = Unreliable(outbox.tracker.experiment.client, lambda _: down[0], False)  # type: ignore[assignment]
    with outbox:
        key = outbox.start(trial_info())
        outbox.log_point(key, point(1, val__loss=3.0))
        assert not outbox.drain(2.0)
        assert outbox.error == "MLflow: the server is down"
        assert outbox.waiting == 1
        down[0] = False
        outbox.end(key, Outcome.COMPLETE, "")
        assert outbox.drain(30)
        assert outbox.error == ""
    assert place.history(place.runs()[0]) == [(1, 3.0)]


def test_a_run_has_the_times_at_which_it_trained_however_late_it_is_sent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = 1_600_000_000_000
    clock = itertools.count(began, 1000)
    with monkeypatch.context() as patch:
        patch.setattr("harness.tracking.outbox.journal.milliseconds", lambda: next(clock))
        outbox = place.open()
        key = outbox.start(trial_info())
        for step in range(3):
            outbox.log_point(key, point(step, val__loss=3.0 - step))
        outbox.end(key, Outcome.COMPLETE, "", began + 3500)  # recorded later than it happened
    later = place.open()
    [unfinished] = later.unfinished_runs()
    later.send_unfinished(unfinished)
    later.send()
    [run] = place.runs()
    assert (run.info.start_time, run.info.end_time) == (began, began + 3500)
    history = place.store.client.get_metric_history(run.info.run_id, VAL_LOSS)
    assert [one.timestamp - began for one in history] == [1000, 2000, 3000]
    assert load_runs(place.name, place.store.uri)["seconds"].tolist() == [0.2]  # of training, from the last point


def test_runs_that_are_stored_leave_no_open_files_and_no_entries(place: Place) -> None:
    process, counts = psutil.Process(), []
    outbox = place.open()
    for number in range(12):
        key = outbox.start(trial_info(seed=number))
        for step in range(3):
            outbox.log_point(key, point(step, val__loss=3.0 - step))
        outbox.end(key, Outcome.COMPLETE, "")
        outbox.send()
        counts.append(process.num_fds())
    assert counts[-1] <= counts[1]
    assert not outbox._waiting.runs and not outbox.tracker.runs.open_runs


class SlowTracker:
    """Accepts everything; ends a run only when it may, and `ended` counts these."""

    def __init__(self) -> None:
        self.may_end = threading.Semaphore(0)
        self.ended = 0

    def start_run(self, _parent: str, _info: TrialInfo, key: str, *_: object) -> str:
        return f"id of {key}"

    def end_run(self, *_: object) -> None:
        assert self.may_end.acquire(timeout=60)
        self.ended += 1

    def __getattr__(self, name: str) -> Any:
        return lambda *_arguments, **_named: None


def ended_runs(outbox: Outbox, count: int) -> None:
    """Record this many runs that have ended."""
    for _ in range(count):
        outbox.end(outbox.start(trial_info()), Outcome.COMPLETE, "")


@pytest.mark.slow
def test_draining_waits_as_long_as_runs_arrive(tmp_path: Path) -> None:
    tracker, patience = SlowTracker(), 1.0
    outbox = Outbox(cast(Tracker, tracker), "parent", tmp_path)
    ended_runs(outbox, 8)

    def slowly() -> None:
        for _ in range(8):
            time.sleep(patience / 4)
            tracker.may_end.release()

    storing = threading.Thread(target=slowly)
    with outbox:
        storing.start()
        assert not outbox.drain(patience, limit=patience / 10)
        assert outbox.drain(patience)  # it takes twice as long as that in all
        storing.join()
    assert tracker.ended == 8


def test_draining_gives_up_once_nothing_arrives_any_more(tmp_path: Path) -> None:
    tracker = SlowTracker()
    outbox = Outbox(cast(Tracker, tracker), "parent", tmp_path)
    ended_runs(outbox, 3)
    tracker.may_end.release()
    with outbox:
        assert not outbox.drain(0.5)
        assert (tracker.ended, outbox.waiting) == (1, 2)
        tracker.may_end.release(2)
        assert outbox.drain(30)


def test_everything_is_sent_once_draining_says_so(tmp_path: Path) -> None:
    calls: list[str] = []

    class Recorder(SlowTracker):
        def tag(self, run_id: str, _tags: object) -> None:
            calls.append(run_id)

        def log_point(self, *_: object) -> None:
            calls.append("point")

        def flush(self) -> None:
            time.sleep(0.02)
            calls.append("flush")

    outbox = Outbox(cast(Tracker, Recorder()), "parent", tmp_path)
    with outbox:
        for number in range(5):
            outbox.log_point(outbox.start(trial_info()), point(1, val__loss=3.0))
            outbox.tag_stored(f"stored {number}", phase="superseded")
            assert outbox.drain(30)
            assert calls.count("point") == number + 1
            assert calls[::-1].index("flush") < calls[::-1].index("point")
            assert calls.count(f"stored {number}") == 1


def test_no_run_should_start_while_ended_runs_wait_for_a_store_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(cast(Tracker, SlowTracker()), "parent", tmp_path)
    ended_runs(outbox, module._MAX_BACKLOG)
    outbox.start(trial_info())  # it has not ended
    assert not outbox.is_behind
    ended_runs(outbox, 1)
    assert outbox.is_behind
    outbox._sender.error = "the server is down"  # then training continues
    assert not outbox.is_behind
    outbox._sender.error = ""
    monkeypatch.setattr(module, "_STALLED_SECONDS", -1.0)  # or it does not answer at all
    assert not outbox.is_behind


def test_no_figures_are_drawn_while_many_ended_runs_wait(tmp_path: Path) -> None:
    drawn = []
    tracker = SlowTracker()
    outbox = Outbox(cast(Tracker, tracker), "parent", tmp_path, lambda *_: drawn.append(tracker.ended))
    ended_runs(outbox, module._DRAWING_BACKLOG + 3)
    tracker.may_end.release(module._DRAWING_BACKLOG + 3)
    outbox.send()
    assert drawn == list(range(3, module._DRAWING_BACKLOG + 3))


def test_a_run_that_has_ended_does_not_wait_for_the_points_of_others(tmp_path: Path) -> None:
    """Points are sent every few seconds for all runs; what workers wait for is sent at once, and without them."""
    points: list[str] = []

    class Recorder(SlowTracker):
        def log_point(self, run_id: str, *_: object) -> None:
            points.append(run_id)

    outbox = Outbox(cast(Tracker, Recorder()), "parent", tmp_path)
    outbox.tracker.may_end.release(2)  # type: ignore[attr-defined]
    ended = []
    with outbox:
        trains = outbox.start(trial_info())
        assert outbox.drain(30)
        outbox._sender._points_at = time.monotonic() + 3600
        outbox.log_point(trains, point(1, val__loss=3.0))
        for _ in range(2):
            ended.append(outbox.start(trial_info()))
            outbox.log_point(ended[-1], point(1, val__loss=3.0))
            outbox.end(ended[-1], Outcome.COMPLETE, "")
        until = time.monotonic() + 30
        while any(outbox.folder_of(key).exists() for key in ended):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert points == [f"id of {key}" for key in ended]
        assert outbox.drain(30)  # everything
    assert points[2:] == [f"id of {trains}"]


def test_a_new_run_is_created_while_many_ended_runs_are_stored(tmp_path: Path) -> None:
    tracker = SlowTracker()
    outbox = Outbox(cast(Tracker, tracker), "parent", tmp_path)
    ended_runs(outbox, 5)
    with outbox:
        until = time.monotonic() + 30
        while len(outbox._sender._run_ids) < 5:
            assert time.monotonic() < until
            time.sleep(0.01)
        key = outbox.start(trial_info())
        tracker.may_end.release()
        while (key, f"id of {key}") not in outbox.new_run_ids():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert tracker.ended == 1
        tracker.may_end.release(4)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [0, 2, 4])
def test_another_process_sends_waiting_entries_and_resumes_the_run(place: Place, sent: int) -> None:
    first = place.open()
    key = first.start(trial_info())
    for step in range(4):
        if step == sent:
            first.send()
        first.log_point(key, point(step, val__loss=3.0 - step))
    if sent == 4:
        first.send()
    # It is killed here: nothing is closed.
    second = place.open()
    [unfinished] = second.unfinished_runs()
    assert (unfinished.key, unfinished.outcome, [one.step for one in unfinished.points]) == (key, None, [0, 1, 2, 3])
    assert describe_trial(unfinished.info) == describe_trial(trial_info())
    second.send_unfinished(unfinished)
    second.send()
    [run] = place.runs()
    assert (run.info.status, run.data.tags["harness.outcome"]) == ("KILLED", "interrupted")
    assert place.history(run) == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.0)]
    second.resume(unfinished)
    second.log_point(key, point(4, val__loss=-1.0))
    second.send()
    [run] = place.runs()
    assert run.info.status == "RUNNING"
    second.end(key, Outcome.COMPLETE, "")
    second.send()
    [run] = place.runs()
    assert run.info.status == "FINISHED"
    assert place.history(run) == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.0), (4, -1.0)]
    assert second.unfinished_runs() == []


def test_a_run_whose_folder_is_lost_is_resumed_by_its_key(place: Place) -> None:
    first = place.open()
    key = first.start(trial_info())
    first.log_point(key, point(0, val__loss=3.0))
    first.interrupt(key, "stopped")
    first.send()
    first.discard(first.unfinished_runs()[0])
    second = place.open()
    assert second.start(trial_info(), key) == key
    for step, loss in enumerate((3.0, 2.0)):  # trained again, it gives the same points
        second.log_point(key, point(step, val__loss=loss))
    second.end(key, Outcome.COMPLETE, "")
    second.send()
    [run] = place.runs()
    assert run.info.status == "FINISHED"
    assert place.history(run) == [(0, 3.0), (1, 2.0)]


def test_a_text_that_can_be_no_key_starts_a_new_run(place: Place) -> None:
    outbox = place.open()
    texts: list[Any] = ["../../paper", "/tmp", "a/b", "..", "' or '", "", "x" * 65, 7, None]
    keys = [outbox.start(trial_info(), text) for text in texts]
    assert sorted(path.name for path in place.folder.iterdir()) == sorted(keys)
    for text in texts:
        with pytest.raises(AssertionError, match="as the key of a run"):
            outbox.folder_of(text)


def test_links_and_names_of_others_among_the_runs_on_disk(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    outbox = Outbox(cast(Tracker, None), "", folder)
    key = outbox.start(trial_info())
    (folder / key).rename(folder / "it's another's")
    assert unfinished_runs(folder) == []
    (folder / "it's another's").rename(elsewhere)
    for link in (folder / key, folder / "other" / "journal.jsonl", folder / "other" / "state"):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(elsewhere)
        with pytest.raises(TrackingError, match=f"^{link}: found a link; allowed: what a sweep wrote; remove it"):
            unfinished_runs(folder)
        link.unlink()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(TrackingError, match="link: found a link"):
        unfinished_runs(tmp_path / "link")
    (folder / "journal.jsonl").symlink_to(elsewhere / "journal.jsonl")
    before = (elsewhere / "journal.jsonl").read_bytes()
    with pytest.raises(OSError):
        Journal(folder).append("tag", {})
    assert (elsewhere / "journal.jsonl").read_bytes() == before


def test_the_thread_stops_when_another_process_has_taken_the_sweep_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.tracking.outbox.sender._HEARTBEAT_SECONDS", 0.0)
    outbox = place.open()
    outbox.start(trial_info())
    outbox.tracker.tag(outbox.parent, process="another-machine:17:1.00", opened="17")
    with outbox:
        until = time.monotonic() + 20
        while not outbox.new_owner:
            assert time.monotonic() < until
            time.sleep(0.1)
    assert outbox.new_owner == "another-machine:17:1.00"
    assert place.runs() == []  # nothing is written to another process's sweep


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("harness.tracking.outbox.sender._MAX_RETRY_SECONDS", 0.2)
    yield
