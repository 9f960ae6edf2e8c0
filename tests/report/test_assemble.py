"""A report computes each of its statistics once, and hands the evidence down."""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

import example_sweep as example
from harness.analysis import (
    budget,
    comparison,
    factors,
    grid,
    importance,
    search_quality,
    seed_noise,
    trials,
    verdicts,
)
from harness.config.fields import arm_name
from harness.report.assemble import assemble, in_order
from harness.report.write import write_files
from harness.tracking import SweepRecord

pytestmark = pytest.mark.slow

STATISTICS: tuple[tuple[ModuleType, str], ...] = (
    (comparison, "verdict_runs"),
    (comparison, "comparability"),
    (comparison, "compare"),
    (comparison, "compare_counted_runs"),
    (comparison, "confirm_seeds"),
    (comparison, "one_run_each"),
    (verdicts, "judge"),
    (grid, "grid_of"),
    (factors, "marginals"),
    (factors, "interactions"),
    (trials, "arm_trials"),
    (search_quality, "expected_best"),
    (search_quality, "expected_best_band"),
    (search_quality, "crossings_of"),
    (importance, "importance"),
    (seed_noise, "spread_of"),
    (budget, "run_costs"),
    (budget, "arm_costs"),
    (budget, "budgets"),
)


def searched_grid() -> tuple[SweepRecord, pd.DataFrame]:
    """A searched sweep over two factors, with enough trials to rank two tuned dimensions."""
    tune = {"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}, "train.weight_decay": {"uniform": [0.0, 0.2]}}
    generator = np.random.default_rng(5)
    settings = [{"model.drop_rate": rate, "model.qkv_bias": bias} for rate in (0.0, 0.1) for bias in (False, True)]
    rows = []
    for place, values in enumerate(settings):
        for trial, (u, v) in enumerate(generator.uniform(size=(9, 2))):
            tuned = {"train.learning_rate": 1e-4 * 100**u, "train.weight_decay": 0.2 * v}
            loss = 5 + 4 * (u - 0.5) ** 2 + 0.2 * v
            facts: dict[str, Any] = {"phase": "explore", "trial": trial, "loss": loss}
            rows.append(example.run(100 * place + trial, arm_name(values), {**values, **tuned}, **facts))
        best = min(rows[-9:], key=lambda row: float(row["val/loss"]))
        chosen = {**values, **{path: best[path] for path in tune}}
        for seed in (2, 3, 4, 5):
            loss = float(best["val/loss"]) + generator.normal(0, 0.01)
            facts = {"seed": seed, "loss": loss, "test": loss + 0.2}
            rows.append(example.run(100 * place + 50 + seed, arm_name(values), chosen, **facts))
    record = example.record({arm_name(values): values for values in settings}, tune)
    return record, example.frame(rows)


def one_configuration() -> tuple[SweepRecord, pd.DataFrame]:
    losses = {"drop_rate=0.0": {2: 5.2, 3: 5.4, 4: 5.6}}
    return example.record({arm: example.ARMS[arm] for arm in losses}), example.frame(example.confirm_runs(losses))


def digest(value: object) -> str:
    """The same for equal inputs, whatever objects they are in."""
    if isinstance(value, pd.DataFrame):
        value = value.to_csv()
    elif isinstance(value, (np.ndarray, pd.Series)):
        value = np.asarray(value, dtype=float).tobytes()
    elif isinstance(value, (list, tuple)):
        value = [digest(one) for one in value]
    elif isinstance(value, dict):
        value = [(key, digest(one)) for key, one in value.items()]
    elif hasattr(value, "values") and hasattr(value, "arms"):  # a grid
        value = digest(np.asarray(value.values, dtype=float))
    return hashlib.sha256(pickle.dumps(value)).hexdigest()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often each statistic was computed of each input: (name, digest of the input) → times."""
    found: Counter[tuple[str, str]] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> Any:
            found[name, digest([*args, options])] += 1
            return function(*args, **options)

        return wrapped

    for module, name in STATISTICS:
        original = getattr(module, name)
        wrapped = counting(name, original)
        for other in list(sys.modules.values()):  # wherever it was imported to
            if getattr(other, "__name__", "").startswith("harness.") and vars(other).get(name) is original:
                monkeypatch.setattr(other, name, wrapped)
    return found


@pytest.mark.parametrize("sweep", [searched_grid, one_configuration])
def test_a_report_computes_each_statistic_once(
    sweep: Callable[[], tuple[SweepRecord, pd.DataFrame]], counted: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    record, runs = sweep()
    runs = in_order(runs, record)
    curves = example.curves_of(runs)
    content = assemble(example.evidence(record, runs, curves), example.samples_of, "python -m mlflow ui")
    write_files(content, curves, tmp_path)
    assert {key: times for key, times in counted.items() if times > 1} == {}
    names = Counter(name for name, _ in counted)
    once = {"verdict_runs", "comparability", "compare_counted_runs", "confirm_seeds", "one_run_each", "run_costs"}
    assert {name: names[name] for name in once} == dict.fromkeys(once, 1)
    assert names["compare"] == 0  # which chooses runs of its own
    if sweep is searched_grid:
        assert {section.anchor for section in content.sections} == {"factors", "search", "budget"}
        assert names["marginals"] == names["interactions"] == names["grid_of"] == names["arm_trials"] == 1
        assert names["expected_best"] == names["importance"] == len(record.arms)
    else:
        assert {section.anchor for section in content.sections} == {"noise", "budget"}
        assert names["spread_of"] == 3  # loss and bits per byte of the validation split, loss of the test split


def test_a_metric_that_the_report_does_not_know_has_a_column(tmp_path: Path) -> None:
    runs = example.frame([*example.explore_runs(), *example.confirm_runs()])
    runs["val/accuracy"] = [float("nan")] * 8 + [0.5, 0.6, 0.7, 0.25, 0.25, 0.25]
    runs["perf/tokens_per_second"] = 1e5  # of the machine, not of the model
    record = example.record(tune=example.TUNE)
    runs = in_order(runs, record)
    content = assemble(example.evidence(record, runs, example.curves_of(runs)), example.samples_of, "mlflow ui")
    files = write_files(content, example.curves_of(runs), tmp_path)
    # t(0.975, 2) · 0.1 / √3 = 4.302653 · 0.057735
    for written in (files.html, files.markdown, tmp_path / "tables" / "metrics.csv"):
        text = written.read_text("utf-8")
        assert "val/accuracy" in text and "0.600 ± 0.248" in text, written
        assert "perf/tokens_per_second" not in text
    listed = pd.read_csv(tmp_path / "tables" / "trials.csv")
    assert listed["val/accuracy"].tolist() == ["–"] * 4 + ["0.5000", "0.6000", "0.7000"] + ["–"] * 4 + ["0.2500"] * 3
    assert pd.read_csv(tmp_path / "runs.csv")["val/accuracy"].count() == 6
    plain = assemble(example.evidence(record, runs.drop(columns="val/accuracy")), example.samples_of, "mlflow ui")
    assert "metrics" not in plain.tables
