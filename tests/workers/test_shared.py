"""States in a shared place: whole or ignored, few, and never in the way of the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from harness.core.files import json_with_checksum, read_json_with_checksum
from harness.training.trainer import train
from harness.workers.shared import Copier, SharedStates, adopt, check_place, remove_states, saved_step
from helpers import numbers, run, small_config

CONFIG = small_config(budget={"steps": 30}, eval_every={"steps": 5}, checkpoint_every=0.0001)


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder, and an address."""
    if request.param == "folder":
        yield str(tmp_path / "shared")
    else:
        yield "memory://states"
        fsspec.filesystem("memory").store.clear()


def trained(folder: Path, steps: int) -> Path:
    """The states of a run that was stopped after this many steps."""
    points = train(CONFIG, state=folder)
    while next(points).step < steps:
        pass
    points.close()
    return folder


def paths(place: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(place)
    return sorted(path.removeprefix(root).lstrip("/") for path in files.find(root))


def change(place: str, ending: str, content: bytes | None) -> None:
    """Replace the last bytes of a file, or remove it (None)."""
    files, root = fsspec.core.url_to_fs(place)
    [path] = [path for path in files.find(root) if path.endswith(ending)]
    if content is None:
        files.rm(path)
    else:
        whole = files.cat_file(path)
        files.pipe_file(path, whole[: -len(content)] + content)


def test_a_run_resumes_on_another_node_from_its_copied_state(place: str, tmp_path: Path) -> None:
    states = SharedStates(place, "sweep/run")
    assert states.save(trained(tmp_path / "one", 12)) == 12
    step, warning = SharedStates(place, "sweep/run").fetch(tmp_path / "fetched")
    assert (step, warning) == (12, "")
    adopt(tmp_path / "fetched", tmp_path / "two")
    assert saved_step(tmp_path / "two") == 12
    started: list[tuple[int, str]] = []
    rest = run(CONFIG, state=tmp_path / "two", after=-1, on_start=lambda step, warning: started.append((step, warning)))
    assert started == [(12, "")]
    assert numbers(rest) == numbers(run(CONFIG))


def test_the_last_two_copies_are_kept(place: str, tmp_path: Path) -> None:
    states = SharedStates(place, "sweep/run")
    for steps in (5, 10, 15, 20):
        states.save(trained(tmp_path / "one", steps))
    copies = {path.split("/")[2] for path in paths(place)}
    assert [int(name.partition("-")[0]) for name in sorted(copies)] == [15, 20]
    assert all(path.startswith("sweep/run/") for path in paths(place))
    SharedStates(place, "sweep/other").save(tmp_path / "one")
    remove_states(place, "sweep/run")
    assert {path.split("/")[1] for path in paths(place)} == {"other"}
    remove_states(place, "sweep")
    assert paths(place) == []


@pytest.mark.parametrize("damaged", ["copy.json", ".safetensors", ".jsonl"])
@pytest.mark.parametrize("content", [b"???", None], ids=["changed", "missing"])
def test_a_damaged_copy_is_skipped(place: str, damaged: str, content: bytes | None, tmp_path: Path) -> None:
    SharedStates(place, "sweep/run").save(trained(tmp_path / "one", 10))
    change(place, damaged, content)
    SharedStates(place, "sweep/run").save(trained(tmp_path / "two", 5))
    step, warning = SharedStates(place, "sweep/run").fetch(tmp_path / "fetched")
    assert step == 5
    assert "the shared state of step 10 is" in warning


def test_names_in_a_copy_lead_to_no_other_folder(tmp_path: Path) -> None:
    SharedStates(str(tmp_path / "shared"), "sweep/run").save(trained(tmp_path / "one", 5))
    [file] = (tmp_path / "shared").rglob("copy.json")
    content, _ = read_json_with_checksum(file.read_bytes())
    content["files"]["../../escaped.json"] = next(iter(content["files"].values()))
    file.write_text(json_with_checksum(content))
    step, warning = SharedStates(str(tmp_path / "shared"), "sweep/run").fetch(tmp_path / "fetched")
    assert step is None and "damaged" in warning
    for name in ("sweep/../run", "/etc", "sweep/run/more/.."):
        with pytest.raises(AssertionError, match="name of a run"):
            SharedStates(str(tmp_path / "shared"), name)


def test_two_workers_of_one_run_do_not_spoil_each_others_copies(tmp_path: Path) -> None:
    """One was thought to be dead."""
    place = str(tmp_path / "shared")
    dead, alive = SharedStates(place, "sweep/run"), SharedStates(place, "sweep/run")
    dead.save(trained(tmp_path / "one", 10))
    alive.fetch(tmp_path / "fetched")
    adopt(tmp_path / "fetched", tmp_path / "two")
    alive.save(trained(tmp_path / "two", 20))
    dead.save(trained(tmp_path / "one", 15))
    dead.save(trained(tmp_path / "one", 20))
    step, warning = SharedStates(place, "sweep/run").fetch(tmp_path / "again")
    assert (step, warning) == (20, "")


class SlowStates:
    """Copies that take as long as a test wants."""

    def __init__(self) -> None:
        self.saved: list[int] = []
        self.may_end = threading.Event()
        self.error: Exception | None = None

    def save(self, folder: Path) -> int:
        self.saved.append(saved_step(folder))
        self.may_end.wait(30)
        if self.error is not None:
            raise self.error
        return self.saved[-1]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_training_does_not_wait_for_a_copy_and_the_last_state_is_copied(tmp_path: Path) -> None:
    slow = SlowStates()
    with Copier(slow, tmp_path / "state") as copier:  # type: ignore[arg-type]
        trained(tmp_path / "state", 5)
        until(lambda: slow.saved)
        trained(tmp_path / "state", 20)  # while the first copy is being made
        assert len(slow.saved) == 1
        slow.may_end.set()
        copier.finish(30)
    assert slow.saved == [slow.saved[0], saved_step(tmp_path / "state")]
    assert copier.warnings() == []


def test_copies_rest_fifty_times_as_long_as_they_took(tmp_path: Path) -> None:
    slow = SlowStates()
    with Copier(slow, tmp_path / "state") as copier:  # type: ignore[arg-type]
        trained(tmp_path / "state", 5)
        until(lambda: slow.saved)
        time.sleep(0.5)
        slow.may_end.set()
        until(lambda: copier._resting_until)
        assert copier._resting_until - time.monotonic() > 20
        trained(tmp_path / "state", 10)
        copier.abandon()
    assert slow.saved == [5]


def test_a_place_that_is_down_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowStates()
    slow.may_end.set()
    slow.error = ConnectionError("connect to s3://USER:secret@bucket failed")
    monkeypatch.setattr("harness.workers.shared._POLL_SECONDS", 0.01)
    monkeypatch.setattr("harness.workers.shared._COST_SHARE", 0)
    with Copier(slow, trained(tmp_path / "state", 5)) as copier:  # type: ignore[arg-type]
        until(lambda: len(slow.saved) > 3)
    [warning] = copier.warnings()
    assert warning.startswith("states cannot be copied to the shared place") and "secret" not in warning


def test_a_place_is_checked_without_being_opened(tmp_path: Path) -> None:
    assert check_place(str(tmp_path / "missing")) == ""
    assert "nonsense" in check_place("nonsense://states")
    assert not (tmp_path / "missing").exists()


def test_a_folder_without_a_state_gives_no_copy(tmp_path: Path) -> None:
    assert SharedStates(str(tmp_path), "sweep/run").save(tmp_path / "none") is None
    assert paths(str(tmp_path)) == []
