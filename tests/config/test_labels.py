"""Labels of arms: short, and never two of them equal."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.config.fields import arm_name, field_paths, value_key
from harness.config.labels import LONGEST, WORDS, arm_labels, labelled, setting_labels, shown_name

DROP, RATE, CONTEXT, BIAS, FILE = (
    "model.drop_rate",
    "train.learning_rate",
    "model.context_length",
    "model.qkv_bias",
    "data.path",
)


def labels_of(**compare: Any) -> list[str]:
    return list(grid({path: compare[name] for name, path in PATHS.items() if name in compare}).of.values())


PATHS = {"drop": DROP, "lr": RATE, "ctx": CONTEXT, "bias": BIAS, "file": FILE, "wd": "train.weight_decay"}


def grid(levels: dict[str, list[Any]]) -> Any:
    every = [dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())]
    return arm_labels({arm_name(values): values for values in every})


@pytest.mark.parametrize(
    ("compare", "labels"),
    [
        ({"drop": [0.0, 0.2]}, ["drop 0.0", "drop 0.2"]),
        ({"lr": [3e-4, 1e-3], "ctx": [256]}, ["lr 3e-4", "lr 1e-3"]),  # an equal setting is left out
        ({"lr": [0.00030001, 0.0003]}, ["lr 3.0001e-4", "lr 3e-4"]),
        ({"bias": [False, True], "ctx": [64, 16384]}, ["ctx 64 · bias off", "ctx 64 · bias on"]),
        ({"file": ["/data/long/folder/a.txt", "/data/long/folder/b.txt"]}, ["file a.txt", "file b.txt"]),
        ({"file": ["/data/long/folder/x/a.txt", "/data/long/folder/y/a.txt"]}, ["file x/a.txt", "file y/a.txt"]),
        ({"file": ["a-very-long-name-one", "a-very-long-name-two"]}, ["file …one", "file …two"]),
        ({"file": [["a.txt", "b.txt"], ["a.txt"]]}, ["file a.txt+b.txt", "file a.txt"]),
        ({}, ["all"]),
        ({"drop": [0.1]}, ["drop 0.1"]),
    ],
)
def test_only_what_differs_is_named(compare: dict[str, Any], labels: list[str]) -> None:
    assert labels_of(**compare)[:2] == labels


def test_labels_that_would_be_too_long_are_codes_with_a_key() -> None:
    found = grid({DROP: [0.0, 0.2], RATE: [1e-3, 3e-3], BIAS: [False, True], CONTEXT: [256, 512]})
    assert found.coded and list(found.of.values()) == [f"A{number}" for number in range(1, 17)]
    assert found.key[1] == ("A2", "drop_rate=0.0, learning_rate=0.001, qkv_bias=false, context_length=512")
    short = grid({DROP: [0.0, 0.2], RATE: [1e-3, 3e-3]})
    assert not short.coded and short.key == []
    assert short.explained == "drop is model.drop_rate, lr is train.learning_rate."
    assert list(short.fitting(17).values()) == ["A1", "A2", "A3", "A4"]
    assert short.fitting(18) == short.of


def test_a_label_that_leaves_something_out_has_a_key() -> None:
    found = grid({FILE: ["/somewhere/else/a.txt", "/somewhere/else/b.txt"]})
    assert found.key == [("file a.txt", "path=/somewhere/else/a.txt"), ("file b.txt", "path=/somewhere/else/b.txt")]
    assert grid({DROP: [1 / 3, 0.5]}).key[0] == ("drop 0.3333", f"drop_rate={1 / 3}")


def test_equal_arms_are_numbered() -> None:
    values = {DROP: 0.1}
    assert list(arm_labels({"drop_rate=0.1": values, "drop_rate=0.1 (2)": values}).of.values()) == [
        "drop 0.1",
        "drop 0.1 (2)",
    ]


def test_the_words_are_unique_and_of_fields() -> None:
    assert set(WORDS) <= set(field_paths())
    every = [WORDS.get(path, path.rpartition(".")[2]) for path in field_paths()]
    assert all(every.count(word) == 1 for word in WORDS.values() if word not in ("tokens", "epochs", "steps"))


def test_the_name_of_a_run_gets_the_label_of_its_arm() -> None:
    assert labelled("drop_rate=0.1 · seed 3", "drop_rate=0.1", "drop 0.1") == "drop 0.1 · seed 3"
    assert labelled("best · seed 3", "all", "all") == "best · seed 3"
    assert labelled("drop_rate=0.15 · seed 3", "drop_rate=0.1", "drop 0.1") == "drop_rate=0.15 · seed 3"


SIGNS = "ab/\\., =\n…ü\u202e"
NAMES = st.one_of(
    st.text(SIGNS, max_size=40),
    st.text(SIGNS, max_size=6).map(lambda end: f"/data/a/very/long/folder/of/texts/{end}.txt"),
    st.text("ab", max_size=5).map(lambda end: "a-common-start-of-names-" + end),
)
CLOSE = st.integers(0, 99).map(lambda step: 0.3 + step * 1e-5)
VALUES = st.one_of(
    st.lists(st.one_of(CLOSE, st.floats(allow_nan=False)), min_size=1, max_size=4),
    st.lists(st.integers(-(10**20), 10**20), min_size=1, max_size=4),
    st.just([False, True]),
    st.lists(NAMES, min_size=1, max_size=4),
    st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(), NAMES), min_size=1, max_size=4),
)


@settings(deadline=None, derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(field_paths()), VALUES, max_size=4))
def test_no_two_labels_are_ever_equal(levels: dict[str, list[Any]]) -> None:
    different = {path: list({value_key(value): value for value in values}.values()) for path, values in levels.items()}
    every = [dict(zip(different, values, strict=True)) for values in itertools.product(*different.values())]
    found = arm_labels({f"{place} {arm_name(values)}": values for place, values in enumerate(every)})
    for shown in (found.of, found.codes, found.fitting(12)):
        assert len(set(shown.values())) == len(every)
        assert all(len(label) <= LONGEST and label.isprintable() and label.strip() for label in shown.values())


def test_a_run_is_shown_by_the_label_of_its_arm() -> None:
    several: list[dict[str, list[Any]]] = [
        {DROP: [0.0, 0.2]},
        {DROP: [0.0], RATE: [1e-3, 3e-3], BIAS: [False, True], CONTEXT: [256, 512]},
        {},
    ]
    for compare in several:
        found = grid(compare)
        for arm in found.names:
            assert shown_name(f"{arm} · seed 2", arm, found.numbered[arm]) == f"{found.of[arm]} · seed 2"
    assert shown_name("drop_rate=0.1 · seed 2", "drop_rate=0.1", "") == "drop_rate=0.1 · seed 2"
    long = grid({DROP: [0.0, 0.2], RATE: [1e-3, 3e-3], BIAS: [False, True], CONTEXT: [256, 512]})
    arm = long.names[2]
    assert shown_name(f"{arm} · seed 2", arm, long.numbered[arm]) == "A3 · seed 2"


def test_settings_are_written_as_in_labels() -> None:
    levels = {DROP: [0.0, 0.2], RATE: [1e-3, 3e-3]}
    written = setting_labels(levels)
    labels = [f"{written[DROP].of(drop)} · {written[RATE].of(rate)}" for drop in levels[DROP] for rate in levels[RATE]]
    assert labels == list(grid(levels).of.values())
