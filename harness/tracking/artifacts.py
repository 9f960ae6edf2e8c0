"""Reads the artifacts of runs: from the local disk if they are stored there, else through MLflow's client."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from harness.tracking import schema
from harness.tracking.records import PlanChange

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def local_folder(uri: str) -> Path | None:
    """The folder at an artifact address; None if it is not on this machine."""
    location = urlsplit(uri)
    return Path(url2pathname(location.path)) if location.scheme == "file" else None


def local_artifact(run: Run, path: str) -> Path | None:
    """An artifact's own path on this machine, else None. (MLflow's client would copy it.)"""
    folder = local_folder(run.info.artifact_uri)
    return folder / path if folder is not None and (folder / path).exists() else None


def read_text(client: MlflowClient, run: Run, path: str) -> str | None:
    """The text of an artifact in UTF-8, or None where it is missing."""
    local = local_artifact(run, path)
    if local is not None:
        return local.read_text("utf-8", "replace")  # a diff may hold any bytes
    folder = path.rpartition("/")[0] or None
    if all(file.path != path for file in client.list_artifacts(run.info.run_id, folder)):
        return None
    with tempfile.TemporaryDirectory() as here:
        return Path(client.download_artifacts(run.info.run_id, path, here)).read_text("utf-8", "replace")


def stored_plans(client: MlflowClient, run: Run) -> tuple[dict[str, Any], tuple[PlanChange, ...]]:
    """The first analysis plan of a parent run, empty where none was stored, and its later changes."""
    first = read_text(client, run, schema.PLAN_FILE)
    changes = read_text(client, run, schema.PLAN_CHANGES_FILE)
    return json.loads(first or "{}"), schema.parse_changes(changes or "[]")
