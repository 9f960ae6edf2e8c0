"""The store that all tests of the tracking package read and write."""

from __future__ import annotations

from stored_runs import store

__all__ = ["store"]
