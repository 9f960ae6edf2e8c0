"""What all sections of a configuration share: their base class, and types of fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from harness.core.text import shown

_LARGEST: Final = 2**62


def _whole(value: object) -> object:
    """Accept 1e5 as 100000: YAML reads scientific notation as a float."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and abs(value) > _LARGEST:  # products of a few such numbers must fit a float
        raise ValueError(f"found {shown(value)}; allowed: a whole number up to 2^62")
    return value


def _as_tuple(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Paths = Annotated[tuple[str, ...] | None, BeforeValidator(_as_tuple)]
Whole = Annotated[int, BeforeValidator(_whole)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(gt=0, le=1e30)]  # of a budget; bounded so that a step's share of it is finite


class Config(BaseModel):
    """A frozen part of the configuration: unknown fields, wrong types, NaN and infinity are refused.

    The text under a field is its description in the reference of the spec.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def exactly_one(kind: str, found: Mapping[str, object]) -> None:
    """Raise ValueError unless one of several values is given."""
    given = [name for name, value in found.items() if value is not None]
    if len(given) != 1:
        names = " | ".join(found)
        raise ValueError(f"found {' and '.join(given) or 'none'}; allowed: exactly one {kind} of {names}")
