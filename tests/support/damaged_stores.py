"""Damages to what a finished sweep keeps: tags, parameters, metrics, artifacts, trials and unfinished runs.

Each is a plain value that hypothesis draws; `damage` does it to a project, as somebody with a database browser, another
program or a bad disk would.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from harness.core.files import json_with_checksum
from harness.tracking.outbox.journal import Journal

TEXTS = [
    *("", " ", "-1", "1.5", "9" * 400, "nan", "NaN", "null", "true", "[]", "{}", '{"a": 1}', "[" * 2000, "1e999"),
    *("\x1b[31mred\x1b]0;title\x07", "two\nlines", "\u202e", "../../x", "' OR '1'='1", "<b>", "x" * 5000, "complete"),
    *("explore", "confirm", "running", "0", "3", str(2**62), str(2**64), '"quoted"', "1970-01-01"),
]
NUMBERS = [float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 0.5, 1e300, -1e300, 2.0**70]
STEPS = [-1, 0, 24, 2**40]
ENDS: list[tuple[str, dict[str, Any]]] = [
    ("tag", {"device": "cpu"}),
    ("pause", {"reason": "stopped"}),
    ("end", {"outcome": "complete", "reason": ""}),
]
CONTENTS: list[Any] = [
    *(b"", b"\xff", b"null", b"[]", b"{}", b"3", b'"x"', b"[NaN]", b"1e999"),
    *(b"[" * 100_000, b'{"a":' * 2000, b"9" * 5000),
]
LEAVES: list[Any] = [None, True, -1, 0, 3, 2**70, 10**400, 1.5, "", "x", "\x1b[31m", "\ud800", [], {}, [[]], {"a": 1}]
TAGS = (
    *("arm", "phase", "seed", "outcome", "trial_number", "study", "key", "config_sha256", "checksums", "role"),
    *("opened", "identity", "beat", "process", "data_fingerprint", "reason", "device", "git_commit", "plan_sha256"),
)
COLUMNS = ("seed", "arm", "outcome", "val/loss", "tokens", "perf/seconds", "mine", "parameters", "model.drop_rate")
TABLES = {
    "trial_user_attributes": "value_json",
    "trial_system_attributes": "value_json",
    "study_user_attributes": "value_json",
    "trial_values": "value",
    "trial_intermediate_values": "intermediate_value",
    "trial_params": "param_value",
    "trials": "state",
}

texts = st.sampled_from(TEXTS) | st.text(st.characters(codec="utf-8"), max_size=20)
places = st.integers(0, 10**6)  # which of several: the remainder counts
damages = st.one_of(
    st.tuples(st.just("tag"), places, st.sampled_from(TAGS), st.none() | texts, st.booleans()),
    st.tuples(st.just("parameter"), places, places | st.sampled_from(COLUMNS), st.none() | texts),
    st.tuples(
        st.just("metric"),
        places,
        st.sampled_from(COLUMNS),
        st.sampled_from(NUMBERS),
        st.sampled_from(STEPS),
    ),
    st.tuples(
        st.just("run"),
        places,
        st.sampled_from(["start_time", "end_time", "status", "name"]),
        st.sampled_from([None, -1, 0, 2**62, "", "RUNNING", "\x1b[31m", "x" * 300]),
    ),
    st.tuples(st.just("artifact"), places, st.sampled_from(CONTENTS)),
    st.tuples(st.just("leaf"), places, places, st.sampled_from(LEAVES)),
    st.tuples(
        st.just("experiment"),
        st.sampled_from(["mlflow.sharedViewState.harness-runs", "mlflow.note.content", "harness.note_sha256"]),
        texts,
    ),
    st.tuples(st.just("trial"), st.sampled_from(sorted(TABLES)), places, st.none() | texts | st.sampled_from(NUMBERS)),
    st.tuples(st.just("unfinished"), places, places, st.sampled_from(LEAVES)),
)


def damage(project: Path, one: tuple[Any, ...]) -> None:
    """Do one damage to a project with a sweep."""
    kind, *values = one
    _DAMAGES[kind](project, *values)


@contextlib.contextmanager
def database(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that is closed; what is not allowed by the schema is left undone."""
    connection = sqlite3.connect(file)
    try:
        with contextlib.suppress(sqlite3.Error), connection:
            yield connection
    finally:
        connection.close()


def _run_id(connection: sqlite3.Connection, place: int) -> str:
    ids = [row[0] for row in connection.execute("select run_uuid from runs order by start_time, run_uuid")]
    return str(ids[place % len(ids)])


def _tag(project: Path, place: int, name: str, text: str | None, unchecked: bool) -> None:
    with database(project / "mlruns/mlflow.db") as connection:
        run = _run_id(connection, place)
        names = [f"harness.{name}", *(["harness.checksums"] if unchecked else [])]
        for each in names:
            connection.execute("delete from tags where run_uuid = ? and key = ?", (run, each))
        if text is not None:
            connection.execute("insert into tags (key, value, run_uuid) values (?, ?, ?)", (names[0], text, run))


def _parameter(project: Path, place: int, which: int | str, text: str | None) -> None:
    with database(project / "mlruns/mlflow.db") as connection:
        run = _run_id(connection, place)
        names = [row[0] for row in connection.execute("select key from params where run_uuid = ? order by key", (run,))]
        name = which if isinstance(which, str) else names[which % len(names)] if names else "mine"
        connection.execute("delete from params where run_uuid = ? and key = ?", (run, name))
        if place % 2:  # else the checksum tells
            connection.execute("delete from tags where run_uuid = ? and key = 'harness.checksums'", (run,))
        if text is not None:
            connection.execute("insert into params (key, value, run_uuid) values (?, ?, ?)", (name, text, run))


def _metric(project: Path, place: int, name: str, value: float, step: int) -> None:
    with database(project / "mlruns/mlflow.db") as connection:
        run = _run_id(connection, place)
        stored = (0.0 if value != value else max(-1.797e308, min(1.797e308, value)), value != value)
        connection.execute(
            "insert or replace into metrics (key, value, timestamp, run_uuid, step, is_nan) values (?, ?, 1, ?, ?, ?)",
            (name, stored[0], run, step, stored[1]),
        )
        connection.execute("delete from latest_metrics where key = ? and run_uuid = ?", (name, run))
        connection.execute(
            "insert into latest_metrics (key, value, timestamp, step, is_nan, run_uuid) values (?, ?, 1, ?, ?, ?)",
            (name, stored[0], step, stored[1], run),
        )
        if place % 2:
            connection.execute("delete from tags where run_uuid = ? and key = 'harness.checksums'", (run,))


def _run(project: Path, place: int, column: str, value: Any) -> None:
    with database(project / "mlruns/mlflow.db") as connection:
        connection.execute(f"update runs set {column} = ? where run_uuid = ?", (value, _run_id(connection, place)))


def _artifacts(project: Path) -> list[Path]:
    return sorted((project / "mlruns/artifacts").rglob("*.json"))


def _artifact(project: Path, place: int, content: bytes) -> None:
    files = _artifacts(project)
    files[place % len(files)].write_bytes(content)


def _leaf(project: Path, place: int, leaf: int, value: Any) -> None:
    """Change one value in a JSON artifact, and give it a valid checksum if it had one."""
    files = _artifacts(project)
    file = files[place % len(files)]
    with contextlib.suppress(ValueError, TypeError):
        content = json.loads(file.read_bytes())
        had = isinstance(content, dict) and content.pop("checksum", None) is not None
        _set(content, leaf, value)
        file.write_text(json_with_checksum(content) if had else json.dumps(content))


def _set(content: Any, seed: int, value: Any) -> None:
    drawn = random.Random(seed)
    while True:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        if not keys:
            return
        key = drawn.choice(list(keys))
        if isinstance(content[key], dict | list) and content[key] and drawn.random() < 0.8:
            content = content[key]
            continue
        content[key] = value
        return


def _experiment(project: Path, name: str, text: str) -> None:
    with database(project / "mlruns/mlflow.db") as connection:
        connection.execute("delete from experiment_tags where key = ?", (name,))
        connection.execute(
            "insert into experiment_tags (key, value, experiment_id) select ?, ?, max(experiment_id) from experiments",
            (name, text),
        )


def _trial(project: Path, table: str, place: int, value: Any) -> None:
    with database(project / "mlruns/optuna.db") as connection:
        rows = [row[0] for row in connection.execute(f"select rowid from {table} order by rowid")]
        if rows and value is None:
            connection.execute(f"delete from {table} where rowid = ?", (rows[place % len(rows)],))
        elif rows:
            statement = f"update {table} set {TABLES[table]} = ? where rowid = ?"
            connection.execute(statement, (value, rows[place % len(rows)]))


def work_folder(project: Path) -> Path:
    """The folder of the unfinished runs of the only sweep."""
    with database(project / "mlruns/mlflow.db") as connection:
        rows = connection.execute("select value from tags where key = 'harness.identity'").fetchall()
    return project / "mlruns/tiny.work" / str(rows[0][0] if rows else "")[:12].replace("/", "-")


BEGIN = {
    "name": "a run",
    "arm": "drop_rate=0.0",
    "phase": "explore",
    "seed": 1,
    "study": "tiny/drop_rate=0.0",
    "number": 1,
    "data": None,
    "point": "",
}


def _unfinished(project: Path, place: int, leaf: int, value: Any) -> None:
    """Write the folder of an unfinished run with valid checksums and one wrong value."""
    config = json.loads(next((project / "mlruns/artifacts").rglob("checkpoint.json")).read_bytes()).get("config", {})
    point = {"step": 8, "tokens": 2048, "progress": 0.3, "seconds": 1.0, "metrics": {"val/loss": 5.0}, "sample": "a"}
    entries: list[tuple[str, dict[str, Any]]] = [("begin", {**BEGIN, "config": config}), ("point", point)]
    entries.append(copy.deepcopy(ENDS[place % 3]))
    _set(entries[leaf % 3][1], leaf, value)
    journal = Journal(work_folder(project) / f"forged{place % 7}")
    for name, content in entries:
        journal.append(name, content)


_DAMAGES: dict[str, Callable[..., None]] = {
    "tag": _tag,
    "parameter": _parameter,
    "metric": _metric,
    "run": _run,
    "artifact": _artifact,
    "leaf": _leaf,
    "experiment": _experiment,
    "trial": _trial,
    "unfinished": _unfinished,
}
