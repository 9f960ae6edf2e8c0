"""States of a run on disk, from which another process can resume it bit for bit.

A state is for resuming and is removed with its run; a checkpoint (`harness.model.weights`) is the final weights, for
users. The field that sets how often a state is saved is nevertheless called `train.checkpoint_every`: stored specs and
runs have this name.

A state is three files: `state-000007.safetensors` with the weights, the optimizer's state and the states of torch's
random generators; the points made so far (`harness.training.points`), in one of two files that take turns and only
grow; and `state-000007.json` with everything else and checksums of all three. Nothing is ever unpickled. The
description is written last, and older states are removed only once a newer one is complete: whenever a process is
killed, a valid state remains. The two states that are kept share no file. A damaged state is skipped with a warning,
and the one before it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.config.fingerprint import training_code
from harness.config.run import RunConfig
from harness.core.files import (
    DamagedError,
    json_with_checksum,
    read_json_with_checksum,
    safetensors_chunks,
    sha256_of,
    write_atomic,
)
from harness.core.metrics import Point
from harness.data import Dataset
from harness.model.gpt import GPT
from harness.training.environment import Environment
from harness.training.model_optimizer import ModelOptimizer
from harness.training.points import PointsFile

FORMAT: Final = "2"  # of the files; raise it when an older reader would misread them
KEPT: Final = 2  # complete states in the folder
COST_SHARE: Final = 50  # seconds of training per second of saving: saving takes at most 2 % of the time
LOCK_SECONDS: Final = 60.0  # how long to wait for another process to release the folder
_FILE: Final = re.compile(r"state-(\d{6,})\.(?:safetensors|json)(?:\.part)?")
_MISMATCH: Final = {
    "format": "of another file format",
    "config": "of another configuration",
    "data": "of other data",
    "code": "of another training code",
}


class StateError(ValueError):
    """A state that cannot be loaded, with the reason: `state-000007.json is damaged`."""


class FolderInUse(RuntimeError):
    """Another process trains on the states of a folder."""


@dataclass(frozen=True)
class State:
    """A run between two steps.

    Attributes:
        step: optimizer steps done, which is also the number of the next batch.
        tensors: see `state_tensors`.
        clock: seconds and counts, see `Clock.state`.
        pending: metrics of the last step if its point has not been made yet, else None.
        points: all points made so far.
    """

    step: int
    tensors: Mapping[str, Tensor]
    clock: Mapping[str, float]
    pending: Mapping[str, float] | None
    points: tuple[Point, ...]


_UNTRAINED_SCALE = "decay.tok_emb"  # see `GPT.untrained_scale`


def state_tensors(model: GPT, optimizer: ModelOptimizer, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a state, not copied: weights (`model.…`), optimizer (`optimizer.…`), generators (`rng.…`)."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state_tensors().items()}
    if model.untrained_scale is not None:
        tensors[_UNTRAINED_SCALE] = torch.tensor(model.untrained_scale, dtype=torch.float64)
    tensors["rng.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def state_matches(state: State, model: GPT, optimizer: ModelOptimizer) -> bool:
    """Whether a state has exactly the tensors of this model and this optimizer."""
    expected = {f"model.{name}": tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if model.untrained_scale is not None:
        expected[_UNTRAINED_SCALE] = ()
    if state.step > 0:
        expected |= {f"optimizer.{name}": shape for name, shape in optimizer.state_shapes().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.tensors.items() if not name.startswith("rng.")}
    return found == expected


@torch.no_grad()
def load_tensors(tensors: Mapping[str, Tensor], model: GPT, optimizer: ModelOptimizer, device: torch.device) -> None:
    """Copy what `state_tensors` gave into a model and an optimizer of the same kind, and into torch's generators."""
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[f"model.{name}"])
    if model.untrained_scale is not None:
        model.untrained_scale = tensors[_UNTRAINED_SCALE].item()
    prefix = "optimizer."
    stored = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    optimizer.load_state_tensors(stored)
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)


class States:
    """The states of one run in a folder, locked for one process at a time. Without a folder, nothing is saved.

    Call `load_newest` before the first `save`: saving removes the states that could not be loaded.

    Args:
        folder: created if it is missing; the caller removes it after the run.
        config: of the run.
        data: the tokens it is trained on.
        environment: of this process.

    Raises:
        FolderInUse: on entering, if another process holds the folder for `LOCK_SECONDS`.
    """

    def __init__(self, folder: Path | None, config: RunConfig, data: Dataset, environment: Environment) -> None:
        self.folder = folder
        self.every = config.train.checkpoint_every if folder is not None else None
        self.environment = environment
        self.owner = {"format": FORMAT, "config": config.digest(), "data": data.fingerprint, "code": training_code()}
        self._complete: list[tuple[int, PointsFile]] = []  # the states that can be loaded, oldest first
        self._newest: object = None  # identifies the newest state, see `_identity`
        self._costs = [0.0]  # seconds that each save of this process took
        self._saved_at = time.perf_counter()
        self._trained = 0.0  # seconds of training in the state that this process resumed from
        self._lock: FileLock | None = None

    def __enter__(self) -> States:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def load_newest(self, accept: Callable[[State], bool]) -> tuple[State | None, str]:
        """Load the newest state that is complete, belongs to this run and is accepted by `accept`.

        Returns:
            The state, or None if the run starts from the beginning; and a warning, empty if no state was skipped and
            the state was saved in the same environment.
        """
        warnings = []
        for number in sorted(self._numbers(), reverse=True):
            try:
                state, points, before = self._read(number)
                if not accept(state):
                    raise StateError(f"{_name(number)} does not fit")
            except StateError as error:
                warnings.append(str(error))
                continue
            if warnings:
                warnings.append(f"resumed from the state before, of step {state.step}")
            if changes := self.environment.changes(before):
                warnings.append(changes)
            self._complete = [(number, points)]
            self._newest, self._trained = _identity(state), state.clock["training"]
            return state, "; ".join(warnings)
        if warnings:
            warnings.append("started from the beginning")
        return None, "; ".join(warnings)

    def due(self, trained: float) -> bool:
        """Whether a state is due, after `trained` seconds of training."""
        if self.every is None or time.perf_counter() - self._saved_at < self.every:
            return False
        return trained - self._trained >= COST_SHARE * (sum(self._costs) + self._costs[-1])  # the next save included

    def save(self, state: State) -> None:
        """Write a state, then remove older ones.

        A state whose weights are not finite is not written, nor one that is stored already.

        Raises:
            OSError: it cannot be written, for example because the disk is full; earlier states are intact.
        """
        began = time.perf_counter()
        weights = (tensor for name, tensor in state.tensors.items() if name.startswith("model."))
        if self.folder is None or _identity(state) == self._newest or not all(map(_finite, weights)):
            return
        number = max(self._numbers(), default=0) + 1
        tensors, description = self._files(number)
        # the points of the state that is removed next; the newest state keeps its own file
        points = self._complete[0][1] if len(self._complete) == KEPT else None
        if points is None or points.count > len(state.points):
            points = PointsFile(self.folder / PointsFile.name(number))
        try:
            checksum = write_atomic(tensors, safetensors_chunks(state.tensors))
            points.extend(state.points)
            write_atomic(description, [self._described(state, points, checksum)])
        except BaseException:
            tensors.unlink(missing_ok=True)
            raise
        self._complete = [*self._complete, (number, points)][-KEPT:]
        self._newest = _identity(state)
        self._remove_others()
        self._saved_at = time.perf_counter()
        self._costs.append(self._saved_at - began)

    def _described(self, state: State, points: PointsFile, checksum: str) -> bytes:
        """The description file. It begins with its own checksum, so that any changed byte is noticed."""
        return _encoded(
            {
                "owner": self.owner,
                "environment": dataclasses.asdict(self.environment),
                "tensors": checksum,
                "points": points.described(),
                "step": state.step,
                "clock": dict(state.clock),
                "pending": None if state.pending is None else dict(state.pending),
            }
        )

    def _description(self, number: int) -> dict[str, Any]:
        """The content of a description file, verified byte for byte."""
        _, path = self._files(number)
        try:
            raw = path.read_bytes()
            content, verified = read_json_with_checksum(raw)
        except OSError as error:
            raise StateError(f"{path.name} {_unreadable(error)}") from error
        except DamagedError:
            content, verified = {}, False
        if not verified and {"sha256", "content"} == content.keys():
            raise StateError(f"{_name(number)} is {_MISMATCH['format']}")
        if not verified or _encoded(content) != raw or not isinstance(content.get("owner"), dict):
            raise StateError(f"{path.name} is damaged")
        return content

    def _read(self, number: int) -> tuple[State, PointsFile, Environment]:
        assert self.folder is not None
        content = self._description(number)
        path, _ = self._files(number)
        for name, reason in _MISMATCH.items():
            if content["owner"].get(name) != self.owner[name]:
                raise StateError(f"{_name(number)} is {reason}")
        try:
            if sha256_of(path) != content["tensors"]:
                raise StateError(f"{path.name} is damaged")
            opened = PointsFile.open(self.folder, content["points"])
            if opened is None:
                raise StateError(f"{content['points']['file']} is damaged")
            file, points = opened
            state = State(content["step"], load_file(path), content["clock"], content["pending"], points)
            return state, file, Environment(**content["environment"])
        except OSError as error:
            raise StateError(f"{Path(error.filename or path).name} {_unreadable(error)}") from error
        except (SafetensorError, LookupError, TypeError) as error:
            raise StateError(f"{_name(number)} does not fit") from error

    def _remove_others(self) -> None:
        """Remove every state but the newest complete ones and the valid ones of another run."""
        assert self.folder is not None
        kept = {file.path.name for _, file in self._complete}
        for number in self._numbers() - {number for number, _ in self._complete}:
            with contextlib.suppress(StateError):
                content = self._description(number)
                if content["owner"] != self.owner:
                    kept.add(PointsFile.name_in(content.get("points")))
                    continue
            for path in reversed(self._files(number)):  # the description first
                for name in (path, path.with_name(f"{path.name}.part")):
                    with contextlib.suppress(OSError):  # leaving it does no harm
                        name.unlink(missing_ok=True)
        for path in PointsFile.all_in(self.folder):
            if path.name not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _numbers(self) -> set[int]:
        """Numbers of all states in the folder, complete or not."""
        names = (_FILE.fullmatch(path.name) for path in self.folder.iterdir()) if self.folder is not None else ()
        return {int(match[1]) for match in names if match is not None}

    def _files(self, number: int) -> tuple[Path, Path]:
        """Paths of a state's tensors and description."""
        assert self.folder is not None
        return self.folder / f"{_name(number)}.safetensors", self.folder / f"{_name(number)}.json"


def _name(number: int) -> str:
    return f"state-{number:06d}"


def _identity(state: State) -> object:
    """Differs between two states of one run."""
    return state.step, state.pending is None, len(state.points)


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json_with_checksum(content, indent=1).encode()


def _unreadable(error: OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def _finite(tensor: Tensor) -> bool:
    return math.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())  # the sum allocates no mask


def _locked(folder: Path) -> FileLock | None:
    """A lock that keeps other processes out of a folder until it is released or its process ends.

    The holder may be a worker whose parent was killed. It stops at its next step, so it is waited for.
    """
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise FolderInUse(f"{folder}: another process trains on these states") from None
    except (OSError, NotImplementedError):  # a file system without locks
        return None
    return lock
