"""What one training run is: frozen, validated, picklable configuration, with every default declared once.

A `RunConfig` says which tokens, which GPT and which training; it knows no torch, no Optuna and no MLflow, so it
can be hashed, logged, sent to another process and replayed. The checks here are those that one run's values can
fail by themselves; what needs the corpus (is a split long enough?) is checked where the corpus is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.config.fingerprint import decisive, digest_of
from harness.core.text import shown

# Vocabulary sizes of tiktoken's encodings (`Encoding.n_vocab`) and of plain bytes. Kept here because a spec is
# checked before any tokenizer is loaded; a test holds the table against tiktoken's own definitions.
VOCABULARY: Final[Mapping[str, int]] = {
    "byte": 256,
    "gpt2": 50257,
    "r50k_base": 50257,
    "p50k_base": 50281,
    "p50k_edit": 50284,
    "cl100k_base": 100277,
    "o200k_base": 200019,
    "o200k_harmony": 201088,
}

# The GPT-2 family (Radford et al. 2019, table 2), with the context the harness was ordered with: 256, not 1024.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gpt2-124m": {"emb_dim": 768, "n_heads": 12, "n_layers": 12},
    "gpt2-355m": {"emb_dim": 1024, "n_heads": 16, "n_layers": 24},
    "gpt2-774m": {"emb_dim": 1280, "n_heads": 20, "n_layers": 36},
    "gpt2-1558m": {"emb_dim": 1600, "n_heads": 25, "n_layers": 48},
}
# Their vocabulary is the tokenizer's: GPT-2's own, where nothing else is said.
_PRESET_COMMON: Final[Mapping[str, Any]] = {"context_length": 256, "drop_rate": 0.1, "qkv_bias": False}

MAX_LOG_STEPS: Final = 50  # optimizer steps between two points at most


_LARGEST = 2**62


def _whole(value: object) -> object:
    """Take 1e5 for 100000: YAML reads scientific notation as a float, people mean the number."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and abs(value) > _LARGEST:  # products of a few of them must still be a float
        raise ValueError(f"found {shown(value)}; allowed: a whole number up to 2^62")
    return value


def _as_tuple(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Whole = Annotated[int, BeforeValidator(_whole)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(gt=0, le=1e30)]  # of what a budget counts: a step's share of it must be finite


class Config(BaseModel):
    """A frozen part of the configuration: unknown fields, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _exactly_one(kind: str, found: Mapping[str, object]) -> None:
    given = [name for name, value in found.items() if value is not None]
    if len(given) != 1:
        names = " | ".join(found)
        raise ValueError(f"found {' and '.join(given) or 'none'}; allowed: exactly one {kind} of {names}")


class Split(Config):
    """Shares of the corpus (by characters, from its end) kept for validation and for the final test."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _leave_something(self) -> Split:
        if self.val + self.test >= 1:
            raise ValueError(f"found val {self.val} + test {self.test}; allowed: a sum under 1")
        return self


class DataConfig(Config):
    """The text and how it becomes tokens. Exactly one of `corpus`, `path` and `url` says where the text is."""

    corpus: str | None = None
    path: Annotated[tuple[str, ...] | None, BeforeValidator(_as_tuple)] = None
    url: str | None = None
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{64}$")] = None
    tokenizer: Literal[tuple(VOCABULARY)] = "gpt2"  # type: ignore[valid-type]
    vocab: Literal["full", "corpus"] = "full"  # corpus: only the tokens that occur in the text, numbered anew
    split: Split = Split()

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        _exactly_one("source", {"corpus": self.corpus, "path": self.path, "url": self.url})
        if (self.url is None) != (self.sha256 is None):
            raise ValueError("found one of url and sha256; allowed: both, so that the content is the one you meant")
        return self


class ModelConfig(Config):
    """A GPT-2. The defaults are GPT-2 124M with a context of 256 tokens; `preset` names a whole size at once."""

    vocab_size: Annotated[Whole | None, Field(gt=0)] = None  # None: the vocabulary that `data` means
    context_length: Annotated[Whole, Field(ge=1)] = 256  # tokens
    emb_dim: Annotated[Whole, Field(ge=1)] = 768
    n_heads: Annotated[Whole, Field(ge=1)] = 12
    n_layers: Annotated[Whole, Field(ge=1)] = 12
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1  # embeddings, attention weights and both residual branches
    qkv_bias: bool = False
    tie_embeddings: bool = False  # output head = token embedding

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, raw: object) -> object:
        if not isinstance(raw, dict) or "preset" not in raw:
            return raw
        fields = dict(raw)
        preset = fields.pop("preset")
        if not isinstance(preset, str) or preset not in PRESETS:  # a list cannot be looked up
            raise ValueError(f"preset: found {shown(preset)}; allowed: {' | '.join(PRESETS)}")
        return {**_PRESET_COMMON, **PRESETS[preset], **fields}

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.emb_dim % self.n_heads:
            raise ValueError(f"emb_dim: found {self.emb_dim} with n_heads {self.n_heads}; allowed: its multiples")
        return self


class Budget(Config):
    """When training ends. Exactly one is given; the learning-rate schedule runs over it."""

    tokens: Annotated[Whole | None, Field(gt=0)] = None
    epochs: Amount | None = None
    steps: Annotated[Whole | None, Field(gt=0)] = None
    flops: Amount | None = None
    seconds: Amount | None = None  # of training; evaluation is not counted

    @model_validator(mode="after")
    def _one(self) -> Budget:
        _exactly_one("budget", self.model_dump())
        return self


class Every(Config):
    """A rhythm. Exactly one is given."""

    tokens: Annotated[Whole | None, Field(gt=0)] = None
    epochs: Amount | None = None
    steps: Annotated[Whole | None, Field(gt=0)] = None

    @model_validator(mode="after")
    def _one(self) -> Every:
        _exactly_one("rhythm", self.model_dump())
        return self


class SampleConfig(Config):
    """The text that is generated at each evaluation."""

    prompt: Annotated[str, Field(min_length=1)] = "Every effort moves you"
    max_new_tokens: Annotated[Whole, Field(ge=0)] = 50  # 0: no sample
    temperature: Annotated[float, Field(ge=0)] = 0.0  # 0: greedy
    top_k: Annotated[Whole | None, Field(ge=1)] = None


class TrainConfig(Config):
    """How the GPT is trained. Exactly one of `batch_tokens` (tokens a step) and `batch_size` (sequences a step)."""

    budget: Budget
    batch_tokens: Annotated[Whole | None, Field(gt=0)] = None
    batch_size: Annotated[Whole | None, Field(gt=0)] = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3  # the peak
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of the budget, linear from 0
    final_fraction: Share = 0.1  # learning rate at the end, as a share of the peak
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2  # wsd only: share of the budget spent going down
    weight_decay: Annotated[float, Field(ge=0)] = 0.1  # matrices only; biases and norms are not decayed
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    grad_clip: Annotated[float | None, Field(gt=0)] = 1.0  # global L2 norm; null: no clipping
    eval_every: Every = Every(epochs=1.0)
    train_eval_tokens: Annotated[Whole, Field(gt=0)] = 4096  # size of the fixed training sample behind train/loss
    eval_tokens: Annotated[Whole | None, Field(gt=0)] = None  # of the validation sample between the ends; null: all
    checkpoint_every: Annotated[float | None, Field(gt=0)] = 60.0  # seconds between states to go on from
    sample: SampleConfig = SampleConfig()
    seed: Annotated[Whole, Field(ge=0, le=2**62)] = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on CUDA devices that have it, else fp32
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: Literal["auto", True, False] = "auto"  # torch.compile; auto: on a GPU, for runs that take minutes

    @model_validator(mode="after")
    def _one_batch(self) -> TrainConfig:
        _exactly_one("batch", {"batch_tokens": self.batch_tokens, "batch_size": self.batch_size})
        return self


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
        if self.data.vocab == "full":
            self._check_rows(VOCABULARY[self.data.tokenizer], f"of tokenizer {self.data.tokenizer}")
        return self

    def _check_rows(self, needed: int, whose: str) -> None:
        if self.model.vocab_size is not None and self.model.vocab_size < needed:
            raise ValueError(f"model.vocab_size: found {self.model.vocab_size}; allowed: at least the {needed} {whose}")

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding and of the head: what was asked for, else the tokenizer's vocabulary.

        Raises:
            ValueError: that is the corpus's vocabulary, and its size has not been set yet by `with_vocabulary`.
        """
        if self.model.vocab_size is not None:
            return self.model.vocab_size
        if self.data.vocab == "corpus":
            raise ValueError(
                "model.vocab_size: found nothing with data.vocab corpus; "
                "allowed: a number, which Dataset.resolve sets once the corpus is known"
            )
        return VOCABULARY[self.data.tokenizer]

    def with_vocabulary(self, tokens: int) -> RunConfig:
        """This run with `model.vocab_size` written out, where its corpus decides it.

        Args:
            tokens: different tokens that occur in the corpus.

        Raises:
            ValueError: `model.vocab_size` was given, and is less than that.
        """
        if self.data.vocab == "full":
            return self
        self._check_rows(tokens, "tokens that occur in the corpus")
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
        """Trainable parameters, counted from the shapes (a test holds it against the module's own)."""
        embedding, other = self._parameter_parts()
        return embedding + other

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs a token, forward and backward: 6·N + 12·n_layers·emb_dim·context_length.

        N counts all parameters but the two embedding tables, so the output head too (Kaplan et al.
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
        """Optimizer steps of the whole budget; None for a budget in seconds, which only the clock can tell.

        Args:
            train_windows: windows of `context_length` tokens in the training split.
        """
        budget = self.train.budget
        if budget.seconds is not None:
            return None
        if budget.steps is not None:
            return budget.steps
        if budget.epochs is not None:
            windows = math.floor(budget.epochs * train_windows + 1e-6)  # 0.57 of 100 is 57, not a float's 56
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
        """Optimizer steps between two points, so that a caller hears of a run often enough to follow and to end it."""
        total = self.total_steps(train_windows) or 1000  # a budget in seconds has no known number
        return max(1, min(MAX_LOG_STEPS, self.eval_steps(train_windows), total // 100))

    def rhythm(self, train_tokens: int) -> tuple[int, int | None]:
        """Tokens between evaluations, at most the budget, and of the whole budget (None where only time knows).

        Args:
            train_tokens: tokens of the training split.
        """
        windows = (train_tokens - 1) // self.model.context_length
        steps = self.total_steps(windows)
        first = self.eval_steps(windows)
        if steps is not None:
            return min(first, steps) * self.tokens_per_step, steps * self.tokens_per_step
        return first * self.tokens_per_step, None

    def samples(self, val_tokens: int) -> bool:
        """Whether evaluations between the start and the end score a sample of the validation split, of so many tokens.

        Curves and pruning then go by the sample at every evaluation, results by the whole split at both ends.
        """
        return self.train.eval_tokens is not None and self.train.eval_tokens < val_tokens - 1

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain JSON values, nothing left open."""
        plain = self.model_dump(mode="json")
        plain["model"]["vocab_size"] = self.vocab_size
        return plain

    def flat(self) -> dict[str, Any]:
        """The resolved configuration as `section.field` → value, fields that are None left out."""
        return dict(flatten(self.resolved()))

    def digest(self) -> str:
        """SHA-256 of the resolved configuration, every default written out, without what changes no number."""
        return digest_of(decisive(self.resolved()))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `a.b.c` → value for every leaf that is not None; an empty list counts as a leaf."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        elif value is not None:
            yield path, value
