"""Paths of stores, the addresses of databases, and the names of the files in a checkpoint's folder."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ARTIFACTS_VARIABLE: Final = "GPT_HARNESS_ARTIFACTS_AT"  # a place outside the store's own root that the user allows
STORES: Final = Path("mlruns")  # the folder of a sweep's stores, state, lock and log, in the current folder
WEIGHTS: Final = "model.safetensors"  # of a checkpoint
DESCRIPTION: Final = "checkpoint.json"  # makes a checkpoint complete, so it is written last
TOKEN_LOSSES: Final = "token_losses.json"  # of a checkpoint, for the first tokens of the validation split
_SQLITE: Final = "sqlite:///"
_POSTGRESQL: Final = re.compile("^postgres(ql)?://")  # without a driver


def broken_link(path: Path) -> str:
    """`the link A, which leads to B, where nothing is`: the first such link in a path; empty if there is none."""
    place = Path(os.path.abspath(path))  # noqa: PTH100 (links are not to be resolved)
    for part in (*reversed(place.parents), place):
        if part.is_symlink() and not part.exists():
            return f"the link {part}, which leads to {part.readlink()}, where nothing is"
    return ""


def sqlite_uri(file: Path) -> str:
    """The SQLite address of a file."""
    return f"{_SQLITE}{file}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address, relative to the current folder if the address is; None for any other address."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def with_driver(address: str) -> str:
    """A database's address. A PostgreSQL address without a driver gets the installed one: psycopg2, else psycopg 3.

    SQLAlchemy would look for psycopg2 only.
    """
    return _POSTGRESQL.sub("postgresql+psycopg://" if find_spec("psycopg2") is None else "postgresql://", address)


DEFAULT_URI: Final = sqlite_uri(STORES / "mlflow.db")  # of MLflow
DEFAULT_STORAGE: Final = sqlite_uri(STORES / "optuna.db")  # of Optuna


def configured_uri(uri: str | None = None) -> str:
    """MLflow's tracking address: `uri`, else the environment's, else the default; creates nothing."""
    return with_driver(uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


def work_folder(sweep: str, identity: str, stores: Path = STORES) -> Path:
    """The folder of a sweep's unfinished runs; an edited spec has another identity, and so another one."""
    return stores / f"{sweep}.work" / identity[:12]
