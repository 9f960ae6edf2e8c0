"""What a sweep works on: its corpora, each opened once, and what is recorded of them and of the sweep itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.config.run import DataConfig
    from harness.config.spec import SweepSpec
    from harness.data import Dataset, Tokenizer


class Datasets:
    """The corpora of a spec, each opened (and tokenized, the first time) once."""

    def __init__(self) -> None:
        self._open: dict[DataConfig, Dataset] = {}

    def __getitem__(self, config: DataConfig) -> Dataset:
        if config not in self._open:
            from harness.data import open_dataset

            self._open[config] = open_dataset(config)
        return self._open[config]

    def train_tokens(self, spec: SweepSpec) -> dict[str, int]:
        """Arm name → tokens of its training split."""
        return {arm.name: len(self[spec.run_config(arm.values).data].train) for arm in spec.arms()}

    def splits(self, spec: SweepSpec) -> dict[str, dict[str, int]]:
        """Arm name → tokens of each split."""
        return {arm.name: split_sizes(self[spec.run_config(arm.values).data]) for arm in spec.arms()}

    def identity(self, spec: SweepSpec) -> str:
        """What the sweep is known by, its data included."""
        used = (self[spec.run_config(arm.values).data].fingerprint for arm in spec.arms())
        return spec.identity("".join(sorted(set(used))))

    def split_sizes(self, config: DataConfig) -> Mapping[str, int]:
        """Tokens of each split."""
        return split_sizes(self[config])

    def codec(self, config: DataConfig) -> Tokenizer:
        """What turns text into a corpus's ids."""
        return self[config].codec


def split_sizes(data: Dataset) -> dict[str, int]:
    """Tokens of each split."""
    return {"train": len(data.train), "val": len(data.val), "test": len(data.test)}


def data_facts(data: Dataset) -> dict[str, Any]:
    """What runs record about their corpus."""
    return {
        "name": data.name,
        "source": data.source,
        "sha256": data.sha256,
        "fingerprint": data.fingerprint,
        "tokenizer": data.tokenizer,
        "tokens": split_sizes(data),
        "bytes": dict(data.bytes),
    }
