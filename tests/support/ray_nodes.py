"""A Ray cluster of three nodes on this machine, and what can happen to a node and its workers."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
from ray.cluster_utils import Cluster

_T = TypeVar("_T")


class Nodes:
    """A head and two more nodes, with one CPU each."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's name); else they wait for all other tests
        self.cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self._others = [self.cluster.add_node(num_cpus=1, wait=False) for _ in range(2)]
        self.cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        """HOST:PORT for `--ray`."""
        return str(self.cluster.address)

    def replace_one(self) -> None:
        """Kill a node with everything on it, and add another."""
        self.cluster.remove_node(self._others.pop(0), allow_graceful=False)
        self._others.append(self.cluster.add_node(num_cpus=1, wait=False))

    @contextmanager
    def another(self, **options: Any) -> Iterator[None]:
        """One more node, with options of `ray.cluster_utils.Cluster.add_node`, until the context ends."""
        node = self.cluster.add_node(**options)
        try:
            yield
        finally:
            self.cluster.remove_node(node)

    def restart(self) -> None:
        """Kill the head and all nodes, and start another cluster, at another address."""
        for node in self.cluster.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        self._start()

    def actors(self) -> list[psutil.Process]:
        """The workers on all nodes."""
        return [process for process in self._processes() if _command(process).startswith("ray::RayWorker")]

    def close(self) -> None:
        """End the cluster."""
        self.cluster.shutdown()

    def _processes(self) -> Iterator[psutil.Process]:
        for node in self.cluster.list_all_nodes():
            for process in node.all_processes.get("raylet", []):
                yield from psutil.Process(process.process.pid).children(recursive=True)


def training_process(actor: psutil.Process) -> psutil.Process:
    """The process in which a worker's runs train.

    Raises:
        psutil.NoSuchProcess: the worker has ended.
    """
    found = until(lambda: [child for child in actor.children() if "spawn_main" in _command(child)])
    return found[0]


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """A worker and its training process are stopped, as when their node freezes."""
    both = [process, *process.children(recursive=True)]
    for one in both:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for one in both:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGCONT)


def until(condition: Callable[[], _T], seconds: float = 120.0) -> _T:
    """Wait until a condition is true and return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
