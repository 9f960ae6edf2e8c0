"""The folder of a report: only what an earlier report wrote is replaced or removed, and links are not followed.

A list of the written files with their checksums, `.report.json`, stands beside them. It is written before the files, so
that a report that was interrupted is recognised too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from harness.core.files import DamagedError, json_with_checksum, part_of, read_json_with_checksum, sha256_of, write_text
from harness.core.links import open_regular, read_regular
from harness.core.text import visible
from harness.tracking import TrackingError

LIST: Final = ".report.json"
_LIST_BYTES: Final = 10_000_000  # at most
# What versions before this list wrote into a report's folder.
_EARLIER_FILES: Final = frozenset(
    {"report.html", "report.md", "runs.csv", "curves.csv", "comparison.csv", "comparison.tex"}
)
_EARLIER_FOLDERS: Final = {"figures": ".svg", "tables": ".csv"}
_EARLIER_PAGE: Final = b'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'

Written = dict[str, list[str]]  # path inside the folder → SHA-256 of its content; two while a report is being written
_UNKNOWN: Final = ""  # in place of a checksum: a file of a version without the list; replaced, but never removed


def check_folder(folder: Path) -> None:
    """Refuse a folder that has files of somebody else and no report.

    Raises:
        TrackingError: with the folder and what is allowed.
    """
    _written(folder)


def write_folder(folder: Path, files: Mapping[str, str | Iterable[str]]) -> None:
    """Replace the report in a folder by these files, and remove files of the earlier report that are not among them.

    A file that was changed since it was written is kept beside the new one: `report.md` as `report.edited.md`. Other
    files in the folder stay as they are.

    Args:
        folder: created if missing.
        files: path inside the folder, with `/` → text, in which control characters are escaped; a long one in parts.

    Raises:
        TrackingError: the folder has files of somebody else and no report, or a file or link of theirs is in the way.
        OSError: a file cannot be written.
    """
    written = _written(folder)
    for name in {*files, *written}:
        _refuse_links(folder, name)
    for name in files:
        if name not in written and (folder / name).exists():
            raise TrackingError(
                f"{folder / name}: found a file that no report wrote; allowed: move it away, or another folder"
            )
    texts = {name: visible(text) for name, text in files.items() if isinstance(text, str)}
    new = {name: hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for name, text in texts.items()}
    long = {name: text for name, text in files.items() if not isinstance(text, str)}
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        parts = {name: stack.enter_context(part_of(folder / name, map(visible, text))) for name, text in long.items()}
        new |= {name: sha256_of(part) for name, part in parts.items()}
        _replace(folder, written, texts, parts, new)


def _replace(
    folder: Path, written: Written, texts: Mapping[str, str], parts: Mapping[str, Path], new: Mapping[str, str]
) -> None:
    """Replace the files of an earlier report.

    Args:
        folder: of the report.
        written: what earlier reports wrote into it.
        texts, parts: its new files: a text, or the file to move into place.
        new: checksums of these.
    """
    either = {name: [*written.get(name, ()), *new.get(name, "").split()] for name in {*written, *new}}
    _write_list(folder, either)
    for name, sums in written.items():
        path = folder / name
        if _UNKNOWN in sums:
            continue
        if path.is_file() and sha256_of(path) not in sums:
            path.rename(_free_name(path))
        elif name not in new:
            path.unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, part in parts.items():
        part.replace(folder / name)
    _write_list(folder, {name: [digest] for name, digest in new.items()})


def written_files(folder: Path) -> list[Path]:
    """The files of the report in a folder."""
    return [path for name in sorted(_written(folder)) if (path := folder / name).is_file() and not path.is_symlink()]


def _written(folder: Path) -> Written:
    """What earlier reports wrote into a folder."""
    listed = folder / LIST
    if listed.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise TrackingError(
            f"{folder}: found a {'link' if listed.is_symlink() else 'file'}; allowed: a folder of reports"
        )
    try:
        content, verified = read_json_with_checksum(read_regular(folder, LIST, _LIST_BYTES))
        if not (verified and all(map(_is_inside, content["files"]))):
            raise DamagedError
        return {name: [str(one) for one in sums] for name, sums in content["files"].items()}
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TrackingError(
            f"{listed}: found a damaged list of files; allowed: remove the folder, or another one"
        ) from None
    if not folder.exists():
        return {}
    foreign = next(_foreign(folder), None)
    if foreign is not None:
        raise TrackingError(
            f"{folder}: found {foreign.name}, which no report wrote; allowed: a new folder, an empty one, or a report's"
        )
    return {name: [_UNKNOWN] for name in _earlier(folder)}


def _foreign(folder: Path) -> Iterator[Path]:
    """What is in a folder without a list and was not written by a version before it."""
    entries = sorted(folder.iterdir())
    page = folder / "report.html"
    ours = page.is_file() and _EARLIER_PAGE in _beginning(page)
    for path in entries:
        known = path.name in _EARLIER_FILES or path.name in _EARLIER_FOLDERS
        if not (ours and known) and not (path.is_dir() and _is_report(path)):
            yield path


def _beginning(page: Path) -> bytes:
    with open_regular(page) as stream:
        return stream.read(2000)


def _is_report(folder: Path) -> bool:
    """Whether a folder has the report of one of several sweeps."""
    try:
        return bool(_written(folder))
    except TrackingError:
        return False


def _earlier(folder: Path) -> Sequence[str]:
    """The files of a report that a version without a list wrote."""
    names = [name for name in sorted(_EARLIER_FILES) if (folder / name).is_file()]
    for inside, suffix in _EARLIER_FOLDERS.items():
        names += [f"{inside}/{path.name}" for path in sorted((folder / inside).glob(f"*{suffix}")) if path.is_file()]
    return names


def _is_inside(name: str) -> bool:
    """Whether a listed name is one of a report: a file, or a file in one folder."""
    parts = name.split("/")
    return len(parts) <= 2 and all(part and not part.startswith(".") and "\\" not in part for part in parts)


def _refuse_links(folder: Path, name: str) -> None:
    for path in ((folder / name), *(folder / name).parents):
        if path == folder:
            return
        if path.is_symlink():
            raise TrackingError(
                f"{path}: found a link; allowed: a file or folder of the report (links are not followed)"
            )


def _free_name(path: Path) -> Path:
    """`report.edited.md`, with a number if there is one already."""
    tries = (path.with_name(f"{path.stem}.edited{number or ''}{path.suffix}") for number in range(1_000_000))
    return next(free for free in tries if not free.exists() and not free.is_symlink())


def _write_list(folder: Path, written: Mapping[str, Sequence[str]]) -> None:
    content = {"files": {name: list(written[name]) for name in sorted(written)}}
    write_text(folder / LIST, json_with_checksum(content) + "\n")
