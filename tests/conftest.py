"""What every test runs under: a cache of the session's own, and torch on one thread."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ray_nodes import Nodes

gc.disable()  # until everything is imported


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


@pytest.fixture(scope="session")
def ray_nodes(surroundings: None) -> Iterator[Nodes]:
    """A Ray cluster of three nodes, for all tests that need one: it takes 10 seconds to start."""
    from ray_nodes import Nodes

    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture(scope="module")
def ray_connection(ray_nodes: Nodes) -> Iterator[None]:
    """This process is connected to the cluster."""
    from harness.workers.ray_cluster import connected

    with connected(ray_nodes.address):
        yield
