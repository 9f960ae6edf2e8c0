"""GPT-2 as a plain module: learned positions, pre-norm blocks, causal multi-head attention, untied output head.

After Radford et al. 2019 and Raschka, "Build a Large Language Model (From Scratch)", chapter 4, whose parameter
names are kept. Shapes in comments: B sequences, T positions, C = emb_dim, H heads, D = C / H, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config.run import ModelConfig
from harness.model.cross_entropy import linear_cross_entropy
from harness.model.dropout import causal_attention, dropout
from harness.model.embedding import SparseEmbedding


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
        """Queries, keys and values, each (B, T, C). On a GPU one large product is faster than three."""
        three = self.W_query, self.W_key, self.W_value
        if x.device.type != "cuda":
            return [projection(x) for projection in three]
        bias = None if self.W_query.bias is None else torch.cat([projection.bias for projection in three])
        return F.linear(x, torch.cat([projection.weight for projection in three]), bias).chunk(3, -1)


class FeedForward(nn.Module):
    """Two linear layers with a hidden width of 4·C and GPT-2's tanh approximation of GELU."""

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
        self.tok_emb: nn.Embedding | SparseEmbedding = nn.Embedding(vocab_size, config.emb_dim)
        self.pos_emb = nn.Embedding(config.context_length, config.emb_dim)
        self.trf_blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.emb_dim)
        self.out_head = nn.Linear(config.emb_dim, vocab_size, bias=False)
        if config.tie_embeddings:
            self.out_head.weight = self.tok_emb.weight

    def train_only_rows(self, trained_ids: Tensor) -> None:
        """Make the embedding rows of all other token ids untrained. `trained_ids`: (R,) int64, ascending."""
        assert isinstance(self.tok_emb, nn.Embedding)
        self.tok_emb = SparseEmbedding(self.tok_emb, trained_ids)

    @property
    def untrained_scale(self) -> float | None:
        """See `SparseEmbedding`; None where all rows of the embedding are trained."""
        return self.tok_emb.untrained_scale if isinstance(self.tok_emb, SparseEmbedding) else None

    @untrained_scale.setter
    def untrained_scale(self, scale: float) -> None:
        assert isinstance(self.tok_emb, SparseEmbedding)
        self.tok_emb.untrained_scale = scale

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
        return linear_cross_entropy(x, self.out_head.weight, targets.flatten())

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, targets: Tensor, first: int = 0) -> Tensor:
        """Negative log probability of each target from position `first` on, (B, T - first) float32, in nats."""
        x = self.hidden(tokens)[:, first:].flatten(0, 1)
        targets = targets[:, first:]
        return linear_cross_entropy(x, self.out_head.weight, targets.flatten(), reduction="none").view_as(targets)
