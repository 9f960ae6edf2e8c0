"""SLURM's commands for tests: small stand-ins that run everything on this machine, as one node after the other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Runs the command behind its options here.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""

# Writes down what it was asked for.
SCONTROL = """#!/bin/bash
echo "$@" >> "$(dirname "$0")/scontrol.txt"
"""

# The `ray` of the Python that runs the tests, which need not be the first in the search path.
RAY = f"""#!/bin/bash
exec {sys.executable} -m ray.scripts.scripts "$@"
"""


class Slurm:
    """The commands, in a folder of their own.

    Args:
        folder: for them, and for the home folder of the jobs.
    """

    def __init__(self, folder: Path) -> None:
        self._bin, self.home = folder / "bin", folder / "home"
        self.home.mkdir(parents=True)
        self._bin.mkdir()
        for name, script in (("srun", SRUN), ("scontrol", SCONTROL), ("ray", RAY)):
            (self._bin / name).write_text(script)
            (self._bin / name).chmod(0o755)

    def environment(self, job: int, **variables: str) -> dict[str, str]:
        """The environment of a job: also the environment of Python that is active where it was submitted."""
        search = os.pathsep.join([str(self._bin), str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PATH": search, "HOME": str(self.home), "SLURM_JOB_ID": str(job), **variables}

    @property
    def asked(self) -> list[str]:
        """The arguments of every call of scontrol."""
        file = self._bin / "scontrol.txt"
        return file.read_text().splitlines() if file.exists() else []
