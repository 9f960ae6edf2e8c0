"""Collects all warnings of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import pandas as pd

from harness.analysis.columns import constant, parameters
from harness.analysis.evidence import Evidence
from harness.report.text.names import some
from harness.report.text.numbers import setting
from harness.report.warnings import confirm, general, parity, results, search
from harness.report.warnings.kinds import Detector, ReportWarning, WarningKind

DETECTORS: Final[tuple[Detector, ...]] = (
    *confirm.DETECTORS,
    *parity.DETECTORS,
    *results.DETECTORS,
    *search.DETECTORS,
    *general.DETECTORS,
)

_SHORTEST: Final = 2  # spaces in an advice
_GROUPED: Final = 3  # from so many arms on, equal warnings are one
# Kind whose words are about a single arm → words about several.
_OF_EACH: Final = {
    WarningKind.DIVERGED_ARM: "no trained model, because training diverged",
    WarningKind.SPLIT_ARM: "confirm runs have different tuned values",
    WarningKind.OVERFITTED: "the final loss is far above the lowest",
}


def report_warnings(sweep: Evidence) -> list[ReportWarning]:
    """All warnings about a sweep; those that may change its conclusion come first."""
    found = [warning for detector in DETECTORS for warning in detector(sweep)]
    return sorted(found, key=lambda warning: not warning.changes_conclusion)


def grouped(found: Sequence[ReportWarning], arms: Sequence[str]) -> list[ReportWarning]:
    """Warnings of one kind about several arms joined into one, at the place of the first.

    Args:
        found: as `report_warnings` returns them.
        arms: names of the sweep's arms.
    """
    about: dict[WarningKind, dict[str, list[str]]] = {}
    for warning in found:
        if arm := _subject(warning.text, arms):
            about.setdefault(warning.kind, {}).setdefault(arm, []).append(warning.text)
    joined, result = set(), []
    for warning in found:
        own = about.get(warning.kind, {})
        if len(own) < _GROUPED or not _subject(warning.text, arms):
            result.append(warning)
        elif warning.kind not in joined:
            joined.add(warning.kind)
            each = tuple(text for texts in own.values() for text in texts)
            what = _OF_EACH.get(warning.kind, str(warning.kind))
            text = f"{len(own)} arms: {what} ({some(list(own), 'arms')}). {_advice(each)}"
            result.append(ReportWarning(warning.kind, text, each))
    return result


def _advice(texts: Sequence[str]) -> str:
    """What equal warnings advise: how all of them end; else the first one as an example."""
    words = [text.split(" ") for text in texts]
    same = 0
    while same < min(map(len, words)) and len({one[-1 - same] for one in words}) == 1:
        same += 1
    end = " ".join(words[0][len(words[0]) - same :])
    before = words[0][len(words[0]) - same - 1][-1:] if same < len(words[0]) else ""
    rest = end if before in (".", ";") else "".join(re.split("(?<=[.:;]) ", end, maxsplit=1)[1:])
    advice = rest or (end if before == ":" else "")
    return f"{advice[0].upper()}{advice[1:]}" if advice.count(" ") >= _SHORTEST else f"For example: {texts[0]}"


def _subject(text: str, arms: Sequence[str]) -> str:
    """The arm that a text is about: the one that it begins with; empty if it does not begin with one."""
    begins = (arm for arm in arms if text.startswith(arm) and not text[len(arm) : len(arm) + 1].isalnum())
    return max(begins, key=len, default="")


def fixed_settings(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Path and value of the parameters that are the same in all runs, in the order of the configuration."""
    return [(path, setting(values.iloc[0])) for path, values in parameters(runs) if constant(values)]
