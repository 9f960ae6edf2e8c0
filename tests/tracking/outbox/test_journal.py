"""A run's journal is read up to the first damaged line, whatever damaged it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.tracking.outbox.journal import BEGIN, END, FILE, POINT, TAG, Journal, point_entries

TEXT = 'a "quoted" line,\nanother, ü, \u2028, and \x00'


def written(folder: Path) -> Journal:
    journal = Journal(folder / "run")
    journal.append(BEGIN, {"name": TEXT})
    for step in range(3):
        journal.append(POINT, {"step": step, "metrics": {"val/loss": 0.1 + step}})
    journal.append(TAG, {"device": "cpu"})
    return journal


def test_entries_are_read_back(tmp_path: Path) -> None:
    entries = written(tmp_path).read()
    assert [entry.kind for entry in entries] == [BEGIN, POINT, POINT, POINT, TAG]
    assert entries[0].content == {"name": TEXT}
    assert [entry.content["metrics"]["val/loss"] for entry in entries[1:4]] == [0.1, 1.1, 2.1]
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
    assert Journal(tmp_path / "nothing").read() == []


def test_a_truncated_journal_is_read_up_to_the_cut_and_continued_there(tmp_path: Path) -> None:
    path = written(tmp_path).path
    raw = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(raw) if byte == ord("\n")]
    for cut in range(len(raw)):
        path.write_bytes(raw[:cut])
        intact = sum(end <= cut for end in ends)
        assert len(Journal(path.parent).read()) == intact
        assert path.stat().st_size == cut  # reading changes nothing
        assert len(Journal(path.parent).read(repair=True)) == intact
        if intact:
            Journal(path.parent).append(END, {"outcome": "complete"})
            assert [entry.kind for entry in Journal(path.parent).read()][intact:] == [END]


def test_a_flipped_byte_is_detected(tmp_path: Path) -> None:
    path = written(tmp_path).path
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :])
        before = raw[:place].count(b"\n")
        assert len(Journal(path.parent).read()) == before


def test_a_step_that_occurs_twice_counts_once(tmp_path: Path) -> None:
    journal = written(tmp_path)
    journal.append(POINT, {"step": 1, "metrics": {"val/loss": 7.0}})
    points = point_entries(journal.read())
    assert [(entry.content["step"], entry.content["metrics"]["val/loss"]) for entry in points] == [
        (0, 0.1),
        (1, 1.1),
        (2, 2.1),
    ]


def test_an_entry_that_does_not_fit_on_the_disk_leaves_the_journal_unchanged(tmp_path: Path) -> None:
    path = written(tmp_path).path
    raw = path.read_bytes()
    code = f"""
import resource
from pathlib import Path
from harness.tracking.outbox.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(raw) + 20}, {len(raw) + 20}))
try:
    Journal(Path({str(path.parent)!r})).append("tag", {{"text": "x" * 100}})
except OSError as error:
    print(error.strerror, error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"File too large {path}\n", done.stderr
    assert path.read_bytes() == raw


@pytest.mark.parametrize("content", [b"", b"\n", b"00000000 []\n", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_not_a_journal_has_no_entries(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert Journal(tmp_path).read() == []


def test_entries_of_one_write_are_read_back_one_by_one(tmp_path: Path) -> None:
    own = written(tmp_path)
    before = own.read()
    added = own.append_all(POINT, [{"step": step} for step in (7, 8, 9)], at=5)
    assert own.read() == [*before, *added]
    own.path.write_bytes(own.path.read_bytes()[:-3])
    assert own.read() == [*before, *added[:2]]
