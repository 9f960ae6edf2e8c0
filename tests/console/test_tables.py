"""Tables on standard output: names of arms that fit, and sentences that break where they may."""

from __future__ import annotations

import itertools

import pytest

from harness.config.labels import ArmLabels, arm_labels
from harness.console import tables
from harness.console.cli import out


def twelve() -> ArmLabels:
    every = itertools.product([0.0, 0.1, 0.2], [1e-3, 3e-3], [False, True])
    paths = ("model.drop_rate", "train.learning_rate", "model.qkv_bias")
    return arm_labels({str(values): dict(zip(paths, values, strict=True)) for values in every})


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    monkeypatch.setattr(out, "_width", width)
    labels = twelve()
    rows = [("arm", "trials", "parameters"), *((name, "4", "505,728") for name in labels.names)]
    tables.show_arms(rows, labels, {labels.names[1]: " *"})
    return capsys.readouterr().out.splitlines()


def test_labels_of_arms_are_shown_where_they_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, monkeypatch, 80)
    assert lines[2].startswith("drop 0.0 · lr 1e-3 · bias on *  ") and lines[2].endswith("505,728")
    assert len(lines) == 13


def test_a_narrow_terminal_gets_codes_and_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, monkeypatch, 40)
    assert lines[2].split() == ["A2", "*", "4", "505,728"]
    assert lines[14] == "A1 is drop 0.0 · lr 1e-3 · bias off" and len(lines) == 26
    assert max(map(len, lines)) <= 40


def test_no_line_of_the_answer_ends_inside_a_p_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in range(20, 60):
        monkeypatch.setattr(out, "_width", width)
        headline = "Worse: b is 0.14 nats higher, about 15 % higher perplexity."
        tables.show_answer(headline, [["Arm"], ["a"]], "It is better (4 pairs, 95 % CI, adjusted p = 0.0029).", [])
        said = capsys.readouterr().out
        assert "15 %" in said
        assert "p = 0.0029" in said and "95 %" in said and max(map(len, said.splitlines())) <= width


def test_a_key_is_one_screen_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    key = [(f"A{number}", f"learning_rate={number}") for number in range(1, 201)]
    tables.show_key(key[:24])
    assert capsys.readouterr().out.splitlines()[1:] == [f"{label} is {settings}" for label, settings in key[:24]]
    tables.show_key(key)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 26
    assert lines[-2:] == ["A24 is learning_rate=24", "and so on; the report has the settings of all 200 arms"]
    tables.show_key([])
    assert capsys.readouterr().out == ""
