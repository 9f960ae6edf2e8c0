"""Reads the artifacts of runs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.tracking import schema
from harness.tracking.records import PlanChange
from harness.tracking.store import local_artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def stored_plans(client: MlflowClient, run: Run) -> tuple[dict[str, Any], tuple[PlanChange, ...]]:
    """The analysis plan that a parent run began with (empty where none was stored), and its changes since then."""
    first = _read_text(client, run, schema.PLAN_FILE)
    changes = _read_text(client, run, schema.PLAN_CHANGES_FILE)
    return json.loads(first or "{}"), schema.parse_changes(changes or "[]")


def _read_text(client: MlflowClient, run: Run, path: str) -> str | None:
    """A text among the artifacts of a run, or None where it is missing."""
    local = local_artifact(run, path)
    if local is not None:
        return local.read_text("utf-8", "replace")  # a diff may hold any bytes
    folder = path.rpartition("/")[0] or None
    if all(file.path != path for file in client.list_artifacts(run.info.run_id, folder)):
        return None
    with tempfile.TemporaryDirectory() as here:
        return Path(client.download_artifacts(run.info.run_id, path, here)).read_text("utf-8", "replace")
