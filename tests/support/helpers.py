"""Small runs and models with random weights, for the tests of the trainer's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.config.run import DataConfig, RunConfig
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.paths import WEIGHTS
from harness.data import Dataset, open_dataset
from harness.model.gpt import GPT
from harness.model.init import build_gpt
from harness.training.evaluation import Evaluator
from harness.training.trainer import train

BYTES = DataConfig(corpus="sotu-1820", tokenizer="byte")  # 20,416 tokens, four fifths of them for training

_DATA: dict[str, Any] = {"corpus": "sotu-1820", "tokenizer": "byte"}
_MODEL: dict[str, Any] = {"context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
_TRAIN: dict[str, Any] = {
    "budget": {"steps": 6},
    "batch_size": 4,
    "eval_every": {"steps": 1000},
    "train_eval_tokens": 64,
    "sample": {"max_new_tokens": 0},
    "device": "cpu",
    "precision": "fp32",
}

# Another value for each field of the model, for `small_config(model=…)`.
MODEL_CHANGES: dict[str, Any] = {
    "vocab_size": 300,
    "context_length": 32,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": True,
    "tie_embeddings": True,
}


def small_config(
    *, data: Mapping[str, Any] | None = None, model: Mapping[str, Any] | None = None, **train: Any
) -> RunConfig:
    """A run that takes well under a second. `data` replaces the source; `model` and the keywords override fields."""
    fields = {**_TRAIN, **train}
    if "batch_tokens" in train:
        del fields["batch_size"]
    return RunConfig.model_validate(
        {"data": dict(data or _DATA), "model": {**_MODEL, **(model or {})}, "train": fields}
    )


def text_data(folder: Path, text: str, **fields: Any) -> dict[str, Any]:
    """A data section for `text`, which is written into `folder`; its tokens are bytes."""
    file = folder / "text.txt"
    file.write_text(text, encoding="utf-8")
    return {"path": str(file), "tokenizer": "byte", **fields}


def counted_data(folder: Path, train_tokens: int, other_tokens: int = 40) -> dict[str, Any]:
    """A data section with exactly `train_tokens` training tokens, and `other_tokens` in each other split."""
    total = train_tokens + 2 * other_tokens
    share = other_tokens / total
    text = "".join(chr(ord("a") + (n * n + n // 7) % 26) for n in range(total))  # no white space: cut at the share
    return text_data(folder, text, split={"val": share, "test": share})


def lively_gpt(config: RunConfig, seed: int = 0) -> GPT:
    """A GPT in evaluation mode. All tensors, biases and norms too, are random and large enough to affect the logits."""
    model = build_gpt(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.25 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_tokens(*shape: int, vocab: int = 256, seed: int = 0) -> torch.Tensor:
    """Token ids, int64."""
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def run(config: RunConfig, data: Dataset | None = None, **options: Any) -> list[Point]:
    """All points of one training run; fails if a metric is NaN or infinite."""
    points = list(train(config, data, **options))
    for point in points:
        assert all(map(math.isfinite, point.metrics.values())), point
    return points


def numbers(points: list[Point]) -> list[dict[str, float]]:
    """The metrics of the points, without those that depend on the clock."""
    clock = (metrics.TOKENS_PER_SECOND, metrics.MFU)
    return [{name: value for name, value in point.metrics.items() if name not in clock} for point in points]


def check_that_it_resumes_bit_equal(config: RunConfig, folder: Path, after: int) -> None:
    """A run that stops after some points and resumes has the numbers, texts and weights of one that does not stop."""
    whole = run(config, checkpoint=folder / "whole")
    first = train(config, state=folder / "state")
    parts = [next(first) for _ in range(after)]
    first.close()
    parts += train(config, state=folder / "state", checkpoint=folder / "parts")
    assert numbers(parts) == numbers(whole)
    assert [point.sample for point in parts] == [point.sample for point in whole]
    files = [(folder / part / WEIGHTS).read_bytes() for part in ("whole", "parts")]
    assert files[0] == files[1]


def byte_data() -> Dataset:
    """The small built-in corpus as bytes."""
    return open_dataset(BYTES)


def evaluator(config: RunConfig, model: GPT, data: Dataset | None = None) -> Evaluator:
    """An evaluator on the CPU, by default on the bytes of the smallest corpus."""
    return Evaluator(config, data or byte_data(), model, torch.device("cpu"), "fp32")


SAMPLED = {metrics.VAL_SAMPLE_LOSS, metrics.VAL_SAMPLE_PERPLEXITY, metrics.VAL_SAMPLE_BITS_PER_BYTE}

WHOLE = {metrics.VAL_LOSS, metrics.VAL_PERPLEXITY, metrics.VAL_BITS_PER_BYTE}
