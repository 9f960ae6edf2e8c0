"""Commands in this process, on workers that stay alive: a whole sweep takes a second or two instead of ten.

A separate process imports torch, MLflow and Optuna again, and so does each of its workers. Tests of signals, of exit
codes as a shell sees them and of start-up need that (`sandbox.Sandbox.run`); tests of what a sweep decides, stores and
reports do not. Reports have no figures unless a test asks for them: drawing them takes half the time of a small sweep.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from mlflow.tracking._tracking_service import utils
from typer.testing import CliRunner

import harness.runner.session as session
from harness.config.run import RunConfig
from harness.config.tokenizers import is_file
from harness.report.figures import registry
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Job
from sandbox import Sandbox

_pools: list[SharedPool] = []


class SharedPool(LocalPool):
    """A pool that outlives the sweeps which use it. Its workers run in another folder, so paths are made absolute."""

    def __exit__(self, *_: object) -> None:
        for job in self.pids():  # of a sweep that ended early
            self.stop(job)
        while self.pids():
            self.events(0.1)

    def submit(self, job: Job) -> None:
        """Give a job to a worker."""
        places = {name: getattr(job, name) for name in ("state", "checkpoint")}
        absolute: dict[str, Any] = {name: place and place.absolute() for name, place in places.items()}
        super().submit(dataclasses.replace(job, config=_from_anywhere(job.config), **absolute))


def _from_anywhere(config: RunConfig) -> RunConfig:
    """A run whose files are found from every folder."""
    data = config.data
    paths: dict[str, Any] = {
        name: tuple(str(Path(path).absolute()) for path in getattr(data, name))
        for name in ("path", "val_path", "test_path")
        if getattr(data, name)
    }
    if is_file(data.tokenizer):
        paths["tokenizer"] = str(Path(data.tokenizer).absolute())
    return config.model_copy(update={"data": data.model_copy(update=paths)}) if paths else config


def shared_pool(workers: int, threads: int, patience: float, ranks: int) -> LocalPool:
    """The pool of this process, as large as is asked for; workers beyond that stay idle. Several ranks get a new pool.

    Raises:
        AssertionError: workers with other threads are asked for; those need a process of their own.
    """
    if ranks > 1:
        return LocalPool(workers, threads, patience, ranks)
    if not _pools:
        _pools.append(SharedPool(workers, threads, patience))
        atexit.register(_pools[0].close)
    pool = _pools[0]
    assert pool.threads == threads
    pool.size, pool.patience = workers, patience
    return pool


@contextlib.contextmanager
def _as_a_command(sandbox: Sandbox, arguments: list[str], figures: bool) -> Iterator[None]:
    """This process as a new one would be: its folder, its arguments, its caches; its signal handlers are restored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    argv = sys.argv
    sys.argv = ["harness", *arguments]
    utils._artifact_repos_cache.clear()  # the addresses of runs that this process has used, maybe in another folder
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.chdir(sandbox.folder))
            stack.enter_context(mock.patch.dict(os.environ, sandbox.environment))
            stack.enter_context(mock.patch.object(session, "LocalPool", shared_pool))
            if not figures:
                stack.enter_context(mock.patch.multiple(registry, FIGURES={}, AXES=()))
            yield
    finally:
        sys.argv = argv
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def call(
    sandbox: Sandbox,
    *arguments: str,
    module: str = "harness.sweep",
    encoding: str = "utf-8",
    figures: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Like `sandbox.run`, but in this process, on a terminal of this encoding, by default without figures.

    Raises:
        BaseException: whatever the command let through; a traceback is no result.
    """
    command = list(arguments or ("tiny.yaml",))
    app: Any = importlib.import_module(module).app
    with _as_a_command(sandbox, command, figures):
        done = CliRunner(encoding).invoke(app, command)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)
