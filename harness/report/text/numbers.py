"""Numbers as people read them: one spelling for the page, the terminal and the LaTeX table."""

from __future__ import annotations

import math
from collections.abc import Iterable

from harness.config.fields import format_value

NOTHING = "–"  # a figure that does not exist
_MINUS = "−"


def number(value: float, decimals: int) -> str:
    """A fixed number of decimals; an en dash for NaN."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return f"{value:.{decimals}f}".replace("-", _MINUS)


def signed(value: float, decimals: int) -> str:
    """Like `number`, with its sign always shown."""
    text = number(value, decimals)
    return text if text.startswith((_MINUS, NOTHING)) else f"+{text}"


def decimals_for(half_widths: Iterable[float]) -> int:
    """Decimals that give the narrowest half-width of a column two significant digits, between 3 and 5; else 4."""
    known = [width for width in half_widths if math.isfinite(width) and width > 0]
    if not known:
        return 4
    return min(5, max(3, 1 - math.floor(math.log10(min(known)))))


def decimals_of_error(errors: Iterable[float]) -> int:
    """Decimals that give the smallest standard error of a column two significant digits, at most 6; else 4."""
    known = [error for error in errors if math.isfinite(error) and error > 0]
    if not known:
        return 4
    return min(6, max(0, 1 - math.floor(math.log10(min(known)))))


def significant(value: float, digits: int = 4) -> str:
    """A number of any size, with this many significant digits, never in scientific notation."""
    if not math.isfinite(value) or value == 0:
        return number(value, 0)
    return number(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def rounded(value: float) -> str:
    """A number with at most three significant digits and no zeros at its end: 0.02, 0.001, 1.5."""
    text = significant(value, 3)
    return text.rstrip("0").rstrip(".") if "." in text else text


def probability(value: float) -> str:
    """A p-value with two significant digits, three near 0.05 so that 0.0496 does not read as it; an en dash for NaN."""
    if math.isnan(value):
        return NOTHING
    if value < 0.0001:
        return "<0.0001"
    return significant(value, 3 if 0.01 <= value < 0.1 else 2)


def chance(value: float) -> str:
    """A p-value behind its letter: `= 0.0123`, `< 0.0001`."""
    text = probability(value)
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def count(value: float) -> str:
    """A count of things: 8,192 as it is, from 10,000 on with k, M, G or T and three significant digits."""
    if math.isnan(value):
        return NOTHING
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if abs(value) < 999.5 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e12:.3g} T"


def duration(seconds: float) -> str:
    """Wall time in the units that fit it."""
    if math.isnan(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def setting(value: object) -> str:
    """The value of a parameter: a fraction to three significant digits (1.23e-4 below 0.01), a word as it is."""
    if value is None or str(value) in ("True", "False"):  # a frame gives numpy's, which are no bool
        return format_value(None if value is None else str(value) == "True")
    if isinstance(value, tuple):
        return ", ".join(setting(item) for item in value)
    try:
        real = float(str(value))
    except ValueError:
        return str(value)
    if not math.isfinite(real) or real == int(real):
        return number(real, 0)
    if abs(real) < 0.01:
        mantissa, _, exponent = f"{real:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return rounded(real)


def short_id(run_id: str) -> str:
    """The first eight characters of a run's id: enough to find it by."""
    return run_id[:8]
