"""What a run has come to, on disk, so that another process can go on with it to the last bit.

A state is two files, `state-000007.safetensors` with the weights, what the optimizers remember and the states of
torch's generators, and `state-000007.json` with everything else and a checksum of both. Nothing is ever unpickled.
The description is written last, and older states go only once a newer one is whole: whatever ends a process, one can be
loaded. A damaged one is passed over, and said to be, for the one before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.config.fingerprint import training_code
from harness.config.run import RunConfig
from harness.core.files import safetensors_chunks, sha256_of, write_whole
from harness.core.metrics import Point
from harness.data import Dataset
from harness.model.gpt import GPT
from harness.training.devices import describe
from harness.training.optimizers import Optimizer

FORMAT: Final = "1"  # of the files: raised when an older reader would misread them
KEPT: Final = 2  # whole states at once
COST_SHARE: Final = 50  # times the seconds of all saves are trained before the last of them: at most 2 % of the time
LOCK_SECONDS: Final = 60.0  # what a process that is about to end gets to let go of a folder
_FILE: Final = re.compile(r"state-(\d{6,})\.(?:safetensors|json)(?:\.part)?")
_OTHER: Final = {
    "format": "of another file format",
    "config": "of another configuration",
    "data": "of other data",
    "code": "of another training code",
}


class StateError(ValueError):
    """A state that cannot be gone on from, and why: `state-000007.json is damaged`."""


class FolderInUse(RuntimeError):
    """Another process trains on the states of a folder."""


@dataclass(frozen=True)
class State:
    """A run between two steps.

    Attributes:
        step: optimizer steps done, and so the number of the batch that is next.
        tensors: see `collect`.
        clock: seconds and counts, see `Clock.state`.
        pending: what the last step measured, where its point is still to be made; None where it has been.
        points: all points made so far.
    """

    step: int
    tensors: Mapping[str, Tensor]
    clock: Mapping[str, float]
    pending: Mapping[str, float] | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Environment:
    """What the last bits of a run's numbers depend on beside its configuration, its data and its code."""

    device: str
    precision: str
    version: str  # of torch
    threads: int
    instructions: str  # the CPU's widest vectors, which torch chooses its kernels by

    @classmethod
    def here(cls, device: torch.device, precision: str) -> Environment:
        """Those of this process."""
        instructions = torch.backends.cpu.get_cpu_capability()
        return cls(describe(device), precision, torch.__version__, torch.get_num_threads(), instructions)

    def changes(self, before: Environment) -> str:
        """`resumed with 2 threads, was 1: not bit-equal`; empty where nothing that matters is different."""
        words = {"device": "on", "precision": "in", "version": "with torch"}
        if self.device == before.device == "cpu":
            words |= {"threads": "with", "instructions": "on a CPU with"}
        changed = []
        for name, word in words.items():
            now, was = getattr(self, name), getattr(before, name)
            unit = (" thread" if now == 1 else " threads") if name == "threads" else ""
            if now != was:
                changed.append(f"{word} {now}{unit}, was {was}")
        return f"resumed {' and '.join(changed)}: not bit-equal" if changed else ""


_DECAY = "decay.tok_emb"  # see `GPT.untrained_decay`


def collect(model: GPT, optimizer: Optimizer, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a state: weights (`model.…`), moments (`optimizer.…`), generators (`rng.…`); none is copied."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.tensors().items()}
    if model.untrained_scale is not None:
        tensors[_DECAY] = torch.tensor(model.untrained_scale, dtype=torch.float64)
    tensors["rng.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def fits(state: State, model: GPT, optimizer: Optimizer) -> bool:
    """Whether a state has exactly the tensors of this model and this optimizer."""
    wanted = {f"model.{name}": tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if model.untrained_scale is not None:
        wanted[_DECAY] = ()
    if state.step > 0:
        wanted |= {f"optimizer.{name}": shape for name, shape in optimizer.shapes().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.tensors.items() if not name.startswith("rng.")}
    return found == wanted


@torch.no_grad()
def put_back(tensors: Mapping[str, Tensor], model: GPT, optimizer: Optimizer, device: torch.device) -> None:
    """Copy what `collect` gave into a model and an optimizer of the same kind, and into torch's generators."""
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[f"model.{name}"])
    if model.untrained_scale is not None:
        model.untrained_scale = tensors[_DECAY].item()
    head = "optimizer."
    optimizer.restore({name[len(head) :]: tensor for name, tensor in tensors.items() if name.startswith(head)})
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)


class States:
    """The states of one run in a folder, which one process at a time may use. Without a folder, nothing is kept.

    Ask for the `newest` first: what is saved afterwards takes the place of what was not found good.

    Args:
        folder: made where it is missing; whoever gave it removes it when the run is over.
        config: of the run.
        data: the tokens it is trained on.
        surroundings: of this process.
    """

    def __init__(self, folder: Path | None, config: RunConfig, data: Dataset, surroundings: Environment) -> None:
        self.folder = folder
        self.every = config.train.checkpoint_every if folder is not None else None
        self.surroundings = surroundings
        self.owner = {"format": FORMAT, "config": config.digest(), "data": data.fingerprint, "code": training_code()}
        self._whole: list[int] = []  # numbers of the states that can be loaded, oldest first
        self._last: object = None  # what the newest state holds, in short
        self._costs = [0.0]  # seconds that each save of this process took
        self._saved_at = time.perf_counter()
        self._trained = 0.0  # seconds of training in the state that this process went on from
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> States:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def newest(self, good: Callable[[State], bool]) -> tuple[State | None, str]:
        """The newest state that is whole, belongs to this run and is `good`, and what there is to say about it.

        Returns:
            None where a run has to start from the beginning. The text is empty where nothing was passed over and the
            state was saved under the same circumstances.
        """
        said = []
        for number in sorted(self._numbers(), reverse=True):
            try:
                state, before = self._read(number)
                if not good(state):
                    raise StateError(f"{_name(number)} does not fit")
            except StateError as error:
                said.append(str(error))
                continue
            if said:
                said.append(f"went on from the state before, of step {state.step}")
            if changes := self.surroundings.changes(before):
                said.append(changes)
            self._whole, self._last, self._trained = [number], _content(state), state.clock["training"]
            return state, "; ".join(said)
        if said:
            said.append("started from the beginning")
        return None, "; ".join(said)

    def due(self, trained: float) -> bool:
        """Whether the rhythm asks for a state now, after `trained` seconds of training."""
        if self.every is None or time.perf_counter() - self._saved_at < self.every:
            return False
        return trained - self._trained >= COST_SHARE * (sum(self._costs) + self._costs[-1])  # the next costs as much

    def save(self, state: State) -> None:
        """Write a state, then remove what it makes superfluous.

        One whose weights are not finite is not written: nothing can come of it. Nor is one that is there already.

        Raises:
            OSError: the disk is full, or the like; the states before are untouched.
        """
        began = time.perf_counter()
        weights = (tensor for name, tensor in state.tensors.items() if name.startswith("model."))
        if self.folder is None or _content(state) == self._last or not all(map(_finite, weights)):
            return
        number = max(self._numbers(), default=0) + 1
        tensors, description = self._files(number)
        try:
            checksum = write_whole(tensors, safetensors_chunks(state.tensors))
            write_whole(description, [self._described(state, checksum)])
        except BaseException:
            tensors.unlink(missing_ok=True)
            raise
        self._whole = [*self._whole, number][-KEPT:]
        self._last = _content(state)
        self._remove_others()
        self._saved_at = time.perf_counter()
        self._costs.append(self._saved_at - began)

    def _described(self, state: State, checksum: str) -> bytes:
        """The description. Its own checksum comes first, so that no byte of it can change unnoticed."""
        return _encoded(
            {
                "owner": self.owner,
                "surroundings": dataclasses.asdict(self.surroundings),
                "tensors": checksum,
                "step": state.step,
                "clock": dict(state.clock),
                "pending": None if state.pending is None else dict(state.pending),
                "points": [{**vars(point), "metrics": dict(point.metrics)} for point in state.points],
            }
        )

    def _description(self, number: int) -> dict[str, Any]:
        """What a description says, if it says so to the last byte."""
        _, path = self._files(number)
        try:
            raw = path.read_bytes()
            content: dict[str, Any] = json.loads(raw)["content"]
            whole = _encoded(content) == raw and isinstance(content["owner"], dict)
        except OSError as error:
            raise StateError(f"{path.name} {_trouble(error)}") from error
        except (ValueError, LookupError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise StateError(f"{path.name} is damaged")
        return content

    def _read(self, number: int) -> tuple[State, Environment]:
        content = self._description(number)
        path, _ = self._files(number)
        for name, words in _OTHER.items():
            if content["owner"].get(name) != self.owner[name]:
                raise StateError(f"{_name(number)} is {words}")
        try:
            if sha256_of(path) != content["tensors"]:
                raise StateError(f"{path.name} is damaged")
            points = tuple(Point.from_plain(point) for point in content["points"])
            state = State(content["step"], load_file(path), content["clock"], content["pending"], points)
            return state, Environment(**content["surroundings"])
        except OSError as error:
            raise StateError(f"{path.name} {_trouble(error)}") from error
        except (SafetensorError, LookupError, TypeError) as error:
            raise StateError(f"{_name(number)} does not fit") from error

    def _remove_others(self) -> None:
        """Remove what is not among the newest whole states, but for whole ones of another run."""
        for number in self._numbers() - set(self._whole):
            with contextlib.suppress(StateError):
                if self._description(number)["owner"] != self.owner:
                    continue
            for path in reversed(self._files(number)):  # the description first
                for name in (path, path.with_name(f"{path.name}.part")):
                    with contextlib.suppress(OSError):  # it is only in the way
                        name.unlink(missing_ok=True)

    def _numbers(self) -> set[int]:
        """Of all states in the folder, whole or not."""
        names = (_FILE.fullmatch(path.name) for path in self.folder.iterdir()) if self.folder is not None else ()
        return {int(match[1]) for match in names if match is not None}

    def _files(self, number: int) -> tuple[Path, Path]:
        """Where the tensors and the description of a state are."""
        assert self.folder is not None
        return self.folder / f"{_name(number)}.safetensors", self.folder / f"{_name(number)}.json"


def _name(number: int) -> str:
    return f"state-{number:06d}"


def _content(state: State) -> object:
    """Tells two states of one run apart."""
    return state.step, state.pending is None, len(state.points)


def _encoded(content: Mapping[str, Any]) -> bytes:
    checksum = hashlib.sha256(json.dumps(content, allow_nan=False).encode()).hexdigest()
    return json.dumps({"sha256": checksum, "content": content}, indent=1, allow_nan=False).encode()


def _trouble(error: OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def _finite(tensor: Tensor) -> bool:
    return math.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())  # a sum needs no memory of its own


def _locked(folder: Path) -> IO[bytes]:
    """An open file that keeps other processes out of a folder until it is closed, or its process ends.

    The other may be a worker whose parent was killed: it ends by itself at its next step, so it is waited for.
    """
    stream = (folder / "lock").open("wb")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if time.monotonic() > deadline:
                stream.close()
                raise FolderInUse(f"{folder}: another process trains on these states") from None
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return stream
