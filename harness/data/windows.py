"""The windows of a split: how it is cut for training and for evaluations. `data.windows` chooses the class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from harness.data.batches import (
    Batch,
    count_windows,
    fixed_sample,
    scoring_batches,
    strided_batches,
    take_windows,
    training_batches,
)
from harness.data.document_cuts import Cut, evenly_spaced, strided_documents
from harness.data.document_windows import equal_batches, padded_batches
from harness.data.stored_ids import Tokens

Part = tuple[int, int]  # index of a window's first token, and its number of targets


class Windows(Protocol):
    """The windows of a split for models of one context length."""

    @property
    def targets(self) -> int:
        """Targets of all windows in an epoch of training."""

    def __len__(self) -> int:
        """Windows in an epoch of training."""

    def training(
        self, sequences: int, seed: int, start: int = 0, rows: slice = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches (inputs, targets); the arguments are those of `harness.data.batches.training_batches`."""

    def whole(self, sequences: int) -> tuple[int, Iterator[Batch]]:
        """The number of tokens that can be a target, and batches in which each of them is one exactly once."""

    def sample(self, wanted: int, sequences: int) -> tuple[list[Part], Iterator[Batch]]:
        """The places of evenly spaced windows with about `wanted` targets in all, equal for every seed, and batches."""

    def passage(self, targets: int) -> Tokens:
        """Up to `targets` tokens after the first one of the text or of its first document, and that one before them."""

    def strided(self, sequences: int, min_context: int) -> tuple[int, Iterator[Batch]]:
        """The number of targets with at least `min_context` tokens before them, and batches of these, each once."""


class AcrossDocuments:
    """Consecutive windows of a whole split, wherever its documents end.

    Args:
        tokens: the split.
        context_length: of the model.
    """

    def __init__(self, tokens: Tokens, context_length: int) -> None:
        self._tokens, self._length = tokens, context_length

    @property
    def targets(self) -> int:
        """Every window is full."""
        return len(self) * self._length

    def __len__(self) -> int:
        return count_windows(len(self._tokens), self._length)

    def training(
        self, sequences: int, seed: int, start: int = 0, rows: slice = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches; no window is dropped."""
        return training_batches(self._tokens, self._length, sequences, seed, start, rows)

    def whole(self, sequences: int) -> tuple[int, Iterator[Batch]]:
        """Every token but the first, once; the last window may be shorter."""
        batches = scoring_batches(self._tokens, self._length, sequences)
        return len(self._tokens) - 1, ((*batch, 0) for batch in batches)

    def sample(self, wanted: int, sequences: int) -> tuple[list[Part], Iterator[Batch]]:
        """Whole windows."""
        starts = fixed_sample(self._tokens, self._length, wanted)
        parts = (starts[first : first + sequences] for first in range(0, len(starts), sequences))
        batches = ((*take_windows(self._tokens, part, self._length), 0) for part in parts)
        return [(start, self._length) for start in starts], batches

    def passage(self, targets: int) -> Tokens:
        """The beginning of the split."""
        return self._tokens[: targets + 1]

    def strided(self, sequences: int, min_context: int) -> tuple[int, Iterator[Batch]]:
        """Every token from index `min_context` on, once."""
        batches = strided_batches(self._tokens, self._length, sequences, min_context)
        return len(self._tokens) - min_context, batches


class WithinDocuments:
    """Windows that stay inside documents, see `harness.data.document_cuts`.

    Args:
        tokens: the split.
        context_length: of the model.
        end_of_text: the id of the token that ends documents; None: the split is one document.
        cut: what `cut_documents` makes of these.
    """

    def __init__(self, tokens: Tokens, context_length: int, end_of_text: int | None, cut: Cut) -> None:
        self._tokens, self._length, self._end, self._cut = tokens, context_length, end_of_text, cut

    @property
    def targets(self) -> int:
        """Without the positions that fill windows up."""
        return self._cut.targets

    def __len__(self) -> int:
        return len(self._cut)

    def training(
        self, sequences: int, seed: int, start: int = 0, rows: slice = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches; shorter windows are filled up with `NO_TARGET`."""
        return padded_batches(self._tokens, self._cut, self._length, sequences, seed, start, rows)

    def whole(self, sequences: int) -> tuple[int, Iterator[Batch]]:
        """Every token but the first of each document, once."""
        return self.targets, equal_batches(self._tokens, self._cut, sequences)

    def sample(self, wanted: int, sequences: int) -> tuple[list[Part], Iterator[Batch]]:
        """Windows of any length."""
        cut = evenly_spaced(self._cut, wanted)
        places = list(zip(cut.starts.tolist(), cut.lengths.tolist(), strict=True))
        return places, equal_batches(self._tokens, cut, sequences)

    def passage(self, targets: int) -> Tokens:
        """The beginning of the first document."""
        first = last = int(self._cut.starts[0]) if len(self._cut) else 0
        for start, length in zip(self._cut.starts.tolist(), self._cut.lengths.tolist(), strict=True):
            if start != last or last - first >= targets:  # of the next document, or no longer needed
                break
            last = start + length
        return self._tokens[first : min(first + targets, last) + 1]

    def strided(self, sequences: int, min_context: int) -> tuple[int, Iterator[Batch]]:
        """Every token from index `min_context` of its document on is a target once."""
        cut = strided_documents(self._tokens, self._end, self._length, min_context)
        return cut.targets, equal_batches(self._tokens, cut, sequences)
