"""The store that all tests of the tracking package read and write, and one behind a server."""

from __future__ import annotations

import pytest

from postgres import Server, postgres
from servers import server_port
from stored_runs import store

__all__ = ["postgres", "server_port", "store"]


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest) -> str:
    """The address of a store in each kind of database that this process reaches."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("store").uri)
    server: Server = request.getfixturevalue("postgres")
    return server.stores().tracking
