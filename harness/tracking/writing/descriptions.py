"""Descriptions in Markdown, shown by MLflow on the pages of an experiment, of a sweep and of a run.

Links are relative (`#/experiments/1/runs/…`), because the UI has no fixed address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Final

from harness.config.labels import arm_labels
from harness.core import metrics
from harness.core.outcomes import Outcome, Phase
from harness.tracking.records import SweepInfo, TrialInfo
from harness.tracking.schema import CURVE_FILE, REPORT_FOLDER, SAMPLES_PAGE, summary
from harness.tracking.writing import views

DESCRIPTION: Final = "mlflow.note.content"
DESCRIPTION_SHA256: Final = "harness.note_sha256"  # of the description that the harness wrote last
_MAX_ARMS: Final = 50
_METRICS: Final = (metrics.VAL_LOSS, metrics.VAL_PERPLEXITY, metrics.VAL_BITS_PER_BYTE, metrics.TEST_LOSS)
_PURPOSE: Final = {
    Phase.EXPLORE: "a trial of its arm's search",
    Phase.CONFIRM: "its arm's best configuration on a fresh seed; the verdict is computed from runs like this one",
    Phase.SUPERSEDED: "its arm's best configuration until a better one was found; no part of the verdict",
    Phase.UNPLANNED: "a run that the plan of the sweep did not ask for; no part of the verdict",
}


def description_tags(text: str, stored: Mapping[str, str]) -> dict[str, str]:
    """The tags that set `text` as description; none if a user has replaced the harness's description.

    Args:
        text: Markdown.
        stored: the current tags of the experiment or run.
    """
    current = stored.get(DESCRIPTION)
    if current and stored.get(DESCRIPTION_SHA256) != _digest(current):
        return {}
    return {DESCRIPTION: text, DESCRIPTION_SHA256: _digest(text)}


def experiment_description(info: SweepInfo, experiment: str, parent: str, answer: str = "") -> str:
    """The experiment's description: the question, the latest sweep, the views, the commands.

    Args:
        info: the sweep that was opened last.
        experiment, parent: ids of the experiment and of that sweep's run.
        answer: its verdict in words; empty before there is one.
    """
    headline = answer.partition(". ")[0]  # the UI shows one line until a reader asks for more
    parts = [
        f"**{info.question or info.name}** {headline}".strip(),
        f"> {answer}" if answer else "No verdict yet.",
        f"The latest sweep and its report: [{info.name}]({run_link(experiment, parent)}).",
        _views(info, experiment),
        _commands(info),
    ]
    return "\n\n".join(parts)


def sweep_description(info: SweepInfo, experiment: str, parent: str, answer: str = "", report: str = "") -> str:
    """The parent run's description.

    Args:
        info: the sweep.
        experiment, parent: ids of the experiment and of the parent run.
        answer: the verdict in words; empty before there is one.
        report: the report's folder on the machine that wrote it; empty before there is one.
    """
    labels = arm_labels({arm.name: arm.values for arm in info.arms}).numbered
    arms = [
        f"- {labels[arm.name]}{' (baseline)' if arm.name == info.baseline else ''}"
        + (f": {arm.name}" if labels[arm.name] != arm.name else "")
        for arm in info.arms[:_MAX_ARMS]
    ]
    if len(info.arms) > _MAX_ARMS:
        arms.append(f"- and {len(info.arms) - _MAX_ARMS} more")
    compared, tuned = (", ".join(paths) or "nothing" for paths in (info.compare, info.tune))
    parts = [f"**{info.question or info.name}**", f"> {answer}" if answer else "No verdict yet."]
    if report:
        page = file_link(experiment, parent, f"{REPORT_FOLDER}/report.html")
        parts.append(f"[Report]({page}), written to `{report}`.")
    parts += [
        _views(info, experiment),
        f"Compared: {compared}; tuned in each arm: {tuned}.\n\n" + "\n".join(arms),
        _commands(info),
    ]
    return "\n\n".join(parts)


def trial_description(
    info: TrialInfo,
    experiment: str,
    parent: str,
    run: str = "",
    outcome: Outcome | None = None,
    reason: str = "",
    last: Mapping[str, float] | None = None,
    files: Collection[str] = (),
) -> str:
    """A child run's description.

    Args:
        info: the run.
        experiment, parent, run: ids of the experiment, of the sweep's run, and of this run once it has ended.
        outcome, reason: how it ended; None while it runs.
        last: metric name → last value, once it has ended.
        files: artifacts of the run; those that a reader wants are linked.
    """
    sweep = run_link(experiment, parent)
    parts = [f"**{info.arm}**, seed {info.seed}: {_PURPOSE[info.phase]}. Part of [the sweep]({sweep})."]
    if outcome is not None:
        because = f": {summary(reason)}" if reason.strip() else ""
        digits = {name: ".1f" if name.endswith("/perplexity") else ".4f" for name in _METRICS}
        values = ", ".join(f"{name} {last[name]:{digits[name]}}" for name in _METRICS if last and name in last)
        parts.append(f"Ended as **{outcome}**{because}." + (f" Last: {values}." if values else ""))
    pages = ((CURVE_FILE, "Loss curve"), (SAMPLES_PAGE, "Samples"))
    if links := [f"[{name}]({file_link(experiment, run, file)})" for file, name in pages if run and file in files]:
        parts.append(" · ".join(links))
    if outcome is Outcome.COMPLETE and info.phase is Phase.CONFIRM and run:
        command = f'python -m harness.generate {run[:12]} --prompt "Every effort moves you"'
        parts.append(f"Its checkpoint is under *Models*. To continue a text with it:\n\n```sh\n{command}\n```")
    return "\n\n".join(parts)


def run_link(experiment: str, run: str) -> str:
    """The page of a run, relative to the UI's address."""
    return f"#/experiments/{experiment}/runs/{run}"


def file_link(experiment: str, run: str, path: str) -> str:
    """The page of a run with one of its artifacts open."""
    return f"{run_link(experiment, run)}/artifactPath/{path}"


def _views(info: SweepInfo, experiment: str) -> str:
    return "Views: " + " · ".join(f"[{name}]({link})" for name, link in views.links(info, experiment)) + "."


def _commands(info: SweepInfo) -> str:
    """The commands that resume a sweep and write its report again."""
    return (
        "To resume the sweep, and to write its report again:\n\n"
        f"```sh\n{info.command}\npython -m harness.report {info.name}\n```"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
