"""The `Tracker`: all writes of one process to one MLflow experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from harness.core.energy import Energy
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.core.secrets import without_secrets
from harness.core.text import TRIES_AGAIN, listed
from harness.tracking import provenance, schema
from harness.tracking.artifacts import stored_plans
from harness.tracking.direct import Place
from harness.tracking.migration import Announce
from harness.tracking.reading import results
from harness.tracking.records import ArmResult, ConfirmResult, SweepInfo, TrialInfo, TrialRecord
from harness.tracking.store import wrap_errors
from harness.tracking.writing.experiment import Experiment
from harness.tracking.writing.runs import RunWriter
from harness.tracking.writing.sweeps import SweepWriter

_ID_CHARACTERS: Final = 12
_NAMES_SHOWN: Final = 3


class Tracker:
    """Writes sweeps and their runs, and reads back what a sweep needs to resume; for one thread of one process.

    Args:
        name: of the experiment, see `Experiment`.
        uri: MLflow's tracking address.
        announce: called with a line before the store of an older MLflow is converted; None: that is an error.
        take_over: see `Experiment`.

    Attributes:
        experiment: tags and artifacts of any run.
        runs: child runs.
        sweeps: parent runs.
        left_out: sentences about the runs that cannot be read, filled by the methods that read.

    Raises:
        TrackingError: the store cannot be used. Every method raises it where the store refuses or does not answer.
    """

    def __init__(
        self, name: str, uri: str | None = None, announce: Announce | None = None, take_over: bool = False
    ) -> None:
        self.experiment = Experiment(name, uri, announce, take_over)
        self.runs = RunWriter(self.experiment)
        self.sweeps = SweepWriter(self.experiment, self.runs)
        self.left_out: list[str] = []
        self._code = provenance.CodeVersion()
        self._shared_tags: dict[str, str] = {}  # of all runs that this process writes

    @property
    def uri(self) -> str:
        """MLflow's tracking address."""
        return self.experiment.uri

    # the sweep -----------------------------------------------------------------------------------------------

    def open_sweep(self, info: SweepInfo) -> str:
        """`begin_sweep` and `describe_sweep`; returns the parent run's id."""
        parent = self.begin_sweep(info)
        self.describe_sweep(parent)
        return parent

    def begin_sweep(self, info: SweepInfo) -> str:
        """Create a sweep's parent run, or resume the one of the same identity.

        Other sweeps of the experiment whose process has died are closed as interrupted.

        Returns:
            the parent run's id. The caller closes it, also if `describe_sweep` fails.

        Raises:
            SweepBusy: another process runs the sweep.
        """
        info = replace(info, command=without_secrets(info.command))
        self._code = provenance.code_version()
        self._shared_tags = _shared_tags(self._code, info.command)
        return self.sweeps.begin(info, self._shared_tags)

    def describe_sweep(self, parent: str) -> None:
        """Store the plan, the data set, the descriptions and the files of a sweep that has begun.

        The analysis plan is stored before the first trial and never changed; a different later plan is added to it.
        """
        self.sweeps.describe(parent, self._code)

    @property
    def earlier_sweep(self) -> str:
        """If a new sweep was created, the last parent run of its name with another identity; else empty."""
        return self.sweeps.earlier_sweep

    def refuse_if_owned(self, identity: str) -> None:
        """Raise `SweepBusy` if another process runs the sweep of this identity."""
        self.sweeps.refuse_if_owned(identity)

    def take_over(self, identity: str) -> str:
        """Take the sweep of this identity from the process that owns it; see `SweepWriter.take_over`."""
        return self.sweeps.take_over(identity)

    def heartbeat(self, parent: str) -> str | None:
        """Record that this process still runs the sweep; returns the process that has taken it over, or None."""
        return self.sweeps.heartbeat(parent)

    def add_energy(self, parent: str, used: Energy) -> None:
        """Add what the machine used while this process ran to the energy of a sweep."""
        self.sweeps.add_energy(parent, used)

    def store_report(
        self, parent: str, answer: str, report: Path, files: Sequence[Path], results: Sequence[ArmResult]
    ) -> None:
        """Store a sweep's report and answer; see `SweepWriter.store_report`."""
        self.sweeps.store_report(parent, answer, report, files, results)

    def close_sweep(self, parent: str, outcome: Outcome, reason: str = "") -> None:
        """End the parent run."""
        self.sweeps.close(parent, outcome, reason)

    def set_aside(self, identity: str) -> list[str]:
        """Set a sweep aside, so that its spec can start again; see `SweepWriter.set_aside`."""
        return self.sweeps.set_aside(identity)

    def close_abandoned_runs(self, parent: str, outcomes: Mapping[str, Outcome] | None = None) -> int:
        """Close the child runs that a dead process left RUNNING; see `SweepWriter.close_abandoned_runs`."""
        return self.sweeps.close_abandoned_runs(parent, outcomes)

    def refused_artifacts(self, run_id: str = "") -> list[str]:
        """One line per reason why the server refused artifacts: of one run, or of all that this process wrote."""
        by_reason: dict[str, list[str]] = {}
        for (run, path), failure in self.experiment.refused.items():
            if run_id in ("", run):
                by_reason.setdefault(str(failure), []).append(f"{path} of run {run[:_ID_CHARACTERS]}")
        return [
            f"MLflow did not store {_shown_names(names)}: {reason}; {TRIES_AGAIN}"
            for reason, names in by_reason.items()
        ]

    # its runs ------------------------------------------------------------------------------------------------

    def start_run(
        self, parent: str, info: TrialInfo, key: str = "", reopen: bool = False, at: int | None = None
    ) -> str:
        """Start a child run of a sweep that this tracker has opened: tags, parameters, data set.

        Args:
            parent, info: the sweep, and what is trained.
            key: stored as a tag, by which the run can be found; "" for none.
            reopen: resume the run of this key if there is one; points that it has are not stored twice.
            at: when it started, in milliseconds since 1970; None: now.

        Returns:
            its id.
        """
        data = info.data or self.sweeps.info(parent).data
        tags = {**self._shared_tags, **schema.data_tags(data), **schema.trial_tags(parent, info)}
        tags[schema.LABEL] = self.sweeps.label(parent, info.arm)
        if key:
            tags[schema.KEY] = key
        return self.runs.start(info, tags, data, key, reopen, at)

    def log_point(self, run_id: str, point: Point, at: int | None = None) -> None:
        """Queue a point of a run; see `RunWriter.log_point`."""
        self.runs.log_point(run_id, point, at)

    def flush(self) -> None:
        """Send all queued points."""
        self.runs.flush()

    def store_files(self, run_id: str, folder: Path) -> None:
        """Store a run's files: its checkpoint as a model, everything else as artifacts."""
        self.runs.store_files(run_id, folder)

    def offer_place(self, run_id: str) -> Place | None:
        """A place where another machine can store the weights of an open run; None: it needs none."""
        return self.runs.offer_place(run_id)

    def end_run(self, run_id: str, outcome: Outcome, reason: str = "", at: int | None = None) -> None:
        """End a run; see `RunWriter.end`."""
        self.runs.end(run_id, outcome, reason, at)

    def tag(self, run_id: str, tags: Mapping[str, str] | None = None, **named: str) -> None:
        """Set tags by their names after `harness.`: `tag(run, device="cpu")`. MLflow's own names stay as they are."""
        given = {**(tags or {}), **named}
        own = (schema.PREFIX, "mlflow.")
        full = {key if key.startswith(own) else schema.PREFIX + key: str(text) for key, text in given.items()}
        self.experiment.log(run_id, full)

    # reading back --------------------------------------------------------------------------------------------

    @wrap_errors()
    def confirm_results(self, parent: str) -> list[ConfirmResult]:
        """The sweep's confirm runs that need not be trained again, oldest first."""
        return results.confirm_results(self.experiment.client, self.experiment.id, parent, self.left_out.append)

    @wrap_errors()
    def planned_method(self, parent: str) -> str | None:
        """The method of the analysis plan that was stored before the first trial; None without a plan."""
        client = self.experiment.client
        return stored_plans(client, client.get_run(parent))[0].get("method")

    @wrap_errors()
    def interrupted_runs(self, parent: str) -> dict[tuple[str, str], str]:
        """Configuration digest and phase → run key, of the sweep's runs that can be resumed."""
        return results.interrupted_runs(self.experiment.client, self.experiment.id, parent)

    @wrap_errors()
    def search_trials(self, parent: str, metric: str | None) -> list[TrialRecord]:
        """The sweep's runs that belong to an Optuna study, oldest first; with points of `metric` if one is given."""
        client, experiment = self.experiment.client, self.experiment.id
        return results.search_trials(client, experiment, parent, metric, self.left_out.append)


def _shown_names(names: list[str]) -> str:
    if len(names) > _NAMES_SHOWN:
        return f"{', '.join(names[:_NAMES_SHOWN])} and {len(names) - _NAMES_SHOWN} more"
    return listed(names)


def _shared_tags(code: provenance.CodeVersion, command: str) -> dict[str, str]:
    tags = {
        schema.PROCESS: provenance.process_name(),
        schema.COMMIT: code.commit,
        schema.DIRTY: str(code.dirty).lower(),
        schema.USER: provenance.user(),
        schema.SOURCE_NAME: command,
        schema.SOURCE_TYPE: "LOCAL",
    }
    if code.commit != provenance.UNKNOWN:
        tags[schema.SOURCE_COMMIT] = code.commit
    return tags | {schema.VERSION_PREFIX + name: found for name, found in provenance.versions().items()}
