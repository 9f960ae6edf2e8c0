"""A sweep that is killed again and again ends like one that is never interrupted; `tests/support/storm.py` kills it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

import storm
from in_process import call
from postgres import postgres
from sandbox import Sandbox

__all__ = ["postgres"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Returns the folder of the undisturbed sweep of a number of seeds, which is run once."""

    @functools.cache
    def run(seeds: int) -> Path:
        folder = tmp_path_factory.mktemp(f"seeds{seeds}")
        (folder / "storm.yaml").write_text(storm.SPEC, "utf-8")
        done = call(Sandbox(folder), "storm.yaml", "--workers", "2", "--set", f"study.seeds={seeds}")
        assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["local processes and SQLite", pytest.param("Ray and PostgreSQL", marks=pytest.mark.ray)]
)
def test_nothing_is_lost_in_a_storm_of_three_kills(
    place: str, undisturbed: Callable[[int], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The undisturbed sweep trains on local workers, so the losses on Ray are those of one machine too."""
    far = "Ray" in place
    nodes = request.getfixturevalue("ray_nodes") if far else None
    server = request.getfixturevalue("postgres") if far else None
    found = storm.storm(
        tmp_path, kills=3, seed=1, longest=4.0, nodes=nodes, server=server, undisturbed=undisturbed, warm=True
    )
    assert found.errors == []
    assert sum(found.kills.values()) == 3
    assert found.runs == 2 * (storm.TRIALS + found.seeds)
    assert found.points > 20 * found.runs


@pytest.mark.slow
def test_a_storm_detects_missing_runs_and_trials(tmp_path: Path) -> None:
    """The checks can fail: a sweep with half of its trials is reported as incomplete."""
    (tmp_path / "storm.yaml").write_text(storm.SPEC, "utf-8")
    half = ["storm.yaml", "--set", "study.trials=1", "--set", "train.budget.tokens=2_048"]
    assert call(Sandbox(tmp_path), *half).returncode == 0
    found = storm.Storm()
    storm._compare(tmp_path, tmp_path, found, storm.files_of(tmp_path))
    assert any("planned were 8" in error for error in found.errors)
    assert any("Optuna has trials {'COMPLETE': 1}" in error for error in found.errors)
    assert "ERRORS" in str(found)
