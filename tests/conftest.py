"""What every test runs under: a cache of the session's own, and torch on one thread."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator

import pytest


def pytest_collection_finish() -> None:
    """Keep what the imports made out of garbage collections: each would walk millions of objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` ignores it, and every process of a test would, too
    torch = sys.modules.get("torch")  # not imported for tests that need none: it takes seconds
    if torch is not None:
        torch.set_num_threads(1)  # some gradients depend on the number of threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT_HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
