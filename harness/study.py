"""One Optuna study per arm: what to try next, when to stop a trial early, which configuration was best.

Arms never share a study, so no arm is pruned against another or searched with more trials. Trials are asked for
and told about one by one; nothing here trains.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from harness.metrics import Outcome
from harness.rng import derive
from harness.spec import Arm, Dimension, SweepSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

# User attributes of studies and trials, beside Optuna's own values and intermediate values.
IDENTITY = "identity"
ARM = "arm"
OUTCOME = "outcome"
RUN_ID = "mlflow_run_id"
REASON = "reason"


class StorageError(ValueError):
    """An address at which Optuna can store nothing."""


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage at an SQLAlchemy address; an SQLite file is made where it is missing.

    Raises:
        StorageError: nothing can be stored there.
    """
    try:
        return RDBStorage(url)
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        raise StorageError(f"--storage: found {url!r}, which cannot be opened: {str(error).splitlines()[0]}") from error


class _Grid(GridSampler):
    """Optuna's grid, for ask and tell: the original stops an `optimize` loop at its last point, and there is none."""

    def after_trial(self, *_: object, **__: object) -> None:
        """Do nothing: how many trials there are is counted by the sweep."""


def make_sampler(kind: str, seed: int, number: int, space: Mapping[str, Dimension]) -> BaseSampler:
    """A sampler for the trial of this number.

    The random ones are seeded by (seed, number): a continued study does not repeat its first points, and two arms
    with one seed try the same ones. Those that walk through a fixed sequence are seeded by the seed alone; they
    keep their place in the study itself.
    """
    once, each = derive(seed, "sampler") % 2**32, derive(seed, "sampler", number) % 2**32
    match kind:
        case "tpe":
            return TPESampler(seed=each)
        case "random":
            return RandomSampler(seed=each)
        case "gp":
            return GPSampler(seed=each)
        case "cmaes":
            return CmaEsSampler(seed=each, warn_independent_sampling=False)
        case "qmc":
            return QMCSampler(seed=once, scramble=True, warn_independent_sampling=False)
        case "grid":
            return _Grid({path: list(dimension.values) for path, dimension in space.items()}, seed=once)
    raise ValueError(f"unknown sampler {kind!r}")


def make_pruner(kind: str, trials: int, first_evaluation: int, budget: int | None) -> BasePruner:
    """A pruner whose steps are training tokens.

    Args:
        kind: the spec's name for it.
        trials: trials of the arm; the median of fewer than a third of them (at most 5) judges nobody.
        first_evaluation: tokens at the first evaluation after the start.
        budget: tokens of a whole trial, or None where only the clock knows.
    """
    match kind:
        case "none":
            return NopPruner()
        case "median":
            return MedianPruner(n_startup_trials=min(5, max(2, trials // 3)))
        case "hyperband":
            return HyperbandPruner(min_resource=first_evaluation, max_resource=budget or "auto")
        case "successive_halving":
            return SuccessiveHalvingPruner(min_resource=first_evaluation)
    raise ValueError(f"unknown pruner {kind!r}")


@dataclass(frozen=True)
class Best:
    """The best finished trial of an arm: its tuned values, validation loss and trial number."""

    values: Mapping[str, Any]
    loss: float
    number: int


class ArmStudy:
    """The search of one arm, in storage.

    Args:
        spec: names the study, its sampler, its pruner and the space.
        arm: the arm that is searched.
        identity: hash of the sweep; a study of the same name with another identity is left alone and the search
            gets a name of its own, `<name>/<arm>@<identity>`.
        storage: Optuna's.
        first_evaluation: tokens at the first evaluation, the least a pruner can judge by.
        budget: tokens of a whole trial, or None.
    """

    def __init__(
        self,
        spec: SweepSpec,
        arm: Arm,
        identity: str,
        storage: BaseStorage,
        first_evaluation: int,
        budget: int | None,
    ) -> None:
        self.arm = arm
        self.space = spec.tune
        self.trials = spec.trials
        self.sampler = spec.study.sampler
        self.seed = spec.arm_config(arm, {}, spec.base.train.seed).train.seed
        pruner = make_pruner(spec.study.pruner, spec.trials, first_evaluation, budget)
        name = study_name(storage, spec.name, arm.name, identity)
        self.study = optuna.create_study(
            storage=storage, study_name=name, direction="minimize", pruner=pruner, load_if_exists=True
        )
        self.study.set_user_attr(IDENTITY, identity)
        self.study.set_user_attr(ARM, dict(arm.values))

    @property
    def name(self) -> str:
        """The study's name in storage."""
        return self.study.study_name

    def missing(self) -> int:
        """Trials still to be finished; failed and interrupted ones do not count as finished."""
        return max(0, self.trials - sum(_counts(trial) for trial in self.study.get_trials(deepcopy=False)))

    def ask(self) -> tuple[Trial, dict[str, Any]]:
        """A new trial and its tuned values (dotted path → value)."""
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = make_sampler(self.sampler, self.seed, number, self.space)
        trial = self.study.ask()
        return trial, {path: _suggest(trial, path, dimension) for path, dimension in self.space.items()}

    def report(self, trial: Trial, tokens: int, loss: float) -> bool:
        """Report a validation loss after so many tokens; True if the pruner wants the trial stopped."""
        trial.report(loss, step=tokens)
        return trial.should_prune()

    def tell(self, trial: Trial, outcome: Outcome, loss: float | None, reason: str = "") -> None:
        """Record how a trial ended.

        A diverged trial counts as no better than an untrained model: it is told with the loss at initialisation
        (`loss`), so samplers learn to keep away. Failed and interrupted ones tell a sampler nothing.
        """
        trial.set_user_attr(OUTCOME, str(outcome))
        if reason:
            trial.set_user_attr(REASON, reason.splitlines()[0])
        if outcome is Outcome.PRUNED:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif outcome in (Outcome.COMPLETE, Outcome.DIVERGED) and loss is not None and math.isfinite(loss):
            self.study.tell(trial, loss)
        else:
            self.study.tell(trial, state=TrialState.FAIL)
            if outcome is Outcome.INTERRUPTED or self.sampler == "grid":  # a grid takes failed points for visited
                self.requeue(trial.params)

    def best(self) -> Best | None:
        """The finished trial with the lowest validation loss at its end; None where no trial finished."""
        finished = [trial for trial in self.study.get_trials(deepcopy=False) if _finished(trial)]
        if not finished:
            return None
        trial = min(finished, key=lambda t: (t.value if t.value is not None else math.inf, t.number))
        assert trial.value is not None
        return Best({path: trial.params[path] for path in self.space}, trial.value, trial.number)

    def recover(self) -> None:
        """Take up what an earlier process left: its running trials are failed and their values queued again."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state is TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.requeue(trial.params)

    def requeue(self, values: Mapping[str, Any]) -> None:
        """Let the next trial have these values: an interrupted trial is made up for, not replaced by another."""
        if set(values) == set(self.space):
            self.study.enqueue_trial(dict(values))


def study_name(storage: BaseStorage, sweep: str, arm: str, identity: str) -> str:
    """`<sweep>/<arm>`, with `@<identity>` behind it where that name belongs to an older, different sweep."""
    name = f"{sweep}/{arm}"
    for summary in optuna.get_all_study_summaries(storage=storage, include_best_trial=False):
        if summary.study_name == name and summary.user_attrs.get(IDENTITY) != identity:
            return f"{name}@{identity[:8]}"
    return name


def _suggest(trial: Trial, path: str, dimension: Dimension) -> Any:
    if dimension.kind == "choice":
        return trial.suggest_categorical(path, list(dimension.values))
    low, high = dimension.values
    if dimension.kind == "int_uniform":
        return trial.suggest_int(path, int(low), int(high))
    return trial.suggest_float(path, low, high, log=dimension.kind == "log_uniform")


def _counts(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _finished(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE and trial.user_attrs.get(OUTCOME) == Outcome.COMPLETE
