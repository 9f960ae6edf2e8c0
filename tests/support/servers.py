"""Servers for tests."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox import Command


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """MLflow's server on a SQLite store; it answers inside the context and is stopped afterwards."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with Command([sys.executable, "-m", "mlflow", "server", *options], folder, environment) as server:

        def answers() -> bool:
            try:
                return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
            except OSError:
                return False

        server.until(answers)
        yield
