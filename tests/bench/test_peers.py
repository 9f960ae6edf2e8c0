"""The peers' scripts and the command that measures them run; the results here are useless."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

BENCH = ROOT / "tests" / "bench"


def run(*arguments: str, timeout: float = 900) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCH / "run.py"), *arguments], capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_peers_and_the_harness_train_the_same_work(tmp_path: Path) -> None:
    pytest.importorskip("llms_from_scratch", reason="the book's code (llms-from-scratch) is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    raw = tmp_path / "raw.jsonl"
    everyone = [option for name in ("book", "hf", "nanogpt", "ours") for option in ("--who", name)]
    run("--quick", "--part", "throughput", *everyone, "--out", str(raw))
    wanted = ["--quick", "--part", "sweep", "--who", "nanogpt", "--who", "ours", "--out", str(raw)]
    said = run(*wanted)
    measured = [json.loads(line) for line in raw.read_text("utf-8").splitlines()]
    assert sorted(m["who"] for m in measured if m["part"] == "throughput") == ["book", "hf", "nanogpt", "ours"]
    assert sorted(m["who"] for m in measured if m["part"] == "sweep") == ["nanogpt", "ours"]
    for m in measured:
        assert m["value"] > 0 and m["cpu_seconds"] > 0 and m["commit"]
        if m["part"] == "throughput":  # training starts near the loss of a uniform distribution, in nats
            assert all(one["loss"] == pytest.approx(math.log(50257), abs=0.8) for one in m["said"])
    sweeps = {m["who"]: m["said"] for m in measured if m["part"] == "sweep"}
    assert sweeps["nanogpt"]["trials"] == 2
    assert sweeps["ours"]["outcomes"] == {"complete": 2}
    assert all(sweep["best"] == pytest.approx(math.log(50257), abs=0.8) for sweep in sweeps.values())
    # The same command again measures nothing and prints the same table.
    again = run(*wanted)
    assert "[1/" not in again
    assert again.split("raw measurements")[1] == said.split("raw measurements")[1]


def test_the_table_compares_medians(tmp_path: Path) -> None:
    about = {"cpu": "x", "cores": 2, "torch": "2", "commit": "c", "load_before": 0.1, "cpu_seconds": 1.0, "rss_mb": 9}

    def line(who: str, env: str, number: int, value: float) -> str:
        one = {"part": "throughput", "case": "small", "who": who, "env": env, "round": number, "value": value}
        return json.dumps({**one, "unit": "tokens/s", **about})

    raw = tmp_path / "raw.jsonl"
    ours = [line("ours", "worker", number, value) for number, value in enumerate((1500, 1700, 100))]
    book = [line("book", "plain", number, value) for number, value in enumerate((900, 1000, 5000))]
    torn = '{"part": "throu'
    raw.write_text("\n".join([*ours, *book, line("nanogpt", "plain", 0, 1200), torn]), "utf-8")
    said = run("--table", "--out", str(raw), timeout=120)
    assert "1.50 (≥ 1.6 MISSED)" in said
    assert "1.25 (≥ 1.35 MISSED)" in said
    assert "busy" not in said
