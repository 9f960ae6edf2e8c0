"""Reads JSON that another process, or somebody else, wrote: with bounds on its size, its depth and its numbers."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

MAX_BYTES: Final = 64 * 2**20
MAX_DEPTH: Final = 32  # of lists and objects in each other; the harness writes at most six
MAX_WHOLE: Final = 2**63 - 1  # databases and data frames hold no larger whole number


def read_json(text: str | bytes, finite: bool = True) -> Any:
    """The value of a JSON text.

    Args:
        text: in UTF-8 where it is bytes.
        finite: refuse NaN and infinite numbers, which JSON does not have and Python writes all the same.

    Raises:
        ValueError: it is too large, is nested too deeply, holds a number out of range, or is not JSON. The message
            says which, and fits behind the name of a file: `is not valid JSON`.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES // 2**20} MB")
    hooks: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
    try:
        value = json.loads(text, parse_int=_whole, **hooks)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except _OutOfRange:
        raise ValueError("holds a number that is out of range") from None
    except ValueError:
        raise ValueError("is not valid JSON") from None
    _check_depth(value)
    return value


_TOO_DEEP: Final = f"is nested more than {MAX_DEPTH} deep"


class _OutOfRange(ValueError):
    pass


def _whole(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > MAX_WHOLE:  # Python refuses numbers of more than 4300 digits
        raise _OutOfRange
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _OutOfRange
    return value


def _refuse(_: str) -> NoReturn:
    raise _OutOfRange


def _check_depth(value: Any) -> None:
    layer, depth = [value], 0
    while layer := [one for one in layer if isinstance(one, list | dict)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        layer = [part for one in layer for part in (one.values() if isinstance(one, dict) else one)]
