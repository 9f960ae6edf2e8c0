"""Whole sweeps, as a person runs them: the command, then what MLflow, Optuna and pandas find by themselves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from harness.report import load_curves

pytestmark = pytest.mark.slow

SPEC = """\
name: tiny
question: Does dropout help a tiny GPT?
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 32, emb_dim: 32, n_heads: 2, n_layers: 1}
train:
  budget: {tokens: 6_144}
  batch_tokens: 256
  eval_every: {tokens: 2_048}
  train_eval_tokens: 512
  sample: {max_new_tokens: 8}
compare:
  model.drop_rate: [0.0, 0.2]
baseline: {model.drop_rate: 0.0}
tune:
  train.learning_rate: {log_uniform: [1e-3, 1e-2]}
study: {sampler: random, trials: 2, seeds: 2}
"""


class Sandbox:
    """A folder with a spec in which the command runs."""

    def __init__(self, folder: Path, spec: str = SPEC) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "tiny.yaml").write_text(spec, "utf-8")

    def command(self, *arguments: str, module: str = "harness.sweep") -> list[str]:
        return [sys.executable, "-m", module, *(arguments or ("tiny.yaml",))]

    def run(self, *arguments: str, module: str = "harness.sweep") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, module=module), cwd=self.folder, capture_output=True, text=True, timeout=300
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/mlruns/mlflow.db")

    def runs(self) -> tuple[list[Run], list[Run]]:
        """Parents and children."""
        experiment = self.client.get_experiment_by_name("tiny")
        if experiment is None:
            return [], []
        runs = self.client.search_runs([experiment.experiment_id], max_results=1000)
        parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        return parents, [run for run in runs if "mlflow.parentRunId" in run.data.tags]

    def studies(self) -> dict[str, optuna.Study]:
        url = f"sqlite:///{self.folder}/mlruns/optuna.db"
        return {name: optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)}

    def outcomes(self) -> Counter[tuple[str, str, str]]:
        tags = [(run.data.tags, run.info.status) for run in self.runs()[1]]
        return Counter((t["harness.phase"], t["harness.outcome"], status) for t, status in tags)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sandbox, subprocess.CompletedProcess[str]]:
    sandbox = Sandbox(tmp_path_factory.mktemp("sweep"))
    return sandbox, sandbox.run()


Swept = tuple[Sandbox, subprocess.CompletedProcess[str]]


def test_the_command_ends_with_a_table_the_report_and_the_way_to_the_ui(swept: Swept) -> None:
    _, done = swept
    assert done.returncode == 0, done.stderr
    assert "2 arms × (2 trials + 2 seeds) = 8 runs" in done.stdout
    assert len(re.findall(r"✓ \d/8  drop_rate=0.\d · learning_rate=\S+ · seed \d", done.stdout)) == 8
    assert re.search(r"^drop_rate=0.2 +2 +\d", done.stdout, re.MULTILINE)
    assert "report:     reports/tiny/report.html" in done.stdout
    assert re.search(r"MLflow UI:  .*mlflow ui .*--backend-store-uri sqlite:///mlruns/mlflow.db", done.stdout)
    assert "Traceback" not in done.stderr


def test_mlflow_holds_every_run_as_it_was(swept: Swept) -> None:
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
        assert run.inputs.dataset_inputs[0].dataset.name == "sotu-1820"
        files = {file.path for file in sandbox.client.list_artifacts(run.info.run_id)}
        assert {"samples.md", "loss_curve.svg"} <= files
        assert ("checkpoint" in files) is (tags["harness.phase"] == "confirm")
    assert {"spec.yaml", "report"} <= {file.path for file in sandbox.client.list_artifacts(parent.info.run_id)}


def test_optuna_holds_one_study_per_arm_with_equal_trials(swept: Swept) -> None:
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


def test_the_report_is_what_pandas_reads(swept: Swept) -> None:
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
    assert "drop_rate=0.2" in (folder / "report.md").read_text("utf-8").replace("\\", "")
    assert list((folder / "figures").glob("*.svg"))


def test_running_again_adds_nothing_and_asking_for_more_adds_just_that(swept: Swept) -> None:
    sandbox, _ = swept
    before = {run.info.run_id for run in sandbox.runs()[1]}
    assert sandbox.run().returncode == 0
    assert {run.info.run_id for run in sandbox.runs()[1]} == before
    more = sandbox.run("tiny.yaml", "--set", "study.seeds=3")
    assert more.returncode == 0
    # Seeds that are added after a look at the results are told: the plan was two.
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
    by_name = sandbox.run(confirm.info.run_name, *options, module="harness.generate")
    assert by_name.stdout == by_id.stdout  # greedy: the same text
    sampled = [*options, "--temperature", "1.0", "--seed", "5"]
    twice = [sandbox.run(confirm.info.run_id, *sampled, module="harness.generate").stdout for _ in range(2)]
    assert twice[0] == twice[1] != by_id.stdout
    unknown = sandbox.run("nothing-of-that-name", module="harness.generate")
    assert unknown.returncode == 2
    assert "nothing-of-that-name" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_an_edited_spec_is_another_sweep_and_leaves_the_old_one_alone(swept: Swept) -> None:
    sandbox, _ = swept
    old = {run.info.run_id for run in sandbox.runs()[1]}
    edited = sandbox.run("tiny.yaml", "--set", "train.budget.tokens=2048", "--set", "study.trials=1")
    assert edited.returncode == 0
    parents, children = sandbox.runs()
    assert len(parents) == 2
    assert len([run for run in children if run.info.run_id not in old]) == 2 * (1 + 2)
    assert len(sandbox.studies()) == 4


def test_a_plan_trains_nothing(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    done = sandbox.run("tiny.yaml", "--plan", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "2 arms × (2 trials + 2 seeds) = 8 runs" in done.stdout
    parameters = 2 * 256 * 32 + 32 * 32 + (4 * 32 * 32 + 32 + 8 * 32 * 32 + 5 * 32 + 4 * 32) + 2 * 32
    assert f"{parameters:,}" in done.stdout
    assert "6,144" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_wrong_spec_leaves_nothing_behind(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, SPEC.replace("sotu-1820", "sotu-1821").replace("emb_dim: 32", "emb_dim: 33"))
    done = sandbox.run()
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["data.corpus", "model.emb_dim"]
    assert done.stderr.startswith("tiny.yaml:3: data.corpus: ")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


LONG = SPEC.replace("6_144", "400_000").replace("tokens: 2_048", "tokens: 50_000")


def wait_for_workers(sandbox: Sandbox, process: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    """Until so many workers have sent a point."""
    for _ in range(600):
        assert process.poll() is None, process.communicate()[0]
        _, children = sandbox.runs() if (sandbox.folder / "mlruns" / "mlflow.db").exists() else ([], [])
        if sum("val/loss" in run.data.metrics for run in children) >= count:
            return [
                p for p in psutil.Process(process.pid).children() if "multiprocessing.spawn" in " ".join(p.cmdline())
            ]
        time.sleep(0.2)
    raise AssertionError("no worker trained")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_sweep_says_how_to_go_on_and_goes_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    sandbox = Sandbox(tmp_path, LONG)
    process = sandbox.start("tiny.yaml", "--workers", "2")
    workers = wait_for_workers(sandbox, process, 2)
    os.killpg(process.pid, number) if number is signal.SIGINT else process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "the same command goes on from here: python -m harness.sweep tiny.yaml --workers 2" in output
    assert "Traceback" not in output
    assert not any(worker.is_running() for worker in workers)
    (parent,), _ = sandbox.runs()
    assert parent.info.status == "KILLED"
    assert sandbox.outcomes() == {("explore", "interrupted", "KILLED"): 2}
    before = {run.info.run_id for run in sandbox.runs()[1]}
    trials = [trial for study in sandbox.studies().values() for trial in study.trials]
    assert Counter(trial.state.name for trial in trials) == {"WAITING": 2}
    again = sandbox.run("tiny.yaml", "--set", "study.trials=1", "--set", "study.seeds=0", "--workers", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 runs that had been interrupted to go on with" in again.stdout
    assert again.stdout.count(": goes on from step ") == 2
    assert sandbox.outcomes() == {("explore", "complete", "FINISHED"): 2}
    assert {run.info.run_id for run in sandbox.runs()[1]} == before  # the same runs, and the same trials:
    trials = [trial for study in sandbox.studies().values() for trial in study.trials]
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 2}


def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    spec = (
        SPEC.replace("6_144", "80_000")
        .replace("tokens: 2_048", "tokens: 16_000")
        .replace("trials: 2, seeds: 2", "trials: 1, seeds: 1")
    )
    spec = spec.replace("  batch_tokens", "  checkpoint_every: 0.2\n  batch_tokens")
    killed, whole = Sandbox(tmp_path / "killed", spec), Sandbox(tmp_path / "whole", spec)
    process = killed.start("tiny.yaml", "--workers", "2")
    assert process.stdout is not None
    begun: list[str] = []
    while len({line.split("=")[1][:3] for line in begun if "%" in line}) < 2:  # both arms are under way
        begun.append(process.stdout.readline())
        assert begun[-1], begun
    children = psutil.Process(process.pid).children()
    first, second = (child for child in children if "multiprocessing.spawn" in " ".join(child.cmdline()))
    first.kill()
    second.send_signal(signal.SIGTERM)
    output = "".join(begun) + process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "ended by signal SIGKILL; another takes it up" in output and "stopped by SIGTERM; another" in output
    assert killed.outcomes() == {
        ("explore", "complete", "FINISHED"): 2,
        ("confirm", "complete", "FINISHED"): 2,
    }
    states = Counter(t.state.name for study in killed.studies().values() for t in study.trials)
    assert states == {"COMPLETE": 2}  # the same trials went on, and the same runs:
    assert whole.run("tiny.yaml", "--workers", "2").returncode == 0
    curves = [load_curves("tiny", f"sqlite:///{one.folder}/mlruns/mlflow.db") for one in (killed, whole)]
    keys = ["arm", "phase", "seed", "metric", "step"]
    for frame in curves:
        assert not frame.duplicated(["run_id", "metric", "step"]).any()
    exact = [
        frame[frame["metric"].str.match("val|train|test|optim")]
        .drop(columns="run_id")
        .sort_values([*keys, "value"], ignore_index=True)
        for frame in curves
    ]
    pd.testing.assert_frame_equal(*exact)
    assert not (killed.folder / "mlruns" / "tiny.work").exists()


def test_a_worker_that_always_dies_fails_its_trial_only(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, LONG.replace("trials: 2, seeds: 2", "trials: 1, seeds: 0"))
    process = sandbox.start("tiny.yaml", "--workers", "1", "--set", "compare={model.drop_rate: [0.0]}")
    for _ in range(4):  # once, and three restarts
        wait_for_workers(sandbox, process, 1)[0].kill()
        time.sleep(1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert output.count("another takes it up") == 3
    assert sandbox.outcomes()[("explore", "failed", "FAILED")] == 1, output


def test_a_killed_parent_leaves_nothing_running_after_the_next_command(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, LONG.replace("trials: 2, seeds: 2", "trials: 1, seeds: 0"))
    process = sandbox.start("tiny.yaml", "--workers", "2")
    workers = wait_for_workers(sandbox, process, 2)
    process.kill()
    process.wait()
    psutil.wait_procs(workers, timeout=30)
    assert not any(worker.is_running() for worker in workers)
    assert Counter(run.info.status for run in sandbox.runs()[1]) == {"RUNNING": 2}
    again = sandbox.run("tiny.yaml", "--workers", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "taking up what an earlier process left: 2 runs that had been interrupted to go on with" in again.stdout
    assert sandbox.outcomes() == {("explore", "complete", "FINISHED"): 2}
    assert Counter(t.state.name for s in sandbox.studies().values() for t in s.trials) == {"COMPLETE": 2}


def test_a_better_configuration_supersedes_the_old_confirm_runs(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, SPEC.replace("[0.0, 0.2]", "[0.0]"))
    assert sandbox.run("tiny.yaml", "--set", "study.trials=1").returncode == 0
    assert sandbox.run("tiny.yaml", "--set", "study.trials=2", "--set", "study.seeds=1").returncode == 0
    (study,) = sandbox.studies().values()
    assert study.best_trial.number == 1  # the second learning rate is the better one here
    confirms = {"confirm": [], "superseded": []}
    for run in sandbox.runs()[1]:
        if (phase := run.data.tags["harness.phase"]) in confirms:
            confirms[phase].append((run.data.params["train.seed"], float(run.data.params["train.learning_rate"])))
    old, new = (trial.params["train.learning_rate"] for trial in study.trials)
    assert confirms["confirm"] == [("2", new)]
    assert sorted(confirms["superseded"]) == [("2", old), ("3", old)]


def test_a_tuned_combination_that_makes_no_gpt_fails_its_trial_and_not_the_sweep(tmp_path: Path) -> None:
    wide = "model.emb_dim: {int_uniform: [16, 9008]}"  # too many to try all: most are no multiple of two heads
    sandbox = Sandbox(tmp_path, SPEC.replace("train.learning_rate: {log_uniform: [1e-3, 1e-2]}", wide))
    done = sandbox.run("tiny.yaml", "--set", "model.n_heads=16", "--set", "study.seeds=0", "--workers", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "allowed: its multiples" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [t for study in sandbox.studies().values() for t in study.trials if t.state.name == "RUNNING"]


def test_a_second_process_on_the_same_sweep_is_told_who_has_it(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, LONG)
    first = sandbox.start("tiny.yaml", "--workers", "1")
    wait_for_workers(sandbox, first, 1)
    second = sandbox.run()
    assert second.returncode == 3
    assert f"by process {first.pid}" in second.stderr
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)


def test_diverged_and_pruned_trials_are_told_as_such(tmp_path: Path) -> None:
    spec = SPEC.replace("log_uniform: [1e-3, 1e-2]", "choice: [5e-3, 1e30, 4e-3, 3e-3, 1e-6, 2e-6]")
    spec = spec.replace("sampler: random, trials: 2, seeds: 2", "sampler: grid, pruner: median, seeds: 1")
    spec = spec.replace("[0.0, 0.2]", "[0.0]").replace(
        "  batch_tokens", "  warmup: 0.0\n  grad_clip: null\n  batch_tokens"
    )
    sandbox = Sandbox(tmp_path, spec)
    done = sandbox.run("tiny.yaml", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = sandbox.outcomes()
    assert outcomes[("explore", "diverged", "FAILED")] == 1
    assert outcomes[("confirm", "complete", "FINISHED")] == 1
    (study,) = sandbox.studies().values()
    assert len(study.trials) == 6
    diverged = next(t for t in study.trials if t.params["train.learning_rate"] == 1e30)
    assert diverged.state.name == "COMPLETE"
    assert diverged.value == pytest.approx(5.545, abs=0.1)  # as bad as a model that was never trained
    pruned = [t for t in study.trials if t.state.name == "PRUNED"]
    assert outcomes[("explore", "pruned", "KILLED")] == len(pruned)
    confirm = next(run for run in sandbox.runs()[1] if run.data.tags["harness.phase"] == "confirm")
    assert 3e-3 <= float(confirm.data.params["train.learning_rate"]) <= 5e-3


def test_three_samplers_of_optuna_run_a_plain_search(tmp_path: Path) -> None:
    plain = SPEC[: SPEC.index("compare:")] + SPEC[SPEC.index("tune:") :]
    sandbox = Sandbox(tmp_path, plain.replace("seeds: 2", "seeds: 1").replace("6_144", "2_048"))
    for sampler in ("tpe", "cmaes", "gp"):
        done = sandbox.run("tiny.yaml", "--set", f"study.sampler={sampler}")
        assert done.returncode == 0, done.stdout + done.stderr
    assert sandbox.outcomes() == {
        ("explore", "complete", "FINISHED"): 6,
        ("confirm", "complete", "FINISHED"): 3,
    }
    config = json.loads(json.dumps(sandbox.runs()[1][0].data.params))
    assert config["train.optimizer"] == "adamw"
