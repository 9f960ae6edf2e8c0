from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness import metrics
from harness.metrics import Point
from harness.outcomes import Outcome
from harness.progress import LiveScreen, Screen, clock, make_screen


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False, color_system=None)


def text(screen: Screen) -> str:
    stream = screen.console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def point(step: int, progress: float, val: float) -> Point:
    found = {metrics.TRAIN_LOSS: 3.0, metrics.VAL_LOSS: val, metrics.TOKENS_PER_SECOND: 1234.0}
    return Point(step, step * 100, progress, 1.0, found)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.4, "0 s"), (59.4, "59 s"), (60, "1:00"), (3725, "1:02:05"), (-1, "0 s")]
)
def test_times_are_short(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown


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
    assert lines[0].startswith("  drop_rate=0.1 · seed [1]   50%  500 tokens  train 3.0000  val 6.2500  (sweep: ")
    assert lines[1].startswith("✓ 1/3  drop_rate=0.1 · seed [1]  val loss 5.1250")
    assert lines[2].startswith("✗ 2/3  two")
    assert lines[2].endswith("failed: worker died")
    assert len(lines) == 3


def test_time_left_follows_the_share_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("harness.progress.time.monotonic", lambda: now[0])
    screen = Screen(console())
    screen.sweep_began(4, 400.0)
    assert screen.seconds_left() is None
    screen.run_began(1, "a", 100.0)
    screen.run_began(2, "b", 100.0)
    now[0] = 110.0
    screen.run_point(1, point(1, 0.5, 5.0))
    screen.run_point(2, point(1, 0.5, 5.0))
    assert screen.seconds_left() == pytest.approx(30.0)  # a quarter took 10 s
    screen.run_ended(1, Outcome.PRUNED)  # its whole share is off the list
    assert screen.seconds_left() == pytest.approx(10 * 250 / 150)


def test_a_terminal_gets_bars_that_go_away_and_lines_that_stay() -> None:
    screen = make_screen(console(terminal=True))
    assert isinstance(screen, LiveScreen)
    with screen:
        screen.sweep_began(2, 200.0)
        screen.run_began(1, "drop_rate=0.1 · [bold]", 100.0)
        screen.refresh()
        assert "starting" in text(screen)
        screen.run_point(1, point(5, 0.5, 6.25))
        screen.refresh()
        assert "500 tok  train 3.000 val 6.250 1,234 tok/s" in text(screen)
        assert "drop_rate=0.1 · [bold]" in text(screen)
        assert "1 running" in text(screen)
        screen.run_ended(1, Outcome.COMPLETE)
        screen.note("a note with [brackets]")
    assert "✓ 1/2  drop_rate=0.1 · [bold]  val loss 6.2500" in text(screen)
    assert "a note with [brackets]" in text(screen)


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
