"""Starts the workers of a command as forks: importing torch takes a new process as long as some sweeps of a test.

A command of `warm_start` has one more child, which has torch and waits. It forks a worker at each request, so a worker
is a grandchild of the command. It is a process like any other: in the command's session and group, with a pid and an
exit code, and it gets signals. Workers with other threads than usual are started the usual way.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

import psutil

from forked import Forked, serve
from harness.workers import local_pool

THREADS: Final = 1  # of a worker that is forked: libraries read it when they are imported
_SERVER: Final = "warm-workers"
_WORKER: Final = "warm-worker"
_PR_SET_NAME: Final = 15  # of prctl(2)


def install() -> None:
    """Make the pools of this process fork their workers. Call it while the process has only one thread."""
    address = f"\0{_SERVER}-{os.getpid()}"
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        _name_this_process(_SERVER)
        for number in (signal.SIGINT, signal.SIGHUP):  # the terminal's, which workers ignore too
            signal.signal(number, signal.SIG_IGN)
        _run_worker(*serve(address, theirs))
    theirs.close()
    assert ours.recv(1) == b"r", "the process that forks workers has died"
    local_pool.multiprocessing = types.SimpleNamespace(get_context=lambda _: _Context(address, ours))  # type: ignore


def forked_workers(command: psutil.Process) -> list[psutil.Process]:
    """The running workers that were forked for a command."""
    servers = [child for child in command.children() if child.name() == _SERVER]
    return [child for server in servers for child in server.children() if child.status() != psutil.STATUS_ZOMBIE]


class _Context:
    """What a pool uses of a context of multiprocessing; `alive` is a socket whose end ends the server."""

    def __init__(self, address: str, alive: socket.socket) -> None:
        self._address, self._alive = address, alive
        self._spawn = multiprocessing.get_context("spawn")

    def Pipe(self) -> tuple[Connection, Connection]:
        return self._spawn.Pipe()

    def Process(self, target: Callable[..., None], args: Sequence[Any], daemon: bool) -> Any:
        if args[2] != THREADS:
            return self._spawn.Process(target=target, args=args, daemon=daemon)
        return _Worker(self._address, args)


class _Worker:
    """A worker with the methods of `multiprocessing.Process` that a pool uses."""

    def __init__(self, address: str, arguments: Sequence[Any]) -> None:
        self._address, self._arguments = address, arguments

    def start(self) -> None:
        connection, *others = self._arguments
        request = {"arguments": others, "environment": dict(os.environ)}
        self._forked = Forked(self._address, request, [connection.fileno()])
        self.pid = self._forked.pid

    @property
    def exitcode(self) -> int | None:
        return self._forked.poll()

    def is_alive(self) -> bool:
        return self._forked.poll() is None

    def join(self, timeout: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._forked.wait(timeout)

    def terminate(self) -> None:
        self._forked.terminate()

    def kill(self) -> None:
        self._forked.kill()


def _run_worker(request: Mapping[str, Any], files: Sequence[int]) -> None:
    from harness.workers.local_worker import run_worker

    _name_this_process(_WORKER)
    os.environ.clear()
    os.environ.update(request["environment"])
    code = 1
    try:
        run_worker(Connection(files[0]), *request["arguments"])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _name_this_process(name: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
