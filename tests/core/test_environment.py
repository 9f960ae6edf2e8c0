from __future__ import annotations

import os

import pytest

from harness.core.environment import environment_defaults


def test_defaults_are_temporary_and_override_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_SET", "mine")
    monkeypatch.delenv("HARNESS_UNSET", raising=False)
    before = dict(os.environ)
    with pytest.raises(RuntimeError), environment_defaults({"HARNESS_SET": "other", "HARNESS_UNSET": "1"}):
        assert (os.environ["HARNESS_SET"], os.environ["HARNESS_UNSET"]) == ("mine", "1")
        raise RuntimeError
    assert dict(os.environ) == before
