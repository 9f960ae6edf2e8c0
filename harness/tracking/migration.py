"""Opens a store that another version of MLflow wrote.

MLflow converts the database of an older version silently when it opens it, and that version cannot open it afterwards.
So the harness looks first. A sweep converts an SQLite file after a line that says so, and keeps a copy beside it. Other
commands, and other databases, refuse with the command that converts it.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.core.disk import disk_full
from harness.core.paths import sqlite_file, sqlite_uri
from harness.core.secrets import shell_address, without_secrets
from harness.tracking import provenance, schema
from harness.tracking.errors import SweepBusy, TrackingError
from harness.tracking.server_errors import option_of

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

Announce = Callable[[str], None]

_LOCK_SECONDS: Final = 120.0  # how long to wait for another process that converts the same file
_checked: Final = set[tuple[str, int]]()  # addresses, with the SQLite file's inode


def check_schema(uri: str, announce: Announce | None) -> None:
    """Make sure that the installed MLflow reads and writes a database without converting it silently.

    Args:
        uri: of an existing SQLite file, or of another database.
        announce: called with a line before an SQLite file is converted; None: do not convert.

    Raises:
        TrackingError: another version of MLflow wrote it; says what to do.
    """
    file = sqlite_file(uri)
    key = (uri, file.stat().st_ino if file else 0)
    if key in _checked:
        return
    found, is_mlflow = _revision(uri)
    scripts = _scripts()
    if found is not None and found != scripts.get_current_head():
        where = f"found {file}" if file else f"{option_of(uri)}: found {without_secrets(uri)}"
        if not is_mlflow:
            raise TrackingError(f"{where}, the database of another program; allowed: one of MLflow, or a new one")
        if found not in {script.revision for script in scripts.walk_revisions()}:
            raise TrackingError(
                f"{where}, which a newer MLflow than the installed {version('mlflow')} wrote; "
                "install that version: pip install --upgrade mlflow"
            )
        if file is None or announce is None:
            raise TrackingError(f"{where}, which an older MLflow wrote; {_advice(uri, file)}")
        _convert(file, announce)
    _checked.add(key)


def _revision(uri: str) -> tuple[str | None, bool]:
    """The revision of a database's schema, None if it has none, and whether it has MLflow's tables."""
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine, inspect

    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
            return revision, revision is None or inspect(connection).has_table("experiments")
    finally:
        engine.dispose()


def _scripts() -> ScriptDirectory:
    """The migrations of the installed MLflow."""
    import mlflow
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))


def _advice(uri: str, file: Path | None) -> str:
    """How to convert a database that this command does not convert."""
    if file is not None:
        command = f"python -m mlflow db upgrade {shlex.quote(uri)}"
        return f"a sweep converts it and keeps a copy; or copy it yourself and run: {command}"
    return f"back it up, then run: python -m mlflow db upgrade {shell_address(uri)}"


def _convert(file: Path, announce: Announce) -> None:
    """Convert an SQLite file for the installed MLflow, and keep a copy beside it.

    The file is locked meanwhile. What is converted is a second copy, which is then written back in one transaction: a
    process that is killed leaves the old file or the new one.
    """
    target = file
    try:
        with contextlib.closing(_locked(file)) as store, tempfile.TemporaryDirectory(dir=file.parent) as folder:
            if _is_current(store):  # another process has converted it meanwhile
                return
            _refuse_if_used(store, file)
            kept, copy, fresh = _copy_name(file), Path(folder, "copy.db"), Path(folder, "fresh.db")
            announce(f"{file} was written by an older MLflow: it is converted for the installed one; {kept} is a copy")
            for target in (copy, fresh):
                with contextlib.closing(sqlite3.connect(target)) as empty:
                    store.backup(empty)
            copy.replace(kept)
            _upgrade(fresh, file)
            target = file
            with contextlib.closing(sqlite3.connect(fresh)) as converted:
                converted.backup(store)
    except sqlite3.Error as error:
        why = disk_full(target) if "is full" in str(error) else str(error)
        raise TrackingError(f"{file} cannot be converted for the installed MLflow: {why}; it is unchanged") from error


def _locked(file: Path) -> sqlite3.Connection:
    """A connection that keeps other processes from reading and writing the file until it is closed."""
    store = sqlite3.connect(file, timeout=_LOCK_SECONDS, isolation_level=None)
    try:
        store.execute("pragma locking_mode = exclusive")  # the lock outlives the transaction
        store.execute("begin exclusive")
        store.execute("commit")
    except BaseException:
        store.close()
        raise
    return store


def _is_current(store: sqlite3.Connection) -> bool:
    found = store.execute("select version_num from alembic_version").fetchall()
    return found == [(_scripts().get_current_head(),)]


def _refuse_if_used(store: sqlite3.Connection, file: Path) -> None:
    """Raise `SweepBusy` if a sweep on this machine writes to the store; it may use the older MLflow."""
    query = "select tags.value from tags join runs using (run_uuid) where tags.key = ? and runs.status = 'RUNNING'"
    for (owner,) in store.execute(query, (schema.PROCESS,)).fetchall():
        if owner != provenance.process_name() and provenance.is_running(owner):
            raise SweepBusy(
                f"{file} was written by an older MLflow and must be converted, but process {owner} writes to it; "
                "wait for it or stop it"
            )


def _copy_name(file: Path) -> Path:
    """A new name beside the file: `mlflow.before-3.17.2.db`, then `mlflow.before-3.17.2-2.db`."""
    base = f"{file.stem}.before-{version('mlflow')}"
    names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := file.with_name(f"{name}{file.suffix}")).exists())


def _upgrade(fresh: Path, file: Path) -> None:
    """Convert a database that no other process uses, by MLflow's own command."""
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", sqlite_uri(fresh)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        why = (done.stderr.strip() or "no message").splitlines()[-1]
        raise TrackingError(f"MLflow cannot convert {file}: {why}; it is unchanged")
