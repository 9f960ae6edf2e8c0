"""What can be done with a finished sweep: the lines that its command ends with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

_SEEDS_AT_MOST: Final = 64  # more than this nobody trains for a verdict
_ID: Final = 12  # characters of a run's id that are shown


def next_steps(comparison: pd.DataFrame, command: Sequence[str], several_looks: bool) -> list[str]:
    """Commands that go on from a result, each with what it is for.

    Args:
        comparison: as `harness.report.compare` gives it.
        command: the sweep's own arguments.
        several_looks: whether the number of seeds was found out by the sweep itself.
    """
    found = []
    open_still = comparison[comparison["verdict"] == "undecided"]
    needed = open_still["seeds_needed"].dropna()
    if len(needed) and not several_looks and (most := int(needed.max())) <= _SEEDS_AT_MOST:
        kept = _without(command, "study.seeds")
        more = shlex.join(["python", "-m", "harness.sweep", *kept, "--set", f"study.seeds={most}"])
        found.append(f"{more}   # about the seeds that find a difference that matters")
    pair = [str(ids).split()[0] for ids in comparison["run_ids"] if str(ids).strip()][:2]
    if len(pair) == 2:
        found.append(f"python -m harness.compare {pair[0][:_ID]} {pair[1][:_ID]}   # two runs, side by side")
    if pair:
        found.append(f'python -m harness.generate {pair[0][:_ID]} --prompt "…"   # continue a text')
    return found


def _without(command: Sequence[str], path: str) -> list[str]:
    """A command without what it sets a field to."""
    kept: list[str] = []
    for argument in command:
        if argument.startswith(f"{path}=") and kept and kept[-1] == "--set":
            kept.pop()
        elif not argument.startswith(f"--set={path}="):
            kept.append(argument)
    return kept
