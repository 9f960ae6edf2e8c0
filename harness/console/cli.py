"""What the commands share: where they write, and how they end when something is wrong."""

from __future__ import annotations

import atexit
import gc
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from harness.core.outcomes import Exit
from harness.core.text import printable, shown

# At its end Python looks through everything for garbage, though the system takes it all back: half a second and more
# after a command that has imported MLflow.
atexit.register(gc.freeze)

_KEPT = "\n\t"
_WARNINGS_SHOWN = 5


class _Console(Console):
    """Prints texts as they are: no markup in them is obeyed by rich, no control character by the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's."""
        super().print(*(printable(one, _KEPT) if isinstance(one, str) else one for one in objects), **options)


out = _Console(highlight=False, markup=False, emoji=False)
err = _Console(stderr=True, highlight=False, markup=False, emoji=False)


def fail(message: object, code: int = Exit.MISTAKE) -> NoReturn:
    """Write `message` to standard error, as it is, and leave with `code`."""
    err.print(str(message), soft_wrap=True)
    raise typer.Exit(code)


class Command(TyperCommand):
    """A command that answers a wrong option or argument with one line, as it does a wrong spec."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left over; leaves with exit code 2 where one is wrong."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _refuse(error)


class Group(TyperGroup):
    """The same for a command with subcommands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As `Command.parse_args`."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _refuse(error)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The subcommand that is named; leaves with exit code 2 where there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    """End with one line for a mistake in the options; let everything else go on, the help where it was missing too."""
    said = getattr(error, "format_message", str)()
    if not hasattr(error, "format_message") or "\n" in said or not said:
        raise error
    param = getattr(error, "param", None)
    place = (
        "" if param is None else str(param.opts[-1] if param.opts[-1].startswith("-") else param.metavar or param.name)
    )
    found = str(getattr(error, "message", ""))
    fail(f"{place}: {found or 'found nothing; allowed: see --help'}" if place else f"{said.rstrip('.')}; see --help")


def whole(low: int, high: int | None = None) -> Callable[[Any], int]:
    """Reads a whole number of an option, from `low` to `high`."""

    def read(text: Any) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low or (high is not None and number > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise typer.BadParameter(f"found {shown(str(text))}; allowed: a whole number {bounds}")
        return number

    return read


def number(low: float) -> Callable[[Any], float]:
    """Reads a finite number of an option, from `low` on."""

    def read(text: Any) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise typer.BadParameter(f"found {shown(str(text))}; allowed: a number at least {low:g}")
        return value

    return read


# Options that several commands have.
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value; may be repeated.")
]
Workers = Annotated[
    int | None,
    typer.Option(parser=whole(1, 1024), metavar="N", help="Worker processes. Default: one per GPU, else one per core."),
]
Threads = Annotated[int, typer.Option(parser=whole(1, 1024), metavar="N", help="CPU threads of each worker.")]
Tracking = Annotated[
    str | None,
    typer.Option("--tracking", metavar="URI", help="MLflow store. Default: $MLFLOW_TRACKING_URI or mlruns/mlflow.db."),
]


def show_table(lines: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, the headings first; wider than the screen rather than with shortened names."""
    lines = [[printable(cell) for cell in line] for line in lines]
    headings, *rows = lines
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        words = not any(sign.isdigit() for row in rows for sign in row[place])
        table.add_column(heading, justify="left" if place == 0 or words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # an arm's name is no markup
    needed = sum(max(len(line[place]) for line in lines) + 2 for place in range(len(headings)))
    Console(width=max(out.width, needed), highlight=False).print(table)


def show_answer(lines: Sequence[Sequence[str]], answer: str, warnings: Sequence[str]) -> None:
    """Print a comparison: its table, its words, and what may change them."""
    show_table(lines)
    out.print(f"\n{answer}\n")
    for warning in warnings[:_WARNINGS_SHOWN]:
        out.print(f"warning: {warning}")
    if len(warnings) > _WARNINGS_SHOWN:
        out.print(f"and {len(warnings) - _WARNINGS_SHOWN} more in the report")
    if warnings:
        out.print()
