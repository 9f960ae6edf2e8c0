"""Reports of losses that are very large, very small, equal, single or missing: always a report, always readable."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import example_sweep
from fuzzing import MORE
from harness.console import tables
from harness.runner.next_steps import next_steps
from reports import Page, report

Losses = Mapping[str, Mapping[int, float]]

_UNREADABLE = re.compile(r"(?<![\d.\w])\d{10,}(?![\w])|\d{1,3}(?:,\d{3}){4,}|\b(nan|NaN|inf|Infinity)\b")
_SCRIPT = re.compile(r"<script.*?</script>", re.DOTALL)
_FINITE = st.sampled_from([0.0, 5e-324, 1e-300, 1e-12, 5.2, 5.2000001, 6.9, 709.0, 711.0, 1e4, 1e7, 1e9, 1e30, 1e300])
_DELTAS = st.sampled_from([None, 1e-12, 1e-5, 0.02, 1e3, 1e9])


@st.composite
def _losses(draw: Any) -> Losses:
    """Losses of two arms on one to four seeds: any values, all equal, or none for one arm."""
    kind = draw(st.sampled_from(["any", "any", "equal", "one arm"]))
    seeds = range(100, 100 + draw(st.integers(1, 4)))
    same = draw(_FINITE)
    arms = {arm: {seed: same if kind == "equal" else draw(_FINITE) for seed in seeds} for arm in example_sweep.ARMS}
    if kind == "one arm":
        arms[draw(st.sampled_from(list(arms)))] = {}
    return arms


def _texts(folder: Path, losses: Losses, delta: float | None) -> dict[str, str]:
    """Everything that a person reads of a sweep with these confirm losses."""
    study = {"sampler": "random", "pruner": "none", "trials": 0, "seeds": 4, **({"delta": delta} if delta else {})}
    record = example_sweep.record(study=study)
    files = report(folder, example_sweep.confirm_runs(losses), record)
    terminal = io.StringIO()
    with contextlib.redirect_stdout(terminal):
        tables.show_answer(files.headline, files.lines, files.answer, files.warnings, files.key)
    steps = next_steps(files.comparison, ["spec.yaml"], adaptive=False)
    page = Page(_SCRIPT.sub("", files.html.read_text("utf-8"))).text
    return {"terminal": terminal.getvalue(), "page": page, "next": "\n".join(steps)}


@pytest.mark.slow
@settings(
    max_examples=3 * MORE,
    derandomize=MORE == 1,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a smaller example is not worth minutes of drawing
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(losses=_losses(), delta=_DELTAS)
@example(losses={"drop_rate=0.0": {100: 1e300, 101: -1e300}, "drop_rate=0.1": {100: 5.2, 101: 1e300}}, delta=1e-12)
@example(losses={"drop_rate=0.0": {100: 711.0, 101: 8e4}, "drop_rate=0.1": {100: 5.2, 101: 1e9}}, delta=1e-5)
def test_extreme_losses_give_a_readable_report(tmp_path: Path, losses: Losses, delta: float | None) -> None:
    for name, text in _texts(tmp_path, losses, delta).items():
        assert not (found := _UNREADABLE.search(text)), (name, text[max(0, found.start() - 60) : found.end() + 60])
