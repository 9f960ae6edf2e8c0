"""Mistakes in compared and tuned values, each judged alone: for a spec whose sections have mistakes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from harness.config.dimensions import Dimension
from harness.config.fields import override
from harness.config.messages import explain
from harness.config.run import RunConfig

# A run that any field fits into.
_PLAIN: Final = {"data": {"corpus": "sotu-1820"}, "train": {"budget": {"steps": 1}, "batch_size": 1}}


def wrong_values_alone(
    compare: Mapping[str, Sequence[Any]], tune: Mapping[str, Dimension]
) -> Iterator[tuple[str, str]]:
    """Yield (where it is written, message) for each value that its field cannot have, whatever the others are."""
    for path, values in compare.items():
        for value in values:
            yield from ((f"compare.{path}", message) for message in _wrong(path, value))
    for path, dimension in tune.items():
        for value in dimension.values:
            if messages := _wrong(path, value):
                yield f"tune.{path}", messages[0]
                break  # one mistake per range is enough


def _wrong(path: str, value: Any) -> list[str]:
    try:
        RunConfig.model_validate(override(_PLAIN, {path: value}))
    except ValidationError as error:
        return [message for field, message in explain(error, RunConfig) if field == path]
    return []
