"""The load driver runs, and everything that its workers send is stored once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import create_engine

from harness.core.paths import with_driver
from paths import ROOT
from postgres import Server, postgres

__all__ = ["postgres"]


@pytest.mark.slow
def test_every_point_of_a_small_load_is_stored_once(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    import load

    stores = postgres.stores()
    found = load.measure(tmp_path, 4, 20.0, 1.0, stores.environment)
    assert (found.points, found.runs) == (8 * 20, 8)
    assert 0 < found.loop <= found.training <= found.cpu
    engine = create_engine(with_driver(stores.tracking))
    points = pd.read_sql("select run_uuid, step from metrics where key = 'tokens'", engine)
    assert len(points) == found.points and not points.duplicated().any()
