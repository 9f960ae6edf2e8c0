"""The corpora of a sweep and the weights that it starts from, each opened once, and what runs record about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.core.errors import Problem, SpecError

if TYPE_CHECKING:
    from harness.config.run import DataConfig, RunConfig
    from harness.config.spec import Arm, SweepSpec
    from harness.config.starting import StartWeights
    from harness.data import Dataset, Tokenizer
    from harness.data.encoded import EncodedData

_MANY_EMPTY: Final = 0.2  # share of the positions in training windows


class Datasets:
    """Opens each corpus once (and tokenizes it, the first time), and finds weights to start from once.

    Args:
        tracking: MLflow's address, for weights of a run.

    Attributes:
        messages: sentences for the user about the opened corpora and weights.
    """

    def __init__(self, tracking: str | None = None) -> None:
        self._tracking = tracking
        self._open: dict[DataConfig, Dataset] = {}
        self._weights: dict[str, StartWeights] = {}
        self.messages: list[str] = []

    def __getitem__(self, config: DataConfig) -> Dataset:
        config = config.texts  # runs with other weights of a mixture share it
        if config not in self._open:
            from harness.data import open_dataset

            data = open_dataset(config)
            self.messages += [found for found in data.messages if found not in self.messages]
            self._open[config] = data
        return self._open[config]

    def load_spec(self, file: Path, settings: Sequence[str], trains_here: bool = False) -> SweepSpec:
        """Read a spec and check it against its corpora.

        Args:
            file: the YAML file.
            settings: `path=value` each, in place of what the file says.
            trains_here: whether its devices must be those of this machine.

        Raises:
            SpecError: with every mistake.
        """
        from harness.config.load import load_spec
        from harness.runner.devices import available_devices

        devices = available_devices if trains_here else None
        spec = load_spec(file, settings, self.split_sizes, self.codec, devices, self.weights)
        if spec.base.model.init_from is not None or spec.varied_weights:
            self._check_tokens(spec, str(file))
        self.messages += [found for found in dict.fromkeys(self._empty_positions(spec)) if found not in self.messages]
        return spec

    def _check_tokens(self, spec: SweepSpec, file: str) -> None:
        """Compare the tokens of every run with those of the weights that it starts from, and keep notes on these.

        Raises:
            SpecError: they are not the same.
        """
        from harness.config.starting import StartError, check_tokens, notes

        unsized = replace(spec, vocabulary_of=None)  # whose vocabulary need not fit the rows of its weights yet
        for config in map(unsized.run_config, spec.data_values()):
            if config.model.init_from is None:
                continue
            weights, data = self.weights(config.model.init_from), self[config.data]
            defined = data.tokenizer_file.sha256 if data.tokenizer_file else ""
            try:
                check_tokens(config.data, weights, data.codec.n_vocab, defined)
            except StartError as error:
                raise SpecError([Problem(file, 0, *mistake) for mistake in error.mistakes]) from error
            self.messages += [found for found in notes(config, weights) if found not in self.messages]

    def weights(self, name: str) -> StartWeights:
        """The weights that `model.init_from` names."""
        if name not in self._weights:
            from harness.model.sources import find_source

            self._weights[name] = find_source(name, self._tracking).weights
        return self._weights[name]

    def of_arm(self, spec: SweepSpec, arm: Arm) -> Dataset:
        """The corpus that an arm trains on."""
        return self[spec.run_config(arm.values).data]

    def train_tokens(self, spec: SweepSpec) -> dict[str, int]:
        """Arm name → tokens of its training split."""
        return {name: sizes["train"] for name, sizes in self.splits(spec).items()}

    def splits(self, spec: SweepSpec) -> dict[str, dict[str, int]]:
        """Arm name → tokens of each split, of which training windows that are filled up count as full ones."""
        return {arm.name: self._sizes(spec.run_config(arm.values)) for arm in spec.arms()}

    def _sizes(self, config: RunConfig) -> dict[str, int]:
        sizes = split_sizes(self[config.data])
        if config.data.windows == "within":
            windows = self[config.data].cut("train", config.model.context_length)
            sizes["train"] = len(windows) * config.model.context_length + 1
        return sizes

    def _empty_positions(self, spec: SweepSpec) -> Iterator[str]:
        """Warnings about training windows of which a large part stands after the end of a document."""
        for config in (spec.run_config(arm.values) for arm in spec.arms()):
            if config.data.windows == "within":
                length = config.model.context_length
                windows = self[config.data].cut("train", length)
                share = 1 - windows.targets / (len(windows) * length)
                if share > _MANY_EMPTY:
                    yield (
                        f"data.windows: warning: with model.context_length {length}, {share:.0%} of the positions in "
                        "training windows are empty, as they stand after the end of a document; a shorter context "
                        "leaves fewer"
                    )

    def facts(self, spec: SweepSpec) -> dict[DataConfig, dict[str, Any]]:
        """Data section → what runs with it record about their corpus, of every arm and every tuned tokenizer."""
        return {config: data_facts(self[config]) for config in spec.data_configs()}

    def lost_text(self, spec: SweepSpec) -> str:
        """Warnings about text that tokenizers of the sweep do not keep; empty if all keep it."""
        return " ".join(dict.fromkeys(f"{lost}." for config in spec.data_configs() if (lost := self[config].lost)))

    def identity(self, spec: SweepSpec) -> str:
        """SHA-256 of the spec and its corpora: the sweep is found by it in every store."""
        used = {self.of_arm(spec, arm).fingerprint for arm in spec.arms()}
        return spec.identity("".join(sorted(used)))

    def split_sizes(self, config: DataConfig) -> Mapping[str, int]:
        """Tokens of each split, and of a mixture also of the splits of each source."""
        data = self[config]
        parts = {name: split_sizes(part) for name, part in data.sources.items() if name}
        own = {f"{name} {split}": count for name, sizes in parts.items() for split, count in sizes.items()}
        return split_sizes(data) | own

    def encoded(self, config: DataConfig) -> EncodedData:
        """What a process without the text needs to open a corpus."""
        from harness.data.encoded import describe_encoded

        return describe_encoded(self[config], config)

    def codec(self, config: DataConfig) -> Tokenizer:
        """The tokenizer of a corpus, with the corpus's own vocabulary where it has one."""
        return self[config].codec


def split_sizes(data: Dataset) -> dict[str, int]:
    """Tokens of each split."""
    return {"train": len(data.train), "val": len(data.val), "test": len(data.test)}


def data_facts(data: Dataset) -> dict[str, Any]:
    """What runs record about their corpus."""
    sources = {name: split_sizes(part) for name, part in data.sources.items() if name}
    return {
        **({"copies": data.copies} if data.copies else {}),
        "name": data.name,
        "source": data.source,
        "sha256": data.sha256,
        "fingerprint": data.fingerprint,
        "tokenizer": data.tokenizer,
        **({"tokenizer_sha256": file.sha256} if (file := data.tokenizer_file) is not None else {}),
        "tokens": split_sizes(data),
        "bytes": dict(data.bytes),
        **({"sources": sources} if sources else {}),
    }
