"""A token embedding of which only some rows are trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SparseEmbedding(nn.Module):
    """A token embedding whose parameters are only the rows of tokens that occur in the training split.

    The other rows have a zero gradient at every step, so the optimizer only applies weight decay to them: the same
    factor to all. With a small corpus they are nine tenths of a large vocabulary. As parameters they would cost as much
    as the trained rows: gradient, moments and update.

    Args:
        full: the embedding with its initial weights, (V, C).
        trained_ids: the token ids whose rows are trained, ascending, (R,) int64.

    Attributes:
        weight: the trained rows, (R, C).
        untrained_scale: product of the weight-decay factors so far; the untrained rows are their initial values times
            this.
    """

    trained_ids: Tensor
    initial: Tensor
    row_of_id: Tensor  # (V,): the row of `weight`, or -1

    def __init__(self, full: nn.Embedding, trained_ids: Tensor) -> None:
        super().__init__()
        initial = full.weight.detach()
        rows = torch.arange(len(trained_ids))
        self.weight = nn.Parameter(initial[trained_ids].clone())
        self.untrained_scale = 1.0
        self.register_buffer("trained_ids", trained_ids)
        self.register_buffer("initial", initial)
        self.register_buffer("row_of_id", torch.full((len(initial),), -1).index_put_((trained_ids,), rows))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) → (B, T, C). In training mode all ids must be trained ones."""
        rows = self.row_of_id[tokens]
        if self.training:
            return F.embedding(rows, self.weight)
        trained = F.embedding(rows.clamp(min=0), self.weight)
        return torch.where(rows[..., None] < 0, self.initial[tokens] * self.untrained_scale, trained)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save the full embedding (V, C) under the name that `nn.Embedding` gives it."""
        untrained = self.initial * self.untrained_scale
        destination[f"{prefix}weight"] = untrained.index_put_((self.trained_ids,), self.weight.detach())
