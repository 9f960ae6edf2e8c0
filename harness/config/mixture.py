"""A mixture of texts: the field `data.mix`, and the paths of the fields inside of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from harness.config.base import Config, Paths, exactly_one
from harness.core.text import shown

MIX: Final = "data.mix."  # the beginning of `data.mix.NAME.FIELD`
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


class MixSource(Config):
    """One text of a mixture. Exactly one of `corpus` and `path` says where it is."""

    corpus: str | None = None
    """As `data.corpus`."""
    path: Paths = None
    """As `data.path`."""
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    """Training windows that are drawn from it, in proportion to the other sources' weights."""
    val_path: Paths = None
    """As `data.val_path`."""
    test_path: Paths = None
    """As `data.test_path`."""
    format: Literal["text"] | None = None
    """`null`: that of `data.format`."""
    field: Annotated[str | None, Field(min_length=1)] = None
    """`null`: that of `data.field`."""
    separator: Literal["blank_line", "endoftext", "none"] | None = None
    """`null`: that of `data.separator`."""

    def own(self) -> dict[str, Any]:
        """The fields of the section `data` that it decides."""
        own = {name: getattr(self, name) for name in ("corpus", "path", "val_path", "test_path")}
        others = {name: getattr(self, name) for name in ("format", "field", "separator")}
        return own | {name: value for name, value in others.items() if value is not None}

    @model_validator(mode="after")
    def _one_source(self) -> MixSource:
        exactly_one("source", {"corpus": self.corpus, "path": self.path})
        return self


class Sources(dict[str, MixSource]):
    """The sources of a mixture, in the order of their names. A part of frozen configurations, so it has a hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


class AllowedSources:
    """What messages and the reference say is allowed as a mixture."""

    allowed: Final = "{NAME: {path: …, weight: …}, …}, or null"


def check_sources(value: object) -> object:
    """Raise ValueError for an empty mixture and for names that cannot be those of metrics."""
    if not isinstance(value, Mapping):
        return value
    if not value:
        raise ValueError("found no source; allowed: at least one, for example {books: {path: books.txt}}")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"found the name {shown(name)}; allowed: 1 to 32 of a-z A-Z 0-9 - _, beginning with a letter or digit, "
                "as metrics are named after it"
            )
    return value


def sorted_sources(sources: Mapping[str, MixSource] | None) -> Sources | None:
    """The sources by name: their order in the spec changes no number."""
    return None if sources is None else Sources(sorted(sources.items()))


def is_mix_field(path: str) -> bool:
    """Whether a path is `data.mix.NAME.FIELD`."""
    parts = path.removeprefix(MIX).split(".")
    return path.startswith(MIX) and len(parts) == 2 and parts[1] in MixSource.model_fields


def is_weight(path: str) -> bool:
    """Whether a path is the weight of a source, which decides what is trained on but no token of a text."""
    return is_mix_field(path) and path.endswith(".weight")


def plain_path(path: str) -> str:
    """`data.mix.books.path` → `data.path`: the field of a whole text that one of a source stands for; others as is."""
    return f"data.{path.rpartition('.')[2]}" if is_mix_field(path) else path
