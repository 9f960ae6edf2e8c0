"""Train one GPT: `for point in train(config): …` is the whole interface.

The trainer yields what it measures. The caller prints, tracks, prunes and stops. Closing the generator stops the
training; with a folder for its states, the run can be resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from pathlib import Path

from harness.config.run import RunConfig
from harness.core.metrics import Point
from harness.data import Dataset
from harness.training.distributed import ALONE, Ranks
from harness.training.errors import Stopped, check_finite
from harness.training.evaluation import Evaluation, Evaluator
from harness.training.resume import States
from harness.training.run import Run
from harness.training.schedule import learning_rate_factor

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
    on_start: Callable[[int, str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    step0_cache: dict[str, Evaluation] | None = None,
    ranks: Ranks = ALONE,
    start: Path | None = None,
) -> Generator[Point, None, None]:
    """Train the GPT that `config` describes and yield the points of its curves.

    The points before the first step and after the last are always evaluated. Between them `train.eval_every` sets the
    rhythm (an evaluation less than half of it before the end is left out), with lighter points (learning rate, gradient
    norm, speed) in between.

    With a folder for its states, training a run again resumes it, however it was interrupted. On a CPU with the same
    number of threads, weights, metrics and samples then equal those of an uninterrupted run bit for bit; on a GPU some
    kernels sum in an order that varies. The caller removes the folder after the run.

    Args:
        config: the whole run.
        data: its tokens, if they are open already.
        read_test: score the test split too, once, at the last point.
        common_context: score, once, at the last point, the validation targets with at least this many tokens before
            them, for a comparison with models of other context lengths.
        checkpoint: folder for the final weights and their losses on the beginning of the validation split.
        device_index: which CUDA device, if there are several.
        state: folder for the run's states, see `harness.training.resume`. A state is saved after a point, every
            `train.checkpoint_every` seconds (less often where that would take more than 2 % of the time), and when the
            generator is closed or `stop` returns true.
        after: the last step whose point the caller has. Exactly the points after it are yielded, whether they were
            made before the state was saved or are made now. None: the caller has all points of the state.
        on_start: called before the first point with the step that training starts from and a warning, such as
            "resumed with 2 threads, was 1: not bit-equal", or an empty text. By default both are logged.
        stop: called before every step and during evaluations; true stops the training.
        step0_cache: evaluations of untrained models. Pass the same dictionary to several runs: those that start from
            the same weights, as all trials of a search do, then evaluate them once.
        ranks: the processes that train this run together; by default this one alone. Each calls `train` with the same
            run. Only rank 0 has `checkpoint`, `state` and `stop`, and only its points are whole.
        start: the folder of `model.init_from`, if the caller knows it; else it is looked for.

    Raises:
        Diverged: with the step and the value that is not finite.
        Stopped: `stop` returned true.
        DeviceError: the device asked for is not available.
        StartError: the weights to start from are missing, damaged or others than the configuration says.
        CorpusError: the training split is shorter than one window.
        FolderInUse: another process trains on the same states.
        OSError: a state or the checkpoint cannot be written; earlier states are intact.
        RankLost: another rank has ended.
    """
    run = Run(config, data, device_index, ranks, start)
    config, clock = run.config, run.clock
    cache = {} if step0_cache is None else step0_cache

    def stopped() -> bool:
        return ranks.decide(stop())

    evaluator = Evaluator(
        config, run.data, run.model, run.device, run.precision, read_test, common_context, stopped, cache, ranks
    )

    with States(state, config, run.data, run.environment) as states:
        warning = run.resume(states)
        (on_start or _log_start)(run.step, warning)
        if after is None:
            after = run.points[-1].step if run.points else -1
        batches = run.batches()
        try:
            yield from [point for point in run.points if point.step > after]
            while True:
                # evaluate and yield a point, if the last step has one
                if run.pending is not None:
                    last = clock.done(run.step)
                    evaluation = evaluator.evaluate(run.step, last) if clock.evaluates(run.step) else None
                    if last and checkpoint is not None:
                        run.save_checkpoint(checkpoint)
                    point = run.make_point(evaluation)
                    if point.step > after:
                        yield point
                    if last:
                        return
                    if states.due(clock.training):
                        states.save(run.state())
                if stopped():
                    raise Stopped(f"stopped at step {run.step}")

                # set the learning rate for this step
                clock.start_step()
                tokens, targets = next(batches)  # (B, T) each
                factor = learning_rate_factor(clock.progress_after(run.step), config.train)
                rate = run.optimizer.set_learning_rate(factor)

                # forward, backward, clip, update
                run.seed_dropout()
                loss, grad_norm = run.train_step(tokens, targets)
                run.step += 1
                if run.device.type == "cpu" or clock.reads_loss(run.step):  # a CPU-GPU synchronization
                    check_finite(run.step, loss=loss, gradient=grad_norm)
                clock.end_step()

                # log
                if clock.logs(run.step):
                    run.measure_step(rate, loss, grad_norm)
        except (GeneratorExit, Stopped):
            if not run.finished:
                states.save(run.state())
            raise


def _log_start(step: int, warning: str) -> None:
    if warning:
        logger.warning(warning)
    elif step:
        logger.info("resumed from step %d", step)
