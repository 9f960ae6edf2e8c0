"""The connection to a Ray cluster, and what is asked of its head. Ray is imported when a cluster is asked for."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import logging
import math
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from harness.core.environment import environment_defaults
from harness.workers.environment import terminal_signals_blocked
from harness.workers.protocol import NoWorkers
from harness.workers.ray_local import SETTINGS, only_needed_processes

LOCAL: Final = "local"  # start Ray on this machine
AUTO: Final = "auto"  # the cluster that this machine belongs to

_NO_SURPRISE: Final = {"RAY_ENABLE_AUTO_CONNECT": "0"}  # else a call after the end would start a cluster
# Ray would end a process that has lost the head for 60 s; it ends by itself, with a sentence, after `HEAD_SECONDS`.
_STAY: Final = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
HEAD_SECONDS: Final = 40.0  # without an answer from the cluster's head
_SHUTDOWN_SECONDS: Final = 20.0  # how long to wait for Ray at the end
_NODES_SECONDS: Final = 1.0  # between two questions about the nodes
_CLOSE_SECONDS: Final = 5.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class HeadLost(NoWorkers):
    """The head of the cluster does not answer any more."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Join the cluster at an address, or start one on this machine with `LOCAL`, which ends with the context.

    A cluster of our own listens on the loopback only, asks for Ray's token and has no dashboard.

    Raises:
        NoWorkers: Ray is not installed, or there is no cluster that takes this process.
    """
    if importlib.util.find_spec("ray") is None:
        raise NoWorkers('--ray needs Ray: pip install -e ".[ray]"')
    with contextlib.ExitStack() as stack:
        stack.enter_context(_own_signal_handlers())
        stack.enter_context(environment_defaults(_NO_SURPRISE))
        options: dict[str, Any] = {}
        if address == LOCAL:
            stack.enter_context(environment_defaults(SETTINGS))
            stack.enter_context(terminal_signals_blocked())
            stack.enter_context(only_needed_processes())
            options["include_dashboard"] = False
        else:
            stack.enter_context(environment_defaults(_STAY))
        try:
            import ray

            with contextlib.suppress(ImportError, AttributeError):  # private names: a later Ray may not have them
                _prepare(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except Exception as error:
            raise NoWorkers(_why_not(address, error)) from error
    try:
        yield
    finally:
        _shut_down()


def _shut_down() -> None:
    """End the connection; without its head, Ray would wait for it."""
    import ray

    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(_SHUTDOWN_SECONDS)
    if thread.is_alive():
        atexit.unregister(ray.shutdown)


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's handlers of signals, although Ray sets one for SIGTERM, which raises `SystemExit`."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    terminated = False
    try:
        yield
    except SystemExit:
        terminated = True
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)


def _prepare(address: str) -> None:
    """What no public name of Ray's does: silence it, and find out which cluster `AUTO` and `localhost` mean.

    Raises:
        ConnectionError: nothing listens there.
    """
    from ray._private import services, worker

    worker.print_to_stdstream = _print_nothing  # what Ray says about its nodes, also with `log_to_driver=False`
    if address != LOCAL:
        _check_reachable(services.canonicalize_bootstrap_address(address))


def _check_reachable(address: str | None) -> None:
    """Raise `ConnectionError` at once where nothing listens: Ray tries for two minutes and prints what it tries."""
    host, _, port = (address or "").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(str(error)) from error


def _print_nothing(*_: object, **__: object) -> None:
    pass


def _why_not(address: str, error: Exception) -> str:
    """One sentence about a failed connection."""
    if isinstance(error, ConnectionError):
        where = "on this machine" if address == AUTO else f"at {address}"
        return f"--ray {address}: no Ray cluster answers {where}; start one with `ray start --head`, or use --ray local"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"--ray {address}: {text}"


class Head:
    """What this process asks the head of the cluster: which nodes live, to start a worker, to kill one.

    A thread asks, in order. A question waits for a head that has gone, for longer than anybody should.

    Attributes:
        nodes: the living nodes, see `ray.nodes`.
        answered: when the head last answered, on `time.monotonic`.
    """

    def __init__(self) -> None:
        self.nodes: Sequence[Mapping[str, Any]] = []
        self.answered = time.monotonic()
        self._questions: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._looked = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        self._looked.wait(HEAD_SECONDS)

    @property
    def silence(self) -> float:
        """Seconds since the head last answered."""
        return time.monotonic() - self.answered

    def ask(self, question: Callable[[], object]) -> None:
        """Have the thread call this, and return at once."""
        self._questions.put(question)

    def close(self) -> None:
        """Wait for the questions asked so far, unless the head is gone."""
        self._questions.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _ask(self) -> None:
        looked = -math.inf
        while True:
            with contextlib.suppress(queue.Empty):
                question = self._questions.get(timeout=max(0.0, looked + _NODES_SECONDS - time.monotonic()))
                if question is None:
                    return
                question()
            if time.monotonic() > looked + _NODES_SECONDS:
                looked = time.monotonic()
                with contextlib.suppress(Exception):  # whatever it is: `answered` shows how long it lasts
                    self.nodes = _living_nodes()
                    self.answered = time.monotonic()
                    self._looked.set()


def _living_nodes() -> Sequence[Mapping[str, Any]]:
    import ray

    nodes: Callable[[], Sequence[Mapping[str, Any]]] = ray.nodes
    return [node for node in nodes() if node["Alive"]]
