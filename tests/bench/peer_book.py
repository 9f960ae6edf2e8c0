"""The book's loop: Raschka, "Build a Large Language Model (From Scratch)", package `llms-from-scratch` from PyPI.

Its GPTModel of chapter 4; the training step of chapter 5 (`cross_entropy` over the flattened logits, plain
`torch.optim.AdamW(lr, weight_decay=0.1)`, no clipping), written out here because the chapter's function trains whole
epochs and prints.
"""

from __future__ import annotations

import torch
from llms_from_scratch.ch04 import GPTModel  # type: ignore[import-untyped]
from peer import main
from torch import Tensor, nn
from workload import VOCABULARY, Shape


class Book:
    """The book's GPTModel and loop."""

    name = "book"

    def build(self, shape: Shape, drop_rate: float) -> nn.Module:
        return GPTModel(
            {
                "vocab_size": VOCABULARY,
                "context_length": shape.context_length,
                "emb_dim": shape.emb_dim,
                "n_heads": shape.n_heads,
                "n_layers": shape.n_layers,
                "drop_rate": drop_rate,
                "qkv_bias": False,
            }
        )

    def optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.1)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = self.loss(model, inputs, targets)
        loss.backward()
        optimizer.step()
        return loss


if __name__ == "__main__":
    main(Book())
