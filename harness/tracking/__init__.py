"""Stores sweeps in MLflow and reads them back.

One parent run per sweep, one child run per trial, in the experiment named after the sweep. Only the parent process
writes, through a `Tracker`; the `load_…` functions return tidy pandas frames. MLflow and pandas are imported at first
use, because MLflow alone takes seconds.
"""

from __future__ import annotations

from harness.core.paths import DEFAULT_URI
from harness.tracking.outbox.outbox import Outbox
from harness.tracking.outbox.places import PlaceRequests
from harness.tracking.outbox.sender import ARTIFACTS
from harness.tracking.outbox.unfinished import UnfinishedRun, unfinished_runs
from harness.tracking.ownership import SweepState, find_sweep, last_sweep, sweep_ids
from harness.tracking.readable import left_out_lines
from harness.tracking.reading.activity import Activity, read_activity
from harness.tracking.reading.find_run import RunDetails, load_run
from harness.tracking.reading.results import confirm_outcomes
from harness.tracking.reading.sweeps import (
    checkpoint_folder,
    load_curves,
    load_frames,
    load_passage,
    load_patch,
    load_positions,
    load_runs,
    load_samples,
    load_sweep,
)
from harness.tracking.records import (
    ArmInfo,
    ArmResult,
    ConfirmResult,
    PlanChange,
    Sample,
    SweepInfo,
    SweepRecord,
    TrialInfo,
    TrialRecord,
)
from harness.tracking.store import (
    NothingToReport,
    ServerError,
    SweepBusy,
    TrackingError,
    brief_requests,
    default_tracking_uri,
    page_address,
    ui_command,
)
from harness.tracking.writing.tracker import Tracker

__all__ = [
    "ARTIFACTS",
    "DEFAULT_URI",
    "Activity",
    "ArmInfo",
    "ArmResult",
    "ConfirmResult",
    "NothingToReport",
    "Outbox",
    "PlaceRequests",
    "PlanChange",
    "RunDetails",
    "Sample",
    "ServerError",
    "SweepBusy",
    "SweepInfo",
    "SweepRecord",
    "SweepState",
    "Tracker",
    "TrackingError",
    "TrialInfo",
    "TrialRecord",
    "UnfinishedRun",
    "brief_requests",
    "checkpoint_folder",
    "confirm_outcomes",
    "default_tracking_uri",
    "find_sweep",
    "last_sweep",
    "left_out_lines",
    "load_curves",
    "load_frames",
    "load_passage",
    "load_patch",
    "load_positions",
    "load_run",
    "load_runs",
    "load_samples",
    "load_sweep",
    "page_address",
    "read_activity",
    "sweep_ids",
    "ui_command",
    "unfinished_runs",
]
