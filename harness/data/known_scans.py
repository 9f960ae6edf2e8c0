"""What one pass over a large text has found, kept in the cache for as long as its files are unchanged."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from harness.config.fingerprint import digest_of
from harness.core.files import DamagedError, json_with_checksum, read_json_with_checksum, sha256_of
from harness.core.links import read_bounded
from harness.core.unchanged import State, are_large, state_of
from harness.data.cache import refuse_shared, unusable_cache, write_private
from harness.data.documents import Documents, Scan, TextFile, scan
from harness.data.errors import reason
from harness.data.sources.source import Source

_FORMAT: Final = 1  # of the files; raise it when `scan` finds anything else in the same text
_MOST_BYTES: Final = 100_000_000  # of a description


def scan_once(
    sources: Sequence[Source],
    separator: str,
    folder: Path,
    check_size: Callable[[int], None],
    compared: bool = False,
) -> Scan:
    """Like `harness.data.documents.scan`, but a large text is read again only if one of its files has changed.

    Args:
        sources, separator, check_size, compared: as for `scan`.
        folder: of the cache.

    Raises:
        CorpusError: as `scan`, or the cache cannot be written or is open to others.
    """
    before = _state(sources)
    if before is None or not are_large(before):
        return scan(sources, separator, check_size, compared)
    file = folder / f"{_key(sources, separator, compared)}.json"
    found = _read(file, sources, before)
    if found is not None:
        check_size(found.size)
        return found
    found = scan(sources, separator, check_size, compared)
    if _state(sources) == before:
        try:
            _write(file, found, before)
        except OSError as error:
            raise unusable_cache(folder, reason(error)) from None
    return found


def _state(sources: Sequence[Source]) -> State | None:
    try:
        return state_of(source.path for source in sources)
    except OSError:  # whoever reads the files says what is wrong
        return None


def _key(sources: Sequence[Source], separator: str, compared: bool) -> str:
    shown = [[str(one.path.absolute()), one.name, one.plain, one.column] for one in sources]
    return digest_of([_FORMAT, separator.encode(errors="surrogatepass").hex(), compared, shown])


def _arrays(file: Path) -> Path:
    return file.with_suffix(".npy")


def _write(file: Path, found: Scan, state: State) -> None:
    documents = io.BytesIO()
    np.save(documents, np.stack([found.documents.sizes, found.documents.hashes, found.documents.files]))
    content = {
        "state": state,
        "files": [[one.size, one.documents] for one in found.files],
        "sha256": found.sha256,
        "size": found.size,
        "characters": found.characters,
        "blank": found.blank,
        "left_out": dict(found.left_out),
        "documents": write_private(_arrays(file), [documents.getbuffer()]),
    }
    write_private(file, [json_with_checksum(content).encode()])


def _read(file: Path, sources: Sequence[Source], state: State) -> Scan | None:
    """What was found in files of this state; None if that is not known."""
    for place in (file.parent, file, _arrays(file)):
        refuse_shared(place)
    try:
        content, verified = read_json_with_checksum(read_bounded(file, _MOST_BYTES))
        if not verified or content["state"] != state or content["documents"] != sha256_of(_arrays(file)):
            return None
        documents = Documents(*np.load(_arrays(file)))
        return Scan(
            files=tuple(TextFile(source, *numbers) for source, numbers in zip(sources, content["files"], strict=True)),
            sha256=content["sha256"],
            size=content["size"],
            characters=content["characters"],
            blank=content["blank"],
            documents=documents,
            left_out=content["left_out"],
        )
    except (OSError, ValueError, LookupError, TypeError, DamagedError):  # missing or damaged
        return None
