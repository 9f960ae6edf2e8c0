"""Train one GPT: `for point in train(config): …` is the whole contract.

The trainer yields what it measures and knows nothing of who listens: printing, tracking, pruning and stopping are
the caller's. Closing the generator ends the training; given a folder for its states, that run can be gone on with.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from harness import metrics
from harness.checkpoint import save_checkpoint
from harness.clock import Clock
from harness.config import RunConfig, digest_of
from harness.data import CorpusError, Dataset, open_dataset
from harness.devices import (
    autocast,
    peak_flops,
    resolve_compile,
    resolve_device,
    resolve_precision,
    settle_products,
)
from harness.metrics import Point
from harness.model import GPT, build_gpt
from harness.optim import Optimizer, learning_rate_factor
from harness.passage import save_passage
from harness.rng import derive
from harness.state import State, States, Surroundings, collect, fits, put_back
from harness.step import training_step
from harness.text import continue_text
from harness.windows import (
    Tokens,
    count_windows,
    fixed_sample,
    scoring_batches,
    staged,
    strided_batches,
    take_windows,
    training_batches,
)

# Fields that do not matter before the first step: a run's first point is that of every run that differs in them only.
NOT_YET: Final = (
    *("budget", "batch_tokens", "batch_size", "eval_every", "checkpoint_every", "grad_clip"),
    *("optimizer", "learning_rate", "schedule", "warmup", "final_fraction", "decay", "weight_decay", "beta1", "beta2"),
)

EVAL_TOKENS = 8192  # tokens scored at once; the result does not depend on it

logger = logging.getLogger(__name__)


class Diverged(ArithmeticError):
    """Loss or gradient became NaN or infinite; the weights are worthless from here on."""


class Stopped(Exception):
    """The caller's `stop` ended the training before its budget was spent. The state is saved."""


def train(
    config: RunConfig,
    data: Dataset | None = None,
    *,
    read_test: bool = False,
    common_context: int | None = None,
    checkpoint: Path | None = None,
    device_index: int = 0,
    state: Path | None = None,
    after: int | None = None,
    began: Callable[[int, str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    beginnings: dict[str, Measured] | None = None,
) -> Generator[Point, None, None]:
    """Train the GPT that `config` describes and yield points of its curves.

    A point before the first step and one after the last are always evaluated; between them the rhythm is
    `train.eval_every` (an evaluation less than half of it before the last is left out), with lighter points
    (learning rate, gradient norm, speed) in between.

    With a folder for its states, a run that was ended, in whatever way, goes on when it is trained again. On a CPU with
    as many threads its weights, measurements and samples are then those of a run that nothing ended, bit for bit; on a
    GPU but for the order in which some kernels add up. Whoever gave the folder removes it once the run is over.

    Args:
        config: the whole run.
        data: the tokens, where they are open already.
        read_test: score the test split too, once, at the last point.
        common_context: score, once, at the last point, the validation targets with at least so many tokens behind
            them, for a comparison with models of other context lengths.
        checkpoint: folder that receives the final weights, and how they see the beginning of the validation split.
        device_index: which CUDA device, where there are several.
        state: folder for the run's states, see `harness.state`. One is saved at points, `train.checkpoint_every`
            seconds apart or more so that it takes at most 2 % of the time, and when the generator is closed or `stop`
            says so.
        after: the last step whose point the caller has. Exactly the points after it are yielded, whether they were
            made before the state was saved or are made now. None: the caller has those that were made before.
        began: told, before the first point, the step that training goes on from (0: from the beginning), and what
            there is to say about it, such as "resumed with 2 threads, was 1: not bit-equal". By default it is logged.
        stop: asked before every step and during evaluations whether to end now.
        beginnings: kept by the caller from run to run: what untrained models were measured to be. Runs that begin
            with the same weights, as all trials of a search do, then measure them once.

    Raises:
        Diverged: with the step and what was not finite.
        Stopped: `stop` said so.
        DeviceError: the device asked for is not there.
        CorpusError: the training split is shorter than one window.
        FolderInUse: another process trains on the same states.
        OSError: a state or the checkpoint cannot be written; the states before are intact.
    """
    data = data or open_dataset(config.data)
    config = data.resolve(config)
    windows = count_windows(len(data.train), config.model.context_length)
    if not windows:
        raise CorpusError(
            "model.context_length",
            f"found a context of {config.model.context_length} tokens; "
            f"allowed: under {len(data.train)}, the tokens of the train split",
        )
    device = resolve_device(config.train, device_index)
    precision = resolve_precision(config.train, device)
    settle_products(device, precision)
    model = build_gpt(config, device, data.vocabulary, data.trained)
    optimizer = Optimizer(model, config.train)
    train_on = training_step(
        model, optimizer, config.train, device, precision, resolve_compile(config, device, windows)
    )
    evaluator = Evaluator(config, data, model, device, precision, stop, {} if beginnings is None else beginnings)
    clock = Clock(config, config.total_steps(windows))
    eval_steps = config.eval_steps(windows)
    log_steps = config.log_steps(windows)
    step = 0
    pending: Mapping[str, float] | None = {}  # what this step measured, until its point is made
    points: list[Point] = []

    def evaluated() -> bool:
        at_an_end = step == 0 or clock.done(step)
        return at_an_end or (step % eval_steps == 0 and not clock.nearly_done(step, eval_steps))

    def reached() -> State:
        clock.settle(device)
        return State(step, collect(model, optimizer, device), clock.state(), pending, tuple(points))

    with States(state, config, data, Surroundings.here(device, precision)) as states:
        found, note = states.newest(lambda it: fits(it, model, optimizer))
        if found is not None:
            step, pending, points = found.step, found.pending, list(found.points)
            put_back(found.tensors, model, optimizer, device)
            clock.restore(found.clock)
            del found  # its tensors are a mapped file
        (began or _log_beginning)(step, note)
        had = after if after is not None else points[-1].step if points else -1
        sequences, seed = config.sequences_per_step, config.train.seed
        batches = staged(training_batches(data.train, model.context_length, sequences, seed, step), device)
        try:
            yield from [point for point in points if point.step > had]
            while True:
                if pending is not None:
                    last = clock.done(step)
                    if evaluated():
                        scores, sample = evaluator.measure(step, read_test=read_test and last, whole=last)
                        if last and common_context is not None:
                            scores[metrics.VAL_COMMON_LOSS] = evaluator.common_context_loss(common_context)
                        if last and checkpoint is not None:
                            save_checkpoint(checkpoint, model, config, step, data.vocabulary)
                            evaluator.save_passage(checkpoint)
                        point = clock.point(step, {**pending, **scores}, sample)
                        points.append(dataclasses.replace(point, by_position=evaluator.by_position) if last else point)
                    else:
                        points.append(clock.point(step, pending))
                    pending = None
                    if step > had:
                        yield points[-1]
                    if last:
                        return
                    if states.due(clock.training):
                        states.save(reached())
                if stop():
                    raise Stopped(f"stopped at step {step}")

                clock.start()
                tokens, targets = next(batches)
                rate = optimizer.set_learning_rate(learning_rate_factor(clock.progress_after(step), config.train))
                torch.manual_seed(derive(seed, "dropout", step))  # nothing else draws from the global generator
                loss, grad_norm = train_on(tokens, targets)
                if model.untrained_decay is not None:
                    model.untrained_decay *= 1 - rate * config.train.weight_decay
                step += 1
                if device.type == "cpu" or step % log_steps == 0 or step % eval_steps == 0:
                    check_finite(step, loss=loss, gradient=grad_norm)  # a GPU is waited for here, so not at every step
                clock.stop()
                if evaluated() or step % log_steps == 0:
                    pending = {
                        metrics.BATCH_LOSS: loss.item(),
                        metrics.LEARNING_RATE: rate,
                        metrics.GRAD_NORM: grad_norm.item(),
                        metrics.EPOCHS: step * sequences / windows,
                        **clock.speed(peak_flops(device)),
                    }
        except (GeneratorExit, Stopped):
            if pending is not None or not clock.done(step):
                states.save(reached())
            raise


def _log_beginning(step: int, note: str) -> None:
    if note:
        logger.warning(note)
    elif step:
        logger.info("resumed from step %d", step)


def check_finite(step: int, **values: Tensor | float) -> None:
    """Raise `Diverged` naming the first value that is NaN or infinite."""
    for name, value in values.items():
        number = value.item() if isinstance(value, Tensor) else value
        if not math.isfinite(number):
            raise Diverged(f"{name} is {number} at step {step}")


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
    beginnings: dict[str, Measured] = field(default_factory=dict)  # see `train`
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
        if key not in self.beginnings:
            self.beginnings[key] = self.evaluate(step), self.sample()
        scores, sample = self.beginnings[key]
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
