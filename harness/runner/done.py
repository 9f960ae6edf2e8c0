"""What of a planned sweep is done already. Imports little: most sweeps that are planned have no stores yet."""

from __future__ import annotations

import contextlib

from harness.config.spec import SweepSpec
from harness.core.paths import DEFAULT_STORAGE, configured_uri, sqlite_file, work_folder


def runs_left(spec: SweepSpec, identity: str, tracking: str | None, storage: str | None) -> int | None:
    """How many runs of a sweep are left; None if it has not been started.

    Only stores that are files are asked: a plan waits for no server.

    Args:
        spec: the sweep.
        identity: see `Datasets.identity`.
        tracking, storage: MLflow's and Optuna's address; None: the defaults.
    """
    storage = DEFAULT_STORAGE if storage is None else storage
    files = [sqlite_file(configured_uri(tracking)), sqlite_file(storage)]
    if not all(file is not None and file.is_file() for file in files):
        return None
    from harness.runner.status import read_status
    from harness.search.readable import StorageError
    from harness.tracking import TrackingError

    with contextlib.suppress(TrackingError, StorageError):  # the sweep itself will say what is wrong
        found = read_status(spec, identity, tracking, storage, work_folder(spec.name, identity))
        if found.sweep is not None:
            return sum(arm.left + arm.interrupted + arm.running for arm in found.arms)
    return None
