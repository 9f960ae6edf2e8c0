"""A small valid spec as text, and helpers that load a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.config.load import load_spec
from harness.config.spec import SweepSpec
from harness.core.errors import SpecError

GOOD = """\
name: dropout
question: Does dropout help?
data: {corpus: sotu-1820}
model: {context_length: 32, emb_dim: 16, n_heads: 2, n_layers: 1}
train:
  budget: {tokens: 400_000}
  batch_tokens: 128
compare:
  model.drop_rate: [0.0, 0.1]
baseline: {model.drop_rate: 0.1}
tune:
  train.learning_rate: {log_uniform: [3e-4, 3e-3]}
study: {trials: 4, seeds: 3}
"""


def load(tmp_path: Path, text: str, *settings: str, tokens: Mapping[str, int] | None = None) -> SweepSpec:
    path = tmp_path / "spec.yaml"
    path.write_text(text, "utf-8")
    return load_spec(path, settings, None if tokens is None else lambda _: tokens)


def mistakes(tmp_path: Path, text: str, *settings: str, tokens: Mapping[str, int] | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text, *settings, tokens=tokens)
    return [line.replace(f"{tmp_path}/", "") for line in str(caught.value).splitlines()]
