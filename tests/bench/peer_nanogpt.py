"""A GPT after nanoGPT, which is on no package index: this is our own script after its published design.

The same: one product for query, key and value; SDPA with `is_causal`; no biases, except in
shapes with `biases` (on a GPU, for the 124M preset: nanoGPT's `bias=True`, "like GPT-2"); the head tied to
the token embedding; a vocabulary of 50304, padded to a multiple of 64; initial weights of N(0, 0.02), the residual
projections by 1/√(2·n_layers) less; the whole logits and `cross_entropy`; fused AdamW with betas 0.9 and 0.95, decay
0.1 on matrices and none on vectors; clipping at 1.0; gradients set to None. Left out: `torch.compile` on a
CPU, which takes longer than these trials (nanoGPT recommends `--compile=False`), and the configuration system.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from peer import main
from torch import Tensor, nn
from workload import Shape

PADDED_VOCABULARY = 50304
STD = 0.02


class Norm(nn.Module):
    """LayerNorm with an optional bias."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Layer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, shape: Shape, drop_rate: float) -> None:
        super().__init__()
        width, bias = shape.emb_dim, shape.biases
        self.heads, self.drop_rate = shape.n_heads, drop_rate
        self.norm_1, self.norm_2 = Norm(width, bias), Norm(width, bias)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.attention_out = nn.Linear(width, width, bias=bias)
        self.expand = nn.Linear(width, 4 * width, bias=bias)
        self.mlp_out = nn.Linear(4 * width, width, bias=bias)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        parts = self.qkv(self.norm_1(x)).split(width, dim=2)
        q, k, v = (part.view(rows, length, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        rate = self.drop_rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=rate, is_causal=True)
        x = x + self.drop(self.attention_out(y.transpose(1, 2).contiguous().view(rows, length, width)))
        return x + self.drop(self.mlp_out(F.gelu(self.expand(self.norm_2(x)))))


class Model(nn.Module):
    """Embeddings, layers, norm, tied head."""

    def __init__(self, shape: Shape, drop_rate: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(PADDED_VOCABULARY, shape.emb_dim)
        self.positions = nn.Embedding(shape.context_length, shape.emb_dim)
        self.drop = nn.Dropout(drop_rate)
        self.layers = nn.ModuleList(Layer(shape, drop_rate) for _ in range(shape.n_layers))
        self.norm = Norm(shape.emb_dim, shape.biases)
        self.head = nn.Linear(shape.emb_dim, PADDED_VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith("_out.weight")
                nn.init.normal_(parameter, std=STD / math.sqrt(2 * shape.n_layers) if residual else STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1], device=inputs.device))
        x = self.drop(x)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)


class NanoGPT:
    """A GPT and a training step after nanoGPT."""

    name = "nanogpt"

    def build(self, shape: Shape, drop_rate: float) -> nn.Module:
        return Model(shape, drop_rate)

    def optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        groups = [
            {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return model(inputs, targets)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.loss(model, inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss


if __name__ == "__main__":
    main(NanoGPT())
