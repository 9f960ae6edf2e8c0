"""The schema of sweeps and runs in MLflow: names of tags, parameters and artifacts, and their text formats.

All writing and reading uses these names and formats. It imports no MLflow, so it can be tested without a store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from harness.config.fingerprint import SET_ASIDE as SET_ASIDE_MARK
from harness.config.run import RunConfig, SampleConfig
from harness.core.bounded_json import read_json
from harness.core.energy import KINDS, Energy
from harness.core.files import (
    DamagedError,
    json_list_with_checksum,
    json_with_checksum,
    read_json_list,
    read_json_with_checksum,
)
from harness.core.outcomes import Phase
from harness.core.paths import TOKEN_LOSSES
from harness.core.secrets import without_login, without_secrets
from harness.core.text import fenced, sampling_words, visible
from harness.tracking.records import ArmInfo, PlanChange, Sample, SweepInfo, TrialInfo
from harness.tracking.stored_json import check_changes, check_sweep

PREFIX: Final = "harness."
ROLE: Final = "harness.role"  # SWEEP on the parent, TRIAL on its children
SWEEP: Final = "sweep"
TRIAL: Final = "trial"
OUTCOME: Final = "harness.outcome"
REASON: Final = "harness.reason"
PROCESS: Final = "harness.process"  # the process that writes the run, see `provenance.process_name`
COMMIT: Final = "harness.git_commit"
DIRTY: Final = "harness.git_dirty"
VERSION_PREFIX: Final = "harness.version."
CHECKSUMS: Final = "harness.checksums"  # see `harness.tracking.checksums`
DATA_NAME: Final = "harness.data_name"
DATA_SHA256: Final = "harness.data_sha256"
DATA_FINGERPRINT: Final = "harness.data_fingerprint"

# On the parent only.
IDENTITY: Final = "harness.identity"
HEARTBEAT: Final = "harness.beat"  # of the process, in milliseconds since 1970
SET_ASIDE: Final = "harness.set_aside"  # when --fresh set this sweep aside, in UTC
OPENED: Final = "harness.opened"  # when the sweep was last started or resumed, in milliseconds since 1970
QUESTION: Final = "harness.question"
BASELINE: Final = "harness.baseline"
COMPARE: Final = "harness.compare"
COMMAND: Final = "harness.command"
VERDICT: Final = "harness.verdict"  # of the last report: "arm: verdict; …", or "none"
ANSWER: Final = "harness.answer"  # of the last report, in words
REPORT: Final = "harness.report"  # folder of the last report
LABELS: Final = "harness.labels"  # set if every child has the tag LABEL; stores of older versions do not have it
ENERGY: Final = "harness.energy"  # of the machine while the sweep trained, as JSON: kind → joules and seconds
PLAN_SHA256: Final = "harness.plan_sha256"  # of the analysis plan, stored before the first trial

# On the children only.
KEY: Final = "harness.key"  # identifies a run before it has an MLflow id
ARM: Final = "harness.arm"
LABEL: Final = "harness.label"  # the arm's short name, by which MLflow's pages group: `A3 · drop 0.2`
PHASE: Final = "harness.phase"
SEED: Final = "harness.seed"
STUDY: Final = "harness.study"
TRIAL_NUMBER: Final = "harness.trial_number"
POINT: Final = "harness.point"  # how the sampler chose a trial's values: random or modelled
CONFIG_SHA256: Final = "harness.config_sha256"
DEVICE: Final = "harness.device"
NODE: Final = "harness.node"  # name of the machine in a Ray cluster that trained the run, the last one if several did
RANKS: Final = "harness.ranks"  # processes that trained the run together, one per GPU; the last number if it changed
RESUMED: Final = "harness.resumed"  # how a run was last resumed: from which step, and what was different
SECONDS: Final = "harness.seconds"  # of training and evaluation, without the time between interruption and resume
NON_FINITE: Final = "harness.non_finite"  # metrics that were NaN or infinite; such values are not stored

# MLflow's own tags, which fill the columns of its UI.
PARENT_RUN: Final = "mlflow.parentRunId"
USER: Final = "mlflow.user"
SOURCE_NAME: Final = "mlflow.source.name"
SOURCE_TYPE: Final = "mlflow.source.type"
SOURCE_COMMIT: Final = "mlflow.source.git.commit"
EXPERIMENT_KIND: Final = "mlflow.experimentKind"  # selects the UI's view
MODEL_TRAINING: Final = "custom_model_development"
DATASET_CONTEXT: Final = "mlflow.data.context"

# Parameters beside those of the configuration.
PARAMETERS: Final = "parameters"
FLOPS_PER_TOKEN: Final = "flops_per_token"

# Artifacts.
SWEEP_FILE: Final = "sweep.json"
SPEC_FILE: Final = "spec.yaml"
PLAN_FILE: Final = "analysis_plan.json"  # the plan before the first trial; written once
PLAN_CHANGES_FILE: Final = "analysis_plan_changes.json"
PATCH_FILE: Final = "dirty.patch"
SAMPLES_FILE: Final = "samples.json"
SAMPLES_PAGE: Final = "samples.md"
POSITIONS_FILE: Final = "val_loss_by_position.json"
CURVE_FILE: Final = "loss_curve.svg"
TRACEBACK_FILE: Final = "traceback.txt"
CHECKPOINT_FOLDER: Final = "checkpoint"  # among a run's files; stored as a model (`harness.tracking.models`)
PASSAGE_FILE: Final = f"checkpoint/{TOKEN_LOSSES}"
REPORT_FOLDER: Final = "report"

# MLflow's limits, in characters. Postgres keeps run names in 250; servers before 2.3 keep tags in 5,000.
NAME_LIMIT: Final = 250
TAG_LIMIT: Final = 5000
PARAM_LIMIT: Final = 6000
REASON_LIMIT: Final = 500


def versions_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The versions that a run recorded, by the name of the library, in alphabetical order."""
    return {name.removeprefix(VERSION_PREFIX): tags[name] for name in sorted(tags) if name.startswith(VERSION_PREFIX)}


def milliseconds() -> int:
    """Milliseconds since 1970, MLflow's unit of time."""
    return time.time_ns() // 1_000_000


def describe_trial(info: TrialInfo) -> dict[str, Any]:
    """A run as plain JSON values."""
    plain = {one.name: getattr(info, one.name) for one in fields(TrialInfo)}
    plain |= {"phase": str(info.phase), "config": info.config.resolved()}
    return plain | {"data": None if info.data is None else dict(info.data)}


def parse_trial(plain: Mapping[str, Any]) -> TrialInfo:
    """The inverse of `describe_trial`.

    Raises:
        ValueError, TypeError: `plain` is not such a description.
    """
    config = RunConfig.model_validate_json(json.dumps(plain["config"]))
    return TrialInfo(**{**plain, "phase": Phase(plain["phase"]), "config": config})


def sweep_tags(info: SweepInfo) -> dict[str, str]:
    """The parent run's tags; the whole description is in `SWEEP_FILE`."""
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
    """A child run's tags, without those that all runs of a process share."""
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
    if info.point:
        tags[POINT] = info.point
    return tags | data_tags(info.data or {})


def data_tags(data: Mapping[str, Any]) -> dict[str, str]:
    """Tags that identify the tokens of a run; a fact that `data` lacks gets no tag."""
    names = {"name": DATA_NAME, "sha256": DATA_SHA256, "fingerprint": DATA_FINGERPRINT}
    return {tag: str(data[key]) for key, tag in names.items() if data.get(key) is not None}


def trial_params(config: RunConfig) -> dict[str, str]:
    """Parameter name → text: the flattened configuration, the number of parameters and the FLOPs per token."""
    values = {**config.flat(), PARAMETERS: config.parameters, FLOPS_PER_TOKEN: config.flops_per_token}
    return {name: clipped(encode_param(value), PARAM_LIMIT) for name, value in values.items()}


def encode_param(value: object) -> str:
    """JSON; a string that is not itself valid JSON stays unquoted, so that MLflow's UI is easy to read."""
    if isinstance(value, str) and value and value.isprintable() and not _is_json(value):
        return value
    return json.dumps(value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def decode_param(text: str) -> Any:
    """The inverse of `encode_param`, with the value's own type; a list becomes a tuple.

    A person may add parameters: a text that is no plain value of this kind stays a text.
    """
    try:
        value = read_json(text, finite=False)
    except ValueError:
        return text
    if isinstance(value, list) and not any(isinstance(one, list | dict) for one in value):
        return tuple(value)
    return text if isinstance(value, list | dict) else value


def describe(info: SweepInfo) -> str:
    """A sweep as JSON with a checksum."""
    plain = {one.name: getattr(info, one.name) for one in fields(SweepInfo)}
    plain["arms"] = [{"name": arm.name, "values": arm.values} for arm in info.arms]
    return json_with_checksum(json.loads(json.dumps(plain, default=dict)))


def parse_sweep(text: str | bytes, tags: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `SweepInfo` by name, from `describe`'s JSON.

    Its identity is compared with the parent run's tag, since it may be the intact description of another sweep. Older
    versions stored no checksum, and some no `plan`. Without a checksum, more tags are compared.

    Raises:
        DamagedError: it is not what was stored.
    """
    plain, verified = read_json_with_checksum(text)
    names = {one.name for one in fields(SweepInfo)}
    if not names - {"plan"} <= plain.keys() <= names:
        raise DamagedError("is not a sweep's description")
    check_sweep(plain)
    own = {IDENTITY: plain["identity"], **({} if verified else data_tags(plain["data"]))}
    for tag, value in own.items():
        if tags.get(tag, value).removesuffix(SET_ASIDE_MARK) != value:
            raise DamagedError(f"does not match the tag {tag}")
    plain["arms"] = tuple(ArmInfo(**arm) for arm in plain["arms"])
    plain["compare"] = tuple(plain["compare"])
    return plain


def describe_changes(changes: Iterable[PlanChange]) -> str:
    """Changes of an analysis plan, as JSON with a checksum."""
    return json_list_with_checksum({**change._asdict(), "when": change.when.isoformat()} for change in changes)


def parse_changes(text: str | bytes) -> tuple[PlanChange, ...]:
    """The inverse of `describe_changes`.

    Raises:
        DamagedError: it is not what was stored.
    """
    found = read_json_list(text)
    check_changes(found)
    return tuple(PlanChange(**{**one, "when": datetime.fromisoformat(one["when"])}) for one in found)


def decode_params(params: Mapping[str, str]) -> dict[str, Any]:
    """The values of stored parameters, by name in alphabetical order. Older versions stored `data.url` with secrets."""
    values = {name: decode_param(text) for name, text in sorted(params.items())}
    if isinstance(url := values.get("data.url"), str):
        values["data.url"] = without_login(url)
    return values


def parse_energy(text: str) -> Energy:
    """The energy in the tag `ENERGY`; empty without one that can be read."""
    try:
        found = {str(kind): (float(joules), float(seconds)) for kind, (joules, seconds) in read_json(text).items()}
    except (AttributeError, TypeError, ValueError):
        return {}
    good = found.keys() <= set(KINDS) and all(joules >= 0 and seconds > 0 for joules, seconds in found.values())
    return found if good else {}


def samples_page(name: str, settings: SampleConfig, samples: list[Sample]) -> str:
    """A run's samples as a Markdown page, in the order of training."""
    parts = [f"# Samples of {name}\n\nPrompt: \n{fenced(settings.prompt)}\n"]
    sampled = sampling_words(settings.temperature, settings.top_k)
    for one in samples:
        parts.append(f"## Step {one.step:,} · {one.tokens:,} tokens\n")
        if one.greedy is not None:
            parts.append(f"Greedy:\n{fenced(one.greedy)}\n")
            parts.append(f"{sampled[0].upper()}{sampled[1:]}:")
        parts.append(f"{fenced(one.text)}\n")
    return visible("\n".join(parts))


def summary(reason: str) -> str:
    """The first line of a reason, or a traceback's exception line, in at most `REASON_LIMIT` characters."""
    lines = [line for line in reason.splitlines() if line.strip()]
    if lines and lines[0].startswith("Traceback"):
        last = max(index for index, line in enumerate(lines) if line.startswith("Traceback"))
        # Frames are indented; the first line after them that is not is the exception with its message.
        lines = [line for line in lines[last + 1 :] if not line.startswith(" ")] or lines
    line = without_secrets(" ".join(lines[0].split())) if lines else ""
    # Databases refuse some characters (NUL, lone surrogates), and any reason must be storable.
    return clipped("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line), REASON_LIMIT)


def clipped(text: str, limit: int) -> str:
    """`text`, cut to at most `limit` characters; a cut text ends in "…"."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
