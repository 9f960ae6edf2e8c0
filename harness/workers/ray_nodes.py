"""The nodes of a Ray cluster: which of them have room for a run, which get none, and why.

Nodes come and go, so the head is asked about them all the time, in a thread (`harness.workers.ray_cluster`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from harness.core.text import SAME_COMMAND
from harness.workers.protocol import NoWorkers
from harness.workers.ray_cluster import HEAD_SECONDS, Head, HeadLost
from harness.workers.software import differences

_STARTS_THAT_FAIL: Final = 3  # in a row, after which the sweep stops


@dataclass(frozen=True)
class Room:
    """What a run needs of a node. Both numbers may be fractions."""

    cpus: float
    gpus: float

    def on(self, resources: Mapping[str, float]) -> int:
        """Runs that fit into a node with these resources."""
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        fits = (resources.get(name, 0.0) / need + 1e-9 for name, need in needs.items() if need)
        return math.floor(min(fits))

    def __str__(self) -> str:
        cpus = f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"
        return f"{cpus} and {self.gpus:g} GPU{'s' * (self.gpus != 1)}" if self.gpus else cpus


class ClusterNodes:
    """The nodes of the cluster that this process is connected to.

    Args:
        cpus: of a run.
        gpus: of a run; None: one for each rank if the cluster has any, else none.
        ranks: processes that train each run together.
        say: shows a sentence to the user.

    Attributes:
        room: what a run needs of a node.
        fit: runs that fit into the nodes that are there now and not refused.
    """

    def __init__(self, cpus: float, gpus: float | None, ranks: int, say: Callable[[str], None]) -> None:
        self._head = Head()
        if gpus is None:
            gpus = ranks if any(node["Resources"].get("GPU") for node in self._head.nodes) else 0.0
        self.room, self.fit = Room(cpus, gpus), 0
        self._say = say
        self._refused: dict[str, str] = {}  # node id → why it gets no run
        self._starts_failed = 0
        self._said_no_room = False
        self.look()

    def look(self) -> None:
        """Learn what the cluster has room for now.

        Raises:
            NoWorkers: the head does not answer, or no node is left that can train.
        """
        if self._head.silence >= HEAD_SECONDS:
            resume = f"{SAME_COMMAND} when it runs again"
            raise HeadLost(f"the head of the Ray cluster has not answered for {HEAD_SECONDS:.0f} s; {resume}")
        nodes = self._head.nodes
        fitting = {node["NodeID"]: fits for node in nodes if (fits := self.room.on(node["Resources"]))}
        self.fit = sum(fits for node_id, fits in fitting.items() if node_id not in self._refused)
        if fitting and not self.fit:
            raise NoWorkers(f"no node is left to train on: {self._refused[next(iter(fitting))]}")
        if not fitting and not self._said_no_room:
            self._say(f"no node of the cluster has {self.room} for a run; runs wait for one")
        self._said_no_room = not fitting

    def ask(self, question: Callable[[], object]) -> None:
        """Have the head's thread call this, and return at once."""
        self._head.ask(question)

    @property
    def labels(self) -> Mapping[str, str] | None:
        """Ray's label selector of the nodes that are not refused; None: all."""
        return {"ray.io/node-id": f"!in({','.join(self._refused)})"} if self._refused else None

    def admits(self, hello: Mapping[str, str]) -> bool:
        """Compare the versions of a worker that has started; its node gets no run if they differ."""
        if different := differences(hello):
            why = f"node {hello['node']} gets no run, as it has {different}; install the same there"
            self._refuse([hello["node_id"]], why)
            return False
        self._starts_failed = 0
        return True

    def start_failed(self, error: Exception) -> None:
        """Note that a worker did not come up; one that cannot import the harness rules out its node.

        Raises:
            NoWorkers: it was the third in a row.
        """
        import ray

        address = getattr(error, "ip", None)
        if "ImportError" in str(error) or "ModuleNotFoundError" in str(error):
            there = [node["NodeID"] for node in self._head.nodes if node["NodeManagerAddress"] == address]
            self._refuse(there, f"node {address} gets no run, as the harness is not installed there; install it")
            return
        if isinstance(error, ray.exceptions.RayTaskError) or "worker process has died" in str(error):
            self._starts_failed += 1  # others were never started, as their node has left
        if self._starts_failed >= _STARTS_THAT_FAIL:
            raise NoWorkers(f"no worker starts on the cluster: {str(error).strip().splitlines()[-1]}")

    def has(self, node_id: str) -> bool:
        """Whether a node is there."""
        return any(node["NodeID"] == node_id for node in self._head.nodes)

    def was_suspended(self) -> None:
        """This process was suspended, perhaps the head too: give it time again."""
        self._head.answered = time.monotonic()

    def close(self) -> None:
        """Wait for the questions asked so far, unless the head is gone."""
        self._head.close()

    def _refuse(self, node_ids: Iterable[str], why: str) -> None:
        """Start no worker on these nodes again, and say so once."""
        new = set(node_ids) - set(self._refused)
        self._refused |= dict.fromkeys(new, why)
        if new:
            self._say(why)
