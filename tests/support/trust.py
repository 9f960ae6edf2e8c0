"""A throw-away home folder with files that no command may change, and secrets that none may store or print."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import pytest

from in_process import call
from sandbox import SPEC, Sandbox

SECRET = "s3cr3t+marker/7f3a"  # with characters that an address encodes
_FORMS = {SECRET, quote(SECRET), quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()}
_LARGE = 1 << 30  # bytes: such a file is sparse, and none of ours
PROMISED = ("mlruns", "reports")  # the folders of a project in which commands write, besides `~/.cache`


class Home:
    """A home folder with a private key, a paper and a project; commands run in the project.

    Every command is followed by two checks: nothing outside the promised folders was changed, and `SECRET` is in
    nothing that the command wrote or printed.

    Args:
        folder: an empty folder.
        spec: of the project's `tiny.yaml`.

    Attributes:
        folder: the home folder.
        project: the folder in which commands run.
        key: a file with `SECRET`, as a private key.
        paper: a folder of the user's own, with `report.md`, `figures/own.svg` and `tables/own.csv`.
        promised: folders in which a command may write; a test adds what it asks for by an option.
    """

    def __init__(self, folder: Path, spec: str = SPEC) -> None:
        self.folder = folder
        self.key, self.paper = folder / ".ssh" / "id_ed25519", folder / "paper"
        for path in (self.key, self.paper / "report.md", self.paper / "figures/own.svg", self.paper / "tables/own.csv"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path.name} of the user, {SECRET}\n", "utf-8")
        self.sandbox = Sandbox(folder / "project", spec)
        self.project = self.sandbox.folder
        self.promised = [folder / ".cache", *(self.project / name for name in PROMISED)]

    def run(
        self, *arguments: str, module: str = "harness.sweep", process: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project and check what it wrote and printed.

        Args:
            arguments: of the command.
            module: the command.
            process: as a process of its own, which takes seconds longer.

        Raises:
            AssertionError: it changed a file elsewhere, or wrote or printed a secret, or a traceback.
        """
        before = self.snapshot()
        with mock.patch.dict(os.environ, HOME=str(self.folder)):
            if process:
                done = self.sandbox.run(*arguments, module=module)
            else:
                package = module in ("harness.data", "harness.report")
                done = call(self.sandbox, *arguments, module=f"{module}.__main__" if package else module)
        self.check(before, done.stdout + done.stderr)
        return done

    def snapshot(self) -> dict[Path, bytes]:
        """Every file and link below the home folder, with its bytes or its target."""
        return dict(self._files())

    def check(self, before: dict[Path, bytes], printed: str) -> None:
        """Check that only files in promised folders differ from a snapshot, and that no secret is in them."""
        after = self.snapshot()
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        outside = {path for path in changed if not any(path.is_relative_to(place) for place in self.promised)}
        assert not outside, sorted(map(str, outside))
        leaks = [str(path) for path in changed if any(form.encode() in after.get(path, b"") for form in _FORMS)]
        assert not leaks, f"the secret is in {leaks}"
        assert not any(form in printed for form in _FORMS), printed
        assert "Traceback" not in printed and "\x1b" not in printed, printed

    def _files(self) -> Iterator[tuple[Path, bytes]]:
        for parent, _, names in os.walk(self.folder):
            for path in (Path(parent, name) for name in names):
                if path.is_symlink():
                    yield path, str(path.readlink()).encode()
                elif path.is_file():
                    size = path.stat().st_size
                    yield path, path.read_bytes() if size < _LARGE else str(size).encode()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after these seconds: something reads from a pipe or from an endless file."""

    def expired(*_: object) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home folder whose project has not run anything."""
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose sweep is finished; only to be copied."""
    home = Home(tmp_path_factory.mktemp("finished") / "home")
    assert home.run().returncode == 0
    return home.project


@pytest.fixture
def finished(home: Home, finished_project: Path) -> Home:
    """A home folder with a copy of a project whose sweep is finished: a folder that was handed over."""
    shutil.rmtree(home.project)
    shutil.copytree(finished_project, home.project)
    return home
