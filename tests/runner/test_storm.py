"""A sweep that is killed again and again ends like one that is never interrupted; `tests/support/storm.py` kills it."""

from __future__ import annotations

from pathlib import Path

import pytest

import storm
from in_process import call
from postgres import postgres
from ray_nodes import Nodes
from sandbox import Sandbox

__all__ = ["postgres"]


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_nothing_is_lost_in_a_storm_of_four_kills(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgres") if store == "postgresql" else None
    found = storm.storm(tmp_path, kills=4, seed=1, longest=6.0, server=server)
    assert found.errors == []
    assert sum(found.kills.values()) == 4
    assert found.runs == 2 * (storm.TRIALS + found.seeds)
    assert found.points > 20 * found.runs


@pytest.mark.slow
def test_nothing_is_lost_in_a_storm_of_two_kills_on_ray(tmp_path: Path, ray_nodes: Nodes) -> None:
    """The undisturbed sweep trains on local workers, so the losses are those of one machine too."""
    found = storm.storm(tmp_path, kills=2, seed=3, longest=5.0, nodes=ray_nodes)
    assert found.errors == []
    assert sum(found.kills.values()) == 2
    assert found.runs == 2 * (storm.TRIALS + found.seeds)


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
