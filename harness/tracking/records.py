"""What is known of sweeps and runs: what the tracker is given to record, and what is read back.

How MLflow stores it is in `harness.tracking.schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from harness.config.run import RunConfig
from harness.core.outcomes import Outcome, Phase


@dataclass(frozen=True)
class ArmInfo:
    """One combination of the compared values.

    Attributes:
        name: what tables, studies and runs call it.
        values: dotted path → the value compared.
    """

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SweepInfo:
    """What a sweep is. All values are plain, as JSON has them.

    Attributes:
        name: a slug, and the experiment's name.
        question: what the sweep answers.
        identity: SHA-256 of what the sweep is; a sweep with the same identity goes on in the same parent run.
        spec_text: the resolved spec as YAML.
        arms: in the order of the spec.
        baseline: name of the arm that the others are compared with.
        compare: dotted paths that arms differ in.
        tune: dotted path → its dimension, such as `{"log_uniform": [3e-4, 3e-3]}`.
        study: sampler, pruner, trials, seeds.
        command: how the sweep was started.
        data: name, source, sha256, fingerprint, tokenizer; tokens and bytes per split.
        plan: what will be concluded from what, as `harness.report.text.plan.analysis_plan` gives it; empty: no plan.
    """

    name: str
    question: str
    identity: str
    spec_text: str
    arms: tuple[ArmInfo, ...]
    baseline: str
    compare: tuple[str, ...]
    tune: Mapping[str, Mapping[str, Any]]
    study: Mapping[str, Any]
    command: str
    data: Mapping[str, Any]
    plan: Mapping[str, Any] = field(default_factory=dict)


class PlanChange(NamedTuple):
    """Another analysis plan than the one known until then, with which a sweep was gone on with.

    Attributes:
        when: in UTC.
        confirm_runs: how many confirm runs were complete by then, so that their results may have been seen.
        plan: the whole new plan.
    """

    when: datetime
    confirm_runs: int
    plan: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SweepRecord(SweepInfo):
    """A sweep as the store has it: its description, and what was true when it last started or ended.

    Attributes:
        run_id: the parent run.
        commit: git commit, or "unknown".
        dirty: whether tracked files differed from that commit.
        versions: name → version of Python, the harness and its libraries.
        started: when it was first started, in UTC.
        status: MLflow's: RUNNING, FINISHED, FAILED or KILLED.
        outcome: how it ended, or None while it runs.
        first_plan: the analysis plan that was stored before the first trial; empty where none was.
        plan_sha256: what was noted then as the digest of that plan; empty where none was.
        plan_changes: what was asked for afterwards, oldest first.
        experiment_id: MLflow's, which the addresses of its pages have.
        host: the machine of the process that ran it last; empty where it is not known.
    """

    run_id: str
    commit: str
    dirty: bool
    versions: Mapping[str, str]
    started: datetime
    status: str
    outcome: str | None
    first_plan: Mapping[str, Any] = field(default_factory=dict)
    plan_sha256: str = ""
    plan_changes: tuple[PlanChange, ...] = ()
    experiment_id: str = ""
    host: str = ""


@dataclass(frozen=True)
class TrialInfo:
    """One training run of a sweep.

    Attributes:
        name: for a reader, such as "drop_rate=0.1 · learning_rate=1.2e-03 · seed 1".
        arm: name of its arm.
        phase: why it is trained.
        seed: the run's seed.
        config: the whole configuration.
        study: Optuna's study; None for a run outside any study.
        number: Optuna's trial number in that study, or None.
        data: as `SweepInfo.data`, for an arm that has other data (tokenizer, split) than the sweep; else None.
    """

    name: str
    arm: str
    phase: Phase
    seed: int
    config: RunConfig
    study: str | None = None
    number: int | None = None
    data: Mapping[str, Any] | None = None


class Confirmed(NamedTuple):
    """A confirm run that came to a result.

    Attributes:
        arm, seed: which one; `seed` is the one that arms share.
        digest: that of its configuration (`RunConfig.digest`).
        run_id: where it is.
        outcome: complete or diverged.
        validation: its last metrics of the validation split, and of no other.
    """

    arm: str
    seed: int
    digest: str
    run_id: str
    outcome: Outcome
    validation: Mapping[str, float]


class Trial(NamedTuple):
    """A run of the search, as far as Optuna would have to know of it.

    Attributes:
        key: of the run.
        study, number: Optuna's study and the trial's number in it.
        params: dotted path → value, of the whole configuration.
        outcome, reason: how it ended; a run that is open counts as interrupted.
        losses: training tokens → loss of the whole validation split, where it was asked for.
        curve: training tokens → the validation loss that pruning goes by, see `Point.curve_loss`.
    """

    key: str
    study: str
    number: int
    params: Mapping[str, Any]
    outcome: Outcome
    reason: str
    losses: Mapping[int, float]
    curve: Mapping[int, float]


class Sample(NamedTuple):
    """Text that was generated at a step, after so many training tokens."""

    step: int
    tokens: int
    text: str
