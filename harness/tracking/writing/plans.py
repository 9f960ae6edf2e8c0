"""Stores a sweep's analysis plan: the first one before any trial, later ones as its changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.config.fingerprint import digest_of
from harness.core.outcomes import Outcome, Phase
from harness.tracking import schema
from harness.tracking.artifacts import stored_plans
from harness.tracking.queries import trials_of
from harness.tracking.records import PlanChange
from harness.tracking.writing.experiment import Experiment

if TYPE_CHECKING:
    from mlflow.entities import Run


def store_plan(experiment: Experiment, run: Run, plan: Mapping[str, Any]) -> None:
    """Store the plan of a parent run that has no trial yet; later, store a plan that differs from the latest one.

    An empty plan is not stored.
    """
    if not plan:
        return
    parent = str(run.info.run_id)
    first, changes = stored_plans(experiment.client, run)
    trials = trials_of(experiment.client, experiment.id, parent)
    if not (first or trials):  # a new sweep, or its process died before it could store the plan
        experiment.log(parent, {schema.PLAN_SHA256: digest_of(plan)})
        plan_text = json.dumps(plan, ensure_ascii=False, indent=2)
        experiment.log_contents(parent, {schema.PLAN_FILE: plan_text}, required=True)
        return
    recorded = run.data.tags.get(schema.PLAN_SHA256) or digest_of(first)
    if digest_of(plan) != (digest_of(changes[-1].plan) if changes else recorded):
        change = PlanChange(datetime.now(UTC), sum(map(_may_have_been_seen, trials)), plan)
        changed = schema.describe_changes([*changes, change])
        experiment.log_contents(parent, {schema.PLAN_CHANGES_FILE: changed}, required=True)


def _may_have_been_seen(run: Run) -> bool:
    """Whether a run is a complete confirm run, also if a later one has superseded it."""
    tags = run.data.tags
    return tags.get(schema.OUTCOME) == Outcome.COMPLETE and tags.get(schema.PHASE) in (Phase.CONFIRM, Phase.SUPERSEDED)
