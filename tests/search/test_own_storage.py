"""What the storage keeps in memory equals what the database has, and is not read again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import Engine, event

from harness.search.own_storage import OwnStorage
from harness.search.storage import open_storage


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


@pytest.fixture
def reads() -> Iterator[list[str]]:
    """The statements of the test that read the parameters of trials, as every read of a trial does."""
    found: list[str] = []

    def seen(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lower().startswith("select") and "from trial_params" in statement.lower():
            found.append(statement)

    event.listen(Engine, "before_cursor_execute", seen)
    yield found
    event.remove(Engine, "before_cursor_execute", seen)


def study_in(storage: OwnStorage) -> optuna.Study:
    return optuna.create_study(storage=storage, study_name="s", load_if_exists=True)


def write_trials(study: optuna.Study) -> None:
    """Trials in every state, written by every call that the harness and Optuna's samplers use."""
    storage = study._storage
    choices = optuna.distributions.CategoricalDistribution([None, True, 2, "x"])
    whole = optuna.distributions.IntDistribution(1, 100, log=True)
    space = {"c": choices, "i": whole, "f": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True)}
    trials = [study.ask(space) for _ in range(5)]
    for trial in trials[:4]:
        trial.set_user_attr("plain", {"a": [1, 2.5], "b": None})
        trial.set_user_attr("plain", ("tuple", trial.number))
        storage.set_trial_system_attr(trial._trial_id, "list", [1, "two"])
        for step in (10, 20):
            trial.report(1.0 / (step + trial.number), step)
    study.tell(trials[0], 0.5)
    study.tell(trials[1], state=TrialState.PRUNED)
    study.tell(trials[2], state=TrialState.FAIL)
    storage.set_trial_state_values(trials[3]._trial_id, TrialState.WAITING)
    study.enqueue_trial({"i": 7})


def test_the_trials_in_memory_are_those_of_the_database(url: str) -> None:
    study = study_in(open_storage(url))
    write_trials(study)
    assert study.get_trials() == optuna.load_study(study_name="s", storage=url).get_trials()
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "WAITING", "RUNNING", "WAITING"]
    for trial in study.get_trials():
        assert study._storage.get_trial(trial._trial_id) == trial


def test_trials_of_an_earlier_process_are_read_once(url: str, reads: list[str]) -> None:
    write_trials(study_in(open_storage(url)))
    study = study_in(open_storage(url))
    earlier = study.get_trials()
    reads.clear()
    trial = study.ask()
    assert trial.number == 3  # the waiting one
    again = len(reads)  # its state was changed, and the database adds a time
    for step in range(30, 40):
        trial.report(1.0, step)
        assert not trial.should_prune()
        study.get_trials()
    assert len(reads) == again <= 1
    study.tell(trial, 1.0)
    assert study.get_trials() == optuna.load_study(study_name="s", storage=url).get_trials()
    assert earlier[3].state is TrialState.WAITING  # a trial that was read does not change


def test_a_trial_of_a_study_that_was_not_read_comes_from_the_database(url: str) -> None:
    written = study_in(open_storage(url))
    write_trials(written)
    first = written.get_trials()[0]
    storage = open_storage(url)
    assert storage.get_trial(first._trial_id) == first
    assert storage.get_n_trials(written._study_id) == 6
