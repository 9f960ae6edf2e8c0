"""A node of a Ray cluster on this machine that has another disk: it does not see the files of the test."""

from __future__ import annotations

import functools
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from ray_nodes import until


@functools.cache
def why_not() -> str:
    """Why this machine can have no such node; empty if it can."""
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    return done.stderr.strip()


class FarNode:
    """Joins a cluster. An empty disk covers the files of all tests, and holds the node's own cache.

    Args:
        address: of the cluster.
        covered: the folder that the node does not see.
        cpus: of the node.
    """

    def __init__(self, address: str, covered: Path, cpus: int) -> None:
        start = [*(sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--block")]
        start += [f"--num-cpus={cpus}", "--disable-usage-stats"]
        script = f"mount -t tmpfs none {shlex.quote(str(covered))} && cd /tmp && exec {shlex.join(start)}"
        environment = {**os.environ, "GPT_HARNESS_CACHE": str(covered / "far-cache")}
        self._process = subprocess.Popen(
            ["unshare", "-m", "bash", "-c", script],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """The node is gone, with everything on it."""
        if self._process.poll() is not None:
            return
        processes = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in processes:
            if process.is_running():
                process.send_signal(signal.SIGKILL)
        self._process.wait()
        until(lambda: not any(process.is_running() and process.status() != "zombie" for process in processes))
