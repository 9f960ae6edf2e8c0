"""Evaluation of a GPT: exact losses over whole splits and fixed samples of them, and generated texts.

An evaluation changes no weight and draws from no random stream of the training, so how often a run is evaluated does
not change how it trains.

To add a metric: a function that yields (name, value), and its name in `METRICS`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from harness.config.fingerprint import digest_of
from harness.config.run import RunConfig
from harness.core import metrics
from harness.data import Dataset
from harness.data.windows import Windows
from harness.model.generation import sampled_and_greedy
from harness.model.gpt import GPT
from harness.training.devices import autocast
from harness.training.distributed import ALONE, Ranks
from harness.training.errors import Stopped, check_finite

# Fields that change nothing before the first step: runs that differ only in them share their evaluation at step 0.
NO_EFFECT_AT_STEP_0: Final = (
    *("model.drop_rate", "train.budget", "train.batch_tokens", "train.batch_size", "train.eval_every"),
    *("train.checkpoint_every", "train.grad_clip", "train.optimizer", "train.learning_rate", "train.schedule"),
    *("train.warmup", "train.final_fraction", "train.decay", "train.weight_decay", "train.beta1", "train.beta2"),
)

EVAL_TOKENS = 8192  # tokens per batch of an evaluation; the result does not depend on it


@dataclass(frozen=True)
class Scores:
    """Losses of the targets of one pass over a text.

    Attributes:
        nats: summed negative log probabilities by position in the window, (T,) float64.
        counts: targets by position, (T,) int64.
        bytes: UTF-8 bytes that all targets stand for (of a sample, for a tokenizer that is not lossless, by an
            estimate); None if not counted.
    """

    nats: Tensor
    counts: Tensor
    bytes: float | None = None

    def __add__(self, other: Scores) -> Scores:
        """Those of both passes."""
        known = self.bytes is not None and other.bytes is not None
        both = (self.bytes or 0.0) + (other.bytes or 0.0) if known else None
        return Scores(self.nats + other.nats, self.counts + other.counts, both)

    @property
    def total(self) -> tuple[float, int]:
        """Nats and targets over all positions."""
        return self.nats.sum().item(), int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Nats per target."""
        nats, count = self.total
        return nats / count

    @property
    def by_position(self) -> tuple[float, ...]:
        """Nats per target at each position; a text shorter than a window has no later positions."""
        scored = self.counts > 0
        return tuple((self.nats[scored] / self.counts[scored]).tolist())


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        metrics: metric name → value, which may be infinite.
        sample, greedy: the generated texts; see `Point`.
        by_position: mean validation loss at each position of the window; empty if only a sample was scored.
    """

    metrics: Mapping[str, float]
    sample: str | None
    by_position: tuple[float, ...] = ()
    greedy: str | None = None


@dataclass
class Pass:
    """One evaluation in progress: what a metric can use.

    Attributes:
        evaluator: has the model, the data and the configuration.
        step: optimizer steps done.
        last: whether training has finished.
    """

    evaluator: Evaluator
    step: int
    last: bool

    @cached_property
    def scores(self) -> Mapping[str, Scores]:
        """Scores of the splits that this evaluation measures: `train` (a sample), `val_sample`, `val`, `test`.

        Of a mixture they are over the targets of all sources: each counts by its tokens.
        """
        return {split: functools.reduce(operator.add, parts.values()) for split, parts in self.by_source.items()}

    @cached_property
    def named_scores(self) -> Sequence[tuple[str, str, Scores]]:
        """Split, source and scores: of each split as a whole, with an empty source, and of each source of a mixture."""
        whole = [(split, "", scores) for split, scores in self.scores.items()]
        parts = [(split, name, it) for split, parts in self.by_source.items() for name, it in parts.items() if name]
        return [*whole, *parts]

    @cached_property
    def by_source(self) -> Mapping[str, Mapping[str, Scores]]:
        """Split → source → scores; the source is empty without a mixture.

        With `train.eval_tokens` the evaluations between the first and the last score the validation sample only.
        """
        evaluator, data = self.evaluator, self.evaluator.data
        names = list(data.sources)
        scores = {"train": {name: evaluator.score_windows("train", name) for name in names}}
        sampled = evaluator.config.samples_validation(len(data.val))
        if sampled:
            scores["val_sample"] = {name: evaluator.score_windows("val", name) for name in names}
        if not sampled or self.last or self.step == 0:
            scores["val"] = {name: evaluator.score_split("val", name) for name in names}
        if self.last and evaluator.read_test and len(data.test) > 1:
            tested = [name for name, part in data.sources.items() if len(part.test) > 1]
            scores["test"] = {name: evaluator.score_split("test", name) for name in tested}
        return scores


Metric = Callable[[Pass], Iterator[tuple[str, float]]]


def loss(evaluation: Pass) -> Iterator[tuple[str, float]]:
    """Mean negative log probability of the targets, in nats."""
    for split, source, scores in evaluation.named_scores:
        yield metrics.of_source(f"{split}/loss", source), scores.mean


def perplexity(evaluation: Pass) -> Iterator[tuple[str, float]]:
    """exp(loss)."""
    for split, source, scores in evaluation.named_scores:
        yield metrics.of_source(f"{split}/perplexity", source), metrics.perplexity(scores.mean)


def bits_per_byte(evaluation: Pass) -> Iterator[tuple[str, float]]:
    """Bits per UTF-8 byte of the text, where the bytes are counted; comparable between tokenizers."""
    for split, source, scores in evaluation.named_scores:
        if scores.bytes is not None:
            nats, _ = scores.total
            yield metrics.of_source(f"{split}/bits_per_byte", source), metrics.bits_per_byte(nats, scores.bytes)


def common_context_loss(evaluation: Pass) -> Iterator[tuple[str, float]]:
    """Validation loss of the targets with enough tokens before them; comparable between context lengths."""
    evaluator = evaluation.evaluator
    if evaluation.last and evaluator.common_context is not None:
        yield metrics.VAL_COMMON_LOSS, evaluator.common_context_loss(evaluator.common_context)


METRICS: Sequence[Metric] = (loss, perplexity, bits_per_byte, common_context_loss)


@dataclass
class Evaluator:
    """Evaluates a model on its splits.

    Attributes:
        config, data, model, device, precision: of the run.
        read_test: score the test split too, in the last evaluation.
        common_context: tokens before each target of `common_context_loss`, in the last evaluation; None: it is not
            measured.
        stop: called before every batch (with several ranks: before every one of rank 0); true stops the evaluation.
        step0_cache: evaluations at step 0 by their key, shared with other runs of the process.
        ranks: the processes that share the batches of an evaluation; rank 0 generates the texts.
    """

    config: RunConfig
    data: Dataset
    model: GPT
    device: torch.device
    precision: str
    read_test: bool = False
    common_context: int | None = None
    stop: Callable[[], bool] = lambda: False
    step0_cache: dict[str, Evaluation] = field(default_factory=dict)
    ranks: Ranks = ALONE

    @property
    def rows(self) -> int:
        """Windows per batch."""
        return max(1, EVAL_TOKENS // self.model.context_length)

    def windows(self, split: str, source: str = "") -> Windows:
        """The windows of a split, or of a source's split."""
        return self.data.sources[source].windows(split, self.model.context_length)

    def evaluate(self, step: int, last: bool = False) -> Evaluation:
        """All metrics and the generated texts.

        Args:
            step: optimizer steps done; at 0 the result may come from the cache.
            last: whether training has finished.

        Raises:
            Diverged: a loss is not finite.
            Stopped: `stop` returned true.
        """
        if step > 0:
            return self._evaluate(step, last)
        key = self.step0_key()
        if not self.ranks.decide(key in self.step0_cache):
            self.step0_cache[key] = self._evaluate(step, last)
        return self.step0_cache.get(key, Evaluation({}, None))  # another rank than 0 may have been replaced

    def _evaluate(self, step: int, last: bool) -> Evaluation:
        evaluation = Pass(self, step, last)
        measured = {name: value for metric in METRICS for name, value in metric(evaluation)}
        check_finite(step, **{name: value for name, value in measured.items() if "/loss" in name})
        val = evaluation.scores.get("val")
        sample, greedy = self.texts()
        return Evaluation(measured, sample, val.by_position if val is not None else (), greedy)

    def step0_key(self) -> str:
        """A key that is equal for runs with equal initial weights, data, device and evaluation settings."""
        plain = self.config.resolved()
        for path in NO_EFFECT_AT_STEP_0:
            section, _, name = path.partition(".")
            del plain[section][name]
        where = [str(self.device), self.precision, torch.get_num_threads()]
        return digest_of({"config": plain, "data": self.data.fingerprint, "where": where})

    def score_windows(self, split: str, source: str = "") -> Scores:
        """Every target of the fixed sample of windows of a split, of `train_eval_tokens` or `eval_tokens` tokens.

        A source of a mixture has as many of the sample's windows as its share of the split's tokens, and at least one.
        """
        data = self.data.sources[source]
        wanted = self.config.train.train_eval_tokens if split == "train" else self.config.train.eval_tokens
        assert wanted is not None
        share = wanted * len(data.tokens(split)) // len(self.data.tokens(split))
        windows, batches = self.windows(split, source).sample(share, self.rows)
        scores = self.score(batches)
        assert scores.total[1] == sum(length for _, length in windows)
        if split == "train":
            return scores
        tokens = data.reader(split)
        size = sum(data.bytes_of(split, tokens[start + 1 : start + 1 + length]) for start, length in windows)
        return dataclasses.replace(scores, bytes=size)

    def score_split(self, split: str, source: str = "") -> Scores:
        """Every token of a split, or of a source's split, but its first or that of each document, scored once."""
        targets, batches = self.windows(split, source).whole(self.rows)
        scores = self.score(batches)
        assert scores.total[1] == targets
        return dataclasses.replace(scores, bytes=self.data.sources[source].target_bytes(split))

    def common_context_loss(self, before: int) -> float:
        """Mean validation loss of the targets with at least `before` tokens before them in their window, in nats."""
        parts = [self.windows("val", source).strided(self.rows, before) for source in self.data.sources]
        scores = self.score(batch for _, batches in parts for batch in batches)
        assert scores.total[1] == sum(targets for targets, _ in parts)
        return scores.mean

    def score(self, batches: Iterable[tuple[Tensor, Tensor, int]]) -> Scores:
        """The targets in `batches` (inputs, targets, first position that counts), with dropout off."""
        length = self.model.context_length
        # Summed on the GPU to avoid a synchronization per batch. MPS has no float64.
        where = self.device if self.device.type == "cuda" else "cpu"
        nats = torch.zeros(length, dtype=torch.float64, device=where)
        counts = torch.zeros(length, dtype=torch.int64)
        self.model.eval()
        for number, (tokens, targets, first) in enumerate(batches):
            turn = number % self.ranks.size
            if turn == 0 and self.stop():
                raise Stopped("stopped during an evaluation")
            if turn != self.ranks.rank:
                continue
            with autocast(self.device, self.precision):
                losses = self.model.token_losses(tokens.to(self.device), targets.to(self.device), first)
            nats[first : tokens.shape[1]] += losses.to(where).double().sum(0)
            counts[first : tokens.shape[1]] += len(tokens)
        self.model.train()
        return Scores(self.ranks.sum(nats.cpu()), self.ranks.sum(counts))

    def texts(self) -> tuple[str | None, str | None]:
        """The sampled and the greedy text, with the same random numbers at every evaluation; None if not wanted."""
        wanted = self.config.train.sample
        if wanted.max_new_tokens == 0 or self.ranks.rank > 0:
            return None, None
        return sampled_and_greedy(self.model, self.data.codec, wanted, self.config.train.seed)
