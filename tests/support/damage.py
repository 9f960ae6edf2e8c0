"""Damaged and forged files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from harness.core.files import json_with_checksum, read_json_with_checksum
from harness.core.paths import DESCRIPTION, WEIGHTS


def vouch_for(folder: Path, weights: bytes) -> None:
    """Replace the weights of a checkpoint, and the checksum in its description."""
    (folder / WEIGHTS).write_bytes(weights)
    describe(folder / DESCRIPTION, sha256=hashlib.sha256(weights).hexdigest())


class Trap:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def rewrite(folder: Path, number: int, file: bytes | None = None, **changes: Any) -> None:
    """Replace the content of a state, with valid checksums."""
    path = folder / f"state-{number:06d}.json"
    content = read_json_with_checksum(path.read_text()).content | changes
    if file is not None:
        path.with_suffix(".safetensors").write_bytes(file)
        content["tensors"] = hashlib.sha256(file).hexdigest()
    path.write_text(json_with_checksum(content, indent=1))


def describe(file: Path, **changes: Any) -> None:
    """Change keys of a checkpoint's description, with a valid checksum; `None` removes a key."""
    description = read_json_with_checksum(file.read_text()).content | changes
    file.write_text(json_with_checksum({key: value for key, value in description.items() if value is not None}))


def without_checksum(file: Path) -> None:
    """Write a JSON file as older versions did."""
    file.write_text(json.dumps(read_json_with_checksum(file.read_text()).content, indent=2))
