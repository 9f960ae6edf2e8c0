"""Commands to copy into a shell: that of this process, and those that a finished sweep suggests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from harness.core.secrets import shell_command
from harness.core.text import SAME_COMMAND

if TYPE_CHECKING:
    import pandas as pd

_MAX_SEEDS: Final = 64  # more seeds are too expensive to suggest
_ID_CHARACTERS: Final = 12


def next_steps(comparison: pd.DataFrame, command: Sequence[str], adaptive: bool) -> list[str]:
    """Commands to run next, each with a comment about its purpose.

    Args:
        comparison: as `harness.report.compare` returns it.
        command: the arguments of the sweep command.
        adaptive: whether the sweep itself chose the number of seeds.
    """
    steps = []
    needed = comparison.loc[comparison["verdict"] == "undecided", "seeds_needed"].dropna()
    if len(needed) and not adaptive and needed.max() <= _MAX_SEEDS:  # infinite for a δ that no number of seeds finds
        arguments = _without_setting(command, "study.seeds")
        more = shell_command(["python", "-m", "harness.sweep", *arguments, "--set", f"study.seeds={needed.max():.0f}"])
        steps.append(f"{more}   # about as many seeds as a difference of delta needs")
    pair = [str(ids).split()[0][:_ID_CHARACTERS] for ids in comparison["run_ids"] if str(ids).strip()][:2]
    if len(pair) == 2:
        steps.append(f"python -m harness.compare {pair[0]} {pair[1]}   # two runs, side by side")
    if pair:
        steps.append(f'python -m harness.generate {pair[0]} --prompt "…"   # continue a text')
    return steps


def _without_setting(command: Sequence[str], path: str) -> list[str]:
    """The arguments without `--set` options for one field."""
    kept: list[str] = []
    for argument in command:
        if argument.startswith(f"{path}=") and kept and kept[-1] == "--set":
            kept.pop()
        elif not argument.startswith(f"--set={path}="):
            kept.append(argument)
    return kept


def command_line() -> str:
    """The command line of this process, to be copied into a shell; an address with a password is `"$VARIABLE"`."""
    command = shell_command(["python", "-m", "harness.sweep", *sys.argv[1:]])
    return command.encode(errors="backslashreplace").decode()  # an argument may have bytes that are not UTF-8


def resume_advice() -> str:
    """How to resume the sweep of this process."""
    return f"{SAME_COMMAND}: {command_line()}"
