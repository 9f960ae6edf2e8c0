"""One Optuna study per arm, by ask and tell: the next trial, pruning, the best configuration.

Arms never share a study, so no arm is pruned against another or searched with more trials. Nothing here trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from harness.config.samplers import SAMPLERS
from harness.config.spec import Arm, SweepSpec
from harness.core.outcomes import Outcome, Retry
from harness.search.cma_es import GENERATION
from harness.search.readable import ARM, IDENTITY, OUTCOME, POINT, REASON, RUN_KEY, decoding, holds, unreadable
from harness.search.samplers import PrunerScale, SamplerScale, distribution, make_pruner, make_sampler
from harness.search.storage import find_study

OptunaTrial = Trial  # for annotations elsewhere: Optuna is imported in this package only
OptunaStorage = BaseStorage

optuna.logging.set_verbosity(optuna.logging.WARNING)

RANDOM = "random"
MODELLED = "modelled"


@dataclass(frozen=True)
class Best:
    """The best finished trial of an arm: its tuned values, the value of the objective, and its trial number."""

    values: Mapping[str, Any]
    value: float
    number: int


@dataclass(frozen=True)
class StoredTrial:
    """A trial as another record of it, such as its MLflow run, stores it."""

    number: int
    values: Mapping[str, Any]
    outcome: Outcome
    value: float | None  # of the objective; None if it has none
    curve: Mapping[int, float]  # training tokens → the objective's value, as it was reported
    reason: str = ""
    key: str = ""  # the tag `harness.key` of its run


class ArmStudy:
    """The search of one arm.

    A trial whose run was interrupted is WAITING: `ask` returns it next, with its number and values.

    Args:
        spec: the sampler, the pruner, the space and the study's name.
        arm: the arm that is searched.
        identity: of the sweep. A study of the same name with another identity stays as it is; this one is then named
            `<name>/<arm>@<identity>`.
        storage: Optuna's.
        first_evaluation: tokens at the first evaluation, where pruning can begin.
        budget: tokens of a whole trial; None for a budget in seconds.
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
        self.scale = SamplerScale(spec.startup_trials, spec.population)
        self.seed = spec.arm_config(arm, {}, spec.base.train.seed).train.seed
        self.storage = storage
        pruner = make_pruner(spec.study.pruner, PrunerScale(spec.trials, first_evaluation, budget))
        name, _ = find_study(storage, spec.name, arm.name, identity)
        with decoding(f"reading the study {name}"):
            self.study = optuna.create_study(
                storage=storage, study_name=name, direction="minimize", pruner=pruner, load_if_exists=True
            )
            self._study_id = storage.get_study_id_from_name(name)
            known = storage.get_study_user_attrs(self._study_id)
            self.study.get_trials(deepcopy=False)
        self._reported: dict[int, set[int]] = {}  # trial number → tokens at which its losses were reported
        for key, value in ((IDENTITY, identity), (ARM, dict(arm.values))):
            if known.get(key) != value:
                self.study.set_user_attr(key, value)

    @property
    def name(self) -> str:
        """The study's name in storage."""
        return self.study.study_name

    @property
    def known(self) -> list[FrozenTrial]:
        """All trials by number, readable or not."""
        return self.study.get_trials(deepcopy=False)

    @property
    def readable(self) -> list[FrozenTrial]:
        """The trials whose attributes and values make sense, by number."""
        return [trial for trial in self.known if not self._mistake(trial)]

    @property
    def left_out(self) -> list[str]:
        """A sentence about each other trial."""
        return list(filter(None, map(self._mistake, self.known)))

    def _mistake(self, trial: FrozenTrial) -> str:
        return unreadable(self.name, trial, self._distributions)

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        return {path: distribution(dimension) for path, dimension in self.space.items()}

    def missing(self) -> int:
        """How many trials are still to finish; failed and interrupted ones have not finished."""
        return max(0, self.trials - sum(_counts(trial) for trial in self.readable))

    def ask(self) -> tuple[Trial, dict[str, Any]]:
        """The waiting trial with the lowest number, else a new one, and its tuned values (dotted path → value)."""
        if SAMPLERS[self.sampler].choices_only:
            self._retry_failed_point()
        known = self.known
        waiting = next((trial for trial in known if trial.state is TrialState.WAITING), None)
        number = waiting.number if waiting else len(known)
        sampler = make_sampler(self.sampler, self.seed, number, self.space, self.scale)
        distributions = self._distributions
        if waiting is not None and 0 < len(waiting.params) < len(self.space):
            # A process was killed in `ask`, and some values are stored. Draw those again, so that the sampler's random
            # stream is where it was.
            relative = sampler.infer_relative_search_space(self.study, waiting)
            for path in [path for path in self.space if path in waiting.params and path not in relative]:
                sampler.sample_independent(self.study, waiting, path, distributions[path])
        self.study.sampler = sampler
        with decoding(f"choosing a trial of {self.name}"):
            trial = self.study.ask(distributions)
        if waiting is not None:
            self._reported[trial.number] = set(waiting.intermediate_values)
        if SAMPLERS[self.sampler].learns and POINT not in trial.user_attrs:
            trial.set_user_attr(POINT, MODELLED if self._is_modelled(trial) else RANDOM)
        return trial, {path: trial.params[path] for path in self.space}

    def _is_modelled(self, trial: Trial) -> bool:
        """Whether earlier results decided the trial's values; the first generation of CMA-ES uses none."""
        first_generation = self.storage.get_trial(self._id(trial.number)).system_attrs.get(GENERATION) == 0
        return bool(trial.relative_params) and not first_generation

    def report(self, trial: Trial, tokens: int, value: float) -> bool:
        """Report the objective after `tokens` training tokens; True if the pruner wants the trial stopped."""
        reported = self._reported.setdefault(trial.number, set())
        if tokens not in reported:  # else an earlier process reported it
            trial.report(value, step=tokens)
            reported.add(tokens)
        with decoding(f"deciding whether to prune a trial of {self.name}"):
            return trial.should_prune()

    def tell(self, number: int, outcome: Outcome, value: float | None, reason: str = "") -> None:
        """Record how a trial ended, unless it is recorded already. An interrupted trial becomes WAITING.

        A diverged trial is recorded with the objective at initialisation (`value`), so that samplers avoid its region.
        A failed one has no value.
        """
        trial = next((trial for trial in self.known if trial.number == number), None)
        if trial is None or trial.state.is_finished():  # None: the storage was restored from an older backup
            return
        if outcome.retry is Retry.RESUME:
            self.storage.set_trial_state_values(self._id(number), TrialState.WAITING)
            return
        if trial.state is TrialState.WAITING:
            self.storage.set_trial_state_values(self._id(number), TrialState.RUNNING)
        self.storage.set_trial_user_attr(self._id(number), OUTCOME, str(outcome))
        if reason:
            self.storage.set_trial_user_attr(self._id(number), REASON, reason.splitlines()[0])
        state, stored = _state_and_value(outcome, value)
        self.study.tell(number, stored, state)

    def recover(self) -> int:
        """Set the trials that an earlier process left RUNNING to WAITING; returns their number.

        An open trial that cannot be read has failed: no run is found by its key.
        """
        open_trials = [trial for trial in self.known if not trial.state.is_finished()]
        unreadable_trials = [trial.number for trial in open_trials if self._mistake(trial)]
        for number in unreadable_trials:
            self.tell(number, Outcome.FAILED, None, "its record in Optuna cannot be read")
        running = {trial.number for trial in open_trials if trial.state is TrialState.RUNNING}
        left = running - set(unreadable_trials)
        for number in sorted(left):
            self.tell(number, Outcome.INTERRUPTED, None)
        return len(left)

    def restore(self, trials: Sequence[StoredTrial]) -> None:
        """Fill an empty study, whose storage was lost, with trials from another record.

        Trials keep their numbers; a number that is missing in the record, or whose values are not in the search space,
        becomes a failed trial.
        """
        assert not self.known, f"{self.name} is not empty"
        distributions = self._distributions
        by_number = {trial.number: trial for trial in trials}
        for number in range(max(by_number, default=-1) + 1):
            trial = by_number.get(number)
            if trial is None or not all(holds(one, trial.values.get(path)) for path, one in distributions.items()):
                self.study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: "its record was lost"}))
                continue
            state, value = _state_and_value(trial.outcome, trial.value)
            if state is TrialState.PRUNED and trial.curve:
                value = trial.curve[max(trial.curve)]
            ended = {OUTCOME: str(trial.outcome)} | ({REASON: trial.reason} if trial.reason else {})
            known = {RUN_KEY: trial.key} if trial.key else {}
            self.study.add_trial(
                create_trial(
                    state=state,
                    value=value,
                    params={path: trial.values[path] for path in self.space},
                    distributions=distributions,
                    user_attrs=known | (ended if state.is_finished() else {}),
                    intermediate_values=dict(trial.curve),
                )
            )

    def best(self) -> Best | None:
        """The finished trial with the lowest value of the objective; None where no trial finished."""
        finished = [trial for trial in self.readable if _finished(trial)]
        if not finished:
            return None
        trial = min(finished, key=lambda t: (t.value if t.value is not None else math.inf, t.number))
        assert trial.value is not None
        return Best({path: trial.params[path] for path in self.space}, trial.value, trial.number)

    def _retry_failed_point(self) -> None:
        """Once every point of the grid was tried, enqueue the one that only failed, and failed least often.

        Optuna's sampler counts failed points as visited and would repeat any point. They come after all others, so that
        a point that fails every time does not use up their trials.
        """
        states: dict[tuple[Any, ...], list[TrialState]] = {}
        for trial in self.known:
            if set(trial.params) == set(self.space):
                states.setdefault(tuple(trial.params[path] for path in self.space), []).append(trial.state)
        untried = len(states) < math.prod(len(dimension.values) for dimension in self.space.values())
        failed = [point for point, ends in states.items() if set(ends) == {TrialState.FAIL}]
        if failed and not untried and not any(trial.state is TrialState.WAITING for trial in self.known):
            point = min(failed, key=lambda point: len(states[point]))
            self.study.enqueue_trial(dict(zip(self.space, point, strict=True)))

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def _state_and_value(outcome: Outcome, value: float | None) -> tuple[TrialState, float | None]:
    """The state and value for Optuna: COMPLETE needs a value, PRUNED takes the last reported one."""
    state = TrialState[outcome.optuna_state]
    if state is not TrialState.COMPLETE:
        return state, None
    known = value is not None and math.isfinite(value)
    return (state, value) if known else (TrialState.FAIL, None)


def _counts(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _finished(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE and trial.user_attrs.get(OUTCOME) == Outcome.COMPLETE
