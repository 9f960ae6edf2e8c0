"""A sweep's lock, with two real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.locks import Locked, sweep_lock

HOLD = """
import sys
from harness.core.locks import sweep_lock
with sweep_lock("tiny"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_error_names_the_process_that_holds_the_lock_and_its_death_releases_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    held = f"^tiny is already being run by process {first.pid}; wait for it or stop it$"
    with pytest.raises(Locked, match=held), sweep_lock("tiny"):
        pass
    with sweep_lock("other"):
        pass
    holder = tmp_path / "mlruns" / "tiny.holder"
    holder.unlink()
    (tmp_path / "key").write_text("12345")
    holder.symlink_to(tmp_path / "key")
    with pytest.raises(Locked, match="by process unknown;"), sweep_lock("tiny"):
        pass
    first.kill()  # SIGKILL: it cannot clean up
    first.wait()
    with sweep_lock("tiny"):
        pass
    assert (tmp_path / "key").read_text() == "12345"
