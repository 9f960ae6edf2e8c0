"""Training speed of the models of a sweep on this machine: measured in a few steps, and cached.

Each distinct model of a sweep trains a few steps in as many processes at once as the sweep has workers. The speeds are
cached by machine, torch version, training code and model, so the next plan needs no measurement. Importing this module
imports no torch: the processes do.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from harness.config.fingerprint import digest_of, training_code
from harness.config.run import RunConfig
from harness.core.files import DamagedError, json_with_checksum, read_json_with_checksum, write_text
from harness.core.hardware import count_gpus, processor_name
from harness.core.links import read_bounded
from harness.data import cache_folder
from harness.data.cache import make_private
from harness.workers.environment import worker_environment

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PATIENCE: Final = 30.0  # seconds after which a measurement is stopped
_FILE_BYTES: Final = 10_000_000  # of a file of the cache, at most
_LARGEST: Final = 1e15  # seconds or tokens in a file of the cache

# Fields of `train` that change the speed; the others (learning rate, seed, schedule) do not.
_TRAIN_FIELDS: Final = ("optimizer", "precision", "device", "compile", "train_eval_tokens", "sample")


@dataclass(frozen=True)
class ModelSpeed:
    """Speed of a worker while all workers train the same model.

    Attributes:
        step_seconds: of one training step.
        eval_seconds: of one evaluation of `eval_tokens` tokens, without its generated text.
        eval_tokens: tokens scored by that evaluation.
        sample_seconds: to generate that text.
    """

    step_seconds: float
    eval_seconds: float
    eval_tokens: int
    sample_seconds: float

    def on(self, ranks: int) -> ModelSpeed:
        """The speed of a worker of several ranks: they divide the work, but for the generated text."""
        return replace(self, step_seconds=self.step_seconds / ranks, eval_seconds=self.eval_seconds / ranks)

    def evaluation(self, tokens: int) -> float:
        """Seconds of an evaluation of `tokens` tokens."""
        return self.sample_seconds + self.eval_seconds * tokens / self.eval_tokens


class MeasurementError(RuntimeError):
    """A measuring process failed or took too long."""


@dataclass(frozen=True)
class Workload:
    """What to measure: a configuration, about how many steps of it, and how many tokens to score of each split."""

    config: RunConfig
    steps: int
    eval_tokens: int


def measure_in_processes(
    workloads: Sequence[Workload],
    *,
    copies: int = 1,
    threads: int = 1,
    full: bool = False,
    patience: float = PATIENCE,
) -> list[list[dict[str, Any]]]:
    """Train each configuration for some steps in separate processes, in the environment of a worker.

    Args:
        workloads: each process measures all of them, one after the other.
        copies: number of processes, which run at the same time.
        threads: CPU threads of each.
        full: also measure the peak of matrix products and the saving of a state.
        patience: seconds after which a process is killed; no workload is started after 70 % of them.

    Returns:
        For each process a list with a `harness.cost.probe.ProbeResult`, as a dictionary, for each workload. The list
        is shorter if there was not enough time.

    Raises:
        MeasurementError: a process failed (with the last line of its error output) or took too long.
    """
    runs = [{**vars(workload), "config": workload.config.model_dump(mode="json")} for workload in workloads]
    request = {"runs": runs, "full": full, "deadline": time.time() + 0.7 * patience}
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    environment = {**worker_environment(threads), **os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "harness.cost.probe"]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace", env=environment
        )
        for _ in range(copies)
    ]
    try:
        for process in started:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request))
            process.stdin.close()
            process.stdin = None
        outputs = [process.communicate(timeout=patience) for process in started]
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"it took longer than {patience:g} s") from None
    finally:
        for process in started:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(started, outputs, strict=True):
        if process.returncode:
            lines = errors.strip().splitlines()
            raise MeasurementError(lines[-1] if lines else f"it ended with {process.returncode}")
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


class Calibration:
    """The cache of model speeds on this machine: one file, read at the start and written after each measurement.

    Args:
        workers: workers of the sweep, and so the number of processes that measure at the same time.
        threads: CPU threads of each.
        folder: of the cache; see `cache_folder`.
    """

    def __init__(self, workers: int, threads: int, folder: Path | None = None) -> None:
        self.threads = threads
        self.copies = 1 if count_gpus() else workers  # all copies would use the same GPU
        self.path = cache_folder(folder) / "speeds.json"
        self._cached = read_json(self.path)

    def speed(self, config: RunConfig) -> ModelSpeed | None:
        """The cached speed of a model, if it has been measured."""
        found = self._cached.get(self.key(config))
        if not has_amounts(found, ModelSpeed) or not (found["step_seconds"] and found["eval_tokens"]):
            return None  # not measured, or by another version
        return ModelSpeed(**found)

    def covered(self, config: RunConfig, workloads: Sequence[Workload]) -> bool:
        """Whether one of `workloads` measures the model of `config`."""
        return self.key(config) in {self.key(workload.config) for workload in workloads}

    def measure(self, workloads: Sequence[Workload]) -> None:
        """Measure all models that are not cached yet. Models whose measurement fails stay unknown."""
        new = {self.key(load.config): load for load in workloads if self.speed(load.config) is None}
        if not new:
            return
        try:
            results = measure_in_processes(list(new.values()), copies=self.copies, threads=self.threads)
        except MeasurementError:
            return
        found = {}
        for place, key in enumerate(list(new)[: min(map(len, results))]):
            mine = [result[place] for result in results]
            names = ("step_seconds", "eval_seconds", "sample_seconds")
            step, evaluation, sample = (sum(one[name] for one in mine) / len(mine) for name in names)
            if evaluation:  # 0 if there was not enough time
                found[key] = asdict(ModelSpeed(step, evaluation, mine[0]["eval_tokens"], sample))
        self._cached = {**read_json(self.path), **found}
        write_json(self.path, self._cached)

    def key(self, config: RunConfig) -> str:
        """A digest of all that the speed of a run depends on."""
        plain = config.resolved()
        train = {name: plain["train"][name] for name in _TRAIN_FIELDS}
        shape = {"model": plain["model"], "rows": config.sequences_per_step, "train": train}
        shape |= {"tokenizer": plain["data"]["tokenizer"], "code": training_code(), "machine": machine()}
        return digest_of({**shape, "workers": self.copies, "threads": self.threads})[:24]


def machine() -> dict[str, Any]:
    """The properties of this machine that speeds depend on: host name, processor, CPU cores, torch's version."""
    return {
        "node": platform.node(),
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "torch": metadata.version("torch"),
    }


def has_amounts(found: object, kind: type[DataclassInstance]) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value is an object with exactly the fields of a dataclass, all of them amounts of something."""
    names = {field.name for field in fields(kind)}
    return isinstance(found, dict) and found.keys() == names and all(map(is_amount, found.values()))


def is_amount(value: object) -> bool:
    """Whether a JSON value is a number from 0 to `_LARGEST`."""
    return isinstance(value, int | float) and 0 <= value <= _LARGEST


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing, damaged or has no checksum, since a cache can be rebuilt."""
    try:
        found, verified = read_json_with_checksum(read_bounded(path, _FILE_BYTES))
    except (OSError, DamagedError):
        return {}
    return found if verified else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file. Errors are ignored: a cache is optional."""
    with contextlib.suppress(OSError):
        make_private(path.parent)
        write_text(path, json_with_checksum(content, indent=1))
