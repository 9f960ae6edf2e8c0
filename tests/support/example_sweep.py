"""A sweep with chosen numbers, as the tracking readers return it, for tests of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.evidence import Evidence, read_evidence
from harness.config.run import RunConfig
from harness.core.metrics import perplexity
from harness.tracking import ArmInfo, Sample, SweepRecord

START = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
ARMS = {"drop_rate=0.0": {"model.drop_rate": 0.0}, "drop_rate=0.1": {"model.drop_rate": 0.1}}
LOSSES = {"drop_rate=0.0": {2: 5.2, 3: 5.4, 4: 5.6}, "drop_rate=0.1": {2: 5.1, 3: 5.1, 4: 5.3}}
TUNE = {"train.learning_rate": {"log_uniform": [3e-4, 3e-3]}}


def config(values: Mapping[str, Any], seed: int) -> RunConfig:
    """A small run with dotted `values` set."""
    plain: dict[str, dict[str, Any]] = {
        "data": {"corpus": "sotu-1820"},
        "model": {"context_length": 64, "emb_dim": 64, "n_heads": 2, "n_layers": 2},
        "train": {"budget": {"tokens": 8192}, "batch_tokens": 512, "seed": seed},
    }
    for path, value in values.items():
        section, name = path.split(".")
        plain[section][name] = value
    return RunConfig.model_validate(plain)


def record(
    arms: Mapping[str, Mapping[str, Any]] = ARMS, tune: Mapping[str, Any] | None = None, **changes: Any
) -> SweepRecord:
    """The description of a sweep over `arms`; the last one is the baseline."""
    names = list(arms)
    compare = tuple(dict.fromkeys(path for values in arms.values() for path in values))
    facts: dict[str, Any] = {
        "name": "dropout",
        "question": "Does dropout help a small GPT that reads its corpus several times?",
        "identity": "1d",
        "spec_text": "name: dropout\ncompare: {model.drop_rate: [0.0, 0.1]}\n",
        "arms": tuple(ArmInfo(name, values) for name, values in arms.items()),
        "baseline": names[-1],
        "compare": compare,
        "tune": tune or {},
        "study": {"sampler": "tpe", "pruner": "median", "trials": 4 if tune else 0, "seeds": 3},
        "command": "python -m harness.sweep experiments/dropout.yaml",
        "data": {
            "name": "sotu-1820",
            "source": "package sotu 0.1.2",
            "sha256": "aca588c1" * 8,
            "fingerprint": "77aa01ff" * 8,
            "tokenizer": "gpt2",
            "tokens": {"train": 3312, "val": 401, "test": 420},
            "bytes": {"train": 16332, "val": 2040, "test": 2044},
        },
        "run_id": "5ee9" * 8,
        "commit": "db73c1e0" * 5,
        "dirty": False,
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "started": START,
        "status": "RUNNING",
        "outcome": None,
    }
    return SweepRecord(**{**facts, **changes})


def run(
    number: int,
    arm: str,
    values: Mapping[str, Any],
    *,
    phase: str = "confirm",
    seed: int = 1,
    outcome: str | None = "complete",
    loss: float = math.nan,
    test: float = math.nan,
    trial: int | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """One row of `load_runs`."""
    settings = config(values, seed)
    return {
        "run_id": f"{number:08x}" + "f" * 24,
        "name": f"{arm} · seed {seed}",
        "sweep": "5ee9" * 8,
        "arm": arm,
        "phase": phase,
        "seed": seed,
        "outcome": outcome,
        "reason": reason,
        "status": "FINISHED" if outcome == "complete" else "KILLED",
        "study": f"dropout/{arm}" if trial is not None else None,
        "trial_number": trial,
        "started": START + timedelta(minutes=number),
        "seconds": 61.5,
        "device": "cpu",
        "commit": "db73c1e0" * 5,
        "parameters": settings.parameters,
        "flops_per_token": settings.flops_per_token,
        "tokens": 8192,
        "steps": 16,
        "initial_val_loss": 10.8,
        "best_val_loss": loss,
        "val/loss": loss,
        "val/perplexity": perplexity(loss),
        "val/bits_per_byte": loss / 3,
        "test/loss": test,
        **settings.flat(),
    }


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as `load_runs` types them."""
    return pd.DataFrame(list(rows)).astype({"trial_number": "Int64"})


def confirm_runs(losses: Mapping[str, Mapping[int, float]] = LOSSES, first: int = 100) -> list[dict[str, Any]]:
    """Complete confirm runs with the given final losses, arm → seed → loss; the test loss is 0.25 higher."""
    return [
        run(first + 10 * place + seed, arm, ARMS.get(arm, {}), seed=seed, loss=loss, test=loss + 0.25)
        for place, (arm, seeds) in enumerate(losses.items())
        for seed, loss in seeds.items()
    ]


def explore_runs(arms: Mapping[str, Mapping[str, Any]] = ARMS) -> list[dict[str, Any]]:
    """Four trials per arm: two complete, one pruned with the lowest loss of all, one diverged."""
    rows = []
    for place, (arm, values) in enumerate(arms.items()):
        for trial, (rate, outcome, loss) in enumerate(
            [(1e-3, "complete", 5.5), (5e-4, "complete", 5.9), (8e-4, "pruned", 1.0), (3e-3, "diverged", math.nan)]
        ):
            reason = "" if outcome == "complete" else f"made up: {outcome}"
            settings = {**values, "train.learning_rate": rate}
            number = 1 + 10 * place + trial
            rows.append(
                run(number, arm, settings, phase="explore", outcome=outcome, loss=loss, trial=trial, reason=reason)
            )
    return rows


def evidence(
    record: SweepRecord,
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    positions: pd.DataFrame | None = None,
    **known: Any,
) -> Evidence:
    """The evidence of a sweep; statistics that are `known`, by name, are given and not computed."""
    found = read_evidence(record, runs, curves, positions)
    vars(found).update(known)
    return found


def curves_of(runs: pd.DataFrame, points: int = 9) -> pd.DataFrame:
    """Falling curves that end in the final loss of every run; runs that ended early stop halfway."""
    rows = []
    for _, one in runs.iterrows():
        kept = points if one["outcome"] == "complete" else points // 2
        end = one["val/loss"] if math.isfinite(one["val/loss"]) else 9.0
        for step in np.linspace(0, 16, points)[:kept]:
            value = end + (10.8 - end) * math.exp(-step / 2)
            for metric, shown in (("val/loss", value), ("train/loss", value - 0.02 * step)):
                rows.append(
                    {
                        **one[["run_id", "arm", "phase", "seed", "outcome"]].to_dict(),
                        "step": int(step),
                        "tokens": int(step * 512),
                        "metric": metric,
                        "value": shown,
                    }
                )
    return pd.DataFrame(rows)


def samples_of(_run_id: str) -> list[Sample]:
    """Texts of a first, a middle and a last evaluation."""
    return [
        Sample(0, 0, "Every effort moves you the the", "Every effort moves you the the the"),
        Sample(8, 4096, "middle", "middle, greedy"),
        Sample(16, 8192, "Every effort moves you to duty", "Every effort moves you to the same"),
    ]
