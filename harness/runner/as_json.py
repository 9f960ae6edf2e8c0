"""The answers of commands as JSON, for scripts: of a report, of `--plan`, of `--status` and of two runs.

Each is made of the objects that the text is made of. `reports/README.md` describes the schema. Losses are in nats per
token, times in seconds, memory in bytes. Numbers are not rounded; one that is unknown or infinite is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from harness.core.secrets import without_secrets

if TYPE_CHECKING:
    import pandas as pd

    from harness.config.spec import SweepSpec
    from harness.cost.preview import Plan
    from harness.report.page.content import Content
    from harness.report.write import ReportFiles
    from harness.runner.status import Status
    from harness.tracking import RunDetails, UnfinishedRun

SCHEMA: Final = 1  # a number that changes when a key is renamed or removed, or means something else

Document = dict[str, Any]


def as_text(document: Mapping[str, Any]) -> str:
    """The document as JSON, in ASCII, so that any terminal and pipe can take it; secrets in its texts are replaced."""
    return json.dumps(_plain(document), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):  # a scalar of numpy
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return without_secrets(str(value))


def _document(kind: str, **rest: Any) -> Document:
    return {"schema": SCHEMA, "kind": kind, **rest}


def answer_document(files: ReportFiles) -> Document:
    """The answer of a report: one entry in `sweeps` for each sweep."""
    return _document(
        "answer",
        files={"html": files.html, "markdown": files.markdown, "folder": files.folder},
        sweeps=[_answer(content, frame) for content, frame in files.sweeps],
    )


def _answer(content: Content, comparison: pd.DataFrame) -> Document:
    record = content.record
    settings = {arm.name: arm.values for arm in record.arms}
    compared = comparison["verdict"].notna().any()
    headline = content.headline
    return {
        "name": record.name,
        "question": record.question,
        "sweep": record.run_id,
        "metric": content.evidence.metric,
        "delta": content.evidence.delta_nats if compared else None,
        "answer": headline.kind if headline else "none",
        "headline": str(headline or ""),
        "text": content.answer.findings,
        "next": content.answer.next_step,
        "limits": content.answer.limits,
        "warnings": [
            {
                "kind": warning.kind.name.lower(),
                "changes_conclusion": warning.changes_conclusion,
                "text": warning.text,
                "each": warning.each,
            }
            for warning in content.warnings
        ],
        "arms": [{"settings": settings.get(str(row.get("label", row["arm"])), {}), **row} for row in _rows(comparison)],
    }


def _rows(comparison: pd.DataFrame) -> Iterator[Document]:
    """The rows of `comparison.csv`, with the run ids as a list."""
    for row in comparison.to_dict("records"):
        yield {str(name): value for name, value in row.items()} | {"run_ids": str(row["run_ids"]).split()}


def plan_document(plan: Plan) -> Document:
    """What `--plan` shows."""
    spec = plan.spec
    fewest, most, arms = spec.looks[0], spec.looks[-1], len(plan.arms)
    return _document(
        "plan",
        name=spec.name,
        question=spec.question,
        arms=[
            {
                **_arm(spec, arm.name),
                "trials": arm.trials,
                "seeds": {"min": fewest, "max": arm.seeds},
                "parameters": arm.cost.parameters,
                "tokens_per_run": arm.cost.tokens,
                "flops_per_run": arm.cost.flops,
                "budget_seconds": arm.cost.seconds,
                "memory_bytes": arm.cost.memory,
            }
            for arm in plan.arms
        ],
        runs={"min": arms * (spec.trials + fewest), "max": arms * (spec.trials + most), "left": plan.left},
        tuned={path: {dimension.kind: list(dimension.values)} for path, dimension in spec.tune.items()},
        sampler=spec.study.sampler,
        flops=plan.flops,
        seconds={"min": plan.time.least, "max": plan.time.seconds},
        measured_arms=sorted(plan.time.measured),
        evaluation_share=plan.share.share,
        workers=plan.workers,
        ranks=plan.ranks,
        device="gpu" if plan.gpu else "cpu",
        messages=plan.messages,
    )


def status_document(spec: SweepSpec, status: Status, lines: Iterable[str]) -> Document:
    """What `--status` shows.

    Args:
        spec: the sweep.
        status: of the sweep.
        lines: the sentences below its table; the first says whether it runs.
    """
    sweep = status.sweep
    state, *messages = lines
    return _document(
        "status",
        name=spec.name,
        question=spec.question,
        sweep=sweep.run_id if sweep else None,
        state="not started" if sweep is None else "running" if sweep.owner else sweep.outcome or "lost",
        text=state,
        metric=status.objective.metric,
        arms=[
            {
                **_arm(spec, arm.arm),
                **{
                    name: getattr(arm, name)
                    for name in ("explored", "trials", "confirmed", "seeds", "running", "interrupted", "failed", "left")
                },
                "best": arm.best,
            }
            for arm in status.arms
        ],
        open_runs=[_open_run(run) for run in status.open_runs],
        unsent=status.unsent,
        messages=messages,
    )


def _arm(spec: SweepSpec, name: str) -> Document:
    values = next(arm.values for arm in spec.arms() if arm.name == name)
    baseline = bool(spec.compare) and name == spec.baseline_arm.name
    return {"arm": name, "label": spec.labels.of[name], "settings": values, "is_baseline": baseline}


def _open_run(run: UnfinishedRun) -> Document:
    last = run.points[-1] if run.points else None
    return {
        "name": run.info.name,
        "arm": run.info.arm,
        "phase": run.info.phase,
        "seed": run.info.seed,
        "progress": last.progress if last else 0.0,
        "tokens": last.tokens if last else 0,
        "metrics": last.metrics if last else {},
    }


def runs_document(
    a: RunDetails,
    b: RunDetails,
    params: Sequence[tuple[str, Any, Any]],
    metrics: Sequence[tuple[str, float | None, float | None, float | None]],
    warnings: Iterable[str],
) -> Document:
    """What `python -m harness.compare` shows of two runs.

    Args:
        a, b: the runs.
        params: name and values of each parameter that differs; None: a run does not have it.
        metrics: name, last values and difference of each metric; None: not known, or without meaning.
        warnings: sentences about the comparison.
    """
    return _document(
        "runs",
        runs=[
            {
                "run": run.run_id,
                "name": run.name,
                "sweep": run.experiment,
                "arm": run.arm,
                "phase": run.phase,
                "outcome": run.outcome,
                "curves": run.curves,
            }
            for run in (a, b)
        ],
        parameters=[{"name": name, "a": first, "b": second} for name, first, second in params],
        metrics=[
            {"name": name, "a": first, "b": second, "difference": difference}
            for name, first, second, difference in metrics
        ],
        warnings=warnings,
    )
