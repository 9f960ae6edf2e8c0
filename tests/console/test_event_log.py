from __future__ import annotations

from datetime import datetime
from pathlib import Path

from harness.console.event_log import EventLog


def test_each_event_is_a_line_that_starts_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "mlruns" / "x.log"
    EventLog(path).write("began 3 runs")
    EventLog(path).write("ended failed a\nTraceback …\n  line")
    first, second = path.read_text("utf-8").splitlines()
    when, _, text = first.partition(" ")
    assert datetime.fromisoformat(when).tzinfo is not None
    assert text == "began 3 runs"
    assert second.endswith(" ended failed a Traceback … line")


def test_a_log_follows_no_link_and_has_no_password(tmp_path: Path) -> None:
    (tmp_path / "link.log").symlink_to(tmp_path / "own")
    (tmp_path / "own").write_text("mine")
    log = EventLog(tmp_path / "link.log")
    log.write("x")
    assert log.error and (tmp_path / "own").read_text() == "mine"
    EventLog(tmp_path / "x.log").write("found http://me:hunter2@host")
    assert (tmp_path / "x.log").read_text("utf-8").endswith(" found http://me:***@host\n")


def test_a_log_that_cannot_be_written_does_not_raise(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("x")
    assert log.error.startswith(str(tmp_path))
    EventLog(None).write("nowhere")
