"""The work that is measured: shapes of single trials, and one sweep. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

VOCABULARY = 50257  # GPT-2's byte pair encoding
SEED = 1


@dataclass(frozen=True)
class Shape:
    """A GPT and its batch: context length in tokens, batch size in sequences, the rest as in GPT-2."""

    context_length: int
    emb_dim: int
    n_heads: int
    n_layers: int
    batch_size: int
    drop_rate: float = 0.1
    biases: bool = False  # of a peer in which biases are optional; our model has them, as GPT-2

    @property
    def model(self) -> dict[str, float]:
        """The fields of `model` in a spec."""
        return {name: value for name, value in vars(self).items() if name not in ("batch_size", "biases")}

    @property
    def tokens_per_step(self) -> int:
        return self.context_length * self.batch_size


SHAPES = {
    "small": Shape(context_length=128, emb_dim=128, n_heads=4, n_layers=4, batch_size=8),
    "tiny": Shape(context_length=64, emb_dim=64, n_heads=2, n_layers=2, batch_size=4),
    "124m": Shape(context_length=256, emb_dim=768, n_heads=12, n_layers=12, batch_size=2),
    "124m-1024": Shape(  # on a GPU
        context_length=1024, emb_dim=768, n_heads=12, n_layers=12, batch_size=12, biases=True
    ),
    "mini": Shape(context_length=16, emb_dim=16, n_heads=2, n_layers=1, batch_size=2),  # for --quick
}


@dataclass(frozen=True)
class Sweep:
    """A grid over learning rate and dropout; trials evaluate the whole validation split every `eval_every` steps."""

    shape: Shape
    learning_rates: tuple[float, ...]
    drop_rates: tuple[float, ...]
    steps: int
    eval_every: int

    @property
    def trials(self) -> int:
        return len(self.learning_rates) * len(self.drop_rates)


SWEEP = Sweep(
    Shape(context_length=64, emb_dim=64, n_heads=2, n_layers=2, batch_size=8),
    learning_rates=(3e-4, 1e-3, 3e-3),
    drop_rates=(0.0, 0.1),
    steps=60,
    eval_every=20,
)
QUICK_SWEEP = Sweep(
    replace(SHAPES["mini"], context_length=64, batch_size=8),
    learning_rates=(1e-3, 3e-3),
    drop_rates=(0.1,),
    steps=2,
    eval_every=1,
)
SWEEPS = {"full": SWEEP, "short": QUICK_SWEEP}  # by name of the corpus

# "full": 22 addresses of 1801 to 1822; the validation split has 7,723 targets. "short", for single trials and --quick:
# one address with 3,225 training tokens and 393 validation targets.
CORPORA = {
    "full": {"corpus": "sotu-1801-1822", "tokenizer": "gpt2", "split": {"val": 0.0951, "test": 0.1}},
    "short": {"corpus": "sotu-1820", "tokenizer": "gpt2", "split": {"val": 0.1, "test": 0.1}},
}
