"""Hugging Face: `GPT2LMHeadModel` of `transformers` from PyPI, built from a configuration, with fused AdamW.

A step is that of its Trainer (fused AdamW by default, clipping at 1.0), but without the Trainer, which needs
`accelerate` and is slower. Tied embeddings and biases, as in GPT-2; attention is SDPA.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peer import main
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from workload import VOCABULARY, Shape


class HuggingFace:
    """transformers' GPT-2."""

    name = "hf"

    def build(self, shape: Shape, drop_rate: float) -> nn.Module:
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=shape.context_length,
            n_embd=shape.emb_dim,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            embd_pdrop=drop_rate,
            attn_pdrop=drop_rate,
            resid_pdrop=drop_rate,
            use_cache=False,
        )
        return GPT2LMHeadModel(config)

    def optimizer(self, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        # With `labels` alone the model would shift them and lose the last target of each window.
        return model(input_ids=inputs, labels=targets, shift_labels=targets).loss

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.loss(model, inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss


if __name__ == "__main__":
    main(HuggingFace())
