"""Runs on two ranks: the numbers of one process up to rounding, also resumed, stopped or with uneven shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from harness.core import metrics
from harness.core.outcomes import Outcome
from harness.data.batches import training_batches
from harness.model.dropout import dropout_mask, rows_of_batch
from harness.training.devices import DeviceError, resolve_device
from harness.training.distributed import ALONE, Ranks
from harness.training.environment import Environment
from harness.workers.local_pool import LocalPool
from harness.workers.messages import Finished, Job
from helpers import byte_data, run, small_config
from helpers import numbers as numbers_of
from jobs import finished, numbers, points, started, until_finished, until_step

GPT2_DATA = {"corpus": "sotu-1820", "tokenizer": "gpt2"}


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    """One worker of two ranks for all tests, as each start imports torch."""
    with LocalPool(1, ranks=2) as pool:
        yield pool


# Whole runs


WITHIN = {"separator": "endoftext", "windows": "within"}
CONFIGS: dict[str, dict[str, Any]] = {
    # untrained rows of a full vocabulary, dropout, and shares of one and two rows
    "untrained rows": {
        "data": GPT2_DATA,
        "model": {"drop_rate": 0.2},
        "batch_size": 3,
        "weight_decay": 5.0,
        "budget": {"steps": 10},
        "learning_rate": 2e-2,
    },
    "corpus vocabulary": {
        "data": {**GPT2_DATA, "vocab": "corpus"},
        "model": {"drop_rate": 0.1, "n_layers": 2, "qkv_bias": True},
        "optimizer": "muon",  # it rounds to bfloat16, which amplifies differences
        "learning_rate": 2e-3,
        "batch_size": 5,
        "grad_clip": 0.2,
        "schedule": "linear",
    },
    "tied, evaluated on samples": {
        "model": {"tie_embeddings": True, "drop_rate": 0.3},
        "eval_every": {"steps": 5},
        "eval_tokens": 100,
        "sample": {"max_new_tokens": 4},
    },
    "windows inside documents": {
        "data": {
            **GPT2_DATA,
            "corpus": "sotu-1790-1799",
            "vocab": "corpus",
            "separator": "endoftext",
            "windows": "within",
        },
        "model": {"context_length": 256, "drop_rate": 0.1},
        "batch_size": 3,
    },
    "a rank without rows": {"batch_size": 1, "optimizer": "muon"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_ranks_give_the_numbers_of_one(name: str, pool: LocalPool, tmp_path: Path) -> None:
    config = small_config(**{"budget": {"steps": 20}, "learning_rate": 5e-3, **CONFIGS[name]})
    pool.submit(Job(1, config, read_test=True, common_context=8, checkpoint=tmp_path / "two"))
    events = until_finished(pool, 1)[1]
    assert started(events).ranks == 2
    assert finished(events) == Finished(1, Outcome.COMPLETE)
    together = points(events)
    alone = run(config, read_test=True, common_context=8, checkpoint=tmp_path / "one")
    assert [(p.step, p.tokens, p.sample, p.greedy) for p in together] == [
        (p.step, p.tokens, p.sample, p.greedy) for p in alone
    ]
    assert alone[-1].metrics[metrics.VAL_LOSS] < alone[0].metrics[metrics.VAL_LOSS] - 0.1  # it has learned
    for ours, reference in zip(numbers(events), numbers_of(alone), strict=True):
        losses = {name for name in reference if "perplexity" not in name} - {metrics.GRAD_NORM}
        assert {name: ours[name] for name in losses} == pytest.approx({name: reference[name] for name in losses}, 1e-5)
        assert ours == pytest.approx(reference, rel=1e-3)
    assert together[-1].by_position == pytest.approx(alone[-1].by_position, abs=1e-5)
    assert numbers(events)[0] == pytest.approx(
        numbers_of(alone)[0], rel=1e-14
    )  # before the first step, weights are equal
    assert (tmp_path / "two" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_stopped_on_two_ranks_resumes_bit_equal_and_says_if_their_number_changes(
    pool: LocalPool, tmp_path: Path
) -> None:
    config = small_config(
        data={**GPT2_DATA, "vocab": "corpus"},
        model={"drop_rate": 0.2},
        optimizer="muon",
        batch_size=3,
        budget={"steps": 150},
        eval_every={"steps": 30},
    )
    pool.submit(Job(0, config, checkpoint=tmp_path / "whole"))
    whole = until_finished(pool, 1)[0]

    job = Job(1, config, checkpoint=tmp_path / "parts", state=tmp_path / "state")
    pool.submit(job)
    first = until_step(pool, 30)
    pids = {child.pid for child in psutil.Process(pool.pids()[1]).children()}
    pool.stop(1)  # as the pruner does
    first += until_finished(pool, 1)[1]
    assert first[-1] == Finished(1, Outcome.INTERRUPTED, "stopped by the sweep")

    pool.submit(job)
    assert pids == {child.pid for child in psutil.Process(pool.pids()[1]).children()}  # the same ranks
    second = until_finished(pool, 1)[1]
    assert finished(second).outcome is Outcome.COMPLETE
    assert 30 <= started(second).resumed_from < 150 and started(second).warning == ""
    assert numbers(first) + numbers(second) == numbers(whole)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_ranks_agree_on_the_end_of_a_budget_in_seconds_and_on_divergence(pool: LocalPool) -> None:
    pool.submit(Job(1, small_config(budget={"seconds": 0.5})))
    events = until_finished(pool, 1)[1]
    assert finished(events).outcome is Outcome.COMPLETE
    assert points(events)[-1].progress == 1.0
    pool.submit(Job(2, small_config(budget={"steps": 50}, learning_rate=1e30, warmup=0.0, grad_clip=None)))
    assert finished(until_finished(pool, 1)[2]).outcome is Outcome.DIVERGED
    pool.submit(Job(3, small_config()))
    assert finished(until_finished(pool, 1)[3]).outcome is Outcome.COMPLETE


# Parts


@pytest.mark.parametrize(("rows", "size"), [(8, 2), (7, 3), (2, 4)])
def test_shares_are_a_partition_of_the_batch(rows: int, size: int) -> None:
    shares = [list(range(rows))[Ranks(rank, size).share(rows)] for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    tokens = byte_data().train
    whole, _ = next(training_batches(tokens, 16, rows, seed=1))
    parts = [next(training_batches(tokens, 16, rows, 1, 0, Ranks(rank, size).share(rows)))[0] for rank in range(size)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("shape", [(3, 5, 7), (6, 3, 3)])  # odd sizes: four elements share 64 random bits
def test_a_rank_has_its_rows_of_the_mask_of_the_whole_batch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    whole = [dropout_mask(torch.empty(shape), 0.4) for _ in range(2)]  # the second mask begins where the first ends
    parts: list[list[torch.Tensor]] = [[], []]
    for rows in (slice(0, 1), slice(1, 3)):
        each = shape[0] // 3
        torch.manual_seed(1)
        with rows_of_batch(rows, 3):
            for masks in parts:
                masks.append(dropout_mask(torch.empty(each * (rows.stop - rows.start), *shape[1:]), 0.4))
    assert all(torch.equal(torch.cat(masks), mask) for masks, mask in zip(parts, whole, strict=True))


def test_one_process_needs_no_group() -> None:
    loss, numbers = torch.tensor(2.0), torch.ones(3)
    assert ALONE.share(5) == slice(0, 5)
    assert (ALONE.agree(1.5, 2), ALONE.decide(True)) == ((1.5, 2), True)
    assert ALONE.sum(numbers) is numbers
    assert ALONE.sum_gradients([], loss) is loss
    assert not torch.distributed.is_initialized()


def test_a_resume_with_another_number_of_ranks_is_named() -> None:
    cpu = torch.device("cpu")
    one, two = Environment.here(cpu, "fp32"), Environment.here(cpu, "fp32", 2)
    assert two.changes(one) == "resumed with 2 ranks, was 1: not bit-equal"
    assert one.changes(two) == "resumed with 1 rank, was 2: not bit-equal"


def test_several_ranks_need_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    train = small_config(device="cuda").train
    assert [resolve_device(train, index, 2).index for index in (0, 1, 2, 3)] == [0, 1, 2, 0]
    with pytest.raises(DeviceError, match="found a run of 4 ranks; allowed on this machine: at most 3"):
        resolve_device(train, 0, 4)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(DeviceError, match=r"train\.device: found mps for a run of 2 ranks"):
        resolve_device(small_config(device="mps").train, 0, 2)
