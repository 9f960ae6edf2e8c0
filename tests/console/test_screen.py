from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.console.choose import make_screen
from harness.console.eta import TimeLeft
from harness.console.event_log import EventLog
from harness.console.live import LiveScreen
from harness.console.screen import QuietScreen, Screen
from harness.console.state import ArmTally
from harness.console.text import clock, fitted, left_in_words, shortened
from harness.core import metrics
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from screens import console, point, text


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.4, "0 s"), (59.4, "59 s"), (60, "1:00"), (3725, "1:02:05"), (-1, "0 s")]
)
def test_times_are_short(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown


def test_time_left_is_said_with_what_is_known_of_it() -> None:
    assert left_in_words(None) == "time left not known yet"
    assert left_in_words(TimeLeft(200)) == "about 3:20 left"
    assert left_in_words(TimeLeft(200, 170, 250)) == "about 3:20 left (2:50 to 4:10)"
    assert left_in_words(TimeLeft(5, 5.1, 5.2)) == "about 5 s left"


def test_names_are_cut_in_their_middle_and_never_too_long() -> None:
    name = "drop_rate=0.1 · learning_rate=1.2e-03 · seed 12"
    assert shortened(name, 100) == name
    assert shortened(name, 20) == "drop_rate… · seed 12"
    for text_ in (name, "規模=大きい · 種 1", "e\u0301" * 30):
        for room in range(30):
            assert cell_len(shortened(text_, room)) <= room
            assert sum(map(cell_len, fitted(text_, "  val loss 3.1234  5 s", room))) <= room


def test_plain_lines_tell_of_progress_and_ends() -> None:
    with make_screen(console()) as screen:
        assert type(screen) is Screen
        screen.sweep_began(3, 300.0)
        screen.run_began(1, "drop_rate=0.1 · seed [1]", 100.0)
        screen.run_point(1, point(0, 0.0, 10.8))
        screen.run_point(1, point(5, 0.5, 6.25))
        screen.run_point(1, point(10, 1.0, 5.125))
        screen.run_ended(1, Outcome.COMPLETE)
        screen.run_began(2, "two", 100.0)
        screen.run_ended(2, Outcome.FAILED, "worker died\nTraceback …")
    lines = text(screen).splitlines()
    assert lines[0].startswith("  drop_rate=0.1 · seed [1]   50%  500 tokens  train 3.0000  val 6.2500  (sweep: about ")
    assert lines[1].startswith("✓ 1/3  drop_rate=0.1 · seed [1]  val loss 5.1250")
    assert lines[2].startswith("✗ 2/3  two")
    assert lines[2].endswith("failed: worker died")
    assert len(lines) == 3


def test_plain_lines_in_a_window_are_not_longer_than_it() -> None:
    screen = make_screen(console(terminal=True, width=50), plain=True)
    assert type(screen) is Screen
    with screen:
        screen.sweep_began(3, 300.0)
        screen.run_began(1, "drop_rate=0.1 · learning_rate=1.2e-03 · weight_decay=0.1 · seed 1", 100.0)
        screen.run_point(1, point(5, 0.5, 6.25))
        screen.run_ended(1, Outcome.COMPLETE)
        screen.note("a note that is much longer than the window is wide, so that it has to be broken somewhere")
    lines = text(screen).splitlines()
    assert max(map(cell_len, lines)) <= 50
    assert "seed 1  val loss 6.2500" in lines[1]


def test_a_file_a_dumb_terminal_and_a_person_who_asks_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_screen(console())) is Screen
    assert type(make_screen(console(terminal=True), plain=True)) is Screen
    assert isinstance(make_screen(console(terminal=True)), LiveScreen)
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_screen(Console(file=io.StringIO(), force_terminal=True))) is Screen


def test_without_colour_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with make_screen(Console(file=io.StringIO(), force_terminal=True, width=80)) as screen:
        screen.sweep_began(1, 1.0)
        screen.run_began(1, "a", 1.0)
        screen.run_ended(1, Outcome.COMPLETE)
    assert "✓" in text(screen)
    assert "\x1b[32m" not in text(screen) and "\x1b[3" not in text(screen)


def test_quiet_says_what_failed_and_the_log_has_everything(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "x.log")
    with make_screen(console(), log, quiet=True) as screen:
        assert isinstance(screen, QuietScreen)
        screen.note("x: a question?", "bold")
        screen.sweep_began(2, 2.0)
        screen.run_began(1, "one", 1.0)
        screen.run_point(1, point(5, 0.5, 6.25))
        screen.run_ended(1, Outcome.COMPLETE)
        screen.run_began(2, "two", 1.0)
        screen.run_left(2)
        screen.run_began(3, "two", 1.0)
        screen.run_ended(3, Outcome.FAILED, "no memory")
    assert text(screen).splitlines() == ["✗ 2/2  two  0 s  failed: no memory"]
    assert log.path is not None
    events = [line.split(" ", 1)[1] for line in log.path.read_text("utf-8").splitlines()]
    assert events == [
        "note x: a question?",
        "began 2 runs to train",
        "run one",
        "evaluated one: train 3.0000 val 6.2500, 500 tokens, 50%",
        "ended complete one val loss 6.2500 0 s",
        "run two",
        "lost its worker: two",
        "run two",
        "ended failed two 0 s failed: no memory",
    ]


def test_time_left_follows_the_work_and_the_speeds_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("harness.console.screen.time.monotonic", lambda: now[0])
    screen = Screen(console())
    screen.sweep_began(4, 400.0)
    assert screen.time_left() is None
    screen.run_began(1, "a", 100.0)
    screen.run_began(2, "b", 100.0)
    now[0] = 107.0  # both had to start a process first
    screen.run_point(1, point(0, 0.0, 5.0))
    screen.run_point(2, point(0, 0.0, 5.0))
    assert screen.time_left() is None
    now[0] = 117.0
    screen.run_point(1, point(1, 0.5, 5.0))
    screen.run_point(2, point(1, 0.5, 5.0))
    left = screen.time_left()
    assert left is not None
    assert left.seconds == pytest.approx(30.0)  # 0.2 s a unit, 300 units, two at once
    screen.run_ended(1, Outcome.PRUNED)  # its other half is off the list
    assert screen.time_left().seconds == pytest.approx(25.0)  # type: ignore[union-attr]
    screen.run_began(3, "c, gone on with", 100.0)
    screen.run_point(3, point(4, 0.8, 5.0))
    assert screen.time_left().seconds == pytest.approx(20.0)  # type: ignore[union-attr]  # the fourth alone


def test_an_arm_counts_what_its_runs_gave() -> None:
    arm = ArmTally("a", 4, 2)
    arm.ended(Phase.EXPLORE, Outcome.COMPLETE, 3.0)
    arm.ended(Phase.EXPLORE, Outcome.COMPLETE, 4.0)
    arm.ended(Phase.EXPLORE, Outcome.PRUNED, 1.0)
    arm.ended(Phase.EXPLORE, Outcome.DIVERGED, 0.5)
    arm.ended(Phase.EXPLORE, Outcome.FAILED, None)
    assert (arm.explored, arm.best) == (4, 3.0)
    arm.ended(Phase.CONFIRM, Outcome.COMPLETE, 3.0)
    arm.ended(Phase.CONFIRM, Outcome.DIVERGED, 9.0)
    arm.ended(Phase.CONFIRM, Outcome.INTERRUPTED, 2.0)
    assert (arm.confirmed, arm.confirmed_loss) == (2, 3.0)


def test_a_loss_on_a_sample_is_called_that_until_the_end() -> None:
    sampled = {metrics.TRAIN_LOSS: 3.0, metrics.VAL_SAMPLE_LOSS: 6.0}
    with make_screen(console()) as screen:
        screen.sweep_began(2, 200.0)
        screen.run_began(1, "one", 100.0)
        screen.run_point(1, Point(5, 500, 0.5, 1.0, sampled))
        screen.run_point(1, Point(10, 1000, 1.0, 2.0, {**sampled, metrics.VAL_LOSS: 5.5}))
        screen.run_ended(1, Outcome.COMPLETE)
        screen.run_began(2, "two", 100.0)
        screen.run_point(2, Point(5, 500, 0.5, 1.0, sampled))
        screen.run_ended(2, Outcome.PRUNED)
    lines = text(screen).splitlines()
    assert "500 tokens  train 3.0000  val sample 6.0000  (sweep: " in lines[0]
    assert lines[1].startswith("✓ 1/2  one  val loss 5.5000")
    assert lines[3].startswith("✂ 2/2  two  val sample loss 6.0000")
