"""A sweep whose arms have their short labels instead of their names, for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from harness.analysis.evidence import Evidence
from harness.config.labels import ArmLabels, arm_labels, labelled


def with_labels(evidence: Evidence) -> tuple[Evidence, ArmLabels]:
    """The evidence with labels for the names of arms and of their runs; and the labels."""
    record = evidence.record
    labels = arm_labels({arm.name: arm.values for arm in record.arms})
    of = labels.of
    arms = tuple(replace(arm, name=of[arm.name]) for arm in record.arms)
    shown = replace(record, arms=arms, baseline=of.get(record.baseline, record.baseline))
    runs = renamed_arms(evidence.runs, of)
    curves, positions = (
        None if frame is None else renamed_arms(frame, of) for frame in (evidence.curves, evidence.positions)
    )
    return Evidence(shown, runs, curves, positions, evidence.unplanned), labels


def renamed_arms(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """A frame with other names in its column `arm`, and at the beginning of its column `name`.

    An arm that is not renamed, as one that the spec no longer has, is quoted where its name is one of the new names.
    """
    new = set(names.values())
    arms = frame["arm"].astype(object)
    changed = {arm: names.get(arm, f"“{arm}”" if arm in new else arm) for arm in arms.unique() if isinstance(arm, str)}
    columns = {"arm": arms.map(lambda arm: changed.get(arm, arm))}
    if "name" in frame:
        pairs = zip(frame["name"], arms, strict=True)
        columns["name"] = pd.Series(
            [
                labelled(name, arm, changed[arm]) if isinstance(arm, str) and arm in names else name
                for name, arm in pairs
            ],
            index=frame.index,
            dtype=object,
        )
    return frame.assign(**columns)
