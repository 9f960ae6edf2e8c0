"""The store that all tests of the tracking package read and write, and one behind a server."""

from __future__ import annotations

from servers import server_port
from stored_runs import store

__all__ = ["server_port", "store"]
