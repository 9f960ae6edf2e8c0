"""Where a sweep's numbers come from: command, code, data, machine, plan, and how its runs are opened."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.core.text import plural
from harness.report.text.numbers import count, duration
from harness.report.text.plan import plan_lines

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

_LOCAL: Final = "http://127.0.0.1:5000"  # where the command that `ui_command` gives shows the store


@dataclass(frozen=True)
class Opening:
    """How a run is looked at in MLflow.

    Attributes:
        command: the shell command that shows the store's pages; for a server, its address.
        experiment_id: MLflow's, which its addresses need; empty where it is not known.
    """

    command: str
    experiment_id: str = ""

    @property
    def server(self) -> str:
        """The server's address; empty for a store without one."""
        return self.command.rstrip("/") if self.command.startswith(("http://", "https://")) else ""

    @property
    def address(self) -> Callable[[str], str] | None:
        """Run id → its page on the server; None where there is none."""
        if not (self.server and self.experiment_id):
            return None
        return self._page

    def _page(self, run_id: str) -> str:
        return f"{self.server or _LOCAL}/#/experiments/{self.experiment_id}/runs/{run_id}"

    @property
    def words(self) -> str:
        """What a reader does to see a run."""
        if self.server:
            return f"Every run is on the MLflow server {self.server}; its id leads to its page."
        if not self.experiment_id:
            return f"To see a run with its curves and files, run {self.command}."
        return (
            f"To see a run with its curves and files, run {self.command} and open {self._page('RUN_ID')} with its "
            "whole id (see runs.csv) in the place of RUN_ID."
        )


def provenance(record: SweepRecord, runs: pd.DataFrame, command: str) -> list[tuple[str, str]]:
    """Label and value of everything that says where the numbers come from.

    Args:
        record, runs: as the tracking readers give them, of one sweep.
        command: the shell command that shows all runs.
    """
    data = record.data
    text = "text of the base configuration" if any(path.startswith("data.") for path in record.compare) else "text"
    rows = [
        ("command", record.command),
        ("commit", record.commit + (", with uncommitted changes" if record.dirty else "")),
        ("sweep", record.run_id),
        (text, f"{data['name']} ({data['source']})"),
        ("its sha256", data["sha256"]),
        ("its tokens", f"{_splits(data['tokens'])} (tokenizer {data['tokenizer']})"),
        ("their sha256", data["fingerprint"]),
        ("its bytes", _splits(data["bytes"])),
        ("search", _search(record)),
        ("trained", f"{count(_total(runs, 'tokens'))} tokens in {duration(_total(runs, 'seconds'))} of run time"),
        *plan_lines(record),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("machine", _machine(record, runs)),
        ("all curves", command),
    ]
    return [(label, str(value)) for label, value in rows if value]


def _machine(record: SweepRecord, runs: pd.DataFrame) -> str:
    devices = sorted({str(device) for device in runs["device"].dropna()}) if "device" in runs else []
    return ", ".join(filter(None, [record.host, *devices]))


def _total(runs: pd.DataFrame, column: str) -> float:
    return float(pd.to_numeric(runs[column], errors="coerce").sum()) if column in runs else math.nan


def _splits(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {size:,}" for split, size in sizes.items())


def _search(record: SweepRecord) -> str:
    study = record.study
    if not record.tune:
        return ""
    return f"sampler {study['sampler']}, pruner {study['pruner']}, {plural(study['trials'], 'trial')} per arm"
