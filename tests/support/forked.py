"""Processes that are forked from one which has done its imports; the server's and the client's side.

A client connects, sends a request and open files, and gets the pid; when the process ends, it gets the exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MESSAGE_BYTES: Final = 1 << 20
_FILES: Final = 2  # of a request, at most


class Forked:
    """A forked process, with the methods of `subprocess.Popen` that tests use.

    Args:
        address: of the server.
        request: JSON values.
        files: that the process gets.
    """

    args: Sequence[str] = ()

    def __init__(self, address: str, request: Mapping[str, Any], files: Sequence[int]) -> None:
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(address)
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


def serve(address: str, parent: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork a process for each request and tell its connection when it ends; returns in the forked process only.

    Args:
        address: a Unix socket's, to listen on.
        parent: gets one byte once requests are taken; this process exits when the other end closes.

    Returns:
        the request and its files.
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
            os._exit(0)
        if ended in sources:
            os.read(ended, 4096)
            _report_ended(running)
        if listener in sources:
            connection, _ = listener.accept()
            message, files, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, _FILES)
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
