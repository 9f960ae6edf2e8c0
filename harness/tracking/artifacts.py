"""Reads the artifacts of runs: from the local disk if they are stored there, else through MLflow's client.

JSON with a checksum is verified. A damaged file that decides something is a `TrackingError`; any other is left out with
a warning that names it.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from harness.core.bounded_json import read_json
from harness.core.files import DamagedError, read_json_list
from harness.core.text import printable
from harness.tracking import schema
from harness.tracking.locations import read_file, run_folder
from harness.tracking.records import PlanChange
from harness.tracking.server_errors import PAGE
from harness.tracking.store import RefusedFile, ServerError, TrackingError
from harness.tracking.stored_json import check_plan

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

_PATCH_PREFIX: Final = b"sha256 of this patch: "
_PATCH_LINE: Final = len(_PATCH_PREFIX) + 64 + 1  # bytes


def read_bytes(client: MlflowClient, run: Run, path: str) -> bytes | None:
    """The content of an artifact that is no web page, or None where it is missing.

    Raises:
        RefusedFile: it is outside the store's own root, or no regular file, or a link leads to it.
    """
    local = run_folder(client, run)
    if local is not None:  # MLflow's client would copy the file
        return read_file(local, path)
    folder = path.rpartition("/")[0] or None
    if all(file.path != path for file in client.list_artifacts(run.info.run_id, folder)):
        return None
    with tempfile.TemporaryDirectory() as here:
        content = Path(client.download_artifacts(run.info.run_id, path, here)).read_bytes()
    if content.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):  # such as a proxy's login page
        raise ServerError(f"MLflow: {PAGE}", PAGE)
    return content


def read_list(
    client: MlflowClient, run: Run, path: str, check: Callable[[object], None], parse: Callable[[Any], _T]
) -> list[_T]:
    """The items of a JSON list; none where the artifact is missing, or is damaged or refused, which is logged."""
    try:
        content = read_bytes(client, run, path)
        if content is None:
            return []
        items = read_json_list(content)
        check(items)
        return [parse(one) for one in items]
    except RefusedFile as error:
        logger.warning(_left_out(run, path, error))
    except DamagedError as error:
        logger.warning(f"{damaged(run, path, str(error))}; it is left out")
    return []


def with_patch_line(patch: bytes) -> bytes:
    """A patch with its checksum in a first line, which `git apply` and `patch` ignore."""
    return _PATCH_PREFIX + hashlib.sha256(patch).hexdigest().encode() + b"\n" + patch


def read_patch(client: MlflowClient, run: Run) -> str:
    """The patch of a parent run; empty where there is none, or it is damaged or refused, which is logged."""
    try:
        content = read_bytes(client, run, schema.PATCH_FILE) or b""
    except RefusedFile as error:
        logger.warning(_left_out(run, schema.PATCH_FILE, error))
        return ""
    agree = sum(one == other for one, other in zip(content, _PATCH_PREFIX, strict=False))
    if agree < len(_PATCH_PREFIX) // 2:  # of an older version, without a checksum
        return content.decode("utf-8", "replace")  # a diff may hold any bytes
    patch = content[_PATCH_LINE:]
    if content != with_patch_line(patch):
        logger.warning(f"{damaged(run, schema.PATCH_FILE, 'does not match its checksum')}; it is left out")
        return ""
    return patch.decode("utf-8", "replace")


def _left_out(run: Run, path: str, error: RefusedFile) -> str:
    return printable(f"{path} of the run {run.info.run_id} is left out: {error}")


def damaged(run: Run, path: str, why: str) -> str:
    """The name of a damaged artifact and of its run, for the start of a message."""
    return f"{path} of the run {run.info.run_id} {why} (damaged file)"


def stored_plans(client: MlflowClient, run: Run) -> tuple[dict[str, Any], tuple[PlanChange, ...]]:
    """The first analysis plan of a parent run, empty where none was stored, and its later changes.

    The digest of the first one is a tag, which the report compares.

    Raises:
        TrackingError: a file is damaged.
    """
    stored = {path: read_bytes(client, run, path) for path in (schema.PLAN_FILE, schema.PLAN_CHANGES_FILE)}
    path = schema.PLAN_FILE
    try:
        text = stored[path]
        first: dict[str, Any] = {} if text is None else read_json(text)
        check_plan(first)
        path = schema.PLAN_CHANGES_FILE
        text = stored[path]
        changes = () if text is None else schema.parse_changes(text)
    except DamagedError as error:
        raise TrackingError(f"{damaged(run, path, str(error))}; restore it from a backup") from error
    except (LookupError, TypeError, ValueError) as error:
        raise TrackingError(f"{damaged(run, path, 'is not a stored plan')}; restore it from a backup") from error
    return first, changes
