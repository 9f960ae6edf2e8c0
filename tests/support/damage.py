"""Files that were damaged or made by somebody else."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from harness.model.weights import DESCRIPTION, WEIGHTS


def vouch_for(folder: Path, weights: bytes) -> None:
    """Put other weights in place, with a description whose checksum fits them."""
    (folder / WEIGHTS).write_bytes(weights)
    describe(folder / DESCRIPTION, sha256=hashlib.sha256(weights).hexdigest())


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def rewrite(folder: Path, number: int, file: bytes | None = None, **changes: Any) -> None:
    """Other content, with checksums that fit it."""
    path = folder / f"state-{number:06d}.json"
    content = json.loads(path.read_text())["content"] | changes
    if file is not None:
        path.with_suffix(".safetensors").write_bytes(file)
        content["tensors"] = hashlib.sha256(file).hexdigest()
    checksum = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": checksum, "content": content}, indent=1))


def describe(file: Path, **changes: Any) -> None:
    """Another description; `None` takes a key away."""
    description = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in description.items() if value is not None}))
