"""What a sweep records about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.config.spec import SweepSpec
    from harness.data import Dataset
    from harness.tracking import SweepInfo
from harness.runner.datasets import data_facts


def sweep_info(spec: SweepSpec, identity: str, data: Dataset, command: str = "") -> SweepInfo:
    """What the tracker keeps about the sweep as a whole; `command` is the one that it was started by."""
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
            "seeds": len(spec.seeds),
            "looks": list(spec.looks),
        },
        command=command,
        data=data_facts(data),
        plan=analysis_plan(spec),
    )
