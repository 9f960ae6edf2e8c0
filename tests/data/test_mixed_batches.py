"""Windows of a mixture: drawn in proportion to the weights, the same from any batch on, in an order of each source."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

import harness.data.mixed_batches
from harness.data.batches import training_batches
from harness.data.mixed_batches import mixed_batches, source_order
from harness.data.windows import AcrossDocuments

TEXTS = {"books": np.arange(1000, 1041), "code": np.arange(5000, 5021)}
PARTS = {name: AcrossDocuments(text, 4) for name, text in TEXTS.items()}  # ten and five windows
WEIGHTS = {"books": 1.0, "code": 3.0}


def test_sources_are_drawn_in_proportion_to_their_weights() -> None:
    draws, weights = 200_000, [1.0, 2.0, 5.0]
    counts = Counter(itertools.islice(source_order(weights, seed=1), draws))
    for source, weight in enumerate(weights):
        share = weight / 8
        assert abs(counts[source] - draws * share) < 4 * math.sqrt(draws * share * (1 - share))  # binomial: p < 1e-4


def test_a_larger_weight_changes_only_windows_that_it_takes_over() -> None:
    before, after = (list(itertools.islice(source_order([weight, 1.0], seed=3), 5000)) for weight in (1.0, 3.0))
    assert all(now == 0 for then, now in zip(before, after, strict=True) if then == 0)
    assert {now for then, now in zip(before, after, strict=True) if then == 1} == {0, 1}


@pytest.mark.parametrize("start", [0, 1, 7, 20])
def test_batches_are_the_same_from_any_batch_on(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.data.mixed_batches, "_BLOCK", 16)
    whole = list(itertools.islice(mixed_batches(PARTS, WEIGHTS, 3, seed=2), 25))
    rest = list(itertools.islice(mixed_batches(PARTS, WEIGHTS, 3, 2, start), 25 - start))
    for (inputs, targets), (others, others_next) in zip(whole[start:], rest, strict=True):
        assert torch.equal(inputs, others) and torch.equal(targets, others_next)
        assert torch.equal(targets, inputs + 1)


def test_each_source_takes_every_window_once_before_any_again() -> None:
    rows = [row for inputs, _ in itertools.islice(mixed_batches(PARTS, WEIGHTS, 8, seed=5), 20) for row in inputs]
    for name, windows in (("books", 10), ("code", 5)):
        first = [int(row[0]) for row in rows if int(row[0]) in TEXTS[name]]
        for begin in range(0, len(first) - windows, windows):
            assert sorted(first[begin : begin + windows]) == TEXTS[name][:-1:4].tolist()


def test_sources_of_one_size_have_orders_of_their_own() -> None:
    parts = {name: AcrossDocuments(np.arange(401), 4) for name in ("one", "other")}
    orders = []
    for weights in ({"one": 1, "other": 1e-9}, {"one": 1e-9, "other": 1}):
        batches = itertools.islice(mixed_batches(parts, weights, 8, 1), 9)
        orders.append(torch.cat([inputs for inputs, _ in batches]))
    assert not torch.equal(*orders)


def test_one_source_gives_the_batches_of_its_text_alone() -> None:
    mixed = mixed_batches({"books": PARTS["books"]}, {"books": 0.3}, 3, 7, 2)
    for (inputs, targets), (plain, plain_next) in itertools.islice(
        zip(mixed, training_batches(TEXTS["books"], 4, 3, 7, 2), strict=False), 9
    ):
        assert torch.equal(inputs, plain) and torch.equal(targets, plain_next)


def test_rows_of_a_rank_are_those_of_the_whole_batch() -> None:
    whole = mixed_batches(PARTS, WEIGHTS, 6, seed=4)
    ranks = [mixed_batches(PARTS, WEIGHTS, 6, 4, rows=rows) for rows in (slice(0, 4), slice(4, 6))]
    for _ in range(9):
        assert torch.equal(next(whole)[0], torch.cat([next(rank)[0] for rank in ranks]))
