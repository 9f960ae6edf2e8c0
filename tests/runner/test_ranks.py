"""Sweeps whose runs train on several ranks each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.core.metrics import TEST_LOSS, VAL_LOSS
from in_process import call
from sandbox import SPEC, Sandbox

SMALL = SPEC.replace("tokens: 6_144", "tokens: 3_072").replace("trials: 2", "trials: 1")


@pytest.mark.slow
def test_a_sweep_on_two_ranks_has_the_losses_of_one_and_is_the_same_sweep(tmp_path: Path) -> None:
    alone, together = Sandbox(tmp_path / "alone", SMALL), Sandbox(tmp_path / "together", SMALL)
    assert call(alone).returncode == 0
    done = call(together, "tiny.yaml", "--workers", "1", "--ranks-per-run", "2")
    assert done.returncode == 0, done.stderr
    assert "6 runs, 1 worker of 2 ranks" in done.stdout
    losses = []
    for sandbox, ranks in ((alone, "1"), (together, "2")):
        _, runs = sandbox.runs()
        assert {run.data.tags["harness.ranks"] for run in runs} == {ranks}
        found = {(run.data.tags["harness.arm"], run.data.tags["harness.seed"]): run.data.metrics for run in runs}
        losses.append(
            {(*key, name): m[name] for key, m in found.items() for name in (VAL_LOSS, TEST_LOSS) if name in m}
        )
    assert losses[0].keys() == losses[1].keys()
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    again = call(together)  # on one rank: nothing is left to do
    assert again.returncode == 0 and not re.search(r"✓ \d", again.stdout)


def test_gpus_and_ranks_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(tmp_path, store=False)

    def refused(*options: str) -> str:
        done = call(sandbox, "tiny.yaml", *options)
        assert done.returncode == 2
        return " ".join(done.stderr.split())

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    none = "--gpus-per-run: found 2; allowed: at most the 0 of this machine; on CPUs, --ranks-per-run does the same"
    assert refused("--gpus-per-run", "2") == none
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert refused("--gpus-per-run", "3") == "--gpus-per-run: found 3; allowed: at most the 2 of this machine"
    part = "--gpus-per-run: found 0.5; allowed without --ray: a whole number of at least 1"
    assert refused("--gpus-per-run", "0.5") == part
    conflict = "--ranks-per-run: found 3 with --gpus-per-run 2; allowed: 2"
    assert refused("--gpus-per-run", "2", "--ranks-per-run", "3") == conflict
    assert "allowed: a whole number from 1 to 1024" in refused("--ranks-per-run", "0")


@pytest.mark.slow
def test_a_plan_says_what_ranks_are_assumed_to_do(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, store=False)
    done = call(sandbox, "tiny.yaml", "--plan", "--ranks-per-run", "2")
    assert done.returncode == 0, done.stderr
    assert "ranks:      2 processes share the batches of each run; the memory is of each of them" in done.stdout
    assert "with 2 ranks assumed to be 2 times as fast as one" in " ".join(done.stdout.split())
