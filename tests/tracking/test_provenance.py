"""Commit, uncommitted changes, and the identity of processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.tracking import provenance
from repositories import make_repository, stage


def test_code_version(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    commit = make_repository(folder)
    (folder / "untracked.txt").write_text("x")
    assert provenance.code_version(folder) == provenance.CodeVersion(commit, False, b"")
    (folder / "a.txt").write_text("two\n")
    found = provenance.code_version(folder)
    assert (found.commit, found.dirty) == (commit, True)
    (tmp_path / "p.patch").write_bytes(found.patch)
    subprocess.run(["git", "checkout", "-q", "."], cwd=folder, check=True)
    subprocess.run(["git", "apply", str(tmp_path / "p.patch")], cwd=folder, check=True)
    assert (folder / "a.txt").read_text() == "two\n"  # commit and patch restore the code that ran
    (folder / "a.txt").write_text("a line\n" * 500_000)
    assert provenance.PATCH_LIMIT < len(provenance.code_version(folder).patch) < provenance.PATCH_LIMIT + 100


@pytest.mark.parametrize(
    "name", [".env", "deep/.env.local", "id_rsa", "server.pem", "Secrets.yaml", ".aws/config", "a b.key"]
)
def test_files_that_look_like_secrets_are_named_but_not_in_the_patch(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    make_repository(folder)
    (folder / "a.txt").write_text("two\n")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("TOKEN=marker-secret\n")
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    found = provenance.code_version(folder)
    assert found.dirty and b"marker-secret" not in found.patch and b"+two" in found.patch
    assert found.patch.startswith(f"left out, since their names look like passwords or keys: {name}\n".encode())
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=folder, check=True)
    subprocess.run(["git", "apply"], input=found.patch, cwd=folder, check=True)
    assert (folder / "a.txt").read_text() == "two\n"


def test_passwords_in_addresses_are_not_in_the_patch(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    make_repository(folder)
    binary = bytes(range(256)) * 40
    (folder / "a.txt").write_text("see http://me:hunter2@host/?token=hunter2 and x[&key=hunter2]\n")
    (folder / "b.bin").write_bytes(binary)
    stage(folder, "b.bin")
    patch = provenance.code_version(folder).patch
    assert patch.startswith(b"passwords in addresses are replaced by ***\n")
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=folder, check=True)
    subprocess.run(["git", "apply"], input=patch, cwd=folder, check=True)
    assert (folder / "a.txt").read_text() == "see http://me:***@host/?token=*** and x[&key=hunter2]\n"
    assert (folder / "b.bin").read_bytes() == binary


@pytest.mark.parametrize("name", ["harness/data/tokenizer.py", "keys.py", "environment.yml", "secretary.txt"])
def test_other_files_are_in_the_patch(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    make_repository(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("content\n")
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    assert b"+content" in provenance.code_version(folder).patch


def test_code_version_without_a_repository_a_commit_or_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.code_version(tmp_path) == provenance.CodeVersion("unknown", False, b"")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert provenance.code_version(tmp_path).commit == "unknown"  # no commit yet
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_version(tmp_path).commit == "unknown"  # no git


def test_a_process_is_identified_by_more_than_its_pid() -> None:
    own = provenance.process_name()
    host, pid, start = own.split(":")
    assert provenance.is_running(own)
    assert not provenance.is_running(f"{host}:{pid}:{float(start) - 60}")  # the pid was reused
    assert not provenance.is_running(f"elsewhere:{pid}:{start}")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = f"{host}:{child.pid}:{psutil.Process(child.pid).create_time()}"
        assert provenance.is_running(name)
        child.communicate(b"\n")
    assert not provenance.is_running(name)
    assert not provenance.is_running("") and not provenance.is_running("a:b:c")


def test_no_command_of_a_repository_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    make_repository(folder)
    marker = tmp_path / "ran"
    subprocess.run(["git", "config", "core.fsmonitor", f"touch {marker}; false"], cwd=folder, check=True)
    assert provenance.code_version(folder).dirty is False
    assert not marker.exists()
    subprocess.run(["git", "diff", "HEAD"], cwd=folder, check=True)
    assert marker.exists()  # the attempt works
