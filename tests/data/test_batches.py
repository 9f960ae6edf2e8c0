"""Batches: every token is scored once and every window is seen equally often, for any sizes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import harness.data.batches
from harness.core.rng import stream
from harness.data.batches import (
    count_windows,
    fixed_sample,
    prefetch,
    scoring_batches,
    strided_batches,
    take_windows,
    training_batches,
    training_order,
)


def numbered(size: int) -> np.ndarray:
    """Tokens that equal their positions."""
    return np.arange(size, dtype=np.uint32)


@pytest.mark.parametrize(("tokens", "windows"), [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (4001, 1000)])
def test_windows_of_four_by_hand(tokens: int, windows: int) -> None:
    assert count_windows(tokens, 4) == windows


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 9))
def test_every_token_after_the_first_is_scored_once(size: int, length: int, sequences: int) -> None:
    seen: list[int] = []
    for inputs, targets in scoring_batches(numbered(size), length, sequences):
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.shape == targets.shape and inputs.shape[0] <= sequences and inputs.shape[1] <= length
        assert torch.equal(targets, inputs + 1)  # the target is the token after the input
        seen += targets.flatten().tolist()
    assert sorted(seen) == list(range(1, size))


@given(st.integers(1, 200), st.integers(1, 40))
def test_scoring_does_not_depend_on_the_batch_size(size: int, length: int) -> None:
    def rows(sequences: int) -> list[list[int]]:
        return [row for inputs, _ in scoring_batches(numbered(size), length, sequences) for row in inputs.tolist()]

    assert rows(1) == rows(3) == rows(8)


def test_scored_windows_by_hand() -> None:
    batches = [targets.tolist() for _, targets in scoring_batches(numbered(12), 3, 2)]
    assert batches == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9]], [[10, 11]]]


@given(st.integers(1, 60), st.integers(0, 2**63 - 1), st.integers(1, 4), st.integers(0, 59))
def test_every_window_is_seen_equally_often(windows: int, seed: int, epochs: int, more: int) -> None:
    order = list(itertools.islice(training_order(windows, seed), epochs * windows + more % windows))
    for epoch in range(epochs):
        assert sorted(order[epoch * windows : (epoch + 1) * windows]) == list(range(windows))
    counts = Counter(order)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    def epochs(seed: int) -> list[tuple[int, ...]]:
        order = training_order(50, seed)
        return [tuple(itertools.islice(order, 50)) for _ in range(3)]

    assert epochs(1) == epochs(1)
    assert len({*epochs(1), *epochs(2), tuple(range(50))}) == 7


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 40))
def test_batches_can_start_anywhere(windows: int, sequences: int, start: int) -> None:
    tokens = numbered(4 * windows + 1)
    whole = list(itertools.islice(training_batches(tokens, 4, sequences, 5), start + 3))
    later = list(itertools.islice(training_batches(tokens, 4, sequences, 5, start), 3))
    assert [batch[0].tolist() for batch in later] == [batch[0].tolist() for batch in whole[start:]]


def test_a_late_start_reads_no_earlier_batch_and_shuffles_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    shuffled: list[object] = []

    def shuffle(seed: int, *name: str | int) -> np.random.Generator:
        shuffled.append((seed, *name))
        return stream(seed, *name)

    monkeypatch.setattr(harness.data.batches, "take_windows", lambda *arguments: taken.append(arguments))
    monkeypatch.setattr(harness.data.batches, "stream", shuffle)
    next(training_batches(numbered(401), 4, 3, 5, 10**6))
    assert shuffled == [(5, "data", 3 * 10**6 // 100)] and len(taken) == 1


@given(st.integers(2, 120), st.integers(1, 20), st.integers(1, 7), st.integers(1, 12))
def test_training_batches_follow_the_order_across_epochs(size: int, length: int, sequences: int, steps: int) -> None:
    windows = count_windows(size, length)
    if not windows:
        return
    batches = itertools.islice(training_batches(numbered(size), length, sequences, seed=5), steps)
    order = itertools.islice(training_order(windows, 5), steps * sequences)
    found = []
    for inputs, targets in batches:
        assert inputs.shape == targets.shape == (sequences, length)
        assert torch.equal(targets, inputs + 1)
        assert torch.equal(inputs[:, :1] + torch.arange(length), inputs)  # each row is consecutive tokens
        found += inputs[:, 0].tolist()
    assert found == [number * length for number in order]


def test_windows_of_memory_mapped_tokens(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.array([60_000, 50_256, 1, 2, 3, 65_535], dtype=np.uint16))
    stored = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    inputs, targets = take_windows(stored, [0, 3], 2)
    assert inputs.tolist() == [[60_000, 50_256], [2, 3]]
    assert targets.tolist() == [[50_256, 1], [3, 65_535]]
    inputs[0, 0] = 7  # a batch is a copy
    assert stored[0] == 60_000


@given(st.integers(2, 500), st.integers(1, 30), st.integers(1, 600))
def test_the_fixed_sample_has_distinct_whole_windows(size: int, length: int, wanted: int) -> None:
    windows = count_windows(size, length)
    if not windows:
        return
    starts = fixed_sample(numbered(size), length, wanted)
    assert len(starts) == min(windows, max(1, wanted // length)) == len(set(starts))
    assert starts == sorted(starts) and all(start % length == 0 for start in starts)
    assert starts[0] == 0 and starts[-1] + length + 1 <= size


def test_the_fixed_sample_is_spread_evenly() -> None:
    assert fixed_sample(numbered(1001), 10, 50) == [0, 250, 500, 740, 990]  # windows 0, 24.75, 49.5, 74.25, 99


@pytest.mark.parametrize("tokens", [17, 18, 33, 40, 64, 65, 100])
@pytest.mark.parametrize(("context_length", "min_context"), [(16, 16), (16, 5), (16, 1), (8, 8)])
def test_strided_windows_score_every_target_with_enough_context_once(
    tokens: int, context_length: int, min_context: int
) -> None:
    text = np.arange(tokens, dtype=np.uint16)
    scored = []
    for inputs, targets, first in strided_batches(text, context_length, 3, min_context):
        assert inputs.shape[1] == context_length
        assert first + 1 >= min_context  # tokens before the first target that counts
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        scored += targets[:, first:].flatten().tolist()
    assert sorted(scored) == list(range(min_context, tokens))


def test_strided_windows_need_a_context_of_at_least_min_context() -> None:
    with pytest.raises(ValueError, match="min_context: found 17 with context_length 16; allowed: 1 to context_length"):
        next(strided_batches(np.arange(99, dtype=np.uint16), 16, 3, 17))
    assert not list(strided_batches(np.arange(16, dtype=np.uint16), 16, 3, 4))


def test_prefetching_keeps_every_batch_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code path of a GPU runs with faked copies."""
    plain = list(itertools.islice(training_batches(np.arange(50), 4, 2, seed=1), 5))
    on_cpu = list(prefetch(iter(plain), torch.device("cpu")))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: self)
    drawn: list[int] = []

    def counted() -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(plain):
            drawn.append(number)
            yield batch

    ahead = prefetch(counted(), torch.device("cuda"))
    on_gpu = [next(ahead)]
    assert drawn == [0, 1]  # the second batch is being copied
    on_gpu += ahead
    for found in (on_cpu, on_gpu):
        assert [[part.tolist() for part in batch] for batch in found] == [
            [part.tolist() for part in batch] for batch in plain
        ]
