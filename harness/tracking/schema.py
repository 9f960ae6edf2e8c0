"""What a sweep and its runs carry in the tracking store: tag names, descriptions, parameter text, pages.

The tracker writes with these words and reads with the same ones. Everything here is plain Python, so it can be
checked without a store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from harness.config.run import RunConfig
from harness.core.outcomes import Phase
from harness.tracking.records import ArmInfo, PlanChange, Sample, SweepInfo, TrialInfo

PREFIX: Final = "harness."
ROLE: Final = "harness.role"  # SWEEP on the parent, TRIAL on its children
SWEEP: Final = "sweep"
TRIAL: Final = "trial"
OUTCOME: Final = "harness.outcome"
REASON: Final = "harness.reason"
PROCESS: Final = "harness.process"  # who writes the run: `provenance.process_name`
COMMIT: Final = "harness.git_commit"
DIRTY: Final = "harness.git_dirty"
VERSION_PREFIX: Final = "harness.version."
DATA_NAME: Final = "harness.data_name"
DATA_SHA256: Final = "harness.data_sha256"
DATA_FINGERPRINT: Final = "harness.data_fingerprint"

# On the parent only.
IDENTITY: Final = "harness.identity"
BEAT: Final = "harness.beat"  # milliseconds since 1970: the process was still at it
SET_ASIDE: Final = "harness.set_aside"  # when a sweep was begun anew in the place of this one, in UTC
OPENED: Final = "harness.opened"  # milliseconds since 1970, of the last time that the sweep was started or resumed
QUESTION: Final = "harness.question"
BASELINE: Final = "harness.baseline"
COMPARE: Final = "harness.compare"
COMMAND: Final = "harness.command"
VERDICT: Final = "harness.verdict"  # of the last report: arm by arm, or "none"
ANSWER: Final = "harness.answer"  # of the last report, in words
REPORT: Final = "harness.report"  # where it was written
PLAN_SHA256: Final = "harness.plan_sha256"  # of the analysis plan, noted before the first trial

# On the children only.
KEY: Final = "harness.key"  # by which a run is known before and beside its MLflow id
ARM: Final = "harness.arm"
PHASE: Final = "harness.phase"
SEED: Final = "harness.seed"
STUDY: Final = "harness.study"
TRIAL_NUMBER: Final = "harness.trial_number"
CONFIG_SHA256: Final = "harness.config_sha256"
DEVICE: Final = "harness.device"
RESUMED: Final = "harness.resumed"  # how a run went on the last time: from which step, and what was different
SECONDS: Final = "harness.seconds"  # of training and evaluating, without the time between two parts of a run
NON_FINITE: Final = "harness.non_finite"  # metrics of which a NaN or infinite value was measured and not stored

# MLflow's own, which fill the columns of its pages.
PARENT_RUN: Final = "mlflow.parentRunId"
USER: Final = "mlflow.user"
SOURCE_NAME: Final = "mlflow.source.name"
SOURCE_TYPE: Final = "mlflow.source.type"
SOURCE_COMMIT: Final = "mlflow.source.git.commit"
EXPERIMENT_KIND: Final = "mlflow.experimentKind"  # which of its two views the UI opens with
MODEL_TRAINING: Final = "custom_model_development"
DATASET_CONTEXT: Final = "mlflow.data.context"

# Parameters beside those of the configuration.
PARAMETERS: Final = "parameters"
FLOPS_PER_TOKEN: Final = "flops_per_token"

# Artifacts.
SWEEP_FILE: Final = "sweep.json"
SPEC_FILE: Final = "spec.yaml"
PLAN_FILE: Final = "analysis_plan.json"  # as it was before the first trial; written once
PLAN_CHANGES_FILE: Final = "analysis_plan_changes.json"
PATCH_FILE: Final = "dirty.patch"
SAMPLES_FILE: Final = "samples.json"
SAMPLES_PAGE: Final = "samples.md"
POSITIONS_FILE: Final = "val_loss_by_position.json"
CURVE_FILE: Final = "loss_curve.svg"
TRACEBACK_FILE: Final = "traceback.txt"
CHECKPOINT_FOLDER: Final = "checkpoint"  # of a run's files; in MLflow it is a model (`harness.tracking.models`)
PASSAGE_FILE: Final = "checkpoint/token_losses.json"
REPORT_FOLDER: Final = "report"

# MLflow's limits, in characters. Postgres keeps run names in 250; servers before 2.3 keep tags in 5,000.
NAME_LIMIT: Final = 250
TAG_LIMIT: Final = 5000
PARAM_LIMIT: Final = 6000
REASON_LIMIT: Final = 500


def describe_trial(info: TrialInfo) -> dict[str, Any]:
    """A run as plain values."""
    plain = {one.name: getattr(info, one.name) for one in fields(TrialInfo)}
    plain |= {"phase": str(info.phase), "config": info.config.resolved()}
    return plain | {"data": None if info.data is None else dict(info.data)}


def parse_trial(plain: Mapping[str, Any]) -> TrialInfo:
    """The run that `describe_trial` gave.

    Raises:
        ValueError, TypeError: it did not.
    """
    config = RunConfig.model_validate_json(json.dumps(plain["config"]))
    return TrialInfo(**{**plain, "phase": Phase(plain["phase"]), "config": config})


def sweep_tags(info: SweepInfo) -> dict[str, str]:
    """The parent run's tags; what is too long for a tag is in `SWEEP_FILE` too."""
    return {
        ROLE: SWEEP,
        IDENTITY: info.identity,
        QUESTION: info.question,
        BASELINE: info.baseline,
        COMPARE: ", ".join(info.compare),
        COMMAND: info.command,
        **data_tags(info.data),
    }


def trial_tags(parent: str, info: TrialInfo) -> dict[str, str]:
    """A child run's own tags, apart from those that it shares with its sweep."""
    tags = {
        ROLE: TRIAL,
        PARENT_RUN: parent,
        ARM: info.arm,
        PHASE: str(info.phase),
        SEED: str(info.seed),
        CONFIG_SHA256: info.config.digest(),
    }
    if info.study is not None:
        tags[STUDY] = info.study
    if info.number is not None:
        tags[TRIAL_NUMBER] = str(info.number)
    return tags | data_tags(info.data or {})


def data_tags(data: Mapping[str, Any]) -> dict[str, str]:
    """Tags that identify the tokens of a run, as far as `data` says."""
    names = {"name": DATA_NAME, "sha256": DATA_SHA256, "fingerprint": DATA_FINGERPRINT}
    return {tag: str(data[key]) for key, tag in names.items() if data.get(key) is not None}


def trial_params(config: RunConfig) -> dict[str, str]:
    """Name → text of every parameter: the configuration flattened, the parameter count and the FLOPs a token."""
    values = {**config.flat(), PARAMETERS: config.parameters, FLOPS_PER_TOKEN: config.flops_per_token}
    return {name: clipped(encode_param(value), PARAM_LIMIT) for name, value in values.items()}


def encode_param(value: object) -> str:
    """JSON, but a plain string that cannot be taken for JSON stays as it is, so that MLflow's page is easy to read."""
    if isinstance(value, str) and value and value.isprintable() and decode_param(value) == value:
        return value
    return json.dumps(value)


def decode_param(text: str) -> Any:
    """The value behind `encode_param`'s text, of its own type; a list comes back as a tuple."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return tuple(value) if isinstance(value, list) else value


def describe(info: SweepInfo) -> str:
    """A sweep as JSON."""
    plain = {one.name: getattr(info, one.name) for one in fields(SweepInfo)}
    plain["arms"] = [{"name": arm.name, "values": arm.values} for arm in info.arms]
    return json.dumps(plain, default=dict, ensure_ascii=False, indent=2)


def parse_sweep(text: str) -> dict[str, Any]:
    """The fields of `SweepInfo`, by name, of `describe`'s JSON; an older harness wrote no `plan`."""
    plain: dict[str, Any] = json.loads(text)
    plain["arms"] = tuple(ArmInfo(**arm) for arm in plain["arms"])
    plain["compare"] = tuple(plain["compare"])
    return plain


def describe_changes(changes: Iterable[PlanChange]) -> str:
    """Changes of an analysis plan as JSON."""
    return json.dumps(
        [change._asdict() for change in changes], default=datetime.isoformat, ensure_ascii=False, indent=2
    )


def parse_changes(text: str) -> tuple[PlanChange, ...]:
    """The changes that `describe_changes` wrote."""
    return tuple(PlanChange(**{**one, "when": datetime.fromisoformat(one["when"])}) for one in json.loads(text))


def samples_page(name: str, prompt: str, samples: list[Sample]) -> str:
    """A run's samples as one Markdown page, in the order of training."""
    parts = [f"# Samples of {name}\n\nPrompt: {_fenced(prompt)}"]
    parts += [f"## Step {sample.step:,} · {sample.tokens:,} tokens\n{_fenced(sample.text)}" for sample in samples]
    return "\n".join(parts)


def _fenced(text: str) -> str:
    """A block that shows `text` as it is: its fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n{fence}text\n{text}\n{fence}\n"


def summary(reason: str) -> str:
    """One line, at most `REASON_LIMIT` characters: the first line, or a traceback's exception line."""
    lines = [line for line in reason.splitlines() if line.strip()]
    if lines and lines[0].startswith("Traceback"):
        last = max(index for index, line in enumerate(lines) if line.startswith("Traceback"))
        # Frames are indented; what follows them at the margin is the exception and its message.
        lines = [line for line in lines[last + 1 :] if not line.startswith(" ")] or lines
    line = " ".join(lines[0].split()) if lines else ""
    # A database refuses some characters (NUL, half surrogates), and a run must be able to end whatever its reason.
    return clipped("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line), REASON_LIMIT)


def clipped(text: str, limit: int) -> str:
    """`text`, cut to `limit` characters with a mark at the cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
