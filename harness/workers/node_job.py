"""Trains a job on a node of a cluster, which may have another disk than the parent.

Where the node sees the folder of the run that the parent has made, states and the checkpoint are written there, as by a
local worker. Elsewhere they are written into a folder on the node: states are copied to the shared place, if there is
one (`harness.workers.shared`), and the files of the checkpoint stay there until the pool has decided about them
(`harness.workers.ray_transfer`).
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.core.locks import machine_lock
from harness.core.outcomes import Outcome
from harness.core.text import is_key
from harness.data import cache_folder
from harness.data.cache import make_private
from harness.workers.checkpoints import checksums
from harness.workers.job import Cache, Channel, ParentDied, train_job
from harness.workers.messages import Finished, Job, Note, Progress, Started
from harness.workers.shared import Copier, SharedStates, adopt, brief, saved_step

if TYPE_CHECKING:
    from harness.training.distributed import Ranks

STATES: Final = "states"  # folder in the node's cache
FETCH_PATIENCE: Final = 60.0  # seconds without a new byte after which the shared place counts as down
LAST_COPY_SECONDS: Final = 60.0  # how long a stopped run may take to copy its last state
_LOCK_SECONDS: Final = 60.0  # as `harness.training.resume` waits for another process to release the folder
_KEPT_SECONDS: Final = 7 * 24 * 3600.0  # how long a node keeps the states of a run that never came back
_BEGINS_ANEW: Final = (
    "begins anew: its states are on another node, or lost with it (--shared keeps them where every node finds them)"
)


def train_on_node(job: Job, channel: Channel, index: int, cache: Cache, ranks: Ranks | None = None) -> Finished:
    """Train one job as `train_job` does.

    Args:
        job, channel, index, cache, ranks: as for `train_job`. The job has `away`, and its paths are absolute.

    Returns:
        its last event. The files of a checkpoint that it names are in the `RunFolder` of the job.

    Raises:
        ParentDied: by `channel.send`. The state is saved and, if possible, copied.
    """
    assert job.away is not None
    shared, ours = job.away.shared, RunFolder(job)
    cache.encoded[job.config.data.texts] = job.away.data
    to_parent = _NodeChannel(channel, job)
    state = ours.state
    states, known = None, saved_step(state) if state is not None else -1
    if state is not None and shared is not None and job.run:
        states, known = _restore(shared, job.run, state, known, to_parent)
    if known < 0 and state is not None and not state.is_dir() and job.after is not None and job.after >= 0:
        to_parent.warnings.append(_BEGINS_ANEW)
    copier = None if states is None or state is None else Copier(states, state, known)
    with copier or contextlib.nullcontext():
        to_parent.copier = copier
        try:
            here = replace(job, state=state, checkpoint=ours.checkpoint)
            finished = train_job(here, to_parent, index, cache, ranks)
        except ParentDied:
            if copier is not None:
                copier.finish(LAST_COPY_SECONDS)
            raise
        if copier is not None:
            copier.finish(LAST_COPY_SECONDS) if finished.outcome is Outcome.INTERRUPTED else copier.abandon()
    to_parent.tell()
    if finished.outcome is Outcome.COMPLETE and ours.checkpoint is not None:
        return replace(finished, checkpoint=checksums(ours.checkpoint), arrived=not ours.is_own)
    if finished.outcome is not Outcome.INTERRUPTED:
        ours.remove()
    return finished


class RunFolder:
    """Where a job's files are on this node.

    Args:
        job: with absolute paths.

    Attributes:
        state, checkpoint: folders; None if the job has none.
        is_own: whether they are on this node only.
    """

    def __init__(self, job: Job) -> None:
        self.state, self.checkpoint = job.state, job.checkpoint
        made_by_parent = job.state or job.checkpoint
        self.is_own = made_by_parent is not None and not made_by_parent.parent.is_dir()
        if self.is_own:
            root = cache_folder() / STATES
            _remove_old(root)
            parts = job.run.split("/") if job.run else ["unnamed", uuid.uuid4().hex]
            assert all(map(is_key, parts)), f"found {job.run!r} as the name of a run"
            self._folder = root.joinpath(*parts)
            make_private(self._folder)
            self.state = job.state and self._folder / "state"
            self.checkpoint = job.checkpoint and self._folder / "checkpoint"

    def remove(self) -> None:
        """Remove what is on this node only."""
        if self.is_own:
            shutil.rmtree(self._folder, ignore_errors=True)


class _NodeChannel:
    """A channel that also passes on warnings. Once it has said that the job stops, it says so again.

    Attributes:
        warnings: that are still to be sent.
        copier: has further ones.
    """

    def __init__(self, inner: Channel, job: Job) -> None:
        self._inner, self._job = inner, job
        self._started = self._stopped = False
        self.warnings: list[str] = []
        self.copier: Copier | None = None

    @property
    def terminated(self) -> bool:
        """As the inner channel."""
        return self._inner.terminated

    def send(self, event: Started | Progress | Note) -> None:
        """Send an event; `Started` takes the warnings so far with it."""
        if isinstance(event, Started):
            self._started = True
            event = replace(event, warning="; ".join(filter(None, (event.warning, *self._take()))))
        self._inner.send(event)

    def should_stop(self) -> bool:
        """As the inner channel."""
        self._stopped = self._stopped or self._inner.should_stop()
        self.tell()
        return self._stopped

    def tell(self) -> None:
        """Send the warnings that there are, once the job has started."""
        for warning in self._take() if self._started else ():
            self._inner.send(Note(self._job.id, warning))

    def _take(self) -> list[str]:
        found, self.warnings = self.warnings, []
        return [*found, *(self.copier.warnings() if self.copier is not None else ())]


def _restore(place: str, run: str, folder: Path, known: int, channel: _NodeChannel) -> tuple[SharedStates | None, int]:
    """Download the newest state of a run if it is newer than those in the folder.

    Returns:
        the run's states in the shared place, None if it cannot be used; and the step of the newest state in the folder.
    """
    target = folder.with_name(f"fetched-{uuid.uuid4().hex[:8]}")
    found: list[SharedStates] = []
    steps: list[int] = []

    def fetch() -> None:
        try:
            states = SharedStates(place, run)
            found.append(states)
            step, warning = states.fetch(target, known)
            channel.warnings.extend(filter(None, [warning]))
            steps.extend([] if step is None else [step])
        except Exception as error:  # whatever the place's library raises
            channel.warnings.append(f"the shared place does not give the run's states: {brief(error)}")

    thread = threading.Thread(target=fetch, name="fetch", daemon=True)
    thread.start()
    size, until = 0, time.monotonic() + FETCH_PATIENCE
    while thread.is_alive() and not channel.should_stop():  # to ask is a sign of life
        thread.join(0.1)
        if (now := _size(target)) > size:
            size, until = now, time.monotonic() + FETCH_PATIENCE
        if time.monotonic() > until:
            channel.warnings.append(f"the shared place has not answered for {FETCH_PATIENCE:.0f} s")
            return None, known
    if thread.is_alive() or not steps:
        return (found[0] if found and not thread.is_alive() else None), known
    with machine_lock(folder / "lock", _LOCK_SECONDS) as held:  # a process that was thought to be dead may save there
        if held:
            adopt(target, folder)
            return found[0], steps[0]
    shutil.rmtree(target, ignore_errors=True)
    return found[0], known


def _size(folder: Path) -> int:
    """Bytes of the files in a folder that may be missing."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0


def _remove_old(root: Path) -> None:
    """Remove the folders of runs in which nothing has been saved for a week."""
    oldest = time.time() - _KEPT_SECONDS
    with contextlib.suppress(OSError):  # another process removes it too
        for folder in [folder for sweep in root.iterdir() for folder in sweep.iterdir()]:
            if max((place.stat().st_mtime for place in (folder, *folder.iterdir())), default=0.0) < oldest:
                shutil.rmtree(folder, ignore_errors=True)
