"""The sections of a run's configuration, `data`, `model` and `train`: each field with its type, bounds and default.

The text under a field is its description in `experiments/README.md`; see `harness.config.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from harness.config.base import Amount, Config, Paths, Share, Whole, exactly_one
from harness.config.mixture import AllowedSources, MixSource, check_sources, sorted_sources
from harness.config.tokenizers import VOCABULARY, AllowedTokenizers, check_name, short_form
from harness.core.secrets import kept_in_memory
from harness.core.text import shown

# The GPT-2 family (Radford et al. 2019, table 2), with a context of 256 instead of 1024.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gpt2-124m": {"emb_dim": 768, "n_heads": 12, "n_layers": 12},
    "gpt2-355m": {"emb_dim": 1024, "n_heads": 16, "n_layers": 24},
    "gpt2-774m": {"emb_dim": 1280, "n_heads": 20, "n_layers": 36},
    "gpt2-1558m": {"emb_dim": 1600, "n_heads": 25, "n_layers": 48},
}
# The vocabulary is that of `data.tokenizer`, by default GPT-2's.
_PRESET_COMMON: Final[Mapping[str, Any]] = {"context_length": 256, "drop_rate": 0.1, "qkv_bias": False}

PRESET_FIELDS: Final = frozenset(_PRESET_COMMON).union(*PRESETS.values())  # of the model, set by any preset


class Split(Config):
    """Shares of the text. By position they are cut from its end: training text first, then validation, then test."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the text for validation; not used with `data.val_path`."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the text for the final test, which confirm runs read once, after their last step; not used with
    `data.test_path`."""
    by: Literal["position", "documents"] = "position"
    """`position`: the text is cut in two places, by shares of its characters; training text first, then validation,
    then test. `documents`: whole documents are drawn at random, by shares of the bytes; equal ones are in one split."""
    seed: Annotated[Whole, Field(ge=0)] = 0
    """Seed of the draw of documents; equal in all runs."""

    @model_validator(mode="after")
    def _leave_something(self) -> Split:
        if self.val + self.test >= 1:
            raise ValueError(f"found val {self.val} + test {self.test}; allowed: a sum under 1")
        return self


class DataConfig(Config):
    """The text and how it becomes tokens. Exactly one of `corpus`, `path`, `url` and `mix` says where the text is."""

    corpus: str | None = None
    """A built-in corpus; `python -m harness.data list` names them."""
    path: Paths = None
    """One or several files, patterns such as `books/*.txt` or folders, relative to the current folder. The ending says
    how a file is read: `.txt`, `.md` and others as UTF-8 text; one column or key of `.jsonl`, `.json`, `.parquet`,
    `.arrow`, `.csv` and `.tsv`; each also with `.gz`, `.zst` or `.xz`; `.bin` as token ids of `tokenizer`, of two bytes
    each. Of a folder all files of one kind, or the data set that Hugging Face's `save_to_disk` wrote there."""
    url: Annotated[str, AfterValidator(kept_in_memory)] | None = None
    """The address of a text that is downloaded once; needs `sha256`. A user name, a password and a signed query are
    used for the download and stored nowhere."""
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{64}$")] = None
    """SHA-256 of the downloaded text."""
    mix: Annotated[
        dict[str, MixSource] | None,
        BeforeValidator(check_sources),
        AfterValidator(sorted_sources),
        AllowedSources(),
    ] = None
    """Several texts: name → source. Each training window is drawn from a source at random, in proportion to the
    weights; in a source every window is taken once before any is again. An epoch is as many windows as all training
    texts have. Each source is divided by `split` and has losses of its own (`val/loss_NAME`). The loss of a whole split
    weighs each source by its tokens there, whatever its weight, so that arms with other weights are compared on the
    same targets."""
    val_path: Paths = None
    """Files of the validation text, named as in `path`. Of `path` they are left out."""
    test_path: Paths = None
    """Files of the test text, named as in `path`. Of `path` they are left out."""
    format: Literal["text"] | None = None
    """`text`: files are read as they are, whatever their ending. `null`: by their ending; text files that look like
    CSV, TSV or JSON are refused, as a model would learn their commas, braces and field names too."""
    field: Annotated[str | None, Field(min_length=1)] = None
    """The column or key that has the text, in files that have several. `null`: `text`."""
    separator: Literal["blank_line", "endoftext", "none"] = "blank_line"
    """What stands between documents: rows of tables, values of JSON, whole text files. `endoftext`: the token
    `<|endoftext|>`, which counts as a token of 0 bytes. `none`: nothing, so tokens may cross from one to the next."""
    tokenizer: Annotated[str, BeforeValidator(short_form), AfterValidator(check_name), AllowedTokenizers()] = "gpt2"
    """How text becomes tokens. `gpt2`, `r50k_base` and `byte` work offline; tiktoken downloads the other names.
    `char`: a character of the training text is one token, any other character is its UTF-8 bytes. `{train: bpe,
    vocab_size: 4096}`, in short `bpe-4096`: a byte-level BPE, trained on the training text. A path: a `tokenizer.json`
    of Hugging Face's tokenizers, or the `.model` of SentencePiece. Arms with different tokenizers are compared by bits
    per byte."""
    vocab: Literal["full", "corpus"] = "full"
    """`full`: the model knows every token of the tokenizer. `corpus`: only the tokens that occur in the text,
    renumbered, which makes small models on short texts several times faster."""
    windows: Literal["across", "within"] = "across"
    """`across`: the text is cut into windows of `context_length` tokens wherever documents end. `within`: each document
    is cut by itself, so that no position sees another one, and its first token is no target. The rest of a document is
    filled up with positions that count in no loss, but as tokens of the budget. Needs `separator: endoftext`, or token
    files in which that token ends documents."""
    split: Split = Split()
    """How the text is divided into training, validation and test text."""

    @property
    def n_vocab(self) -> int | None:
        """Size of the vocabulary; None if it is known only once the text is tokenized (`Dataset.resolve`)."""
        return VOCABULARY.get(self.tokenizer) if self.vocab == "full" else None

    @property
    def weights(self) -> dict[str, float]:
        """Source of the mixture → its weight; empty without a mixture."""
        return {name: source.weight for name, source in (self.mix or {}).items()}

    @property
    def texts(self) -> DataConfig:
        """This section without the weights of a mixture, which do not decide what its tokens are."""
        if self.mix is None:
            return self
        equal = {name: source.model_copy(update={"weight": 1.0}) for name, source in self.mix.items()}
        return self.model_copy(update={"mix": sorted_sources(equal)})

    @property
    def parts(self) -> dict[str, DataConfig]:
        """Source of the mixture → the section of a run on it alone; this section under "" without a mixture."""
        if self.mix is None:
            return {"": self}
        return {name: self.model_copy(update={"mix": None, **one.own()}) for name, one in self.mix.items()}

    def holds_out(self, split: Literal["val", "test"]) -> bool:
        """Whether a split has text of its own, in every source of a mixture."""
        return all(getattr(part, f"{split}_path") is not None for part in self.parts.values())

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        exactly_one("source", {"corpus": self.corpus, "path": self.path, "url": self.url, "mix": self.mix})
        for name, value in (("val_path", self.val_path), ("test_path", self.test_path)):
            if self.mix is not None and value is not None:
                raise ValueError(f"{name}: found together with mix; allowed: data.mix.NAME.{name}, of a source")
        if (self.url is None) != (self.sha256 is None):
            raise ValueError("found one of url and sha256; allowed: both, so that the content is the one you meant")
        return self


class ModelConfig(Config):
    """A GPT-2. The defaults are GPT-2 124M with a context of 256 tokens; `preset` names a whole size at once."""

    vocab_size: Annotated[Whole | None, Field(gt=0)] = None
    """Rows of the embedding and of the head. `null`: the size of the vocabulary that `data` asks for. May be larger."""
    context_length: Annotated[Whole, Field(ge=1)] = 256
    """Tokens in a window: how far back the model can look."""
    emb_dim: Annotated[Whole, Field(ge=1)] = 768
    """Width of the residual stream; a multiple of `n_heads`."""
    n_heads: Annotated[Whole, Field(ge=1)] = 12
    """Attention heads in each block."""
    n_layers: Annotated[Whole, Field(ge=1)] = 12
    """Transformer blocks."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout rate of embeddings, attention weights and both residual branches."""
    qkv_bias: bool = False
    """Whether the query, key and value projections have biases."""
    tie_embeddings: bool = False
    """Whether the output head shares its weights with the token embedding."""
    init_from: Annotated[str | None, Field(min_length=1)] = None
    """Weights to start from: a folder with a GPT-2 of Hugging Face (safetensors) or a checkpoint, a hub id, or
    `run:RUN`. Sizes are then those of the weights; `drop_rate` and a shorter `context_length` may be written."""
    init_sha256: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = None
    """SHA-256 of these weights. A sweep writes it out; written in a spec, it refuses others."""

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
        if self.init_sha256 is not None and self.init_from is None:
            raise ValueError("init_sha256: found a value without init_from; allowed: with it only")
        return self


class Budget(Config):
    """When training ends. Exactly one is given; the learning-rate schedule runs over it."""

    tokens: Annotated[Whole | None, Field(gt=0)] = None
    """Training tokens."""
    epochs: Amount | None = None
    """Passes over the training text; may be a fraction."""
    steps: Annotated[Whole | None, Field(gt=0)] = None
    """Optimizer steps."""
    flops: Amount | None = None
    """Training FLOPs, counted as tokens · (6·N + 12·n_layers·emb_dim·context_length)."""
    seconds: Amount | None = None
    """Seconds of training; evaluations and samples are not counted."""

    @model_validator(mode="after")
    def _one(self) -> Budget:
        exactly_one("budget", self.model_dump())
        return self


class Every(Config):
    """An interval. Exactly one is given."""

    tokens: Annotated[Whole | None, Field(gt=0)] = None
    """Training tokens."""
    epochs: Amount | None = None
    """Passes over the training text; may be a fraction."""
    steps: Annotated[Whole | None, Field(gt=0)] = None
    """Optimizer steps."""

    @model_validator(mode="after")
    def _one(self) -> Every:
        exactly_one("rhythm", self.model_dump())
        return self


class SampleConfig(Config):
    """The texts that are generated at each evaluation: a sampled one, and a greedy one of the likeliest tokens."""

    prompt: Annotated[str, Field(min_length=1)] = "Every effort moves you"
    """The text that is continued."""
    max_new_tokens: Annotated[Whole, Field(ge=0)] = 50
    """Tokens to generate. 0: no text is generated."""
    temperature: Annotated[float, Field(ge=0)] = 0.8
    """Temperature of the sampled text, whose random numbers `seed` decides. 0: it is left out."""
    top_k: Annotated[Whole | None, Field(ge=1)] = 40
    """Sample among the `top_k` most likely tokens only. `null`: among all."""


class TrainConfig(Config):
    """How the GPT is trained. Exactly one of `batch_tokens` and `batch_size` is given."""

    budget: Budget
    """When training ends; the learning-rate schedule runs over it. Exactly one is given."""
    batch_tokens: Annotated[Whole | None, Field(gt=0)] = None
    """Tokens in one optimizer step; a multiple of `model.context_length`."""
    batch_size: Annotated[Whole | None, Field(gt=0)] = None
    """Windows of `model.context_length` tokens in one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the matrices of the blocks, AdamW for everything else."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    """How the learning rate goes down after the warm-up. `wsd`: stable, then a linear decay."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the budget over which the learning rate rises linearly from 0."""
    final_fraction: Share = 0.1
    """Learning rate at the end, as a share of the peak."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the budget over which `wsd` decays; other schedules ignore it."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay of matrices; biases and norms are not decayed."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay rate of the mean of gradients."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW's decay rate of the mean of squared gradients."""
    grad_clip: Annotated[float | None, Field(gt=0)] = 1.0
    """Largest global L2 norm of the gradient. `null`: no clipping."""
    eval_every: Every = Every(epochs=1.0)
    """How often the model is evaluated, in addition to the start and the end. Exactly one is given."""
    train_eval_tokens: Annotated[Whole, Field(gt=0)] = 4096
    """Tokens of the fixed training sample that `train/loss` is measured on."""
    eval_tokens: Annotated[Whole | None, Field(gt=0)] = None
    """Tokens of a fixed validation sample for the evaluations between start and end. `null`: the whole validation
    split at each."""
    checkpoint_every: Annotated[float | None, Field(gt=0)] = 60.0
    """Seconds between two saved states of a run, from which an interrupted run resumes. `null`: none is saved, and the
    run starts again. Changes no number, so it may be changed at any time."""
    sample: SampleConfig = SampleConfig()
    """The texts that are generated at each evaluation: a sampled one, and beside it a greedy one."""
    seed: Annotated[Whole, Field(ge=0, le=2**62)] = 1
    """Seed of the search. Confirm runs use the seeds after it, or from it on where nothing is tuned."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on GPUs that support it, else fp32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: a GPU where there is one."""
    compile: Literal["auto", True, False] = "auto"
    """Whether to use `torch.compile`. `auto`: on a GPU, for runs of two minutes and more."""

    @model_validator(mode="after")
    def _one_batch(self) -> TrainConfig:
        exactly_one("batch", {"batch_tokens": self.batch_tokens, "batch_size": self.batch_size})
        return self
