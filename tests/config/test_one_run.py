from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.run import RunConfig
from specs import GOOD


def test_an_arm_of_a_spec_is_named_by_its_name_or_its_label(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD)
    assert RunConfig.from_spec(path).model.drop_rate == 0.1  # the baseline
    assert RunConfig.from_spec(str(path), "drop_rate=0.0") == RunConfig.from_spec(path, "drop 0.0")
    found = RunConfig.from_spec(path, "drop 0.0", ["train.seed=7"])
    assert (found.model.drop_rate, found.train.seed) == (0.0, 7)
    with pytest.raises(ValueError, match=r"arm: unknown arm 'drop 0\.5'; did you mean"):
        RunConfig.from_spec(path, "drop 0.5")
