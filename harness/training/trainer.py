"""Train one GPT: `for point in train(config): …` is the whole contract.

The trainer yields what it measures and knows nothing of who listens: printing, tracking, pruning and stopping are
the caller's. Closing the generator ends the training; given a folder for its states, that run can be gone on with.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import torch

from harness.config.run import RunConfig
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.rng import derive
from harness.data import CorpusError, Dataset, open_dataset
from harness.data.batches import count_windows, staged, training_batches
from harness.model.init import build_gpt
from harness.model.weights import save_checkpoint
from harness.training.budget import Clock
from harness.training.devices import peak_flops, resolve_compile, resolve_device, resolve_precision, settle_products
from harness.training.errors import Stopped, check_finite
from harness.training.evaluation import Evaluator, Measured
from harness.training.optimizers import Optimizer
from harness.training.resume import Environment, State, States, collect, fits, put_back
from harness.training.schedule import learning_rate_factor
from harness.training.step import training_step

logger = logging.getLogger(__name__)


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
    step0_cache: dict[str, Measured] | None = None,
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
        state: folder for the run's states, see `harness.training.resume`. One is saved at points,
        `train.checkpoint_every`
            seconds apart or more so that it takes at most 2 % of the time, and when the generator is closed or `stop`
            says so.
        after: the last step whose point the caller has. Exactly the points after it are yielded, whether they were
            made before the state was saved or are made now. None: the caller has those that were made before.
        began: told, before the first point, the step that training goes on from (0: from the beginning), and what
            there is to say about it, such as "resumed with 2 threads, was 1: not bit-equal". By default it is logged.
        stop: asked before every step and during evaluations whether to end now.
        step0_cache: kept by the caller from run to run: what untrained models were measured to be. Runs that begin
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
    evaluator = Evaluator(config, data, model, device, precision, stop, {} if step0_cache is None else step0_cache)
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

    with States(state, config, data, Environment.here(device, precision)) as states:
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
                if model.untrained_scale is not None:
                    model.untrained_scale *= 1 - rate * config.train.weight_decay
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
