"""What all commands share: consoles, options, and one-line errors for wrong options."""

from __future__ import annotations

import atexit
import gc
import inspect
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from harness.console.output import encodable, safe_output
from harness.core.outcomes import Exit
from harness.core.paths import ARTIFACTS_VARIABLE
from harness.core.secrets import without_secrets
from harness.core.text import printable, shown

# The interpreter collects garbage once more when it exits, although the system frees all memory anyway: half a second
# and more after a command that has imported MLflow.
atexit.register(gc.freeze)

_NOT_ESCAPED = "\n\t"


class _Console(Console):
    """Prints strings literally: rich reads no markup in them, control characters are escaped, secrets replaced."""

    def print(self, *objects: Any, **options: Any) -> None:
        """See `rich.console.Console.print`."""
        super().print(*(self.shown(one) if isinstance(one, str) else one for one in objects), **options)

    def shown(self, text: str, kept: str = _NOT_ESCAPED) -> str:
        """The text as this console can show it, so that its width is known.

        Args:
            text: any text.
            kept: control characters that are not escaped.
        """
        return encodable(printable(without_secrets(text), kept), self.encoding)


out = _Console(highlight=False, markup=False, emoji=False)
err = _Console(stderr=True, highlight=False, markup=False, emoji=False)


def fail(message: object, code: int = Exit.MISTAKE) -> NoReturn:
    """Print `message` to standard error and exit with `code`."""
    err.print(str(message), soft_wrap=True)
    raise typer.Exit(code)


def busy(text: str) -> AbstractContextManager[object]:
    """Show `text` with a spinner on standard error, if that is a terminal, until the `with` block ends."""
    dots = err.encoding.startswith("utf")
    return err.status(Text(err.shown(text, "")), spinner="dots" if dots else "line")


class Command(TyperCommand):
    """A command that reports a wrong option or argument in one line with exit code 2, as it does a wrong spec.

    Nothing that it prints can end it. Its help has the options in groups (`rich_help_panel`), and the lines of its
    epilog as they are.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command; exits."""
        with safe_output():
            return super().main(*args, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; exits if one is wrong."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _fail_in_one_line(error)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The arguments as the help and the documents name them, without braces."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            title = "Arguments" if param.param_type_name == "argument" else getattr(param, "rich_help_panel", None)
            if (record := param.get_help_record(ctx)) is not None:
                groups.setdefault(title or "Options", []).append(record)
        if "Options" in groups:
            groups["Options"] = groups.pop("Options")  # the last ones: --help, and what belongs to no group
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write examples and environment variables, each on a line of its own."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("\n".join(inspect.cleandoc(self.epilog).splitlines()) + "\n")


class Group(TyperGroup):
    """The same for a command with subcommands."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command; exits."""
        with safe_output():
            return super().main(*args, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; exits if one is wrong."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _fail_in_one_line(error)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the subcommand; exits if there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            _fail_in_one_line(error)


def _fail_in_one_line(error: Exception) -> NoReturn:
    """Exit with one line if `error` is a wrong option; raise everything else again, such as the request for help."""
    message = getattr(error, "format_message", str)()
    if not hasattr(error, "format_message") or "\n" in message or not message:
        raise error
    param = getattr(error, "param", None)
    if param is None:
        fail(f"{message.rstrip('.')}; see --help")
    option = param.opts[-1]
    name = option if option.startswith("-") else param.metavar or param.name
    fail(f"{name}: {getattr(error, 'message', '') or 'found nothing; allowed: see --help'}")


def whole(low: int, high: int | None = None) -> Callable[[Any], int]:
    """A parser for an option: a whole number from `low` to `high`."""

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
    """A parser for an option: a finite number of at least `low`."""

    def read(text: Any) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise typer.BadParameter(f"found {shown(str(text))}; allowed: a number at least {low:g}")
        return value

    return read


def share(low: float) -> Callable[[Any], float]:
    """A parser for an option: how many CPUs or GPUs a run gets, a whole number or a fraction of one."""

    def read(text: Any) -> float:
        value = number(low)(text)
        if value > 1 and value != int(value):
            raise typer.BadParameter(f"found {shown(str(text))}; allowed: a whole number, or a fraction below 1")
        return value

    return read


def cluster(text: Any) -> str:
    """A parser for an option: the address of a Ray cluster."""
    host, _, port = str(text).rpartition(":")
    if text not in ("auto", "local") and not (host and "/" not in host and port.isdecimal()):
        raise typer.BadParameter(f"found {shown(str(text))}; allowed: auto, local, or HOST:PORT, such as 10.0.0.5:6379")
    return str(text)


def place(text: Any) -> str:
    """A parser for an option: an address, or a folder, whose path is made absolute."""
    found = str(text).strip()
    if not found:
        raise typer.BadParameter("found nothing; allowed: a folder or an address, or leave the option out")
    return found if "://" in found else os.path.abspath(found)  # noqa: PTH100 (links are not to be resolved)


# Groups of options in the help.
SHOW = "Show, and train nothing"
SWEEP = "What is trained"
PLACE = "Where runs train"
STORES = "Stores and files"
OUTPUT = "What is printed"

Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON in place of text: see reports/README.md.", rich_help_panel=OUTPUT),
]

# Options of the commands.
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a field of the spec, e.g. train.seed=2. Repeatable.",
        rich_help_panel=SWEEP,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        parser=whole(1, 1024),
        metavar="N",
        help="Worker processes. Default: one per GPU, else one per core.",
        rich_help_panel=PLACE,
    ),
]
Threads = Annotated[
    int,
    typer.Option(parser=whole(1, 1024), metavar="N", help="CPU threads per worker.", rich_help_panel=PLACE),
]

Ray = Annotated[
    str | None,
    typer.Option(
        parser=cluster,
        metavar="ADDRESS",
        help="Train on a Ray cluster: the one at HOST:PORT, `auto` for the one this machine is in, or `local` to start "
        "one here for this sweep. --workers is a maximum then.",
        rich_help_panel=PLACE,
    ),
]
CpusPerRun = Annotated[
    float | None,
    typer.Option(
        parser=share(0.01),
        metavar="N",
        help="With --ray: CPUs for each run. Default: as --threads.",
        rich_help_panel=PLACE,
    ),
]
GpusPerRun = Annotated[
    float | None,
    typer.Option(
        parser=share(0),
        metavar="N",
        help="GPUs for each run; several train it together. With --ray also a fraction, such as 0.5. Default: 1 where "
        "there are any.",
        rich_help_panel=PLACE,
    ),
]
RanksPerRun = Annotated[
    int | None,
    typer.Option(
        parser=whole(1, 1024),
        metavar="N",
        help="Processes that train each run together, each with --threads CPU threads. Default: one per GPU of a run.",
        rich_help_panel=PLACE,
    ),
]
Shared = Annotated[
    str | None,
    typer.Option(
        parser=place,
        metavar="DIR|URL",
        help="With --ray: a folder that all nodes see, or an address such as s3://BUCKET/states. States are copied "
        "there, so that another node can resume a run.",
        rich_help_panel=PLACE,
    ),
]


def _allow(location: str | None) -> str | None:
    """Name the location to this process, where every reader and writer of a store looks for it."""
    if location:
        os.environ[ARTIFACTS_VARIABLE] = location
    return location


ArtifactsAt = Annotated[
    str | None,
    typer.Option(
        "--artifacts-at",
        metavar="LOCATION",
        callback=_allow,
        help=f"A folder or address outside the store where its files may be too. Default: ${ARTIFACTS_VARIABLE}.",
        rich_help_panel=STORES,
    ),
]
Tracking = Annotated[
    str | None,
    typer.Option(
        "--tracking",
        metavar="URI",
        help="MLflow store. Default: $MLFLOW_TRACKING_URI or mlruns/mlflow.db.",
        rich_help_panel=STORES,
    ),
]
