"""States on disk: after any kill or damage, the newest valid state of this run is loaded."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

import harness.core.files
import harness.training.resume
from damage import Trap, rewrite
from harness.core.files import read_json_with_checksum
from harness.core.metrics import Point
from harness.training.environment import Environment
from harness.training.resume import FolderInUse, State, States
from harness.training.trainer import train
from helpers import byte_data, small_config
from paths import SUPPORT

CONFIG = small_config()
HERE = Environment("cpu", "fp32", "2.13.0", 1, "AVX2")
POINT = Point(0, 0, 0.0, 1.5, {"val/loss": 5.0}, "Every “effort”\ud800", (1.0, 2.0))


def states(folder: Path | None, environment: Environment = HERE, **train: Any) -> States:
    return States(folder, small_config(**train), byte_data(), environment)


def state(step: int, value: float | None = None) -> State:
    """A small state; its weights are `value`."""
    tensors = {
        "model.a": torch.full((20, 10), float(step if value is None else value)),
        "optimizer.a.exp_avg": torch.arange(200.0).reshape(20, 10),
        "optimizer.a.step": torch.tensor(float(step)),
        "rng.cpu": torch.arange(50, dtype=torch.uint8),
    }
    return State(step, tensors, {"training": step / 10, "steps": step}, {"optim/grad_norm": 0.1}, (POINT,) * step)


def accept(_: State) -> bool:
    return True


def newest(folder: Path, **options: Any) -> tuple[int | None, str]:
    """Step of the loaded state, whose content is checked, and the warning."""
    found, note = states(folder, **options).load_newest(accept)
    if found is None:
        return None, note
    wanted = state(found.step)
    assert (found.clock, found.pending, found.points) == (wanted.clock, wanted.pending, wanted.points)
    assert found.tensors.keys() == wanted.tensors.keys()
    assert all(torch.equal(tensor, wanted.tensors[name]) for name, tensor in found.tensors.items())
    return found.step, note


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two whole states, of steps 1 and 2."""
    with states(tmp_path / "state") as saving:
        saving.save(state(1))
        saving.save(state(2))
    return tmp_path / "state"


def names(folder: Path) -> list[str]:
    """Names of the files of states, without those of points."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("state-"))


def point_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("points-"))


def files(*numbers: int) -> list[str]:
    return [f"state-{number:06d}.{kind}" for number in numbers for kind in ("json", "safetensors")]


def test_the_newest_state_is_loaded(folder: Path) -> None:
    assert newest(folder) == (2, "")
    assert names(folder) == files(1, 2)
    description = json.loads((folder / "state-000002.json").read_text())
    assert description["step"] == 2 and description["owner"]["config"] == CONFIG.digest()
    assert load_file(folder / "state-000002.safetensors").keys() == state(2).tensors.keys()


def test_an_empty_folder_gives_no_state_and_no_warning(tmp_path: Path) -> None:
    with states(tmp_path / "new" / "state") as empty:
        assert empty.load_newest(accept) == (None, "")
    with states(None) as nowhere:
        nowhere.save(state(1))
        assert nowhere.load_newest(accept) == (None, "") and not nowhere.due(1e9)


def test_the_newest_two_are_kept(folder: Path) -> None:
    for step in (3, 4, 5):
        with states(folder) as saving:
            assert saving.load_newest(accept)[0].step == step - 1  # type: ignore[union-attr]
            saving.save(state(step))
        assert names(folder) == files(step - 1, step)


def test_a_stored_state_is_not_written_again(folder: Path) -> None:
    with states(folder) as saving:
        saving.load_newest(accept)
        saving.save(state(2))
    assert names(folder) == files(1, 2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_not_written(value: float, folder: Path) -> None:
    with states(folder) as saving:
        saving.load_newest(accept)
        saving.save(state(3, value))
        assert names(folder) == files(1, 2)
        saving.save(state(3, 3e38))  # the sum overflows, but every weight is finite
        assert names(folder) == files(2, 3)


# Killed saves


def test_a_save_killed_at_any_moment_leaves_a_valid_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL leaves the folder as it is.

    The folder is copied before every system call of a save, and in the middle of each write.
    """
    snapshots: list[str] = []

    def take_snapshot(moment: str) -> None:
        shutil.copytree(folder, tmp_path / f"snapshot {len(snapshots)}")
        snapshots.append(moment)

    def with_snapshots(name: str) -> Callable[..., Any]:
        plain = getattr(os, name)

        def call(*arguments: Any) -> Any:
            take_snapshot(f"before {name}")
            if name == "write":
                written = plain(arguments[0], arguments[1][: len(arguments[1]) // 2 + 1])
                take_snapshot("inside write")
                return written
            return plain(*arguments)

        return call

    with states(folder) as saving:
        saving.load_newest(accept)
        with monkeypatch.context() as patch:
            for name in ("write", "fsync", "replace", "unlink"):
                patch.setattr(os, name, with_snapshots(name))
            saving.save(state(3))
        take_snapshot("after")
    kinds = {moment: snapshots.count(moment) for moment in snapshots}
    # two new files, each with a flush of its folder, and one that is extended
    assert kinds["before fsync"] == 5 and kinds["before replace"] == 2
    assert kinds["before unlink"] >= 2 and kinds["before write"] > 10
    found = []
    for number in range(len(snapshots)):
        step, warning = newest(tmp_path / f"snapshot {number}")
        found.append(step)
        incomplete = "state-000003.json is missing; resumed from the state before, of step 2"
        assert warning in (["", incomplete] if step == 2 else [""])
    first = found.index(3)
    assert found == [2] * first + [3] * (len(found) - first)
    assert snapshots[first - 1] == "before replace"  # of the description: from then on the new state is loaded
    for number in (0, first - 1, first, len(snapshots) - 1):  # the next save cleans up
        left = tmp_path / f"snapshot {number}"
        with states(left) as saving:
            before = saving.load_newest(accept)[0]
            saving.save(state(9))
        assert newest(left) == (9, "")
        assert len(names(left)) == 4 and before is not None and not list(left.glob("*.part"))
        assert len(point_files(left)) == 2


# Damage


def flips(path: Path, count: int) -> list[int]:
    """Positions in a file: both ends, and random ones."""
    size = path.stat().st_size
    return [0, 1, 7, 8, 9, size - 2, size - 1, *random.Random(0).sample(range(size), count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("state-000002.json", 120), ("state-000002.safetensors", 80), ("points-000002.jsonl", 80)]
)
def test_a_flipped_bit_anywhere_is_detected(name: str, count: int, folder: Path) -> None:
    path = folder / name
    whole = path.read_bytes()
    for position in flips(path, count):
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            assert newest(folder) == (1, f"{path.name} is damaged; resumed from the state before, of step 1")
    path.write_bytes(whole)
    assert newest(folder) == (2, "")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte missing": lambda path: path.write_bytes(path.read_bytes()[:100] + path.read_bytes()[101:]),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "a list": lambda path: path.write_text("[]"),
    "nothing known": lambda path: path.write_text('{"content": {}}'),
    "not text": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("name", ["state-000002.json", "state-000002.safetensors", "points-000002.jsonl"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_skipped(damage: str, name: str, folder: Path) -> None:
    if (damage, name[:6]) == ("one byte more", "points"):
        pytest.skip("what follows the points of a state is ignored")
    DAMAGES[damage](folder / name)
    what = "missing" if damage == "missing" else "damaged"
    assert newest(folder) == (1, f"{name} is {what}; resumed from the state before, of step 1")
    with states(folder) as saving:  # the damaged state is not one of the two that are kept: it is removed
        saving.load_newest(accept)
        saving.save(state(3))
    assert names(folder) == files(1, 3) and newest(folder) == (3, "")


def test_a_folder_in_place_of_a_file_is_skipped(folder: Path) -> None:
    (folder / "state-000002.json").unlink()
    (folder / "state-000002.json").mkdir()
    assert newest(folder) == (
        1,
        "state-000002.json cannot be read (Is a directory); resumed from the state before, of step 1",
    )
    with states(folder) as saving:
        saving.load_newest(accept)
        saving.save(state(3))
    assert newest(folder) == (3, "")


def test_a_run_starts_from_the_beginning_if_all_states_are_damaged(folder: Path) -> None:
    (folder / "state-000001.safetensors").unlink()
    (folder / "state-000002.json").write_bytes(b"")
    warning = "state-000002.json is damaged; state-000001.safetensors is missing; started from the beginning"
    assert newest(folder) == (None, warning)
    with states(folder) as saving:
        saving.save(state(1))
    assert names(folder) == files(3)


def test_nothing_is_unpickled(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save({"model.a": Trap(trap)}, tmp_path / "pickle.pt")
    for content in (pickle.dumps(Trap(trap)), (tmp_path / "pickle.pt").read_bytes()):
        (folder / "state-000002.safetensors").write_bytes(content)
        assert newest(folder)[0] == 1
        rewrite(folder, 2, content)  # also with matching checksums
        assert newest(folder) == (1, "state-000002 does not fit; resumed from the state before, of step 1")
        (folder / "state-000002.json").write_bytes(content)
        assert newest(folder)[0] == 1
        rewrite(folder, 1)
        shutil.copy(folder / "state-000001.json", folder / "state-000002.json")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists()  # the trap works


@pytest.mark.parametrize(
    "changes",
    [
        {"points": {}},
        {"points": 3},
        {"points": {"file": "../points-000002.jsonl"}},
        {"environment": {}},
        {"environment": 5},
        {"tensors": None},
        {"owner": []},
    ],
    ids=str,
)
def test_a_description_with_wrong_content_is_skipped(changes: dict[str, Any], folder: Path) -> None:
    rewrite(folder, 2, **changes)
    step, warning = newest(folder)
    assert step == 1 and warning.startswith("state-000002")


@pytest.mark.parametrize("what", ["nothing", "one less", "one more", "another shape", "no snapshots"])
def test_tensors_that_do_not_match_the_model_are_skipped(what: str, tmp_path: Path) -> None:
    for step in (1, 2):
        points = train(small_config(), state=tmp_path)
        while next(points).step < step:
            pass
        points.close()  # type: ignore[attr-defined]
    tensors = load_file(tmp_path / "state-000002.safetensors")
    wrong: dict[str, dict[str, torch.Tensor]] = {
        "nothing": {},
        "one less": {name: tensor for name, tensor in tensors.items() if name != "model.final_norm.bias"},
        "one more": {**tensors, "model.other": torch.zeros(1)},
        "another shape": {**tensors, "model.final_norm.bias": torch.zeros(17)},
        "no snapshots": {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")},
    }
    rewrite(tmp_path, 2, save(wrong[what]))
    starts: list[tuple[int, str]] = []
    next(train(small_config(), state=tmp_path, on_start=lambda *start: starts.append(start)))
    assert starts == [(1, "state-000002 does not fit; resumed from the state before, of step 1")]


# States of another run or environment


def test_states_of_another_run_are_skipped_and_kept(folder: Path) -> None:
    refused = "state-000002 is of another configuration; state-000001 is of another configuration"
    assert newest(folder, learning_rate=2e-3) == (None, f"{refused}; started from the beginning")
    with states(folder, learning_rate=2e-3) as other:
        other.save(state(5))
        other.save(state(6))
        other.save(state(7))
    assert names(folder) == files(1, 2, 4, 5)
    assert newest(folder, learning_rate=2e-3) == (7, "")
    assert newest(folder)[0] == 2
    assert newest(folder, checkpoint_every=5)[0] == 2  # the interval of saving does not make another run


def test_a_state_of_another_format_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.training.resume, "FORMAT", "3")
    assert newest(folder)[1].startswith("state-000002 is of another file format; ")


def test_a_state_of_an_older_version_is_skipped_and_then_removed(folder: Path) -> None:
    content = read_json_with_checksum((folder / "state-000002.json").read_text()).content
    (folder / "state-000002.json").write_text(json.dumps({"sha256": "", "content": content}, indent=1))
    reason = "state-000002 is of another file format; resumed from the state before, of step 1"
    with states(folder) as saving:
        assert saving.load_newest(accept)[1] == reason
        saving.save(state(3))
    assert names(folder) == files(1, 3)


# The points beside the states


def test_saving_appends_the_new_points_to_the_older_of_two_files(tmp_path: Path) -> None:
    """A state costs no more late in a run, and the two states that are kept share no file."""
    written = []
    with states(tmp_path) as saving:
        for step in range(1, 9):
            before = {name: (tmp_path / name).stat().st_size for name in point_files(tmp_path)}
            saving.save(state(step))
            now = {name: (tmp_path / name).read_bytes() for name in point_files(tmp_path)}
            written.append(sum(map(len, now.values())) - sum(before.values()))
    assert point_files(tmp_path) == ["points-000001.jsonl", "points-000002.jsonl"]
    assert [content.count(b"\n") for content in now.values()] == [7, 8]
    assert len(set(written[2:])) == 1  # the points of two states, however many there are
    assert newest(tmp_path) == (8, "")
    (tmp_path / "points-000002.jsonl").unlink()
    assert newest(tmp_path) == (7, "points-000002.jsonl is missing; resumed from the state before, of step 7")


def test_a_resumed_run_leaves_the_points_of_its_state_alone(folder: Path) -> None:
    before = (folder / "points-000002.jsonl").read_bytes()
    for step in (3, 4):
        with states(folder) as saving:
            saving.load_newest(accept)
            saving.save(state(step))
        assert newest(folder) == (step, "")
        assert point_files(folder) == [f"points-{step - 1:06d}.jsonl", f"points-{step:06d}.jsonl"]
        if step == 3:
            assert (folder / "points-000002.jsonl").read_bytes() == before


def test_points_of_another_run_are_kept(folder: Path) -> None:
    with states(folder, learning_rate=2e-3) as other:
        other.save(state(5))
        other.save(state(6))
    assert point_files(folder) == [f"points-{number:06d}.jsonl" for number in (1, 2, 3, 4)]
    assert newest(folder)[0] == 2


def test_points_that_a_failed_save_left_do_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with states(folder) as saving:
        saving.save(state(3))
        saving.save(state(4))
        with monkeypatch.context() as patch:
            patch.setattr(harness.training.resume, "_encoded", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                saving.save(state(5))
        assert newest(folder) == (4, "")
        saving.save(state(6))
    assert newest(folder) == (6, "")


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, ""),
        ({"threads": 2}, "resumed with 2 threads, was 1: not bit-equal"),
        ({"instructions": "AVX512"}, "resumed on a CPU with AVX512, was AVX2: not bit-equal"),
        ({"version": "2.14.0"}, "resumed with torch 2.14.0, was 2.13.0: not bit-equal"),
        ({"device": "NVIDIA H200", "threads": 2}, "resumed on NVIDIA H200, was cpu: not bit-equal"),
        (
            {"device": "NVIDIA H200", "precision": "bf16"},
            "resumed on NVIDIA H200, was cpu and in bf16, was fp32: not bit-equal",
        ),
    ],
)
def test_another_environment_is_a_warning(changes: dict[str, Any], warning: str, folder: Path) -> None:
    here = Environment(**{**vars(HERE), **changes})
    assert newest(folder, environment=here) == (2, warning)


def test_the_environment_describes_this_process() -> None:
    here = Environment.here(torch.device("cpu"), "bf16")
    assert (here.device, here.precision, here.version, here.threads) == ("cpu", "bf16", torch.__version__, 1)


# One process at a time


def test_a_folder_is_locked_for_one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.training.resume, "LOCK_SECONDS", 0.1)
    with states(folder), pytest.raises(FolderInUse, match="another process trains on these states"), states(folder):
        pass
    with states(folder):
        pass


def test_the_lock_of_a_killed_process_is_released(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = (
        "import sys, time, filelock\n"
        "lock = filelock.FileLock(sys.argv[1])\n"
        "lock.acquire()\n"
        "print(flush=True)\n"
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(folder / "lock")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder:
        holder.stdout.readline()
        monkeypatch.setattr(harness.training.resume, "LOCK_SECONDS", 0.1)
        with pytest.raises(FolderInUse), states(folder):
            pass
        holder.kill()
    with states(folder):
        assert newest(folder)[0] == 2


def test_a_process_waits_for_the_lock(folder: Path) -> None:
    ending = states(folder)
    ending.__enter__()
    thread = threading.Timer(0.3, ending.__exit__)
    thread.start()
    began = time.monotonic()
    with states(folder):
        assert time.monotonic() - began > 0.2
    thread.join()


# How often states are saved


def test_saving_takes_at_most_two_per_cent_of_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(
        harness.training.resume, "time", SimpleNamespace(perf_counter=lambda: now, monotonic=time.monotonic)
    )
    write = harness.core.files.write_atomic

    def slow(*arguments: Any) -> str:
        nonlocal now
        now += 4.0
        return write(*arguments)

    monkeypatch.setattr(harness.training.resume, "write_atomic", slow)
    with states(folder) as saving:
        found, _ = saving.load_newest(accept)
        assert found is not None
        start = found.clock["training"]  # of another process, whose saves do not count
        assert not saving.due(1000.0)  # `checkpoint_every`: a minute has to pass
        now += 59.9
        assert not saving.due(1000.0)
        now += 0.2
        assert saving.due(1000.0)
        saved = state(3)
        saving.save(State(3, saved.tensors, {"training": 100.0}, None, ()))
        assert now == pytest.approx(1068.1)  # 4 seconds for each of two files
        now += 10_000.0  # the time of evaluations does not count
        assert not saving.due(start + 50 * (8 + 8) - 0.1)  # the save that was made and the next one
        assert saving.due(start + 50 * (8 + 8) + 0.1)
        saving.save(State(4, saved.tensors, {"training": 900.0}, None, ()))
        now += 10_000.0
        assert not saving.due(start + 50 * (8 + 8 + 8) - 0.1)
        assert saving.due(start + 50 * (8 + 8 + 8) + 0.1)
        now -= 9_950.0
        assert not saving.due(1e9)  # never more often than `checkpoint_every`
    with states(folder, checkpoint_every=None) as never:
        now += 1e9
        assert not never.due(1e9)


# A full disk

FULL = """
import resource, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from helpers import small_config
from harness.training.trainer import train
for size in (0, 5_000, 100_000):
    points = train(small_config(), state=Path({folder!r}))
    next(points)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        points.close()
    except OSError as error:
        print(error.errno, error.filename)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_keeps_earlier_states(tmp_path: Path) -> None:
    points = train(small_config(), state=tmp_path)
    assert [next(points).step for _ in range(3)] == [0, 1, 2]
    points.close()  # type: ignore[attr-defined]
    assert (tmp_path / "state-000001.safetensors").stat().st_size > 100_000
    code = FULL.format(tests=str(SUPPORT), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == f"{errno.EFBIG} {tmp_path / 'state-000002.safetensors'}\n" * 3, done.stderr
    assert names(tmp_path) == files(1)
    assert [point.step for point in train(small_config(), state=tmp_path)] == [3, 4, 5, 6]


def test_a_disk_full_between_the_two_files_leaves_neither(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(file: int, view: memoryview) -> int:
        if bytes(view[:1]) == b"{" and b"checksum" in bytes(view[:20]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, view)

    with states(folder) as saving:
        saving.load_newest(accept)
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            saving.save(state(3))
    assert caught.value.errno == errno.ENOSPC and str(caught.value.filename).endswith("state-000003.json")
    assert names(folder) == files(1, 2) and newest(folder) == (2, "")
