"""The events of a sweep on a console: plain lines, failures only, and the log."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.console.choose import make_screen
from harness.console.eta import TimeLeft
from harness.console.event_log import EventLog
from harness.console.live import LiveTable
from harness.console.plain import PlainLines
from harness.console.text import clock, fitted, left_in_words, shortened
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome
from screens import console, point, text


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.4, "0 s"), (59.4, "59 s"), (60, "1:00"), (3725, "1:02:05"), (-1, "0 s")]
)
def test_durations_are_written_shortly(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown


def test_time_left_is_shown_with_its_interval() -> None:
    assert left_in_words(None) == "time left not known yet"
    assert left_in_words(TimeLeft(200)) == "about 3:20 left"
    assert left_in_words(TimeLeft(200, 170, 250)) == "about 3:20 left (2:50 to 4:10)"
    assert left_in_words(TimeLeft(5, 5.1, 5.2)) == "about 5 s left"


def test_names_are_cut_in_their_middle_to_fit() -> None:
    name = "drop_rate=0.1 · learning_rate=1.2e-03 · seed 12"
    assert shortened(name, 100) == name
    assert shortened(name, 20) == "drop_rate… · seed 12"
    for text_ in (name, "規模=大きい · 種 1", "e\u0301" * 30):
        for room in range(30):
            assert cell_len(shortened(text_, room)) <= room
            assert sum(map(cell_len, fitted(text_, "  val loss 3.1234  5 s", room))) <= room


def test_plain_lines_show_evaluations_and_finished_runs() -> None:
    out = console()
    with make_screen(out) as screen:
        screen.sweep_started(3, 300.0)
        screen.run_started(1, "drop_rate=0.1 · seed [1]", 100.0)
        screen.run_point(1, point(0, 0.0, 10.8))
        screen.run_point(1, point(5, 0.5, 6.25))
        screen.run_point(1, point(10, 1.0, 5.125))
        screen.run_finished(1, Outcome.COMPLETE)
        screen.run_started(2, "two", 100.0)
        screen.run_finished(2, Outcome.FAILED, "worker died\nTraceback …")
    lines = text(out).splitlines()
    assert lines[0].startswith("  drop_rate=0.1 · seed [1]   50%  500 tokens  train 3.0000  val 6.2500  (sweep: about ")
    assert lines[1].startswith("✓ 1/3  drop_rate=0.1 · seed [1]  val loss 5.1250")
    assert lines[2].startswith("✗ 2/3  two")
    assert lines[2].endswith("failed: worker died")
    assert len(lines) == 3


def test_plain_lines_fit_into_a_terminal() -> None:
    out = console(terminal=True, width=50)
    with make_screen(out, plain=True) as screen:
        screen.sweep_started(3, 300.0)
        screen.run_started(1, "drop_rate=0.1 · learning_rate=1.2e-03 · weight_decay=0.1 · seed 1", 100.0)
        screen.run_point(1, point(5, 0.5, 6.25))
        screen.run_finished(1, Outcome.COMPLETE)
        screen.message("a message that is much longer than the window is wide, so it has to be wrapped somewhere")
    lines = text(out).splitlines()
    assert max(map(cell_len, lines)) <= 50
    assert "seed 1  val loss 6.2500" in lines[1]


def test_files_dumb_terminals_and_the_option_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_screen(console()).view, PlainLines)
    assert isinstance(make_screen(console(terminal=True), plain=True).view, PlainLines)
    assert isinstance(make_screen(console(terminal=True)).view, LiveTable)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_screen(Console(file=io.StringIO(), force_terminal=True)).view, PlainLines)


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Console(file=io.StringIO(), force_terminal=True, width=80)
    with make_screen(out) as screen:
        screen.sweep_started(1, 1.0)
        screen.run_started(1, "a", 1.0)
        screen.run_finished(1, Outcome.COMPLETE)
    assert "✓" in text(out)
    assert "\x1b[3" not in text(out)


def test_quiet_shows_failures_and_the_log_has_everything(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "x.log")
    out = console()
    with make_screen(out, log, quiet=True) as screen:
        screen.message("x: a question?", "bold")
        screen.sweep_started(2, 2.0)
        screen.run_started(1, "one", 1.0)
        screen.run_point(1, point(5, 0.5, 6.25))
        screen.run_finished(1, Outcome.COMPLETE)
        screen.run_started(2, "two", 1.0)
        screen.run_lost(2)
        screen.run_started(3, "two", 1.0)
        screen.run_finished(3, Outcome.FAILED, "no memory")
    assert text(out).splitlines() == ["✗ 2/2  two  0 s  failed: no memory"]
    assert log.path is not None
    events = [line.split(" ", 1)[1] for line in log.path.read_text("utf-8").splitlines()]
    assert events == [
        "message x: a question?",
        "started the sweep: 2 runs",
        "started one",
        "evaluated one: train 3.0000 val 6.2500, 500 tokens, 50%",
        "finished complete one val loss 6.2500 1 s",  # by the clock of the run
        "started two",
        "lost the worker of two",
        "started two",
        "finished failed two 0 s failed: no memory",
    ]


def test_a_loss_on_a_sample_is_named_so_until_the_end() -> None:
    sampled = {metrics.TRAIN_LOSS: 3.0, metrics.VAL_SAMPLE_LOSS: 6.0}
    out = console()
    with make_screen(out) as screen:
        screen.sweep_started(2, 200.0)
        screen.run_started(1, "one", 100.0)
        screen.run_point(1, Point(5, 500, 0.5, 1.0, sampled))
        screen.run_point(1, Point(10, 1000, 1.0, 2.0, {**sampled, metrics.VAL_LOSS: 5.5}))
        screen.run_finished(1, Outcome.COMPLETE)
        screen.run_started(2, "two", 100.0)
        screen.run_point(2, Point(5, 500, 0.5, 1.0, sampled))
        screen.run_finished(2, Outcome.PRUNED)
    lines = text(out).splitlines()
    assert "500 tokens  train 3.0000  val sample 6.0000  (sweep: " in lines[0]
    assert lines[1].startswith("✓ 1/2  one  val loss 5.5000")
    assert lines[3].startswith("✂ 2/2  two  val sample loss 6.0000")
