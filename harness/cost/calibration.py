"""How fast this machine trains the models of a sweep, measured in short and remembered; how far estimates were off.

Each distinct model of a sweep trains a few steps in as many processes at once as the sweep has workers. What was found
is kept in the cache folder, by machine, torch, training code and shape, so the next plan needs no measurement. Beside
it lie the last estimates and what the sweeps took. Importing this module imports no torch: the processes do.
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
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from harness.config.fingerprint import digest_of, training_code
from harness.config.run import RunConfig
from harness.core.files import write_text
from harness.core.hardware import count_gpus, processor_name
from harness.data import cache_folder
from harness.workers.pool import WORKER_ENVIRONMENT

PATIENCE: Final = 30.0  # seconds after which processes that calibrate are given up

# What one run's speed depends on; the rest of its configuration (learning rate, seed, schedule) does not matter.
_TRAIN_FIELDS: Final = ("optimizer", "precision", "device", "compile", "train_eval_tokens", "sample")


@dataclass(frozen=True)
class Measured:
    """What a worker takes on this machine, beside as many others as were asked for.

    Attributes:
        step_seconds: of one training step.
        eval_seconds: of one evaluation of `eval_tokens` tokens, its sample of text left out.
        eval_tokens: tokens that were scored.
        sample_seconds: of that sample.
    """

    step_seconds: float
    eval_seconds: float
    eval_tokens: int
    sample_seconds: float

    def evaluation(self, tokens: int) -> float:
        """Seconds of an evaluation of so many tokens."""
        return self.sample_seconds + self.eval_seconds * tokens / self.eval_tokens


class MeasurementError(RuntimeError):
    """A process that was to measure ended without an answer."""


@dataclass(frozen=True)
class Trial:
    """What is to be measured: a configuration, about how many steps of it, how many tokens of each scored text."""

    config: RunConfig
    steps: int
    eval_tokens: int


def measure_apart(
    trials: Sequence[Trial],
    *,
    copies: int = 1,
    threads: int = 1,
    whole: bool = False,
    patience: float = PATIENCE,
) -> list[list[dict[str, Any]]]:
    """Train configurations for some steps, in processes of their own, as workers do.

    Args:
        trials: one after the other.
        copies: how many processes do so at the same time.
        threads: CPU threads of each.
        whole: measure the peak of matrix products and the saving of a state too.
        patience: seconds after which a process is given up; after 0.7 of them no training is begun.

    Returns:
        for each process, what it found of each trial, as `harness.cost.probe.Speed` has it; of the last ones nothing,
        where
        it took too long.

    Raises:
        MeasurementError: a process failed, with its last words.
    """
    runs = [{**vars(trial), "config": trial.config.model_dump(mode="json")} for trial in trials]
    request = {"runs": runs, "whole": whole, "deadline": time.time() + 0.7 * patience}
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    environment = {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "harness.cost.probe"]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
        for _ in range(copies)
    ]
    try:
        for process in started:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request))
            process.stdin.close()
            process.stdin = None
        said = [process.communicate(timeout=patience) for process in started]
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"it took longer than {patience:g} s") from None
    finally:
        for process in started:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(started, said, strict=True):
        if process.returncode:
            lines = errors.strip().splitlines()
            raise MeasurementError(lines[-1] if lines else f"it ended with {process.returncode}")
    return [json.loads(output.splitlines()[-1]) for output, _ in said]


class Calibration:
    """The speeds that are known of this machine, in a file that is read at once and written after each measurement.

    Args:
        workers: of the sweep, and so how many measure at the same time.
        threads: of each.
        folder: of the cache; see `cache_folder`.
    """

    def __init__(self, workers: int, threads: int, folder: Path | None = None) -> None:
        self.threads = threads
        self.copies = 1 if count_gpus() else workers  # several would measure on one GPU
        self.path = cache_folder(folder) / "speeds.json"
        self._known = _read(self.path)

    def known(self, config: RunConfig) -> Measured | None:
        """What an earlier measurement found of a model, if there was one."""
        try:
            return Measured(**self._known[self.key(config)])
        except (LookupError, TypeError):  # not there, or of another version
            return None

    def listed(self, config: RunConfig, trials: Sequence[Trial]) -> bool:
        """Whether one of `trials` measures the model of `config`."""
        return self.key(config) in {self.key(trial.config) for trial in trials}

    def learn(self, trials: Sequence[Trial]) -> None:
        """Measure the models that are not known yet, all of them in one go; what fails stays unknown."""
        new = {self.key(trial.config): trial for trial in trials if self.known(trial.config) is None}
        if not new:
            return
        try:
            said = measure_apart(list(new.values()), copies=self.copies, threads=self.threads)
        except MeasurementError:
            return
        found = {}
        for place, key in enumerate(list(new)[: min(map(len, said))]):
            mine = [one[place] for one in said]
            names = ("step_seconds", "eval_seconds", "sample_seconds")
            step, evaluation, sample = (sum(one[name] for one in mine) / len(mine) for name in names)
            if evaluation:  # else it was cut short
                found[key] = asdict(Measured(step, evaluation, mine[0]["eval_tokens"], sample))
        self._known = {**_read(self.path), **found}
        _write(self.path, self._known)

    def key(self, config: RunConfig) -> str:
        """What the speed of a run depends on, in short: equal for runs that are as fast."""
        plain = config.resolved()
        train = {name: plain["train"][name] for name in _TRAIN_FIELDS}
        shape = {"model": plain["model"], "rows": config.sequences_per_step, "train": train}
        shape |= {"tokenizer": plain["data"]["tokenizer"], "code": training_code(), "machine": machine()}
        return digest_of({**shape, "workers": self.copies, "threads": self.threads})[:24]


def machine() -> dict[str, Any]:
    """What speeds depend on beside the model: node, processor, its cores, torch's version."""
    return {
        "node": platform.node(),
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "torch": metadata.version("torch"),
    }


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or damaged, since everything in it can be found out again."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file as a whole; a cache that cannot be written is done without."""
    with contextlib.suppress(OSError):
        write_text(path, json.dumps(content, indent=1))
