"""What every test runs under: a cache of its session, torch on one thread, and a Ray cluster where one is needed."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ray_nodes import Nodes

gc.disable()  # until everything is imported

_clusters: list[Nodes] = []  # one, or none
_with_cluster: set[Path] = set()  # the modules that use it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that use the Ray cluster come first, so that one process starts one, and ends it soon."""
    for item in items:
        if item.get_closest_marker("ray") or "ray_nodes" in getattr(item, "fixturenames", ()):
            _with_cluster.add(item.path)
    items.sort(key=lambda item: item.path not in _with_cluster)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the cluster after the last of these modules: while it idles it takes 5 % of a core."""
    if nextitem is None or nextitem.path not in _with_cluster:
        pytest_sessionfinish()


def pytest_sessionfinish() -> None:
    """End the cluster."""
    while _clusters:
        _clusters.pop().close()


def pytest_collection_finish() -> None:
    """Keep what the imports made out of garbage collections: each would walk millions of objects."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` ignores it, and every process of a test would, too
    torch = sys.modules.get("torch")  # not imported for tests that need none: it takes seconds
    if torch is not None:
        torch.set_num_threads(1)  # some gradients depend on the number of threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT_HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def ray_nodes(surroundings: None) -> Nodes:
    """A Ray cluster of three nodes, shared by tests that follow each other: it takes 10 seconds to start."""
    from ray_nodes import Nodes

    if not _clusters:
        _clusters.append(Nodes())
    return _clusters[0]


@pytest.fixture(scope="module")
def ray_connection(ray_nodes: Nodes) -> Iterator[None]:
    """This process is connected to the cluster."""
    from harness.workers.ray_cluster import connected

    with connected(ray_nodes.address):
        yield
