from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import warm_start
from harness.bench import cells
from harness.cost.estimate import points_of
from harness.runner.benchmark import ArmSpeed
from helpers import small_config

SPEC = """\
name: tiny
data: {corpus: sotu-1820, tokenizer: byte}
model: {context_length: 16, emb_dim: 16, n_heads: 2, n_layers: 1}
train:
  budget: {steps: 200}
  batch_size: 4
  eval_every: {steps: 100}
  train_eval_tokens: 64
  sample: {max_new_tokens: 2}
compare:
  model.drop_rate: [0.0, 0.1]
  train.learning_rate: [1e-3, 2e-3]
"""


def bench(folder: Path, spec: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.yaml").write_text(spec, "utf-8")
    return warm_start.run(["-m", "harness.bench", "tiny.yaml", *arguments], folder)


@pytest.mark.slow
def test_the_command_measures_every_arm_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = bench(tmp_path, SPEC, "--seconds", "0.1", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^matrix products: [\d.]+ [MGT]FLOP/s \(one worker, 1 CPU thread\(s\)\)$", done.stdout, re.M)
    assert "no GPU was found" in done.stdout
    rows = re.findall(r"^(A\d) +([\d,]+) +(\S+) +([\d,]+) +(\d+)%", done.stdout, re.M)
    assert [row[0] for row in rows] == ["A1", "A2", "A3", "A4"]  # labels do not fit into 80 columns
    assert "A3 is drop 0.1 · lr 1e-3" in done.stdout
    assert {row[1] for row in rows} == {f"{small_config().parameters:,}"}
    assert rows[0][1:] == rows[1][1:]  # a learning rate changes no speed, so both come from one measurement
    for _, _, step, rate, mfu in rows:
        assert float(rate.replace(",", "")) == pytest.approx(64 / float(step), rel=0.02)
        assert 0 <= int(mfu) < 100
    assert "training 2 models" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.slow
def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    done = bench(tmp_path, SPEC.replace("emb_dim: 16", "emb_dim: 17"))
    assert done.returncode == 2
    assert done.stderr.startswith("tiny.yaml:3: model.emb_dim: found 17")


def test_points_are_counted_as_the_trainer_yields_them() -> None:
    config = small_config(budget={"steps": 1000}, eval_every={"steps": 250})  # a point every ten steps
    assert points_of(config, 4000, 1000) == (100 + 5, 5)
    config = small_config(budget={"steps": 20_000}, eval_every={"steps": 10_000})  # every fifty steps
    assert points_of(config, 4000, 20_000) == (400 + 3, 3)


def test_a_row_has_rates_and_shares_of_the_run() -> None:
    config = small_config()  # 4 sequences of 16 tokens per step
    speed: dict[str, Any] = {"step_seconds": 0.01, "memory": 5e8}
    peak = 10 * 6400 * config.flops_per_token
    arm = ArmSpeed("all", config, speed, peak, 9000.0, training=80.0, evaluation=19.0, states=1.0, tracking=0.5)
    assert arm.tokens_per_second == pytest.approx(6400)
    assert arm.mfu == pytest.approx(0.1)
    parameters = f"{config.parameters:,}"
    rest = ["0.01", "6,400", "10%", "9,000", "0.50 GB", "19.0%", "1.0%", "0.5%"]
    assert cells(arm) == ["all", parameters, *rest]
