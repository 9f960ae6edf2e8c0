"""Starts commands as real processes that have their imports already.

Half the CPU time of a small sweep is spent on imports of MLflow, Optuna and pandas. One process per test session
imports them and waits; each command is a fork of it with a folder, an environment, output files and a session of its
own. It is a process like any other: it has a pid, gets signals, starts workers and ends with an exit code. A command
whose environment changes what the interpreter reads at its start is started the usual way.

Run as a script, this module is that process. It exits when its socket closes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
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

# What the commands import, but not the commands themselves, which run as `__main__`, and not torch, which only workers
# and `generate` import.
IMPORTS: Final = (
    "harness.console.cli",
    "harness.config.load",
    "harness.cost.preview",
    "harness.report.figures.registry",
    "harness.report.write",
    "harness.runner.datasets",
    "harness.runner.devices",
    "harness.runner.session",
    "matplotlib.style",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.storages",
    "pyarrow.csv",
    "pyarrow.pandas_compat",
)
# Read by the interpreter, by libraries or by the harness while they are imported.
_READ_AT_START: Final = ("PYTHON", "LC_", "LANG", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_", "LD_", "TZ", "HOME", "XDG_")
_MESSAGE_BYTES: Final = 1 << 20
PATIENCE: Final = 300.0  # seconds to wait for any condition


def start(
    arguments: Sequence[str],
    folder: Path,
    output: IO[Any],
    errors: IO[Any],
    environment: Mapping[str, str] | None = None,
) -> WarmProcess | subprocess.Popen[bytes]:
    """Start Python in a folder, warm if its environment allows that, else cold.

    Args:
        arguments: of the interpreter, beginning with `-m` and a module, or with `-c` and code.
        folder: where it runs.
        output, errors: open files for what it prints.
        environment: by default that of this process.
    """
    own = dict(os.environ if environment is None else environment)
    if sys.platform == "linux" and _read_at_start(own) == _read_at_start(os.environ):
        return WarmProcess(arguments, folder, (output.fileno(), errors.fileno()), own)
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=folder, env=own, stdout=output, stderr=errors, start_new_session=True)


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same, and wait for its end."""
    with _file() as output, _file() as errors:
        process = start(arguments, folder, output, errors, environment)
        code = process.wait(PATIENCE)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(process.args, code, output.read(), errors.read())


def _file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


class WarmProcess:
    """A command that was forked; with the methods of `subprocess.Popen` that tests use.

    Args:
        arguments, folder: see `start`.
        files: for its standard output and error.
        environment: of the process.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, files: tuple[int, int], environment: Mapping[str, str]
    ) -> None:
        self.args = [sys.executable, *arguments]
        self.returncode: int | None = None
        self._connection = _connect()
        request = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        socket.send_fds(self._connection, [json.dumps(request).encode()], list(files))
        self.pid = int(self._connection.recv(100))

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends; returns its exit code, or -N if signal N ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._connection.recv(100))
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from error
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


_server: list[tuple[subprocess.Popen[bytes], str]] = []


def _connect() -> socket.socket:
    """A connection to the process with the imports, which is started at the first call."""
    if not _server:
        name = f"warm-start-{os.getpid()}-{time.monotonic_ns()}"
        ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, name, str(theirs.fileno())]
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, "PYTHONPATH": path})
        theirs.close()
        assert ours.recv(1) == b"r", "the process with the imports has died"
        _server.append((process, "\0" + name))  # an abstract address: no file, Linux only
        atexit.register(ours.close)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(_server[0][1])
    return connection


def _serve(address: str, parent: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork a command for each request and tell its connection when it ends; returns in the forked process only.

    Returns:
        what to run, and the files for its standard output and error.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only a signal with a handler wakes the selector
    running: dict[int, socket.socket] = {}  # by pid
    selector = selectors.DefaultSelector()
    for source in (listener, ended, parent):
        selector.register(source, selectors.EVENT_READ)
    parent.send(b"r")
    while True:
        sources = {key.fileobj for key, _ in selector.select()}
        if parent in sources:
            sys.exit()
        if ended in sources:
            os.read(ended, 4096)
            _report_ended(running)
        if listener in sources:
            connection, _ = listener.accept()
            message, files, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 2)
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                for one in (listener, parent, connection, *running.values()):
                    one.close()
                return json.loads(message), files
            for file in files:
                os.close(file)
            running[child] = connection
            connection.send(str(child).encode())


def _report_ended(running: dict[int, socket.socket]) -> None:
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with running.pop(pid) as connection, contextlib.suppress(OSError):  # the test no longer waits for it
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())


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
    _run(*_serve("\0" + sys.argv[1], socket.socket(fileno=int(sys.argv[2]))))
