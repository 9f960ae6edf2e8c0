"""The provenance of a sweep's numbers: command, code, data, machine, plan, and how to open its runs in MLflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pandas as pd

from harness.core.energy import in_words
from harness.core.text import listed, plural
from harness.report.text.numbers import count, duration
from harness.report.text.plan import plan_lines

if TYPE_CHECKING:
    from harness.tracking import SweepRecord

_SWEEPS_SHOWN: Final = 3  # other sweeps that a sentence names; the rest are counted
_SHA256: Final = 12  # characters shown
_LOCAL: Final = "http://127.0.0.1:5000"  # default address of `mlflow ui`, the command that `ui_command` returns


@dataclass(frozen=True)
class MlflowPages:
    """The pages of the runs in MLflow, and how to open them.

    Attributes:
        command: the shell command that starts the MLflow UI; for a tracking server, its address.
        experiment_id: MLflow's id of the experiment, a part of URLs; empty if unknown.
    """

    command: str
    experiment_id: str = ""

    @property
    def server(self) -> str:
        """The address of the tracking server; empty for a store without a server."""
        return self.command.rstrip("/") if self.command.startswith(("http://", "https://")) else ""

    @property
    def address(self) -> Callable[[str], str] | None:
        """Run id → URL of its page on the server; None without a server."""
        if not (self.server and self.experiment_id):
            return None
        return self._page

    def _page(self, run_id: str) -> str:
        return f"{self.server or _LOCAL}/#/experiments/{self.experiment_id}/runs/{run_id}"

    @property
    def instructions(self) -> str:
        """A sentence that tells the reader how to open a run."""
        if self.server:
            return f"All runs are on the MLflow server {self.server}; each run id links to its page."
        if not self.experiment_id:
            return f"To see a run with its curves and files, run {self.command}."
        return (
            f"To see a run with its curves and files, run {self.command} and open {self._page('RUN_ID')}, where RUN_ID "
            "is its full id (see runs.csv)."
        )


def provenance(record: SweepRecord, runs: pd.DataFrame, command: str) -> list[tuple[str, str]]:
    """Label and value of each line of the provenance.

    Args:
        record, runs: one sweep, as the tracking readers return it.
        command: the shell command that shows all runs.
    """
    data = record.data
    text = "text of the base configuration" if any(path.startswith("data.") for path in record.compare) else "text"
    rows = [
        ("command", record.command),
        ("commit", record.commit + (", with uncommitted changes" if record.dirty else "")),
        ("sweep", record.run_id),
        (text, f"{data['name']} ({data['source']})"),
        ("sha256 of the text", data["sha256"]),
        ("tokens", f"{_splits(data['tokens'])} (tokenizer {data['tokenizer']})"),
        ("tokens of each source", "; ".join(f"{name} {_splits(own)}" for name, own in data.get("sources", {}).items())),
        ("sha256 of the tokenizer", data.get("tokenizer_sha256")),
        ("sha256 of the tokens", data["fingerprint"]),
        ("bytes", _splits(data["bytes"])),
        ("weights at the start", starting_weights(runs)),
        ("search", _search(record)),
        ("trained", f"{count(_total(runs, 'tokens'))} tokens in {duration(_total(runs, 'seconds'))} of run time"),
        *plan_lines(record),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("machine", _machine(record, runs)),
        ("all curves", command),
    ]
    return [(label, str(value)) for label, value in rows if value]


def starting_weights(runs: pd.DataFrame) -> str:
    """Name and SHA-256 of the weights that runs started from; empty if all started from random ones."""
    if "model.init_sha256" not in runs:
        return ""
    pairs = runs[["model.init_from", "model.init_sha256"]]
    known = pairs.dropna().drop_duplicates().itertuples(index=False, name=None)
    found = [f"{name} (SHA-256 {str(sha256)[:_SHA256]}…)" for name, sha256 in known]
    return listed([*found, *(["random ones"] if pairs["model.init_sha256"].isna().any() else [])]) if found else ""


def _machine(record: SweepRecord, runs: pd.DataFrame) -> str:
    devices = sorted({str(device) for device in runs["device"].dropna()}) if "device" in runs else []
    return ", ".join(filter(None, [record.host, *devices]))


def cost(runs: pd.DataFrame) -> str:
    """`3 h 20 min of training on CPU`: the time of all runs together; empty if it is not known."""
    total = _total(runs, "seconds")
    devices = {str(device).partition(":")[0] for device in runs["device"].dropna()} if "device" in runs else set()
    kinds = sorted({"CPU" if device == "cpu" else "GPU" for device in devices})
    return f"{duration(total)} of training on {listed(kinds)}" if kinds and total > 0 else ""


def energy(record: SweepRecord) -> str:
    """`energy 0.12 kWh, GPU only, of the whole machine over 3 h`; empty where it was not measured."""
    if not record.energy:
        return ""
    amount, kinds, seconds = in_words(record.energy)
    which = f"{kinds[0]} only" if len(kinds) == 1 else listed(kinds)
    return f"energy {amount}, {which}, of the whole machine over {duration(seconds)}"


def _total(runs: pd.DataFrame, column: str) -> float:
    return float(pd.to_numeric(runs[column], errors="coerce").sum()) if column in runs else math.nan


def _splits(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {size:,}" for split, size in sizes.items())


def _search(record: SweepRecord) -> str:
    study = record.study
    if not record.tune:
        return ""
    return f"sampler {study['sampler']}, pruner {study['pruner']}, {plural(study['trials'], 'trial')} per arm"


def several_sweeps(record: SweepRecord) -> list[str]:
    """A sentence that names the sweep and the others of its name; empty where it is the only one."""
    if not record.others or record.opened is None:
        return []
    extra = len(record.others) - _SWEEPS_SHOWN
    shown = [*record.others[:_SWEEPS_SHOWN], *([f"{extra} more"] if extra > 0 else [])]
    return [
        f"{record.name} has {len(record.others) + 1} sweeps: this is {record.run_id}, last started or resumed "
        f"{record.opened:%Y-%m-%d %H:%M} UTC. --sweep RUN_ID reads another: {listed(shown)}."
    ]
