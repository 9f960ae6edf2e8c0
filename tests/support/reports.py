"""Reports of simulated runs, and a parser for their pages."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import example_sweep as example
from harness.core.metrics import Point
from harness.core.outcomes import Outcome, Phase
from harness.report import ReportFiles
from harness.report.assemble import assemble, in_order
from harness.report.write import write_files
from harness.tracking import ArmInfo, SweepRecord, Tracker, TrialInfo


def all_runs() -> list[dict[str, Any]]:
    return [*example.explore_runs(), *example.confirm_runs()]


def report(
    folder: Path, rows: list[dict[str, Any]], record: SweepRecord, samples_of: Any = example.samples_of
) -> ReportFiles:
    runs = in_order(example.frame(rows), record)
    curves = example.curves_of(runs)
    content = assemble(example.evidence(record, runs, curves), samples_of, "python -m mlflow ui")
    return write_files(content, curves, folder)


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\N{NO-BREAK SPACE}", " ").replace("\N{WORD JOINER}", "")

    def values(self, attribute: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name == attribute]


def record_run(
    tracker: Tracker,
    parent: str,
    arm: ArmInfo,
    phase: Phase,
    seed: int,
    loss: float,
    outcome: Outcome = Outcome.COMPLETE,
) -> None:
    config = example.config({**arm.values, "train.learning_rate": 1e-3}, seed)
    study, number = (f"dropout/{arm.name}", 0) if phase is Phase.EXPLORE else (None, None)
    info = TrialInfo(f"{arm.name} · seed {seed}", arm.name, phase, seed, config, study, number)
    run = tracker.start_run(parent, info)
    for step, now in ((0, 10.8), (16, loss)):
        shown = {"val/loss": now, "val/bits_per_byte": now / 3, "train/loss": now - 0.1}
        if step and phase is Phase.CONFIRM:
            shown["test/loss"] = now + 0.25
        tracker.log_point(run, Point(step, 512 * step, step / 16, float(step), shown, f"after {step} steps"))
    tracker.end_run(run, outcome, "" if outcome is Outcome.COMPLETE else "ValueError: made up")
