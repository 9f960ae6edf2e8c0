"""An empty MLflow store, created once per test process and copied: MLflow's migrations take more than a second."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from harness.core.paths import sqlite_uri
from harness.tracking.store import connect


def copy_empty_store(file: Path) -> None:
    """Create the SQLite file of an empty store."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_content())


@functools.cache
def _content() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mlflow.db")
        connect(sqlite_uri(file), create=True)
        return file.read_bytes()
