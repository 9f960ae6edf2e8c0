"""Tests that need a GPU: the CPU's numbers, no synchronization between points, resumed runs, a whole sweep.

The tests of each module cover everything else about GPUs without one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

import harness.model.init
import harness.training.model_optimizer
import harness.training.resume
import harness.training.step
from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from harness.training.errors import Stopped
from harness.training.optimizers import OPTIMIZERS
from harness.training.trainer import train
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Finished, Job
from helpers import lively_gpt, numbers, random_tokens, run, small_config
from jobs import finished, first_point, points, until_finished

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

LOSSES = ("train/loss", "val/loss", "train/batch_loss", "optim/grad_norm")


def on_gpu(**fields: Any) -> RunConfig:
    return small_config(**{"device": "cuda", **fields})


def assert_near(some: list[Point], others: list[Point], rel: float) -> None:
    assert [point.step for point in some] == [point.step for point in others]
    for one, other in zip(some, others, strict=True):
        for name in set(LOSSES) & one.metrics.keys():
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=rel), (one.step, name)


@pytest.mark.parametrize("rows", [256, 300])  # 300 is not a multiple of 64, so the head is padded
def test_losses_equal_those_of_the_cpu(rows: int) -> None:
    config = small_config(model={"vocab_size": rows, "qkv_bias": True, "n_layers": 2})
    model, tokens, targets = lively_gpt(config), random_tokens(4, 16), random_tokens(4, 16, seed=1)
    torch.set_float32_matmul_precision("highest")
    wanted = model.double().token_losses(tokens, targets)
    gpu = model.float().to("cuda")
    found = gpu.token_losses(tokens.cuda(), targets.cuda()).cpu()
    assert torch.allclose(found.double(), wanted.double(), rtol=1e-5, atol=1e-6)
    assert gpu.loss(tokens.cuda(), targets.cuda()).item() == pytest.approx(wanted.mean().item(), rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_in_float32_equals_that_of_the_cpu(optimizer: str) -> None:
    if optimizer == "muon":
        pytest.skip("Muon's iteration is in bfloat16 by design, whose rounding differs between devices")
    assert_near(run(on_gpu(optimizer=optimizer)), run(small_config(optimizer=optimizer)), rel=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_sparse_embedding_trains_as_on_the_cpu(compiled: bool) -> None:
    model = {"vocab_size": 2000, "qkv_bias": True}  # of bytes: at most 256 of them occur
    steps = {"steps": 12}
    found = run(on_gpu(budget=steps, compile=compiled, model=model))
    assert_near(found, run(small_config(budget=steps, model=model)), rel=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_in_bfloat16_is_near_that_of_the_cpu(optimizer: str) -> None:
    found = run(on_gpu(optimizer=optimizer, precision="auto"))
    wanted = run(small_config(optimizer=optimizer))
    for one, other in zip(found, wanted, strict=True):
        for name in {"train/loss", "val/loss"} & one.metrics.keys():
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=5e-3), (one.step, name)
    assert found[0].metrics["val/loss"] != wanted[0].metrics["val/loss"]  # so it ran in bfloat16


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_equals_an_uncompiled_one(precision: str) -> None:
    rel = {"fp32": 1e-5, "bf16": 5e-3}[precision]
    plain, compiled = (run(on_gpu(compile=way, precision=precision)) for way in (False, True))
    for one, other in zip(plain, compiled, strict=True):
        for name in {"train/loss", "val/loss"} & one.metrics.keys():
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=rel), (one.step, name)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_there_is_no_synchronization_between_points(compiled: bool, rate: float) -> None:
    config = on_gpu(budget={"steps": 400}, precision="auto", compile=compiled, model={"drop_rate": rate})
    every = config.log_steps(1000)
    assert every == 4
    step = checked = 0  # the next step; number of steps checked so far

    def stop() -> bool:
        nonlocal step, checked
        strict = 20 < step < 400 and step % every != 0  # the first steps compile, allocate and capture
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        checked += strict
        step += 1
        return False

    try:
        for point in train(config, stop=stop):
            torch.cuda.set_sync_debug_mode("default")
            step = point.step + 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert point.step == 400
    assert checked == 380 * 3 // 4


@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rows", [4, 256])  # 64 and 4096 tokens: the embedding's gradient has a kernel for each
def test_a_captured_step_equals_an_eager_one(
    rate: float, compiled: bool, rows: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = {"drop_rate": rate, "qkv_bias": True, "n_layers": 2}
    config = on_gpu(budget={"steps": 12}, batch_size=rows, precision="auto", compile=compiled, model=model)
    monkeypatch.setattr(
        harness.model.init, "MAX_TRAINED_SHARE", 0
    )  # a sparse embedding sums its gradient in varying order
    captured = run(config)
    assert not [line for line in caplog.messages if "could not capture" in line]
    monkeypatch.setattr(harness.training.step, "CAPTURE_AFTER", 1000)
    eager = run(config)
    if compiled:  # a compiled embedding sums its gradient in varying order
        assert_near(captured, eager, rel=2e-3)
    else:
        assert numbers(captured) == numbers(eager)


def test_a_step_that_cannot_be_captured_is_run_eagerly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = on_gpu(budget={"steps": 12}, model={"drop_rate": 0.1})
    wanted = numbers(run(config))
    original = harness.training.model_optimizer.gradient_norm

    def synchronizing_norm(parameters: Iterable[Tensor]) -> Tensor:
        norm = original(parameters)
        norm.item()
        return norm

    monkeypatch.setattr(harness.training.model_optimizer, "gradient_norm", synchronizing_norm)
    assert numbers(run(config)) == wanted
    assert "could not capture" in caplog.text


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_resumes_from_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    monkeypatch.setattr(harness.training.resume, "COST_SHARE", 0)
    model = {"drop_rate": 0.2, "n_layers": 2}
    config = on_gpu(optimizer=optimizer, budget={"steps": 12}, checkpoint_every=1e-9, model=model)
    uninterrupted = run(config)
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 7

    state = tmp_path / "state"
    points: list[Point] = []
    with pytest.raises(Stopped):
        points.extend(train(config, state=state, stop=stop))
    rest = list(train(config, state=state, after=-1))
    assert_near(rest, uninterrupted, rel=1e-5)
    equal = numbers(rest) == numbers(uninterrupted)
    print(f"resumed run of {optimizer} bit-equal: {equal}")


def test_two_runs_are_equal_to_rounding() -> None:
    for compiled in (False, True):
        config = on_gpu(budget={"steps": 30}, precision="auto", compile=compiled, model={"drop_rate": 0.1})
        one, other = run(config), run(config)
        assert_near(one, other, rel=2e-3)
        print(f"two runs, compiled {compiled}, bit-equal: {numbers(one) == numbers(other)}")


def test_a_sweep_trains_on_the_gpu(tmp_path: Path) -> None:
    spec = {
        "name": "gpu",
        "question": "Does dropout help?",
        "data": {"corpus": "sotu-1820", "tokenizer": "byte"},
        "model": {"context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1},
        "train": {"budget": {"steps": 20}, "batch_size": 4, "eval_every": {"steps": 10}},
        "compare": {"model.drop_rate": [0.0, 0.2]},
        "tune": {"train.learning_rate": {"log_uniform": [1e-3, 1e-2]}},
        "study": {"trials": 2, "seeds": 2},
    }
    (tmp_path / "gpu.yaml").write_text(json.dumps(spec), "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "harness.sweep", "gpu.yaml", "--workers", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "from harness.report import load_runs; print(load_runs('gpu').to_json(orient='records'))"
    listed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    runs = json.loads(listed.stdout.splitlines()[-1])
    assert len(runs) == 8 and {one["outcome"] for one in runs} == {"complete"}
    name = torch.cuda.get_device_name()
    assert any(name in str(value) for one in runs for value in one.values()), runs[0]
    assert all(one[metrics.VAL_LOSS] < 5.6 for one in runs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_the_losses_of_one_and_a_dead_rank_is_noticed(tmp_path: Path) -> None:
    config = on_gpu(budget={"steps": 20}, batch_size=5, precision="fp32", optimizer="muon")
    with LocalPool(1, ranks=2) as pool:
        pool.submit(Job(1, config))
        events = until_finished(pool, 1)[1]
        assert finished(events) == Finished(1, Outcome.COMPLETE)
        assert_near(points(events), run(config), rel=1e-4)
        pool.submit(Job(2, on_gpu(budget={"steps": 10**7}), state=tmp_path))
        first_point(pool)
        (rank,) = psutil.Process(pool.pids()[2]).children()
        rank.kill()
        assert finished(until_finished(pool, 1)[2]).lost
