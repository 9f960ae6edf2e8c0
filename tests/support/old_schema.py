"""MLflow stores as other versions of MLflow leave them, built by the migrations that MLflow ships."""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

OLDER: Final = "6953534de441"  # the schema of MLflow 2.22
EXPERIMENT: Final = "kept"


def older_store(file: Path) -> None:
    """Create the SQLite file of an older MLflow, with one experiment and one finished run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_content())


def revision_of(file: Path) -> str:
    """The revision of a store's schema."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        return str(database.execute("select version_num from alembic_version").fetchone()[0])


def set_revision(file: Path, revision: str) -> None:
    """Change only the revision that a store records."""
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("update alembic_version set version_num = ?", (revision,))


@functools.cache
def _content() -> bytes:
    import mlflow
    from alembic import command
    from alembic.config import Config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    logging.getLogger("alembic").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mlflow.db")
        engine = create_engine(f"sqlite:///{file}")
        Base.metadata.create_all(engine)
        config = Config()
        config.set_main_option("script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
        config.set_main_option("sqlalchemy.url", f"sqlite:///{file}")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, OLDER)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute(
                "insert into experiments (experiment_id, name, artifact_location, lifecycle_stage) values (?, ?, ?, ?)",
                (1, EXPERIMENT, f"file://{folder}", "active"),
            )
            database.execute(
                "insert into runs (run_uuid, name, user_id, status, lifecycle_stage, experiment_id, start_time) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                ("0" * 32, "a run", "me", "FINISHED", "active", 1, 1),
            )
            for table in ("metrics", "latest_metrics"):
                query = f"insert into {table} (key, value, timestamp, step, is_nan, run_uuid) values (?, ?, ?, ?, ?, ?)"
                database.execute(query, ("loss", 2.5, 3, 7, 0, "0" * 32))
        return file.read_bytes()
