"""Stores the weights of a checkpoint from the machine that has them, so that they do not go through the parent.

The parent offers a place: a model in MLflow that is new and not ready, so that nobody reads it. The other machine
stores the file there, and the parent leaves a note of it in the run's folder, in place of the weights. From there on it
goes as with weights that the parent has: the other files are added, and the model becomes ready.

A place is offered once. If anything fails, the model is deleted and a new one is made, so a machine that was thought to
be dead and is not can change nothing that counts.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.files import DamagedError, json_with_checksum, read_json_with_checksum, sha256_of, write_atomic
from harness.core.links import NotRegularError, read_regular, refuse_irregular
from harness.core.paths import WEIGHTS
from harness.tracking.schema import PREFIX

NOTE: Final = "stored.json"  # in a checkpoint's folder, in place of the weights
STORED_BY: Final = f"{PREFIX}stored_by"  # tag of a model whose place was offered
_PROOF: Final = "seen-"  # beginning of the name of a file beside a model's folder
_PROOF_BYTES: Final = 64
_NOTE_BYTES: Final = 10_000  # at most
_CHUNK: Final = 1 << 22  # bytes


class NotStored(Exception):
    """The weights cannot be stored from this machine; the message says why."""


@dataclass(frozen=True)
class Place:
    """Where weights are to be stored. It holds no secret of the parent's.

    Attributes:
        model: its id in MLflow.
        address: of its files, as MLflow records it.
        server: MLflow's tracking address if it is a server, without login; else empty.
        folder: of the parent's disk with its files; empty if they are elsewhere.
        proof: name and content of a file beside that folder; who reads this content there sees the same folder.
    """

    model: str
    address: str
    server: str = ""
    folder: str = ""
    proof: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Stored:
    """The weights that are stored at a place."""

    model: str
    bytes: int
    sha256: str


# The parent -----------------------------------------------------------------------------------------------------


def place_in_folder(model: str, address: str, folder: Path) -> Place:
    """A place in a folder of this disk, with its proof.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    proof = f"{_PROOF}{secrets.token_hex(8)}", secrets.token_hex(_PROOF_BYTES // 2)
    with (folder.parent / proof[0]).open("x", encoding="ascii") as stream:
        stream.write(proof[1])
    return Place(model, address, folder=str(folder), proof=proof)


def remove_proofs(folder: Path) -> None:
    """Remove what `place_in_folder` has left beside a folder."""
    for path in folder.parent.glob(f"{_PROOF}*"):
        path.unlink(missing_ok=True)


def check_stored(place: Place, stored: Stored) -> None:
    """Raise `NotStored` if the weights are not in the folder of a place, as this machine sees it."""
    if place.folder:
        check_size(Path(place.folder), stored)


def check_size(folder: Path, stored: Stored) -> None:
    """Raise `NotStored` if there is no file of weights with the right size in a folder."""
    try:
        refuse_irregular(folder, WEIGHTS)
        found = (folder / WEIGHTS).stat().st_size
    except (OSError, NotRegularError) as error:
        raise NotStored(f"{WEIGHTS} cannot be found at its place: {error}") from error
    if found != stored.bytes:
        raise NotStored(f"{WEIGHTS} has {found:,} bytes at its place, not {stored.bytes:,}")


def write_note(folder: Path, stored: Stored) -> None:
    """Note in a checkpoint's folder that its weights are stored; weights that are there are those of an earlier try.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)
    write_atomic(folder / NOTE, [json_with_checksum(asdict(stored)).encode()])


def remove_note(folder: Path) -> None:
    """Remove the note of an earlier try, so that the weights stored by it are not used."""
    (folder / NOTE).unlink(missing_ok=True)


def read_note(folder: Path) -> Stored | None:
    """The note in a checkpoint's folder; None if there is none that is intact, or there are weights: they count."""
    if (folder / WEIGHTS).exists():
        return None
    try:
        content, _ = read_json_with_checksum(read_regular(folder, NOTE, _NOTE_BYTES))
        return Stored(str(content["model"]), int(content["bytes"]), str(content["sha256"]))
    except (FileNotFoundError, DamagedError, LookupError, TypeError, ValueError):
        return None


# The machine that has the weights -------------------------------------------------------------------------------


def store_weights(place: Place, file: Path) -> Stored:
    """Store a file of weights at a place, with what this machine's environment has for it.

    Raises:
        NotStored: this machine does not reach the place, or it has other bytes afterwards.
        Exception: whatever the library of the place raises.
    """
    assert file.name == WEIGHTS
    size, sha256 = file.stat().st_size, sha256_of(file)
    if place.folder:
        _store_in_folder(place, file, sha256)
    else:
        _upload(place, file, size)
    return Stored(place.model, size, sha256)


def _store_in_folder(place: Place, file: Path, sha256: str) -> None:
    folder, (name, content) = Path(place.folder), place.proof
    try:
        seen = read_regular(folder.parent, name, _PROOF_BYTES)
    except (OSError, NotRegularError):
        seen = b""
    if not secrets.compare_digest(seen, content.encode()):
        raise NotStored("it does not see the folder of the artifacts")
    refuse_irregular(folder.parent, f"{folder.name}/{WEIGHTS}")
    written = write_atomic(folder / WEIGHTS, _chunks(file))
    if written != sha256 or _sha256_on_disk(folder / WEIGHTS) != sha256:
        raise NotStored("the folder of the artifacts has other bytes than were written")


def _sha256_on_disk(file: Path) -> str:
    """SHA-256 of a file, read anew where the system can forget what it has in memory of it."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sha256_of(file)


def _upload(place: Place, file: Path, size: int) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from harness.tracking.store import brief_requests

    with brief_requests():
        repository: Any = get_artifact_repository(place.address, tracking_uri=place.server or None)
        repository.log_artifact(str(file))
        if not has_weights(repository.list_artifacts(), size):  # a proxy may answer an upload with a page
            raise NotStored("the artifact store does not have the file after the upload")


def has_weights(files: Any, size: int) -> bool:
    """Whether weights of this size are among files that MLflow lists; not every store knows sizes."""
    return any(Path(one.path).name == WEIGHTS and one.file_size in (None, size) for one in files)


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
