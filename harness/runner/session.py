"""What the sweep command does: open the stores, recover, train what is missing, report, and end with an exit code.

Importing this module imports Optuna; `harness.sweep` does so once a spec is known to be valid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.spec import SweepSpec
from harness.console.choose import make_screen
from harness.console.cli import err, fail, out
from harness.console.event_log import EventLog
from harness.console.preflight import wrong_places
from harness.console.screen import Screen
from harness.core.disk import disk_error
from harness.core.energy import EnergyMeter
from harness.core.gc_pause import gc_paused_for_imports
from harness.core.hardware import default_workers
from harness.core.locks import Locked, sweep_lock
from harness.core.outcomes import Exit, Outcome
from harness.core.paths import DEFAULT_STORAGE, STORES, work_folder
from harness.core.text import plural, shown
from harness.core.waiting import show_waits
from harness.cost.estimate import mean_recording, work_by_arm
from harness.cost.evaluation_share import expected_evaluation_share
from harness.cost.history import Estimates
from harness.cost.overheads import OverheadHistory
from harness.cost.preview import runs_at_most, runs_planned
from harness.runner.after_training import draw_run, not_stored, store_overheads, wait_for_store, write_and_show_report
from harness.runner.as_json import as_text, status_document
from harness.runner.controller import SweepController, SweepResult
from harness.runner.datasets import Datasets
from harness.runner.describe import earlier_sweep, sweep_info, why_new_sweep
from harness.runner.next_steps import command_line, resume_advice
from harness.runner.parent_run import parent_run
from harness.runner.recovery import reconcile, set_aside
from harness.runner.signals import Interrupted
from harness.runner.status import read_status
from harness.runner.status_table import show_status, status_lines
from harness.search.readable import StorageError
from harness.search.storage import explained, open_storage
from harness.search.study import ArmStudy
from harness.tracking import (
    Outbox,
    PlaceRequests,
    SweepBusy,
    Tracker,
    TrackingError,
    brief_requests,
    left_out_lines,
)
from harness.workers.local_pool import LocalPool
from harness.workers.protocol import NoWorkers, WorkerPool

if TYPE_CHECKING:
    from harness.search.study import OptunaStorage


@dataclass(frozen=True)
class Options:
    """How the sweep command was called.

    Attributes:
        tracking: MLflow's address; None: the default.
        storage: Optuna's address; None: the default.
        reports: folder of the report.
        workers: processes that train; None: one per GPU, else one per core. On Ray: at most; None: as many as fit.
        threads: CPU threads of each worker.
        patience: seconds without progress after which a worker is replaced.
        fresh: start a new sweep and set the earlier one aside.
        plain: print lines in place of a live table.
        quiet: print only failures and the answer.
        take_over: take the sweep from another process that seems to run it.
        ray: the Ray cluster that trains, see `harness.workers.ray_pool.open_ray_pool`; None: processes of this machine.
        cpus_per_run, gpus_per_run: what a run gets of a node in the cluster; None: the defaults given there.
        ranks: processes that train each run together.
        shared: where copies of states are kept for all nodes of the cluster; None: nowhere.
    """

    tracking: str | None
    storage: str | None
    reports: Path
    workers: int | None
    threads: int
    patience: float
    fresh: bool
    plain: bool
    quiet: bool
    take_over: bool = False
    ray: str | None = None
    cpus_per_run: float | None = None
    gpus_per_run: float | None = None
    ranks: int = 1
    shared: str | None = None

    @property
    def optuna(self) -> str:
        """Optuna's address."""
        return DEFAULT_STORAGE if self.storage is None else self.storage


# The two entry points of the command -------------------------------------------------------------------------


def status(spec: SweepSpec, datasets: Datasets, options: Options, json: bool = False) -> None:
    """Print the progress of a sweep, as text or as JSON; changes nothing."""
    _check_places(spec, options)
    with _exit_codes(), explained(options.optuna):
        identity = datasets.identity(spec)
        found = read_status(spec, identity, options.tracking, options.optuna, work_folder(spec.name, identity))
        data = datasets.of_arm(spec, spec.baseline_arm)
        earlier = "" if found.sweep else earlier_sweep(spec, data, options.tracking)
        lines = [line for line in (*status_lines(found, spec.labels.of), earlier) if line]
        if json:
            print(as_text(status_document(spec, found, lines)))
        else:
            show_status(spec.title, found, spec.labels, lines)


def run(spec: SweepSpec, datasets: Datasets, options: Options) -> None:
    """Train what is missing of a sweep and write its report; exits if it was stopped or a run failed."""
    _check_places(spec, options)
    _check_report_folder(options.reports / spec.name)
    with _exit_codes():
        screen = make_screen(out, EventLog(STORES / f"{spec.name}.log"), plain=options.plain, quiet=options.quiet)
        places = PlaceRequests()
        with (
            sweep_lock(spec.name),
            explained(options.optuna),
            brief_requests(),
            show_waits(screen.message),
            _open_pool(datasets, options, screen, places) as pool,
        ):
            pool.prestart(len(spec.arms()) * (spec.trials + len(spec.seeds)))  # while the stores are opened
            result = _run(spec, datasets, options, pool, screen, places)
    lines = [f"failed: {line}" for line in result.failed]
    if result.signal:
        fail("\n".join([*lines, f"stopped; {resume_advice()}"]), 128 + result.signal)
    if lines:
        fail("\n".join(lines), Exit.FAILED)


def _run(
    spec: SweepSpec, datasets: Datasets, options: Options, pool: WorkerPool, screen: Screen, places: PlaceRequests
) -> SweepResult:
    """The steps of a sweep in their order."""
    started = time.monotonic()
    screen.message(spec.title, "bold")
    screen.message(f"{runs_planned(spec)}, {workers_now(pool.size, options.ranks)}")
    share = expected_evaluation_share(spec, datasets.splits(spec), max(1, pool.size), options.threads)
    screen.message(f"evaluation: {share.words}")
    for sentence in datasets.messages:
        screen.message(sentence)
    identity = datasets.identity(spec)
    folder = work_folder(spec.name, identity)
    with gc_paused_for_imports():  # Optuna and MLflow import their databases' libraries now
        storage = open_storage(options.optuna)
        tracker = Tracker(spec.name, options.tracking, lambda text: _announce(text, screen, options), options.take_over)
    if tracker.experiment.moved:
        screen.message(tracker.experiment.moved)
    if options.take_over and (owner := tracker.take_over(identity)):
        screen.message(f"taking {spec.name} over from {owner}")
    if options.fresh and (aside := set_aside(spec, identity, storage, tracker, folder)):
        screen.message(f"starting a new sweep; set aside: {aside}")
    studies = _open_studies(spec, datasets, identity, storage)
    baseline_data = datasets.of_arm(spec, spec.baseline_arm)
    info = sweep_info(spec, identity, baseline_data, command_line(), datasets.lost_text(spec))
    with parent_run(tracker, info) as parent:
        earlier = "" if options.fresh else tracker.earlier_sweep
        if earlier and (why := why_new_sweep(spec, baseline_data, options.tracking, earlier)):
            screen.message(why)
        outbox = Outbox(tracker, parent.run_id, folder, draw_run, places=places)
        facts = datasets.facts(spec)
        if recovered := reconcile(spec, studies, tracker, outbox, facts):
            screen.message(f"recovered from an earlier process: {recovered}")
        trials = [sentence for study in studies.values() for sentence in study.left_out]
        for line in left_out_lines(sweep=tracker.sweeps.left_out, run=tracker.left_out, trial=trials):
            screen.message(line)
        run_costs = work_by_arm(spec, datasets.train_tokens(spec))
        overheads = OverheadHistory().typical()
        screen.state.per_run = mean_recording(spec, datasets.splits(spec), overheads)
        screen.state.at_end = overheads.at_end(len(spec.arms()), runs_at_most(spec))
        with outbox:
            meter = EnergyMeter(None if options.ray is None else [])  # nodes of a cluster are other machines
            with screen, pool, meter:
                Interrupted.check()
                controller = SweepController(spec, studies, tracker, outbox, pool, screen, run_costs, facts)
                result = controller.run()
            stored = wait_for_store(outbox, stopped=bool(result.signal))
        if not stored:
            parent.outcome = Outcome.FAILED if result.outcome is Outcome.FAILED else Outcome.INTERRUPTED
            screen.log.write(f"sweep {parent.outcome}: MLflow has not stored everything")
            return replace(result, failed=[*result.failed, not_stored(outbox)])
        tracker.add_energy(parent.run_id, meter.used())
        if result.outcome is not Outcome.COMPLETE:
            parent.outcome = result.outcome
        trained = time.monotonic()
        failed = write_and_show_report(spec, tracker, parent.run_id, options.tracking, options.reports)
        failed += tracker.refused_artifacts()
        reported = time.monotonic()
        parent.outcome = result.outcome
        screen.log.write(f"sweep {result.outcome}")
        if result.outcome is Outcome.COMPLETE and options.ray is None:  # the next plan on this machine uses it
            Estimates().add_actual(identity, reported - started, screen.state.finished)
            starting = (controller.training_since or started) - started
            store_overheads(spec, outbox.sending, screen.state.turnarounds, starting, reported - trained)
        return replace(result, failed=[*result.failed, *failed])


def workers_now(size: int, ranks: int) -> str:
    """How many workers there are; a cluster may have none yet."""
    if not size:
        return "no worker yet: waiting for a node"
    return plural(size, "worker") + (f" of {ranks} ranks" if ranks > 1 else "")


def _announce(text: str, screen: Screen, options: Options) -> None:
    """Show a message that `--quiet` does not hide."""
    screen.message(text)
    if options.quiet:
        err.print(text, soft_wrap=True)


# Its steps ---------------------------------------------------------------------------------------------------


def _open_pool(
    datasets: Datasets, options: Options, screen: Screen, places: PlaceRequests
) -> AbstractContextManager[WorkerPool]:
    """The pool that the options ask for."""
    if options.ray is None:
        workers = options.workers or default_workers(options.ranks)
        return LocalPool(workers, options.threads, options.patience, options.ranks)
    from harness.workers.node_files import NodeFiles
    from harness.workers.ray_pool import open_ray_pool

    return open_ray_pool(
        options.ray,
        options.cpus_per_run,
        options.gpus_per_run,
        options.workers,
        options.threads,
        options.patience,
        options.ranks,
        screen.message,
        NodeFiles(options.shared, datasets.encoded, screen.message, places),
    )


def _check_places(spec: SweepSpec, options: Options) -> None:
    work = STORES / f"{spec.name}.work"
    if wrong := wrong_places(options.tracking, options.optuna, options.reports / spec.name, work):
        fail("\n".join(wrong))
    if options.shared is not None:
        from harness.workers.shared import check_place

        if why := check_place(options.shared):
            fail(f"--shared: found {shown(options.shared)} ({why}); allowed: a folder, or an address for fsspec")


def _check_report_folder(folder: Path) -> None:
    """Exit if the report cannot be written there, before anything is trained for it."""
    from harness.report.folder import check_folder

    try:
        check_folder(folder)
    except (TrackingError, OSError) as error:
        fail(f"--reports: {error}")


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Exit with one line and its code if a store, another process or a signal stops the command."""
    Interrupted.raise_on_signals()
    try:
        yield
    except (Locked, SweepBusy) as error:
        fail(error, Exit.BUSY)
    except NoWorkers as error:
        fail(error, Exit.FAILED)
    except (TrackingError, StorageError) as error:  # after a signal: a database that stays locked
        fail(error, 128 + Interrupted.received if Interrupted.received else Exit.FAILED)
    except OSError as error:
        fail(f"{disk_error(error)}; {resume_advice()}", Exit.FAILED)
    except KeyboardInterrupt:
        fail(f"stopped at once; {resume_advice()}", 128 + Interrupted.received)


def _open_studies(spec: SweepSpec, datasets: Datasets, identity: str, storage: OptunaStorage) -> Mapping[str, ArmStudy]:
    """Arm name → its study."""
    train_tokens = datasets.train_tokens(spec)
    studies = {}
    for arm in spec.arms():
        rhythm = spec.run_config(arm.values).rhythm(train_tokens[arm.name])
        studies[arm.name] = ArmStudy(spec, arm, identity, storage, *rhythm)
    return studies
