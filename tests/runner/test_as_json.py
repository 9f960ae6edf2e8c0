"""Answers as JSON have the numbers of the text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import example_sweep as example
from harness.analysis.labelled import with_labels
from harness.compare import metric_differences
from harness.cost.estimate import TimeEstimate, plan_arms
from harness.cost.evaluation_share import EvaluationShare
from harness.cost.preview import Plan, show_plan
from harness.report.assemble import assemble, in_order
from harness.report.text.numbers import probability, signed
from harness.report.write import write_files
from harness.runner.as_json import SCHEMA, answer_document, as_text, plan_document, runs_document, status_document
from harness.runner.status import ArmStatus, Status
from harness.runner.status_table import arm_cells, status_lines
from harness.tracking import RunDetails
from harness.tracking.ownership import SweepState
from reports import all_runs
from specs import GOOD, load


def read(document: dict[str, Any]) -> dict[str, Any]:
    """The document as a script reads it."""
    found = json.loads(as_text(document), parse_constant=lambda name: pytest.fail(name))
    assert found["schema"] == SCHEMA == 1
    return found


def test_an_answer_has_the_numbers_of_the_table(tmp_path: Path) -> None:
    record = example.record(tune=example.TUNE)
    shown, labels = with_labels(example.evidence(record, in_order(example.frame(all_runs()), record)))
    content = assemble(shown, example.samples_of, "python -m mlflow ui", labels=labels)
    files = write_files(content, example.curves_of(shown.runs), tmp_path / "dropout")
    found = read(answer_document(files))
    assert found["kind"] == "answer"
    assert found["files"]["html"] == str(files.html)
    (sweep,) = found["sweeps"]
    assert sweep["headline"] == files.headline
    assert " ".join([sweep["text"], f"Next: {sweep['next']}", sweep["limits"]]) == files.answer
    assert [one["text"] for one in sweep["warnings"] if one["changes_conclusion"]] == files.warnings
    heading, *rows = files.lines
    arms = {arm["label"]: arm for arm in sweep["arms"]}
    assert [row[0] for row in rows] == sorted(arms, key=lambda label: arms[label]["mean"])
    for row in rows:
        cells, arm = dict(zip(heading, row, strict=True)), arms[row[0]]
        half = arm["high"] - arm["mean"]
        assert cells["Val loss"] == f"{arm['mean']:.3f} ± {half:.3f}"
        assert int(cells["Seeds"]) == arm["seeds"] == len(arm["run_ids"])
        assert arm["settings"] == {"model.drop_rate": float(arm["label"].split()[1])}
        if arm["is_baseline"]:
            assert (cells["Verdict"], arm["verdict"], arm["difference"]) == ("baseline", None, None)
        else:
            assert cells["Verdict"] == arm["verdict"]
            assert cells["Δ to baseline"].split(" ± ")[0] == signed(arm["difference"], 3)
            assert cells["p (adjusted)" if "p (adjusted)" in cells else "p"] == probability(arm["p_holm"])


def test_a_plan_has_the_numbers_of_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = load(tmp_path, GOOD)
    splits = {arm.name: {"train": 4000, "val": 400, "test": 400} for arm in spec.arms()}
    arms = plan_arms(spec, {name: sizes["train"] for name, sizes in splits.items()})
    share = EvaluationShare(0.25, None, 0.0, 0.25)
    plan = Plan(spec, splits, arms, TimeEstimate(60.0, 60.0, {}, 1e9), share, 2, 1, False, left=14)
    found = read(plan_document(plan))
    show_plan(plan)
    text = capsys.readouterr().out
    assert (found["kind"], found["runs"]) == ("plan", {"min": 14, "max": 14, "left": 14})
    assert "2 arms × (4 trials + 3 seeds) = 14 runs" in text
    assert "14 runs left" in text
    assert f"{found['flops']:.2e} FLOPs" in text
    assert f"{found['evaluation_share']:.0%} of a run's time" in text
    assert (found["seconds"], found["workers"]) == ({"min": 60.0, "max": 60.0}, 2)
    assert "about 1:00, with 2 workers" in text
    for arm in found["arms"]:
        (line,) = [line for line in text.splitlines() if line.startswith(arm["label"])]
        assert f"{arm['parameters']:,}" in line
        assert f"{arm['tokens_per_run']:,}" in line
        assert f"{arm['memory_bytes'] / 1e9:.1f} GB" in line
        assert arm["is_baseline"] == ("*" in line)
    assert found["tuned"] == {"train.learning_rate": {"log_uniform": [3e-4, 3e-3]}}


def test_a_status_has_the_counts_of_the_table(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    names = [arm.name for arm in spec.arms()]
    arms = [ArmStatus(names[0], 4, 4, 1, 3, 1, 0, 0, 1, 3.25), ArmStatus(names[1], 2, 4, 0, 3, 0, 1, 1, 4, None)]
    status = Status(SweepState("5ee9", "FINISHED", "interrupted", None, 0), arms, [], 2, 1.0)
    lines = status_lines(status)
    found = read(status_document(spec, status, lines))
    assert (found["kind"], found["state"], found["unsent"]) == ("status", "interrupted", 2)
    assert [found["text"], *found["messages"]] == lines
    for one, arm in zip(found["arms"], arms, strict=True):
        counts = [str(one[name]) for name in ("running", "interrupted", "failed", "left")]
        finished = [f"{one['explored']}/{one['trials']}", f"{one['confirmed']}/{one['seeds']}"]
        best = "–" if one["best"] is None else f"{one['best']:.4f}"
        assert (one["arm"], *finished, *counts, best) == arm_cells(arm)


def test_two_runs_have_the_numbers_of_the_text() -> None:
    a, b = (
        RunDetails(
            f"{letter}123",
            letter,
            "dropout",
            "complete",
            "drop_rate=0.0",
            "confirm",
            "data",
            {"train.seed": seed, "model.n_layers": 2, **({"train.warmup": 0.1} if seed == 2 else {})},
            {"val/loss": 3.0 / seed, "tokens": 100.0, **({"test/loss": math.inf} if seed == 1 else {})},
            {"val/loss": ((0, 5.0), (100, 3.0 / seed))},
        )
        for letter, seed in (("a", 1), ("b", 2))
    )
    params = [(name, a.params.get(name), b.params.get(name)) for name in ("train.seed", "train.warmup")]
    found = read(runs_document(a, b, params, metric_differences(a.final, b.final), []))
    assert (found["kind"], found["warnings"]) == ("runs", [])
    assert found["parameters"] == [
        {"name": "train.seed", "a": 1, "b": 2},
        {"name": "train.warmup", "a": None, "b": 0.1},
    ]
    loss, test, tokens = found["metrics"]
    assert loss == {"name": "val/loss", "a": 3.0, "b": 1.5, "difference": -1.5}
    assert test == {"name": "test/loss", "a": None, "b": None, "difference": None}
    assert tokens["difference"] == 0.0
    assert found["runs"][1]["curves"] == {"val/loss": [[0, 5.0], [100, 1.5]]}


def test_secrets_are_not_in_json() -> None:
    text = as_text({"text": "postgresql://me:hunter2@host/db", "n": float("nan")})
    assert json.loads(text) == {"text": "postgresql://me:***@host/db", "n": None}
