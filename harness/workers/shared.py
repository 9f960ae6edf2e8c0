"""States of runs in a place that every node reaches, so that another node can resume a run whose node is gone.

A worker saves states in a folder on its node (`harness.training.resume`). Beside the training, a thread copies the
newest of them to the shared place: a folder, or an address that fsspec can open, such as `s3://bucket/states`.

    PLACE/SWEEP/RUN/000000001200-3f9c2a7d/    copy of a state of step 1200
        state-000007.safetensors  state-000007.json  points-000006.jsonl
        copy.json                             written last: bytes and SHA-256 of the other files

A copy without a valid `copy.json`, or with other bytes than it says, is ignored and the one before it is used. Every
copy has a folder of its own with a random name. So two workers never write the same file, also when one of them was
thought to be dead and is not. Nothing is ever unpickled, and a name that is stored there never becomes a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from harness.core.bounded_json import MAX_BYTES
from harness.core.files import DamagedError, json_with_checksum, read_json_with_checksum
from harness.core.links import read_bounded
from harness.core.secrets import without_secrets
from harness.core.text import is_key, printable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

KEPT: Final = 2  # copies of a run
_COPY: Final = re.compile(r"(\d{12})-[0-9a-f]{8}")
_DESCRIPTION: Final = "copy.json"
_DESCRIPTION_BYTES: Final = 10_000  # at most
_STATE: Final = re.compile(r"state-(\d{6,})\.json")
_FILES: Final = re.compile(r"state-\d{6,}\.(?:safetensors|json)|points-\d{6,}\.jsonl")
_CHUNK: Final = 1 << 22  # bytes
_POLL_SECONDS: Final = 0.5  # between two looks for a new state
_ABANDON_SECONDS: Final = 5.0  # how long to wait for a copy that is no longer needed
_COST_SHARE: Final = 50  # seconds between two copies per second of copying: 2 %, as for saving states


class _Incomplete(ValueError):
    """A copy that is not whole, or a state that was replaced while it was read."""


@dataclass(frozen=True)
class _Saved:
    """A state in a local folder: the step, and file name → bytes that belong to it."""

    step: int
    files: Mapping[str, int]


class SharedStates:
    """The copies of one run's states in a shared place. Its methods raise whatever the place's library raises.

    Args:
        place: a folder, or an address for fsspec.
        run: `SWEEP/RUN`, two words of letters, digits, `_` and `-`.
    """

    def __init__(self, place: str, run: str) -> None:
        self._files, root = _open(place)
        self._folder = _below(root, run)
        self._own: list[str] = []  # the copies that this process has made or read, oldest first

    def save(self, folder: Path) -> int | None:
        """Copy the newest state of a local folder, then remove older copies.

        Returns:
            its step; None if there is no state, or it was replaced by a newer one meanwhile.
        """
        saved = _newest(folder)
        if saved is None:
            return None
        name = f"{saved.step:012d}-{uuid.uuid4().hex[:8]}"
        place = f"{self._folder}/{name}"
        try:
            self._files.makedirs(place, exist_ok=True)
            written = {file: self._send(folder / file, f"{place}/{file}", size) for file, size in saved.files.items()}
        except (_Incomplete, FileNotFoundError):
            self._remove(name)
            if folder.is_dir() and _newest(folder) == saved:  # the place's own error
                raise
            return None
        content = {"step": saved.step, "files": {n: {"bytes": saved.files[n], "sha256": written[n]} for n in written}}
        with self._files.open(f"{place}/{_DESCRIPTION}", "wb") as stream:
            stream.write(json_with_checksum(content).encode())
        self._own = [*self._own, name][-KEPT:]
        for old in self._names():
            if old not in self._own and _step(old) <= saved.step:
                self._remove(old)
        return saved.step

    def fetch(self, folder: Path, newer_than: int = -1) -> tuple[int | None, str]:
        """Download the newest whole copy into a new folder.

        Args:
            folder: that does not exist yet.
            newer_than: a step; copies up to it are of no use.

        Returns:
            the step of the copy, None if there is no whole one; and a warning, empty if none was skipped.
        """
        skipped = []
        for name in reversed(self._names()):
            if _step(name) <= newer_than:
                break
            try:
                self._receive(name, folder)
            except (_Incomplete, FileNotFoundError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                why = error if isinstance(error, _Incomplete) else "is not complete"
                skipped.append(f"the shared state of step {_step(name)} {why}")
                continue
            self._own = [name]
            return _step(name), "; ".join(skipped)
        return None, "; ".join(skipped)

    def _names(self) -> list[str]:
        """The names of all copies, whole or not, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            found = (str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(self._folder, detail=False))
            return sorted(name for name in found if _COPY.fullmatch(name))
        return []

    def _remove(self, name: str) -> None:
        with contextlib.suppress(Exception):  # leaving it does no harm: the next copy tries again
            self._files.rm(f"{self._folder}/{name}", recursive=True)

    def _send(self, source: Path, target: str, size: int) -> str:
        """Copy the first `size` bytes of a file; returns their SHA-256."""
        digest = hashlib.sha256()
        with source.open("rb") as reader, self._files.open(target, "wb") as writer:
            for chunk in _chunks(reader, size):
                digest.update(chunk)
                writer.write(chunk)
        return digest.hexdigest()

    def _receive(self, name: str, folder: Path) -> None:
        """Download a copy."""
        described = self._described(name)
        folder.mkdir(parents=True)
        if sum(size for size, _ in described.values()) > shutil.disk_usage(folder).free:
            raise _Incomplete("is larger than the free space of the disk")
        for file, (size, sha256) in described.items():
            digest = hashlib.sha256()
            with (
                self._files.open(f"{self._folder}/{name}/{file}", "rb") as reader,
                (folder / file).open("xb") as writer,
            ):
                for chunk in _chunks(reader, size):
                    digest.update(chunk)
                    writer.write(chunk)
            if digest.hexdigest() != sha256:
                raise _Incomplete(f"is damaged ({file})")

    def _described(self, name: str) -> dict[str, tuple[int, str]]:
        """File name → bytes and SHA-256, of a copy whose description is intact."""
        try:
            with self._files.open(f"{self._folder}/{name}/{_DESCRIPTION}", "rb") as stream:
                content, verified = read_json_with_checksum(stream.read(_DESCRIPTION_BYTES))
            files = {str(file): (int(one["bytes"]), str(one["sha256"])) for file, one in content["files"].items()}
        except FileNotFoundError:
            raise _Incomplete("is not complete") from None
        except (DamagedError, LookupError, TypeError, ValueError, AttributeError):
            raise _Incomplete(f"is damaged ({_DESCRIPTION})") from None
        if not verified or content.get("step") != _step(name) or not all(map(_FILES.fullmatch, files)):
            raise _Incomplete(f"is damaged ({_DESCRIPTION})")
        return files


class Copier:
    """A thread that copies every new state of a folder to the shared place while a run trains.

    It never waits for the training nor the training for it, and takes at most 2 % of the time, as saving does: after a
    copy of one second it rests for 50. A place that fails gives a warning, and is tried again.

    Args:
        states: of the run, in the shared place.
        folder: where the run saves its states.
        copied: the step of the newest copy there is.
    """

    def __init__(self, states: SharedStates, folder: Path, copied: int = -1) -> None:
        self._states, self._folder = states, folder
        self._copied = copied
        self._resting_until = 0.0
        self._finishing = threading.Event()
        self._warnings: list[str] = []
        self._failing = self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="copier", daemon=True)

    def __enter__(self) -> Copier:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._finishing.set()

    def finish(self, seconds: float) -> None:
        """Copy the last state now; wait at most `seconds` for it."""
        self._finishing.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warnings.append(f"the last state was not copied to the shared place within {seconds:.0f} s")

    def abandon(self) -> None:
        """Copy nothing more: the run has ended."""
        self._abandoned = True
        self._finishing.set()
        self._thread.join(_ABANDON_SECONDS)

    def warnings(self) -> list[str]:
        """Sentences that are new since the last call."""
        found, self._warnings = self._warnings, []
        return found

    def _run(self) -> None:
        while not self._finishing.wait(_POLL_SECONDS):
            if time.monotonic() >= self._resting_until:
                self._copy()
        if not self._abandoned:
            self._copy()

    def _copy(self) -> None:
        began = time.monotonic()
        try:
            saved = _newest(self._folder)
            if saved is None or saved.step <= max(0, self._copied):
                return
            self._copied = max(self._copied, self._states.save(self._folder) or -1)
            self._failing = False
        except Exception as error:  # whatever the place's library raises: the run continues without copies
            if not self._failing:
                self._warnings.append(
                    f"states cannot be copied to the shared place, so they are on one node only: {brief(error)}"
                )
            self._failing = True
        self._resting_until = time.monotonic() + _COST_SHARE * (time.monotonic() - began)


def check_place(place: str) -> str:
    """Why a shared place cannot be used, found without contacting it; empty if it may."""
    try:
        _open(place)
    except Exception as error:  # an unknown protocol, a missing package, a wrong option
        return brief(error)
    return ""


def remove_states(place: str, name: str) -> None:
    """Remove the copies of `SWEEP/RUN`, or of all runs of a `SWEEP`."""
    files, root = _open(place)
    folder = _below(root, name)
    if files.exists(folder):
        files.rm(folder, recursive=True)


def saved_step(folder: Path) -> int:
    """The step of the newest state in a local folder; -1 if there is none."""
    saved = _newest(folder)
    return -1 if saved is None else saved.step


def adopt(fetched: Path, folder: Path) -> None:
    """Move a downloaded state to the folder of a run's states, whose older states are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if _FILES.fullmatch(path.name):
            path.unlink()
    for path in sorted(fetched.iterdir(), key=lambda path: path.suffix == ".json"):  # the description last
        path.replace(folder / path.name)
    fetched.rmdir()


def brief(error: Exception) -> str:
    """An error of a library in one line."""
    return printable(without_secrets((str(error).strip() or type(error).__name__).splitlines()[0]))


def _open(place: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a place, and the path in it."""
    from fsspec.core import url_to_fs

    files, root = url_to_fs(place, use_listings_cache=False)
    return files, str(root).rstrip("/")


def _below(root: str, name: str) -> str:
    """The path of a sweep or a run below the root."""
    parts = name.split("/")
    assert all(map(is_key, parts)), f"found {name!r} as the name of a run"
    return "/".join([root, *parts])


def _step(name: str) -> int:
    """The step of a copy, from its name."""
    return int(name.partition("-")[0])


def _newest(folder: Path) -> _Saved | None:
    """The newest state in a local folder whose description is intact."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted((path.name for path in folder.iterdir() if _STATE.fullmatch(path.name)), reverse=True)
        for name in sorted(names, key=lambda name: int(name[6:-5]), reverse=True):
            with contextlib.suppress(OSError, DamagedError, LookupError, TypeError, ValueError):
                return _saved(folder, name)
    return None


def _saved(folder: Path, description: str) -> _Saved:
    raw = read_bounded(folder / description, MAX_BYTES)
    content, verified = read_json_with_checksum(raw)
    tensors = f"{description.removesuffix('.json')}.safetensors"
    points: dict[str, Any] = content["points"]
    if not verified or not _FILES.fullmatch(points["file"]):
        raise DamagedError("is damaged")
    sizes = {tensors: (folder / tensors).stat().st_size, points["file"]: int(points["bytes"]), description: len(raw)}
    return _Saved(int(content["step"]), sizes)


def _chunks(stream: Any, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a stream.

    Raises:
        _Incomplete: it is shorter.
    """
    while size:
        chunk = stream.read(min(_CHUNK, size))
        if not chunk:
            raise _Incomplete("is shorter than its description says")
        size -= len(chunk)
        yield chunk
