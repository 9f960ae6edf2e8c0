"""Run a sweep: `python -m harness.sweep experiments/dropout.yaml`.

Kept light on purpose: a worker process imports its parent's main module again, `--help` should come at once, and a
mistake in a spec should be answered before Optuna, MLflow or torch are imported. They are, where they are needed.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.console.cli import (
    Command,
    Settings,
    Threads,
    Tracking,
    Workers,
    err,
    fail,
    number,
    out,
    show_answer,
    whole,
)
from harness.core.errors import SpecError
from harness.core.gc_pause import importing
from harness.core.outcomes import Exit, Outcome
from harness.runner.datasets import Datasets, data_facts
from harness.runner.describe import sweep_info, why_anew

if TYPE_CHECKING:
    from harness.config.spec import SweepSpec
    from harness.console.screen import Screen
    from harness.core.metrics import Point
    from harness.runner.controller import SweepResult
    from harness.tracking import Outbox, Tracker
    from harness.workers.protocol import WorkerPool

DRAIN_SECONDS, DRAIN_SECONDS_STOPPED = 300.0, 10.0  # that a store gets to take what waits, at the end of a sweep

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _seeds(text: str) -> int:
    """A number of seeds; `harness.config.spec`, which knows how many may be, is imported only where it is asked."""
    from harness.config.spec import MAX_SEEDS

    return whole(2, MAX_SEEDS)(text)


@app.command(cls=Command)
def main(
    spec_file: Annotated[Path, typer.Argument(metavar="SPEC", help="The experiment, a YAML file.")],
    settings: Settings = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run and what it costs; train nothing.")] = False,
    noise_floor: Annotated[
        int | None,
        typer.Option(
            parser=_seeds,
            metavar="N",
            help="Train the baseline alone on N seeds: what a difference has to beat.",
        ),
    ] = None,
    workers: Workers = None,
    threads: Threads = 1,
    tracking: Tracking = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Optuna storage. Default: mlruns/optuna.db.")
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            parser=number(1), metavar="SECONDS", help="A worker that gets no further for so long is given up."
        ),
    ] = 600.0,
    status: Annotated[
        bool, typer.Option("--status", help="Say what is done, running, failed and left; change nothing.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew; what was done is set aside, and nothing is deleted.")
    ] = False,
    reports: Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")] = Path("reports"),
    plain: Annotated[bool, typer.Option("--plain", help="Lines in place of a live table, as for a file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only failures while it runs, and the answer.")] = False,
) -> None:
    """Answer the question of a spec: search every arm, confirm its best on fresh seeds, write the report.

    Running it again finishes what is missing and adds nothing.
    """
    from harness.config.load import load_spec

    datasets = Datasets()
    try:
        spec = load_spec(spec_file, settings or [], datasets.split_sizes, datasets.codec)
    except SpecError as error:
        fail(error)
    if noise_floor is not None:
        spec = spec.noise_floor(noise_floor)
    if plan:
        from harness.core.hardware import default_workers
        from harness.cost.preview import show_plan

        show_plan(spec, datasets.splits(spec), datasets.identity(spec), workers or default_workers(), threads)
        return
    from harness.console.choose import make_screen
    from harness.console.event_log import EventLog
    from harness.console.preflight import wrong_places
    from harness.core.hardware import default_workers
    from harness.core.locks import Locked, only_one
    from harness.search.study import StorageError, explained
    from harness.tracking import SweepBusy, TrackingError, brief_requests
    from harness.workers.pool import LocalPool

    stores = Stores(tracking, storage, reports)
    if wrong := wrong_places(tracking, stores.optuna, reports):
        fail("\n".join(wrong))
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, Interrupted.raised)
    try:
        if status:
            from harness.runner.status import show_status

            identity = datasets.identity(spec)
            data = datasets[spec.run_config(spec.baseline_arm.values).data]
            show_status(spec, identity, data, tracking, stores.optuna, work_folder(spec, identity))
            return
        screen = make_screen(out, EventLog(Path("mlruns") / f"{spec.name}.log"), plain=plain, quiet=quiet)
        pool = LocalPool(workers or default_workers(), threads, patience)
        with only_one(spec.name), explained(), brief_requests(), pool:  # the outbox asks again
            pool.prestart(len(spec.arms()) * (spec.trials + len(spec.seeds)))  # while the stores are opened
            ended = run(spec, datasets, stores, pool, fresh, screen)
    except (Locked, SweepBusy) as error:
        fail(error, Exit.BUSY)
    except (TrackingError, StorageError) as error:
        fail(error, Exit.FAILED)
    except OSError as error:
        fail(f"disk: {error.strerror}: {error.filename}; {goes_on()}", Exit.FAILED)
    except KeyboardInterrupt:
        fail(f"stopped at once; {goes_on()}", 128 + (Interrupted.by or signal.SIGINT))
    for line in ended.failed:
        err.print(f"failed: {line}", soft_wrap=True)
    if ended.signal:
        err.print(f"stopped; {goes_on()}", soft_wrap=True)
        raise typer.Exit(128 + ended.signal)
    if ended.failed:
        raise typer.Exit(Exit.FAILED)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, as long as the sweep's own loop does not take them.

    Python drops an exception that is raised inside a callback of its own, such as those of weak references, of which
    an import makes many. So it is remembered that there was one, and asked for before anything trains.
    """

    by = 0  # the last signal

    @classmethod
    def raised(cls, number: int, _frame: object) -> None:
        """A signal handler."""
        cls.by = number
        raise cls

    @classmethod
    def check(cls) -> None:
        """Raise what Python has dropped."""
        if cls.by:
            raise cls


@dataclass(frozen=True)
class Stores:
    """Where a sweep's record goes: MLflow's and Optuna's addresses (None: the default), and the reports' folder."""

    mlflow: str | None
    storage: str | None
    reports: Path

    @property
    def optuna(self) -> str:
        """Optuna's address."""
        return self.storage or "sqlite:///mlruns/optuna.db"


def run(
    spec: SweepSpec, datasets: Datasets, stores: Stores, pool: WorkerPool, fresh: bool, screen: Screen
) -> SweepResult:
    """Everything between a valid spec and its report."""
    with importing():
        from harness.cost.estimate import work_per_run
        from harness.cost.history import Estimates
        from harness.cost.preview import plural, runs_planned
        from harness.runner.controller import SweepController
        from harness.runner.recovery import reconcile, set_aside
        from harness.search.study import ArmStudy, open_storage
        from harness.tracking import Outbox, SweepBusy, Tracker, TrackingError

    began = time.monotonic()
    screen.note(spec.title, "bold")
    screen.note(f"{runs_planned(spec)}, {plural(pool.size, 'worker')}")

    configs = {arm.name: spec.run_config(arm.values) for arm in spec.arms()}
    used = {name: datasets[config.data] for name, config in configs.items()}
    train_tokens = datasets.train_tokens(spec)
    identity = datasets.identity(spec)
    folder = work_folder(spec, identity)
    with importing():  # both import a library only now
        optuna_storage = open_storage(stores.optuna)
        tracker = Tracker(spec.name, stores.mlflow)
    if fresh and (aside := set_aside(spec, identity, optuna_storage, tracker, folder)):
        screen.note(f"set aside, and begun anew: {aside}")
    studies = {}
    for arm in spec.arms():
        rhythm = configs[arm.name].rhythm(train_tokens[arm.name])
        studies[arm.name] = ArmStudy(spec, arm, identity, optuna_storage, *rhythm)
    parent = tracker.open_sweep(sweep_info(spec, identity, used[spec.baseline_arm.name], command()))
    if tracker.earlier_sweep and not fresh:
        screen.note(why_anew(spec, used[spec.baseline_arm.name], stores.mlflow, tracker.earlier_sweep))
    outcome: Outcome | None = Outcome.FAILED  # unless the sweep comes to an end
    try:
        facts = {name: data_facts(data) for name, data in used.items()}
        outbox = Outbox(tracker, parent, folder, draw_run)
        if done := reconcile(spec, studies, tracker, outbox, facts):
            screen.note(f"taking up what an earlier process left: {done}")
        work = work_per_run(spec, train_tokens)
        with outbox:
            with screen, pool:
                Interrupted.check()
                ended = SweepController(spec, studies, tracker, outbox, pool, screen, work, facts).run()
            sent = wait_for_store(outbox, ended.signal)
        outcome = ended.outcome
        screen.log.write(f"sweep {outcome}")
        if sent:
            report(spec, tracker, parent, stores)
            if outcome is Outcome.COMPLETE:
                Estimates().took(identity, time.monotonic() - began, screen.ended)
        else:
            safe = (
                f"what was measured is safe in {folder}, but MLflow does not take it ({outbox.trouble or 'too slow'})"
            )
            ended = replace(ended, failed=[*ended.failed, f"{safe}; the same command sends it: {command()}"])
    except SweepBusy:
        outcome = None  # it is another's now
        raise
    except KeyboardInterrupt:
        outcome = Outcome.INTERRUPTED
        raise
    finally:
        try:
            if outcome is not None:
                tracker.close_sweep(parent, outcome)
        except TrackingError as error:
            err.print(f"{error}; the same command mends the state of the sweep's own run", soft_wrap=True)
    return ended


def wait_for_store(outbox: Outbox, stopped: int) -> bool:
    """Give MLflow time to take what waits: minutes after a sweep, seconds after a stop; True if it took everything."""
    if outbox.drain(DRAIN_SECONDS_STOPPED):
        return True
    if stopped:
        return False
    out.print(f"waiting for MLflow ({outbox.trouble or 'it is slow'}); Ctrl-C to leave it for later", soft_wrap=True)
    return outbox.drain(DRAIN_SECONDS)


def draw_run(points: Sequence[Point], folder: Path) -> None:
    """Draw the curve of a run that has ended, where it has one, into the folder of what is stored with it; once."""
    from harness.tracking.schema import CURVE_FILE

    path = folder / CURVE_FILE
    if sum(point.evaluated for point in points) > 1 and not path.exists():  # it does where a store did not answer
        from harness.report import loss_curve  # matplotlib takes a second to import: not before it is needed

        loss_curve(points, path)


def report(spec: SweepSpec, tracker: Tracker, parent: str, stores: Stores) -> None:
    """Write the report, keep it with the parent run, show its table, where everything is, and what can be done next."""
    from harness.report import TrackingError, write_report
    from harness.runner.next_steps import next_steps
    from harness.tracking import page_address, ui_command

    try:
        files = write_report(spec.name, stores.mlflow, stores.reports, parent)
    except TrackingError as error:  # stopped before its first run
        out.print(str(error), soft_wrap=True)
        return
    verdicts = files.comparison.set_index("arm")["verdict"].dropna().to_dict()
    tracker.conclude(parent, files.answer, files.folder, verdicts)
    out.print()
    show_answer(files.lines, files.answer, files.warnings)
    out.print(f"report:     {files.html}", soft_wrap=True)
    out.print(f"MLflow UI:  {ui_command(stores.mlflow)}", soft_wrap=True)
    out.print(f"its page:   {page_address(parent, stores.mlflow)}", soft_wrap=True)
    for step in next_steps(files.comparison, sys.argv[1:], len(spec.looks) > 1):
        out.print(f"next:       {step}", soft_wrap=True)


def command() -> str:
    """The command as it was given, to be given again."""
    return shlex.join(["python", "-m", "harness.sweep", *sys.argv[1:]])


def goes_on() -> str:
    """What a person is told when a sweep has ended too early."""
    return f"the same command goes on from here: {command()}"


def work_folder(spec: SweepSpec, identity: str) -> Path:
    """Where runs have their states and their records until they are done; another spec has another folder."""
    return Path("mlruns") / f"{spec.name}.work" / identity[:12]


if __name__ == "__main__":
    app()
