"""One run trained for its model."""

from __future__ import annotations

import pytest
import torch

from harness import train, train_model
from harness.data import open_dataset
from helpers import small_config


def test_the_model_of_a_run_is_the_one_at_the_end_of_its_curves() -> None:
    config = small_config(budget={"steps": 4})
    data = open_dataset(config.data)
    model, tokenizer, points = train_model(config, data)
    assert [point.metrics["val/loss"] for point in points if "val/loss" in point.metrics] == [
        point.metrics["val/loss"] for point in train(config, data) if "val/loss" in point.metrics
    ]
    assert not model.training
    context = config.model.context_length
    losses = []
    with torch.no_grad():
        for start in range(0, len(data.val) - 1, context):
            window = torch.as_tensor(data.val[start : start + context + 1].astype("int64"))
            losses.append(torch.nn.functional.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="sum"))
    assert float(sum(losses)) / (len(data.val) - 1) == pytest.approx(points[-1].metrics["val/loss"], rel=1e-5)
    assert tokenizer.decode(tokenizer.encode("Every effort")) == "Every effort"
