"""Whole sweeps: what the command prints, and what MLflow, Optuna and pandas find afterwards."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.core.metrics import Point
from harness.runner import session
from harness.runner.after_training import draw_run, write_and_show_report
from in_process import call
from sandbox import SPEC, Sandbox

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sandbox, subprocess.CompletedProcess[str]]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sweep"), store=False)
    return sandbox, sandbox.run(figures=True)


Swept = tuple[Sandbox, subprocess.CompletedProcess[str]]


def test_the_command_prints_the_table_the_report_and_how_to_open_the_ui(swept: Swept) -> None:
    _, done = swept
    assert done.returncode == 0, done.stderr
    assert "2 arms × (2 trials + 2 seeds) = 8 runs" in done.stdout
    assert len(re.findall(r"✓ \d/8  drop 0.\d · learning_rate=\S+ · seed 1", done.stdout)) == 4
    assert len(re.findall(r"✓ \d/8  drop 0.\d · seed [23]", done.stdout)) == 4
    assert re.search(r"^drop 0.2 +\S.* +2 +\d", done.stdout, re.MULTILINE)
    assert "report:     reports/tiny/report.html" in done.stdout
    assert re.search(r"MLflow UI:  .*mlflow ui .*--backend-store-uri sqlite:///mlruns/mlflow.db", done.stdout)
    assert "Traceback" not in done.stderr


def test_mlflow_has_every_run(swept: Swept) -> None:
    sandbox, _ = swept
    (parent,), children = sandbox.runs()
    assert parent.info.status == "FINISHED"
    assert sandbox.outcomes() == {
        ("explore", "complete", "FINISHED"): 4,
        ("confirm", "complete", "FINISHED"): 4,
    }
    for run in children:
        params, tags = run.data.params, run.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert float(params["model.drop_rate"]) in (0.0, 0.2)
        assert 1e-3 <= float(params["train.learning_rate"]) <= 1e-2
        assert int(params["train.budget.tokens"]) == 6144
        assert tags["harness.arm"] == f"drop_rate={params['model.drop_rate']}"
        history = {name: sandbox.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        for name in ("train/loss", "train/perplexity", "val/loss", "val/perplexity", "val/bits_per_byte"):
            assert [point.step for point in history[name]] == [0, 8, 16, 24], name
        assert [point.value for point in history["tokens"]][-1] == 6144
        assert {"optim/learning_rate", "optim/grad_norm", "perf/tokens_per_second"} <= set(history)
        assert {"system/cpu_utilization_percentage", "system/process_memory_megabytes"} <= set(history)
        first, *_, last = history["val/loss"]
        assert abs(first.value - 5.545) < 0.1  # ln 256
        assert last.value < first.value - 1
        assert ("test/loss" in history) is (tags["harness.phase"] == "confirm")
        assert run.inputs is not None and run.inputs.dataset_inputs[0].dataset.name == "sotu-1820"
        files = {file.path for file in sandbox.client.list_artifacts(run.info.run_id)}
        assert {"samples.md", "loss_curve.svg"} <= files
        models = run.outputs.model_outputs if run.outputs else []
        assert len(models) == (tags["harness.phase"] == "confirm")
    assert {"spec.yaml", "report"} <= {file.path for file in sandbox.client.list_artifacts(parent.info.run_id)}


def test_a_run_lies_within_its_sweep_and_its_points_within_the_run(swept: Swept) -> None:
    sandbox, _ = swept
    (parent,), children = sandbox.runs()
    runs = pd.read_csv(sandbox.folder / "reports" / "tiny" / "runs.csv").set_index("run_id")
    for run in children:
        points = [
            point.timestamp
            for name in run.data.metrics
            for point in sandbox.client.get_metric_history(run.info.run_id, name)
        ]
        info = run.info
        times = [parent.info.start_time, info.start_time, min(points), max(points), info.end_time, parent.info.end_time]
        assert times == sorted(times)
        assert 0 < runs["seconds"][info.run_id] == run.data.metrics["perf/seconds"]
        assert runs["seconds"][info.run_id] <= (info.end_time - info.start_time) / 1000 + 0.01


def test_optuna_has_one_study_per_arm_with_equal_trials(swept: Swept) -> None:
    sandbox, _ = swept
    studies = sandbox.studies()
    assert sorted(studies) == ["tiny/drop_rate=0.0", "tiny/drop_rate=0.2"]
    by_run = {run.info.run_id: run for run in sandbox.runs()[1]}
    for study in studies.values():
        assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
        for trial in study.trials:
            run = by_run[trial.user_attrs["mlflow_run_id"]]
            assert trial.value == run.data.metrics["val/loss"]
            assert float(run.data.params["train.learning_rate"]) == trial.params["train.learning_rate"]
            assert sorted(trial.intermediate_values) == [2048, 4096, 6144]
    first, second = studies.values()
    assert [t.params for t in first.trials] == [t.params for t in second.trials]


def test_confirm_runs_share_fresh_seeds_and_the_best_values(swept: Swept) -> None:
    sandbox, _ = swept
    studies = sandbox.studies()
    for arm in ("drop_rate=0.0", "drop_rate=0.2"):
        confirms = [
            run
            for run in sandbox.runs()[1]
            if run.data.tags["harness.arm"] == arm and run.data.tags["harness.phase"] == "confirm"
        ]
        assert sorted(int(run.data.params["train.seed"]) for run in confirms) == [2, 3]
        best = studies[f"tiny/{arm}"].best_trial.params["train.learning_rate"]
        assert {float(run.data.params["train.learning_rate"]) for run in confirms} == {best}


def test_the_report_agrees_with_the_frames(swept: Swept) -> None:
    sandbox, _ = swept
    folder = sandbox.folder / "reports" / "tiny"
    comparison = pd.read_csv(folder / "comparison.csv")
    runs, curves = pd.read_csv(folder / "runs.csv"), pd.read_csv(folder / "curves.csv")
    assert list(comparison["arm"]) == ["drop_rate=0.0", "drop_rate=0.2"]
    confirm = runs[runs["phase"] == "confirm"]
    means = confirm.groupby("arm")["val/loss"].mean()
    for _, row in comparison.iterrows():
        assert row["mean"] == pytest.approx(means[row["arm"]], abs=1e-9)
    assert len(runs) == 8
    assert set(curves["run_id"]) == set(runs["run_id"])
    assert (folder / "report.html").read_text("utf-8").count("Does dropout help a tiny GPT?") >= 1
    assert "drop 0.2" in (folder / "report.md").read_text("utf-8").replace("\\", "")
    assert list((folder / "figures").glob("*.svg"))


def test_repeating_the_command_adds_nothing_and_more_seeds_add_only_their_runs(swept: Swept) -> None:
    sandbox, _ = swept
    before = {run.info.run_id for run in sandbox.runs()[1]}
    assert call(sandbox).returncode == 0
    assert {run.info.run_id for run in sandbox.runs()[1]} == before
    raised = ["tiny.yaml", "--set", "study.seeds=3"]
    assert "done:       this sweep is complete\n" in call(sandbox, "tiny.yaml", "--plan").stdout
    assert "done:       2 runs left of this sweep\n" in call(sandbox, *raised, "--plan").stdout
    more = call(sandbox, *raised)
    assert more.returncode == 0
    # The analysis plan was two seeds; the report warns about seeds added after the results were seen.
    warned = " ".join(more.stdout.split())
    assert "warning: Seeds per arm were raised from 2 to 3 after 4 confirm runs were complete" in warned
    parents, children = sandbox.runs()
    assert len(parents) == 1
    new = [run for run in children if run.info.run_id not in before]
    assert sorted((r.data.tags["harness.arm"], r.data.params["train.seed"]) for r in new) == [
        ("drop_rate=0.0", "4"),
        ("drop_rate=0.2", "4"),
    ]


def test_a_tracked_run_continues_a_text(swept: Swept) -> None:
    sandbox, _ = swept
    confirm = next(run for run in sandbox.runs()[1] if run.data.tags["harness.phase"] == "confirm")
    options = ["--prompt", "Fellow [b]citizens[/b] ", "--max-new-tokens", "12"]
    by_id = sandbox.run(confirm.info.run_id[:8], *options, module="harness.generate")
    assert by_id.returncode == 0, by_id.stderr
    assert by_id.stdout.startswith("Fellow [b]citizens[/b] ")
    assert len(by_id.stdout) > len("Fellow [b]citizens[/b] ") + 2
    by_name = call(sandbox, confirm.info.run_name, *options, module="harness.generate")
    assert by_name.stdout == by_id.stdout  # greedy: the same text
    sampled = [*options, "--temperature", "1.0", "--seed", "5"]
    twice = [call(sandbox, confirm.info.run_id, *sampled, module="harness.generate").stdout for _ in range(2)]
    assert twice[0] == twice[1] != by_id.stdout
    unknown = call(sandbox, "nothing-of-that-name", module="harness.generate")
    assert unknown.returncode == 2
    assert "nothing-of-that-name" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_an_edited_spec_starts_another_sweep_and_keeps_the_old_one(swept: Swept) -> None:
    sandbox, _ = swept
    old = {run.info.run_id for run in sandbox.runs()[1]}
    edited = call(sandbox, "tiny.yaml", "--set", "train.budget.tokens=2048", "--set", "study.trials=1")
    assert edited.returncode == 0
    parents, children = sandbox.runs()
    assert len(parents) == 2
    assert len([run for run in children if run.info.run_id not in old]) == 2 * (1 + 2)
    assert len(sandbox.studies()) == 4


def test_a_plan_trains_nothing(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, store=False)
    done = call(sandbox, "tiny.yaml", "--plan", "--workers", "2")
    assert "done: " not in done.stdout
    assert done.returncode == 0, done.stderr
    assert "2 arms × (2 trials + 2 seeds) = 8 runs" in done.stdout
    parameters = 2 * 256 * 32 + 32 * 32 + (4 * 32 * 32 + 32 + 8 * 32 * 32 + 5 * 32 + 4 * 32) + 2 * 32
    assert f"{parameters:,}" in done.stdout
    assert "6,144" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_wrong_spec_writes_nothing(tmp_path: Path) -> None:
    wrong = SPEC.replace("sotu-1820", "sotu-1821").replace("emb_dim: 32", "emb_dim: 33")
    sandbox = Sandbox(tmp_path, wrong, store=False)
    done = call(sandbox)
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["data.corpus", "model.emb_dim"]
    assert done.stderr.startswith("tiny.yaml:3: data.corpus: ")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_worker_that_always_dies_fails_its_trial_only(tmp_path: Path) -> None:
    long = SPEC.replace("6_144", "4_000_000").replace("tokens: 2_048", "tokens: 500_000")
    sandbox = Sandbox(tmp_path, long.replace("trials: 2, seeds: 2", "trials: 1, seeds: 0"))
    with sandbox.start("tiny.yaml", "--workers", "1", "--set", "compare={model.drop_rate: [0.0]}") as sweep:
        sweep.until(sandbox.under_way)
        for deaths in range(4):  # the first worker, and three that resume the run
            assert sweep.said.count("another worker resumes it") == deaths
            sweep.until(lambda: sweep.workers)[0].kill()
            sweep.until(lambda: sweep.said.count("by signal SIGKILL") > deaths)  # noqa: B023
        sweep.process.send_signal(signal.SIGINT)
        sweep.ended()
    assert sandbox.outcomes()[("explore", "failed", "FAILED")] == 1, sweep.said


def test_a_better_configuration_supersedes_the_old_confirm_runs(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, SPEC.replace("[0.0, 0.2]", "[0.0]"))
    assert call(sandbox, "tiny.yaml", "--set", "study.trials=1").returncode == 0
    assert call(sandbox, "tiny.yaml", "--set", "study.trials=2", "--set", "study.seeds=1").returncode == 0
    (study,) = sandbox.studies().values()
    assert study.best_trial.number == 1  # the second learning rate is better
    confirms: dict[str, list[tuple[str, float]]] = {"confirm": [], "superseded": []}
    for run in sandbox.runs()[1]:
        if (phase := run.data.tags["harness.phase"]) in confirms:
            confirms[phase].append((run.data.params["train.seed"], float(run.data.params["train.learning_rate"])))
    old, new = (trial.params["train.learning_rate"] for trial in study.trials)
    assert confirms["confirm"] == [("2", new)]
    assert sorted(confirms["superseded"]) == [("2", old), ("3", old)]


def test_tuned_values_that_make_no_gpt_are_refused_before_anything_trains(tmp_path: Path) -> None:
    wide = "model.emb_dim: {int_uniform: [16, 9008]}"
    sandbox = Sandbox(tmp_path, SPEC.replace("train.learning_rate: {log_uniform: [1e-3, 1e-2]}", wide))
    done = call(sandbox, "tiny.yaml", "--set", "model.n_heads=16", "--set", "study.seeds=0", "--workers", "1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "tune.model.emb_dim: found 17 with n_heads 16; allowed: its multiples" in done.stderr
    assert "Traceback" not in done.stderr
    assert sandbox.runs() == ([], [])


def test_diverged_and_pruned_trials_are_stored_as_such(tmp_path: Path) -> None:
    spec = SPEC.replace("log_uniform: [1e-3, 1e-2]", "choice: [5e-3, 1e30, 4e-3, 3e-3, 1e-6, 2e-6]")
    spec = spec.replace("sampler: random, trials: 2, seeds: 2", "sampler: grid, pruner: median, seeds: 1")
    spec = spec.replace("[0.0, 0.2]", "[0.0]").replace(
        "  batch_tokens", "  warmup: 0.0\n  grad_clip: null\n  batch_tokens"
    )
    sandbox = Sandbox(tmp_path, spec)
    done = call(sandbox, "tiny.yaml", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = sandbox.outcomes()
    assert outcomes[("explore", "diverged", "FAILED")] == 1
    assert outcomes[("confirm", "complete", "FINISHED")] == 1
    (study,) = sandbox.studies().values()
    assert len(study.trials) == 6
    diverged = next(t for t in study.trials if t.params["train.learning_rate"] == 1e30)
    assert diverged.state.name == "COMPLETE"
    assert diverged.value == pytest.approx(5.545, abs=0.1)  # the loss of an untrained model
    pruned = [t for t in study.trials if t.state.name == "PRUNED"]
    assert outcomes[("explore", "pruned", "KILLED")] == len(pruned)
    confirm = next(run for run in sandbox.runs()[1] if run.data.tags["harness.phase"] == "confirm")
    assert 3e-3 <= float(confirm.data.params["train.learning_rate"]) <= 5e-3


TOKENIZERS = """\
name: tiny
data: {corpus: sotu-1820}
model: {context_length: 32, emb_dim: 16, n_heads: 2, n_layers: 1, drop_rate: 0.0}
train: {budget: {tokens: 2048}, batch_tokens: 256, sample: {max_new_tokens: 0}}
tune: {data.tokenizer: {choice: [byte, gpt2]}}
study: {sampler: grid, seeds: 1}
"""


def test_a_search_over_tokenizers_chooses_by_bits_per_byte_whatever_store_is_lost(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, TOKENIZERS)
    done = call(sandbox, "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (study,) = sandbox.studies().values()
    values = {trial.params["data.tokenizer"]: trial.value for trial in study.trials}
    assert values["gpt2"] == pytest.approx(3.0, abs=0.1) and values["byte"] == pytest.approx(7.9, abs=0.1)
    runs = {run.data.params["data.tokenizer"]: run.data for run in sandbox.runs()[1]}
    for name, run in runs.items():  # the losses alone say the opposite
        assert run.metrics["val/loss"] == pytest.approx({"gpt2": 10.8, "byte": 5.5}[name], abs=0.1)
    (confirm,) = [run for run in sandbox.runs()[1] if run.data.tags["harness.phase"] == "confirm"]
    assert confirm.data.params["data.tokenizer"] == "gpt2"
    assert len({run.data.tags["harness.data_fingerprint"] for run in sandbox.runs()[1]}) == 2  # each its own
    assert "Val bits per byte" in done.stdout and "val bits/byte 7.9" in done.stdout
    status = call(sandbox, "tiny.yaml", "--status")
    assert "Best val bits/byte" in status.stdout and f"{values['gpt2']:.4f}" in status.stdout
    (tmp_path / "mlruns" / "optuna.db").unlink()
    assert "restored in Optuna from MLflow" in call(sandbox, "tiny.yaml").stdout
    (study,) = sandbox.studies().values()
    assert {trial.params["data.tokenizer"]: trial.value for trial in study.trials} == values


def test_three_samplers_run_a_search_without_arms(tmp_path: Path) -> None:
    plain = SPEC[: SPEC.index("compare:")] + SPEC[SPEC.index("tune:") :]
    sandbox = Sandbox(tmp_path, plain.replace("seeds: 2", "seeds: 1").replace("6_144", "2_048"))
    for sampler in ("tpe", "cmaes", "gp"):
        done = call(sandbox, "tiny.yaml", "--set", f"study.sampler={sampler}")
        assert done.returncode == 0, done.stdout + done.stderr
    assert sandbox.outcomes() == {
        ("explore", "complete", "FINISHED"): 6,
        ("confirm", "complete", "FINISHED"): 3,
    }
    config = json.loads(json.dumps(sandbox.runs()[1][0].data.params))
    assert config["train.optimizer"] == "adamw"


def test_the_curve_of_a_run_is_drawn_once(tmp_path: Path) -> None:
    begin, middle, end = (Point(step, step, step / 2, 0.0, {"val/loss": 5.0 - step}) for step in range(3))
    draw_run([begin], tmp_path / "artifacts")
    draw_run([begin, Point(1, 1, 0.5, 0.0, {"train/batch_loss": 4.0})], tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()  # one evaluation makes no curve
    draw_run([begin, middle, end], tmp_path / "artifacts")
    curve = tmp_path / "artifacts" / "loss_curve.svg"
    assert curve.read_text("utf-8").rstrip().endswith("</svg>")
    curve.write_text("drawn before the store failed")
    draw_run([begin, middle, end], tmp_path / "artifacts")
    assert curve.read_text("utf-8") == "drawn before the store failed"


@pytest.mark.parametrize("failing", ["", "report", "store"])
def test_the_log_says_complete_only_after_everything_is_stored_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    sandbox = Sandbox(
        tmp_path, SPEC.replace("[0.0, 0.2]", "[0.0]").replace("trials: 2, seeds: 2", "trials: 1, seeds: 1")
    )
    log = tmp_path / "mlruns" / "tiny.log"
    written = write_and_show_report

    def report(*arguments: Any) -> Any:
        assert "sweep complete" not in log.read_text()
        if failing == "report":
            raise OSError(errno.ENOSPC, "no space", "report.html")
        return written(*arguments)

    monkeypatch.setattr(session, "write_and_show_report", report)
    if failing == "store":
        monkeypatch.setattr(session, "wait_for_store", lambda *_, **__: False)
    done = call(sandbox)
    (parent,), _ = sandbox.runs()
    last = log.read_text().splitlines()[-1]
    if not failing:
        assert done.returncode == 0, done.stderr
        assert last.endswith("sweep complete")
        assert parent.info.status == "FINISHED"
        return
    assert done.returncode == 1
    assert "sweep complete" not in log.read_text()
    assert parent.info.status == ("FAILED" if failing == "report" else "KILLED")
    if failing == "store":
        assert last.endswith("sweep interrupted: MLflow has not stored everything")
        assert "the same command sends them" in done.stderr
    monkeypatch.undo()
    assert call(sandbox).returncode == 0
    assert sandbox.runs()[0][0].info.status == "FINISHED"
