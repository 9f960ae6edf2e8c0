from __future__ import annotations

import pytest

from harness.console.tables import show_key


def test_a_key_is_one_screen_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    key = [(f"A{number}", f"learning_rate={number}") for number in range(1, 201)]
    show_key(key[:24])
    assert capsys.readouterr().out.splitlines()[1:] == [f"{label} is {settings}" for label, settings in key[:24]]
    show_key(key)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 26
    assert lines[-2:] == ["A24 is learning_rate=24", "and so on; the report has the settings of all 200 arms"]
    show_key([])
    assert capsys.readouterr().out == ""
