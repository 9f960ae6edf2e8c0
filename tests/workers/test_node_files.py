"""Jobs on a node of a Ray cluster with another disk: tokens, states and checkpoints find their way."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from far_node import FarNode, why_not
from harness.config.run import DataConfig
from harness.core.outcomes import Outcome
from harness.tracking import PlaceRequests
from harness.tracking.direct import place_in_folder
from harness.workers.checkpoints import checksums
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Finished, Job
from harness.workers.node_files import NodeFiles
from harness.workers.ray_pool import RayPool
from jobs import finished, numbers, resumable, started, steps, until_finished, until_step
from ray_nodes import Nodes, until

pytestmark = pytest.mark.slow

CPUS = 2  # only the far node has so many


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every node sees: not among the files of the tests."""
    if why := why_not():
        pytest.skip(f"no node with another disk: {why}")
    with tempfile.TemporaryDirectory(prefix="shared-states-") as folder:
        yield Path(folder)


@pytest.mark.usefixtures("ray_connection")
def test_a_run_survives_the_loss_of_a_node_with_another_disk(
    ray_nodes: Nodes, shared: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    covered = tmp_path_factory.getbasetemp()
    (tmp_path / "text.txt").write_text("Every effort moves you. " * 400, "utf-8")
    data = DataConfig(path=(str(tmp_path / "text.txt"),), tokenizer="byte")
    config = resumable(budget={"steps": 1500}).model_copy(update={"data": data})
    folder = tmp_path / "run"
    folder.mkdir()
    job = Job(1, config, state=folder / "state", checkpoint=folder / "checkpoint", after=-1, run="sweep/run")
    with LocalPool(1) as local:
        local.submit(replace(job, state=None, checkpoint=tmp_path / "local"))
        whole = until_finished(local, 1)[1]

    said: list[str] = []
    places = PlaceRequests()  # in a folder that the node does not see
    artifacts = tmp_path / "model" / "artifacts"
    places.wake = lambda: places.serve(lambda key: place_in_folder(key, str(artifacts), artifacts))
    files = NodeFiles(str(shared), say=said.append, places=places)
    with contextlib.ExitStack() as stack:
        first = FarNode(ray_nodes.address, covered, CPUS)
        stack.callback(first.kill)
        pool = stack.enter_context(RayPool(CPUS, 0, 1, 1, 60.0, say=said.append, files=files))
        pool.submit(job)
        events = until_step(pool, 20)
        until(lambda: list(shared.rglob("copy.json")))
        first.kill()
        second = FarNode(ray_nodes.address, covered, CPUS)  # has an empty disk
        stack.callback(second.kill)
        events += until_finished(pool, 1)[1]
        assert finished(events).lost, events[-1]

        pool.submit(replace(job, after=steps(events)[-1]))
        rest = until_finished(pool, 1)[1]
        assert finished(rest) == Finished(1, Outcome.COMPLETE)
        assert started(rest).resumed_from > 0 and started(rest).warning == ""
        assert steps(events) + steps(rest) == steps(whole)
        assert numbers(events) + numbers(rest) == numbers(whole)
        assert checksums(folder / "checkpoint") == checksums(tmp_path / "local")
        assert not (folder / "state").exists()
        assert said[-1].endswith("go through this process: it does not see the folder of the artifacts")
        pool.remove_states("sweep/run")
        until(lambda: not list(shared.rglob("*.json")))
