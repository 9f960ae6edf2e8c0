"""Sweeps whose stores are databases of a PostgreSQL server."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine

from documents import TEXTS, blocks, split_commands
from harness.core import database_servers
from harness.core.paths import ARTIFACTS_VARIABLE, with_driver
from harness.runner import signals
from harness.search.study import ArmStudy
from harness.tracking import load_runs
from in_process import call
from postgres import PASSWORD, ROLE, Server, Stores, name_of, postgres
from sandbox import SPEC, Command, Sandbox, exact_curves
from servers import free_port
from warm_start import PATIENCE

__all__ = ["postgres"]

pytestmark = pytest.mark.slow

SAVING = SPEC.replace("  batch_tokens", "  checkpoint_every: 0.2\n  batch_tokens")
SMALL = SAVING.replace("6_144", "40_000").replace("tokens: 2_048", "tokens: 8_000").replace("seeds: 2", "seeds: 1")
ENDLESS = SAVING.replace("6_144", "40_000_000").replace("tokens: 2_048", "tokens: 400_000")
SHORT = SPEC.replace("trials: 2, seeds: 2", "trials: 1, seeds: 2")


def test_nothing_is_lost_when_the_server_restarts_and_all_is_killed(postgres: Server, tmp_path: Path) -> None:
    """The server stops, ends all connections and crashes in mid-sweep; then the sweep's processes are killed."""
    calm, stormy = Sandbox(tmp_path / "calm", SMALL), Sandbox(tmp_path / "stormy", SMALL, stores=postgres.stores())
    assert call(calm, "tiny.yaml", "--workers", "2").returncode == 0
    assert stormy.stores is not None
    databases = [name_of(stormy.stores.tracking), name_of(stormy.stores.storage)]
    with stormy.start("tiny.yaml", "--workers", "2") as sweep:
        sweep.until(lambda: len(stormy.under_way(states=1)) == 2)
        postgres.stop()
        sweep.until(lambda: "waiting for the PostgreSQL server" in sweep.said or "so they wait on disk" in sweep.said)
        postgres.start()
        sweep.until(lambda: sweep.said.count("✓") >= 1)
        postgres.terminate(*databases)
        sweep.until(lambda: sweep.said.count("✓") >= 2)
        postgres.restart(signal.SIGQUIT)
        sweep.until(lambda: stormy.under_way(states=1))
        workers = sweep.workers
        for process in [psutil.Process(sweep.process.pid), *workers]:
            process.kill()
        sweep.ended()
        psutil.wait_procs(workers, timeout=PATIENCE)
        said = sweep.said
    again = call(stormy, "tiny.yaml", "--workers", "2")
    assert again.returncode == 0, said + again.stdout + again.stderr
    assert "Traceback" not in said and PASSWORD not in said + again.stdout + again.stderr
    assert stormy.trials() == {"COMPLETE": 4}
    assert stormy.outcomes() == calm.outcomes()
    pd.testing.assert_frame_equal(exact_curves(stormy.uri), exact_curves(calm.uri), check_exact=True)
    points = pd.read_sql("select run_uuid, key, step from metrics", create_engine(with_driver(stormy.uri)))
    assert len(points) > 300 and not points.duplicated().any()
    assert not stormy.work.exists()
    kept = "".join(path.read_text("latin-1") for path in stormy.folder.rglob("*") if path.is_file())
    assert PASSWORD not in kept
    runs = [run for group in stormy.runs() for run in group]
    assert PASSWORD not in json.dumps([run.data.tags | run.data.params for run in runs])
    assert (stormy.folder / "mlruns" / "artifacts" / runs[0].info.run_id).is_dir()


# The command on a machine of another name.
ELSEWHERE = "import socket; socket.gethostname = lambda: 'elsewhere'; from harness.sweep import app; app()"


def get(address: str) -> str:
    """The body of a server's response; empty while it does not respond."""
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_sweeps_of_several_machines_and_pages_that_read_meanwhile(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two specs begin at the same moment in empty databases; a second process of one of them is told who runs it.

    The databases are made and backed up by the documented commands. The machines share a folder for files; else the
    one that makes the databases would decide where files may be.
    """
    monkeypatch.setenv(ARTIFACTS_VARIABLE, str(tmp_path / "artifacts"))
    [script] = [block for block in blocks(TEXTS["mlruns/README.md"], "sh") if "psql" in block]
    documented = {words[0]: words for words in split_commands(script) if words[0] != "pg_dump"}
    postgres.run(documented["psql"], tmp_path)
    addresses = [word.partition("=")[2].replace("HOST", f"127.0.0.1:{postgres.port}") for word in documented["export"]]
    stores = Stores(*addresses[1:])
    first = Sandbox(tmp_path / "first", ENDLESS, stores=stores)
    other = Sandbox(tmp_path / "other", SHORT.replace("name: tiny", "name: other"), stores=stores)
    second = Sandbox(tmp_path / "second", ENDLESS, stores=stores)
    environment = {**os.environ, **stores.environment}
    with ExitStack() as stack:
        run = ["-c", ELSEWHERE, "tiny.yaml", "--workers", "1"]
        sweep = stack.enter_context(Command(run, first.folder, environment))
        done = stack.enter_context(other.start("tiny.yaml", "--workers", "1"))
        assert done.ended() == 0, done.said
        sweep.until(lambda: first.under_way(states=1))

        refused = call(second, "tiny.yaml", "--workers", "1")
        assert refused.returncode == 3, refused.stdout + refused.stderr
        owner = rf"tiny is already being run by process elsewhere:{sweep.process.pid}:\S+, whose last heartbeat was"
        assert re.match(owner, refused.stderr), refused.stderr
        status = call(second, "tiny.yaml", "--status").stdout
        assert re.search(rf"^running for .* by process elsewhere:{sweep.process.pid}:", status, re.MULTILINE)

        read_while_it_writes(stack, tmp_path, stores)
        sweep.until(lambda: first.under_way(states=2))
        sweep.process.send_signal(signal.SIGTERM)
        assert sweep.ended() == 143
    assert len(first.runs()[0]) == 1
    for dump in [words for words in split_commands(script) if words[0] == "pg_dump"]:
        postgres.run(dump, tmp_path)
    restored = postgres.database()
    postgres.run(["pg_restore", "--no-owner", "--role", ROLE, "-d", restored, "mlflow.dump"], tmp_path)
    assert len(load_runs("other", postgres.address(restored))) == 2 * (1 + 2)


def read_while_it_writes(stack: ExitStack, folder: Path, stores: Stores) -> None:
    """The pages of MLflow and of optuna-dashboard answer with what is stored so far."""
    ports = free_port(), free_port()
    tracking, storage = map(with_driver, (stores.tracking, stores.storage))
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    ui = ["-m", "mlflow", "ui", "--backend-store-uri", tracking, "--port", str(ports[0])]
    pages = stack.enter_context(Command([*ui, "--workers", "1"], folder, quiet))
    board = ["-c", "from optuna_dashboard._cli import main; main()", storage, "--port", str(ports[1])]
    studies = stack.enter_context(Command(board, folder))
    studies.until(lambda: '"tiny/drop_rate=0.0"' in get(f"http://127.0.0.1:{ports[1]}/api/studies"))
    pages.until(lambda: get(f"http://127.0.0.1:{ports[0]}/health") == "OK")
    client = MlflowClient(f"http://127.0.0.1:{ports[0]}")
    names = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    assert {"tiny", "other"} <= set(names)
    pages.until(lambda: any("val/loss" in run.data.metrics for run in client.search_runs([names["tiny"]])))


def test_a_sweep_that_is_stopped_while_it_waits_for_the_server(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session locks Optuna's tables, and SIGTERM arrives: the command ends in one sentence, and can go on."""
    sandbox = Sandbox(tmp_path, SHORT.replace("[0.0, 0.2]", "[0.0]"), stores=postgres.stores())
    assert sandbox.stores is not None
    monkeypatch.setattr(signals, "SECONDS_AFTER_SIGNAL", 1.0)
    monkeypatch.setattr(database_servers, "_LOCK_TIMEOUT", "200ms")
    with postgres.administrator(name_of(sandbox.stores.storage)) as holder, monkeypatch.context() as patch:
        ask = ArmStudy.ask

        def lock_and_stop(study: ArmStudy) -> Any:
            holder.execute("begin")
            holder.execute("lock table studies, trials in access exclusive mode")
            os.kill(os.getpid(), signal.SIGTERM)
            return ask(study)

        patch.setattr(ArmStudy, "ask", lock_and_stop)
        done = call(sandbox, "tiny.yaml", "--workers", "1")
    assert done.returncode == 143
    cause = f"the PostgreSQL server at 127.0.0.1:{postgres.port} cannot be used: another process has locked its tables"
    assert f"Optuna: {cause}; the same command resumes it" in done.stderr
    again = call(sandbox, "tiny.yaml", "--workers", "1")
    assert again.returncode == 0, again.stderr
    assert sandbox.trials() == {"COMPLETE": 1}
