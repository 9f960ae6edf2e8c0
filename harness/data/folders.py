"""A whole folder as a text: its files of one kind, or a data set that Hugging Face's `datasets` saved there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from harness.core.links import read_bounded
from harness.core.text import listed
from harness.data.errors import CorpusError, reason
from harness.data.sources.kinds import KINDS, ending_of

_STATE: Final = "state.json"  # of a saved data set: its files in their order
_DICT: Final = "dataset_dict.json"  # of several saved data sets: their names
_LARGEST: Final = 10_000_000  # bytes of either
_TRAINED: Final = ("train", "training")


def saved_files(folder: Path, name: str, field: str) -> list[Path] | None:
    """The files of a saved data set, relative to its folder, in their order; None if the folder is none.

    Args:
        folder: where it is.
        name: of the folder in messages.
        field: the field of the spec that names it.

    Raises:
        CorpusError: the folder has several data sets, or one that cannot be read.
    """
    if (folder / _DICT).is_file():
        named = _json(folder / _DICT, name, field).get("splits")
        splits = [str(split) for split in named] if isinstance(named, list) else []
        trained = next((split for split in splits if split in _TRAINED), None)
        example = f"{field}: {Path(name, trained or (splits or ['train'])[0]).as_posix()}"
        raise CorpusError(
            field,
            f"found {name!r}, which has the data sets {listed(splits) if splits else 'none'}; allowed: one of them, "
            f"{example}",
        )
    if not (folder / _STATE).is_file():
        return None
    state = _json(folder / _STATE, name, field)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise CorpusError(
            field, f"found {name!r}, a data set of chosen rows; allowed: one after `flatten_indices()`, saved again"
        )
    entries = state.get("_data_files")
    entries = entries if isinstance(entries, list) else [None]
    names = [str(entry.get("filename")) if isinstance(entry, dict) else "" for entry in entries]
    if any(not found or found != Path(found).name for found in names):
        raise CorpusError(field, f"found {name!r}, whose {_STATE} names no files; allowed: what `save_to_disk` writes")
    for found in names:
        if not (folder / found).is_file():
            raise CorpusError(field, f"found {name!r} without its file {found!r}; allowed: a whole data set")
    return [Path(found) for found in names]


def _json(file: Path, name: str, field: str) -> dict[str, Any]:
    try:
        found = json.loads(read_bounded(file, _LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(
            field,
            f"found {name!r}, whose {file.name} cannot be read ({reason(error)}); allowed: what `save_to_disk` writes",
        ) from None
    return found if isinstance(found, dict) else {}


def files_of_one_kind(files: Iterable[Path], name: str, field: str) -> tuple[list[Path], str]:
    """The files of a folder that can be read, and a sentence about others; empty if there are none.

    Args:
        files: in the folder and below it.
        name: of the folder in messages.
        field: the field of the spec that names it.

    Raises:
        CorpusError: there are none, or files of several kinds, which may have the same text.
    """
    kinds: dict[str, list[Path]] = {}
    others: Counter[str] = Counter()
    for file in files:
        if ending := ending_of(file.name):
            kinds.setdefault(KINDS[ending].name, []).append(file)
        else:
            others[file.suffix or file.name] += 1
    if not kinds:
        raise CorpusError(
            field, f"found no text in the folder {name!r}; allowed: files that end in {', '.join(KINDS)}, or a pattern"
        )
    if len(kinds) > 1:
        found = listed(f"{len(kinds[kind])} of {kind}" for kind in kinds)
        example = str(Path(name, "**", f"*{ending_of(next(iter(kinds.values()))[0].name)}"))
        raise CorpusError(
            field,
            f"found files of several kinds in the folder {name!r}: {found}; allowed: patterns, such as {example!r}",
        )
    left = listed(f"{count} {ending}" for ending, count in sorted(others.items())[:5]) if others else ""
    note = f"of the folder {name!r}, files that end otherwise are left out: {left}" if left else ""
    return next(iter(kinds.values())), note
