"""Train a run of a sweep again and compare it with what is stored: `python -m harness.replay RUN`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness.console.cli import ArtifactsAt, Command, Tracking, busy, fail, out, whole
from harness.console.tables import show_facts, show_table
from harness.console.text import clock
from harness.core.outcomes import Exit
from harness.core.text import listed, plural, shown

if TYPE_CHECKING:
    from harness.runner.replay import Replayed
    from harness.tracking.reading.stored_run import StoredRun

_SHOWN: Final = 10  # differences
_RANGE: Final = re.compile(r"(\d{1,15})?:(\d{1,15})?")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _range(text: Any) -> tuple[int, int | None]:
    """The first and last step of `A:B`, `A:` or `:B`."""
    found = _RANGE.fullmatch(text)
    first, last = (int(part) if part else None for part in found.groups()) if found else (1, 0)
    if last is not None and (first or 0) > last:
        raise typer.BadParameter(f"found {shown(text)}; allowed: A:B, A: or :B, the first and the last step")
    return first or 0, last


_EPILOG = """
Examples:
  python -m harness.replay 0a1b2c
  python -m harness.replay 0a1b2c --steps 100:200
"""


@app.command(cls=Command, epilog=_EPILOG)
def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the start of it, or the run's name.")],
    steps: Annotated[
        Any,
        typer.Option(parser=_range, metavar="A:B", help="Compare these steps only, and stop after the last of them."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(parser=whole(1, 1024), metavar="N", help="CPU threads; by default as many as the sweep used."),
    ] = None,
    tracking: Tracking = None,
    artifacts_at: ArtifactsAt = None,
) -> None:
    """Train a run again from what MLflow holds, and say whether every value is equal, bit for bit.

    Run it in the folder where the sweep was started, so that it finds the text. A tokenizer of your own is
    taken from what the run has kept of it. Nothing is stored.
    """
    from harness.console.preflight import wrong_tracking
    from harness.tracking import TrackingError

    if wrong := wrong_tracking(tracking):
        fail("\n".join(wrong))
    from harness.runner.replay import ReplayError, changed_environment, check, kept_tokenizer, replay, saved_state
    from harness.tracking.reading.stored_run import load_stored_run

    try:
        stored = load_stored_run(run, tracking)
        check(stored)
    except (TrackingError, ReplayError) as error:
        fail(error)
    first, last = steps or (0, None)
    if first > max(stored.points):
        fail(f"--steps: found {first} as the first step; allowed: at most {max(stored.points)}, the last stored step")

    from harness.config.starting import StartError
    from harness.data import CorpusError, open_dataset
    from harness.training.devices import DeviceError, describe, resolve_device
    from harness.training.errors import Diverged
    from harness.workers.job import import_trainer

    threads = threads or stored.threads
    import_trainer(threads)
    try:
        data = open_dataset(stored.config.data, file=kept_tokenizer(stored, tracking))
        device = describe(resolve_device(stored.config.train, 0))
    except (CorpusError, DeviceError) as error:
        fail(error)
    if data.fingerprint != stored.fingerprint:
        fail(
            f"data: found other tokens ({data.fingerprint[:12]}) than the run was trained on "
            f"({stored.fingerprint[:12] or 'unknown'}); allowed: the same text, tokenizer and splits"
        )
    _show_run(stored, data.source)
    changes = list(changed_environment(stored, device, threads))
    if changes:
        out.print("\nDifferent from when it was trained", style="bold")
        show_table([["", "then", "now"], *map(list, changes)])
    state = saved_state(stored) if first else None
    try:
        with busy(f"training {stored.name} again"):
            found = replay(stored, data, tracking, first, last, state)
    except StartError as error:
        fail(error)
    except (Diverged, DeviceError, CorpusError) as error:
        fail(f"{stored.name}: {error}", Exit.FAILED)
    _show_result(found, bool(changes))
    raise typer.Exit(Exit.FAILED if found.differences else 0)


def _show_run(run: StoredRun, source: str) -> None:
    took = "" if run.seconds is None else f", trained in {clock(run.seconds)}"
    show_facts(
        [
            ("run", f"{run.run_id[:12]}  {run.name}  ({', '.join((run.experiment, run.phase, run.outcome))})"),
            ("stored", f"{plural(len(run.points), 'point')} to step {max(run.points):,}{took}"),
            ("data", f"{source}, the same tokens"),
        ]
    )


def _show_result(found: Replayed, changed: bool) -> None:
    out.print()
    since = f" from the saved state of step {found.start:,}" if found.start else ""
    compared = f"{plural(found.values, 'value')} at {plural(len(found.steps), 'point')}"
    if found.steps:
        compared += f", steps {found.steps[0]:,} to {found.steps[-1]:,}{since}"
    if not found.differences:
        also = f"; so are {listed(found.also)}" if found.also else ""
        out.print(f"Bit-equal: {compared}{also}.", style="bold")
        return
    first = min(one.step for one in found.differences)
    good = [step for step in found.steps if step < first]
    equal = f"equal up to step {good[-1]:,}, different from step {first:,} on" if good else "different from the start"
    out.print(
        f"Not bit-equal: {equal} ({plural(len(found.differences), 'difference')} among {compared}).", style="bold"
    )
    show_table(
        [["step", "value", "then", "now"]]
        + [[f"{one.step:,}", one.name, one.before, one.now] for one in found.differences[:_SHOWN]]
    )
    if not changed:
        out.print(
            "\nCommit, versions, machine and threads are the same. What may differ besides: uncommitted changes, the "
            "model of the CPU, and kernels of a GPU that sum in an order that varies."
        )


if __name__ == "__main__":
    app(prog_name="python -m harness.replay")
