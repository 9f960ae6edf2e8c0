"""The description of a sweep that MLflow stores, and how the sweep differs from the last one of its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.config.fingerprint import SET_ASIDE
from harness.core.text import listed
from harness.runner.datasets import data_facts

if TYPE_CHECKING:
    from harness.config.spec import SweepSpec
    from harness.data import Dataset
    from harness.tracking import SweepInfo, SweepRecord


def sweep_info(spec: SweepSpec, identity: str, data: Dataset, command: str = "", lost: str = "") -> SweepInfo:
    """The record of a sweep.

    Args:
        spec: the sweep.
        identity: see `Datasets.identity`.
        data: the baseline's corpus.
        command: the command line that started the sweep.
        lost: warnings about text that the tokenizers of any arm do not keep.
    """
    from harness.analysis.plan import analysis_plan
    from harness.tracking import ArmInfo, SweepInfo

    return SweepInfo(
        name=spec.name,
        question=spec.question,
        identity=identity,
        spec_text=spec.to_yaml(),
        arms=tuple(ArmInfo(arm.name, arm.values) for arm in spec.arms()),
        baseline=spec.baseline_arm.name,
        compare=tuple(spec.compare),
        tune={path: dimension.plain() for path, dimension in spec.tune.items()},
        study={
            **spec.study.model_dump(),
            "trials": spec.trials,
            "startup_trials": spec.startup_trials,
            "unmodelled_trials": spec.unmodelled_trials,
            "seeds": len(spec.seeds),
            "looks": list(spec.looks),
        },
        command=command,
        data=data_facts(data) | ({"lost": lost} if lost else {}),
        plan=analysis_plan(spec),
    )


def why_new_sweep(spec: SweepSpec, data: Dataset, tracking: str | None, earlier_sweep: str) -> str:
    """One line about what changed since the last sweep of this name, so that this one is a new sweep.

    Args:
        spec, data: of the new sweep; the data of its baseline.
        tracking: MLflow's address; None: the default.
        earlier_sweep: parent run of the last sweep.

    Returns:
        empty if the last sweep was set aside, or cannot be read.
    """
    from harness.tracking import TrackingError, load_sweep

    try:
        earlier = load_sweep(spec.name, tracking, earlier_sweep)
    except TrackingError:
        return ""
    if earlier.identity.endswith(SET_ASIDE):
        return ""
    what = _changes(spec, data, earlier)
    return f"{what} changed since the last sweep of this name: this is a new sweep, and the earlier runs are kept"


def earlier_sweep(spec: SweepSpec, data: Dataset, tracking: str | None) -> str:
    """One line about the last sweep of this name, for a spec, data and code with which no sweep has started.

    Args:
        spec, data: of the sweep that has not started; the data of its baseline.
        tracking: MLflow's address; None: the default.

    Returns:
        empty if there is no sweep of this name.
    """
    from harness.tracking import TrackingError, last_sweep, load_sweep

    parent = last_sweep(spec.name, tracking)
    if not parent:
        return ""
    try:
        earlier = load_sweep(spec.name, tracking, parent)
    except TrackingError as error:
        return f"the last sweep of this name cannot be read: {error}"
    ended = earlier.outcome or earlier.status.lower()
    which = f"the last sweep of this name ({ended}, started {earlier.started:%Y-%m-%d %H:%M} UTC)"
    if earlier.identity.endswith(SET_ASIDE):
        return f"{which} was set aside by --fresh"
    return f"{which} is another one: {_changes(spec, data, earlier)} changed since"


def _changes(spec: SweepSpec, data: Dataset, earlier: SweepRecord) -> str:
    """What is different since an earlier sweep."""
    try:
        fields = spec.changed_fields(earlier.spec_text)
        changed = [f"the spec ({', '.join(fields)})"] if fields else []
    except ValueError:  # the stored one cannot be read
        fields, changed = [], ["the spec"]
    if data.fingerprint != earlier.data["fingerprint"] and not any(path.startswith("data.") for path in fields):
        changed.append("the text")
    varied = "the weights to start from or " if spec.varied_weights else ""  # of these the spec has names only
    return listed(changed or [f"{varied}the training code"])
