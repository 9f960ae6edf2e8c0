"""Optuna's storage of a process that alone writes to its studies: it reads each trial once.

Optuna's own cache reads all unfinished trials again whenever a trial is chosen, pruned or told. With hundreds of
workers these are hundreds of rows for every point. Here what is written is also kept in memory.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import FrozenTrial, TrialState


class OwnStorage(_CachedStorage):
    """A cache before a database. Only this process writes to the trials of the studies that it reads.

    A trial is replaced and never changed, so that a caller may keep one. Numbers and attributes are those that the
    database would return.

    Args:
        database: which stores everything first.
    """

    def __init__(self, database: RDBStorage) -> None:
        super().__init__(database)
        self._read: set[int] = set()  # studies

    @property
    def database(self) -> RDBStorage:
        """Where the trials are."""
        return self._backend

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial; from the database if its study was not read yet."""
        with self._lock:
            known = self._known(trial_id)
        return self._backend.get_trial(trial_id) if known is None else known

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Store the value of a parameter."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        value = distribution.to_external_repr(param_value_internal)
        self._add(trial_id, "_params", param_name, value)
        self._add(trial_id, "_distributions", param_name, distribution)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Store a value of a trial's curve."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._add(trial_id, "intermediate_values", step, float(intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store an attribute."""
        super().set_trial_user_attr(trial_id, key, value)
        self._add(trial_id, "_user_attrs", key, json.loads(json.dumps(value)))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store an attribute of Optuna's."""
        super().set_trial_system_attr(trial_id, key, value)
        self._add(trial_id, "_system_attrs", key, json.loads(json.dumps(value)))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Store a state and values, and read the trial again: the database adds the time."""
        changed = super().set_trial_state_values(trial_id, state, values)
        with self._lock:
            if self._known(trial_id) is not None:
                self._replace(self._backend.get_trial(trial_id))
        return changed

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            if study_id not in self._read:
                self._studies.setdefault(study_id, _StudyInfo())
                self._add_trials_to_cache(study_id, self._backend.get_all_trials(study_id, deepcopy=False))
                self._read.add(study_id)

    def _known(self, trial_id: int) -> FrozenTrial | None:
        study_id, number = self._trial_id_to_study_id_and_number.get(trial_id, (-1, -1))
        return self._studies[study_id].trials[number] if study_id >= 0 else None

    def _add(self, trial_id: int, field: str, key: str | int, value: Any) -> None:
        """Replace a trial by one with another entry in one of its dictionaries."""
        with self._lock:
            known = self._known(trial_id)
            if known is not None:
                changed = copy.copy(known)
                setattr(changed, field, {**getattr(known, field), key: value})
                self._replace(changed)

    def _replace(self, trial: FrozenTrial) -> None:
        study_id, number = self._trial_id_to_study_id_and_number[trial._trial_id]
        self._studies[study_id].trials[number] = trial
