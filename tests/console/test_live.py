"""The live table, as text in windows of many sizes and in a real terminal."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.config.labels import arm_labels
from harness.config.objective import Objective
from harness.console.choose import make_screen
from harness.console.live import LiveTable, arm_lines, bar, run_line
from harness.console.state import ArmTally, RunProgress, SweepState
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from paths import SUPPORT
from screens import NAMES, console, point, text


def table_of(width: int, height: int = 24, arms: int = 2) -> LiveTable:
    recorded = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, record=True, color_system=None
    )
    state = SweepState()
    tallies = [ArmTally(f"drop_rate=0.{number}", 3, 2, explored=1, best=4.0 - number / 8) for number in range(arms)]
    state.sweep_started(10, 1000.0, tallies)
    for key, name in enumerate(NAMES):
        state.run_started(key, name, 100.0, name.split(" ")[0], Phase.EXPLORE)
    state.run_point(0, point(5, 0.5, 6.25))
    return LiveTable(recorded, state)


def drawn(table: LiveTable) -> list[str]:
    table.console.print(table)
    return table.console.export_text().splitlines()


def test_runs_with_different_tokens_are_shown_in_bits_per_byte() -> None:
    table = table_of(140)
    table.state.sweep_started(2, 1.0, [ArmTally("a", 3, 2, 1, best=2.5)], Objective("val/bits_per_byte"))
    table.state.run_started(9, "a run", 1.0, "a", Phase.EXPLORE)
    table.state.run_point(9, Point(1, 1, 0.5, 1.0, {"val/loss": 6.0, "val/bits_per_byte": 1.25}))
    lines = drawn(table)
    assert "mean val bits/byte" in lines[1] and "2.5000" in lines[2]
    assert any("val bits/byte 1.250" in line for line in lines) and not any("6.000" in line for line in lines)


def test_the_best_arm_is_coloured_only_where_arms_can_be_compared() -> None:
    arms = [ArmTally("a", 3, 2, 1, best=2.5), ArmTally("b", 3, 2, 1, best=2.0)]
    styles = [[str(line.style) for line in arm_lines(arms, [], 80, 9, Objective(ranked=it))] for it in (True, False)]
    assert styles == [["bold", "", "cyan"], ["bold", "", ""]]


def test_a_wide_window_shows_arms_runs_and_the_sweep() -> None:
    _, headings, first, second, run, other, whole = drawn(table_of(140))
    assert headings == "arm            explored  best trial  confirmed  mean val loss  running"
    assert first.split() == ["drop_rate=0.0", "1/3", "4.0000", "0/2", "–", "1"]
    assert second.split() == ["drop_rate=0.1", "1/3", "3.8750", "0/2", "–", "–"]
    assert run.startswith(f"{NAMES[0]}  ━")
    assert "  50%  val 6.250  train 3.000    1,234 tok/s" in run
    assert other.split() == [*NAMES[1].split(), "starting"]
    assert "0/10 runs  2 running  " in whole


@pytest.mark.parametrize("width", [1, 5, 20, 30, 50, 80, 100, 200])
@pytest.mark.parametrize("arms", [0, 1, 2, 40])
def test_no_line_is_longer_than_the_window_and_all_fit_its_height(width: int, arms: int) -> None:
    lines = drawn(table_of(width, arms=arms))
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= 24


def test_a_narrow_window_keeps_the_ends_of_names_and_the_main_columns() -> None:
    lines = drawn(table_of(50))
    assert lines[1].split() == ["arm", "explored", "best", "trial", "confirmed"]
    assert lines[4].endswith("· seed 1   50%  val 6.250")
    assert lines[6].startswith("sweep ")


def test_with_too_many_arms_those_that_train_are_shown() -> None:
    table = table_of(80, height=12, arms=40)
    table.state.runs[1].arm = "drop_rate=0.39"
    lines = drawn(table)
    assert any(line.startswith("drop_rate=0.39") for line in lines)
    assert "and 36 more arms" in lines


def test_with_a_thousand_runs_those_that_fit_are_shown() -> None:
    table = table_of(80, height=12)
    for key in range(10, 1008):
        table.state.run_started(key, f"run {key}", 1.0, "drop_rate=0.1", Phase.EXPLORE)
    lines = drawn(table)
    assert len(lines) == 10
    assert lines[3].split()[-1] == "998"
    assert lines[-3].startswith("run 11") and lines[-2] == "and 996 more runs"
    assert lines[-1].startswith("sweep ") and "1000 running" in lines[-1]


def twelve(width: int, height: int = 40) -> list[str]:
    """Twelve arms of two factors, one of which trains."""
    labels = arm_labels(
        {
            f"drop_rate=0.{drop}, learning_rate={rate}": {"model.drop_rate": drop / 10, "train.learning_rate": rate}
            for drop in range(4)
            for rate in (3e-4, 1e-3, 3e-3)
        }
    )
    table = table_of(width, height, arms=0)
    tallies = [ArmTally(name, 3, 2, label=labels.of[name], code=labels.codes[name]) for name in labels.names]
    table.state.sweep_started(60, 1.0, tallies)
    first = labels.names[0]
    table.state.runs.clear()
    table.state.run_started(0, f"{first} · seed 2", 1.0, first, Phase.CONFIRM)
    return [line.rstrip() for line in drawn(table)]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_twelve_arms_can_be_told_apart_at_any_width(width: int) -> None:
    lines = twelve(width)
    names = [re.split(" {2,}", line)[0] for line in lines[2:14]]
    assert len(set(names)) == 12 and not any("…" in name for name in names)
    assert names[:2] == ["drop 0.0 · lr 3e-4", "drop 0.0 · lr 1e-3"]
    assert any(line.startswith("drop 0.0 · lr 3e-4 · seed 2") for line in lines)


def test_a_very_narrow_window_shows_codes_with_a_key_if_there_is_room() -> None:
    lines = twelve(30)
    assert [line.split()[0] for line in lines[2:14]] == [f"A{number}" for number in range(1, 13)]
    assert lines[14:16] == ["A1 is drop 0.0 · lr 3e-4", "A2 is drop 0.0 · lr 1e-3"]
    assert lines[26].startswith("A1 · seed 2")
    assert not any(" is " in line for line in twelve(30, 20))


def test_a_bar_has_the_requested_width() -> None:
    assert (bar(0.5, 10).plain, bar(2.0, 4).plain, bar(0.5, 3).plain) == ("━━━━━─────", "━━━━", "")
    fresh = RunProgress("a", "a", Phase.EXPLORE, 1.0, 0.0)
    assert run_line(fresh, 20, 1.0).plain == "a  starting"


def test_the_table_disappears_at_the_end_and_lines_stay() -> None:
    out = console(terminal=True)
    with make_screen(out) as screen:
        screen.sweep_started(2, 200.0, [ArmTally("drop_rate=0.1", 1, 1)])
        screen.run_started(1, "drop_rate=0.1 · [bold]", 100.0, "drop_rate=0.1")
        assert "starting" in text(out)
        screen.run_point(1, point(5, 0.5, 6.25))
        screen.view.refresh(at_once=True)
        assert "50%  val 6.250" in text(out)
        assert "1 running" in text(out)
        before = text(out)
        screen.refresh()
        screen.refresh()
        assert text(out) == before  # the next frame is not due yet
        screen.run_finished(1, Outcome.COMPLETE)
        screen.message("a message with [brackets]")
        screen.run_started(2, "two", 100.0, "drop_rate=0.1", Phase.CONFIRM)
        screen.run_lost(2)
    assert "✓ 1/2  drop_rate=0.1 · [bold]  val loss 6.2500" in text(out)
    assert "a message with [brackets]" in text(out)
    assert "1/1" in text(out)


DEMO = """
import sys, time
from rich.console import Console
sys.path.insert(0, {tests!r})
from screens import NAMES, point
from harness.core.outcomes import Outcome
from harness.config.labels import arm_labels
from harness.config.objective import Objective
from harness.console.choose import make_screen
from harness.console.state import ArmTally
with make_screen(Console(highlight=False)) as screen:
    screen.sweep_started(6, 600.0, [ArmTally("drop_rate=0.0", 2, 1), ArmTally("drop_rate=0.2", 2, 1)])
    for key, name in enumerate(NAMES):
        screen.run_started(key, name, 100.0, name.split(" ")[0])
    for step in range(1, 6):
        for key in range(2):
            screen.run_point(key, point(step, step / 5, 6 - step / 5))
        screen.view.refresh(at_once=True)
    screen.run_finished(0, Outcome.COMPLETE)
    print("ready", file=open({ready!r}, "w"))
    time.sleep(60)
"""


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[list[str]]:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux on PATH: the live table is not checked in a real terminal")
    command = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null"]
    yield command
    subprocess.run([*command, "kill-server"], check=False, capture_output=True)


@pytest.mark.parametrize("width", [80, 50])
def test_in_a_real_terminal_one_table_is_below_the_finished_runs(tmux: list[str], tmp_path: Path, width: int) -> None:
    ready = tmp_path / "ready"
    script = tmp_path / "demo.py"
    script.write_text(DEMO.format(tests=str(SUPPORT), ready=str(ready)), "utf-8")
    size = ["-x", str(width), "-y", "20"]
    shell = f"env -u COLUMNS -u LINES {sys.executable} {script}; sleep 60"
    subprocess.run([*tmux, "new-session", "-d", *size, shell], check=True)
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    shown = subprocess.run([*tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True).stdout
    lines = [line for line in shown.splitlines() if line.strip()]
    assert max(map(cell_len, lines)) <= width
    assert lines[0].startswith("✓ 1/6  drop_rate=")
    assert "seed 1  val loss 5.0000" in lines[0]
    firsts = [line.split()[0] for line in lines[1:]]
    assert firsts == ["arm", "drop_rate=0.0", "drop_rate=0.2", "drop_rate=0.2", "sweep"]
    assert "100%  val 5.000" in lines[4]
    assert lines[2].split()[1:3] == ["1/2", "5.0000"]
