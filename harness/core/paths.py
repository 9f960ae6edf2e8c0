"""Where stores and caches lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    pass


CACHE_VARIABLE: Final = "GPT_HARNESS_CACHE"


def cache_folder(cache: Path | None = None) -> Path:
    """The folder for downloads and tokens: `cache`, else $GPT_HARNESS_CACHE, else the user's cache folder."""
    if cache is not None:
        return cache
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    import pooch  # here because it costs 0.1 s and a worker is told its cache

    return Path(pooch.os_cache("gpt-harness"))


DEFAULT_URI: Final = "sqlite:///mlruns/mlflow.db"

_SQLITE: Final = "sqlite:///"


def configured_uri(uri: str | None = None) -> str:
    """`uri`, else the environment's, else the default; makes nothing."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of the file behind a SQLite address; None for any other address."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute() if uri.startswith(_SQLITE) else None


def sqlite_uri(file: Path) -> str:
    """The SQLite address of a file."""
    return f"{_SQLITE}{file}"
