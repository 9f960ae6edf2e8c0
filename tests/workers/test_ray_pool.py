"""The pool on a Ray cluster: behaviour beyond the contract of `test_protocol.py`."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.core.outcomes import Outcome
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Event, Job
from harness.workers.protocol import NoWorkers
from harness.workers.ray_cluster import connected
from harness.workers.ray_nodes import Room
from harness.workers.ray_pool import RayPool
from harness.workers.software import differences, software
from jobs import LONG, config, finished, numbers, resumable, started, steps, until_finished, until_step
from ray_nodes import Nodes, frozen, until

SAID: list[str] = []


@pytest.fixture(scope="module")
def pool(ray_connection: None) -> Iterator[RayPool]:
    with RayPool(cpus=1, gpus=0, most=2, threads=1, patience=600, say=SAID.append) as pool:
        yield pool


def answer(pool: RayPool, condition: Callable[[], object]) -> list[Event]:
    """The events until a condition is true."""
    events: list[Event] = []
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        events += pool.events(0.2)
    return events


@pytest.mark.slow
def test_points_are_those_of_a_local_worker_and_name_the_node(pool: RayPool) -> None:
    pool.submit(Job(1, config(), read_test=True))
    there = until_finished(pool, 1)[1]
    with LocalPool(1) as local:
        local.submit(Job(1, config(), read_test=True))
        here = until_finished(local, 1)[1]
    assert numbers(there) == numbers(here)
    assert (started(there).node, started(here).node) == (host(), "")


def host() -> str:
    return platform.node()


@pytest.mark.slow
def test_a_parent_that_does_not_listen_holds_up_no_step(pool: RayPool, tmp_path: Path) -> None:
    job = Job(1, config(budget={"steps": 800}, eval_every={"steps": 1}, train_eval_tokens=16), checkpoint=tmp_path)
    pool.submit(job)
    events = answer(pool, lambda: pool.pids())
    until((tmp_path / "model.safetensors").exists)  # it has trained to its end: more than fits into a pipe
    events += until_finished(pool, 1)[1]
    assert finished(events).outcome is Outcome.COMPLETE
    assert steps(events) == list(range(801))


@pytest.mark.slow
def test_a_run_saves_its_state_after_its_node_has_left(ray_connection: None, ray_nodes: Nodes, tmp_path: Path) -> None:
    with RayPool(cpus=2, gpus=0, most=None, threads=1, patience=600, say=SAID.append) as pool:
        with ray_nodes.another(num_cpus=2):
            answer(pool, lambda: pool.size == 1)
            pool.submit(Job(1, config(**LONG), state=tmp_path / "state"))
            until_step(pool, 1)
            actor = psutil.Process(pool.pids()[1])
            [worker] = [child for child in actor.children() if "spawn_main" in " ".join(child.cmdline())]
            worker.suspend()  # so that it notices last, after Ray has cleaned up
        assert finished(until_finished(pool, 1)[1]).lost
        actor.wait(60)
    with suppress(psutil.NoSuchProcess):  # the system resumes it when it loses its last parent: it may have ended
        worker.resume()
    worker.wait(60)
    assert list((tmp_path / "state").glob("state-*.json"))


@pytest.mark.slow
def test_a_node_that_freezes_for_a_while_loses_nothing(pool: RayPool, tmp_path: Path) -> None:
    pool.submit(Job(1, resumable(), state=tmp_path))
    events = until_step(pool, 100)
    with frozen(psutil.Process(pool.pids()[1])):
        until_now = time.monotonic() + 5
        while time.monotonic() < until_now:
            events += pool.events(0.2)
    events += until_finished(pool, 1)[1]
    assert finished(events).outcome is Outcome.COMPLETE
    assert steps(events) == sorted(set(steps(events)))


@pytest.mark.slow
def test_a_node_that_stays_frozen_loses_its_run_after_patience(ray_connection: None, tmp_path: Path) -> None:
    job = Job(1, config(**LONG, checkpoint_every=0.1), state=tmp_path)
    with RayPool(cpus=1, gpus=0, most=2, threads=1, patience=6) as pool:
        pool.submit(job)
        events = until_step(pool, 100)
        with frozen(psutil.Process(pool.pids()[1])):
            events += until_finished(pool, 1)[1]
        assert finished(events).lost and finished(events).reason.startswith("no answer from node ")
        pool.submit(replace(job, after=steps(events)[-1]))
        again = until_step(pool, steps(events)[-1] + 1)
        assert started(again).resumed_from > 0 and steps(again)[0] > steps(events)[-1]


@pytest.mark.slow
def test_workers_follow_the_nodes(ray_connection: None, ray_nodes: Nodes, tmp_path: Path) -> None:
    """A run of a node that leaves is lost; it waits for another node if there is no room."""
    job = Job(1, config(budget={"steps": 100}), state=tmp_path / "1")
    with RayPool(cpus=2, gpus=0, most=None, threads=1, patience=600, say=SAID.append) as pool:
        assert (pool.size, pool.free) == (0, 0)
        assert SAID[-1] == "no node of the cluster has 2 CPUs for a run; runs wait for one"
        with ray_nodes.another(num_cpus=2):
            answer(pool, lambda: pool.size == 1)
            pool.submit(Job(1, config(**LONG)))
            until_step(pool, 1)
        end = finished(until_finished(pool, 1)[1])
        assert (end.outcome, end.lost) == (Outcome.FAILED, True)
        answer(pool, lambda: pool.size == 0)
        pool.submit(job)  # waits
        pool.submit(Job(2, config(**LONG)))
        pool.stop(2)
        assert finished(until_finished(pool, 1)[2]).outcome is Outcome.INTERRUPTED
        with ray_nodes.another(num_cpus=4):
            assert finished(until_finished(pool, 1)[1]).outcome is Outcome.COMPLETE


@pytest.mark.slow
def test_a_node_with_other_versions_gets_no_run(ray_connection: None, ray_nodes: Nodes, tmp_path: Path) -> None:
    """A real other version is found there: an older torch lies before the installed one on the node's path."""
    (tmp_path / "torch-1.13.0.dist-info").mkdir()
    (tmp_path / "torch-1.13.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 1.13.0\n"
    )
    said: list[str] = []
    with (
        ray_nodes.another(num_cpus=2, env_vars={"PYTHONPATH": str(tmp_path)}),
        RayPool(cpus=2, gpus=0, most=None, threads=1, patience=600, say=said.append) as pool,
    ):
        answer(pool, lambda: pool.size)
        with pytest.raises(NoWorkers) as stop:
            until_finished(pool, 1)
    here = software()["torch"]
    why = f"node {host()} gets no run, as it has torch 1.13.0 (here {here}); install the same there"
    assert said == [why]
    assert str(stop.value) == f"no node is left to train on: {why}"


def test_every_kind_of_difference_is_named() -> None:
    here = software()
    assert differences(here) == ""
    assert differences({**here, "torch": "1.13.0", "Python": "3.9.1"}) == (
        f"Python 3.9.1 (here {here['Python']}), torch 1.13.0 (here {here['torch']})"
    )
    assert differences({}).startswith("harness none (here 0.1.0-")


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "runs"),
    [
        (1, 0, {"CPU": 4.0}, 4),
        (0.1, 0, {"CPU": 1.0}, 10),
        (3, 0, {"CPU": 8.0, "GPU": 8.0}, 2),
        (1, 0.25, {"CPU": 8.0, "GPU": 1.0}, 4),
        (1, 4, {"CPU": 64.0, "GPU": 8.0}, 2),
        (1, 1, {"CPU": 64.0}, 0),
        (1, 0, {"memory": 1e9}, 0),
    ],
)
def test_as_many_runs_fit_into_a_node_as_its_resources_allow(
    cpus: float, gpus: float, resources: dict[str, float], runs: int
) -> None:
    assert Room(cpus, gpus).on(resources) == runs


def test_a_cluster_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(NoWorkers) as stop, connected("127.0.0.1:9"):
        pass
    assert str(stop.value).startswith("--ray 127.0.0.1:9: no Ray cluster answers at 127.0.0.1:9; start one with ")


def test_without_ray_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NoWorkers, match=r'^--ray needs Ray: pip install -e "\.\[ray\]"$'), connected("local"):
        pass
