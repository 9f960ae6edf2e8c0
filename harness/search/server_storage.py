"""Optuna's storage on a database server: every call waits while the server cannot be used, and has its effect once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialModel
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from harness.core.database_servers import make_calls_wait, until_available

# The calls that may be repeated as they are, those with an underscore from Optuna's cache before the storage.
_CALLS: Final = (
    *("create_new_study", "get_all_studies", "get_study_id_from_name", "get_study_name_from_id"),
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("set_study_user_attr", "set_study_system_attr"),
    *("get_trial", "get_all_trials", "_get_trials", "get_trial_id_from_study_id_trial_number"),
    *("_set_trial_param", "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr"),
)


class ServerStorage(RDBStorage):
    """An `RDBStorage` on a server. Only one process writes to the studies of a sweep, and this class relies on it.

    If the answer to a commit is lost, the call is repeated although it had its effect. A trial that was created then is
    the one that the repeated call returns, and a state that was set is not set again.
    """

    _next = 0  # number of the trial that is being created

    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        """How many trials a study has. Optuna would read all of them."""
        if state is not None:
            return super().get_n_trials(study_id, state)

        def count() -> int:
            with self.scoped_session() as session:
                return int(session.query(TrialModel).filter_by(study_id=study_id).count())

        return until_available(count, self.url)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        self._next = self.get_n_trials(study_id)
        create = super()._create_new_trial
        return until_available(lambda: create(study_id, template_trial), self.url)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> TrialModel:
        query = session.query(TrialModel).filter_by(study_id=study_id, number=self._next)
        return query.one_or_none() or super()._get_prepared_new_trial(study_id, template_trial, session)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set a trial's state and values; whether it could be set."""
        tries, set_once = itertools.count(), super().set_trial_state_values

        def step() -> bool:
            again = next(tries) > 0
            return (again and self.get_trial(trial_id).state is state) or set_once(trial_id, state, values)

        return until_available(step, self.url)


make_calls_wait(ServerStorage, _CALLS, "url")
