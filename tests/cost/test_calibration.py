from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.cost import calibration
from harness.cost.calibration import (
    Calibration,
    MeasurementError,
    ModelSpeed,
    Workload,
    measure_in_processes,
    read_json,
    write_json,
)
from harness.cost.history import KEPT_ESTIMATES, Estimates
from helpers import small_config


@pytest.mark.slow
def test_a_configuration_is_measured_in_separate_processes() -> None:
    config = small_config(sample={"prompt": "a", "max_new_tokens": 2}, train_eval_tokens=64)
    ((speed,), (other,)) = measure_in_processes([Workload(config, 5, 200)], copies=2, patience=300)
    for one in (speed, other):
        assert one["device"] == "cpu"
        assert one["threads"] == 1
        assert 0 < one["step_seconds"] < 60
        assert one["eval_seconds"] > 0 and one["sample_seconds"] > 0
        assert one["eval_tokens"] == 200 + 64
        assert 5e7 < one["memory"] < 1e11
        assert one["state_seconds"] == one["peak_flops"] == 0  # measured only with `full`


@pytest.mark.slow
def test_a_failed_process_is_an_error_with_its_last_line() -> None:
    with pytest.raises(MeasurementError, match="unknown corpus"):
        measure_in_processes([Workload(small_config(data={"corpus": "sotu-9999", "tokenizer": "byte"}), 1, 10)])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Workload]]:
    """The measured workloads. Two workers find 0.2 and 0.3 s per step, and 3 s per evaluation."""
    calls: list[Sequence[Workload]] = []

    def measure(workloads: Sequence[Workload], **_: Any) -> list[list[dict[str, Any]]]:
        calls.append(workloads)
        return [
            [{"step_seconds": step, "eval_seconds": 3.0, "eval_tokens": 100, "sample_seconds": 0.5} for _ in workloads]
            for step in (0.2, 0.3)
        ]

    monkeypatch.setattr(calibration, "measure_in_processes", measure)
    return calls


def test_measured_speeds_are_cached_for_the_next_process(tmp_path: Path, measured: list[Sequence[Workload]]) -> None:
    config = small_config()
    first = Calibration(2, 1, tmp_path)
    assert first.speed(config) is None
    first.measure([Workload(config, 5, 100), Workload(config, 5, 100)])
    assert [len(workloads) for workloads in measured] == [1]  # the same model twice
    assert Calibration(2, 1, tmp_path).speed(config) == ModelSpeed(0.25, 3.0, 100, 0.5)
    Calibration(2, 1, tmp_path).measure([Workload(config, 5, 100)])
    assert len(measured) == 1


def test_a_cached_speed_belongs_to_one_shape_and_number_of_workers(
    tmp_path: Path, measured: list[Sequence[Workload]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Calibration(2, 1, tmp_path).measure([Workload(small_config(), 5, 100)])
    speed_of = Calibration(2, 1, tmp_path).speed
    assert (
        speed_of(small_config(learning_rate=0.5, seed=9, budget={"steps": 77})) is not None
    )  # without effect on the speed
    assert speed_of(small_config(batch_size=8)) is None
    assert speed_of(small_config(model={"emb_dim": 32})) is None
    assert speed_of(small_config(optimizer="muon")) is None
    assert Calibration(3, 1, tmp_path).speed(small_config()) is None
    assert Calibration(2, 2, tmp_path).speed(small_config()) is None
    monkeypatch.setattr(calibration, "training_code", lambda: "other code")
    assert Calibration(2, 1, tmp_path).speed(small_config()) is None


def test_a_failed_or_incomplete_measurement_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MeasurementError("no")

    monkeypatch.setattr(calibration, "measure_in_processes", fails)
    Calibration(1, 1, tmp_path).measure([Workload(small_config(), 5, 100)])
    cut = {"step_seconds": 9.0, "eval_seconds": 0.0, "eval_tokens": 100, "sample_seconds": 1.0}
    monkeypatch.setattr(calibration, "measure_in_processes", lambda *_, **__: [[cut]])
    Calibration(1, 1, tmp_path).measure(
        [Workload(small_config(), 5, 100), Workload(small_config(batch_size=8), 5, 100)]
    )
    assert Calibration(1, 1, tmp_path).speed(small_config()) is None


def test_a_damaged_cache_counts_as_empty(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"estimates": [{"of": "another version"}]}'):
        for name in ("speeds.json", "estimates.json"):
            (tmp_path / name).write_text(text)
        assert Calibration(1, 1, tmp_path).speed(small_config()) is None
        assert Estimates(tmp_path).finished() == []


def test_a_changed_number_of_a_cache_counts_as_empty(tmp_path: Path, measured: list[Sequence[Workload]]) -> None:
    Calibration(2, 1, tmp_path).measure([Workload(small_config(), 5, 100)])
    Estimates(tmp_path).add("one", "1d", seconds=100.0, runs=10)
    Estimates(tmp_path).add_actual("1d", 48.0, 6)
    for name, before, after in (("speeds.json", "0.25", "0.75"), ("estimates.json", "48.0", "98.0")):
        text = (tmp_path / name).read_text()
        assert text.count(before) == 1
        (tmp_path / name).write_text(text.replace(before, after))
    assert Calibration(2, 1, tmp_path).speed(small_config()) is None
    assert Estimates(tmp_path).finished() == []


@pytest.mark.parametrize(
    "speed",
    [
        "fast",
        {"step_seconds": 0.1},
        {"step_seconds": "0.1", "eval_seconds": 1, "eval_tokens": 1, "sample_seconds": 1},
        {"step_seconds": 0.1, "eval_seconds": -1, "eval_tokens": 1, "sample_seconds": 1},
        {"step_seconds": 0.1, "eval_seconds": 1, "eval_tokens": 0, "sample_seconds": 1},
        {"step_seconds": 10**400, "eval_seconds": 1, "eval_tokens": 1, "sample_seconds": 1},
    ],
)
def test_a_speed_that_was_not_measured_is_left_out(speed: object, tmp_path: Path) -> None:
    here = Calibration(1, 1, tmp_path)
    write_json(here.path, {here.key(small_config()): speed})
    assert Calibration(1, 1, tmp_path).speed(small_config()) is None


def test_estimates_of_another_type_are_left_out(tmp_path: Path) -> None:
    Estimates(tmp_path).add("one", "1d", seconds=100.0, runs=10)
    Estimates(tmp_path).add_actual("1d", 48.0, 6)
    path = Estimates(tmp_path).path
    [good] = read_json(path)["estimates"]
    bad = ["no estimate", {"name": "two"}, {**good, "name": 3}, {**good, "seconds": "soon"}, {**good, "actual": [1]}]
    write_json(path, {"estimates": [*bad, good]})
    assert [one.name for one in Estimates(tmp_path).finished()] == ["one"]
    write_json(path, {"estimates": "none"})
    assert Estimates(tmp_path).all() == []


def test_estimates_are_compared_per_run(tmp_path: Path) -> None:
    Estimates(tmp_path).add("one", "1d", seconds=100.0, runs=10)
    Estimates(tmp_path).add("one", "1d", seconds=120.0, runs=10)  # planned again: this estimate counts
    assert Estimates(tmp_path).finished() == []
    Estimates(tmp_path).add_actual("other", 50.0, 5)  # a sweep without an estimate
    Estimates(tmp_path).add_actual("1d", 48.0, 6)  # 6 of the 10 runs: 8 s per run, 12 estimated
    (past,) = Estimates(tmp_path).finished()
    assert past.name == "one" and past.error == pytest.approx(0.5)
    Estimates(tmp_path).add_actual("1d", 1.0, 1)  # the same sweep again: its estimate has its actual time
    assert Estimates(tmp_path).finished() == [past]
    for number in range(60):
        Estimates(tmp_path).add(f"n{number}", f"{number}", 1.0, 1)
        Estimates(tmp_path).add_actual(f"{number}", 2.0, 1)
    assert [one.name for one in Estimates(tmp_path).finished()] == ["n59", "n58", "n57"]
    assert len(json.loads((tmp_path / "estimates.json").read_text())["estimates"]) == KEPT_ESTIMATES


@pytest.mark.slow
def test_a_plan_shows_the_error_of_the_last_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from in_process import call
    from sandbox import SPEC, Sandbox

    monkeypatch.setenv("GPT_HARNESS_CACHE", str(tmp_path / "cache"))
    sandbox = Sandbox(tmp_path / "here", SPEC.replace("[0.0, 0.2]", "[0.0]").replace("trials: 2", "trials: 1"))
    first = call(sandbox, "tiny.yaml", "--plan")
    assert first.returncode == 0, first.stderr
    assert "about " in first.stdout and " on this CPU (" in first.stdout
    assert "estimates:" not in first.stdout
    assert call(sandbox).returncode == 0
    second = call(sandbox, "tiny.yaml", "--plan").stdout
    (line,) = [one for one in second.splitlines() if one.startswith("estimates:")]
    ended = json.loads((tmp_path / "cache" / "estimates.json").read_text())["estimates"][0]
    assert (ended["name"], ended["runs"], ended["done"]) == ("tiny", 3, 3)
    error = ended["seconds"] / ended["actual"] - 1
    assert line.endswith(f"tiny {'+' if error >= 0 else '−'}{abs(error):.0%}")
