"""The configuration of one training run: frozen, validated and picklable, with the numbers that follow from it.

A `RunConfig` holds the sections `data`, `model` and `train`. It needs no torch, Optuna or MLflow, so it can be hashed,
logged and sent to another process. It validates what needs no corpus; the rest (is a split long enough?) is
checked in `harness.config.checks`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, model_validator

from harness.config.base import Config
from harness.config.fingerprint import decisive, digest_of
from harness.config.sections import (
    PRESETS,
    Budget,
    DataConfig,
    Every,
    ModelConfig,
    SampleConfig,
    Split,
    TrainConfig,
)
from harness.config.tokenizers import VOCABULARY
from harness.config.writing import as_yaml, written_out

__all__ = [
    "PRESETS",
    "VOCABULARY",
    "Budget",
    "DataConfig",
    "Every",
    "ModelConfig",
    "RunConfig",
    "SampleConfig",
    "Split",
    "TrainConfig",
    "flatten",
]

MAX_LOG_STEPS: Final = 50  # optimizer steps between two points at most


class RunConfig(Config):
    """Everything that decides a run's numbers, apart from the corpus's bytes and the code."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig

    @model_validator(mode="after")
    def _parts_fit(self) -> RunConfig:
        tokens, context = self.train.batch_tokens, self.model.context_length
        if tokens is not None and tokens % context:
            raise ValueError(
                f"train.batch_tokens: found {tokens} with model.context_length {context}; "
                "allowed: a multiple of context_length"
            )
        if self.data.n_vocab is not None:
            self._check_rows(self.data.n_vocab, f"of tokenizer {self.data.tokenizer}")
        return self

    def _check_rows(self, needed: int, whose: str) -> None:
        if self.model.vocab_size is not None and self.model.vocab_size < needed:
            raise ValueError(f"model.vocab_size: found {self.model.vocab_size}; allowed: at least the {needed} {whose}")

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding and of the head: `model.vocab_size`, else the size of the tokenizer's vocabulary.

        Raises:
            ValueError: only the text or the tokenizer's file tells it, and `with_vocabulary` has not set it yet.
        """
        if self.model.vocab_size is not None:
            return self.model.vocab_size
        if self.data.n_vocab is None:
            with_ = "data.vocab corpus" if self.data.vocab == "corpus" else f"data.tokenizer {self.data.tokenizer}"
            raise ValueError(
                f"model.vocab_size: found nothing with {with_}; "
                "allowed: a number, which Dataset.resolve sets once the corpus is known"
            )
        return self.data.n_vocab

    def with_vocabulary(self, tokens: int) -> RunConfig:
        """This run with `model.vocab_size` written out, where its corpus or its own tokenizer decides it.

        Args:
            tokens: different tokens that occur in the corpus, or the size of the tokenizer's vocabulary.

        Raises:
            ValueError: `model.vocab_size` was given, and is less than that.
        """
        if self.data.n_vocab is not None:
            return self
        in_corpus = self.data.vocab == "corpus"
        self._check_rows(tokens, "tokens that occur in the corpus" if in_corpus else "tokens of data.tokenizer")
        rows = self.model.vocab_size or tokens
        return self.model_copy(update={"model": self.model.model_copy(update={"vocab_size": rows})})

    @property
    def sequences_per_step(self) -> int:
        """Windows of `context_length` tokens in one optimizer step."""
        train = self.train
        return train.batch_size or (train.batch_tokens or 0) // self.model.context_length

    @property
    def tokens_per_step(self) -> int:
        """Target tokens of one optimizer step."""
        return self.sequences_per_step * self.model.context_length

    @property
    def parameters(self) -> int:
        """Trainable parameters, counted from the shapes (a test compares it with the module's own count)."""
        embedding, other = self._parameter_parts()
        return embedding + other

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs a token, forward and backward: 6·N + 12·n_layers·emb_dim·context_length.

        N counts all parameters except the two embedding tables, so it includes the output head (Kaplan et al.
        2020, section 2.1; attention as in Chowdhery et al. 2022, appendix B). The causal half of the attention
        that a fused kernel skips is counted, as is usual.
        """
        model = self.model
        _, other = self._parameter_parts()
        head = self.vocab_size * model.emb_dim if model.tie_embeddings else 0  # untied, it is in `other` already
        return 6.0 * (other + head) + 12.0 * model.n_layers * model.emb_dim * model.context_length

    def _parameter_parts(self) -> tuple[int, int]:
        m = self.model
        d, vocab = m.emb_dim, self.vocab_size
        embedding = (vocab + m.context_length) * d
        attention = 4 * d * d + d + (3 * d if m.qkv_bias else 0)
        feed_forward = 8 * d * d + 5 * d
        block = attention + feed_forward + 4 * d
        head = 0 if m.tie_embeddings else vocab * d
        return embedding, m.n_layers * block + 2 * d + head

    def total_steps(self, train_windows: int) -> int | None:
        """Optimizer steps of the whole budget; None for a budget in seconds.

        Args:
            train_windows: windows of `context_length` tokens in the training split.
        """
        budget = self.train.budget
        if budget.seconds is not None:
            return None
        if budget.steps is not None:
            return budget.steps
        if budget.epochs is not None:
            windows = math.floor(budget.epochs * train_windows + 1e-6)  # 0.57 · 100 must give 57, not 56
            return max(1, windows // self.sequences_per_step)
        tokens = budget.tokens if budget.tokens is not None else (budget.flops or 0) / self.flops_per_token
        return max(1, round(tokens / self.tokens_per_step))

    def eval_steps(self, train_windows: int) -> int:
        """Optimizer steps between two evaluations (at least 1)."""
        every = self.train.eval_every
        if every.steps is not None:
            return every.steps
        tokens = every.tokens or (every.epochs or 0) * train_windows * self.model.context_length
        return max(1, round(tokens / self.tokens_per_step))

    def log_steps(self, train_windows: int) -> int:
        """Optimizer steps between two points: few enough to follow a run and to stop it."""
        total = self.total_steps(train_windows) or 1000  # a budget in seconds has no known number
        return max(1, min(MAX_LOG_STEPS, self.eval_steps(train_windows), total // 100))

    def rhythm(self, train_tokens: int) -> tuple[int, int | None]:
        """Tokens between evaluations (at most the budget), and of the whole budget (None for one in seconds).

        Args:
            train_tokens: tokens of the training split.
        """
        windows = (train_tokens - 1) // self.model.context_length
        steps = self.total_steps(windows)
        first = self.eval_steps(windows)
        if steps is not None:
            return min(first, steps) * self.tokens_per_step, steps * self.tokens_per_step
        return first * self.tokens_per_step, None

    def samples_validation(self, val_tokens: int) -> bool:
        """Whether evaluations between the start and the end score only a sample of the validation split.

        Curves and pruning then use the sample at every evaluation; results use the whole split, which is scored at the
        start and at the end.

        Args:
            val_tokens: tokens of the validation split.
        """
        return self.train.eval_tokens is not None and self.train.eval_tokens < val_tokens - 1

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain JSON values, with the vocabulary size."""
        plain = self.model_dump(mode="json")
        plain["model"]["vocab_size"] = self.vocab_size
        return plain

    def flat(self) -> dict[str, Any]:
        """The resolved configuration as `section.field` → value, fields that are None left out."""
        return dict(flatten(self.resolved()))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> RunConfig:
        """The inverse of `flat`: a field that is missing was None, or did not exist when the values were stored.

        Args:
            values: `section.field` → value; other names are ignored.

        Raises:
            pydantic.ValidationError: they are not those of a run.
        """
        return cls.model_validate(_nested(cls, values, ""))

    @classmethod
    def from_spec(cls, path: str | Path, arm: str | None = None, settings: Sequence[str] = ()) -> RunConfig:
        """The configuration of an arm of a spec, with the tuned values as written under `train` and `model`.

            config = RunConfig.from_spec("experiments/dropout.yaml", arm="drop 0.2")

        Args:
            path: the YAML file.
            arm: its name (`drop_rate=0.2`) or its label (`drop 0.2`); None: the baseline.
            settings: `path=value` texts, as of `--set`.

        Raises:
            SpecError: with every mistake of the spec.
            ValueError: there is no such arm.
        """
        one_run = importlib.import_module("harness.config.one_run")  # not at the top: it imports this module
        config: RunConfig = one_run.config_of(path, arm, settings)
        return config

    def to_yaml(self, name: str = "run") -> str:
        """A spec that trains this run once.

        Args:
            name: of the spec: 1 to 64 of a-z, 0-9, `-` and `_`.
        """
        return as_yaml({"name": name, **written_out(self), "study": {"seeds": 1}})

    def digest(self) -> str:
        """SHA-256 of the resolved configuration, without the fields in `WITHOUT_EFFECT`."""
        return digest_of(decisive(self.resolved()))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `a.b.c` → value for every leaf that is not None; an empty list counts as a leaf."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        elif value is not None:
            yield path, value


def _nested(section: type[BaseModel], values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values of a section's fields; a missing one is None where its field allows that, else left to its default."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        path = f"{prefix}{name}"
        by_name = next((get_args(kind)[1] for kind in kinds if get_origin(kind) is dict), None)
        below = [key.removeprefix(f"{path}.") for key in values if key.startswith(f"{path}.")]
        if by_name is not None and below:  # sources of a mixture
            parts = dict.fromkeys(key.partition(".")[0] for key in below)
            found[name] = {part: _nested(by_name, values, f"{path}.{part}.") for part in parts}
        elif inner is not None and below:
            found[name] = _nested(inner, values, f"{path}.")
        elif path in values:
            found[name] = values[path]
        elif type(None) in kinds:
            found[name] = None
    return found
