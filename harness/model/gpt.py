"""GPT-2 as a plain module: learned positions, pre-norm blocks, causal multi-head attention, untied output head.

After Radford et al. 2019 and Raschka, "Build a Large Language Model (From Scratch)", chapter 4, whose parameter
names are kept. Shapes in comments: B sequences, T positions, C = emb_dim, H heads, D = C / H, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.config.run import VOCABULARY, ModelConfig, RunConfig
from harness.core.rng import stream
from harness.model.cross_entropy import linear_cross_entropy, padded_logits, token_losses
from harness.model.dropout import causal_attention, dropout
from harness.training.devices import is_plain

SCORED_ROWS = {"cpu": 256, "cuda": 8192, "mps": 8192}  # of logits, held at once where the head is a whole product
MOST_ROWS = 0.8  # of a token embedding: where more are trained, all are
INIT_STD = 0.02  # GPT-2's; the output projections of the 2·n_layers residual branches get it over √(2·n_layers)


class Attention(nn.Module):
    """Causal multi-head self-attention, (B, T, C) → (B, T, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.emb_dim
        self.n_heads = config.n_heads
        self.drop_rate = config.drop_rate
        self.W_query = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.W_key = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.W_value = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to this and earlier positions."""
        batch, length, dim = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, length, self.n_heads, dim // self.n_heads).transpose(1, 2)  # (B, H, T, D)

        rate = self.drop_rate if self.training else 0.0
        query, key, value = map(heads, self._projections(x))
        y = causal_attention(query, key, value, rate)
        return self.out_proj(y.transpose(1, 2).reshape(batch, length, dim))

    def _projections(self, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values, each (B, T, C); on a GPU by one product, whose matrix units larger ones suit."""
        three = self.W_query, self.W_key, self.W_value
        if x.device.type != "cuda":
            return [projection(x) for projection in three]
        bias = None if self.W_query.bias is None else torch.cat([projection.bias for projection in three])
        return F.linear(x, torch.cat([projection.weight for projection in three]), bias).chunk(3, -1)


class FeedForward(nn.Module):
    """Two layers with a hidden width of 4·C and the tanh form of GELU, as GPT-2 has it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.emb_dim, 4 * config.emb_dim)
        self.contract = nn.Linear(4 * config.emb_dim, config.emb_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        return self.contract(F.gelu(self.expand(x), approximate="tanh"))


class Block(nn.Module):
    """One pre-norm transformer block with dropout on both residual branches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.drop_rate = config.drop_rate
        self.norm1 = nn.LayerNorm(config.emb_dim)
        self.att = Attention(config)
        self.norm2 = nn.LayerNorm(config.emb_dim)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        x = x + dropout(self.att(self.norm1(x)), self.drop_rate, self.training)
        return x + dropout(self.ff(self.norm2(x)), self.drop_rate, self.training)


class TrainedRows(nn.Module):
    """A token embedding whose rows for tokens that no training window holds are no parameters.

    Their gradient is zero at every step, so all that AdamW does to them is to decay them, by one factor for all. With a
    small corpus these are nine tenths of a large vocabulary, and gradient, moments and update of a row that is trained
    and of one that is not cost the same.

    Args:
        whole: the embedding as it begins, (V, C).
        rows: the ids that are trained, ascending, (R,) int64.

    Attributes:
        weight: the trained rows, (R, C).
        decay: what is left of the others.
    """

    rows: Tensor
    others: Tensor
    places: Tensor

    def __init__(self, whole: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        begun = whole.weight.detach()
        self.weight = nn.Parameter(begun[rows].clone())
        self.decay = 1.0
        self.register_buffer("rows", rows)
        self.register_buffer("others", begun)
        self.register_buffer("places", torch.full((len(begun),), -1).index_put_((rows,), torch.arange(len(rows))))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T), in training such as are trained → (B, T, C)."""
        places = self.places[tokens]
        if self.training:
            return F.embedding(places, self.weight)
        trained = F.embedding(places.clamp(min=0), self.weight)
        return torch.where(places[..., None] < 0, self.others[tokens] * self.decay, trained)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """The whole embedding, as `nn.Embedding` has it."""
        destination[f"{prefix}weight"] = (self.others * self.decay).index_put_((self.rows,), self.weight.detach())


class GPT(nn.Module):
    """GPT-2. Build one with `build_gpt`, which also sets its weights.

    Args:
        config: sizes and dropout rate.
        vocab_size: rows of the token embedding and of the output head.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.context_length = config.context_length
        self.drop_rate = config.drop_rate
        self.tok_emb: nn.Embedding | TrainedRows = nn.Embedding(vocab_size, config.emb_dim)
        self.pos_emb = nn.Embedding(config.context_length, config.emb_dim)
        self.trf_blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.emb_dim)
        self.out_head = nn.Linear(config.emb_dim, vocab_size, bias=False)
        if config.tie_embeddings:
            self.out_head.weight = self.tok_emb.weight

    def train_rows(self, rows: Tensor) -> None:
        """Make the rows of the token embedding that are not in `rows`, ids (R,) int64 ascending, no parameters."""
        assert isinstance(self.tok_emb, nn.Embedding)
        self.tok_emb = TrainedRows(self.tok_emb, rows)

    @property
    def untrained_decay(self) -> float | None:
        """What weight decay has left of the embedding's rows that are no parameters; None where all are."""
        return self.tok_emb.decay if isinstance(self.tok_emb, TrainedRows) else None

    @untrained_decay.setter
    def untrained_decay(self, left: float) -> None:
        assert isinstance(self.tok_emb, TrainedRows)
        self.tok_emb.decay = left

    def hidden(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T), T ≤ context_length → normalised features before the head, (B, T, C)."""
        length = tokens.shape[1]
        if length > self.context_length:
            raise ValueError(f"found {length} tokens; allowed: at most the context_length of {self.context_length}")
        positions = torch.arange(length, device=tokens.device)
        x = dropout(self.tok_emb(tokens) + self.pos_emb(positions), self.drop_rate, self.training)
        for block in self.trf_blocks:
            x = block(x)
        return self.final_norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) → logits of the next token at each position, (B, T, V)."""
        return self.out_head(self.hidden(tokens))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy: the mean negative log probability of `targets` (B, T), in nats; differentiable."""
        x = self.hidden(tokens).flatten(0, 1)  # (B·T, C)
        if is_plain(x):
            return linear_cross_entropy(x, self.out_head.weight, targets.flatten())
        if x.device.type == "cuda":
            return F.cross_entropy(padded_logits(x, self.out_head.weight), targets.flatten())
        return F.cross_entropy(self.out_head(x).float(), targets.flatten())

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, targets: Tensor, first: int = 0) -> Tensor:
        """Negative log probability of each target from position `first` on, (B, T - first) float32, in nats.

        Holds few logits at once.
        """
        x = self.hidden(tokens)[:, first:].flatten(0, 1)
        targets = targets[:, first:]
        if is_plain(x):
            return token_losses(x, self.out_head.weight, targets.flatten()).view_as(targets)
        rows = SCORED_ROWS[x.device.type]
        losses = [
            F.cross_entropy(self.out_head(part).float(), wanted, reduction="none")
            for part, wanted in zip(x.split(rows), targets.flatten().split(rows), strict=True)
        ]
        return torch.cat(losses).view_as(targets)


class Undrawn(TorchFunctionMode):
    """Inside, modules do not draw their weights: of large ones it takes seconds, and they are overwritten at once."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Leave a tensor as it is instead of drawing it; do everything else."""
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def build_gpt(
    config: RunConfig,
    device: torch.device | str = "cpu",
    vocabulary: npt.NDArray[np.integer] | None = None,
    trained: npt.NDArray[np.integer] | None = None,
) -> GPT:
    """A GPT with the initial weights that belong to `config.train.seed`, in training mode, on `device`.

    Args:
        config: of the run, resolved.
        device: where it is to be.
        vocabulary: the tokenizer's id of each of the dataset's ids, where they differ. A token then begins with the
            weights that it has in a GPT with the tokenizer's whole vocabulary.
        trained: the ids that occur in training, ascending. Where they are so few that it pays, the embedding's other
            rows are no parameters. None: whatever may occur.
    """
    with Undrawn():
        model = GPT(config.model, config.vocab_size)
    rows = None
    if vocabulary is not None:
        unused = VOCABULARY[config.data.tokenizer] + np.arange(config.vocab_size - len(vocabulary))
        rows = np.concatenate([vocabulary, unused])
    initialise(model, config.train.seed, rows)
    tied = config.model.tie_embeddings  # then all rows are the head's, and trained
    if trained is not None and len(trained) < MOST_ROWS * config.vocab_size and not tied:
        model.train_rows(torch.from_numpy(trained.astype(np.int64)))
    return model.to(device)


def initialise(model: GPT, seed: int, rows: npt.NDArray[np.integer] | None = None) -> None:
    """Set every weight: GPT-2's scheme, each tensor from a stream of its own, named by the parameter.

    Two models with one seed therefore share every tensor they have in common bit for bit, whether or not the other
    has biases in its attention, more layers or a longer context (whose position table begins with the shorter
    one's rows). Only the residual projections differ between depths, by GPT-2's factor 1/√(2·n_layers).

    Args:
        model: any GPT.
        seed: of the run.
        rows: which rows of a table of all tokens the rows of the embedding and of the head are; None: its first ones.
    """
    residual_std = INIT_STD / math.sqrt(2 * len(model.trf_blocks))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            std = residual_std if name.endswith(("att.out_proj.weight", "ff.contract.weight")) else INIT_STD
            shape = tuple(parameter.shape)
            if rows is not None and name in ("tok_emb.weight", "out_head.weight"):
                all_rows = stream(seed, "init", name).standard_normal((rows.max() + 1, shape[1]), dtype=np.float32)
                normal = all_rows[rows]
            else:
                normal = stream(seed, "init", name).standard_normal(shape, dtype=np.float32)
            parameter.copy_(torch.from_numpy(normal).mul_(std))
