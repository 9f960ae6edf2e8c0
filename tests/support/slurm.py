"""SLURM's commands for tests: small stand-ins that run everything on this machine. Ray and the harness are real."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import psutil

# Runs the command behind its options here.
SRUN = """
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""

# Runs a job at once, as a task of an array or not.
SBATCH = """
while [[ "$1" == --* ]]; do
    case "$1" in --nodes=*) export SLURM_JOB_NUM_NODES="${1#*=}" ;; esac
    shift
done
export SLURM_JOB_ID SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_CPUS_PER_TASK
SLURM_JOB_ID=$((RANDOM + 100)) SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=1 SLURM_CPUS_PER_TASK=1
exec bash "$@"
"""

# Writes down what it was asked for.
SCONTROL = """
echo "$@" >> "$(dirname "$0")/scontrol.txt"
"""

# The `ray` of the Python that runs the tests. A node has one CPU, and the head none unless a script says so.
RAY = f"""
case "$*" in
    *--num-cpus*) ;;
    start\\ --head\\ --port*) set -- "$@" --num-cpus=0 ;;
    start*) set -- "$@" --num-cpus=1 ;;
esac
exec {shlex.quote(sys.executable)} -m ray.scripts.scripts "$@"
"""


class Slurm:
    """The commands, in a folder of their own, and the processes of the clusters that they start.

    Args:
        folder: for them, and for the home folder of the jobs.
        temporary: for Ray's files; a short path, as it holds sockets.
    """

    def __init__(self, folder: Path, temporary: Path) -> None:
        self._bin, self._home, self._temporary = folder / "bin", folder / "home", temporary
        self._home.mkdir(parents=True)
        self._bin.mkdir()
        commands = {"srun": SRUN, "sbatch": SBATCH, "scontrol": SCONTROL, "ray": RAY, "pip": ""}
        for name, script in commands.items():
            (self._bin / name).write_text(f"#!/bin/bash\n{script}")
            (self._bin / name).chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """With the stand-ins, and the Python that runs the tests."""
        search = os.pathsep.join([str(self._bin), str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PATH": search, "HOME": str(self._home), "RAY_TMPDIR": str(self._temporary)}

    @property
    def asked(self) -> list[str]:
        """The arguments of every call of scontrol."""
        file = self._bin / "scontrol.txt"
        return file.read_text().splitlines() if file.exists() else []

    def close(self) -> None:
        """End every process of Ray that has its files in the temporary folder."""
        for process in psutil.process_iter():
            try:
                if str(self._temporary) in " ".join(process.cmdline()):
                    process.kill()
            except psutil.Error:  # it has ended, or is another user's
                continue
