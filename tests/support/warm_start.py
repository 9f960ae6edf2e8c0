"""Starts commands as real processes that have their imports already.

Most of the CPU time of a small sweep is spent on imports: of MLflow, Optuna and pandas in its own process, of torch in
each worker. One process per test session imports them and waits; each command is a fork of it with a folder, an
environment, output files and a session of its own. It is a process like any other: it has a pid, gets signals, starts
workers and ends with an exit code. A command whose environment changes what the interpreter reads at its start is
started the usual way.

The workers of a sweep are forks too: see `warm_workers`.

Run as a script, this module is that process. It exits when its socket closes.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final
from unittest import mock

import warm_workers
from forked import Forked, serve
from harness.report.figures import registry
from harness.workers.environment import worker_environment
from warm_workers import THREADS

# What the commands and their workers import, but not the commands themselves, which run as `__main__`. That commands
# import no torch is tested with new processes, in `test_architecture.py`.
IMPORTS: Final = (
    "harness.console.cli",
    "harness.config.load",
    "harness.cost.preview",
    "harness.report.figures.registry",
    "harness.report.write",
    "harness.runner.datasets",
    "harness.runner.devices",
    "harness.runner.session",
    "harness.training.run",
    "harness.workers.local_worker",
    "matplotlib.style",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.storages",
    "pyarrow.csv",
    "pyarrow.pandas_compat",
)
# Read by the interpreter, by libraries or by the harness while they are imported.
_READ_AT_START: Final = ("PYTHON", "LC_", "LANG", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_", "LD_", "TZ", "HOME", "XDG_")
PATIENCE: Final = 300.0  # seconds to wait for any condition


def start(
    arguments: Sequence[str],
    folder: Path,
    output: IO[Any],
    errors: IO[Any],
    environment: Mapping[str, str] | None = None,
    figures: bool = True,
) -> WarmProcess | subprocess.Popen[bytes]:
    """Start Python in a folder, warm if its environment allows that, else cold.

    Args:
        arguments: of the interpreter, beginning with `-m` and a module, or with `-c` and code.
        folder: where it runs.
        output, errors: open files for what it prints.
        environment: by default that of this process.
        figures: whether reports have figures, which take longer than all else in a small sweep; a process that is
            started cold always draws them.
    """
    own = dict(os.environ if environment is None else environment)
    if sys.platform == "linux" and _read_at_start(own) == _read_at_start(os.environ):
        return WarmProcess(arguments, folder, (output.fileno(), errors.fileno()), own, figures)
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=folder, env=own, stdout=output, stderr=errors, start_new_session=True)


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, figures: bool = True
) -> subprocess.CompletedProcess[str]:
    """The same, and wait for its end."""
    with _file() as output, _file() as errors:
        process = start(arguments, folder, output, errors, environment, figures)
        code = process.wait(PATIENCE)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(process.args, code, output.read(), errors.read())


def _file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


class WarmProcess(Forked):
    """A command that was forked; with the methods of `subprocess.Popen` that tests use.

    Args:
        arguments, folder, figures: see `start`.
        files: for its standard output and error.
        environment: of the process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        files: tuple[int, int],
        environment: Mapping[str, str],
        figures: bool,
    ) -> None:
        self.args = [sys.executable, *arguments]
        command = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        super().__init__(_address(), {**command, "figures": figures}, files)


_server: list[tuple[subprocess.Popen[bytes], str]] = []


def _address() -> str:
    """The address of the process with the imports, which is started at the first call."""
    if not _server:
        name = f"warm-start-{os.getpid()}-{time.monotonic_ns()}"
        ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, name, str(theirs.fileno())]
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, **worker_environment(THREADS), "PYTHONPATH": path}
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()
        assert ours.recv(1) == b"r", "the process with the imports has died"
        _server.append((process, "\0" + name))  # an abstract address: no file, Linux only
        atexit.register(ours.close)
    return _server[0][1]


def _run(request: dict[str, Any], files: Sequence[int]) -> None:
    """Run a command in this process as the interpreter would."""
    os.setsid()
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    option, what, *arguments = request["arguments"]
    if not request["figures"]:
        mock.patch.multiple(registry, FIGURES={}, AXES=()).start()
    if what == "harness.sweep":
        warm_workers.install()
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    for name in IMPORTS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, "a thread does not survive a fork"
    _run(*serve("\0" + sys.argv[1], socket.socket(fileno=int(sys.argv[2]))))
