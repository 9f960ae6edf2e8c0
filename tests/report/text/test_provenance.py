"""Where numbers come from, in words."""

from __future__ import annotations

import pandas as pd

from harness.report.text.provenance import starting_weights


def test_weights_at_the_start_are_named_once_with_their_hash() -> None:
    name, sha256 = "model.init_from", "model.init_sha256"
    runs = pd.DataFrame({name: ["./a", "./a", None, "./b"], sha256: ["1" * 64, "1" * 64, None, "2" * 64]})
    assert starting_weights(runs) == f"./a (SHA-256 {'1' * 12}…), ./b (SHA-256 {'2' * 12}…) and random ones"
    assert starting_weights(runs[:2]) == f"./a (SHA-256 {'1' * 12}…)"
    assert starting_weights(runs[2:3]) == starting_weights(pd.DataFrame({"x": [1]})) == ""
