"""A token embedding of which only some rows are trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SparseEmbedding(nn.Module):
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
