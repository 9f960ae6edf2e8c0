"""Where numbers come from, in words."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

import example_sweep as example
from harness.core.energy import CPU, GPU
from harness.report.text.provenance import energy, starting_weights


def test_weights_at_the_start_are_named_once_with_their_hash() -> None:
    name, sha256 = "model.init_from", "model.init_sha256"
    runs = pd.DataFrame({name: ["./a", "./a", None, "./b"], sha256: ["1" * 64, "1" * 64, None, "2" * 64]})
    assert starting_weights(runs) == f"./a (SHA-256 {'1' * 12}…), ./b (SHA-256 {'2' * 12}…) and random ones"
    assert starting_weights(runs[:2]) == f"./a (SHA-256 {'1' * 12}…)"
    assert starting_weights(runs[2:3]) == starting_weights(pd.DataFrame({"x": [1]})) == ""


def test_energy_is_told_with_its_kinds_and_its_time_and_not_where_it_is_unknown() -> None:
    record = example.record()
    assert energy(record) == ""
    both = {CPU: (36_000.0, 7200.0), GPU: (396_000.0, 7200.0)}
    assert energy(replace(record, energy=both)) == "energy 0.12 kWh, CPU and GPU, of the whole machine over 2 h 00 min"
    cpu = replace(record, energy={CPU: both[CPU]})
    assert energy(cpu) == "energy 10 Wh, CPU only, of the whole machine over 2 h 00 min"
