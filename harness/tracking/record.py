"""What a sweep and its runs carry in the tracking store: tag names, descriptions, parameter text, pages.

The tracker writes with these words and reads with the same ones. Everything here is plain Python, so it can be
checked without a store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final, NamedTuple

from harness.config import RunConfig
from harness.outcomes import Outcome, Phase

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
NOTE: Final = "mlflow.note.content"
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
TRACEBACK_FILE: Final = "traceback.txt"
CHECKPOINT_FOLDER: Final = "checkpoint"

# MLflow's limits, in characters. Postgres keeps run names in 250; servers before 2.3 keep tags in 5,000.
NAME_LIMIT: Final = 250
TAG_LIMIT: Final = 5000
PARAM_LIMIT: Final = 6000
REASON_LIMIT: Final = 500
_ARMS_IN_NOTE: Final = 50


@dataclass(frozen=True)
class ArmInfo:
    """One combination of the compared values.

    Attributes:
        name: what tables, studies and runs call it.
        values: dotted path → the value compared.
    """

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class SweepInfo:
    """What a sweep is. All values are plain, as JSON has them.

    Attributes:
        name: a slug, and the experiment's name.
        question: what the sweep answers.
        identity: SHA-256 of what the sweep is; a sweep with the same identity goes on in the same parent run.
        spec_text: the resolved spec as YAML.
        arms: in the order of the spec.
        baseline: name of the arm that the others are compared with.
        compare: dotted paths that arms differ in.
        tune: dotted path → its dimension, such as `{"log_uniform": [3e-4, 3e-3]}`.
        study: sampler, pruner, trials, seeds.
        command: how the sweep was started.
        data: name, source, sha256, fingerprint, tokenizer; tokens and bytes per split.
        plan: what will be concluded from what, as `harness.report.method.analysis_plan` gives it; empty: no plan.
    """

    name: str
    question: str
    identity: str
    spec_text: str
    arms: tuple[ArmInfo, ...]
    baseline: str
    compare: tuple[str, ...]
    tune: Mapping[str, Mapping[str, Any]]
    study: Mapping[str, Any]
    command: str
    data: Mapping[str, Any]
    plan: Mapping[str, Any] = field(default_factory=dict)


class PlanChange(NamedTuple):
    """Another analysis plan than the one known until then, with which a sweep was gone on with.

    Attributes:
        when: in UTC.
        confirm_runs: how many confirm runs were complete by then, so that their results may have been seen.
        plan: the whole new plan.
    """

    when: datetime
    confirm_runs: int
    plan: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SweepRecord(SweepInfo):
    """A sweep as the store has it: its description, and what was true when it last started or ended.

    Attributes:
        run_id: the parent run.
        commit: git commit, or "unknown".
        dirty: whether tracked files differed from that commit.
        versions: name → version of Python, the harness and its libraries.
        started: when it was first started, in UTC.
        status: MLflow's: RUNNING, FINISHED, FAILED or KILLED.
        outcome: how it ended, or None while it runs.
        first_plan: the analysis plan that was stored before the first trial; empty where none was.
        plan_sha256: what was noted then as the digest of that plan; empty where none was.
        plan_changes: what was asked for afterwards, oldest first.
    """

    run_id: str
    commit: str
    dirty: bool
    versions: Mapping[str, str]
    started: datetime
    status: str
    outcome: str | None
    first_plan: Mapping[str, Any] = field(default_factory=dict)
    plan_sha256: str = ""
    plan_changes: tuple[PlanChange, ...] = ()


@dataclass(frozen=True)
class TrialInfo:
    """One training run of a sweep.

    Attributes:
        name: for a reader, such as "drop_rate=0.1 · learning_rate=1.2e-03 · seed 1".
        arm: name of its arm.
        phase: why it is trained.
        seed: the run's seed.
        config: the whole configuration.
        study: Optuna's study; None for a run outside any study.
        number: Optuna's trial number in that study, or None.
        data: as `SweepInfo.data`, for an arm that has other data (tokenizer, split) than the sweep; else None.
    """

    name: str
    arm: str
    phase: Phase
    seed: int
    config: RunConfig
    study: str | None = None
    number: int | None = None
    data: Mapping[str, Any] | None = None


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


class Confirmed(NamedTuple):
    """A confirm run that came to a result.

    Attributes:
        arm, seed: which one; `seed` is the one that arms share.
        digest: that of its configuration (`RunConfig.digest`).
        run_id: where it is.
        outcome: complete or diverged.
        validation: its last metrics of the validation split, and of no other.
    """

    arm: str
    seed: int
    digest: str
    run_id: str
    outcome: Outcome
    validation: Mapping[str, float]


class Trial(NamedTuple):
    """A run of the search, as far as Optuna would have to know of it.

    Attributes:
        key: of the run.
        study, number: Optuna's study and the trial's number in it.
        params: dotted path → value, of the whole configuration.
        outcome, reason: how it ended; a run that is open counts as interrupted.
        losses: training tokens → loss of the whole validation split, where it was asked for.
        curve: training tokens → the validation loss that pruning goes by, see `Point.curve_loss`.
    """

    key: str
    study: str
    number: int
    params: Mapping[str, Any]
    outcome: Outcome
    reason: str
    losses: Mapping[int, float]
    curve: Mapping[int, float]


class Sample(NamedTuple):
    """Text that was generated at a step, after so many training tokens."""

    step: int
    tokens: int
    text: str


def sweep_tags(info: SweepInfo) -> dict[str, str]:
    """The parent run's tags; what is too long for a tag is in `SWEEP_FILE` too."""
    return {
        ROLE: SWEEP,
        IDENTITY: info.identity,
        QUESTION: info.question,
        BASELINE: info.baseline,
        COMPARE: ", ".join(info.compare),
        COMMAND: info.command,
        NOTE: _note(info),
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


def _note(info: SweepInfo) -> str:
    """The description that MLflow shows on the parent's page, in Markdown."""
    lines = [f"**{info.question}**", "", f"Compared: {', '.join(info.compare) or 'nothing'}.", ""]
    for arm in info.arms[:_ARMS_IN_NOTE]:
        lines.append(f"- {arm.name}" + (" (baseline)" if arm.name == info.baseline else ""))
    if len(info.arms) > _ARMS_IN_NOTE:
        lines.append(f"- and {len(info.arms) - _ARMS_IN_NOTE} more")
    return "\n".join(lines)


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
