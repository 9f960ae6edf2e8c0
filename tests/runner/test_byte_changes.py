"""No changed byte of what a sweep keeps on disk is loaded with other content; see `tests/support/byte_changes.py`.

The environment variable `BYTE_CHANGES` sets how many bytes are changed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import byte_changes


@pytest.mark.slow
def test_no_changed_byte_is_loaded_with_other_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_HARNESS_CACHE", str(tmp_path / "cache"))
    changes = int(os.environ.get("BYTE_CHANGES", "80"))
    found = byte_changes.change_bytes(tmp_path, changes, seed=1)
    assert found.errors == []
    assert sum(found.results.values()) == changes
    assert set(found.results) == {"named", "equal", "rebuilt"}
    assert set(found.files) >= {".json", ".jsonl", ".npy", ".patch", ".safetensors"}


def test_a_change_that_is_loaded_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("other")
    for said, rebuilt, result in (("", False, "WRONG"), ("file is damaged", False, "named"), ("", True, "rebuilt")):
        for right in (["whole", "other"], ["whole"]):
            file = byte_changes.File(path, lambda said=said: (path.read_text(), said), right, rebuilt)  # type: ignore[misc]
            assert byte_changes._result(file) == (result if "other" in right else "WRONG")
    assert byte_changes._result(byte_changes.File(path, lambda: (path.read_text(), ""), ["other"])) == "equal"
