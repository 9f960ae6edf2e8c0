"""Descriptions in Markdown, as MLflow shows them on the pages of an experiment, of a sweep and of a run.

MLflow's pages have no fixed address, so links are relative to it: `#/experiments/1/runs/…`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.tracking.records import SweepInfo, TrialInfo
from harness.tracking.schema import CURVE_FILE, REPORT_FOLDER, SAMPLES_PAGE, summary
from harness.tracking.writing import views

NOTE: Final = "mlflow.note.content"
NOTE_SHA256: Final = "harness.note_sha256"  # of the description as the harness wrote it last
_ARMS_SHOWN: Final = 50
_SHOWN: Final = (metrics.VAL_LOSS, metrics.VAL_PERPLEXITY, metrics.VAL_BITS_PER_BYTE, metrics.TEST_LOSS)
_WHY: Final = {
    Phase.EXPLORE: "a trial of its arm's search",
    Phase.CONFIRM: "its arm's best configuration on a fresh seed; the verdict rests on runs like this one",
}


def note_tags(text: str, stored: Mapping[str, str]) -> dict[str, str]:
    """The tags that make `text` a description; none where somebody has written their own over the harness's.

    Args:
        text: Markdown.
        stored: the tags that the experiment or run has now.
    """
    current = stored.get(NOTE)
    if current and stored.get(NOTE_SHA256) != _digest(current):
        return {}
    return {NOTE: text, NOTE_SHA256: _digest(text)}


def experiment_note(info: SweepInfo, experiment: str, parent: str, answer: str = "") -> str:
    """What the experiment's page says: the question, the latest sweep, the prepared views, the commands.

    Args:
        info: the sweep that was opened last.
        experiment, parent: ids of the experiment and of that sweep's run.
        answer: its verdict in words; empty before there is one.
    """
    parts = [
        f"**{info.question or info.name}**",
        f"> {answer}" if answer else "No verdict yet.",
        f"The latest sweep and its report: [{info.name}]({run_link(experiment, parent)}).",
        "Views: " + " · ".join(f"[{name}]({link})" for name, link in views.links(info, experiment)) + ".",
        _commands(info),
    ]
    return "\n\n".join(parts)


def sweep_note(info: SweepInfo, experiment: str, parent: str, answer: str = "", report: str = "") -> str:
    """What the parent run's page says.

    Args:
        info: the sweep.
        experiment, parent: ids of the experiment and of the parent run.
        answer: the verdict in words; empty before there is one.
        report: where the report lies on the machine that wrote it; empty before there is one.
    """
    arms = [f"- {arm.name}" + (" (baseline)" if arm.name == info.baseline else "") for arm in info.arms[:_ARMS_SHOWN]]
    if len(info.arms) > _ARMS_SHOWN:
        arms.append(f"- and {len(info.arms) - _ARMS_SHOWN} more")
    compared, tuned = (", ".join(paths) or "nothing" for paths in (info.compare, info.tune))
    parts = [f"**{info.question or info.name}**", f"> {answer}" if answer else "No verdict yet."]
    if report:
        page = file_link(experiment, parent, f"{REPORT_FOLDER}/report.html")
        parts.append(f"[Report]({page}), written to `{report}`.")
    parts += [
        "Views: " + " · ".join(f"[{name}]({link})" for name, link in views.links(info, experiment)) + ".",
        f"Compared: {compared}; tuned in each arm: {tuned}.\n\n" + "\n".join(arms),
        _commands(info),
    ]
    return "\n\n".join(parts)


def trial_note(
    info: TrialInfo,
    experiment: str,
    parent: str,
    run: str = "",
    outcome: Outcome | None = None,
    reason: str = "",
    last: Mapping[str, float] | None = None,
) -> str:
    """What a child run's page says.

    Args:
        info: the run.
        experiment, parent, run: ids of the experiment, of the sweep's run and of this one, as soon as it has one.
        outcome, reason: how it ended; None while it runs.
        last: metric name → its last value, once the run has ended.
    """
    why = _WHY.get(info.phase, "its arm's best configuration until a better one was found; no part of the verdict")
    parts = [f"**{info.arm}**, seed {info.seed}: {why}. Part of [the sweep]({run_link(experiment, parent)})."]
    if outcome is not None:
        because = f": {summary(reason)}" if reason.strip() else ""
        digits = {name: ".1f" if name.endswith("/perplexity") else ".4f" for name in _SHOWN}
        values = ", ".join(f"{name} {last[name]:{digits[name]}}" for name in _SHOWN if last and name in last)
        parts.append(f"Ended as **{outcome}**{because}." + (f" Last: {values}." if values else ""))
    if outcome is not None and run:
        curve, samples = (file_link(experiment, run, file) for file in (CURVE_FILE, SAMPLES_PAGE))
        parts.append(f"[Loss curve]({curve}) · [samples]({samples})")
    if outcome is Outcome.COMPLETE and info.phase is Phase.CONFIRM and run:
        command = f'python -m harness.generate {run[:12]} --prompt "Every effort moves you"'
        parts.append(f"Its checkpoint is among the models. To continue a text with it:\n\n```sh\n{command}\n```")
    return "\n\n".join(parts)


def run_link(experiment: str, run: str) -> str:
    """The page of a run, relative to wherever MLflow's pages are."""
    return f"#/experiments/{experiment}/runs/{run}"


def file_link(experiment: str, run: str, path: str) -> str:
    """The page of a run with one of its artifacts open."""
    return f"{run_link(experiment, run)}/artifactPath/{path}"


def _commands(info: SweepInfo) -> str:
    """The command that goes on with a sweep, and the one that writes its report again."""
    return (
        f"To go on, and to write the report again:\n\n```sh\n{info.command}\npython -m harness.report {info.name}\n```"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
