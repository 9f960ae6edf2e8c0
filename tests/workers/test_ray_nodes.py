"""The nodes of a cluster whose head does not answer."""

from __future__ import annotations

import threading

import pytest

from harness.workers import ray_cluster, ray_nodes
from harness.workers.ray_nodes import ClusterNodes


def test_a_head_that_never_answers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the cluster is killed while a sweep starts: Ray's calls wait for the head."""
    end = threading.Event()
    monkeypatch.setattr(ray_cluster, "_living_nodes", end.wait)
    for module in (ray_cluster, ray_nodes):
        monkeypatch.setattr(module, "HEAD_SECONDS", 0.2)
    with pytest.raises(ray_cluster.HeadLost, match=r"^the head of the Ray cluster has not answered for \d+ s; "):
        ClusterNodes(1, None, 1, pytest.fail)
    end.set()
