"""The provenance of a result: commit and uncommitted changes, library versions, user and process."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

import psutil

from harness.core.secrets import without_secrets
from harness.core.version import VERSION

UNKNOWN = "unknown"
PATCH_LIMIT = 1_000_000  # bytes
# Names of files that hold passwords and keys, where ssh, netrc, PostgreSQL, pip, npm, Docker, AWS, Google Cloud,
# Terraform and dotenv keep them (compare GitHub's collection of .gitignore templates), and file types of keys.
_SECRET_FILES = (
    *(
        ".env",
        ".env.*",
        "*.env",
        ".netrc",
        "_netrc",
        ".pgpass",
        ".pypirc",
        ".npmrc",
        ".dockercfg",
        ".docker/config.json",
    ),
    *(".git-credentials", ".htpasswd", ".aws/*", ".ssh/*", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.gpg", "*.asc", "*.ovpn"),
    *("*.tfvars", "*.tfstate", "kubeconfig", "service-account*.json", "service_account*.json", "client_secret*"),
    *("credentials", "credentials.*", "*-credentials.*", "*_credentials.*", "secret.*", "secrets.*", "*.secret"),
    *("*.secrets", "password*", "passwd*"),
)
_LINE_OF_TEXT = re.compile(rb"^[ +-].*$", re.M)  # in a patch; lines of binary files begin with a letter
_ADDRESS = re.compile(rb"[a-z][a-z0-9+.-]*://[^\s'\"<>`]+", re.I)
_LIBRARIES = ("torch", "optuna", "mlflow", "tiktoken")  # they can change a run's numbers or how it is stored
_START_TOLERANCE = 2.0  # seconds: a process's start time is derived from the boot time, which a clock change moves


@dataclass(frozen=True)
class CodeVersion:
    """The code that ran.

    Attributes:
        commit: full hash of HEAD; "unknown" outside a git repository or before its first commit.
        dirty: whether tracked files differ from that commit. Untracked files do not count, as in `git describe`.
        patch: `git diff HEAD` without files whose names look like passwords or keys, which are named in its first
            line, and with `***` for passwords in addresses; cut after `PATCH_LIMIT` bytes; empty when clean.
    """

    commit: str = UNKNOWN
    dirty: bool = False
    patch: bytes = b""


def code_version(folder: Path | None = None) -> CodeVersion:
    """The code version of the git repository around `folder`, by default the current folder."""
    head = _git(folder, "rev-parse", "--verify", "HEAD")
    if head is None:
        return CodeVersion()
    names = _git(folder, "diff", "HEAD", "--name-only", "--no-renames", "-z") or b""
    secret = [name for name in names.decode("utf-8", "surrogateescape").split("\0") if name and _looks_secret(name)]
    others = [":(top)", *(f":(top,exclude,literal){name}" for name in secret)]
    options = ("--no-color", "--no-ext-diff", "--no-textconv", "--binary")
    found = _git(folder, "diff", "HEAD", *options, "--", *others) or b""
    patch = _LINE_OF_TEXT.sub(_without_secrets, found)
    if patch != found:
        patch = b"passwords in addresses are replaced by ***\n" + patch
    if secret:
        listed = ", ".join(secret).encode("utf-8", "replace")
        patch = b"left out, since their names look like passwords or keys: " + listed + b"\n" + patch
    if len(patch) > PATCH_LIMIT:
        patch = patch[:PATCH_LIMIT] + b"\n(cut: the whole patch is larger than this file may be)\n"
    return CodeVersion(head.decode().strip(), bool(patch), patch)


def _looks_secret(name: str) -> bool:
    """Whether a path inside a repository looks like a file with passwords or keys."""
    path = PurePosixPath(name.lower())
    return any(path.match(pattern) for pattern in _SECRET_FILES)


def _without_secrets(line: re.Match[bytes]) -> bytes:
    """A line of a patch with the secrets of its addresses replaced. Latin-1 keeps all bytes as they are."""
    return _ADDRESS.sub(lambda found: without_secrets(found[0].decode("latin-1")).encode("latin-1"), line[0])


def _git(folder: Path | None, *arguments: str) -> bytes | None:
    """Output of a git command, at most a little more than `PATCH_LIMIT` bytes; None if it fails."""
    # Without optional locks it does not disturb a git command that the user runs at the same moment.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-c", "core.fsmonitor=false", *arguments]  # else a command that the repository names would run
    try:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:  # git is not installed
        return None
    assert process.stdout is not None
    with process:
        output = process.stdout.read(PATCH_LIMIT + 1)
        if len(output) > PATCH_LIMIT:
            process.kill()
            return output
    return output if process.returncode == 0 else None


def versions() -> Mapping[str, str]:
    """Name → version of Python, of the harness and of the installed libraries that a result depends on."""
    found = {"python": platform.python_version(), "harness": VERSION}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def user() -> str:
    """The user's name, or "unknown": a container's user often has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return UNKNOWN


def process_name() -> str:
    """This process as `host:pid:start time`; unlike a process id alone, it is never reused."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def host_of(name: str) -> str:
    """The machine in a `process_name`."""
    return name.rsplit(":", 2)[0]


def is_local(name: str) -> bool:
    """Whether the process with this `process_name` belongs to this machine, running or not."""
    return host_of(name) == socket.gethostname()


def is_running(name: str) -> bool:
    """Whether the process with this `process_name` runs on this machine."""
    try:
        host, pid, start = name.rsplit(":", 2)
        process = psutil.Process(int(pid))
        return host == socket.gethostname() and abs(process.create_time() - float(start)) < _START_TOLERANCE
    except (psutil.Error, ValueError, OverflowError):
        return False
