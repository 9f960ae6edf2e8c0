"""Checkpoints of a node that sees the artifact store: their weights go there, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.outcomes import Outcome
from harness.model.weights import load_checkpoint
from harness.tracking import ARTIFACTS, Outbox, PlaceRequests, Tracker, checkpoint_folder
from harness.tracking.direct import Place
from harness.workers.checkpoints import checksums
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Finished, Job
from harness.workers.node_files import NodeFiles
from harness.workers.ray_pool import RayPool
from jobs import config, finished, until_finished
from ray_nodes import Nodes
from stored_runs import Store, store, sweep_info, trial_info

__all__ = ["store"]

CPUS = 2  # more than the other nodes have, so that jobs run on the node of this test


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[Place]:
    """The places that were offered. The third has something in the way of the weights."""
    places: list[Place] = []
    offer: Callable[[Tracker, str], Place] = Tracker.offer_place  # type: ignore[assignment]

    def noted(tracker: Tracker, run: str) -> Place:
        places.append(offer(tracker, run))
        if len(places) == 3:
            (Path(places[-1].folder) / "model.safetensors.part" / "in the way").mkdir(parents=True)
        return places[-1]

    monkeypatch.setattr(Tracker, "offer_place", noted)
    return places


@pytest.mark.slow
@pytest.mark.usefixtures("ray_connection")
def test_weights_go_straight_to_the_store_or_through_the_parent(
    ray_nodes: Nodes, store: Store, offered: list[Place], tmp_path: Path
) -> None:
    said: list[str] = []
    places, tracker = PlaceRequests(), Tracker("direct-on-ray", store.uri)
    files = NodeFiles(say=said.append, places=places)
    ends, keys = [], []
    with (
        Outbox(tracker, tracker.open_sweep(sweep_info("direct-on-ray")), tmp_path / "work", places=places) as outbox,
        ray_nodes.another(num_cpus=CPUS),
        RayPool(CPUS, 0, 1, 1, 60.0, say=said.append, files=files) as pool,
    ):
        for number, sees_the_run in enumerate((True, False, True, True), 1):
            keys.append(outbox.start(trial_info(seed=number)))
            folder = outbox.folder_of(keys[-1])
            state = folder / "state" if sees_the_run else None
            checkpoint = folder / ARTIFACTS / "checkpoint"
            pool.submit(Job(number, config(), checkpoint=checkpoint, state=state, run=f"sweep/{keys[-1]}"))
            ends.append(finished(until_finished(pool, 1)[number]))
            direct = number < 3
            assert (checkpoint / "model.safetensors").exists() is not direct
            assert (checkpoint / "stored.json").exists() is direct
            assert (checkpoint / "checkpoint.json").exists()
            outbox.end(keys[-1], Outcome.COMPLETE, "")
        assert outbox.drain(60)
        runs = dict(outbox.new_run_ids())
    assert ends == [Finished(number, Outcome.COMPLETE) for number in (1, 2, 3, 4)]
    assert len(offered) == 3  # the node failed then, and is not tried again
    [line] = said
    assert line.startswith("checkpoints of node ") and "go through this process" in line
    with LocalPool(1) as local:
        local.submit(replace(Job(1, config()), checkpoint=tmp_path / "local"))
        until_finished(local, 1)
    for key in keys:
        stored = checkpoint_folder(runs[key], store.uri)
        assert checksums(stored) == checksums(tmp_path / "local")
        load_checkpoint(stored)
