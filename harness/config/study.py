"""The section `study` of a spec: how an arm is searched, and on how many seeds its best configuration is confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from harness.config.base import Config, Whole
from harness.config.samplers import PRUNERS, SAMPLERS
from harness.core.text import shown

MAX_SEEDS: Final = 1000


class SeedRange(Config):
    """A number of seeds that depends on the verdicts: `min` first, doubled for undecided arms, up to `max`."""

    min: int
    max: int


def _seeds(value: object) -> int | SeedRange | None:
    """A number of seeds, or a range as `{min: 3, max: 12}`.

    Raises:
        ValueError: it is neither, or out of range.
    """
    if value is None or isinstance(value, SeedRange):
        return value
    if not isinstance(value, Mapping):
        return _whole(value, 0, "found", ", or {min: 3, max: 12}")
    for name in value:
        if name not in ("min", "max"):
            raise ValueError(f"{name}: unknown field; allowed: min and max")
    low = _whole(value.get("min"), 2, "min: found")
    return SeedRange(min=low, max=_whole(value.get("max"), low + 1, "max: found"))


def _whole(value: Any, low: int, found: str, also: str = "") -> int:
    """A whole number (8.0 and 1e1 are) from `low` to `MAX_SEEDS`, or an error that begins with `found`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and low <= value <= MAX_SEEDS and value == int(value):
        return int(value)
    given = "nothing" if value is None else shown(value)
    raise ValueError(f"{found} {given}; allowed: a whole number from {low} to {MAX_SEEDS}{also}")


class StudyConfig(Config):
    """How an arm is searched and how its best configuration is confirmed."""

    sampler: Literal[tuple(SAMPLERS)] = Field(  # type: ignore[valid-type]
        "tpe",
        description="How Optuna chooses the next trial. "
        + " ".join(f"`{name}`: {facts.description}." for name, facts in SAMPLERS.items()),
    )
    pruner: Literal[tuple(PRUNERS)] = Field(  # type: ignore[valid-type]
        "none",
        description="Whether Optuna stops bad trials early, by their validation loss at equal numbers of tokens. "
        + " ".join(f"`{name}`: {meaning}." for name, meaning in PRUNERS.items()),
    )
    trials: Annotated[Whole, Field(ge=1)] = 10
    """Trials per arm, in total. Without `tune` there are none; a grid has as many as it has points."""
    startup_trials: Annotated[Whole | None, Field(ge=1)] = None
    """Trials of an arm that `tpe`, `gp` or `cmaes` draw at random before they use results. `null`: a third of the
    trials, at least 2 and at most 5; 1 for `cmaes`."""
    seeds: Annotated[int | SeedRange | None, BeforeValidator(_seeds)] = None
    """Confirm runs per arm. `null`: 3, or 1 where nothing is compared or tuned. `{min: 4, max: 16}`: 4, then 8, then
    16 while a verdict is undecided."""
    delta: Annotated[float, Field(gt=0)] = 0.02
    """The smallest difference that matters, in nats of loss per token; 0.02 is about 2 % of perplexity. The verdict
    “no difference larger than 0.02” names it."""
