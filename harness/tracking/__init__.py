"""The one owner of what a sweep looks like in MLflow: writes it and reads it back.

One parent run per sweep, one child run per trial, in the experiment named after the sweep. The parent process alone
writes, through a `Tracker`; the `load_…` functions read tidy pandas frames. MLflow and pandas are imported at their
first use: MLflow alone takes seconds.
"""

from __future__ import annotations

from harness.core.paths import DEFAULT_URI
from harness.tracking.outbox.outbox import ARTIFACTS, Outbox, UnfinishedRun, unfinished_runs
from harness.tracking.ownership import SweepState, find_sweep
from harness.tracking.reading.activity import Pulse, read_pulse
from harness.tracking.reading.find_run import RunDetails, load_run
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
from harness.tracking.records import ArmInfo, Confirmed, PlanChange, Sample, SweepInfo, SweepRecord, Trial, TrialInfo
from harness.tracking.store import (
    SweepBusy,
    TrackingError,
    brief_requests,
    default_tracking_uri,
    page_address,
    ui_command,
)
from harness.tracking.writing.sweeps import Tracker

__all__ = [
    "ARTIFACTS",
    "DEFAULT_URI",
    "ArmInfo",
    "Confirmed",
    "Outbox",
    "PlanChange",
    "Pulse",
    "RunDetails",
    "Sample",
    "SweepBusy",
    "SweepInfo",
    "SweepRecord",
    "SweepState",
    "Tracker",
    "TrackingError",
    "Trial",
    "TrialInfo",
    "UnfinishedRun",
    "brief_requests",
    "checkpoint_folder",
    "default_tracking_uri",
    "find_sweep",
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
    "read_pulse",
    "ui_command",
    "unfinished_runs",
]
