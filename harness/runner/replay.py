"""Trains a run of a sweep again and compares it with what MLflow holds, value by value."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.core import metrics
from harness.core.files import sha256_of
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.core.paths import STORES, WEIGHTS, work_folder
from harness.core.text import plural, shown
from harness.tracking import Sample, TrackingError, checkpoint_folder, load_samples
from harness.tracking.provenance import code_version, host_of, process_name, versions
from harness.tracking.reading.stored_run import StoredRun

if TYPE_CHECKING:
    from harness.data import Dataset
    from harness.data.tokenizer import TokenizerFile

# Metrics of these kinds do not depend on the clock, so an equal run has them bit-equal.
EXACT: Final = ("val/", "val_sample/", "test/", "train/", "optim/", metrics.TOKENS, metrics.EPOCHS)


class ReplayError(ValueError):
    """A run that cannot be trained again, with the reason."""


@dataclass(frozen=True)
class Difference:
    """A value that is not bit-equal.

    Attributes:
        step, name: of which metric, or of which other result.
        before, now: as text.
    """

    step: int
    name: str
    before: str
    now: str


@dataclass
class Replayed:
    """What a replay found.

    Attributes:
        start: the step of the state that it went on from; 0 for the beginning.
        steps: of the points that were compared.
        values: how many values were compared.
        differences: in the order of the steps.
        also: what else was compared, such as the final weights.
    """

    start: int = 0
    steps: list[int] = field(default_factory=list)
    values: int = 0
    differences: list[Difference] = field(default_factory=list)
    also: list[str] = field(default_factory=list)


def check(run: StoredRun) -> None:
    """Refuse a run whose numbers depend on more than its configuration.

    Raises:
        ReplayError: with the reason.
    """
    if run.config.train.budget.seconds is not None:
        raise ReplayError(
            "train.budget: found seconds; allowed: a run with a budget in steps, tokens, epochs or FLOPs, "
            "since the speed of the machine decides how many steps fit into a time"
        )
    if not run.points:
        raise ReplayError(f"found no points of the run {run.name} ({run.run_id}); allowed: a run that has some")


def changed_environment(run: StoredRun, device: str, threads: int) -> Iterator[tuple[str, str, str]]:
    """What may change a run's last bits: name, then, now. Only what is different.

    Args:
        run: as it was.
        device: that will train it now.
        threads: of this process.
    """
    code, now = code_version(), versions()
    then = {name: run.versions.get(name, "unknown") for name in now}
    pairs = [(name, then[name], now[name]) for name in now]
    pairs.append(("commit", _commit(run.commit, run.dirty), _commit(code.commit, code.dirty)))
    pairs.append(("machine", run.host, host_of(process_name())))
    pairs.append(("device", run.device, device))
    pairs.append(("CPU threads", f"{run.threads}", f"{threads}"))
    pairs.append(("processes", f"{run.ranks}", "1"))
    yield from ((name, before, after) for name, before, after in pairs if before != after)


def _commit(commit: str, dirty: bool) -> str:
    return f"{commit[:12]}{', with uncommitted changes' if dirty else ''}"


def saved_state(run: StoredRun, stores: Path = STORES) -> Path | None:
    """The folder with the states of an interrupted run, below the folder of the stores; None if it has none."""
    if run.outcome != Outcome.INTERRUPTED:
        return None
    folder = work_folder(run.experiment, run.identity, stores) / run.key / "state"
    return folder if run.key and any(folder.glob("state-*.json")) else None


def kept_tokenizer(run: StoredRun, uri: str | None = None) -> TokenizerFile | None:
    """What defines a run's tokenizer, from its checkpoint or from the cache.

    Returns:
        None for a built-in tokenizer, and if neither has it: the file that the spec names is then read, or the recipe
        trained again.
    """
    from harness.config.tokenizers import is_own
    from harness.data import cache_folder
    from harness.data.cache import TOKENS
    from harness.data.token_cache import kept_tokenizer as in_cache
    from harness.model.weights import CheckpointError, stored_tokenizer_file

    if not is_own(run.config.data.tokenizer):
        return None
    try:
        return stored_tokenizer_file(checkpoint_folder(run.run_id, uri))
    except (TrackingError, CheckpointError):  # only confirm runs have a checkpoint
        return in_cache(cache_folder() / TOKENS / run.fingerprint, run.config.data)


def replay(
    run: StoredRun,
    data: Dataset,
    uri: str | None = None,
    first: int = 0,
    last: int | None = None,
    state: Path | None = None,
) -> Replayed:
    """Train a run again and compare its points with the stored ones.

    Args:
        run: to be trained.
        data: its tokens.
        uri: MLflow's tracking address.
        first, last: steps whose points are compared; training ends after `last`. None: the last stored point.
        state: folder with the states of the run, from the newest of which training goes on.

    Raises:
        Diverged, DeviceError, CorpusError: by the trainer, where the stored run did not end so.
        StartError: the weights that the run started from are missing, or others now.
    """
    from harness.model.sources import find_source
    from harness.training.errors import Diverged
    from harness.training.trainer import train

    found = Replayed()
    name = run.config.model.init_from
    start = None if name is None else find_source(name, uri).weights.folder
    stored = {step: exact(point) for step, point in run.points.items()}
    final = max(stored)
    last = final if last is None else min(last, final)
    to_the_end = last == final and run.outcome in (Outcome.COMPLETE, Outcome.DIVERGED)
    complete = to_the_end and run.outcome == Outcome.COMPLETE
    weights = _weights(run, uri) if complete else None
    waiting = [step for step in sorted(stored) if first <= step <= last]
    texts: dict[int, Point] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        points = train(
            run.config,
            data,
            read_test=any(name.startswith("test/") for point in stored.values() for name in point),
            common_context=run.common_context,
            checkpoint=folder / "checkpoint" if weights else None,
            state=_copy(state, folder / "state") if state else None,
            after=-1,
            on_start=lambda step, _: setattr(found, "start", step),
            start=start,
        )
        stack.enter_context(closing(points))
        try:
            for point in points:
                if point.step < max(first, found.start):  # made before the state was saved
                    waiting = [step for step in waiting if step > point.step]
                    continue
                while waiting and waiting[0] < point.step:
                    found.differences.append(Difference(waiting.pop(0), "point", "stored", "none"))
                if waiting and waiting[0] == point.step:
                    made = exact({**point.metrics, metrics.TOKENS: float(point.tokens)})
                    _compare(found, waiting.pop(0), stored[point.step], made)
                if point.sample is not None:
                    texts[point.step] = point
                if point.step >= last and not to_the_end:
                    break
            found.differences += [Difference(step, "point", "stored", "none") for step in waiting]
            if to_the_end and run.outcome == Outcome.DIVERGED:
                found.differences.append(Difference(final, "outcome", "diverged", "complete"))
        except Diverged as error:
            if run.outcome != Outcome.DIVERGED:
                raise
            found.also.append(f"it diverged again ({error})")
        if complete:
            _compare_texts(found, load_samples(run.run_id, uri), texts)
        if weights:
            _compare_weights(found, final, weights, folder / "checkpoint" / WEIGHTS)
    return found


def exact(point: Mapping[str, float]) -> dict[str, float]:
    """The values of a point that do not depend on the clock."""
    return {name: value for name, value in point.items() if name.startswith(EXACT)}


def _compare(found: Replayed, step: int, before: Mapping[str, float], now: Mapping[str, float]) -> None:
    found.steps.append(step)
    for name in sorted(before.keys() | now.keys()):
        found.values += 1
        if before.get(name) != now.get(name):
            texts = (repr(values[name]) if name in values else "none" for values in (before, now))
            found.differences.append(Difference(step, name, *texts))


def _compare_texts(found: Replayed, before: Sequence[Sample], now: Mapping[int, Point]) -> None:
    """Compare the generated texts of the steps that were trained again."""
    count = 0
    for sample in before:
        if sample.step not in now:
            continue
        pairs = [("sample", sample.text, now[sample.step].sample)]
        if sample.greedy is not None:  # older versions stored none
            pairs.append(("greedy sample", sample.greedy, now[sample.step].greedy))
        count += len(pairs)
        found.differences += [
            Difference(sample.step, name, shown(before), shown(after))
            for name, before, after in pairs
            if before != after
        ]
    if count:
        found.also.append(plural(count, "generated text"))


def _compare_weights(found: Replayed, step: int, before: Path, now: Path) -> None:
    """Compare the final weights by the SHA-256 of their files."""
    digests = [sha256_of(path) for path in (before, now)]
    if digests[0] != digests[1]:
        found.differences.append(Difference(step, "SHA-256 of the weights", *(digest[:12] for digest in digests)))
    found.also.append("the final weights")


def _weights(run: StoredRun, uri: str | None) -> Path | None:
    """The file with a run's stored weights; None if the run has no checkpoint."""
    try:
        return checkpoint_folder(run.run_id, uri) / WEIGHTS
    except TrackingError:
        return None


def _copy(state: Path, to: Path) -> Path:
    """A copy of the states, so that the run itself can still resume from them."""
    shutil.copytree(state, to)
    return to
