"""Decides whether a stored run can be read. A run that cannot is left out, named in one sentence and counted.

Stores are shared and MLflow's tags can be edited by anybody. Every reader asks here, so that one damaged run stops
nobody, and no reader has to doubt a value again: of a run that can be read, each tag, time and number that the harness
relies on has its own type and range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from harness.core import metrics
from harness.core.bounded_json import MAX_WHOLE
from harness.core.outcomes import Outcome, Phase
from harness.core.text import is_key, plural, printable, shown
from harness.tracking import schema
from harness.tracking.checksums import altered, named

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from mlflow.entities import Run

Tell = Callable[[str], object]  # gets a sentence about each run that is left out

REPAIR: Final = "set it back in MLflow, or delete this run there"
_MAX_SEED: Final = 2**62
MAX_TIME: Final = 253_402_300_799_999  # the end of the year 9999, in milliseconds since 1970
_SENTENCES_SHOWN: Final = 5
# Metrics of the harness, and those that are axes of curves. (Older versions stored losses that were not finite.)
_OWN_METRICS: Final = ("val/", "val_sample/", "test/", "train/", "optim/", "perf/", "system/", "epochs", "tokens")
_COUNTS: Final = (metrics.TOKENS, metrics.SECONDS)
_MOST: Final = 2.0**62  # tokens, seconds


def why_left_out(run: Run, role: str = schema.TRIAL) -> str:
    """A sentence that says why a run of a sweep, or a sweep's own run, is left out; empty if it can be read."""
    return unreadable(run, role) or altered(run)


def unreadable(run: Run, role: str) -> str:
    """A sentence that names the first value of a run that the harness cannot have stored; empty if there is none.

    Args:
        run: as MLflow returns it.
        role: as what it is read, `schema.SWEEP` or `schema.TRIAL`; anything else for a run that the harness may not
            have made.
    """
    tags = run.data.tags
    checks = {schema.SWEEP: _SWEEP_TAGS, schema.TRIAL: _TRIAL_TAGS}.get(role, {})
    for name, (allowed, check, required) in checks.items():
        found = tags.get(name)
        if found is None and required:
            return f"found no tag {name} in the run {named(run)}; allowed: {allowed}"
        if found is not None and not check(found):
            return f"found {shown(found)} as the tag {name} of the run {named(run)}; allowed: {allowed}"
    return _wrong_time(run) or (_wrong_number(run) if checks else "")


def wrong_point(run: Run, metric: str, step: int, value: float) -> str:
    """A sentence about a point of a curve that the harness cannot have stored; empty if it can have."""
    if step < 0 and metric.startswith(_OWN_METRICS):
        return f"found the metric {printable(metric)} at step {step} of the run {named(run)}; allowed: steps from 0 on"
    if metric not in _COUNTS or 0 <= value <= _MOST:
        return ""
    where = f"the metric {metric} at step {step} of the run {named(run)}"
    return f"found {value:g} as {where}; allowed: a finite number from 0 on"


def may_be_wrong(steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """A mask of the points for which `wrong_point` may have a sentence; it is fast for millions of them."""
    return ~((values >= 0) & (values <= _MOST) & (steps >= 0))


def whole(text: object, high: int = MAX_WHOLE) -> int | None:
    """A whole number from 0 to `high`, written in decimal digits; None if the text is none."""
    if not isinstance(text, str) or not re.fullmatch("[0-9]{1,19}", text):
        return None
    return int(text) if int(text) <= high else None


def left_out_lines(**sentences: Collection[str]) -> list[str]:
    """One line per kind of thing that is left out: `2 runs are left out: …; …`.

    Args:
        sentences: noun (`run`, `trial`, `sweep`) → a sentence about each one.
    """
    lines = []
    for noun, found in sentences.items():
        if found:
            several = list(dict.fromkeys(found))
            rest = len(several) - _SENTENCES_SHOWN
            parts = [*several[:_SENTENCES_SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
            verb = "is" if len(several) == 1 else "are"
            lines.append(printable(f"{plural(len(several), noun)} {verb} left out: {'; '.join(parts)}"))
    return lines


def readable_runs(runs: Iterable[Run], tell: Tell, role: str = schema.TRIAL) -> list[Run]:
    """The runs that can be read; `tell` gets a sentence about each other one."""
    kept = []
    for run in runs:
        if sentence := why_left_out(run, role):
            tell(sentence)
        else:
            kept.append(run)
    return kept


def _wrong_time(run: Run) -> str:
    times = {"start": run.info.start_time, "end": run.info.end_time or 0}
    for name, found in times.items():
        if not isinstance(found, int) or not 0 <= found <= MAX_TIME:
            return f"found {shown(found)} as the {name} of the run {named(run)}; allowed: milliseconds since 1970"
    return ""


def _wrong_number(run: Run) -> str:
    for name in (schema.PARAMETERS, schema.FLOPS_PER_TOKEN):
        text = run.data.params.get(name)
        if text is not None and not _is_number(schema.decode_param(text)):
            return f"found {shown(text)} as the parameter {name} of the run {named(run)}; allowed: a number"
    for name, value in run.data.metrics.items():
        if sentence := wrong_point(run, name, 0, value):
            return sentence.replace(" at step 0", "")
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_line(text: str) -> bool:
    return bool(text) and printable(text) == text


_Check = tuple[str, Callable[[str], bool], bool]  # what is allowed, whether a text is, whether the tag is required
_OUTCOMES: Final[_Check] = (", ".join(Outcome), lambda text: text in set(Outcome), False)
_TRIAL_TAGS: Final[Mapping[str, _Check]] = {
    schema.ARM: ("the name of an arm", _one_line, True),
    schema.PHASE: (", ".join(Phase), lambda text: text in set(Phase), True),
    schema.SEED: (f"a whole number from 0 to {_MAX_SEED}", lambda text: whole(text, _MAX_SEED) is not None, True),
    schema.CONFIG_SHA256: ("a SHA-256", _one_line, True),
    schema.OUTCOME: _OUTCOMES,
    schema.STUDY: ("the name of a study", _one_line, False),
    schema.TRIAL_NUMBER: ("a whole number", lambda text: whole(text) is not None, False),
    schema.KEY: ("letters, digits, - and _", is_key, False),
}
_SWEEP_TAGS: Final[Mapping[str, _Check]] = {
    schema.OPENED: (
        "milliseconds since 1970, as the harness stored them",
        lambda text: whole(text, MAX_TIME) is not None,
        True,
    ),
    schema.IDENTITY: ("the identity of a sweep", _one_line, True),
    schema.OUTCOME: _OUTCOMES,
}
