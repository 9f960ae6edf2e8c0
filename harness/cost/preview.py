"""What `--plan` prints: the runs of a sweep, their cost and the estimated time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.config.objective import LOSS
from harness.config.samplers import SAMPLERS, startup_trials
from harness.config.spec import SweepSpec
from harness.console.cli import out
from harness.console.tables import show_arms
from harness.console.text import clock
from harness.core.text import plural

if TYPE_CHECKING:
    from harness.cost.estimate import ArmPlan, TimeEstimate
    from harness.cost.evaluation_share import EvaluationShare


def runs_planned(spec: SweepSpec) -> str:
    """`3 arms × (4 trials + 3 seeds) = 21 runs`; `3 to 12 seeds = 21 to 48 runs` with adaptive seeds."""
    arms, trials, fewest, most = len(spec.arms()), spec.trials, spec.looks[0], spec.looks[-1]
    seeds = plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    each = f"({trials} trials + {seeds})" if trials else seeds
    low, high = arms * (trials + fewest), arms * (trials + most)
    return f"{plural(arms, 'arm')} × {each} = {'' if low == high else f'{low} to '}{plural(high, 'run')}"


def search_planned(spec: SweepSpec) -> str:
    """`tpe, from earlier results after 3 of 10 trials`, and which dimensions it draws at random all the same."""
    sampler, facts = spec.study.sampler, SAMPLERS[spec.study.sampler]
    words = f"{sampler}, {facts.description}"
    if facts.learns and spec.unmodelled_trials < spec.trials:
        words = f"{sampler}, from earlier results after {spec.unmodelled_trials} of {spec.trials} trials"
    elif facts.learns:
        words = f"{sampler}, at random: no result is used in so few trials"
    if spec.points < spec.trials:
        words += f"; only {plural(int(spec.points), 'different point')}: sampler grid tries each choice once"
    choices = [path for path, dimension in spec.tune.items() if dimension.kind == "choice"]
    if facts.random_choices and choices:
        words += f"; {', '.join(choices)} at random in every trial"
    return words if spec.objective == LOSS else f"{words}; trials are compared by bits per byte"


def runs_at_most(spec: SweepSpec) -> int:
    """The runs of a sweep with the most seeds that it may use."""
    return len(spec.arms()) * (spec.trials + len(spec.seeds))


def pruner_planned(spec: SweepSpec, train_tokens: Mapping[str, int]) -> str:
    """Why the pruner will stop no trial; empty if it may.

    Args:
        spec: the sweep.
        train_tokens: arm name → tokens of its training split.
    """
    if spec.study.pruner == "none" or not spec.tune:
        return ""
    rhythms = (spec.run_config(arm.values).rhythm(train_tokens[arm.name]) for arm in spec.arms())
    if all(budget is not None and 3 * first > 2 * budget for first, budget in rhythms):  # as `Clock.evaluates`
        return f"{spec.study.pruner} stops no trial: they are evaluated at their start and end only"
    if spec.study.pruner == "median" and spec.trials <= startup_trials(spec.trials):
        return "median stops no trial: it needs the results of more"
    return ""


@dataclass(frozen=True)
class Plan:
    """What a sweep will train and what it will take.

    Attributes:
        spec: the sweep.
        splits: arm name → tokens of each split.
        arms: runs and cost of each arm, in the order of the spec.
        time: the estimated time.
        share: of evaluation in a run's time.
        workers: number that train at once.
        ranks: processes that train each run together.
        gpu: whether the machine has a GPU.
        errors: name of an earlier sweep → how much longer it took than estimated, as a share.
        left: runs that are left of a sweep that was started; None: it was not.
        messages: sentences about the text.
    """

    spec: SweepSpec
    splits: Mapping[str, Mapping[str, int]]
    arms: Sequence[ArmPlan]
    time: TimeEstimate
    share: EvaluationShare
    workers: int
    ranks: int
    gpu: bool
    errors: Sequence[tuple[str, float]] = ()
    left: int | None = None
    messages: Sequence[str] = ()

    @property
    def flops(self) -> float:
        """Of all runs, with the values as written; without runs whose budget is in seconds."""
        return sum((arm.cost.flops or 0) * arm.runs for arm in self.arms)

    @property
    def done(self) -> str:
        """`this sweep is complete`, or how many of its runs are left; empty if it has not been started."""
        if self.left is None:
            return ""
        return f"{plural(self.left, 'run')} left of this sweep" if self.left else "this sweep is complete"


def read_plan(
    spec: SweepSpec,
    splits: Mapping[str, Mapping[str, int]],
    identity: str,
    workers: int,
    threads: int,
    messages: Sequence[str] = (),
    ranks: int = 1,
    left: int | None = None,
) -> Plan:
    """Plan a sweep: measures the speed of its models, and stores the estimate.

    Args:
        spec, splits, workers, messages, ranks, left: as in `Plan`.
        identity: of the sweep, under which the estimate is stored.
        threads: CPU threads of each worker.
    """
    from harness.core.hardware import count_gpus
    from harness.cost.estimate import estimate_time, plan_arms
    from harness.cost.evaluation_share import evaluation_share
    from harness.cost.history import Estimates

    found = estimate_time(spec, splits, workers, threads, ranks)
    estimates = Estimates()
    estimates.add(spec.name, identity, found.seconds, runs_at_most(spec))
    return Plan(
        spec,
        splits,
        plan_arms(spec, {name: sizes["train"] for name, sizes in splits.items()}, ranks),
        found,
        evaluation_share(spec, splits, workers, found.measured, found.flops_per_second),
        workers,
        ranks,
        count_gpus() > 0,
        [(it.name, error) for it in estimates.finished() if (error := it.error) is not None],
        left,
        messages,
    )


def show_plan(plan: Plan) -> None:
    """Print arms, runs, cost and the estimated time."""
    spec = plan.spec
    headings = ["arm", "trials", "seeds", "parameters", "tokens/run", "FLOPs/run", "memory"]
    rows = [
        [
            arm.name,
            str(arm.trials),
            f"{spec.looks[0]}–{arm.seeds}" if len(spec.looks) > 1 else str(arm.seeds),
            f"{arm.cost.parameters:,}",
            f"{arm.cost.tokens:,}" if arm.cost.tokens is not None else f"{arm.cost.seconds:g} s",
            f"{arm.cost.flops:.2e}" if arm.cost.flops is not None else "–",
            f"{arm.cost.memory / 1e9:.1f} GB",
        ]
        for arm in plan.arms
    ]
    out.print(spec.title, style="bold", soft_wrap=True)
    out.print(f"{runs_planned(spec)}\n")
    show_arms([headings, *rows], spec.labels, {spec.baseline_arm.name: " *"} if spec.compare else {})
    if spec.compare:
        out.print("* the baseline")
    out.print()
    for path, dimension in spec.tune.items():
        _print_line("tuned", f"{path}, {dimension.kind} {list(dimension.values)}")
    if spec.tune:
        _print_line("search", search_planned(spec))
    if pruner := pruner_planned(spec, {name: sizes["train"] for name, sizes in plan.splits.items()}):
        _print_line("pruner", pruner)
    if len(spec.looks) > 1:
        looks = ", ".join(map(str, spec.looks))
        _print_line("verdicts", f"read after {looks} seeds; only arms that are still undecided get more")
    tuned = any(not path.startswith("train.") or "budget" in path or "batch" in path for path in spec.tune)
    changed = " with the values as written; tuned values change it" if tuned else ""
    _print_line("cost", f"{plan.flops:.2e} FLOPs{changed}")
    if plan.ranks > 1:
        _print_line("ranks", f"{plan.ranks} processes share the batches of each run; the memory is of each of them")
    _show_time(plan)
    if plan.done:
        _print_line("done", plan.done)
    for sentence in plan.messages:
        out.print(sentence, soft_wrap=True)


def _print_line(label: str, words: str) -> None:
    out.print(f"{label + ':':<11} {words}", soft_wrap=True)


def _show_time(plan: Plan) -> None:
    """Print the estimated time, how it was obtained, and the errors of earlier estimates."""
    found, arms, known = plan.time, len(plan.arms), len(plan.time.measured)
    if known:
        steps = [it.step_seconds for it in found.measured.values()]
        span = f"{min(steps):.3g}" if max(steps) < 1.05 * min(steps) else f"{min(steps):.3g} to {max(steps):.3g}"
        how = f"measured: {span} s a step" + (
            "" if known == arms else f" in {known} of {arms} arms, the others from FLOPs"
        )
    else:
        how = "from FLOPs: the models are too large for a short measurement, or it failed"
    if plan.ranks > 1:
        how += f"; with {plan.ranks} ranks assumed to be {plan.ranks} times as fast as one"
    span = f"{clock(found.least)} to {clock(found.seconds)}" if len(plan.spec.looks) > 1 else clock(found.seconds)
    place = "GPU" if plan.gpu else "CPU"
    _print_line("time", f"about {span}, with {plural(plan.workers, 'worker')} on this {place} ({how})")
    _print_line("evaluation", plan.share.words)
    if plan.errors:
        errors = ", ".join(f"{name} {'+' if error >= 0 else '−'}{abs(error):.0%}" for name, error in plan.errors)
        _print_line("estimates", f"last sweeps, estimated against actual time per run: {errors}")
