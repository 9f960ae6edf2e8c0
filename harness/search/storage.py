"""Optuna's storage: opened, searched for a sweep's studies, read without creating anything; its errors as sentences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from harness.config.fingerprint import SET_ASIDE
from harness.config.spec import SweepSpec
from harness.core.database_servers import (
    bound_requests,
    is_postgresql,
    one_at_a_time,
    server_name,
    unavailable,
    until_available,
)
from harness.core.disk import disk_full
from harness.core.paths import sqlite_file, with_driver
from harness.core.secrets import without_secrets
from harness.core.text import SAME_COMMAND
from harness.core.waiting import wait_for_locks
from harness.search.own_storage import OwnStorage
from harness.search.readable import IDENTITY, StorageError, decoding, unreadable
from harness.search.samplers import distribution
from harness.search.server_storage import ServerStorage


@contextmanager
def explained(url: str = "") -> Iterator[None]:
    """Turn the storage's errors, such as a full disk, into a `StorageError` of one sentence.

    Args:
        url: the storage's address, which is named where its disk is full or its server cannot be used.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        if reason := unavailable(error):
            first = f"{server_name(url)} cannot be used: {reason}"
        else:
            first = without_secrets(str(error.__cause__ or error).strip().splitlines()[0])
        if "disk is full" in first and (file := sqlite_file(url)) is not None:
            first = disk_full(file)
        raise StorageError(f"Optuna: {first}; {SAME_COMMAND} once the storage can be used") from error


def open_storage(url: str) -> OwnStorage:
    """Optuna's storage at an SQLAlchemy address; an SQLite file, or the tables of a server, are made if missing.

    Raises:
        StorageError: nothing can be stored there.
    """
    wait_for_locks()
    bound_requests()
    address = with_driver(url)
    try:
        with one_at_a_time(address, "create the tables of Optuna"):
            kind = ServerStorage if is_postgresql(address) else RDBStorage
            return OwnStorage(until_available(lambda: kind(address), address))
    except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:
        why = without_secrets(str(error.__cause__ or error).splitlines()[0])
        raise StorageError(f"--storage: found {without_secrets(url)!r}, which cannot be opened: {why}") from error


def find_study(storage: BaseStorage, sweep: str, arm: str, identity: str) -> tuple[str, int | None]:
    """The name of an arm's study, and its id; None if it does not exist yet.

    The name is `<sweep>/<arm>`, with `@<identity>` appended where that name belongs to a different or older sweep. Only
    studies of these names are looked up, so it does not matter what else the storage holds.
    """
    name, own = f"{sweep}/{arm}", f"{sweep}/{arm}@{identity[:8]}"
    for one in itertools.chain([name, own], (f"{own}-{number}" for number in itertools.count(2))):
        try:
            study = storage.get_study_id_from_name(one)
        except KeyError:
            return one, None
        if _free_or_own(storage, study, identity):
            return one, study
    raise AssertionError("there is always a free name")


def _free_or_own(storage: BaseStorage, study: int, identity: str) -> bool:
    """Whether a sweep can use a study: it is the sweep's own, or a process was killed right after it had created it."""
    with decoding("reading a study"):
        attributes = storage.get_study_user_attrs(study)
    if not attributes:
        return storage.get_n_trials(study) == 0
    return attributes.get(IDENTITY, identity) == identity


def read_studies(
    url: str, spec: SweepSpec, identity: str, tell: Callable[[str], object] = lambda _: None
) -> dict[str, dict[int, tuple[str, float | None]]]:
    """Arm name → trial number → Optuna's state and value. Creates nothing, not even a file.

    Args:
        url: the storage's address.
        spec, identity: of the sweep.
        tell: gets a sentence about each trial that cannot be read; it is left out.

    Raises:
        StorageError: the storage cannot be read.
    """
    if (file := sqlite_file(url)) is not None and not file.exists():
        return {}
    storage = open_storage(url)
    found: dict[str, dict[int, tuple[str, float | None]]] = {}
    space = {path: distribution(dimension) for path, dimension in spec.tune.items()}
    for arm in spec.arms():
        name, study = find_study(storage, spec.name, arm.name, identity)
        if study is None:
            continue
        with decoding(f"reading the study {name}"):
            trials = storage.get_all_trials(study, deepcopy=False)
        found[arm.name] = {}
        for trial in trials:
            if sentence := unreadable(name, trial, space):
                tell(sentence)
            else:
                found[arm.name][trial.number] = (trial.state.name, trial.value)
    return found


def set_studies_aside(storage: BaseStorage, sweep: str, identity: str) -> list[str]:
    """Give the studies of a sweep another identity, so that it starts again; returns their names. Deletes nothing."""
    with decoding("listing the studies"):
        every = storage.get_all_studies()
    studies = [
        study
        for study in every
        if study.study_name.startswith(f"{sweep}/") and study.user_attrs.get(IDENTITY) == identity
    ]
    for study in studies:
        storage.set_study_user_attr(study._study_id, IDENTITY, identity + SET_ASIDE)
    return [study.study_name for study in studies]
