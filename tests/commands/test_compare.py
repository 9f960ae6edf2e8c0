from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from harness.compare import app, curve_lines, different_params, metric_rows, sparkline
from harness.console.cli import out
from harness.core.outcomes import Outcome
from harness.tracking import Tracker, load_run
from stored_runs import point, sweep_info, trial_info


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    tracker = Tracker("compared", uri)
    parent = tracker.open_sweep(sweep_info("compared"))
    runs = []
    for seed, rate, loss in ((1, 1e-3, 3.0), (2, 2.5e-3, 2.75), (2, 1e-3, 9.0)):
        run = tracker.start_run(parent, trial_info(f"seed {seed}", seed=seed, learning_rate=rate))
        for step in range(0, 41, 10):
            tracker.log_point(run, point(step, f"text {seed} at {step}", val__loss=5.5 - (5.5 - loss) * step / 40))
        tracker.end_run(run, Outcome.COMPLETE)
        runs.append(run)
    return uri, runs


def compared(store: tuple[str, list[str]], *arguments: str, width: int = 100) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as window:
        window.setattr(out, "_width", width)  # COLUMNS would have no effect any more
        done = CliRunner().invoke(app, [*arguments, "--tracking", store[0]])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.slow
def test_the_differences_between_two_runs_are_shown(store: tuple[str, list[str]]) -> None:
    code, text, _ = compared(store, "seed 1", store[1][1])
    assert code == 0
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"A {store[1][0][:12]} seed 1 (compared, confirm, complete)" in lines
    assert "train.learning_rate 0.001 0.0025" in lines
    assert "train.seed 1 2" in lines
    assert not [line for line in lines if line.startswith("model.")]  # equal in both
    assert "val/loss 3.0000 2.7500 −0.2500" in lines
    assert any(line.startswith("val/loss A █") and line.endswith("5.5000 → 3.0000") for line in lines)
    assert "text 1 at 40 text 2 at 40" in lines
    assert "text 1 at 0" not in text  # the last two only


def test_texts_are_below_each_other_in_a_narrow_terminal(store: tuple[str, list[str]]) -> None:
    _, text, _ = compared(store, *store[1][:2], "--samples", "1", width=50)
    tail = [line for line in text.split("Samples")[1].splitlines() if line]
    assert tail == ["A  2,560 tokens", "text 1 at 40", "B  2,560 tokens", "text 2 at 40"]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("nobody", "seed 1", "found no run 'nobody'; allowed: a run's id"),
        ("seed 1", "seed 2", "found 2 runs for 'seed 2'; allowed: the id of one of them"),
        ("seed 1", "seed 1", "which is the same run"),
    ],
)
def test_a_wrong_run_is_reported_in_one_line(store: tuple[str, list[str]], a: str, b: str, message: str) -> None:
    code, text, error = compared(store, a, b)
    assert (code, text) == (2, "")
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_missing_store_is_reported_in_one_line(tmp_path: Path) -> None:
    code, _, error = compared((f"sqlite:///{tmp_path / 'none.db'}", []), "a", "b")
    assert code == 2
    assert "found no MLflow store at" in error


def test_runs_with_other_tokens_give_a_warning(store: tuple[str, list[str]]) -> None:
    a, b = (load_run(run, store[0], ("val/loss",)) for run in store[1][:2])
    assert a.curves["val/loss"] == ((0, 5.5), (640, 4.875), (1280, 4.25), (1920, 3.625), (2560, 3.0))
    for width in (50, 80, 200):
        assert max(map(cell_len, curve_lines(a, b, width))) <= width
    from dataclasses import replace

    from harness.compare import headings

    assert len(list(headings(a, b))) == 2
    assert "evaluated on different texts" in list(headings(a, replace(b, data="else")))[2]
    other = replace(b, data="else", params={**b.params, "data.tokenizer": "o200k_base"})
    assert "different tokens of the same text; compare their bits per byte" in list(headings(a, other))[2]
    small = replace(b, data="else", params={**b.params, "data.vocab": "corpus"})
    assert len(list(headings(a, small))) == 2  # the same tokens


def test_differences_that_mean_nothing_are_left_out() -> None:
    a = {"val/loss": 3.0, "val/bits_per_byte": 1.0, "train/loss": 2.0, "tokens": 10.0}
    b = {name: value + 1 for name, value in a.items()}

    def shown(other: str) -> dict[str, str]:
        return {row[0]: row[3] for row in metric_rows(a, b, other) if row[3] != "–"}

    assert set(shown("")) == set(a)
    assert set(shown("data.tokenizer")) == {"val/bits_per_byte", "tokens"}
    assert set(shown("text")) == {"tokens"}


def test_parameters_and_metrics_that_one_run_lacks() -> None:
    assert different_params({"a": 1, "b": None, "same": 2}, {"a": 10_000, "same": 2}) == [
        ["a", "1", "10,000"],
        ["b", "None", "–"],
    ]
    rows = metric_rows({"tokens": 1e6, "val/loss": 3.0}, {"tokens": 1e6 + 2000, "train/loss": 2.0})
    assert rows == [
        ["val/loss", "3.0000", "–", "–"],
        ["train/loss", "–", "2.0000", "–"],
        ["tokens", "1,000,000", "1,002,000", "+2,000"],
    ]


def test_a_sparkline_shows_means_and_ends_with_the_curve() -> None:
    assert sparkline([(0, 0.0), (50, 4.0), (60, 6.0), (100, 10.0)], 100, 0.0, 10.0, 4) == "▁▁▅█"
    assert sparkline([(0, 9.0), (25, 1.0)], 100, 0.0, 4.0, 4) == "█▃  "
    assert sparkline([(0, 1.0)], 0, 1.0, 1.0, 3) == "▁  "


def test_params_and_metrics_keep_their_types(store: tuple[str, list[str]]) -> None:
    run = load_run(store[1][1][:8], store[0])
    assert (run.experiment, run.arm, run.phase) == ("compared", "drop_rate=0.0", "confirm")
    assert run.params["train.learning_rate"] == 0.0025
    assert json.loads(json.dumps(dict(run.final)))["tokens"] == 2560
