"""How good a GPT is on its data: exact losses over whole splits and fixed samples, and what it writes.

Nothing here draws a random number or changes a weight, so how often a model is evaluated changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from harness.config.fingerprint import digest_of
from harness.config.run import RunConfig
from harness.core import metrics
from harness.data import Dataset
from harness.data.batches import Tokens, fixed_sample, scoring_batches, strided_batches, take_windows
from harness.model.generation import continue_text
from harness.model.gpt import GPT
from harness.training.devices import autocast
from harness.training.errors import Stopped, check_finite
from harness.training.token_losses import save_passage

# Fields that do not matter before the first step: a run's first point is that of every run that differs in them only.
NOT_YET: Final = (
    *("budget", "batch_tokens", "batch_size", "eval_every", "checkpoint_every", "grad_clip"),
    *("optimizer", "learning_rate", "schedule", "warmup", "final_fraction", "decay", "weight_decay", "beta1", "beta2"),
)

EVAL_TOKENS = 8192  # tokens scored at once; the result does not depend on it


@dataclass(frozen=True)
class Scores:
    """Summed losses (nats, float64) and numbers of targets, both by position in the window, shape (T,)."""

    nats: Tensor
    counts: Tensor

    @property
    def total(self) -> tuple[float, int]:
        """Nats and targets over all positions."""
        return self.nats.sum().item(), int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Nats per target."""
        nats, count = self.total
        return nats / count


Measured = tuple[Mapping[str, float], str | None]  # losses and what follows from them; a text


@dataclass
class Evaluator:
    """Scores a model on its splits. Draws no random numbers, so how often it is called changes nothing else."""

    config: RunConfig
    data: Dataset
    model: GPT
    device: torch.device
    precision: str
    stop: Callable[[], bool] = lambda: False  # asked before every batch whether to end now
    step0_cache: dict[str, Measured] = field(default_factory=dict)  # see `train`
    by_position: tuple[float, ...] = ()  # mean validation loss at each position, of the last pass

    @property
    def rows(self) -> int:
        """Windows scored at once."""
        return max(1, EVAL_TOKENS // self.model.context_length)

    def measure(self, step: int, read_test: bool = False, whole: bool = True) -> tuple[dict[str, float], str | None]:
        """The scores of `evaluate` and the text of `sample`; those of an untrained model are whole, and found once."""
        if step > 0:
            return self.evaluate(step, read_test, whole), self.sample()
        key = self._beginning()
        if key not in self.step0_cache:
            self.step0_cache[key] = self.evaluate(step), self.sample()
        scores, sample = self.step0_cache[key]
        return dict(scores), sample

    def _beginning(self) -> str:
        """Tells apart what is measured before the first step: weights, data, and how they are computed with."""
        plain = self.config.resolved()
        for name in NOT_YET:
            del plain["train"][name]
        del plain["model"]["drop_rate"]
        where = [str(self.device), self.precision, torch.get_num_threads()]
        return digest_of({"config": plain, "data": self.data.fingerprint, "where": where})

    def evaluate(self, step: int, read_test: bool = False, whole: bool = True) -> dict[str, float]:
        """Train loss over the fixed sample, validation (and test) loss over every target of the split.

        Args:
            step: of the point, for what is said of a loss that is not finite.
            read_test: score the test split too.
            whole: score the whole validation split where `train.eval_tokens` asks for a sample, too.
        """
        loss = self.window_scores(self.data.train, self.sample_of("train")).mean
        scores = {metrics.TRAIN_LOSS: loss, metrics.TRAIN_PERPLEXITY: metrics.perplexity(loss)}
        sampled = self.config.samples(len(self.data.val))
        if sampled:
            scores |= self.sample_scores()
        if whole or not sampled:
            scores |= self.split_scores("val", self.data.val)
        if read_test and len(self.data.test) > 1:
            scores |= self.split_scores("test", self.data.test)
        check_finite(step, **{name: value for name, value in scores.items() if name.endswith("/loss")})
        return scores

    def sample_of(self, split: str) -> list[int]:
        """Where the windows of a split's fixed sample begin."""
        train = self.config.train
        wanted = train.train_eval_tokens if split == "train" else train.eval_tokens
        assert wanted is not None
        return fixed_sample(self.data.tokens(split), self.model.context_length, wanted)

    def sample_scores(self) -> dict[str, float]:
        """Loss, perplexity and bits per byte over the fixed sample of the validation split, each target scored once."""
        tokens, length, starts = self.data.val, self.model.context_length, self.sample_of("val")
        nats, count = self.window_scores(tokens, starts).total
        assert count == len(starts) * length
        size = sum(int(self.data.token_bytes[tokens[start + 1 : start + 1 + length]].sum()) for start in starts)
        return metrics.split_metrics("val_sample", nats, count, size)

    def window_scores(self, tokens: Tokens, starts: list[int]) -> Scores:
        """The targets of the windows that begin at `starts`."""
        parts = (starts[i : i + self.rows] for i in range(0, len(starts), self.rows))
        return self.score((*take_windows(tokens, part, self.model.context_length), 0) for part in parts)

    def split_scores(self, split: str, tokens: Tokens) -> dict[str, float]:
        """Loss, perplexity and bits per byte over every target token of one split, each scored once."""
        batches = scoring_batches(tokens, self.model.context_length, self.rows)
        scores = self.score((*batch, 0) for batch in batches)
        nats, count = scores.total
        assert count == len(tokens) - 1
        if split == "val":
            there = scores.counts > 0  # a split shorter than a window reaches no later position
            self.by_position = tuple((scores.nats[there] / scores.counts[there]).tolist())
        return metrics.split_metrics(split, nats, count, self.data.target_bytes(split))

    def common_context_loss(self, behind: int) -> float:
        """Mean validation loss of the targets with at least `behind` tokens before them, in nats."""
        tokens = self.data.val
        scores = self.score(strided_batches(tokens, self.model.context_length, self.rows, behind))
        assert scores.total[1] == len(tokens) - behind
        return scores.mean

    def score(self, batches: Iterable[tuple[Tensor, Tensor, int]]) -> Scores:
        """The targets in `batches` (inputs, targets, first position that counts), with dropout off."""
        length = self.model.context_length
        where = self.device if self.device.type == "cuda" else "cpu"  # a GPU need not be waited for; MPS has no float64
        nats = torch.zeros(length, dtype=torch.float64, device=where)
        counts = torch.zeros(length, dtype=torch.int64)
        self.model.eval()
        for tokens, targets, first in batches:
            if self.stop():
                raise Stopped("stopped during an evaluation")
            with autocast(self.device, self.precision):
                losses = self.model.token_losses(tokens.to(self.device), targets.to(self.device), first)
            nats[first : tokens.shape[1]] += losses.to(where).double().sum(0)
            counts[first : tokens.shape[1]] += len(tokens)
        self.model.train()
        return Scores(nats.cpu(), counts)

    def save_passage(self, folder: Path) -> None:
        """Keep, beside a checkpoint, how likely the model thinks the first tokens of the validation split."""
        save_passage(folder, self.model, self.data.val, self.data.codec, self.device, self.precision)

    def sample(self) -> str | None:
        """The text that the model writes now, the same random numbers at every evaluation; None if none is wanted."""
        wanted = self.config.train.sample
        if wanted.max_new_tokens == 0:
            return None
        return continue_text(self.model, self.data.codec, wanted, self.config.train.seed)
