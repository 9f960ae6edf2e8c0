"""A worker on a node of a Ray cluster, as the parent sees it: its actor, its job and the answer that is on its way."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final

from harness.workers.environment import COMPILER_CACHE, worker_environment
from harness.workers.messages import Job
from harness.workers.numbered import Incoming
from harness.workers.ray_nodes import Room
from harness.workers.ray_transfer import STORE, CheckpointTransfer
from harness.workers.ray_worker import RayWorker

TAKE_SECONDS: Final = 2.0  # how long a worker waits for an event before it answers
_TAKE: Final = "take"  # the concurrency group of the call that waits for events
_TAKE_EVENTS: Final = 500  # in one answer
_LEAVE_PROCESS: Final = {"RAY_kill_child_processes_on_worker_exit": "0"}  # it ends itself, after it has saved its state


def actor_class(room: Room, threads: int) -> Any:
    """The worker's class for Ray.

    Args:
        room: what a worker needs of a node.
        threads: CPU threads of its process.
    """
    import ray

    variables = {name: os.environ.get(name, value) for name, value in worker_environment(threads).items()}
    del variables[COMPILER_CACHE]  # each node has its own
    variables |= _LEAVE_PROCESS
    if not room.gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from a worker that asked for none
    options: dict[str, Any] = {
        "num_cpus": room.cpus,
        "num_gpus": room.gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "concurrency_groups": {_TAKE: 1, STORE: 1},
        "runtime_env": {"env_vars": variables},
    }
    return ray.remote(**options)(RayWorker)


@dataclass(eq=False)
class Remote:
    """A worker, from the moment that Ray is asked for it.

    Attributes:
        actor: None until Ray has been asked.
        call: the answer that is on its way; None after a failure, until `ask_at`.
        node, node_id: name of its node, and Ray's id.
        pid: its process on its node.
        ready: whether it has said hello and its node is admitted.
        job: that it trains.
        submission: number of the last job that it was given.
        stopping: whether its job is to stop.
        incoming: its events.
        answered: when it last answered, on `time.monotonic`.
        transfer: of the checkpoint of its job, which has finished.
    """

    actor: Any = None
    call: Any = None
    node: str = ""
    node_id: str = ""
    pid: int = 0
    ready: bool = False
    job: Job | None = None
    submission: int = 0
    stopping: bool = False
    incoming: Incoming = field(default_factory=Incoming)
    answered: float = 0.0
    ask_at: float = 0.0
    transfer: CheckpointTransfer | None = None

    def ask(self) -> None:
        """Ask for its next events, or for its versions if it is new."""
        if self.ready:
            take = self.actor.take.options(concurrency_group=_TAKE)
            self.call = take.remote(self.incoming.last, _TAKE_EVENTS, TAKE_SECONDS)
        else:
            self.call = self.actor.hello.remote()
