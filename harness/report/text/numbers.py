"""Number formats, the same for the page, the terminal and the LaTeX table."""

from __future__ import annotations

import math
from collections.abc import Iterable

from harness.config.fields import format_value

NOTHING = "–"  # a missing value
_MINUS = "−"
_LARGEST = 1e7  # from here on numbers are in scientific notation
_SMALLEST = 1e-6  # below, numbers with significant digits are


def number(value: float, decimals: int) -> str:
    """A fixed number of decimals; an en dash for NaN; from ten million on `1.23e7`."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if abs(value) >= _LARGEST:
        return _scientific(value, 3)
    return f"{value:.{decimals}f}".replace("-", _MINUS)


def _scientific(value: float, digits: int) -> str:
    """`1.23e7`, `5e−8`: a number that would have too many digits otherwise."""
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    kept = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{kept}e{int(exponent)}".replace("-", _MINUS)


def signed(value: float, decimals: int) -> str:
    """Like `number`, always with a sign."""
    text = number(value, decimals)
    return text if text.startswith((_MINUS, NOTHING)) else f"+{text}"


def decimals_for(half_widths: Iterable[float]) -> int:
    """Decimals that give the narrowest half-width of a column two significant digits, 3 to 5; 4 without any width."""
    known = [width for width in half_widths if math.isfinite(width) and width > 0]
    if not known:
        return 4
    return min(5, max(3, 1 - math.floor(math.log10(min(known)))))


def decimals_of_error(errors: Iterable[float]) -> int:
    """Decimals that give the smallest standard error of a column two significant digits, 0 to 6; 4 without errors."""
    known = [error for error in errors if math.isfinite(error) and error > 0]
    if not known:
        return 4
    return min(6, max(0, 1 - math.floor(math.log10(min(known)))))


def significant(value: float, digits: int = 4) -> str:
    """A number with this many significant digits; below a millionth and from ten million on `1.23e−7`."""
    if not math.isfinite(value) or value == 0:
        return number(value, 0)
    if not _SMALLEST <= abs(value) < _LARGEST:
        return _scientific(value, digits)
    return number(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def rounded(value: float) -> str:
    """A number with at most three significant digits and no trailing zeros: 0.02, 0.001, 1.5."""
    text = significant(value, 3)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def probability(value: float) -> str:
    """A p-value with two significant digits, three from 0.01 to 0.1 (0.0496 is not 0.05); an en dash for NaN."""
    if math.isnan(value):
        return NOTHING
    if value < 0.0001:
        return "<0.0001"
    return significant(value, 3 if 0.01 <= value < 0.1 else 2)


def chance(value: float) -> str:
    """A p-value with its relation sign: `= 0.0123`, `< 0.0001`."""
    text = probability(value)
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def count(value: float) -> str:
    """A count: `8,192` in full, from 10,000 on with k, M, G or T and three significant digits."""
    if math.isnan(value):
        return NOTHING
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if abs(value) < 999.5 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e12:.3g} T" if abs(value) < 1e15 else number(value, 0)


def duration(seconds: float) -> str:
    """Wall time in seconds, minutes or hours: `9.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if not math.isfinite(seconds):
        return number(seconds, 0)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def setting(value: object) -> str:
    """The value of a parameter: a fraction with three significant digits (1.23e-4 below 0.01), a word unchanged."""
    if value is None or str(value) in ("True", "False"):  # frames hold numpy.bool_, which is not a bool
        return format_value(None if value is None else str(value) == "True")
    if isinstance(value, tuple):
        return ", ".join(setting(item) for item in value)
    try:
        real = float(str(value))
    except ValueError:
        return str(value)
    if not math.isfinite(real):
        return number(real, 0)
    if real == int(real):
        return f"{real:.0f}".replace("-", _MINUS) if abs(real) < 1e15 else _scientific(real, 4)
    if abs(real) < 0.01:
        mantissa, _, exponent = f"{real:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return rounded(real)


def short_id(run_id: str) -> str:
    """The first eight characters of a run id, enough to find the run."""
    return run_id[:8]
