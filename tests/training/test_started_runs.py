"""Runs that start from weights: step 0 is of those weights, a resumed run is bit-equal, other weights are noticed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.run import RunConfig
from harness.config.starting import StartError
from harness.core import metrics
from harness.core.paths import WEIGHTS
from harness.model.gpt import GPT
from harness.model.sources import with_source
from harness.model.weights import load_checkpoint, save_checkpoint
from harness.training.evaluation import Evaluation
from harness.training.trainer import train
from helpers import byte_data, evaluator, lively_gpt, numbers, run, small_config

OWN = small_config(model={"drop_rate": 0.1, "qkv_bias": True})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint of a model with random weights."""
    save_checkpoint(tmp_path / "source", lively_gpt(OWN), OWN, 1)
    return tmp_path / "source"


def started(source: Path, **train: Any) -> RunConfig:
    plain = small_config(**train).model_dump(exclude_unset=True)
    return with_source(RunConfig.model_validate({**plain, "model": {"init_from": str(source)}}))


def test_the_first_evaluation_is_of_the_weights(source: Path) -> None:
    cache: dict[str, Evaluation] = {}
    config = started(source)
    expected = evaluator(OWN, lively_gpt(OWN)).score_split("val").mean
    scratch = run(config.model_copy(update={"model": OWN.model}), step0_cache=cache)[0].metrics[metrics.VAL_LOSS]
    assert abs(scratch - expected) > 0.1
    assert run(config, step0_cache=cache)[0].metrics[metrics.VAL_LOSS] == pytest.approx(expected, rel=1e-12)
    save_checkpoint(source, lively_gpt(OWN, seed=1), OWN, 1)
    other = run(started(source), step0_cache=cache)[0].metrics[metrics.VAL_LOSS]
    assert len(cache) == 3 and abs(other - expected) > 1e-3


def test_the_seed_still_draws_data_and_dropout(source: Path) -> None:
    first, second = (run(started(source, seed=seed)) for seed in (1, 2))
    assert numbers(first)[0][metrics.VAL_LOSS] == numbers(second)[0][metrics.VAL_LOSS]
    assert numbers(first)[-1] != numbers(second)[-1]


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interrupted_run_is_bit_equal(stop_at: int, source: Path, tmp_path: Path) -> None:
    config = started(source)
    whole = run(config, checkpoint=tmp_path / "whole")
    points = train(config, state=tmp_path / "state")
    for point in points:
        if point.step >= stop_at:
            break
    points.close()
    begun: list[int] = []
    resumed = run(
        config,
        state=tmp_path / "state",
        after=-1,
        checkpoint=tmp_path / "resumed",
        on_start=lambda step, _: begun.append(step),
    )
    assert begun[0] >= stop_at and numbers(resumed) == numbers(whole)
    first, second = (load_checkpoint(tmp_path / name)[0].state_dict() for name in ("whole", "resumed"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_every_weight_is_trained_and_in_the_state(source: Path) -> None:
    from harness.training.run import Run

    untied = Run(started(source), byte_data(), 0)
    assert isinstance(untied.model, GPT) and untied.model.untrained_scale is None
    assert sum(parameter.numel() for parameter in untied.model.parameters()) == untied.config.parameters


def test_weights_that_are_gone_or_others_are_named(source: Path, tmp_path: Path) -> None:
    config = started(source)
    moved = tmp_path / "moved"
    shutil.move(source, moved)
    with pytest.raises(StartError, match=r"^model\.init_from: found no folder '.*; allowed: a folder "):
        run(config)
    assert numbers(run(config, start=moved)) == numbers(run(started(moved)))
    shutil.copytree(moved, source)
    save_checkpoint(source, lively_gpt(OWN, seed=1), OWN, 1)
    with pytest.raises(StartError, match=r"^model\.init_sha256: found .* in .*source, which has changed; allowed: "):
        run(config)
    assert (moved / WEIGHTS).is_file()
