"""The benchmark of encoding runs, and every way finds the tokens of the same text."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paths import ROOT


@pytest.mark.slow
def test_every_way_encodes_the_same_text() -> None:
    command = [sys.executable, str(ROOT / "tests" / "bench" / "encoding.py"), "--mb", "0.6", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    title, heading, *lines = done.stdout.splitlines()
    assert title.endswith("rounds in turn") and heading.split()[0] == "way"
    tokens = {line[:12].strip(): int(line.split()[-1].replace(",", "")) for line in lines}
    assert {"ours", "ours again", "ours worker", "batches", "whole"} <= set(tokens)
    assert tokens["ours"] == tokens["ours again"] == tokens["ours worker"]
    assert all(abs(found - tokens["ours"]) <= 5 for found in tokens.values()), tokens  # cuts inside a word
