"""A sweep of learning from scratch and fine-tuning: what it stores, shows and replays, and other weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.files import sha256_of
from harness.core.paths import WEIGHTS
from harness.model.weights import save_checkpoint
from helpers import lively_gpt, small_config
from in_process import call
from sandbox import SPEC, Sandbox

SWEEP = (
    SPEC.replace("model.drop_rate: [0.0, 0.2]", "model.init_from: [null, ./source]")
    .replace("baseline: {model.drop_rate: 0.0}\n", "")
    .replace("n_layers: 1", "n_layers: 1, drop_rate: 0.0")
    .replace("tune:\n  train.learning_rate: {log_uniform: [1e-3, 1e-2]}\n", "")
    .replace("{sampler: random, trials: 2, seeds: 2}", "{seeds: 1}")
)
AGAIN = SWEEP.replace("compare:\n  model.init_from: [null, ./source]\n", "").replace("name: tiny", "name: again")
SIZES = {"context_length": 32, "emb_dim": 32}


def write_source(folder: Path, seed: int = 0) -> str:
    config = small_config(model=SIZES)
    save_checkpoint(folder / "source", lively_gpt(config, seed), config, 1)
    return sha256_of(folder / "source" / WEIGHTS)


@pytest.mark.slow
def test_learning_from_scratch_and_fine_tuning_are_two_arms(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "sweep", SWEEP)
    sha256 = write_source(sandbox.folder)
    done = call(sandbox, "tiny.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    params = {run.data.params.get("model.init_from"): run for run in sandbox.runs()[1]}
    tuned = params["./source"].info.run_id
    assert {params[name].data.params.get("model.init_sha256") for name in params} == {None, sha256}
    report = (sandbox.folder / "reports" / "tiny" / "report.md").read_text("utf-8")
    assert f"weights at the start: ./source (SHA-256 {sha256[:12]}…) and random ones" in report
    assert "from scratch" in report

    replayed = call(sandbox, tuned, module="harness.replay")
    assert replayed.returncode == 0 and "Bit-equal: " in replayed.stdout, replayed.stdout + replayed.stderr
    (sandbox.folder / "again.yaml").write_text(AGAIN.replace("n_layers: 1,", f"init_from: 'run:{tuned}', n_layers: 1,"))
    again = call(sandbox, "again.yaml", "--workers", "1")
    assert again.returncode == 0, again.stderr
    assert call(sandbox, tuned, "exported", module="harness.export").returncode == 0
    card = (sandbox.folder / "exported" / "README.md").read_text("utf-8")
    assert f"The training started from the weights `./source` (SHA-256 `{sha256[:12]}…`)." in card

    write_source(sandbox.folder, seed=1)
    status = call(sandbox, "tiny.yaml", "--status")
    assert "the weights to start from or the training code changed since" in " ".join(status.stdout.split())
    (sandbox.folder / "source").rename(sandbox.folder / "elsewhere")
    gone = "model.init_from: found no folder './source'; allowed: "
    assert gone in call(sandbox, "tiny.yaml", "--status").stderr
    assert gone in call(sandbox, tuned, module="harness.replay").stderr
