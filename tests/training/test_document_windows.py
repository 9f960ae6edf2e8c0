"""Losses of windows inside documents: those of each document alone, whatever stands around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.config.run import RunConfig
from harness.core import metrics
from harness.data import Dataset, open_dataset
from harness.model.gpt import GPT
from helpers import evaluator, lively_gpt, numbers, run, small_config

SENTENCE = "The state of the union is strong, and so are its many small documents of words. "


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Dataset]:
    """30 documents of 3 to 90 words, and a run with a context of 16 tokens on them."""
    folder = tmp_path_factory.mktemp("documents")
    for number in range(30):
        words = (SENTENCE * 9).split()[number : number + 3 + (number * 37) % 88]
        (folder / f"{number:02}.txt").write_text(" ".join(words))
    data = {"path": [str(folder / "*.txt")], "tokenizer": "gpt2", "vocab": "corpus", "separator": "endoftext"}
    config = small_config(
        data={**data, "windows": "within", "split": {"val": 0.3, "test": 0}},
        eval_tokens=40,
        train_eval_tokens=10_000,
        eval_every={"steps": 3},
    )
    opened = open_dataset(config.data)
    return opened.resolve(config), opened


def alone(data: Dataset, split: str) -> list[Tensor]:
    """The tokens of each document with the one that ends it."""
    ids = data.tokens(split).astype(np.int64)
    ends = np.flatnonzero(ids == data.codec.end_of_text)
    return [torch.from_numpy(part) for part in np.split(ids, ends + 1) if len(part)]


def nats(model: GPT, inputs: Tensor, targets: Tensor) -> list[float]:
    return F.cross_entropy(model(inputs[None])[0].double(), targets, reduction="none").tolist()


def windows_of(document: Tensor) -> list[tuple[Tensor, Tensor]]:
    ends = [min(start + 16, len(document) - 1) for start in range(0, len(document) - 1, 16)]
    return [(document[16 * n : end], document[16 * n + 1 : end + 1]) for n, end in enumerate(ends)]


@torch.no_grad()
def test_evaluations_score_each_document_alone(documents: tuple[RunConfig, Dataset]) -> None:
    config, data = documents
    model = lively_gpt(config)
    ours = evaluator(config, model, data)
    texts = alone(data, "val")
    expected = [loss for text in texts for window in windows_of(text) for loss in nats(model, *window)]
    scores = ours.score_split("val")
    assert scores.mean == pytest.approx(np.mean(expected), abs=1e-6) and scores.total[1] == len(expected)
    assert scores.bytes == sum(int(data.token_bytes[text[1:]].sum()) for text in texts)
    train = [loss for text in alone(data, "train") for window in windows_of(text) for loss in nats(model, *window)]
    assert ours.score_windows("train").mean == pytest.approx(np.mean(train), abs=1e-6)  # a sample of all windows
    contexts = [
        nats(model, text[max(0, place - 16) : place], text[max(0, place - 16) + 1 : place + 1])[-1]
        for text in texts
        for place in range(16, len(text))
    ]
    assert ours.common_context_loss(16) == pytest.approx(np.mean(contexts), abs=1e-6)


def test_a_step_has_the_mean_loss_and_gradient_of_its_targets(documents: tuple[RunConfig, Dataset]) -> None:
    config, data = documents
    inputs, targets = next(data.windows("train", 16).training(12, seed=1))
    model, other = lively_gpt(config), lively_gpt(config)
    windows = [(row[wanted >= 0], wanted[wanted >= 0]) for row, wanted in zip(inputs, targets, strict=True)]
    assert len({len(wanted) for _, wanted in windows}) > 3
    total = sum(F.cross_entropy(other(row[None])[0], wanted, reduction="sum") for row, wanted in windows)
    assert isinstance(total, Tensor)
    expected = total / sum(len(wanted) for _, wanted in windows)
    expected.backward()
    loss = model.loss(inputs, targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_a_run_trains_and_counts_epochs_by_its_windows(documents: tuple[RunConfig, Dataset], tmp_path: Path) -> None:
    config, data = documents
    windows = len(data.windows("train", 16))
    assert windows == sum(len(windows_of(text)) for text in alone(data, "train"))
    fields = config.model_dump()
    fields["train"]["budget"] = {"epochs": 2}
    points = run(RunConfig.model_validate(fields), data, checkpoint=tmp_path)
    assert points[-1].step == 2 * windows // 4
    measured = numbers(points)
    assert measured[-1][metrics.EPOCHS] == points[-1].step * 4 / windows
    assert measured[-1][metrics.VAL_LOSS] < measured[0][metrics.VAL_LOSS] - 0.1  # it has learned
