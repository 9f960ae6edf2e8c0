"""The section on a mixture: losses of each source per arm, differences over paired seeds, shares of the windows."""

from __future__ import annotations

import pytest

import example_sweep as example
from harness.analysis.columns import other_metrics
from harness.report.sections.sources import source_section
from harness.tracking import SweepRecord

ARMS = {"code.weight=1": {"data.mix.code.weight": 1.0}, "code.weight=3": {"data.mix.code.weight": 3.0}}


@pytest.fixture
def record() -> SweepRecord:
    return example.record(dict(reversed(ARMS.items())))  # the last one is the baseline


def test_losses_of_each_source_and_their_differences(record: SweepRecord) -> None:
    rows = []
    for place, (arm, values) in enumerate(ARMS.items()):
        for seed in (1, 2, 3):
            row = example.run(10 * place + seed, arm, {}, seed=seed, loss=5.0)
            losses = {"val/loss_books": 4.0 + 0.1 * seed + 0.2 * place, "val/loss_code": 3.0 + 0.1 * seed - 0.3 * place}
            rows.append(row | values | {"data.mix.books.weight": 1.0} | losses)
    runs = example.frame(rows)
    section = source_section(example.evidence(record, runs))
    assert section is not None
    [(table, note)] = section.tables
    assert [column.label for column in table.columns] == ["Arm", "Source", "Windows", "Val loss", "vs baseline"]
    found = {tuple(cell.text for cell in row.cells[:2]): [cell.text for cell in row.cells[2:]] for row in table.rows}
    assert found == {
        ("code.weight=1", "books"): ["50 %", "4.200 ± 0.248", "baseline"],
        ("code.weight=3", "books"): ["25 %", "4.400 ± 0.248", "+0.200 ± 0.000"],
        ("code.weight=1", "code"): ["50 %", "3.200 ± 0.248", "baseline"],
        ("code.weight=3", "code"): ["75 %", "2.900 ± 0.248", "−0.300 ± 0.000"],
    }
    assert all(len(row.runs) == 3 for row in table.rows)
    assert "not tested" in note
    assert "val/loss_code" not in other_metrics(runs)
    assert "val/loss_poems" in other_metrics(runs.assign(**{"val/loss_poems": 1.0}))  # no source of this mixture


def test_a_sweep_without_a_mixture_has_no_such_section() -> None:
    runs = example.frame(example.confirm_runs())
    assert source_section(example.evidence(example.record(), runs)) is None
