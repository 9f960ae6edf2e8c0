"""Finds one run by its id, the start of its id, or its name, and reads its parameters, metrics and curves."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from harness.config.labels import shown_name
from harness.core import metrics
from harness.core.paths import configured_uri
from harness.tracking import schema
from harness.tracking.checksums import altered, named
from harness.tracking.queries import every_experiment, history, search_runs
from harness.tracking.readable import REPAIR, unreadable
from harness.tracking.store import TrackingError, connect, wrap_errors
from harness.tracking.trash import refuse_deleted_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

_PREFIX_LENGTH: Final = 4  # shortest start of a run id that is looked up
_MAX_MATCHES_SHOWN: Final = 5


@dataclass(frozen=True)
class RunDetails:
    """A run as it is stored.

    Attributes:
        run_id, name: MLflow's.
        experiment: the name of its sweep.
        outcome: how it ended, or "running".
        arm, phase: from its tags; empty for a run outside any sweep.
        label: of its arm, as MLflow's pages show it; empty where an earlier version wrote the run.
        data: fingerprint of the tokens that it was evaluated on; empty if unknown.
        params: dotted name → value, in its own type.
        final: metric → last value.
        curves: metric → (tokens, value) of every point, by step.
    """

    run_id: str
    name: str
    experiment: str
    outcome: str
    arm: str
    phase: str
    data: str
    params: Mapping[str, Any]
    final: Mapping[str, float]
    curves: Mapping[str, tuple[tuple[int, float], ...]]
    label: str = ""

    @property
    def shown_name(self) -> str:
        """Its name, with the arm's label in place of the arm's full name."""
        return shown_name(self.name, self.arm, self.label)


@wrap_errors()
def load_run(run: str, uri: str | None = None, curves: tuple[str, ...] = ()) -> RunDetails:
    """One run with everything that a comparison of two runs needs.

    Args:
        run: its id, the first 4 or more characters of its id, or its exact name.
        uri: MLflow's tracking address; by default the one that sweeps use.
        curves: names of the metrics whose points are read.

    Raises:
        TrackingError: no such store or run, several runs, or one that cannot be read.
    """
    uri = configured_uri(uri)
    client = connect(uri)
    found = find_run(client, run, uri)
    if sentence := unreadable(found, found.data.tags.get(schema.ROLE, "")):
        raise TrackingError(f"{sentence}; {REPAIR}")
    if sentence := altered(found):
        logger.warning(sentence)
    tags, last = found.data.tags, found.data.metrics
    tokens = {point.step: int(point.value) for point in history(client, found, metrics.TOKENS, _log)}
    return RunDetails(
        run_id=found.info.run_id,
        name=found.info.run_name,
        experiment=client.get_experiment(found.info.experiment_id).name,
        outcome=tags.get(schema.OUTCOME, "running"),
        arm=tags.get(schema.ARM, ""),
        phase=tags.get(schema.PHASE, ""),
        data=tags.get(schema.DATA_FINGERPRINT, ""),
        params=schema.decode_params(found.data.params),
        final={name: last[name] for name in sorted(last)},
        curves={
            name: tuple(
                (tokens.get(point.step, point.step), point.value) for point in history(client, found, name, _log)
            )
            for name in curves
        },
        label=tags.get(schema.LABEL, ""),
    )


def _log(sentence: str) -> None:
    logger.warning(f"{sentence}; such points are left out")


def find_run(client: MlflowClient, run: str, uri: str) -> Run:
    """The run with this id, start of an id, or name.

    Args:
        client: of the store.
        run: the id, start or name.
        uri: MLflow's tracking address, as the user gave it.

    Raises:
        TrackingError: there is none, it was deleted, or there are several.
    """
    experiments = [one.experiment_id for one in every_experiment(client)]
    matches = [one for condition in _conditions(run) for one in search_runs(client, experiments, condition)]
    found = list({one.info.run_id: one for one in matches}.values())
    if not found:
        for condition in _conditions(run):
            refuse_deleted_run(client, experiments, condition, uri)
        raise TrackingError(
            f"found no run {run!r}; allowed: a run's id, {_PREFIX_LENGTH} or more of its first characters, "
            "or its exact name"
        )
    if len(found) > 1:
        shown = ", ".join(map(named, found[:_MAX_MATCHES_SHOWN]))
        raise TrackingError(f"found {len(found)} runs for {run!r}; allowed: the id of one of them, such as {shown}")
    return found[0]


def _conditions(run: str) -> list[str]:
    """Conditions in MLflow's search language; a run that is meant meets one of them."""
    conditions = []
    quote = '"' if "'" in run else "'"
    if quote not in run:
        conditions.append(f"attributes.run_name = {quote}{run}{quote}")
    if len(run) >= _PREFIX_LENGTH and re.fullmatch("[0-9a-f]+", run):
        conditions.append(f"attributes.run_id LIKE '{run}%'")
    return conditions
