"""A project whose folder was moved or copied: every command works there, and writes nowhere else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from in_process import call
from sandbox import SPEC, Sandbox

pytestmark = pytest.mark.slow

SMALL = SPEC.replace("trials: 2, seeds: 2", "trials: 1, seeds: 2").replace("6_144", "2_048")
MADE = re.compile(r"this store was made in \S+ and is now in \S+: corrected the addresses of its files")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def answers(sandbox: Sandbox) -> dict[str, str]:
    """What the commands that only read print."""
    confirm = [run for run in sandbox.runs()[1] if run.data.tags["harness.phase"] == "confirm"]
    first, second = sorted(run.info.run_id for run in confirm)[:2]
    commands = {
        "harness.sweep": ["tiny.yaml", "--status"],
        "harness.report.__main__": ["tiny"],
        "harness.generate": [first, "--max-new-tokens", "4"],
        "harness.compare": [first, second],
    }
    found = {}
    for module, arguments in commands.items():
        done = call(sandbox, *arguments, module=module)
        assert done.returncode == 0, done.stdout + done.stderr
        found[module] = done.stdout
    return found


def one_more_seed(sandbox: Sandbox) -> str:
    """Add a seed to the sweep, and check that MLflow's own client finds every run's files in its folder."""
    seeds = len(sandbox.runs()[1])
    done = call(sandbox, "tiny.yaml", "--workers", "1", "--set", f"study.seeds={(seeds - 2) // 2 + 1}")
    assert done.returncode == 0, done.stdout + done.stderr
    parents, children = sandbox.runs()
    assert (len(parents), len(children)) == (1, seeds + 2)
    beside = (sandbox.folder / "mlruns" / "artifacts").as_uri()
    assert all(run.info.artifact_uri.startswith(f"{beside}/") for run in [*parents, *children])
    return done.stdout


def test_a_moved_and_a_copied_project_work_each_on_its_own(tmp_path: Path) -> None:
    made = Sandbox(tmp_path / "made", SMALL, store=False)
    assert call(made, "tiny.yaml", "--workers", "1").returncode == 0
    before = answers(made)
    made.folder.rename(tmp_path / "moved")
    moved = Sandbox(tmp_path / "moved", SMALL, store=False)
    database = moved.folder / "mlruns" / "mlflow.db"
    stored = database.read_bytes()
    assert answers(moved) == before
    assert database.read_bytes() == stored  # reading corrects nothing
    assert MADE.search(one_more_seed(moved))
    shutil.copytree(moved.folder, tmp_path / "copied")
    copied = Sandbox(tmp_path / "copied", SMALL, store=False)
    before, kept = answers(copied), contents(moved.folder)
    assert MADE.search(one_more_seed(copied))
    assert contents(moved.folder) == kept
    kept = contents(copied.folder)
    assert answers(moved) == before
    assert not MADE.search(one_more_seed(moved))
    assert contents(copied.folder) == kept
    assert not made.folder.exists()
