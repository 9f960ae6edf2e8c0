"""Records of sweeps and runs: what the tracker stores, and what is read back.

`harness.tracking.schema` defines how MLflow stores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from harness.config.run import RunConfig
from harness.core.energy import Energy
from harness.core.outcomes import Outcome, Phase


@dataclass(frozen=True)
class ArmInfo:
    """One combination of the compared values.

    Attributes:
        name: in tables, studies and runs.
        values: dotted path → the value compared.
    """

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SweepInfo:
    """The description of a sweep. All values are plain JSON values.

    Attributes:
        name: a slug, and the experiment's name.
        question: that the sweep answers.
        identity: SHA-256 of the spec, the data and the training code; the same identity resumes the same parent run.
        spec_text: the resolved spec as YAML.
        arms: in the order of the spec.
        baseline: name of the arm that the others are compared with.
        compare: dotted paths in which arms differ.
        tune: dotted path → its dimension, such as `{"log_uniform": [3e-4, 3e-3]}`.
        study: sampler, pruner, trials, seeds.
        command: the shell command that started the sweep.
        data: name, source, sha256, fingerprint, tokenizer; tokens and bytes per split.
        plan: the analysis plan (`harness.analysis.plan.analysis_plan`); empty for none.
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


@dataclass(frozen=True)
class ArmResult:
    """The result of an arm, for the page of its sweep.

    Attributes:
        arm, label: its name, and its name as reports show it.
        metric: that compares the arms, such as `val/loss`.
        mean: over its confirm runs; NaN without a result.
        difference: to the baseline; NaN for the baseline.
        verdict: in words; empty for an arm without one.
    """

    arm: str
    label: str
    metric: str
    mean: float
    difference: float
    verdict: str


class PlanChange(NamedTuple):
    """A different analysis plan with which a sweep was resumed.

    Attributes:
        when: in UTC.
        confirm_runs: how many confirm runs were complete by then, so that somebody may have seen their results.
        plan: the whole new plan.
    """

    when: datetime
    confirm_runs: int
    plan: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SweepRecord(SweepInfo):
    """A sweep as it is stored: its description, and its state when it last started or ended.

    Attributes:
        run_id: the parent run.
        commit: git commit, or "unknown".
        dirty: whether tracked files differed from that commit.
        versions: name → version of Python, the harness and its libraries.
        started: when it was first started, in UTC.
        status: MLflow's: RUNNING, FINISHED, FAILED or KILLED.
        outcome: how it ended, or None while it runs.
        first_plan: the analysis plan that was stored before the first trial; empty if there was none.
        plan_sha256: the digest of that plan, stored at the same time; empty if there was none.
        plan_changes: later plans, oldest first.
        experiment_id: MLflow's, part of its pages' addresses.
        host: the machine of the process that ran it last; empty if unknown.
        others: ids of the other sweeps of this name, the last one first, where none was asked for by its id.
        opened: when the sweep was last started or resumed, in UTC.
        left_out: lines that name and count the runs, points and other sweeps of the experiment that are left out
            because they cannot be read or were changed after the harness stored them.
        energy: what the machine used while the sweep trained, of each kind that could be measured.
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
    others: tuple[str, ...] = ()
    opened: datetime | None = None
    left_out: tuple[str, ...] = ()
    energy: Energy = field(default_factory=dict)


@dataclass(frozen=True)
class TrialInfo:
    """One training run of a sweep.

    Attributes:
        name: shown to the user, such as "drop_rate=0.1 · learning_rate=1.2e-03 · seed 1".
        arm: name of its arm.
        phase: explore or confirm.
        seed: the run's seed.
        config: the whole configuration.
        study: name of its Optuna study, or None.
        number: of its trial in that study, or None.
        data: as `SweepInfo.data`, if its arm has other data (tokenizer, split) than the sweep; else None.
        point: how the sampler chose its tuned values: `random`, or `modelled` from earlier results; empty if the
            sampler does not learn.
    """

    name: str
    arm: str
    phase: Phase
    seed: int
    config: RunConfig
    study: str | None = None
    number: int | None = None
    data: Mapping[str, Any] | None = None
    point: str = ""


class ConfirmResult(NamedTuple):
    """A confirm run with a result.

    Attributes:
        arm, seed: which one; all arms share `seed`.
        digest: of its configuration (`RunConfig.digest`).
        run_id: MLflow's.
        outcome: complete or diverged.
        validation: its last metrics of the validation split only.
        initial_loss: a diverged run's validation loss before its first step; None: unknown, or the run is complete.
    """

    arm: str
    seed: int
    digest: str
    run_id: str
    outcome: Outcome
    validation: Mapping[str, float]
    initial_loss: float | None = None


class TrialRecord(NamedTuple):
    """A search trial as MLflow stores it; enough to restore it in Optuna.

    Attributes:
        key: of the run.
        study, number: its Optuna study and its number there.
        params: dotted path → value, of the whole configuration.
        outcome, reason: how it ended; an open run counts as interrupted.
        whole: training tokens → the objective over the whole validation split; empty if it was not read.
        curve: training tokens → the value that the pruner sees (`harness.config.objective.curve_value`).
        left_out: whether it cannot be read, or was changed after the harness stored it: it has no values then.
    """

    key: str
    study: str
    number: int
    params: Mapping[str, Any]
    outcome: Outcome
    reason: str
    whole: Mapping[int, float]
    curve: Mapping[int, float]
    left_out: bool = False


class Sample(NamedTuple):
    """Texts generated at a step, after so many training tokens.

    Attributes:
        text: with the run's temperature.
        greedy: the greedy text beside it; None where `text` is greedy itself, and in runs of older versions.
    """

    step: int
    tokens: int
    text: str
    greedy: str | None = None
