"""Compare two runs: `python -m harness.compare RUN_A RUN_B`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness.config.objective import TOKENIZER, TOKENS, VOCABULARY
from harness.console.cli import ArtifactsAt, Command, Json, Tracking, fail, out, whole
from harness.console.tables import show_table, show_texts
from harness.core import metrics

if TYPE_CHECKING:
    from harness.tracking import RunDetails, Sample

_CURVES: Final = (
    metrics.VAL_LOSS,
    metrics.TRAIN_LOSS,
    metrics.LEARNING_RATE,
    metrics.GRAD_NORM,
    metrics.TOKENS_PER_SECOND,
)
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_LABEL: Final = max(map(len, _CURVES)) + 1
_ENDS: Final = 24  # cells for the first and last value
_SCALED_FROM: Final = 0.05  # share of the tokens that is left out of the scale
_ORDER: Final = ("val/", "test/", "train/", "tokens", "epochs", "optim/", "perf/", "system/")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


_EPILOG = """
Examples:
  python -m harness.compare 0a1b2c 3d4e5f
  python -m harness.compare "drop_rate=0.0 · seed 2" 3d4e5f --samples 0
  python -m harness.compare 0a1b2c 3d4e5f --json
"""


@app.command(cls=Command, epilog=_EPILOG)
def main(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's id, the start of it, or the run's name.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to compare with; differences are B minus A.")],
    tracking: Tracking = None,
    artifacts_at: ArtifactsAt = None,
    samples: Annotated[
        int, typer.Option(parser=whole(0), metavar="N", help="Show the texts of the last N evaluations of each run.")
    ] = 2,
    json: Json = False,
) -> None:
    """Print the differences between two runs: parameters, final metrics, curves, generated texts."""
    from harness.console.preflight import wrong_tracking
    from harness.tracking import TrackingError, load_run, load_samples

    if wrong := wrong_tracking(tracking):
        fail("\n".join(wrong))

    try:
        a, b = (load_run(run, tracking, _CURVES) for run in (run_a, run_b))
        if a.run_id == b.run_id:
            fail(f"RUN_B: found {run_b!r}, which is the same run as {run_a!r} ({a.run_id}); allowed: another run")
        if json:
            from harness.runner.as_json import as_text, runs_document

            params = [
                (name, a.params.get(name), b.params.get(name)) for name, *_ in different_params(a.params, b.params)
            ]
            differences = metric_differences(a.final, b.final, _other_data(a, b))
            typer.echo(as_text(runs_document(a, b, params, differences, list(headings(a, b))[2:])))
            return
        texts = [load_samples(run.run_id, tracking) for run in (a, b)]
    except TrackingError as error:
        fail(error)
    for line in headings(a, b):
        out.print(line, soft_wrap=True)
    _section("Parameters that differ", different_params(a.params, b.params), "none")
    _section("Final metrics", metric_rows(a.final, b.final, _other_data(a, b)), "none")
    out.print("\nCurves over tokens, on one scale", style="bold")
    for line in curve_lines(a, b, out.width):
        out.print(line, soft_wrap=True)
    _show_samples(texts[0], texts[1], samples)


def headings(a: RunDetails, b: RunDetails) -> Iterator[str]:
    """The two runs, and a warning if their losses cannot be compared."""
    for letter, run in (("A", a), ("B", b)):
        what = ", ".join(filter(None, (run.experiment, run.phase, run.outcome)))
        yield f"{letter}  {run.run_id[:12]}  {run.shown_name}  ({what})"
    if other := _other_data(a, b):
        what = "tokens of the same text; compare their bits per byte, not their losses"
        texts = "texts or splits; do not compare their losses"
        yield f"warning: the runs were evaluated on different {what if other == TOKENIZER else texts}"


def _other_data(a: RunDetails, b: RunDetails) -> str:
    """Why two runs were not evaluated on the same targets: the tokenizer alone, or `text`; empty if they were."""
    paths = {name for name in {*a.params, *b.params} if name.startswith("data.")}
    different = {name for name in paths if a.params.get(name) != b.params.get(name)}
    if a.data == b.data or different == {VOCABULARY}:
        return ""
    return TOKENIZER if TOKENIZER in different and different <= set(TOKENS) else "text"


def _comparable(name: str, other: str) -> bool:
    """Whether the difference of a metric means something, if two runs differ in `_other_data`."""
    scored = name.startswith(("val/", "val_sample/", "test/", "train/"))
    return not scored or not other or (other == TOKENIZER and name.endswith("/bits_per_byte"))


def different_params(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[list[str]]:
    """Rows of name, A and B; `–` if a run has no such parameter."""
    names = sorted(name for name in {*a, *b} if a.get(name, _MISSING) != b.get(name, _MISSING))
    return [[name, _shown(a.get(name, _MISSING)), _shown(b.get(name, _MISSING))] for name in names]


def metric_rows(a: Mapping[str, float], b: Mapping[str, float], other_data: str = "") -> list[list[str]]:
    """`metric_differences` as text, `–` for None."""
    rows = []
    for name, *values, difference in metric_differences(a, b, other_data):
        known = [value for value in values if value is not None]
        shown = "–" if difference is None else f"{difference:+,.{_decimals(*known)}f}"
        rows.append([name, *("–" if one is None else _number(one, *known) for one in values), shown.replace("-", "−")])
    return rows


def metric_differences(
    a: Mapping[str, float], b: Mapping[str, float], other_data: str = ""
) -> list[tuple[str, float | None, float | None, float | None]]:
    """Name, A, B and B − A of each metric; metrics of the validation split come first.

    Args:
        a, b: metric → last value.
        other_data: see `_other_data`; differences that mean nothing are None.
    """

    def place(name: str) -> tuple[int, str]:
        return next((i for i, prefix in enumerate(_ORDER) if name.startswith(prefix)), len(_ORDER)), name

    return [
        (
            name,
            a.get(name),
            b.get(name),
            b[name] - a[name] if name in a and name in b and _comparable(name, other_data) else None,
        )
        for name in sorted({*a, *b}, key=place)
    ]


def curve_lines(a: RunDetails, b: RunDetails, width: int) -> Iterator[str]:
    """Two lines per metric: a sparkline over tokens, and the first and last value.

    Args:
        a, b: the runs.
        width: of the terminal, in cells.
    """
    for name in _CURVES:
        pair = (a.curves.get(name, ()), b.curves.get(name, ()))
        if not any(pair):
            continue
        end = max(tokens for curve in pair for tokens, _ in curve)
        # Without the steep fall at the start, which would hide any later difference.
        values = [value for curve in pair for tokens, value in curve if tokens >= _SCALED_FROM * end]
        for letter, curve in zip("AB", pair, strict=True):
            label = f"{name if letter == 'A' else '':<{_LABEL}}{letter} "
            if not curve:
                yield f"{label}–"
                continue
            ends = " → ".join(_number(value, *values) for value in (curve[0][1], curve[-1][1]))
            room = max(4, min(40, width - len(label) - _ENDS))
            yield f"{label}{sparkline(curve, end, min(values), max(values), room)} {ends}"


def sparkline(curve: Sequence[tuple[int, float]], end: int, low: float, high: float, width: int) -> str:
    """A curve in `width` characters, each the mean of the points in its share of the tokens; then blanks.

    Args:
        curve: (tokens, value) of each point, by tokens.
        end: tokens at the right edge.
        low, high: values at the bottom and at the top; values outside are clipped.
        width: characters.
    """
    bins: list[list[float]] = [[] for _ in range(width)]
    for tokens, value in curve:
        bins[min(width - 1, tokens * width // max(1, end))].append(value)
    last = max(place for place, found in enumerate(bins) if found)
    drawn, level = "", curve[0][1]
    for found in bins[: last + 1]:
        level = sum(found) / len(found) if found else level
        share = min(1.0, max(0.0, (level - low) / (high - low))) if high > low else 0.0
        drawn += _BLOCKS[min(len(_BLOCKS) - 1, int(share * len(_BLOCKS)))]
    return drawn.ljust(width)


def _section(title: str, rows: list[list[str]], nothing: str) -> None:
    out.print(f"\n{title}", style="bold")
    if not rows:
        out.print(nothing)
        return
    show_table([["", "A", "B", "B − A"][: len(rows[0])], *rows])


def _show_samples(a: Sequence[Sample], b: Sequence[Sample], count: int) -> None:
    """Print the texts of the last `count` evaluations of both runs."""
    if count == 0 or not (a or b):
        return
    out.print("\nSamples", style="bold")
    show_texts(*(list(_texts(run[-count:])) for run in (a, b)))


def _texts(samples: Iterable[Sample]) -> Iterator[tuple[str, str]]:
    """Heading and text of each text, the greedy one of an evaluation first."""
    for one in samples:
        if one.greedy is not None:
            yield f"{one.tokens:,} tokens, greedy", one.greedy
        yield f"{one.tokens:,} tokens{'' if one.greedy is None else ', sampled'}", one.text


_MISSING: Final = object()


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _decimals(*values: float | None) -> int:
    """Decimals that show five digits of the largest value."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    if largest >= 10_000:
        return 0
    if largest >= 100:
        return 1
    return 4 if largest >= 0.1 or largest == 0 else 7


def _number(value: float, *beside: float | None) -> str:
    """A value with the decimals that suit all values beside it."""
    return f"{value:,.{_decimals(value, *beside)}f}"


if __name__ == "__main__":
    app(prog_name="python -m harness.compare")
