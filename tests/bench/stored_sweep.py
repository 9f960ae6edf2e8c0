"""A sweep in an SQLite store of MLflow, written without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.config.spec import SweepSpec
    from harness.tracking import Tracker, TrialInfo

SPEC = """\
name: {name}
question: What does this cost?
data: {{corpus: {corpus}, tokenizer: {tokenizer}, split: {{val: 0.02, test: 0.02}}}}
model: {{context_length: {context}, emb_dim: {width}, n_heads: 2, n_layers: 2}}
train:
  budget: {{{budget}}}
  batch_size: 4
  eval_every: {{steps: 100_000}}
  train_eval_tokens: 64
  sample: {{max_new_tokens: 0}}
  device: cpu
compare:
  model.drop_rate: [0.0, 0.2]
study: {{seeds: {seeds}}}
"""


def sweep_store(folder: Path, trials: int, seeds: int) -> tuple[Tracker, str, Iterator[TrialInfo]]:
    """Open a sweep with two arms of `trials` explore and `seeds` confirm runs.

    Returns:
        the tracker, the id of the parent run, and the runs to write.
    """
    from harness.config.load import load_spec
    from harness.data import open_dataset
    from harness.runner.datasets import data_facts
    from harness.runner.describe import sweep_info
    from harness.tracking import Tracker

    text = SPEC.format(
        name="many", corpus="sotu-1820", tokenizer="byte", context=64, width=64, budget="steps: 1990", seeds=seeds
    )
    tuned = "tune:\n  train.learning_rate: {log_uniform: [3e-4, 3e-3]}\n"
    (folder / "many.yaml").write_text(text.replace("study: {", f"{tuned}study: {{trials: {trials}, "), "utf-8")
    spec = load_spec(folder / "many.yaml")
    data = open_dataset(spec.base.data)
    tracker = Tracker(spec.name, f"sqlite:///{folder.absolute()}/mlflow.db")
    parent = tracker.open_sweep(sweep_info(spec, spec.identity(data.fingerprint), data))
    return tracker, parent, _runs(spec, trials, data_facts(data))


def _runs(spec: SweepSpec, trials: int, facts: Mapping[str, Any]) -> Iterator[TrialInfo]:
    from harness.core.outcomes import Phase
    from harness.tracking import TrialInfo

    for arm in spec.arms():
        for number in range(trials):
            values = {"train.learning_rate": 3e-4 * 10 ** ((number + 0.5) / trials)}
            config, study = spec.arm_config(arm, values, 1), f"many/{arm.name}"
            yield TrialInfo(f"{arm.name} · {number}", arm.name, Phase.EXPLORE, 1, config, study, number, facts)
        for seed in spec.seeds if trials else ():
            config = spec.arm_config(arm, {"train.learning_rate": 1e-3}, seed)
            yield TrialInfo(f"{arm.name} · seed {seed}", arm.name, Phase.CONFIRM, seed, config, None, None, facts)


def curve(points: int, every: int, shift: float = 0.0) -> Any:
    """Points as the trainer yields them; every `every`-th has an evaluation."""
    from harness.core.metrics import Point

    for number in range(points):
        loss = 5.5 - 2 * number / points + shift
        values = {
            "train/batch_loss": loss,
            "optim/learning_rate": 1e-3,
            "optim/grad_norm": 1.0,
            "perf/tokens_per_second": 1000.0,
            "epochs": number / 50,
        }
        if number % every == 0 or number == points - 1:
            values |= {"train/loss": loss, "train/perplexity": 2.0**loss, "val/loss": loss + 0.1}
            values |= {"val/perplexity": 2.0**loss, "val/bits_per_byte": loss / 3}
            values |= {"system/cpu_utilization_percentage": 99.0, "system/process_memory_megabytes": 700.0}
            if number == points - 1:
                values |= {"test/loss": loss + 0.2, "test/perplexity": 2.0**loss, "test/bits_per_byte": loss / 3}
        yield Point(number * 10, number * 2560, number / points, number * 0.1, values)


def fill(folder: Path, trials: int, seeds: int, points: int) -> int:
    """Write a whole sweep: the first run of each arm through the tracker, copies of it by SQL. Returns the runs."""
    import sqlite3

    from harness.core.outcomes import Outcome
    from harness.tracking import schema
    from harness.tracking.checksums import with_checksums

    tracker, parent, infos = sweep_store(folder, trials, seeds)
    written: dict[str, str] = {}
    copies = []
    for info in infos:
        if info.arm in written:
            copies.append(info)
            continue
        run_id = written[info.arm] = tracker.start_run(parent, info)
        for point in curve(points, points // 5):
            tracker.log_point(run_id, point)
        tracker.end_run(run_id, Outcome.COMPLETE)
    columns = "name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, deleted_time"
    columns += ", source_version, lifecycle_stage, artifact_uri, experiment_id"
    own_tags = ("arm", "phase", "seed", "study", "trial_number", "config_sha256")
    kept = "(" + ", ".join(f"'harness.{tag}'" for tag in (*own_tags, "checksums")) + ")"
    with sqlite3.connect(folder / "mlflow.db") as db:
        for number, info in enumerate(copies, 1):
            old, new = written[info.arm], f"{number:032x}"
            shift = 0.2 * ((number * 7919) % 101) / 101
            pair = {"old": old, "new": new, "shift": shift}
            of_old = "WHERE run_uuid = :old"
            db.execute(f"INSERT INTO runs (run_uuid, {columns}) SELECT :new, {columns} FROM runs {of_old}", pair)
            for table in ("metrics", "latest_metrics"):
                rest = "key, value + :shift * (key LIKE '%loss%'), timestamp, step, is_nan"
                names = "key, value, timestamp, step, is_nan"
                copied = f"SELECT :new, {rest} FROM {table} {of_old}"
                db.execute(f"INSERT INTO {table} (run_uuid, {names}) {copied}", pair)
            rows = "SELECT key, value, :new FROM tags WHERE run_uuid = :old AND key NOT IN " + kept
            db.execute(f"INSERT INTO tags (key, value, run_uuid) {rows}", pair)
            params = schema.trial_params(info.config)
            own = {k: v for k, v in schema.trial_tags(parent, info).items() if f"'{k}'" in kept}
            known = db.execute(f"SELECT value FROM tags {of_old} AND key = '{schema.CHECKSUMS}'", pair).fetchone()[0]
            losses = dict(db.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = :new", pair))
            losses = {name: value for name, value in losses.items() if f"{name}=" in known}
            known = " ".join(
                one for one in known.split() if one.partition("=")[0] not in (schema.STUDY, schema.TRIAL_NUMBER)
            )
            own = with_checksums(own, known, params, losses)
            db.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(k, v, new) for k, v in own.items()])
            db.executemany("INSERT INTO params VALUES (?, ?, ?)", [(k, v, new) for k, v in params.items()])
    return len(written) + len(copies)
